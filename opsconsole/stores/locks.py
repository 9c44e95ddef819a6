"""Locks of a store: the transactions that hold them, and how long a connection waits for one."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from django.db import DatabaseError, InterfaceError
from django.utils.translation import gettext as _

from opsconsole.stores.errors import first_line, is_lock
from opsconsole.stores.store import Store

SHOWN = 5
_FILE_LOCKS = (0x40000000, 0x40000001 + 511)  # the bytes of a SQLite file that a writer locks
_WAL_LOCKS = (120, 122)  # of the file "-shm": writer, checkpoint, recovery
LOCKED_LOCK_SECONDS = 0.05  # for a store that was found locked


class Blocker(NamedTuple):
    """A transaction that holds or requests a lock on a table. Its statement is not shown."""

    table: str
    pid: int
    application: str
    user: str
    since: datetime | None  # None if the role may not see it

    @property
    def words(self) -> str:
        return _("%(table)s is locked by process %(pid)d (%(application)s, user %(user)s).") % self._asdict()


def blockers(store: Store) -> list[Blocker]:
    """Return the transactions with the strongest locks on tables of the store, oldest first.

    The list is empty if the store does not answer. Of a SQLite file it contains the processes that write, if the
    system is Linux.
    """
    if store.vendor != "postgresql":
        return _file_blockers(store)
    try:
        found = store.query(_BLOCKERS)
    except (DatabaseError, InterfaceError):
        return []
    strong = [row for row in found if row[0]] or found
    return [Blocker(*row[1:]) for row in strong[:SHOWN]]


def _file_blockers(store: Store) -> list[Blocker]:
    """Return the processes that hold a write lock on a SQLite file, from Linux's list of locks."""
    found: dict[int, Blocker] = {}
    places: dict[str, tuple[int, int]] = {}  # device and inode of a file → its locked bytes
    try:
        for suffix, bytes_ in (("", _FILE_LOCKS), ("-shm", _WAL_LOCKS)):
            with suppress(FileNotFoundError):
                about = os.stat(f"{store.path}{suffix}")
                device = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}"
                places[f"{device}:{about.st_ino}"] = bytes_
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        fields = line.split()  # number, class, kind, mode, process, file, first byte, last byte
        if len(fields) != 8 or fields[3] != "WRITE" or fields[5] not in places:
            continue
        low, high = places[fields[5]]
        if int(fields[6]) <= high and (fields[7] == "EOF" or int(fields[7]) >= low):
            pid = int(fields[4])
            found[pid] = Blocker(Path(str(store.path)).name, pid, *_process(pid), None)
    return list(found.values())[:SHOWN]


def _process(pid: int) -> tuple[str, str]:
    """Return the name and the account of a process."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        return name, pwd.getpwuid(os.stat(f"/proc/{pid}").st_uid).pw_name
    except (OSError, KeyError):  # it has ended, or belongs to another container
        return "?", "?"


def why_it_waits(store: Store, error: Exception) -> str:
    """Return the reason why a run waits after `error`: the transaction that holds the lock, else the error."""
    if not is_lock(error):
        return first_line(error)
    return next((one.words for one in blockers(store)), first_line(error))


def limit_lock_wait(wrapper: Any, seconds: float) -> None:
    """Limit how long an open connection waits for a lock. A pooler's connection is shared and keeps its setting."""
    if wrapper.vendor == "sqlite":
        wrapper.connection.execute(f"PRAGMA busy_timeout = {seconds * 1000:.0f}")
    elif not wrapper.settings_dict["OPTIONS"].get("pooler"):
        with wrapper.wrap_database_errors:
            wrapper.connection.execute(f"SET lock_timeout = '{seconds * 1000:.0f}ms'")


def reset_lock_wait(wrapper: Any) -> None:
    """Restore the usual limit of a connection. Close the connection if this fails."""
    if wrapper.connection is None:
        return
    try:
        if wrapper.vendor == "sqlite":
            limit_lock_wait(wrapper, wrapper.settings_dict["OPTIONS"]["timeout"])
        elif not wrapper.settings_dict["OPTIONS"].get("pooler"):
            wrapper.connection.execute("RESET lock_timeout")
    except wrapper.Database.Error:
        wrapper.close()


@contextmanager
def brief_lock_waits(store: Store) -> Iterator[None]:
    """Wait only briefly for locks in the block, for a store that was found locked."""
    wrapper = store.connection
    wrapper.ensure_connection()
    limit_lock_wait(wrapper, LOCKED_LOCK_SECONDS)
    try:
        yield
    finally:
        reset_lock_wait(wrapper)


# Strong locks exclude readers or writers of the whole table.
_BLOCKERS = """
    SELECT bool_or(l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')) AS strong,
           l.relation::regclass::text, l.pid, COALESCE(NULLIF(a.application_name, ''), '?'),
           COALESCE(a.usename::text, '?'), a.xact_start
    FROM pg_locks AS l
    JOIN pg_class AS c ON c.oid = l.relation AND c.relkind IN ('r', 'p', 'm')
    LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
    WHERE l.locktype = 'relation' AND l.pid <> pg_backend_pid() AND l.mode <> 'AccessShareLock'
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace)
    GROUP BY l.relation, l.pid, a.application_name, a.usename, a.xact_start
    ORDER BY 1 DESC, a.xact_start NULLS LAST, 2, 3
"""
