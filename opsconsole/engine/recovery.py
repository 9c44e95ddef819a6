"""Recovery after a crash or a failed write: batches in doubt, and the rows that cannot be written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections, transaction
from django.db.models import Q

from opsconsole.engine import shards
from opsconsole.engine.models import Batch, Progress, Run, Shard
from opsconsole.engine.operation import Operation
from opsconsole.engine.outcomes import Changes, Outcome, Skip
from opsconsole.engine.planner import OUTCOMES, Unreadable, merge, with_tables
from opsconsole.engine.seals import number_of
from opsconsole.engine.stored_plans import operation_of
from opsconsole.stores import rows as stored_rows
from opsconsole.stores.errors import ErrorKind, classify
from opsconsole.stores.rows import Key, RowsChanged, Values, Write
from opsconsole.stores.store import Store

COUNTED = (*OUTCOMES, "amount", "reasons", "batches_done")
READ_AHEAD = 2  # batches that are read and processed behind the prepared one
MAX_CONFLICTS = 5  # a row that other clients change more often is skipped
_Written = tuple[str, Key, str, Any]  # table, key, column and new value


@contextmanager
def durable_transaction() -> Iterator[None]:
    """Open a transaction in `default` whose commit survives a power loss."""
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


def lock_number(part: Progress) -> int:
    """Return the number of the advisory lock that the writer of a run or shard takes on PostgreSQL."""
    run = part.whole
    name = f"opsconsole:{run.identity}:{','.join(sorted(run.writes))}"
    # Each shard has a lock, so that shards do not wait for each other.
    return number_of(f"{name}:{part}" if isinstance(part, Shard) else name)


@contextmanager
def writing(store: Store, number: int) -> Iterator[None]:
    """Open a transaction that keeps other writers of the same run out: on SQLite all writers of the file."""
    with transaction.atomic(using=store.alias):
        if store.vendor == "postgresql":
            store.query("SELECT pg_advisory_xact_lock(%s)", [number])
        yield


# --- batches in doubt -----------------------------------------------------------------------------------------


def settle(run: Run) -> None:
    """Count the batches in doubt of a run that ended without its worker.

    Does nothing for an operation without before-images: there is nothing to compare with the store.
    Raises StoreUnavailable or the database error.
    """
    parts: list[Progress] = [*run.shards.all()] or [run]
    doubtful = [part for part in parts if part.own_batches.filter(committed=False).exists()]
    operation = operation_of(run) if doubtful else None
    if operation is None or not operation.undoable:
        return
    for part in doubtful:
        with writing(operation.store, lock_number(part)):
            first_lost = first_lost_batch(part, operation)
        with transaction.atomic():
            locked = type(part)._default_manager.select_for_update()  # another process may do the same
            part.refresh_from_db(fields=("cursor", *COUNTED), from_queryset=locked)
            settle_batches(part, first_lost)
            part.save(update_fields=("cursor", *COUNTED))
    if run not in parts:
        totals = shards.total_up(run)
        for name in COUNTED:
            setattr(run, name, totals[name])
        run.save(update_fields=COUNTED)


def first_lost_batch(part: Progress, operation: Operation) -> int | None:
    """Return the number of the first batch that the store has not committed, or None.

    A crash leaves two batches in doubt: one that was being written, and the prepared one behind it. A power loss may
    have removed the last commits of a SQLite store. So batches are compared from the newest until a committed one is
    found.
    """
    lost = None
    for batch in part.own_batches.order_by("-number").iterator(chunk_size=1):
        # The before-images of an irreversible operation hold no rows.
        earlier = _written_earlier(part, batch) if operation.undoable else ()
        committed = is_committed(batch, operation, earlier)
        if committed is False:
            lost = batch.number
        elif committed:
            break
    return lost


def _written_earlier(part: Progress, batch: Batch) -> set[_Written]:
    """Return the values that earlier batches may have written after this one was read."""
    batches = part.own_batches.filter(number__lt=batch.number, number__gte=batch.number - READ_AHEAD - 1)
    return {
        (write.table, key, column, value)
        for before in batches
        for write in before.writes
        for key, _old, new in write.rows
        for column, value in zip(write.columns, new or (), strict=False)
    }


def _is_covered(write: Write, key: Key, old: Values | None, new: Values | None, earlier: Collection[_Written]) -> bool:
    """Return whether `earlier` contains every change of a row."""
    if old is None or new is None:
        return False
    changes = zip(write.columns, old, new, strict=True)
    return all((write.table, key, column, after) in earlier for column, before, after in changes if before != after)


def is_committed(batch: Batch, operation: Operation, earlier: Collection[_Written] = ()) -> bool | None:
    """Return whether the store has committed this batch, None if no row tells.

    `earlier` contains what earlier batches may have written after this one was read. Rows in it are ignored.
    """
    store = operation.store
    wrote = False if batch.rows and not (batch.committed or operation.undoable) else None
    for write in batch.writes:
        current = stored_rows.read(store, write.table, write.columns, [row[0] for row in write.rows])
        for key, old, new in write.rows:
            if earlier and _is_covered(write, key, old, new, earlier):
                continue
            now = current.get(key)
            if now == store.normalize(new) and old != new:
                return True
            if now == store.normalize(old):
                wrote = False
            elif wrote is None:
                wrote = True
        if wrote is False:
            return False
    return wrote


def settle_batches(part: Progress, first_lost: int | None) -> None:
    """Mark the batches before `first_lost` as committed and delete the others. The caller saves `part`."""
    in_doubt = part.own_batches.filter(Q(committed=False) | Q(number__gte=first_lost or 1 << 31))
    for batch in in_doubt.order_by("number"):
        lost = first_lost is not None and batch.number >= first_lost
        if lost and batch.committed:
            count_batch(part, batch, batch.reasons, -1)
        elif not lost and not batch.committed:
            count_batch(part, batch, batch.reasons)
        if lost:
            batch.delete()
        else:
            Batch.objects.filter(pk=batch.pk).update(committed=True)
    if first_lost is not None:
        newest = part.own_batches.order_by("-number").first()
        part.cursor = newest.cursor if newest else part.start


def count_batch(part: Progress, batch: Batch, reasons: dict[str, dict[str, int]], sign: int = 1) -> None:
    """Add a committed batch to the counters and move the cursor; with `sign` -1, subtract a lost one."""
    for outcome in (*OUTCOMES, "amount"):
        setattr(part, outcome, getattr(part, outcome) + sign * getattr(batch, outcome))
    merge(
        part.reasons,
        {name: {reason: sign * n for reason, n in counts.items()} for name, counts in reasons.items()},
    )
    part.batches_done += sign
    if sign > 0:
        part.cursor = batch.cursor


# --- rows whose write failed -----------------------------------------------------------------------------------


def concerns_rows(error: Exception) -> bool:
    """Return whether the error belongs to rows of the batch, not to the whole run."""
    return isinstance(error, RowsChanged | stored_rows.UnrecordedDelete) or classify(error) == ErrorKind.ROW


class FailingRows:
    """The rows of a batch whose write failed. The batch is read again until each of them has a verdict."""

    def __init__(self, operation: Operation, process: Callable[[Any], Outcome]) -> None:
        self._operation = operation
        self._process = process
        self._suspects: dict[Key, tuple[str, int]] = {}  # row -> what it held when its write failed; how often
        self._verdicts: dict[Key, Exception | Skip] = {}  # row -> why it is not written with its batch
        self._isolating = 0  # rows among which one cannot be written
        self.retries = 0  # of the batch that is being written

    @property
    def isolating(self) -> bool:
        """Return whether a batch is repeated or a failing row is isolated.

        Until then batches do not grow. PostgreSQL locks their rows and reads them again.
        """
        return self._isolating > 0 or self.retries > 0

    @property
    def process(self) -> Callable[[Any], Outcome]:
        """Return the function that processes a row. A verdict replaces its outcome."""
        return self._judged if self._verdicts else self._process

    def _judged(self, row: Any) -> Outcome:
        verdict = self._verdicts.get(row.pk)
        if isinstance(verdict, Exception):
            raise verdict
        return verdict or self._process(row)

    def outcome(self, row: Any) -> Outcome | None:
        """Return the outcome of a row, or None if processing raises or the row is unreadable."""
        if isinstance(row, Unreadable):
            return None
        try:
            return with_tables(self._operation, self.process(row))
        except Exception:  # noqa: BLE001  # the row fails when it is processed
            return None

    def isolate(self, rows: list[Any], error: Exception, writes: list[Write]) -> int | None:
        """Judge the rows that the error names. If it names none, halve the batch until one row is left.

        Return the size of the next batch if it is halved.
        """
        self.retries += 1
        if isinstance(error, RowsChanged) and self.retries <= 2 * MAX_CONFLICTS:
            self._judge(rows, error, writes)
        elif len(rows) > 1:
            self._isolating = max(self._isolating, len(rows))
            self.retries = 0
            return max(1, len(rows) // 2)
        else:
            self._isolating = 0  # batches grow again, and the next failing row is isolated in the same way
            self._verdicts[rows[0].pk] = error
        return None

    def _judge(self, rows: list[Any], error: RowsChanged, writes: list[Write]) -> None:
        """Decide about the rows that were not written.

        A row that is unchanged in two reads was not changed by another client: it fails with the reason of its write.
        """
        held = {(write.table, key): old for write in writes for key, old, _new in write.rows} | error.held
        for row in rows:
            outcome = self.outcome(row)
            written = [(change.table, change.key) for change in outcome.rows] if isinstance(outcome, Changes) else []
            if refused := [error.refused[one] for one in written if one in error.refused]:
                self._verdicts[row.pk] = refused[0]
            elif unmet := [error.unmet[one] for one in written if one in error.unmet]:
                before, times = self._suspects.get(row.pk, ("", 0))
                holds = repr([(one, held.get(one)) for one in written])
                reasons = [reason for reason in unmet if reason is not None]
                if reasons and holds == before:
                    self._verdicts[row.pk] = reasons[0]
                elif times >= MAX_CONFLICTS:
                    self._verdicts[row.pk] = Skip("changed_concurrently")
                self._suspects[row.pk] = holds, times + 1

    def batch_written(self, rows: list[Any]) -> None:
        """Forget the verdicts of a batch that is written."""
        self._suspects.clear()
        self._verdicts.clear()
        self.retries = 0
        self._isolating -= len(rows)
