"""Signed notes of backups: the digest of the file, and length and head of the audit log at that time.

The administrator of the console's database can change the list of backups, but not these files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.utils.translation import gettext as _

from opsconsole.backups import files
from opsconsole.backups.folders import NOTE, folders
from opsconsole.engine.audit_log import Note
from opsconsole.engine.seals import is_sealed, seal
from opsconsole.stores.store import StoreUnavailable


class AlteredNote(StoreUnavailable):
    """The note was altered."""


def note_of(path: Path) -> Path:
    return path.with_name(path.name + NOTE)


def write(path: Path, *, digest: str, entries: int, head: str) -> None:
    """Write the note of the backup `path`: the SHA-256 of its file, and length and head of the audit log."""
    noted = {"file": path.name, "sha256": digest, "audit_entries": entries, "audit_head": head}
    partial = path.with_name(f"{path.name}{files.PARTIAL}{NOTE}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w") as file:
        json.dump({**noted, "seal": seal(noted)}, file)
        file.flush()
        os.fsync(file.fileno())
    files.commit_file(partial, note_of(path))


def noted_digest(path: Path) -> str | None:
    """Return the SHA-256 in the note of a backup, None if it has no note. Raise AlteredNote."""
    note = note_of(path)
    return _read(note)["sha256"] if note.is_file() else None


def audit_notes() -> Iterator[Note]:
    """Yield the state of the audit log from every note in the configured directories. Raise AlteredNote."""
    for root in folders():
        for folder, _folders, names in os.walk(root):
            for path in (Path(folder, name) for name in sorted(names) if name.endswith(NOTE)):
                if files.PARTIAL not in path.name:
                    noted = _read(path)
                    yield Note(noted["audit_entries"], noted["audit_head"], str(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        noted = json.loads(path.read_text())
        sealed = noted.pop("seal")
        if not is_sealed(noted, sealed) or f"{noted['file']}{NOTE}" != path.name:
            raise ValueError(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise AlteredNote(
            _(
                "%(path)s was altered after the console wrote it, or its signing key is missing. Restore the "
                "original file or the key."
            )
            % {"path": path}
        ) from None
    return noted  # type: ignore[no-any-return]
