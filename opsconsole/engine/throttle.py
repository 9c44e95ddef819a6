"""Throttle signals that stop every run at its next batch. An unobservable signal is a warning and stops nothing."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.db import DatabaseError
from django.utils.translation import gettext as _

from opsconsole.stores.store import Store


def throttle_reason(store: Store) -> str:
    """Return why runs on `store` must wait, or an empty string."""
    if settings.RUN_HOLD_FILE and Path(settings.RUN_HOLD_FILE).exists():
        return _("The hold file %(path)s exists: remove it to go on.") % {"path": settings.RUN_HOLD_FILE}
    if store.vendor != "postgresql":
        return ""
    lag_limit = settings.RUN_HOLD_MAX_REPLICA_LAG_SECONDS
    if lag_limit is not None:
        lag = _figure(
            store,
            "SELECT COALESCE(MAX(EXTRACT(EPOCH FROM replay_lag)), 0) FROM pg_stat_replication",
        )
        if lag is not None and lag > lag_limit:
            return _("A replica lags %(lag).1f s, more than %(limit).1f s.") % {
                "lag": lag,
                "limit": lag_limit,
            }
    limit = settings.RUN_HOLD_MAX_ACTIVE_CONNECTIONS
    if limit is not None:
        active = _figure(
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
    """Return warnings about configured signals that this store does not provide."""
    wanted = {
        "RUN_HOLD_MAX_REPLICA_LAG_SECONDS": settings.RUN_HOLD_MAX_REPLICA_LAG_SECONDS,
        "RUN_HOLD_MAX_ACTIVE_CONNECTIONS": settings.RUN_HOLD_MAX_ACTIVE_CONNECTIONS,
    }
    return [
        _("%(name)s is set, but %(location)s can't be observed so: the run will not hold for it.")
        % {"name": name, "location": store.location}
        for name, value in wanted.items()
        if value is not None and store.vendor != "postgresql"
    ]


def _figure(store: Store, sql: str) -> float | None:
    try:
        with store.connection.cursor() as cursor:
            cursor.execute(sql)
            return float(cursor.fetchone()[0])
    except DatabaseError:
        return None
