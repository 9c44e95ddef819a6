"""The executor: the only code that writes to a store in bulk.

It executes a run in batches. For each batch it reads the rows, processes each row, saves the before-image, writes to
the store, and marks the batch as committed. At the end it verifies the result.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from django.db import DatabaseError, InterfaceError, connections, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from opsconsole.engine import findings, incidents, keyset, lifecycle, workers
from opsconsole.engine.audit_log import record
from opsconsole.engine.batch_reader import BatchReader
from opsconsole.engine.batch_writer import BatchWriter, ReadBatch
from opsconsole.engine.before_images import encode_before_image
from opsconsole.engine.checks import Check
from opsconsole.engine.deletes import DeleteRefused
from opsconsole.engine.leases import Lease, LostOwnership, worker_actor
from opsconsole.engine.lifecycle import NOT_WAITING
from opsconsole.engine.locks import release
from opsconsole.engine.models import Batch, FailedItem, PinnedRows, Request, Run, Shard, Status
from opsconsole.engine.operation import DEFAULT_BATCH_SIZE, FAST_BATCH_SIZE, NamedItem, depends_on_row_alone
from opsconsole.engine.outcomes import Changes, Outcome, Skip
from opsconsole.engine.planner import (
    OUTCOMES,
    Outcomes,
    digest_of,
    merge,
    outcomes_of,
    pins_rows,
    process,
    selected_rows,
    walk_rows,
)
from opsconsole.engine.recovery import (
    FailingRows,
    concerns_rows,
    count_batch,
    durable_transaction,
    first_lost_batch,
    settle_batches,
)
from opsconsole.engine.run_notifications import notify
from opsconsole.engine.selection import Selection
from opsconsole.engine.stored_plans import operation_of
from opsconsole.engine.throttle import throttle_reason
from opsconsole.engine.workers import interrupt
from opsconsole.stores import rows as stored_rows
from opsconsole.stores.errors import ErrorKind, classify, first_line, trouble_code
from opsconsole.stores.locks import why_it_waits
from opsconsole.stores.rows import Key, Write

logger = logging.getLogger(__name__)

SWITCH_SECONDS = 0.0005  # Python's default of 5 ms would make the writer wait for the reader within its transaction
TARGET_SECONDS = 0.1  # target of a batch of 1,000 rows
THROTTLE_CHECK_SECONDS = 1.0
BACKOFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
PATIENCE_SECONDS = 60.0  # how long a foreground run waits for a lost or locked store
BUDGET_AFTER, BUDGET_SHARE = 100, 0.01
HandOver = Callable[[Run | Shard, float], None]  # enqueues a run or a shard, to be continued after seconds


class _Pending(NamedTuple):
    """A batch that is being written."""

    batch: Batch
    read: ReadBatch
    writes: list[Write]
    done: Future[None]
    started: float

    @property
    def cursor(self) -> Any:
        return self.batch.cursor


class Executor:
    """The execution of a claimed run, or of a shard. After a crash, or in the next slice, a new one continues it."""

    def __init__(self, part: Run | Shard) -> None:
        self.part = part
        self.run = run = part.whole
        self.operation = operation_of(run)
        self.operation.run_id = run.pk
        self.store = self.operation.store
        self.selection = Selection(**run.selection)
        self.queryset = selected_rows(self.operation, self.selection)
        self._pinned = PinnedRows.of(run) if pins_rows(self.operation) else None
        if self.operation.allow_out_of_scope and self._pinned is not None:
            self.queryset = self.operation.select(self.queryset, list(self._pinned))
        self.size = max(1, run.batch_size >> part.waits)  # a run that had to wait starts with smaller batches
        self._lease = Lease(part)
        self._failing = FailingRows(
            self.operation, self.operation.process if self._pinned is None else self._process_pinned
        )
        self._writer = BatchWriter(self._lease, self.operation, self.queryset, self._failing)
        self._pending: _Pending | None = None  # being written to the store
        self._reader = BatchReader(part, self.operation, self.queryset, self._pinned, self._failing, self._writer)
        self._written = 0  # rows of the last batch that was written
        self._prepared: Batch | None = None  # its before-image is saved, the batch before it is being written
        self._unmarked: list[Batch] = []  # committed in the store, not yet marked as committed in `default`
        self._started = time.monotonic()
        self._elapsed_before = part.elapsed_seconds
        # The mark before the first batch, if this worker executes all batches.
        self._mark_at_start: int | None = None
        self._scope_is_empty = False
        self._throttle_checked = 0.0
        self._hand_over: HandOver | None = None

    # --- the loop ----------------------------------------------------------------------------------------

    def work(
        self,
        *,
        until: Callable[[], bool] = lambda: False,
        on_progress: Callable[[Run], None] = lambda run: None,
        hand_over: HandOver | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> Run:
        """Execute batches until the end, a request, or `until()`. Return the run with its status.

        `hand_over` enqueues the next slice after a number of seconds. It is called in the transaction that ends this
        slice: at `until()`, or when the run has to wait. Without `hand_over` the run waits in this process, and is
        interrupted after `patience` seconds of transient errors.
        Raises LostOwnership if another worker owns the run, and the database error if it persists.
        """
        self._hand_over = hand_over
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            return self._work(until, on_progress, hand_over, patience)
        except KeyboardInterrupt:  # the process stops now: its threads do not end a long statement
            for thread in (self._reader, self._writer):
                with suppress(Exception):
                    thread.cancel()
            raise
        finally:
            sys.setswitchinterval(before)
            self._reader.close()
            self._writer.close()

    def _work(
        self,
        until: Callable[[], bool],
        on_progress: Callable[[Run], None],
        hand_over: HandOver | None,
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
                # A slice executes at least one batch: otherwise a run with a slow start would never progress.
                time_is_up = until() and (stepped or hand_over is None)
                if (self._lease.request or time_is_up) and self._await_write() and not self.part.error:
                    return self._stop(hand_over)
                if throttled := self._throttle_reason():
                    if hand_over is None:
                        self._wait(*throttled, THROTTLE_CHECK_SECONDS)
                    elif self._await_write():
                        self._save()
                        return self._release_worker(*throttled, hand_over)
                    continue
                started = time.monotonic()
                done = self.part.batches_done
                more = self._step()
                stepped = True
                if self.part.batches_done > done:  # only a completed batch proves a healthy worker
                    trouble_since, tries = None, 0
                if not more:
                    return self._finish()
                if self.part.error and self._await_write():
                    self._recheck()
                    return self._end(Status.FAILED)
                self._adapt(time.monotonic() - started)
                on_progress(self.run)
            except (DatabaseError, InterfaceError) as error:
                kind = classify(error)
                if kind not in {ErrorKind.TRANSIENT, ErrorKind.RESOURCE}:
                    self._fail(error)
                    raise
                trouble_since = trouble_since or (time.monotonic() if hand_over is None else began)
                lasts = time.monotonic() - trouble_since > patience
                if kind == ErrorKind.RESOURCE or (until() and hand_over is None) or (lasts and hand_over is None):
                    interrupt(self.part, first_line(error), trouble_code(error))
                    raise
                # The store may have committed the last batch, so recover before the next one.
                recovered = self._drop_pending()
                reason = why_it_waits(self.store, error)
                if lasts and hand_over is not None:
                    return self._release_worker(trouble_code(error), reason, hand_over)
                self.size = max(1, self.size // 2)
                self._wait(trouble_code(error), reason, BACKOFF_SECONDS[min(tries, len(BACKOFF_SECONDS) - 1)])
                self._reader.reconnect()
                self._writer.reconnect()
                tries += 1
            except LostOwnership:
                raise
            except Exception as error:
                self._fail(error)
                raise

    def _fail(self, error: Exception) -> None:
        logger.error("A run failed", exc_info=error)
        with suppress(Exception):  # a batch that was being written counts; its own error is not the cause
            self._await_write()
        with suppress(Exception):
            self._discard()
        self.part.error = first_line(error)
        self._recheck()
        self._end(Status.FAILED)

    def _step(self) -> bool:
        """Prepare a batch while the previous one is written, then start to write it. Return False at the end."""
        if self.part.bound is None or self._is_empty():
            return False
        act = partial(self._run_rule, self.operation) if isinstance(self.operation, Check) else self.operation.perform
        if act is not None:
            return self._perform_item(act)
        # An undo may write a row of the previous batch again, and a repeated batch is written alone.
        alone = self._failing.retries or not self.operation.selectable or not self._writer.overlaps
        if alone and not self._await_write():
            return True
        after = self.part.cursor if self._pending is None else self._pending.cursor
        read = self._reader.next(after, self.size, ahead=not alone)
        batch = None
        if read.rows and not isinstance(read.image, Exception):
            batch = self._prepared = self._prepare(*read.image, read.found, read.rows[-1].pk)
        if not self._await_write() or self.part.error:
            self._discard()
            return True  # the previous batch is repeated first, or the run ends
        self._prepared = None
        if isinstance(read.image, Exception):
            self._isolate(read.rows, read.image, [])
            return True
        if batch is None:
            return False
        writes, _encoded = read.image
        self._pending = _Pending(batch, read, writes, self._writer.start(writes, read), time.monotonic())
        self._writer.checkpoint()
        return True

    def _is_empty(self) -> bool:
        """Return whether the plan found no row and the scope has none now. Keep the figures as the result."""
        if self.run.total or self.part.cursor is not None or self._pending is not None:
            return False
        self.run.after = self._reader.measure(self.selection).result()
        self._scope_is_empty = not self.run.after["in_scope"]
        return self._scope_is_empty

    def _process_pinned(self, row: Any) -> Outcome:
        """Return the outcome of a pinned row if it is still as the plan showed it."""
        outcome = process(self.operation, row)
        if isinstance(outcome, Changes) and digest_of(outcome, row) != (self._pinned or {}).get(row.pk):
            return Skip("changed_since_plan")
        return outcome

    def _perform_item(self, act: Callable[[Any], Outcome]) -> bool:
        """Run a rule or perform an action for one item. An item that a lost worker did not complete is repeated."""
        rows = self._reader.read(self.part.cursor, 1)
        if not rows:
            return False
        started = time.monotonic()
        with self._lease.renewed():
            found = outcomes_of(self.operation, rows, change=act, is_fatal=_concerns_the_run)
        image = encode_before_image([], found.unchanged, found.reasons)
        batch = self._prepare([], image, found, rows[-1].pk)
        batch.seconds = time.monotonic() - started
        self._unmarked.append(batch)
        self._count(batch, found.reasons)
        self._check_budget()
        return True

    def _run_rule(self, check: Check, rule: NamedItem) -> Outcome:
        """Run one rule and save its findings as they arrive."""
        findings.scan(self.run, check, rule.name)
        return check.process(rule)

    def _await_write(self) -> bool:
        """Wait for the batch that is being written. Return False if it failed and must be repeated."""
        pending, self._pending = self._pending, None
        if pending is None:
            return True
        try:
            pending.done.result()
        except Exception as error:
            if isinstance(error, DeleteRefused) or concerns_rows(error):
                pending.batch.delete()  # the store has rolled back, so the before-image is void
            if not concerns_rows(error):
                raise
            self._isolate(pending.read.rows, error, pending.writes)
            return False
        self._written = len(pending.read.rows)
        self._failing.batch_written(pending.read.rows)
        pending.batch.seconds = time.monotonic() - pending.started
        self._unmarked.append(pending.batch)
        self._count(pending.batch, pending.read.found.reasons)
        self._check_budget()
        return True

    def _isolate(self, rows: list[Any], error: Exception, writes: list[Write]) -> None:
        self._reader.stop()
        self.size = self._failing.isolate(rows, error, writes) or self.size

    def _discard(self) -> None:
        """Delete a prepared batch that is not written."""
        if self._prepared is not None:
            self._prepared.delete()
            self._prepared = None

    def _prepare(self, writes: list[Write], image: bytes, found: Outcomes, cursor: Any) -> Batch:
        """Save the next before-image and mark the last batches committed, in one durable transaction.

        `batches_done` does not contain a batch that is still being written: this one gets the number after it.
        """
        run = self.run
        batch = Batch(
            run=run,
            number=self.part.batches_before + self.part.batches_done + (1 if self._pending is None else 2),
            cursor=cursor,
            rows=sum(len(write.rows) for write in writes),
            before_image=image,
            amount=found.amount,
            **found.counts(),
        )
        with durable_transaction():
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
        self._unmarked.clear()
        return batch

    def _save(self, **fields: Any) -> None:
        """Save the cursor and counters, and mark the last batches committed. Raises LostOwnership."""
        part = self.part
        part.elapsed_seconds = self._elapsed_before + time.monotonic() - self._started
        progress = {
            name: getattr(part, name)
            for name in ("cursor", *OUTCOMES, "amount", "reasons", "batches_done", "elapsed_seconds")
        }
        if part.waiting and (self._unmarked or "status" in fields):
            fields = NOT_WAITING | fields
            for name in NOT_WAITING:
                setattr(part, name, fields[name])
        if self._unmarked:
            fields["attempts"] = 0
        self._lease.update(**progress, **fields)
        for batch in self._unmarked:
            Batch.objects.filter(pk=batch.pk).update(committed=True, seconds=batch.seconds)

    def _drop_pending(self) -> bool:
        """Wait for the batch that is being written and ignore its result, which `_recover` reads. Return False."""
        self._reader.stop()
        if self._pending is not None:
            self._pending.done.exception()
        self._pending = self._prepared = None
        return False

    # --- recovery after a crash, a lost connection or a power loss -------------------------------------

    def _recover(self) -> None:
        """Find out which batches the store has committed, and continue after them."""
        self.part.refresh_from_db()
        self._unmarked.clear()
        self._writer.examine_store()
        is_first = self.operation.writes and not self.part.seen
        self._mark_at_start = self._writer.mark() if is_first else None
        with self._writer.transaction():
            first_lost = first_lost_batch(self.part, self.operation)
        with durable_transaction():
            settle_batches(self.part, first_lost)
            self._save()

    # --- throttling ---------------------------------------------------------------------------------------------

    def _adapt(self, seconds: float) -> None:
        """Halve the batch size if a batch takes five times its target; double it if batches are fast.

        Batches of the default size grow to FAST_BATCH_SIZE, unless another client writes to the SQLite file. The target
        does not grow with them, and a batch grows only after one of its size was written.
        """
        most = self.run.batch_size
        if most == DEFAULT_BATCH_SIZE and self.operation.batch_size is None and self._writer.is_alone:
            most = FAST_BATCH_SIZE
        target = TARGET_SECONDS * max(1.0, min(self.size, self.run.batch_size) / DEFAULT_BATCH_SIZE)
        is_proven = self.size < self.run.batch_size or self._written >= self.size
        if seconds > 5 * target:
            self.size = max(1, self.size // 2)
        elif seconds < target and is_proven and not self._failing.isolating:
            self.size *= 2
        self.size = min(self.size, most)

    def _throttle_reason(self) -> tuple[str, str] | None:
        """Return code and reason of a freeze or a throttle signal, checked once per second."""
        now = time.monotonic()
        if now - self._throttle_checked < THROTTLE_CHECK_SECONDS:
            return None
        self._throttle_checked = now
        if self.operation.writes_store and (reason := lifecycle.freeze_reason()):
            found = "freeze", reason
        elif reason := throttle_reason(self.store):
            found = "throttle", reason
        else:
            return None
        self._throttle_checked = 0.0
        return found

    def _release_worker(self, code: str, reason: str, hand_over: HandOver) -> Run:
        """End the slice of a waiting run to free its worker. The run is queued for later."""
        with transaction.atomic():
            hand_over(self.part, workers.release_worker(self.part, code, reason))
        return self.run

    def _wait(self, code: str, reason: str, seconds: float) -> None:
        """Record why the run waits, renew the lease, and handle requests."""
        logger.info("Run %s waits: %s", self.part, reason)
        fields: dict[str, Any] = {"waiting": reason, "waiting_code": code}
        if self.part.waiting_code != code:
            fields["waiting_since"] = timezone.now()
        try:
            self._lease.update(**fields)
            self._lease.check()
        except (DatabaseError, InterfaceError):  # the console's own database is unavailable
            logger.warning("Could not save the waiting state", exc_info=True)
            connections["default"].close()
        self.part.waiting, self.part.waiting_code = reason, code
        time.sleep(seconds)

    def _check_budget(self) -> None:
        self.part.error = over_budget(self.part.seen, self.part.failed)

    # --- end -------------------------------------------------------------------------------------------------------

    def _stop(self, hand_over: HandOver | None) -> Run:
        """Stop between two batches: pause, cancel, end the slice, or interrupt the run."""
        if self._lease.request in {Request.CANCEL, Request.PAUSE}:
            self._recheck()  # a paused run may be cancelled later, without a worker
        if self._lease.request == Request.CANCEL:
            return self._end(Status.CANCELLED)
        with transaction.atomic():
            if self._lease.request == Request.PAUSE:
                self._stop_with(Status.PAUSED)
            elif hand_over is not None:
                self._save(worker={})
                hand_over(self.part, 0.0)
            else:
                self._stop_with(Status.INTERRUPTED)
        self._unmarked.clear()
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
        elif self._scope_is_empty:
            problems = self.operation.verify(run.after, 0)
        elif run.bound is not None:
            problems = self._verify(run.invalid + run.failed + run.skipped - max(gone, 0))
        else:
            run.after, problems = run.before, []
        run.error = " ".join(problems)
        self.operation.on_finish()
        self._recheck()
        return self._end(Status.NEEDS_ATTENTION if problems or run.failed else Status.SUCCEEDED)

    def _recheck(self) -> None:
        """Update the incidents of the written rows. If a check raises an error, they stay open."""
        try:
            with transaction.atomic():
                incidents.recheck(self.run, self.operation)
        except Exception as error:  # the rows are already written and verified
            logger.error("Could not update the incidents of run %s", self.run.pk, exc_info=error)
            record(self.run, "recheck_failed", worker_actor(self.run), error=first_line(error))

    def _verify(self, left: int) -> list[str]:
        """Count the rows in scope, and compare them with the `left` rows that the run has not changed.

        These rows are read again unless the numbers are equal and `_is_undisturbed()`.
        """
        run, counting = self.run, self._reader.measure(self.selection)  # in its thread, at the same time
        undisturbed = self._is_undisturbed()
        explained = left if undisturbed else self._explained(left)
        run.after = counting.result()
        if undisturbed and run.after["in_scope"] != left:
            explained = self._explained(left)
        return self.operation.verify(run.after, explained)

    def _explained(self, left: int) -> int:
        """Count the rows in scope that the run was right not to change. They are read and processed once more.

        A row that would change now is explained only if the run lists it as failed. A row that the plan has not pinned
        is explained, because it is new.
        """
        run = self.run
        counted = self.operation.perform is not None or not self.operation.selectable
        if counted and self._pinned is None:
            return left
        explained = left if counted else 0
        failed = {str(key) for key in run.failed_items.values_list("key", flat=True)}
        bound: Key = run.bound  # type: ignore[assignment]
        for found in walk_rows(self.operation, self.queryset.all(), bound, batch_size=run.batch_size):
            if counted:
                explained += sum(row.pk not in (self._pinned or ()) for row in found)
            else:
                due = (isinstance(self._failing.outcome(row), Changes) for row in found)
                explained += sum(str(row.pk) in failed or not is_due for row, is_due in zip(found, due, strict=True))
        return explained

    def _is_undisturbed(self) -> bool:
        """Return whether it is certain that no other client has changed the rows since the run began.

        On SQLite no other connection has committed to the file. On PostgreSQL no row in scope has a new version.
        """
        since, bound = self._mark_at_start, self.run.bound
        if since is None or bound is None:
            return False
        if self.store.vendor == "sqlite":
            return self._writer.mark_now() == since
        rows, table = keyset.up_to(self.queryset, bound), self.operation.model._meta.db_table
        if not (depends_on_row_alone(self.operation, rows) and stored_rows.has_versions(self.store, [table])):
            return False
        return not rows.filter(stored_rows.changed_since(self.store, table, since)).count()

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
        self._unmarked.clear()
        run.status = status
        run.refresh_from_db()
        return run

    def _count(self, batch: Batch, reasons: dict[str, dict[str, int]]) -> None:
        count_batch(self.part, batch, reasons)


def over_budget(seen: int, failed: int) -> str:
    """Return that too many rows failed, or an empty string."""
    if seen < BUDGET_AFTER or failed <= seen * BUDGET_SHARE:
        return ""
    text = _("%(count)d of %(seen)d rows failed, more than 1 %%. The run was stopped.")
    return text % {"count": failed, "seen": seen}


def is_temporary(error: Exception) -> bool:
    """Return whether a run can continue when the cause of this error is gone."""
    is_of_database = isinstance(error, DatabaseError | InterfaceError)
    return is_of_database and classify(error) in {ErrorKind.TRANSIENT, ErrorKind.RESOURCE}


def _concerns_the_run(error: Exception) -> bool:
    """Return whether an action's error belongs to the whole run: lost ownership or a database error."""
    return isinstance(error, LostOwnership) or is_temporary(error)
