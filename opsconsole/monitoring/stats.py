"""Current sizes, rows, connections, locks and pool of a store. Reads only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError

from opsconsole.stores.catalog import quote
from opsconsole.stores.store import Store

SHOWN = 50


def stats(store: Store) -> dict[str, Any]:
    """Return the figures of `store_stats` and its page. Raises StoreUnavailable."""
    try:
        store.require_file()
        found = {"alias": store.alias, "engine": store.vendor, "location": store.location, "size_bytes": store.size()}
        return found | (_sqlite(store) if store.path is not None else _postgresql(store)) | {"pool": pool(store)}
    except (DatabaseError, InterfaceError) as error:
        raise store.unusable(error) from error


def _sqlite(store: Store) -> dict[str, Any]:
    with store.connection.cursor() as cursor:

        def one(sql: str) -> Any:
            cursor.execute(sql, [])
            return cursor.fetchone()[0]

        free = one("PRAGMA freelist_count") * one("PRAGMA page_size")
        mode = one("PRAGMA journal_mode")
        tables = [
            {"table": table, "rows": one(f"SELECT COUNT(*) FROM {quote(table)}"), "estimated": False}
            for table in sorted(store.tables)
        ]
    log = Path(f"{store.path}-wal")
    return {
        "journal_mode": mode,
        "log_bytes": log.stat().st_size if log.exists() else 0,
        "free_bytes": free,
        "tables": tables,
    }


def _postgresql(store: Store) -> dict[str, Any]:
    limit, used = connections_used(store)
    return {
        "tables": _dicts(store, _TABLES),
        "unused_indexes": _dicts(store, _UNUSED),
        "connections": {
            "used": used,
            "limit": limit,
            "percent": round(100 * used / limit, 1),
            "alert_percent": settings.CONNECTIONS_ALERT_PERCENT,
            "by": _dicts(store, _CONNECTIONS),
        },
        "locks_waited_for": _dicts(store, _WAITING),
    }


def connections_used(store: Store) -> tuple[int, int]:
    """Return limit and number of the server's connections, over all databases."""
    with store.connection.cursor() as cursor:
        cursor.execute(_LIMIT)
        limit, used = cursor.fetchone()
    return int(limit), int(used)


def pool(store: Store) -> dict[str, int] | None:
    """Return the figures of this process's pool. Only web processes have one."""
    found: Any = getattr(store.connection, "pool", None)
    if found is None:
        return None
    figures = found.get_stats()
    size = figures.get("pool_size", 0)
    return {
        "size": size,
        "max": figures.get("pool_max", 0),
        "in_use": size - figures.get("pool_available", 0),
        "waiting": figures.get("requests_waiting", 0),
        "waited_ms": figures.get("requests_wait_ms", 0),
        "timed_out": figures.get("requests_errors", 0),
    }


def _dicts(store: Store, sql: str) -> list[dict[str, Any]]:
    with store.connection.cursor() as cursor:
        cursor.execute(sql)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchmany(SHOWN)]


_LIMIT = """
    SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
           (SELECT COUNT(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
"""
_TABLES = """
    SELECT c.relname::text AS "table", COALESCE(NULLIF(c.reltuples, -1)::bigint, s.n_live_tup, 0) AS rows,
           TRUE AS estimated,
           pg_table_size(c.oid) AS bytes, pg_indexes_size(c.oid) AS index_bytes,
           COALESCE(s.n_dead_tup, 0) AS dead_rows, s.last_autovacuum
    FROM pg_class AS c LEFT JOIN pg_stat_user_tables AS s ON s.relid = c.oid
    WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid)
      AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
    ORDER BY pg_total_relation_size(c.oid) DESC, 1
"""
_UNUSED = """
    SELECT s.relname::text AS "table", s.indexrelname::text AS "index", pg_relation_size(s.indexrelid) AS bytes
    FROM pg_stat_user_indexes AS s JOIN pg_index AS i ON i.indexrelid = s.indexrelid
    WHERE s.idx_scan = 0 AND NOT i.indisunique AND pg_table_is_visible(s.relid)
    ORDER BY 3 DESC, 2
"""
_CONNECTIONS = """
    SELECT COALESCE(NULLIF(application_name, ''), '?') AS application, datname::text AS database,
           COALESCE(state, '?') AS state, COUNT(*) AS connections,
           EXTRACT(EPOCH FROM MAX(now() - state_change))::bigint AS longest_seconds
    FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1
"""
_WAITING = """
    SELECT a.pid, COALESCE(NULLIF(a.application_name, ''), '?') AS application, l.mode,
           COALESCE(l.relation::regclass::text, l.locktype) AS what,
           EXTRACT(EPOCH FROM now() - COALESCE(l.waitstart, a.state_change))::bigint AS seconds,
           array_to_string(pg_blocking_pids(a.pid), ', ') AS blocked_by
    FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
    WHERE NOT l.granted AND a.datname = current_database() ORDER BY 5 DESC
"""
