"""Access to LangGraph's tables, in the store or at `ROADMAPS_CHECKPOINT_URL`. This module never creates them."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, connections
from django.utils.translation import gettext as _

from opsconsole.env import database_url
from opsconsole.stores import config as store_config
from opsconsole.stores.config import is_writable
from opsconsole.stores.store import Store, StoreUnavailable

# Columns that LangGraph's savers read and write, by table.
_KEY = ("thread_id", "checkpoint_ns", "checkpoint_id")
_CHECKPOINT = (*_KEY, "parent_checkpoint_id", "type", "checkpoint", "metadata")
_WRITE = (*_KEY, "task_id", "task_path", "idx", "channel", "type")
COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "sqlite": {"checkpoints": _CHECKPOINT, "writes": (*_WRITE, "value")},
    "postgresql": {
        "checkpoints": _CHECKPOINT,
        "checkpoint_blobs": ("thread_id", "checkpoint_ns", "channel", "version", "type", "blob"),
        "checkpoint_writes": (*_WRITE, "blob"),
    },
}
PATH = "task_path"  # the newest column of the savers

BUSY_SECONDS = 20
IN_BLOBS = "blobs"  # the type of a checkpoint with its values in checkpoint_blobs

Read = Callable[[str, Sequence[Any]], list[Any]]


class NoCheckpoints(StoreUnavailable):
    """The tables of LangGraph do not exist."""


def place(store: Store) -> Store:
    """Return the database of the checkpoints: `ROADMAPS_CHECKPOINT_URL`, or the store itself.

    Raise StoreUnavailable if the URL is invalid.
    """
    url = settings.ROADMAPS_CHECKPOINT_URL
    if not url:
        return store
    alias = f"{store.name}-checkpoints-{hashlib.blake2b(url.encode(), digest_size=4).hexdigest()}"
    if alias not in connections.settings:
        try:
            found = store_config.database(database_url(url), password="", attached=True, pool=False)
        except (ImproperlyConfigured, ValueError) as error:
            known = isinstance(error, ImproperlyConfigured)
            raise _unusable(str(error) if known else _("It is not a database URL.")) from None
        connections.settings[alias] = found
        connections.configure_settings(connections.settings)
    return Store(alias, store.platform)


@contextmanager
def connection(where: Store) -> Iterator[Any]:
    """Open a separate connection for a saver, to write. Raise StoreUnavailable."""
    from psycopg.rows import dict_row

    from opsconsole.stores.connection import connect

    _require_file(where, writes=True)
    with _translated(where):
        opened: Any = (
            connect(where, row_factory=dict_row)
            if where.path is None
            else sqlite3.connect(_uri(where.path), uri=True, check_same_thread=False, timeout=BUSY_SECONDS)
        )
    with closing(opened):
        yield opened


@asynccontextmanager
async def async_connection(where: Store) -> AsyncIterator[Any]:
    """Open the same for the savers of async graphs."""
    import aiosqlite
    from psycopg.rows import dict_row

    from opsconsole.stores.connection import connect_async

    _require_file(where, writes=True)
    with _translated(where):
        opened: Any = (
            await connect_async(where, row_factory=dict_row)
            if where.path is None
            else await aiosqlite.connect(_uri(where.path), uri=True, timeout=BUSY_SECONDS)
        )
    try:
        yield opened
    finally:
        await opened.close()


def _require_file(where: Store, *, writes: bool) -> None:
    if where.path is None:
        return
    if not where.path.is_file():
        raise NoCheckpoints(_no_tables(where))
    if writes and not is_writable(where.path):
        raise StoreUnavailable(
            _("%(path)s is read-only, so workflows cannot be resumed. Make the file writable.") % {"path": where.path}
        )


def _uri(path: Path) -> str:
    return str(store_config.sqlite(path, attached=True)["NAME"])


@contextmanager
def _translated(where: Store) -> Iterator[None]:
    """Turn a driver's error into StoreUnavailable."""
    import psycopg

    try:
        yield
    except (psycopg.Error, sqlite3.Error, DatabaseError, InterfaceError, ImproperlyConfigured, UnicodeError) as error:
        raise _unusable(str(where.unusable(error))) from error


def _unusable(reason: str) -> StoreUnavailable:
    if settings.ROADMAPS_CHECKPOINT_URL:
        reason = _("ROADMAPS_CHECKPOINT_URL: %(reason)s") % {"reason": reason}
    return StoreUnavailable(" ".join(reason.split()))


# --- statements --------------------------------------------------------------------------------------------------

_TABLES = {
    # Without virtual tables, which have no root page: their module may be missing.
    "sqlite": """SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c
        WHERE m.type = 'table' AND m.rootpage > 0""",
    "postgresql": """SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) AND a.attnum > 0 AND NOT a.attisdropped""",
}
_DIALECT = {
    "sqlite": {
        "in": "IN (SELECT value FROM json_each(%s))",
        "type": "c.type",
        "checkpoint": "c.checkpoint",
        "metadata": "c.metadata",
        "writes": "writes",
        "value": "value",
    },
    "postgresql": {
        "in": "= ANY (%s)",
        "type": f"'{IN_BLOBS}'",
        "checkpoint": "c.checkpoint::text",
        "metadata": "c.metadata::text",
        "writes": "checkpoint_writes",
        "value": "blob",
    },
}

