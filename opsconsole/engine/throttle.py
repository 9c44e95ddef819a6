"""Throttle signals: a file, replica lag and active connections make every run wait at its next batch."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.db import DatabaseError
from django.utils.translation import gettext as _

from opsconsole.stores.store import Store


def throttle_reason(store: Store) -> str:
    """Return why runs on `store` must wait, or an empty string."""
    if settings.RUN_HOLD_FILE and Path(settings.RUN_HOLD_FILE).exists():
        return _("The file %(path)s stops all runs. Delete it to resume them.") % {"path": settings.RUN_HOLD_FILE}
    if store.vendor != "postgresql":
        return ""
    lag_limit = settings.RUN_HOLD_MAX_REPLICA_LAG_SECONDS
    if lag_limit is not None:
        lag = _number(
            store,
            "SELECT COALESCE(MAX(EXTRACT(EPOCH FROM replay_lag)), 0) FROM pg_stat_replication",
        )
        if lag is not None and lag > lag_limit:
            return _("A replica is %(lag).1f s behind, more than %(limit).1f s.") % {
                "lag": lag,
                "limit": lag_limit,
            }
    limit = settings.RUN_HOLD_MAX_ACTIVE_CONNECTIONS
    if limit is not None:
        active = _number(
            store,
            "SELECT COUNT(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()",
        )
        if active is not None and active > limit:
            return _("%(active)d connections are active, more than %(limit)d.") % {
                "active": active,
                "limit": limit,
            }
    return ""


def unobservable(store: Store) -> list[str]:
    """Return a warning for each configured signal that this store does not provide."""
    wanted = {
        "RUN_HOLD_MAX_REPLICA_LAG_SECONDS": settings.RUN_HOLD_MAX_REPLICA_LAG_SECONDS,
        "RUN_HOLD_MAX_ACTIVE_CONNECTIONS": settings.RUN_HOLD_MAX_ACTIVE_CONNECTIONS,
    }
    return [
        _("%(name)s has no effect on %(location)s. It applies to PostgreSQL only.")
        % {"name": name, "location": store.location}
        for name, value in wanted.items()
        if value is not None and store.vendor != "postgresql"
    ]


def _number(store: Store, sql: str) -> float | None:
    try:
        with store.connection.cursor() as cursor:
            cursor.execute(sql)
            return float(cursor.fetchone()[0])
    except DatabaseError:
        return None
