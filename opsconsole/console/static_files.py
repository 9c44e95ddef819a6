"""The static files of the installed packages, published under hashed names when a web process starts."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.contrib.staticfiles.storage import staticfiles_storage
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command

PUBLISHED = "published"  # the file with the digest of the collected files
storage: Any = staticfiles_storage


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