_PRIVILEGES = """
    SELECT quote_ident(current_user), pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
    (SELECT attnotnull FROM pg_attribute WHERE attrelid = 'checkpoint_blobs'::regclass AND attname = 'blob'),
    has_table_privilege('checkpoints', 'INSERT') AND has_table_privilege('checkpoints', 'UPDATE'),
    has_table_privilege('checkpoint_writes', 'INSERT') AND has_table_privilege('checkpoint_writes', 'UPDATE'),
    has_table_privilege('checkpoint_blobs', 'INSERT'), has_table_privilege('checkpoint_blobs', 'SELECT')
"""


@contextmanager
def reader(store: Store) -> Iterator[tuple[Read, set[str]]]:
    """Return a function that reads LangGraph's tables, and the columns that are missing. Raise NoCheckpoints."""
    where = place(store)
    _require_file(where, writes=False)
    try:
        # The engine handles the errors of the store itself.
        with nullcontext() if where is store else _translated(where):
            columns: dict[str, set[str]] = {}
            for table, column in where.query(_TABLES[where.vendor]):
                columns.setdefault(table, set()).add(column)
        yield _read(where, columns, elsewhere=where is not store), _missing_columns(where, columns)
    finally:
        if where is not store:
            where.close()


def _read(where: Store, columns: Mapping[str, set[str]], *, elsewhere: bool) -> Read:
    dialect = _DIALECT[where.vendor]
    path = f"w.{PATH}" if PATH in columns.get(dialect["writes"], ()) else "''"

    def read(sql: str, params: Sequence[Any]) -> list[Any]:
        given = [list(one) if isinstance(one, tuple) else one for one in params]
        if where.path is not None:
            given = [json.dumps(one) if isinstance(one, list) else one for one in given]
        with _translated(where) if elsewhere else nullcontext():
            return where.query(sql.format(path=path, **dialect), given)

    return read


def _missing_columns(where: Store, columns: Mapping[str, set[str]]) -> set[str]:
    """Return the columns that today's savers need and these tables do not have. Raise NoCheckpoints."""
    needed = COLUMNS[where.vendor]
    if "thread_id" not in columns.get("checkpoints", ()):
        raise NoCheckpoints(_no_tables(where))
    return {
        f"{table}.{column}"
        for table, names in needed.items()
        for column in names
        if column not in columns.get(table, ())
    }


def _no_tables(where: Store) -> str:
    return _(
        "%(where)s does not have LangGraph's tables. Set ROADMAPS_CHECKPOINT_URL to the database of the checkpoints."
    ) % {"where": where.location}


def require_tables(store: Store) -> None:
    """Refuse a store without LangGraph's tables: a checkpoint may exist elsewhere. Raise NoCheckpoints."""
    _require_file(place(store), writes=False)
    with reader(store):
        pass


def require(store: Store, *, writes: bool) -> None:
    """Refuse tables from which no workflow can be resumed, before a node runs. Raise StoreUnavailable."""
    where = place(store)
    _require_file(where, writes=writes)
    with reader(store) as (read, missing):
        if missing and (writes or not only_path(missing)):
            raise StoreUnavailable(outdated(where, missing))
        if writes and where.path is None:
            _require_privileges(where, read)


def _require_privileges(where: Store, read: Read) -> None:
    """Refuse, on PostgreSQL, what would prevent a saver from keeping the result of a node that has run."""
    role, read_only, not_null, *privileges = read(_PRIVILEGES, [])[0]
    if read_only:
        raise StoreUnavailable(
            _("%(where)s is read-only, so workflows cannot be resumed. Set its URL to the primary server.")
            % {"where": where.location}
        )
    if not all(privileges):
        raise StoreUnavailable(
            _("The role %(role)s may not write to LangGraph's tables in %(where)s. Execute: %(grant)s")
            % {
                "role": role,
                "where": where.location,
                "grant": f"GRANT SELECT, INSERT, UPDATE ON {', '.join(COLUMNS['postgresql'])} TO {role}",
            }
        )
    if not_null:
        raise StoreUnavailable(
            _("LangGraph's tables in %(where)s are older than its savers. Execute: %(statement)s")
            % {"where": where.location, "statement": "ALTER TABLE checkpoint_blobs ALTER COLUMN blob DROP NOT NULL"}
        )


def only_path(missing: set[str]) -> bool:
    """Return whether only `task_path` is missing, which the statements of this app do not need."""
    return all(one.endswith(f".{PATH}") for one in missing)


def outdated(where: Store, missing: set[str]) -> str:
    columns = ", ".join(sorted(missing))
    if only_path(missing):
        return _(
            "LangGraph's tables in %(where)s are older than its savers: %(columns)s is missing. Let the platform run "
            "its saver's setup() once, or execute: "
            "ALTER TABLE %(table)s ADD COLUMN task_path TEXT NOT NULL DEFAULT ''."
        ) % {"where": where.location, "columns": columns, "table": columns.partition(".")[0]}
    return _(
        "LangGraph's tables in %(where)s are of another version: %(columns)s is missing. Their workflows can be "
        "resumed only with the LangGraph version that wrote them."
    ) % {"where": where.location, "columns": columns}
