"""The writer of batches: each is one transaction that checks the lease and guards every row by its old values."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from django.db.models import QuerySet

from opsconsole.engine.deletes import every_delete_recorded, require_unreferenced, try_restore, with_whole_rows
from opsconsole.engine.leases import Lease
from opsconsole.engine.operation import Operation
from opsconsole.engine.outcomes import Changes
from opsconsole.engine.planner import Outcomes, read_batch
from opsconsole.engine.recovery import FailingRows, lock_number, writing
from opsconsole.engine.threads import StoreThread
from opsconsole.stores import preflight
from opsconsole.stores import rows as stored_rows
from opsconsole.stores.rows import Key, RowKey, RowsChanged, Write
from opsconsole.stores.sqlite import LOG_BYTES

PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.002, 0.1
ALONE_AFTER_SECONDS = 60.0  # since the last commit of another client
MARK_SECONDS = 0.25  # maximum age of a mark of PostgreSQL
CHECKPOINT_ROWS_ALONE = 10_000  # written rows after which the log is copied to the file
LOG_PAGES = 16_000  # of the write-ahead log of SQLite, 64 MB
RESTART_MS = 200  # how long a restart of the log waits for readers, and other writers wait for it


class ReadBatch(NamedTuple):
    """A batch that was read and processed.

    `after` is the cursor before it, and `since` the value of `rows.mark` before the read. `image` is its writes and
    before-image, or the error of a row.
    """

    rows: list[Any]
    after: Key | None
    since: int
    found: Outcomes
    image: tuple[list[Write], bytes] | Exception


class BatchWriter:
    """The writer of one run.

    It is a thread with separate connections, so that other batches are read and processed while this one is written.
    """

    def __init__(self, lease: Lease, operation: Operation, rows: QuerySet[Any], failing: FailingRows) -> None:
        self._lease = lease
        self._part, self._run = lease.part, lease.part.whole
        self._operation = operation
        self._store = operation.store
        self._rows = rows
        self._failing = failing
        self._thread = StoreThread("store-writer", operation.store)
        self._marked = float("-inf"), 0  # time and result of the last `rows.mark`
        self._held = self._released = 0.0  # how long the last batch had locked the store, and until when
        self.overlaps = True  # False if each batch must be read after the previous one is written
        self._lock_number = lock_number(self._part)
        self._others_wrote = float("-inf")  # when a commit of another client was noticed
        self._has_versions = self._has_log = False
        self._log = Path()  # the file of the write-ahead log
        self._log_limit = LOG_PAGES
        self._rows_in_log = 0  # rows written since the last checkpoint
        self._search_path = ""  # of the platform, for the store's triggers
        # True if deletes need no trial restore, or if it has succeeded for all rows.
        self._restorable = not (operation.undoable and self._run.plan["restorable"])

    def start(self, writes: list[Write], read: ReadBatch) -> Future[None]:
        """Start to write a batch. The result raises the error of the write."""
        return self._thread.submit(self._apply, writes, read)

    def reconnect(self) -> None:
        """Close connections that may be broken."""
        self._store.close()
        self._thread.close_connections()

    def cancel(self) -> None:
        self._thread.cancel()

    def close(self) -> None:
        if self._has_log and self._rows_in_log:
            with suppress(Exception):  # the store may be out of reach; another client copies the log then
                self._store.query("PRAGMA wal_checkpoint(PASSIVE)")
        self._thread.close()

    def mark(self) -> int:
        """Return a mark (see `rows.mark`) from before now. An older mark guards more rows.

        On SQLite it is the mark of the last write. PostgreSQL is asked at most four times per second.
        """
        if self._store.vendor == "postgresql" and time.monotonic() - self._marked[0] > MARK_SECONDS:
            self._marked = time.monotonic(), stored_rows.mark(self._store)
        return self._marked[1]

    def mark_now(self) -> int:
        """Return the mark of the connection that writes."""
        return self._thread.submit(stored_rows.mark, self._store).result()

    def examine_store(self) -> None:
        """Read what the writes need: triggers, row versions and search path, or the journal mode of a file."""
        fired = [
            trigger
            for target in self._operation.targets()
            if target.table in self._store.tables
            for trigger in self._store.triggers(target.table, target.kind.upper())
        ]
        if self._store.vendor == "postgresql":
            from opsconsole.stores.connection import platform_search_path  # imports psycopg

            self._has_versions = stored_rows.has_versions(self._store, self._operation.writes)
            self._search_path = platform_search_path(self._store) if fired else ""
        else:
            # A trigger may change rows that are read ahead. SQLite counts the commits of other connections only.
            self.overlaps = self._thread.submit(self._open_file).result() and not fired

    def _open_file(self) -> bool:
        """Prepare the connection to a SQLite file. Return whether the file can be read while it is written."""
        store = self._store
        store.foreign_keys  # noqa: B018  # read now, not under the write lock of the first batch
        store.query("PRAGMA wal_autocheckpoint=0")  # see `checkpoint`
        self._marked = 0.0, stored_rows.mark(store)
        ((_number, _name, path),) = store.query("PRAGMA database_list")[:1]
        self._log = Path(f"{path}-wal")
        self._has_log = store.query("PRAGMA journal_mode") == [("wal",)]
        return self._has_log

    def final(self, writes: list[Write]) -> list[Write]:
        """Return the writes as saved and executed: whole rows for deletes, new values in the database's form."""
        return [
            stored_rows.children_first(self._store, with_whole_rows(self._store, write))
            if write.kind == "delete"
            else stored_rows.normalized(self._store, write)
            for write in writes
        ]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Open a transaction: take the write lock of the store, then check the lease. Raises LostOwnership."""
        with writing(self._store, self._lock_number):
            self._lease.check()
            yield

    def checkpoint(self) -> None:
        """Copy the write-ahead log of SQLite to the file, while the next batch is written.

        It does not block other clients. SQLite would do it within a COMMIT of this run or of another client.
        """
        if not self._has_log or not self._rows_in_log:
            return
        if self.is_alone and self._rows_in_log < CHECKPOINT_ROWS_ALONE and not self._log_is_long():
            return
        self._rows_in_log = 0
        _busy, pages, _copied = self._store.query("PRAGMA wal_checkpoint(PASSIVE)")[0]
        if pages > self._log_limit:  # the log grows as long as it has a reader at every moment
            busy = self._thread.submit(self._restart_log).result()
            self._log_limit = LOG_PAGES + (pages if busy else 0)  # a client with a long query is not asked each time

    def _log_is_long(self) -> bool:
        """Return whether the log is too long to wait for more rows, which may be long or have many indexes."""
        return self._log.exists() and self._log.stat().st_size > 2 * LOG_BYTES

    def _restart_log(self) -> bool:
        """Let the next write begin at the start of the log. Return whether a reader prevents it."""
        ((patience,),) = self._store.query("PRAGMA busy_timeout")
        self._store.query(f"PRAGMA busy_timeout={RESTART_MS}")
        try:
            ((busy, _pages, _copied),) = self._store.query("PRAGMA wal_checkpoint(RESTART)")
        finally:
            self._store.query(f"PRAGMA busy_timeout={patience}")
        return bool(busy)

    def _apply(self, writes: list[Write], read: ReadBatch) -> None:
        """Write one batch in a transaction: lock parents before children, delete children before parents."""
        if not writes:
            return
        store = self._store
        self._pause()
        with self._timed(), self.transaction():
            deletes = [write for write in writes if write.kind == "delete"]
            # PostgreSQL's writes skip rows that are younger than `since`: only other batches are locked and read again.
            since = read.since if self._has_versions and not self._failing.isolating else None
            for write in reversed(writes if since is None else deletes):
                stored_rows.lock(store, write)
            if store.vendor == "sqlite":
                self._notice_others()
            if since is None and (store.vendor == "postgresql" or self._marked[1] != read.since):
                self._require_as_read(read, deletes)
            for write in deletes:
                require_unreferenced(store, write, deletes, self._operation.writes)
            if self._search_path:  # not earlier: the operation's queries need the configured schema
                store.query("SELECT set_config('search_path', %s, true)", [self._search_path])
            with every_delete_recorded(store, self._operation.targets() if deletes else (), deletes):
                for write in writes:
                    stored_rows.write(store, write, since=since)
                stored_rows.check_deferred(store)
            for write in writes:
                stored_rows.verify(store, write)
            self._rows_in_log += sum(len(write.rows) for write in writes)
            if deletes and not self._restorable:
                try_restore(store, deletes, first_batch=not self._part.batches_done)
                # If keys, checks or triggers may refuse single rows, every batch is tried.
                self._restorable = not any(preflight.may_refuse_a_row(store, write.table) for write in deletes)

    def _notice_others(self) -> None:
        mark = stored_rows.mark(self._store)
        if mark != self._marked[1]:
            self._others_wrote = time.monotonic()
        self._marked = 0.0, mark

    @property
    def is_alone(self) -> bool:
        """Return whether no other client has to be considered."""
        return self._run.fast or time.monotonic() - self._others_wrote > ALONE_AFTER_SECONDS

    def _pause(self) -> None:
        """Leave the file to other clients.

        Other writers of SQLite starve without a pause: their busy handler sleeps while the lock is free. If others
        write, the pause is as long as the last batch had locked the file, so that one of their attempts succeeds.
        """
        if self._run.fast or self._store.vendor != "sqlite":
            return
        pause = PAUSE_SECONDS if self.is_alone else max(PAUSE_SECONDS, self._held)
        time.sleep(max(0.0, self._released + min(pause, MAX_PAUSE_SECONDS) - time.monotonic()))

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Measure how long a batch locks the store."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._released = time.monotonic()
            self._held = self._released - began

    def _require_as_read(self, read: ReadBatch, deletes: list[Write]) -> None:
        """Read the batch again under the lock. Raises RowsChanged for rows with a different outcome."""
        again: dict[Key, Any] = {}
        after, last = read.after, read.rows[-1].pk
        while after != last and (
            rows := read_batch(self._operation, self._rows, after=after, bound=last, limit=len(read.rows))
        ):
            again |= {row.pk: row for row in rows}
            after = rows[-1].pk
        unmet: dict[RowKey, Exception | None] = {}
        outcome_of = self._failing.outcome
        for row in read.rows:
            now = again.get(row.pk)
            if now == row or not isinstance(outcome := outcome_of(row), Changes):
                continue
            if now is None or outcome_of(now) != outcome:
                unmet |= dict.fromkeys(((change.table, change.key) for change in outcome.rows), None)
        for write in deletes:  # their before-images hold more columns than were processed
            found = stored_rows.read(self._store, write.table, write.columns, [row[0] for row in write.rows])
            unmet |= {
                (write.table, key): None
                for key, old, _new in write.rows
                if found.get(key) != self._store.normalize(old)
            }
        if unmet:
            raise RowsChanged(unmet)
