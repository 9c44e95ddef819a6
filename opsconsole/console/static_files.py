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

PUBLISHED = "published"  # a digest of what was collected into the folder last
storage: Any = staticfiles_storage


def publish() -> None:
    """Collect the files that are not the published ones yet, and read the manifest. Raises ImproperlyConfigured."""
    root = Path(settings.STATIC_ROOT)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (root / PUBLISHED).open("a+") as published:
            fcntl.flock(published, fcntl.LOCK_EX)  # several web processes start at once
            published.seek(0)
            if published.read() != (now := _digest()):
                published.truncate(0)
                # Files of before stay: a process that still serves them may run.
                call_command("collectstatic", interactive=False, verbosity=0)
                published.write(now)
    except OSError as error:
        raise ImproperlyConfigured(
            f"Static files can't be written to {str(root)!r}: {error.strerror}. Let the console's account write there."
        ) from None
    storage.hashed_files, storage.manifest_hash = storage.load_manifest()


def _digest() -> str:
    """Return what changes with any file of an installed package."""
    digest = hashlib.sha256()
    for finder in get_finders():
        for name, storage in finder.list(None):
            found = os.stat(storage.path(name))
            digest.update(f"{storage.path(name)} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def manifest() -> dict[str, Path]:
    """Return name → file of all published files, under their own and their hashed names."""
    return {name: Path(settings.STATIC_ROOT, name) for names in storage.hashed_files.items() for name in names}
