"""The executor: the only code that writes to a store in bulk.

A batch, in order: read its rows, process each, save the before-image durably in `default`, take the store's write
lock, check that this worker still owns the run, write guarded by the old values, commit. Console and store are
separate databases: after a crash between the two commits, the rows are compared with the before-image.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from django.db import DatabaseError, InterfaceError, connections, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.engine import findings, lifecycle
from opsconsole.engine.before_images import encode_before_image
from opsconsole.engine.checks import Check
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.lifecycle import LEASE, NOT_WAITING, interrupt, notify, operation_of, record, worker_actor
from opsconsole.engine.locks import release
from opsconsole.engine.models import Batch, FailedItem, PinnedRows, Request, Run, Status
from opsconsole.engine.operation import DEFAULT_BATCH_SIZE, NamedItem
from opsconsole.engine.outcomes import Changes, Outcome, Skip
from opsconsole.engine.planner import (
    OUTCOMES,
    Outcomes,
    Sampler,
    Unreadable,
    digest_of,
    measure,
    merge,
    outcomes_of,
    read_batch,
    selected_rows,
)
from opsconsole.engine.seals import number_of
from opsconsole.engine.selection import Selection
from opsconsole.engine.throttle import throttle_reason
from opsconsole.stores import preflight
from opsconsole.stores import rows as stored_rows
from opsconsole.stores.connection import platform_search_path
from opsconsole.stores.errors import ErrorKind, classify, first_line, trouble_code
from opsconsole.stores.locks import why_it_waits
from opsconsole.stores.rows import Key, RowKey, RowsChanged, Write
from opsconsole.stores.store import Store, text_of

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.002  # without a pause, SQLite's waiting writers starve: their busy handler sleeps
TARGET_SECONDS = 0.1  # target of a batch of 1,000 rows; a batch that takes five times as long is halved
HOLD_CHECK_SECONDS = 1.0
MARK_SECONDS = 0.25  # maximum age of PostgreSQL's answer
BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
PATIENCE_SECONDS = 60.0  # how long a foreground run waits for a lost or locked store
BUDGET_AFTER, BUDGET_SHARE = 100, 0.01
MAX_MOVES = 5
WAL_LIMIT_BYTES = 64 * 1024 * 1024
FAST_CHECKPOINT_PAGES = 16_000  # pages, 64 MB; with the default of 1,000, every second batch causes a checkpoint


class LostOwnership(Exception):
    """Another worker owns the run, or the run has ended."""


class DeleteRefused(RunRefused):
    """Deleted rows could not be restored exactly, so nothing is deleted."""


class _Undone(Exception):
    """Rolls a trial back to its savepoint."""


class _Read(NamedTuple):
    """A batch as it was read: its rows, the cursor before it, and the value of `rows.mark` before the read."""

    rows: list[Any]
    after: Key | None
    since: int


class _Pending(NamedTuple):
    """A batch that is being written."""

    batch: Batch
    rows: list[Any]
    found: Outcomes
    writes: list[Write]
    done: Future[None]
    started: float

    @property
    def cursor(self) -> Any:
        return self.batch.cursor


class _Writer:
    """The writer. PostgreSQL has a thread with separate connections: the next batch is read and processed while the
    server writes. SQLite gains nothing from it (measured), and another client can write while the next batch is read.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, "store-writer") if store.vendor == "postgresql" else None

    def start(self, apply: Callable[[], None]) -> Future[None]:
        if self._thread is not None:
            return self._thread.submit(apply)
        done: Future[None] = Future()
        try:
            apply()
            done.set_result(None)
        except Exception as error:  # noqa: BLE001  # whoever asks for the result gets it
            done.set_exception(error)
        return done

    def reconnect(self) -> None:
        """Close connections that may be broken."""
        self.store.close()
        if self._thread is not None:  # the thread's own connection to `default`, for the fence
            self._thread.submit(connections.close_all).result()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.submit(connections.close_all).result()
            self._thread.shutdown()


