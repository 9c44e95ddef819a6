"""LangGraph's tables, in the store or at `ROADMAPS_CHECKPOINT_URL`: connections and statements. None is made here."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psycopg
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, connections
from django.utils.translation import gettext as _
from psycopg.rows import dict_row

from opsconsole.env import database_url
from opsconsole.stores import config as store_config
from opsconsole.stores.config import is_writable
from opsconsole.stores.connection import connect, connect_async
from opsconsole.stores.store import Store, StoreUnavailable

# What LangGraph's savers read and write, by table. Older ones lack some of it.
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
PATH = "task_path"  # the youngest column of the savers

BUSY_SECONDS = 20
APART = "apart"  # a checkpoint whose values are in blobs

Read = Callable[[str, Sequence[Any]], list[Any]]


class NoCheckpoints(StoreUnavailable):
    """The tables of LangGraph are not there."""


def place(store: Store) -> Store:
    """Where the checkpoints are: the database of `ROADMAPS_CHECKPOINT_URL`, else the store's own.

    Raises StoreUnavailable for what is no such URL.
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
            raise _unusable(str(error) if known else _("it is no URL of a database.")) from None
        connections.settings[alias] = found
        connections.configure_settings(connections.settings)
    return Store(alias, store.name)


@contextmanager
def connection(where: Store) -> Iterator[Any]:
    """A connection of its own for a saver, to write. Raises StoreUnavailable in one sentence."""
    _require_file(where, writes=True)
    with _said(where):
        opened: Any = (
            connect(where, row_factory=dict_row)
            if where.path is None
            else sqlite3.connect(_uri(where.path), uri=True, check_same_thread=False, timeout=BUSY_SECONDS)
        )
    with closing(opened):
        yield opened


@asynccontextmanager
async def async_connection(where: Store) -> AsyncIterator[Any]:
    """The same for the savers of async graphs."""
    import aiosqlite

    _require_file(where, writes=True)
    with _said(where):
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
        raise NoCheckpoints(_missing(where))
    if writes and not is_writable(where.path):
        raise StoreUnavailable(_("%(path)s is read-only: a workflow can't go on there.") % {"path": where.path})


def _uri(path: Path) -> str:
    return str(store_config.sqlite(path, attached=True)["NAME"])


@contextmanager
def _said(where: Store) -> Iterator[None]:
    """A driver's error in one sentence."""
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
    # A virtual table has no root page, and its module may be missing.
    "sqlite": """SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c
        WHERE m.type = 'table' AND m.rootpage > 0""",
    "postgresql": """SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) AND a.attnum > 0 AND NOT a.attisdropped""",
}
_WORDS = {
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
        "type": f"'{APART}'",
        "checkpoint": "c.checkpoint::text",
        "metadata": "c.metadata::text",
        "writes": "checkpoint_writes",
        "value": "blob",
    },
}

_RIGHTS = """
    SELECT quote_ident(current_user), pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
    (SELECT attnotnull FROM pg_attribute WHERE attrelid = 'checkpoint_blobs'::regclass AND attname = 'blob'),
    has_table_privilege('checkpoints', 'INSERT') AND has_table_privilege('checkpoints', 'UPDATE'),
    has_table_privilege('checkpoint_writes', 'INSERT') AND has_table_privilege('checkpoint_writes', 'UPDATE'),
    has_table_privilege('checkpoint_blobs', 'INSERT'), has_table_privilege('checkpoint_blobs', 'SELECT')
"""


@contextmanager
def reader(store: Store) -> Iterator[tuple[Read, set[str]]]:
    """How to read, and what LangGraph's tables lack. Raises NoCheckpoints where there are none."""
    where = place(store)
    _require_file(where, writes=False)
    try:
        said = nullcontext() if where is store else _said(where)  # the engine knows the store's own errors
        with said:
            columns: dict[str, set[str]] = {}
            for table, column in where.query(_TABLES[where.vendor]):
                columns.setdefault(table, set()).add(column)
        yield _read(where, columns, elsewhere=where is not store), _lacks(where, columns)
    finally:
        if where is not store:
            where.close()


