"""The configured directories of backups. Nothing outside them is written or read."""

from __future__ import annotations

import os
from pathlib import Path

from django.conf import settings
from django.utils.translation import gettext as _

from opsconsole.stores.store import StoreUnavailable

MOST_LISTED = 500
NOTE = ".audit"  # suffix of the note of a backup


def folders() -> list[Path]:
    """Return the configured directories without symbolic links."""
    return [Path(folder).resolve() for folder in settings.BACKUP_FOLDERS or [settings.DATA_DIR / "backups"]]


def folder_of(text: str) -> Path:
    """Return the directory that `text` names, or the first configured one. A new directory has mode 0700.

    Raise StoreUnavailable if it cannot be used.
    """
    folder = below(text) if text else folders()[0]
    if not text:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailable(
                _("The backup directory %(path)s cannot be used: %(reason)s. Change BACKUP_FOLDERS.")
                % {"path": folder, "reason": error.strerror}
            ) from None
    if not folder.is_dir():
        raise StoreUnavailable(_("%(path)s is not a directory. Create it or choose another one.") % {"path": text})
    return folder


def below(text: str) -> Path:
    """Return the path in the configured directories that a name or a path means. Raise StoreUnavailable.

    A relative name is looked up in each directory in turn. An existing path comes first.
    """
    roots = folders()
    if "\0" not in text:
        candidates = [(root / text).resolve() for root in roots]
        found = next(filter(Path.exists, candidates), candidates[0])
        if any(found.is_relative_to(root) for root in roots):
            return found
    raise StoreUnavailable(
        _("%(path)s is not in %(folders)s. Choose a path there, or add its directory to BACKUP_FOLDERS.")
        % {"path": text, "folders": ", ".join(map(str, roots))}
    )


def listed_folders() -> list[str]:
    """Return the configured directories and their subdirectories, to choose from."""
    roots = filter(Path.is_dir, folders())
    inside = ((root, *sorted(path for path in root.iterdir() if path.is_dir())) for root in roots)
    return [str(folder) for found in inside for folder in found if not folder.is_symlink()]


def listed_files() -> list[str]:
    """Return the files in the configured directories, relative to them, newest first, to choose from."""
    found: dict[str, float] = {}
    for root in folders():
        for folder, _folders, names in os.walk(root):
            for path in (Path(folder, name) for name in names):
                if path.is_file() and not path.is_symlink() and path.suffix != NOTE:
                    found.setdefault(str(path.relative_to(root)), path.stat().st_mtime)
    return sorted(found, key=lambda name: -found[name])[:MOST_LISTED]
