"""The static files of the installed packages, published under hashed names when a web process starts."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.finders import BaseFinder, get_finders
from django.contrib.staticfiles.storage import staticfiles_storage
from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import FileSystemStorage
from django.core.management import call_command

PUBLISHED = "published"  # the file with the digest of the collected files
storage: Any = staticfiles_storage
API_DOCUMENT = ("swagger-ui.css", "swagger-ui-bundle.js")  # files of django-ninja, each with a source map


class ApiDocumentFinder(BaseFinder):
    """The files that render the OpenAPI document. The package is not imported for them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        spec = find_spec("ninja")
        if spec is None or spec.origin is None:
            raise ImproperlyConfigured("The package django-ninja is not installed.")
        self.storage = FileSystemStorage(Path(spec.origin).parent / "static")
        self.names = [f"ninja/{name}{suffix}" for name in API_DOCUMENT for suffix in ("", ".map")]

    def find(self, path: str, find_all: bool = False, **kwargs: Any) -> Any:
        found = [self.storage.path(path)] if path in self.names else []
        return found[0] if found and not find_all else found

    def list(self, ignore_patterns: Any) -> Iterator[tuple[str, FileSystemStorage]]:
        for name in self.names:
            yield name, self.storage


def publish() -> None:
    """Collect the files if they have changed, and read the manifest. Raises ImproperlyConfigured."""
    root = Path(settings.STATIC_ROOT)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (root / PUBLISHED).open("a+") as published:
            fcntl.flock(published, fcntl.LOCK_EX)  # several web processes start at once
            published.seek(0)
            if published.read() != (now := _digest()):
                published.truncate(0)
                # Earlier files remain, because another process may still serve them.
                call_command("collectstatic", interactive=False, verbosity=0)
                published.write(now)
    except OSError as error:
        raise ImproperlyConfigured(
            f"Writing static files to {str(root)!r} failed: {error.strerror}. Allow the console to write there."
        ) from None
    storage.hashed_files, storage.manifest_hash = storage.load_manifest()


def _digest() -> str:
    """Return a digest of path, size and time of all static files of the installed packages."""
    digest = hashlib.sha256()
    for finder in get_finders():
        for name, storage in finder.list(None):
            found = os.stat(storage.path(name))
            digest.update(f"{storage.path(name)} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def manifest() -> dict[str, Path]:
    """Return the published files by their original and by their hashed names."""
    return {name: Path(settings.STATIC_ROOT, name) for names in storage.hashed_files.items() for name in names}
