"""A store as another client sees it: plain drivers and raw values, without code of the console."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg

from opsconsole.stores.store import Store

Row = dict[str, Any]
Tables = dict[str, dict[Any, Row]]  # table → key → column → raw value


@contextmanager
def neighbour(store: Store) -> Iterator[Any]:
    """Open a connection of another client in autocommit mode. Statements have `?` for values."""
    if store.path is not None:
        with closing(sqlite3.connect(store.path, isolation_level=None, timeout=20)) as connection:
            # Texts that are not UTF-8 are compared, too.
            connection.text_factory = lambda raw: raw.decode(errors="surrogateescape")
            yield connection
        return
    config = store.connection.settings_dict
    address = {
        "host": config["HOST"],
        "port": config["PORT"],
        "user": config["USER"],
        "dbname": config["NAME"],
    }
    with psycopg.connect(**address, autocommit=True, options="-c lock_timeout=20s") as connection:
        yield _Marks(connection)


class _Marks:
    """psycopg with the parameter marks of SQLite. The statements contain no other question marks."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def execute(self, sql: str, values: Any = ()) -> Any:
        text = sql.replace("%", "%%").replace("?", "%s") if values else sql
        return self.connection.execute(text, values or None)


def execute(store: Store, sql: str, values: Any = ()) -> None:
    with neighbour(store) as connection:
        connection.execute(sql, values)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def dump(store: Store) -> Tables:
    """Return every row of every table, including tables unknown to the console."""
    tables: Tables = {}
    postgresql = store.vendor == "postgresql"
    with neighbour(store) as connection:
        for table, columns in _layout(connection, postgresql).items():
            key = next((name for name, is_key in columns if is_key), "ctid" if postgresql else "rowid")
            chosen = ", ".join(f"{quoted(name)}::text" if postgresql else quoted(name) for name, _ in columns)
            found = connection.execute(f"SELECT {key}, {chosen} FROM {quoted(table)}").fetchall()
            names = [name for name, _ in columns]
            tables[table] = {row[0]: dict(zip(names, row[1:], strict=True)) for row in found}
    return tables


def _layout(connection: Any, postgresql: bool) -> dict[str, list[tuple[str, bool]]]:
    layout: dict[str, list[tuple[str, bool]]] = {}
    for table, column, is_key in connection.execute(_PG_COLUMNS if postgresql else _SQLITE_COLUMNS).fetchall():
        layout.setdefault(table, []).append((column, bool(is_key)))
    return layout


def schema(store: Store) -> Any:
    """Return what a run must not change: tables, indexes, triggers, the header of the file and files next to it."""
    with neighbour(store) as connection:
        if store.path is None:
            return [connection.execute(query).fetchall() for query in _PG_SCHEMA]
        pragmas = ("journal_mode", "user_version", "application_id", "auto_vacuum", "encoding", "page_size")
        found = [
            connection.execute("SELECT * FROM sqlite_master ORDER BY name").fetchall(),
            *(connection.execute(f"PRAGMA {name}").fetchall() for name in pragmas),
        ]
    files = {file.name for file in store.path.parent.glob(f"{store.path.name}*")}
    return [*found, files - {f"{store.path.name}-wal", f"{store.path.name}-shm"}]


_SQLITE_COLUMNS = """
    SELECT m.name, c.name, c.pk FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c
    WHERE m.type = 'table' ORDER BY m.name, c.cid
"""
_PG_COLUMNS = """
    SELECT t.relname, a.attname, i.indrelid IS NOT NULL
    FROM pg_class AS t JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_index AS i ON i.indrelid = t.oid AND i.indisprimary AND a.attnum = ANY (i.indkey)
    WHERE t.relkind = 'r' AND t.relnamespace = 'public'::regnamespace ORDER BY t.relname, a.attnum
"""
_PG_SCHEMA = (
    """SELECT relname, relkind, relnamespace, relnatts, relhastriggers, reloptions FROM pg_class
       WHERE relnamespace NOT IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace) ORDER BY oid""",
    "SELECT indexdef FROM pg_indexes ORDER BY indexname",
    """SELECT attrelid, attname, atttypid, atttypmod, attnotnull, attstattarget FROM pg_attribute
       WHERE attrelid >= 16384 ORDER BY 1, attnum""",
    "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint ORDER BY oid",
    "SELECT tgname, tgenabled FROM pg_trigger ORDER BY oid",
    "SELECT proname FROM pg_proc WHERE oid >= 16384 ORDER BY oid",
    "SELECT extname FROM pg_extension ORDER BY oid",
    "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp' ORDER BY oid",
)