class Executor:
    """Executes one claimed run. A new Executor, after a crash or for the next slice, continues at the cursor."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.operation = operation_of(run)
        self.operation.run_id = run.pk
        self.store = self.operation.store
        self.selection = Selection(**run.selection)
        self.queryset = selected_rows(self.operation, self.selection)
        self._pinned = PinnedRows.of(run) if self.operation.pins_rows else None
        if self.operation.pin_rows and self._pinned is not None:
            self.queryset = self.operation.select(self.queryset, list(self._pinned))
        self.size = max(1, run.batch_size >> run.waits)  # less to wait for where it had to wait
        self.request = Request(run.request)
        self._writer = _Writer(self.store)
        self._pending: _Pending | None = None  # being written to the store
        self._open: Batch | None = None  # committed in the store, not yet marked as committed in `default`
        self._started = time.monotonic()
        self._elapsed_before = run.elapsed_seconds
        self._suspects: dict[Key, tuple[str, int]] = {}  # row -> what it held when its write failed; how often
        self._verdicts: dict[Key, Exception | Skip] = {}  # row -> why it is not written with its batch
        self._retries = 0  # of the batch that is being written
        self._has_versions = False
        self._marked = float("-inf"), 0  # when `rows.mark` was asked, and its answer
        # SQLite: `rows.mark` from before the first batch, where this worker does them all.
        self._began_at: int | None = None
        self._search_path = ""  # for the store's triggers, where it is not the connection's own
        # Whether what a delete takes needs no trial any more, or has been tried.
        self._restorable = not (self.operation.undoable and run.plan.get("restorable", True))
        self._isolating = 0  # rows among which one cannot be written
        self._held_checked = 0.0
        if run.fast and self.store.vendor == "sqlite":
            with self.store.connection.cursor() as cursor:
                cursor.execute(f"PRAGMA wal_autocheckpoint={FAST_CHECKPOINT_PAGES}")
        self._lock_number = number_of(f"opsconsole:{run.identity}:{','.join(sorted(run.writes))}")

    # --- the loop ----------------------------------------------------------------------------------------

    def work(
        self,
        *,
        until: Callable[[], bool] = lambda: False,
        on_progress: Callable[[Run], None] = lambda run: None,
        hand_over: Callable[[Run, float], None] | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> Run:
        """Execute batches until the end, a request, or `until()`. Return the run with its status.

        `hand_over` is called, in the transaction that ends this slice, when `until()` ends it or the run has to
        wait: it wakes the next one after so many seconds. Without it the run waits here, and is interrupted in the
        end. `patience`: seconds of trouble in a row.
        Raises LostOwnership when another worker has the run, and the database's error when it lasts.
        """
        try:
            return self._work(until, on_progress, hand_over, patience)
        finally:
            self._writer.close()

    def _work(
        self,
        until: Callable[[], bool],
        on_progress: Callable[[Run], None],
        hand_over: Callable[[Run, float], None] | None,
        patience: float,
    ) -> Run:
        trouble_since: float | None = None
        tries = 0
        recovered = stepped = False
        while True:
            began = time.monotonic()
            try:
                if not recovered:
                    self._recover()
                    recovered = True
                # A slice ends only after at least one batch: otherwise a slow start would never make progress.
                time_is_up = until() and (stepped or hand_over is None)
                if (self.request or time_is_up) and self._await_write():
                    return self._stop(hand_over)
                if hold := self._hold():
                    if hand_over is None:
                        self._wait(*hold, HOLD_CHECK_SECONDS)
                    elif self._await_write():
                        self._save()
                        return self._let_go(*hold, hand_over)
                    continue
                started = time.monotonic()
                done = self.run.batches_done
                more = self._step()
                stepped = True
                if self.run.batches_done > done:  # a batch that has started does not prove a healthy worker
                    trouble_since, tries = None, 0
                if not more:
                    return self._finish()
                if self.run.error and self._await_write():
                    return self._end(Status.FAILED)
                self._adapt(time.monotonic() - started)
                on_progress(self.run)
                if not self.run.fast:
                    time.sleep(PAUSE_SECONDS)
            except (DatabaseError, InterfaceError) as error:
                kind = classify(error)
                if kind not in {ErrorKind.TRANSIENT, ErrorKind.RESOURCE}:
                    self._fail(error)
                    raise
                trouble_since = trouble_since or (time.monotonic() if hand_over is None else began)
                lasts = time.monotonic() - trouble_since > patience
                if kind == ErrorKind.RESOURCE or (until() and hand_over is None) or (lasts and hand_over is None):
                    interrupt(self.run, first_line(error), trouble_code(error))
                    raise
                # It is unknown what the store has committed: recover before the next batch.
                recovered = self._drop_pending()
                reason = why_it_waits(self.store, error)
                if lasts and hand_over is not None:
                    return self._let_go(trouble_code(error), reason, hand_over)
                self.size = max(1, self.size // 2)
                self._wait(trouble_code(error), reason, BACKOFF_SECONDS[min(tries, len(BACKOFF_SECONDS) - 1)])
                self._writer.reconnect()
                tries += 1
            except LostOwnership:
                raise
            except Exception as error:
                self._fail(error)
                raise

    def _fail(self, error: Exception) -> None:
        logger.error("A run failed", exc_info=error)
        self._drop_pending()
        self.run.error = first_line(error)
        self._end(Status.FAILED)

    def _step(self) -> bool:
        """Read and process one batch, wait for the previous one, write this one. Return False after the last."""
        if self.run.bound is None:
            return False
        act = partial(self._run_rule, self.operation) if isinstance(self.operation, Check) else self.operation.perform
        if act is not None:
            return self._perform_item(self.run.bound, act)
        # An undo may write a row of the previous batch again, and a repeated batch is written alone.
        if (self._retries or not self.operation.rejudges) and not self._await_write():
            return True
        after = self.run.cursor if self._pending is None else self._pending.cursor
        since = self._mark()
        rows = self._read(after, self.run.bound, self.size)
        sampler = Sampler() if self.run.cursor is None and not self.run.plan["sample"] else None
        found = outcomes_of(self.operation, rows, sampler, change=self._change)
        if sampler is not None:  # the shell confirms without counting, so its run shows its first changes
            self.run.plan["sample"] = sampler.sample()
        if not self._await_write() or self.run.error:
            return True  # the previous batch is read again, then this one; or it was the last
        if not rows:
            return False
        self._write(_Read(rows, after, since), found)
        if self._pending is not None and self._pending.done.done():
            self._await_write()
        return True

    def _mark(self) -> int:
        """Return `rows.mark`. PostgreSQL is queried a few times per second: an older answer only guards more rows."""
        now = time.monotonic()
        if self.store.vendor == "sqlite" or now - self._marked[0] > MARK_SECONDS:
            self._marked = now, stored_rows.mark(self.store)
        return self._marked[1]

    def _read(self, after: Key | None, bound: Key, limit: int) -> list[Any]:
        """Return the next rows; of a plan with pinned rows, only those."""
        while rows := read_batch(self.operation, self.queryset, after=after, bound=bound, limit=limit):
            mine = [row for row in rows if self._pinned is None or row.pk in self._pinned]
            if mine:
                return mine
            after = rows[-1].pk
        return []

    @property
    def _change(self) -> Callable[[Any], Outcome]:
        """Return the outcome of a row: the operation's, or the verdict after a failed write."""
        change = self.operation.outcome if self._pinned is None else self._process_pinned
        if not self._verdicts:
            return change

        def judged(row: Any) -> Outcome:
            verdict = self._verdicts.get(row.pk)
            if isinstance(verdict, Exception):
                raise verdict
            return verdict or change(row)

        return judged

    def _process_pinned(self, row: Any) -> Outcome:
        """Return the outcome of a pinned row if it is still as the plan showed it."""
        outcome = self.operation.outcome(row)
        if isinstance(outcome, Changes) and digest_of(outcome, row) != (self._pinned or {}).get(row.pk):
            return Skip("changed_since_plan")
        return outcome

    def _perform_item(self, bound: Key, act: Callable[[Any], Outcome]) -> bool:
        """Run a rule or perform an action for one item. It is marked when it is complete: if the worker dies before,
        the item is repeated.
        """
        rows = self._read(self.run.cursor, bound, 1)
        if not rows:
            return False
        started = time.monotonic()
        with self._leased():
            found = outcomes_of(self.operation, rows, change=act, is_fatal=_concerns_the_run)
        batch = self._prepare([], found, rows[-1].pk)
        batch.seconds = time.monotonic() - started
        self._open = batch
        self._count(batch, found.reasons, 1)
        self._check_budget()
        return True

    def _run_rule(self, check: Check, question: NamedItem) -> Outcome:
        """Run one rule and save its findings as they arrive."""
        answer = iter(check.run_rule(question.name))
        while portion := list(islice(answer, findings.PORTION)):
            findings.keep(self.run, question.name, portion)
        findings.settle(self.run, question.name)
        return check.process(question)

    @contextmanager
    def _leased(self) -> Iterator[None]:
        """Renew the lease during a long step. Raises LostOwnership if another worker has the run."""
        over, lost = threading.Event(), threading.Event()

        def renew() -> None:
            try:
                while not over.wait(LEASE.total_seconds() / 3):
                    try:
                        if not self._mine().update(lease_until=timezone.now() + LEASE):
                            lost.set()
                            return
                    except (DatabaseError, InterfaceError):  # tried again at the next renewal
                        logger.warning("The lease could not be renewed", exc_info=True)
                        connections["default"].close()
            finally:
                connections.close_all()

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        if lost.is_set():
            raise LostOwnership

    def _mine(self) -> QuerySet[Run]:
        """Return the query for the run while this worker owns it."""
        return Run.objects.filter(pk=self.run.pk, generation=self.run.generation, status=Status.RUNNING)

    def _write(self, read: _Read, found: Outcomes) -> None:
        """Save the before-image, then write to the store. The cursor moves when both are committed."""
        started, rows = time.monotonic(), read.rows
        try:
            writes = self._final(found.writes)
            batch = self._prepare(writes, found, rows[-1].pk)
        except Exception as error:
            if not _concerns_rows(error):
                raise
            self._isolate(rows, error, [])
            return
        done = self._writer.start(lambda: self._apply(writes, read))
        self._pending = _Pending(batch, rows, found, writes, done, started)

    def _apply(self, writes: list[Write], read: _Read) -> None:
        """Write one batch in a transaction: lock parents before children, delete children before parents."""
        if not writes:
            return
        with self._store_transaction():
            deletes = [write for write in writes if write.kind == "delete"]
            since = self._guard(read)
            for write in reversed(writes if since is None else deletes):
                stored_rows.lock(self.store, write)
            if since is None and (self.store.vendor == "postgresql" or stored_rows.mark(self.store) != read.since):
                self._require_as_read(read, deletes)
            for write in deletes:
                self._require_unreferenced(write, deletes)
            if self._search_path:  # only now: the operation's own queries need the configured schema
                self.store.query("SELECT set_config('search_path', %s, true)", [self._search_path])
            with self._every_delete_recorded(deletes):
                for write in writes:
                    stored_rows.write(self.store, write, since=since)
                stored_rows.check_deferred(self.store)
            for write in writes:
                stored_rows.verify(self.store, write)
            if deletes and not self._restorable:
                self._try_restore(deletes)

    def _guard(self, read: _Read) -> int | None:
        """Return the transaction id that guards PostgreSQL's writes: younger rows are skipped. Return None if the
        batch must be locked and read again instead.
        """
        return read.since if self._has_versions and not self._retries else None

    def _require_as_read(self, read: _Read, deletes: list[Write]) -> None:
        """Read the batch again under the lock. Raises RowsChanged for rows with a different outcome."""
        again: dict[Key, Any] = {}
        after, last = read.after, read.rows[-1].pk
        while after != last and (
            rows := read_batch(self.operation, self.queryset, after=after, bound=last, limit=len(read.rows))
        ):
            again |= {row.pk: row for row in rows}
            after = rows[-1].pk
        unmet: dict[RowKey, Exception | None] = {}
        for row in read.rows:
            now = again.get(row.pk)
            if now == row or not isinstance(outcome := self._outcome(row), Changes):
                continue
            if now is None or self._outcome(now) != outcome:
                unmet |= dict.fromkeys(((change.table, change.key) for change in outcome.rows), None)
        for write in deletes:  # their before-images hold more columns than were processed
            found = stored_rows.read(self.store, write.table, write.columns, [row[0] for row in write.rows])
            unmet |= {
                (write.table, key): None for key, old, _new in write.rows if found.get(key) != self.store.normalize(old)
            }
        if unmet:
            raise RowsChanged(unmet)

    @contextmanager
    def _every_delete_recorded(self, deletes: list[Write]) -> Iterator[None]:
        """Fail if a trigger deletes rows of the run's tables that the before-image does not hold.

        Cascades need no check: a row that others refer to is not deleted without them.
        """
        fired = {one.name: write.table for write in deletes for one in self.store.triggers(write.table, "DELETE")}
        tables = [one.table for one in self.operation.targets() if one.kind == "delete"] if fired else []
        before = {table: stored_rows.deleted(self.store, table) for table in tables}
        yield
        for table, count in before.items():
            recorded = sum(len(write.rows) for write in deletes if write.table == table)
            if stored_rows.deleted(self.store, table) - count > recorded:
                raise stored_rows.UnrecordedDelete(
                    _(
                        "Its delete makes a trigger (%(names)s) delete other rows of %(table)s, which no before-image "
                        "would hold. It was left as it is."
                    )
                    % {"names": ", ".join(sorted(fired)), "table": table}
                )

    def _try_restore(self, deletes: list[Write]) -> None:
        """Restore the first deleted rows behind a savepoint, then roll back. Raises DeleteRefused."""
        table = ""
        try:
            with transaction.atomic(using=self.store.alias):
                back = [Write(one.table, one.columns, one.reversed().rows[::-1]) for one in reversed(deletes)]
                for write in back:
                    table = write.table
                    stored_rows.write(self.store, write)
                stored_rows.check_deferred(self.store)
                for write in back:
                    stored_rows.verify(self.store, write)
                raise _Undone
        except _Undone:
            # If keys, checks or triggers may refuse single rows, every batch is tried.
            self._restorable = not any(preflight.may_refuse_a_row(self.store, write.table) for write in deletes)
        except Exception as error:
            if not _concerns_rows(error) or self.run.batches_done:
                raise  # a later batch continues without the row
            reasons = [error, *error.refused.values()] if isinstance(error, RowsChanged) else [error]
            raise DeleteRefused(
                _("Deleted rows of %(table)s could not be put back exactly: %(reason)s Nothing was deleted.")
                % {
                    "table": table,
                    "reason": next((first_line(one) for one in reversed(reasons) if str(one)), _("they stay away.")),
                }
            ) from error

    def _await_write(self) -> bool:
        """Wait for the batch that is being written. Return False if it failed and must be read again."""
        pending, self._pending = self._pending, None
        if pending is None:
            return True
        try:
            pending.done.result()
        except Exception as error:
            if isinstance(error, DeleteRefused) or _concerns_rows(error):
                pending.batch.delete()  # the store has rolled back, so the before-image is void
            if not _concerns_rows(error):
                raise
            self._isolate(pending.rows, error, pending.writes)
            return False
        self._suspects.clear()
        self._verdicts.clear()
        self._retries = 0
        pending.batch.seconds = time.monotonic() - pending.started
        self._open = pending.batch
        self._count(pending.batch, pending.found.reasons, 1)
        self._isolating -= len(pending.rows)
        self._check_budget()
        return True

    # --- rows that can't be written -----------------------------------------------------------------------

    def _isolate(self, rows: list[Any], error: Exception, writes: list[Write]) -> None:
        """Find the rows that cannot be written. The batch is read again without them.

        If the error names no rows, the batch is halved until the failing row is isolated.
        """
        self._retries += 1
        if isinstance(error, RowsChanged) and self._retries <= 2 * MAX_MOVES:
            self._judge(rows, error, writes)
        elif len(rows) > 1:
            self._isolating = max(self._isolating, len(rows))
            self.size = max(1, len(rows) // 2)
            self._retries = 0
        else:
            self._isolating = 0  # found: batches grow again, and the next failing row is isolated in the same way
            self._verdicts[rows[0].pk] = error

    def _judge(self, rows: list[Any], error: RowsChanged, writes: list[Write]) -> None:
        """Decide about the rows that were not written.

        A row that is unchanged in two reads was not changed by another client: it fails with the reason of its write.
        """
        held = {(write.table, key): old for write in writes for key, old, _new in write.rows} | error.held
        for row in rows:
            outcome = self._outcome(row)
            written = [(change.table, change.key) for change in outcome.rows] if isinstance(outcome, Changes) else []
            if refused := [error.refused[one] for one in written if one in error.refused]:
                self._verdicts[row.pk] = refused[0]
            elif unmet := [error.unmet[one] for one in written if one in error.unmet]:
                before, times = self._suspects.get(row.pk, ("", 0))
                holds = repr([(one, held.get(one)) for one in written])
                reasons = [reason for reason in unmet if reason is not None]
                if reasons and holds == before:
                    self._verdicts[row.pk] = reasons[0]
                elif times >= MAX_MOVES:
                    self._verdicts[row.pk] = Skip("changed_concurrently")
                self._suspects[row.pk] = holds, times + 1

    def _prepare(self, writes: list[Write], found: Outcomes, cursor: Any) -> Batch:
        """Save the next before-image and mark the previous batch committed, in one durable transaction."""
        run = self.run
        batch = Batch(
            run=run,
            number=run.batches_done + 1,
            cursor=cursor,
            rows=sum(len(write.rows) for write in writes),
            # An irreversible operation keeps no before-image. It is idempotent, so a batch in doubt is repeated.
            before_image=encode_before_image(writes if self.operation.undoable else [], found.unchanged, found.reasons),
            **found.counts(),
        )
        with _durable():
            self._save()
            batch.save(force_insert=True)
            FailedItem.objects.bulk_create(
                FailedItem(
                    run=run,
                    batch=batch,
                    key=key,
                    label=label,
                    reason=type(error).__name__,
                    error=first_line(error),
                )
                for key, label, error in found.errors
            )
        self._open = None
        return batch

    def _save(self, **fields: Any) -> None:
        """Save the cursor and counters, and mark the last batch committed. Raises LostOwnership."""
        run = self.run
        run.elapsed_seconds = self._elapsed_before + time.monotonic() - self._started
        progress = {
            name: getattr(run, name) for name in ("cursor", *OUTCOMES, "reasons", "batches_done", "elapsed_seconds")
        }
        if run.waiting and (
            self._open is not None or "status" in fields
        ):  # a batch that has started does not prove a healthy worker
            fields = NOT_WAITING | fields
            for name in NOT_WAITING:
                setattr(run, name, fields[name])
        fields.setdefault("lease_until", timezone.now() + LEASE)
        if self._open is not None:  # this worker has committed a batch, so the lost workers in a row start again at 0
            fields["attempts"] = 0
        if not self._mine().update(**progress, **fields):
            raise LostOwnership
        if self._open is not None:
            Batch.objects.filter(pk=self._open.pk).update(committed=True, seconds=self._open.seconds)

    @contextmanager
    def _store_transaction(self) -> Iterator[None]:
        """Take the store's write lock, then check the fence: a worker that lost the run stops here."""
        connection = self.store.connection
        with transaction.atomic(using=self.store.alias):
            if connection.vendor == "postgresql":
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_advisory_xact_lock(%s)", [self._lock_number])
            current = Run.objects.filter(pk=self.run.pk, status=Status.RUNNING)
            state = current.values_list("generation", "request").first()
            if state is None or state[0] != self.run.generation:
                raise LostOwnership
            self.request = Request(state[1])
            yield

    def _drop_pending(self) -> bool:
        """Wait for the batch that is being written and ignore its result: `_recover` reads it. Return False."""
        if self._pending is not None:
            self._pending.done.exception()
            self._pending = None
        return False

    # --- recovery after a crash, a lost connection or a power loss -------------------------------------

    def _recover(self) -> None:
        """Find out which batches the store has committed. Discard the before-images of the others.

        A crash leaves at most one batch in doubt. A power loss may have removed the last commits of a SQLite store, so
        batches are compared from the newest until a committed one is found.
        """
        self.run.refresh_from_db()
        self._open = None
        fired = [  # read once, before the first batch
            one
            for target in self.operation.targets()
            if target.table in self.store.tables
            for one in self.store.triggers(target.table, target.kind.upper())
        ]
        self._began_at = None
        if self.store.vendor == "sqlite" and self.operation.writes and not self.run.seen:
            self._began_at = stored_rows.mark(self.store)
        if self.store.vendor == "postgresql":
            self._has_versions = stored_rows.has_versions(self.store, self.operation.writes)
            self._search_path = platform_search_path(self.store) if fired else ""
        with self._store_transaction():
            lost_from = None
            for batch in self.run.batches.order_by("-number").iterator(chunk_size=1):
                stands = self._is_committed(batch)
                if stands is False:
                    lost_from = batch.number
                elif stands:
                    break
        with _durable():
            doubtful = self.run.batches.filter(Q(committed=False) | Q(number__gte=lost_from or 1 << 31))
            for batch in doubtful.order_by("number"):
                lost = lost_from is not None and batch.number >= lost_from
                if lost and batch.committed:
                    self._count(batch, batch.reasons, -1)
                elif not lost and not batch.committed:
                    self._count(batch, batch.reasons, 1)
                    self.run.cursor = batch.cursor
                if lost:
                    batch.delete()
                else:
                    Batch.objects.filter(pk=batch.pk).update(committed=True)
            if lost_from is not None:
                newest = self.run.batches.order_by("-number").first()
                self.run.cursor = newest.cursor if newest else None
            self._save()

    def _is_committed(self, batch: Batch) -> bool | None:
        """Return whether the store has committed this batch, None if the batch wrote nothing."""
        wrote = False if batch.rows and not (batch.committed or self.operation.undoable) else None
        for write in batch.writes:
            wrote = True
            current = stored_rows.read(self.store, write.table, write.columns, [row[0] for row in write.rows])
            for key, old, new in write.rows:
                now = current.get(key)
                if now == self.store.normalize(new) and old != new:
                    return True
                if now == self.store.normalize(old):
                    wrote = False
            if wrote is False:
                return False
        return wrote

    # --- deletes --------------------------------------------------------------------------------------------

    def _final(self, writes: list[Write]) -> list[Write]:
        """Return the writes as saved and executed: whole rows for deletes, new values in the database's form."""
        return [
            stored_rows.children_first(self.store, self._load_full_rows(write))
            if write.kind == "delete"
            else stored_rows.normalized(self.store, write)
            for write in writes
        ]

    def _load_full_rows(self, write: Write) -> Write:
        """Return a delete with whole rows as before-images. Raises RowsChanged for rows that have changed."""
        stored = self.store.tables[write.table].stored
        columns = (*stored, *(name for name in write.columns if name not in stored))
        found = stored_rows.read(self.store, write.table, columns, [row[0] for row in write.rows])
        judged = [columns.index(name) for name in write.columns]
        unmet: dict[RowKey, Exception | None] = {}
        held: dict[RowKey, Any] = {}
        for key, old, _new in write.rows:
            row = found.get(key)
            # Compared as text: SQLite may hold a number where its text was processed.
            if row is None or [text_of(row[place]) for place in judged] != list(map(text_of, old or ())):
                unmet[write.table, key] = stored_rows.WriteIgnored(
                    _("A row of %(table)s can't be read exactly, so no undo could restore it. It was left as it is.")
                    % {"table": write.table}
                )
                held[write.table, key] = row
        if unmet:
            raise RowsChanged(unmet, held=held)
        kept = len(stored)
        return Write(write.table, stored, [(row[0], found[row[0]][:kept], None) for row in write.rows])

    def _require_unreferenced(self, write: Write, deletes: list[Write]) -> None:
        """Raise StillReferenced for rows that other rows, outside the before-image, refer to."""
        going = {one.table: [row[0] for row in one.rows] for one in deletes}
        unmet: dict[RowKey, Exception | None] = {}
        refused: dict[RowKey, Exception] = {}
        for reference in self.store.foreign_keys:
            if not self.store.is_parent(reference, write.table):
                continue
            child = stored_rows.known_table(self.store, reference)
            referring = stored_rows.references(
                self.store, reference, write.table, going[write.table], but=going.get(child or "", ())
            )
            for key, found in referring.items():
                reason = stored_rows.StillReferenced(
                    ngettext(
                        "%(count)d row of %(child)s refers to it and would be changed with it. It was left as it is.",
                        "%(count)d rows of %(child)s refer to it and would be changed with it. It was left as it is.",
                        len(found),
                    )
                    % {"count": len(found), "child": reference.child}
                )
                if child in self.operation.writes:
                    unmet[write.table, key] = reason
                else:
                    refused[write.table, key] = reason
        if unmet or refused:
            raise RowsChanged(unmet, refused)

    # --- throttling ---------------------------------------------------------------------------------------------

    def _adapt(self, seconds: float) -> None:
        """Halve the batch size if a batch takes five times its target; double it if batches are fast."""
        target = TARGET_SECONDS * max(1.0, self.run.batch_size / DEFAULT_BATCH_SIZE)
        if seconds > 5 * target:
            self.size = max(1, self.size // 2)
        elif seconds < target and self._isolating <= 0:
            self.size = min(self.run.batch_size, self.size * 2)
        self._truncate_log()

    def _truncate_log(self) -> None:
        """Checkpoint SQLite's write-ahead log if readers have let it grow."""
        path = self.store.path
        if path is None or self.run.batches_done % 50:
            return
        try:
            size = os.stat(f"{path}-wal").st_size
        except FileNotFoundError:
            return
        if size > WAL_LIMIT_BYTES:
            with self.store.connection.cursor() as cursor:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _hold(self) -> tuple[str, str] | None:
        """Return code and reason of a freeze or a throttle signal. Checks once per second."""
        now = time.monotonic()
        if now - self._held_checked < HOLD_CHECK_SECONDS:
            return None
        self._held_checked = now
        if self.operation.writes_store and (reason := lifecycle.freeze_reason()):
            found = "freeze", reason
        elif reason := throttle_reason(self.store):
            found = "throttle", reason
        else:
            return None
        self._held_checked = 0.0
        return found

    def _let_go(self, code: str, reason: str, hand_over: Callable[[Run, float], None]) -> Run:
        """End the slice of a waiting run, so that its worker is free. The run is queued for later."""
        with transaction.atomic():
            hand_over(self.run, lifecycle.let_go(self.run, code, reason))
        return self.run

    def _wait(self, code: str, reason: str, seconds: float) -> None:
        """Record why the run waits, renew the lease, and handle requests."""
        logger.info("Run %s waits: %s", self.run.pk, reason)
        fields: dict[str, Any] = {"waiting": reason, "waiting_code": code, "lease_until": timezone.now() + LEASE}
        if self.run.waiting_code != code:
            fields["waiting_since"] = timezone.now()
        try:
            if not self._mine().update(**fields):
                raise LostOwnership
            self.request = Request(self._mine().values_list("request", flat=True).get())
        except (DatabaseError, InterfaceError):  # the console's own database is unavailable
            logger.warning("The wait could not be written down", exc_info=True)
            connections["default"].close()
        self.run.waiting, self.run.waiting_code = reason, code
        time.sleep(seconds)

    def _check_budget(self) -> None:
        run = self.run
        if run.seen >= BUDGET_AFTER and run.failed > run.seen * BUDGET_SHARE:
            run.error = _("Stopped: %(count)d of %(seen)d units were set aside, more than 1 %%.") % {
                "count": run.failed,
                "seen": run.seen,
            }

    # --- end -------------------------------------------------------------------------------------------------------

    def _stop(self, hand_over: Callable[[Run, float], None] | None) -> Run:
        """Stop between two batches: pause, cancel, end the slice, or obey a signal."""
        if self.request == Request.CANCEL:
            return self._end(Status.CANCELLED)
        with transaction.atomic():
            if self.request == Request.PAUSE:
                self._stop_with(Status.PAUSED)
            elif hand_over is not None:
                self._save(worker={}, lease_until=timezone.now() + LEASE)
                hand_over(self.run, 0.0)
            else:
                self._stop_with(Status.INTERRUPTED)
        self._open = None
        return self.run

    def _stop_with(self, status: Status) -> None:
        self._save(status=status, worker={}, request=Request.NONE, lease_until=None)
        self.run.status = status
        record(self.run, status.value, worker_actor(self.run))

    def _finish(self) -> Run:
        """Verify the result in the store and end the run."""
        run = self.run
        gone = run.total - run.seen
        if gone > 0:
            merge(run.reasons, {"skipped": {"no_longer_in_scope": gone}})
            run.skipped += gone
        if isinstance(self.operation, Check):
            run.after, problems = findings.figures(run), []
        elif run.bound is not None:
            run.after = measure(self.operation, self.selection, run.bound)
            problems = self.operation.verify(run.after, self._explained(gone))
        else:
            run.after, problems = run.before, []
        run.error = " ".join(problems)
        self.operation.on_finish(run.pk)
        return self._end(Status.NEEDS_ATTENTION if problems or run.failed else Status.SUCCEEDED)

    def _explained(self, gone: int) -> int:
        """Count the rows still in scope of which the store says why: in one walk they are read and judged once more.

        A row that would change now is explained only where the run names it as failed. Judging again would say the
        same where as many stay as the run has left alone, and nobody else has written since it began. Rows that the
        plan has not pinned appeared since, and are not touched.
        """
        run = self.run
        counted = self.operation.perform is not None or not self.operation.rejudges
        left = run.invalid + run.failed + run.skipped - max(gone, 0)
        if run.bound is None or (left == run.after["in_scope"] and self._is_undisturbed()):
            return left
        if counted and self._pinned is None:
            return left
        explained = left if counted else 0
        failed = {str(key) for key in run.failed_items.values_list("key", flat=True)}
        rows, after = self.queryset.all(), None
        while found := read_batch(self.operation, rows, after=after, bound=run.bound, limit=run.batch_size):
            if counted:
                explained += sum(row.pk not in (self._pinned or ()) for row in found)
            else:
                due = (isinstance(self._outcome(row), Changes) for row in found)
                explained += sum(str(row.pk) in failed or not is_due for row, is_due in zip(found, due, strict=True))
            after = found[-1].pk
        return explained

    def _is_undisturbed(self) -> bool:
        """Return whether no other connection has committed to the SQLite file since this run began."""
        return self._began_at is not None and stored_rows.mark(self.store) == self._began_at

    def _outcome(self, row: Any) -> Outcome | None:
        """Return the outcome of a row, or None if processing raises or the row is unreadable."""
        if isinstance(row, Unreadable):
            return None
        try:
            return self._change(row)
        except Exception:  # noqa: BLE001  # it fails, and is counted so
            return None

    def _end(self, status: Status) -> Run:
        run = self.run
        with transaction.atomic():
            self._save(
                status=status,
                finished_at=timezone.now(),
                worker={},
                lease_until=None,
                request=Request.NONE,
                error=run.error,
                after=run.after,
                plan=run.plan,
            )
            release(run)
            record(run, status.value, worker_actor(run), before=run.before, after=run.after, error=run.error)
            run.status = status
            notify(run)
        self._open = None
        run.status = status
        run.refresh_from_db()
        return run

    def _count(self, batch: Batch, reasons: dict[str, dict[str, int]], sign: int) -> None:
        """Add a batch to the run's counters, or subtract it."""
        run = self.run
        for outcome in OUTCOMES:
            setattr(run, outcome, getattr(run, outcome) + sign * getattr(batch, outcome))
        merge(
            run.reasons,
            {name: {reason: sign * n for reason, n in counts.items()} for name, counts in reasons.items()},
        )
        run.batches_done += sign
        if sign > 0:
            run.cursor = batch.cursor


def _concerns_rows(error: Exception) -> bool:
    """Return whether the error belongs to rows of the batch, not to the whole run."""
    return isinstance(error, RowsChanged | stored_rows.UnrecordedDelete) or classify(error) == ErrorKind.ROW


def _concerns_the_run(error: Exception) -> bool:
    """Return whether an action's error belongs to the whole run: lost ownership or a database error."""
    if isinstance(error, DatabaseError | InterfaceError):
        return classify(error) in {ErrorKind.TRANSIENT, ErrorKind.RESOURCE}
    return isinstance(error, LostOwnership)


@contextmanager
def _durable() -> Iterator[None]:
    """Open a durable transaction in `default`."""
    connection = connections["default"]
    sqlite = connection.vendor == "sqlite" and not connection.in_atomic_block
    if sqlite:
        connection.cursor().execute("PRAGMA synchronous=FULL")
    try:
        with transaction.atomic():
            if connection.vendor == "postgresql":
                connection.cursor().execute("SET LOCAL synchronous_commit = on")
            yield
    finally:
        if sqlite and connection.connection is not None:
            connection.cursor().execute("PRAGMA synchronous=NORMAL")