def _read(where: Store, columns: Mapping[str, set[str]], *, elsewhere: bool) -> Read:
    words = _WORDS[where.vendor]
    path = f"w.{PATH}" if PATH in columns.get(words["writes"], ()) else "''"

    def read(sql: str, params: Sequence[Any]) -> list[Any]:
        given = [list(one) if isinstance(one, tuple) else one for one in params]
        if where.path is not None:
            given = [json.dumps(one) if isinstance(one, list) else one for one in given]
        with _said(where) if elsewhere else nullcontext():
            return where.query(sql.format(path=path, **words), given)

    return read


def _lacks(where: Store, columns: Mapping[str, set[str]]) -> set[str]:
    """Columns of today's savers that these tables lack, as `table.column`. Raises NoCheckpoints."""
    needed = COLUMNS[where.vendor]
    if "thread_id" not in columns.get("checkpoints", ()):
        raise NoCheckpoints(_missing(where))
    return {
        f"{table}.{column}"
        for table, names in needed.items()
        for column in names
        if column not in columns.get(table, ())
    }


def _missing(where: Store) -> str:
    return _("%(where)s has no tables of LangGraph: set ROADMAPS_CHECKPOINT_URL to where the checkpoints are.") % {
        "where": where.location
    }


def require_tables(store: Store) -> None:
    """Refuse where there is no telling whether a task has a checkpoint. Raises NoCheckpoints."""
    _require_file(place(store), writes=False)
    with reader(store):
        pass


def require(store: Store, *, writes: bool) -> None:
    """Refuse where a workflow could not go on, before anything is run. Raises StoreUnavailable."""
    where = place(store)
    _require_file(where, writes=writes)
    with reader(store) as (read, lacks):
        if lacks and (writes or not only_path(lacks)):
            raise StoreUnavailable(outdated(where, lacks))
        if writes and where.path is None:
            _require_rights(where, read)


def _require_rights(where: Store, read: Read) -> None:
    """PostgreSQL: what a saver would meet after a node has run, and its result could not be kept."""
    role, read_only, not_null, *rights = read(_RIGHTS, [])[0]
    if read_only:
        raise StoreUnavailable(
            _("%(where)s is read-only: a workflow can't go on there. Name the primary server in its URL.")
            % {"where": where.location}
        )
    if not all(rights):
        raise StoreUnavailable(
            _("The role %(role)s may not write to the tables of LangGraph in %(where)s. Execute: %(grant)s")
            % {
                "role": role,
                "where": where.location,
                "grant": f"GRANT SELECT, INSERT, UPDATE ON {', '.join(COLUMNS['postgresql'])} TO {role}",
            }
        )
    if not_null:
        raise StoreUnavailable(
            _("The tables of LangGraph in %(where)s are older than its savers. Execute: %(statement)s")
            % {"where": where.location, "statement": "ALTER TABLE checkpoint_blobs ALTER COLUMN blob DROP NOT NULL"}
        )


def only_path(lacks: set[str]) -> bool:
    """Our own statements do without it."""
    return all(one.endswith(f".{PATH}") for one in lacks)


def outdated(where: Store, lacks: set[str]) -> str:
    if only_path(lacks):
        return _(
            "The tables of LangGraph in %(where)s are older than its savers, which need %(lacks)s. Let the platform "
            "run its saver's setup() once, or execute: "
            "ALTER TABLE %(table)s ADD COLUMN task_path TEXT NOT NULL DEFAULT ''."
        ) % {"where": where.location, "lacks": ", ".join(sorted(lacks)), "table": sorted(lacks)[0].partition(".")[0]}
    return _(
        "The tables of LangGraph in %(where)s are of another version, without %(lacks)s: workflows that they hold can "
        "go on only with the LangGraph that wrote them."
    ) % {"where": where.location, "lacks": ", ".join(sorted(lacks))}
