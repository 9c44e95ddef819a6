"""The backups that there are. Knows nothing of runs, so that the engine may ask before it deletes."""

from __future__ import annotations

from collections.abc import Iterator

from opsconsole.stores.models import Backup
from opsconsole.stores.store import Store


def listed(store: Store) -> Iterator[Backup]:
    """The backups of this very database, newest first, whose file is still there."""
    mine = Backup.objects.filter(identity=store.known_identity() or store.identity()).order_by("-at", "-pk")
    for backup in mine.iterator(chunk_size=50):
        if backup.is_there:
            yield backup


def newest_verified(store: Store) -> Backup | None:
    """The newest backup of this very database that was checked after writing, is still there, and can be restored
    here: a dump as SQL text is for those who move elsewhere.
    """
    return next((backup for backup in listed(store) if backup.verified_at is not None and backup.format != "sql"), None)
