"""Queries of backups that the engine needs before it deletes."""

from __future__ import annotations

from collections.abc import Iterator

from opsconsole.stores.models import Backup
from opsconsole.stores.store import Store


def listed(store: Store) -> Iterator[Backup]:
    """Yield the backups of this database whose file still exists, newest first."""
    mine = Backup.objects.filter(identity=store.known_identity() or store.identity()).order_by("-at", "-pk")
    for backup in mine.iterator(chunk_size=50):
        if backup.is_there:
            yield backup


def newest_verified(store: Store) -> Backup | None:
    """Return the newest verified backup that can be restored. A dump as SQL text cannot: it is for other servers."""
    return next((backup for backup in listed(store) if backup.verified_at is not None and backup.format != "sql"), None)
