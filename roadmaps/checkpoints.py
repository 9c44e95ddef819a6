"""LangGraph's checkpoints, read by its own savers: where a workflow stands. Nothing is created or altered.

The savers make their tables and switch SQLite files to WAL when they are first used. So the tables must be
there already, and the savers are told that they are set up.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import psycopg
from django.conf import settings
from django.utils.translation import gettext as _
from psycopg.rows import dict_row

from opsconsole.env import SQLITE, database_url
from opsconsole.stores.config import is_writable
from opsconsole.stores.moments import read_moment
from opsconsole.stores.store import Store, StoreUnusable
from roadmaps.models import Checkpoint

_ADDRESS = ("host", "port", "user", "password", "dbname", "options", "sslmode", "sslrootcert", "connect_timeout")
WANTED = {
    "sqlite": ("checkpoints", "writes"),
    "postgresql": ("checkpoints", "checkpoint_blobs", "checkpoint_writes"),
}


class Standing(NamedTuple):
    """Where a workflow stands: its step, when that was, and which nodes come next."""

    step: int | None
    at: datetime | None
    checkpoint_id: str


def config_of(task_id: str) -> dict[str, Any]:
    """What LangGraph calls a config: the thread is the task."""
    return {"configurable": {"thread_id": task_id, "checkpoint_ns": ""}}


def threads(store: Store, task_ids: Iterable[str]) -> set[str]:
    """Those of the tasks that have a checkpoint: one statement."""
    wanted = list(task_ids)
    if not wanted:
        return set()
    if not settings.ROADMAPS_CHECKPOINT_URL:  # no connection of our own is needed
        if not set(WANTED[store.vendor]) <= set(store.tables):
            return set()
        rows = Checkpoint.objects.using(store.alias).filter(thread_id__in=wanted)
        return set(rows.order_by().values_list("thread_id", flat=True).distinct())
    try:
        with _connection(store) as connection:
            if isinstance(connection, sqlite3.Connection):
                sql = "SELECT DISTINCT thread_id FROM checkpoints WHERE thread_id IN (SELECT value FROM json_each(?))"
                return {row[0] for row in connection.execute(sql, [json.dumps(wanted)])}
            found = connection.execute(
                "SELECT DISTINCT thread_id FROM checkpoints WHERE thread_id = ANY (%s)", [wanted]
            )
            return {row["thread_id"] for row in found}
    except NoCheckpoints:
        return set()


def standing(saver: Any, task_id: str) -> Standing | None:
    """The newest checkpoint of a task, as the saver reads it."""
    found = saver.get_tuple(config_of(task_id))
    if found is None:
        return None
    step = found.metadata.get("step") if found.metadata else None
    return Standing(step, read_moment(str(found.checkpoint.get("ts"))), str(found.checkpoint["id"]))


@contextmanager
def saver(store: Store, *, writes: bool = False) -> Iterator[Any]:
    """The saver of the place where the checkpoints are. Raises NoCheckpoints where its tables are missing."""
    with _connection(store, writes=writes) as connection:
        if isinstance(connection, sqlite3.Connection):
            from langgraph.checkpoint.sqlite import SqliteSaver

            sqlite_saver = SqliteSaver(connection)
            sqlite_saver.is_setup = True
            yield sqlite_saver
        else:
            from langgraph.checkpoint.postgres import PostgresSaver

            yield PostgresSaver(connection)


class NoCheckpoints(StoreUnusable):
    """The tables of LangGraph are not there."""


@contextmanager
def _connection(store: Store, *, writes: bool = False) -> Iterator[Any]:
    """A connection of our own, as the savers want it."""
    kind, address = _place(store)
    if kind == "sqlite":
        path = Path(address)
        if not path.is_file():
            raise NoCheckpoints(_missing(address))
        if writes and not is_writable(path):
            raise StoreUnusable(_("%(path)s is read-only: a workflow can't go on there.") % {"path": address})
        # What only reads opens it for writing, too: the last reader of a log may not leave it behind.
        mode = "rw" if is_writable(path) else "ro"
        uri = f"file:{quote(str(path))}?mode={mode}"
        with closing(sqlite3.connect(uri, uri=True, check_same_thread=False, timeout=20)) as connection:
            names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            _require(kind, names, address)
            yield connection
        return
    with psycopg.connect(address, autocommit=True, row_factory=dict_row) as pg:
        found = pg.execute("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND pg_table_is_visible(oid)")
        _require(kind, {row["relname"] for row in found}, pg.info.dbname)
        yield pg


def _require(kind: str, names: set[str], where: str) -> None:
    if not set(WANTED[kind]) <= names:
        raise NoCheckpoints(_missing(where))


def _missing(where: str) -> str:
    return _("%(where)s has no tables of LangGraph: set ROADMAPS_CHECKPOINT_URL to where the checkpoints are.") % {
        "where": where
    }


def _place(store: Store) -> tuple[str, str]:
    """Kind and address: `ROADMAPS_CHECKPOINT_URL`, else the store's own database."""
    url = settings.ROADMAPS_CHECKPOINT_URL
    if url:
        config = database_url(url)
        return ("sqlite", str(config["NAME"])) if config["ENGINE"] == SQLITE else ("postgresql", url)
    if store.path is not None:
        return "sqlite", str(store.path)
    given = store.connection.get_connection_params()
    known = {name: given[name] for name in _ADDRESS if given.get(name)}
    return "postgresql", psycopg.conninfo.make_conninfo("", **known)
