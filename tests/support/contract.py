"""The contract of changing operations: tests that every operation on rows must pass.

The test of an operation inherits from `Contract` and defines two methods:

class TestBackfillDecisionFields(Contract):
    operation = "audits.backfill_decision_fields"

    def rows(self, make_attached, engine) -> Store:  # return a store with rows of every kind
    def expected(self, tables, vendor) -> Tables:    # compute the tables after the run, independently
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import count, pairwise
from typing import Any, ClassVar, NoReturn

import pytest
from django.db import connections

from opsconsole.engine import batch_writer, executor, lifecycle, planner, queue, registry, stored_plans, workers
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.batch_writer import BatchWriter
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.executor import Executor
from opsconsole.engine.leases import LostOwnership, this_worker
from opsconsole.engine.models import Batch, Event, FailedItem, Lock, Run, Status, Trigger
from opsconsole.engine.operation import Operation
from opsconsole.engine.planner import Plan
from opsconsole.stores.store import Store
from tests.support.fault_injection import POINTS, interposed
from tests.support.plain_client import Row, Tables, dump, execute, schema

TESTER = Actor("tester", "here", Trigger.SHELL)
DEAD = {**this_worker(), "pid": 2**22 + 1}  # a worker whose process has ended
OUTCOMES = ("changed", "skipped", "invalid", "failed")


class Crash(BaseException):
    """The sudden end of a process, like SIGKILL. No code catches it."""


def crash(*_args: Any, **_options: Any) -> NoReturn:
    raise Crash


def operation_called(name: str, store: Store | None = None, /, **params: Any) -> Operation:
    cls = registry.operation(name)
    cleaned = registry.clean(cls, params)
    return planner.operation_on(cls, store or stored_plans.store_for(cls, cleaned), cleaned)


def plan_whole(operation: Operation) -> Plan:
    return planner.count_outcomes(planner.plan(operation))


def start(operation: Operation, **options: Any) -> Run:
    """Plan and confirm a run, and claim it for this process."""
    planned = plan_whole(operation) if planner.pins_rows(operation) else planner.plan(operation)
    run = lifecycle.create_run(planned, TESTER, **options)
    return lifecycle.confirm(run, TESTER, background=False)


def work(run: Run, **options: Any) -> Run:
    return Executor(run).work(**options)


def execute_run(operation: Operation, **options: Any) -> Run:
    return work(start(operation, **options))


def undo(run: Run, **options: Any) -> Run:
    return execute_run(operation_called("operations.undo_run", run=run.pk), **options)


def figures(run: Run) -> dict[str, Any]:
    reasons = {name: {k: n for k, n in counts.items() if n} for name, counts in run.reasons.items()}
    return {
        "total": run.total,
        "reasons": {name: counts for name, counts in reasons.items() if counts},
        "after": {name: value for name, value in run.after.items() if isinstance(value, int)},
        "status": run.status,
        **{outcome: getattr(run, outcome) for outcome in OUTCOMES},
    }


def rows_of(run: Run) -> int:
    """Return the number of rows that a run has written, which is the number of rows of its undo."""
    return sum(run.batches.values_list("rows", flat=True))


def left_by(run: Run) -> dict[str, dict[str, list[str]]]:
    """Return outcome → reason → labels of the unchanged rows of all batches."""
    found: dict[str, dict[str, list[str]]] = {}
    for batch in run.batches.order_by("number"):
        for outcome, reasons in batch.unchanged.items():
            for reason, labels in reasons.items():
                found.setdefault(outcome, {}).setdefault(reason, []).extend(labels)
    return found


def lose_worker(run: Run) -> Run:
    """Cut the connections as if the worker had died, and return the run that it leaves."""
    for connection in connections.all(initialized_only=True):
        connection.close()
    Run.objects.filter(pk=run.pk).update(worker=DEAD)
    return Run.objects.get(pk=run.pk)


def die(run: Run) -> Run:
    """Let the worker of a run die, and claim the run for another one."""
    return workers.claim(lose_worker(run))


def after_batches(count: int) -> tuple[Callable[[], bool], Callable[[Run], None]]:
    """Return `until` and `on_progress` that stop a run after `count` batches."""
    seen: list[Run] = []
    return (lambda: len(seen) >= count), seen.append


def once(call: Callable[[], None]) -> Callable[..., None]:
    """Return a function that calls `call` the first time only."""
    todo = [call]
    return lambda *_: todo.pop()() if todo else None


@pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
class Contract:
    operation: ClassVar[str]
    params: ClassVar[dict[str, Any]] = {}
    engines: ClassVar[tuple[str, ...]] = ("sqlite", "postgresql-text")
    unique: ClassVar[tuple[str, ...]] = ()  # columns that are NULL in a copied row
    late_key: ClassVar[Any] = 10**9  # sorts after every key of the store
    meddled: ClassVar[Row] = {}  # values that another client writes to a row, which is then out of scope
    batch_sizes: ClassVar[tuple[int, ...]] = (1, 7, 500)
    statements: ClassVar[int] = 20  # maximum per batch

    def rows(self, make_attached: Any, engine: str) -> Store:
        raise NotImplementedError

    def expected(self, tables: Tables, vendor: str) -> Tables:
        raise NotImplementedError

    # --- fixtures and helpers ------------------------------------------------------------------

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "engine" in metafunc.fixturenames:
            metafunc.parametrize("engine", self.engines)

    @pytest.fixture(autouse=True)
    def _batches_as_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Keep the batch size constant, also on a slow machine."""
        monkeypatch.setattr(executor, "TARGET_SECONDS", 3600.0)

    @pytest.fixture
    def store(self, make_attached: Any, engine: str) -> Store:
        return self.rows(make_attached, engine)

    @pytest.fixture
    def before(self, store: Store) -> Tables:
        return dump(store)

    @pytest.fixture
    def after(self, before: Tables, store: Store) -> Tables:
        after = self.expected(deepcopy(before), store.vendor)
        assert len(list(self.changed(before, after))) >= 5, "too few rows change"
        return after

    def on(self, store: Store) -> Operation:
        return operation_called(self.operation, store, **self.params)

    def start(self, store: Store, **options: Any) -> Run:
        return start(self.on(store), **options)

    def execute(self, store: Store, **options: Any) -> Run:
        return execute_run(self.on(store), **options)

    @property
    def table(self) -> str:
        return str(registry.operation(self.operation).model._meta.db_table)

    def changed(self, before: Tables, after: Tables) -> Iterator[Any]:
        """Yield the keys of the rows that change, in order."""
        for key in sorted(before[self.table]):
            if before[self.table][key] != after[self.table].get(key):
                yield key

    def a_change(self, before: Tables, after: Tables, place: int = 2) -> Any:
        return list(self.changed(before, after))[place]

    def with_row_unchanged(self, after: Tables, before: Tables, key: Any) -> Tables:
        """Return the tables after a run that does not change this row."""
        tables = deepcopy(after)
        tables[self.table][key] = before[self.table][key]
        return tables

    @property
    def deletes(self) -> bool:
        return not registry.operation(self.operation).writes[self.table]

    def add_row(self, store: Store, row: Row) -> None:
        marks = ", ".join("?" * len(row))
        execute(store, f"INSERT INTO {self.table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))

    def put_back(self, store: Store, row: Row, values: Row) -> None:
        """Write as another client to a row that the run has changed, or insert it again if the run deleted it."""
        if self.deletes:
            self.add_row(store, row | values)
        else:
            self.set_row(store, row[store.key_columns(self.table)[0]], values)

    def beneath(self, tables: Tables, key: Any) -> list[tuple[str, Any]]:
        """Return table and key of the rows that are deleted with a row. They are not restored under another parent."""
        return []

    def set_row(self, store: Store, key: Any, values: Row) -> None:
        """Write to one row as another client."""
        assign = ", ".join(f"{name} = ?" for name in values)
        sql = f"UPDATE {self.table} SET {assign} WHERE {store.key_columns(self.table)[0]} = ?"
        execute(store, sql, [*values.values(), key])

    # --- planning ---------------------------------------------------------------------------------------

    def test_preview_writes_nothing(self, store: Store, before: Tables) -> None:
        shape = schema(store)
        store.close()
        content = store.path and store.path.read_bytes()
        plan_whole(self.on(store))
        store.close()
        assert (store.path and store.path.read_bytes()) == content
        assert (dump(store), schema(store)) == (before, shape)
        assert not Run.objects.exists()
        assert not Event.objects.exists()

    def test_the_preview_predicts_the_execution(self, store: Store, before: Tables, after: Tables) -> None:
        planned = plan_whole(self.on(store))
        run = self.execute(store)
        assert (planned.total, planned.counts()) == (
            run.total,
            {name: getattr(run, name) for name in OUTCOMES},
        )
        assert planned.reasons == run.reasons
        shown = [row for entry in planned.sample for row in entry["rows"]]
        assert shown
        for row in shown:
            for moment, tables in (("before", before), ("after", after)):
                for column, value in (row[moment] or {}).items():
                    assert store.normalize((value,)) == (tables[row["table"]][row["key"]][column],)

    # --- execution --------------------------------------------------------------------------------------

    def test_applies_exactly_what_is_expected(self, store: Store, before: Tables, after: Tables) -> None:
        """Every column of every table is compared, including unknown ones, and no table or index is created."""
        shape = schema(store)
        run = self.execute(store)
        assert dump(store) == after
        assert schema(store) == shape
        assert run.status == Status.SUCCEEDED, run.error
        assert run.changed == len(list(self.changed(before, after)))
        assert run.seen == run.total
        assert run.failed == 0
        assert not Lock.objects.exists()
        assert not Batch.objects.filter(committed=False).exists()

    def test_second_run_changes_nothing(self, store: Store, after: Tables) -> None:
        first = self.execute(store)
        second = self.execute(store)
        assert second.changed == 0
        assert (second.status, second.invalid) == (Status.SUCCEEDED, first.invalid)
        assert dump(store) == after

    def test_batch_size_makes_no_difference(self, store: Store, before: Tables, after: Tables) -> None:
        results = []
        for size in self.batch_sizes:
            run = self.execute(store, batch_size=size, fast=True)
            assert dump(store) == after
            results.append(figures(run))
            undo(run)
            assert dump(store) == before
        assert all(result == results[0] for result in results)

    def test_statements_per_batch_are_constant(
        self, store: Store, after: Tables, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The number does not depend on the size of the batch."""
        monkeypatch.setattr(executor, "THROTTLE_CHECK_SECONDS", 3600.0)  # by time, not by batch
        monkeypatch.setattr(batch_writer, "MARK_SECONDS", 3600.0)
        real = BatchWriter._apply
        written: dict[int, int] = {}  # writes of a batch → most statements for them in the thread of the writer

        def apply(writer: BatchWriter, writes: Any, *args: Any) -> None:
            counts = [0]

            def count(call: Any, *args: Any) -> Any:
                counts[0] += 1
                return call(*args)

            with _wrapped(count, "default", store.alias):
                real(writer, writes, *args)
            written[len(writes)] = max(written.get(len(writes), 0), counts[0])

        monkeypatch.setattr(BatchWriter, "_apply", apply)

        def per_batch(size: int) -> tuple[int, dict[int, int]]:
            counts, seen = [0], []
            written.clear()

            def count(call: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
                counts[0] += 1
                return call(sql, params, many, context)

            with _wrapped(count, "default", store.alias):
                run = work(self.start(store, batch_size=size), on_progress=lambda run: seen.append(counts[0]))
            assert len(seen) > 2
            most, in_thread = max(b - a for a, b in pairwise(seen)), dict(written)
            undo(run)
            return most, in_thread

        few, many = per_batch(4), per_batch(16)
        assert few[0] == many[0] < self.statements, (few, many)
        both = few[1].keys() & many[1].keys()
        assert {count: few[1][count] for count in both} == {count: many[1][count] for count in both}, (few, many)
        assert max(many[1].values()) < self.statements, (few, many)

    # --- rows that cannot be changed --------------------------------------------------------------------

    def test_a_row_whose_processing_raises_fails(
        self, store: Store, before: Tables, after: Tables, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bad = self.a_change(before, after)
        cls = registry.operation(self.operation)
        real = cls.process

        def change(operation: Operation, row: Any) -> Any:
            if row.pk == bad:
                raise ZeroDivisionError("out of luck")
            return real(operation, row)

        monkeypatch.setattr(cls, "process", change)
        planned = plan_whole(self.on(store))
        run = self.execute(store)
        assert planned.counts()["failed"] == 1
        self.check_failed_row(store, run, bad, before, after, "out of luck")
        monkeypatch.undo()
        self.check_retried(store, run, after)

    @pytest.mark.parametrize("size", [1, 500])
    def test_a_row_whose_write_is_refused_fails(self, store: Store, before: Tables, after: Tables, size: int) -> None:
        bad = self.a_change(before, after)
        mend = forbid(store, self.table, bad)
        run = self.execute(store, batch_size=size)
        self.check_failed_row(store, run, bad, before, after, "forbidden")
        mend()
        self.check_retried(store, run, after)

    def check_failed_row(self, store: Store, run: Run, bad: Any, before: Tables, after: Tables, error: str) -> None:
        assert dump(store) == self.with_row_unchanged(after, before, bad)
        assert [(entry.key, entry.error) for entry in FailedItem.objects.all()] == [(bad, error)]
        assert (run.status, run.failed) == (Status.NEEDS_ATTENTION, 1)
        assert run.seen == run.total

    def check_retried(self, store: Store, run: Run, after: Tables) -> None:
        retry = execute_run(operation_called("operations.retry_failed_rows", run=run.pk))
        assert dump(store) == after
        assert (retry.status, retry.changed, retry.total) == (Status.SUCCEEDED, 1, 1)
        assert FailedItem.objects.get().retried_by == retry

    # --- other clients during a run ------------------------------------------------------------------------------

    def test_verify_finds_a_row_that_is_in_scope_again(self, store: Store, before: Tables, after: Tables) -> None:
        key = self.a_change(before, after, place=0)
        plant = once(lambda: self.put_back(store, before[self.table][key], self.written(before, key)))

        def on_progress(run: Run) -> None:
            if run.batches_done > 1:  # the first batch, which contains the row, is committed
                plant()

        run = work(self.start(store, batch_size=4), on_progress=on_progress)
        assert run.status == Status.NEEDS_ATTENTION
        assert "1 row" in run.error

    def written(self, tables: Tables, key: Any) -> Row:
        """Return the columns of a row that the operation may write."""
        columns = registry.operation(self.operation).writes[self.table] or self.meddled
        return {name: tables[self.table][key][name] for name in columns}

    def meddling(self, tables: Tables, key: Any) -> Row:
        return self.meddled or dict.fromkeys(self.written(tables, key), "other client")

    def test_rows_added_after_the_plan_are_not_changed(self, store: Store, before: Tables, after: Tables) -> None:
        run = self.start(store)
        row = dict(before[self.table][self.a_change(before, after)])
        key = store.key_columns(self.table)[0]
        row |= {key: self.late_key, **dict.fromkeys(self.unique)}
        self.add_row(store, row)
        run = work(run)
        assert run.status == Status.SUCCEEDED
        assert dump(store)[self.table].pop(self.late_key) == before_text(store, row, key)
        assert self.execute(store).changed == 1

    def test_a_concurrent_write_is_not_overwritten(
        self, store: Store, before: Tables, after: Tables, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another client writes to a row after the batch was read."""
        key = self.a_change(before, after)
        values = self.meddling(before, key)
        self.interfere(monkeypatch, once(lambda: self.set_row(store, key, values)))
        run = self.execute(store)
        after = self.with_row_unchanged(after, before, key)
        after[self.table][key] = before[self.table][key] | values
        assert dump(store) == after
        assert run.status == Status.SUCCEEDED
        assert run.changed == len(list(self.changed(before, after))) - 1
        assert undo(run).invalid == 0
        before[self.table][key] |= values
        assert dump(store) == before

    def interfere(self, monkeypatch: pytest.MonkeyPatch, call: Callable[..., None], *, only: Any = None) -> None:
        """Run `call` after each batch (with the row `only`) is read and before it is written."""
        real = Executor._prepare

        def prepare(worker: Executor, writes: Any, *rest: Any) -> Batch:
            keys = [row[0] for write in writes for row in write.rows]
            if keys and only in (None, *keys):
                call()
            return real(worker, writes, *rest)

        monkeypatch.setattr(Executor, "_prepare", prepare)

    def test_a_row_deleted_during_the_run_is_skipped(self, store: Store, before: Tables, after: Tables) -> None:
        key = self.a_change(before, after, place=-1)
        run = self.start(store, batch_size=4)
        sql = f"DELETE FROM {self.table} WHERE {store.key_columns(self.table)[0]} = ?"
        run = work(run, on_progress=once(lambda: execute(store, sql, [key])))
        assert (run.status, run.skipped, run.seen) == (Status.SUCCEEDED, 1, run.total)
        assert run.reasons["skipped"] == {"no_longer_in_scope": 1}
        if not self.deletes:
            after = self.with_row_unchanged(after, before, key)
        after[self.table].pop(key, None)
        assert dump(store) == after

    # --- undo -------------------------------------------------------------------------------------------

    def test_undo_keeps_later_changes(self, store: Store, before: Tables, after: Tables) -> None:
        run = self.execute(store)
        key = self.a_change(before, after)
        values = self.meddling(before, key)
        self.put_back(store, before[self.table][key], values)
        beneath = self.beneath(before, key)
        planned = plan_whole(operation_called("operations.undo_run", run=run.pk))
        assert planned.counts()["invalid"] == 1 + len(beneath)
        undone = undo(run, batch_size=7)
        before[self.table][key] |= values
        for table, child in beneath:
            del before[table][child]
        assert dump(store) == before
        invalid = {reason: sorted(labels) for reason, labels in left_by(undone).pop("invalid").items()}
        assert invalid.pop("conflict") == [f"{self.table} {key}"]
        assert invalid == ({"parent": sorted(f"{table} {child}" for table, child in beneath)} if beneath else {})
        assert undone.changed == rows_of(run) - 1 - len(beneath)

    def test_an_undo_can_be_undone(self, store: Store, after: Tables) -> None:
        undo(undo(self.execute(store)))
        assert dump(store) == after


class EngineContract(Contract):
    """The contract of the engine: stopped, killed, paused and cancelled runs. One operation of each kind inherits it.

    These are `audits.backfill_decision_fields` (columns of one table), `helix.clean_dirty_jobs` (deletes with
    children), `helix.repair_dirty_jobs` (both, in several tables) and `roadmaps.sync_results` (text keys, JSON).
    """

    points: ClassVar[tuple[str, ...]] = tuple(POINTS)  # at which a worker dies

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        super().pytest_generate_tests(metafunc)
        if "point" in metafunc.fixturenames:
            metafunc.parametrize("point", self.points)

    def test_stopped_after_every_batch_and_resumed(self, store: Store, after: Tables) -> None:
        run, slices = self.start(store, batch_size=7), 0
        while run.status == Status.RUNNING:
            until, on_progress = after_batches(1)
            run = work(run, until=until, on_progress=on_progress)
            slices += 1
            if run.status == Status.INTERRUPTED:
                assert slices < 1000
                run = workers.claim(run)
        assert slices > 2
        assert dump(store) == after
        stopped, whole = figures(run), self.expected_figures(store, run)
        assert stopped == whole

    def expected_figures(self, store: Store, run: Run) -> dict[str, Any]:
        """Return the figures of an uninterrupted run on the same store."""
        undo(run)
        return figures(self.execute(store))

    def test_worker_dies_within_a_batch(
        self, store: Store, before: Tables, after: Tables, point: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run, call = self.start(store, batch_size=7), 3
        if point == "while recovering":
            until, on_progress = after_batches(3)
            run, call = workers.claim(work(run, until=until, on_progress=on_progress)), 1
        monkeypatch.setattr(*interposed(point, call, crash))
        with pytest.raises(Crash):
            work(run)
        monkeypatch.undo()
        run = work(die(run))
        assert dump(store) == after
        assert run.status == Status.SUCCEEDED, run.error
        assert run.seen == run.total
        undone = undo(run)
        assert dump(store) == before
        assert undone.invalid == 0
        again = self.execute(store)
        assert figures(again) == figures(run)

    @pytest.mark.parametrize("moment", ["after the image", "after the store's commit"])
    def test_a_killed_run_that_is_cancelled_counts_what_it_wrote(
        self, store: Store, before: Tables, moment: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = self.start(store, batch_size=7)
        monkeypatch.setattr(*interposed(moment, 3, crash))
        with pytest.raises(Crash):
            work(run)
        monkeypatch.undo()
        run = lose_worker(run)
        queue.cancel(run, TESTER)
        run = Run.objects.get(pk=run.pk)
        assert (run.status, run.batches.filter(committed=False).count()) == (Status.CANCELLED, 0)
        written = dump(store)
        assert rows_of(run) == sum(
            rows.get(key) != written[table].get(key)
            for table, rows in before.items()
            for key in rows.keys() | written[table].keys()
        )
        undone = undo(run)
        assert (undone.status, undone.changed) == (Status.SUCCEEDED, rows_of(run))
        assert dump(store) == before

    def test_a_worker_that_lost_its_run_cannot_write(
        self, store: Store, after: Tables, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another worker claims the run between the before-image and the write."""
        taken: list[Any] = []
        write, batches = BatchWriter._apply, count(1)

        def take_over(writer: BatchWriter, *batch: Any) -> None:
            if next(batches) == 3:
                Run.objects.update(worker=DEAD)  # not the lease: the next before-image renews it at the same time
                taken.extend((workers.claim(Run.objects.get()), dump(store)))
            write(writer, *batch)

        run = self.start(store, batch_size=7)
        monkeypatch.setattr(BatchWriter, "_apply", take_over)
        with pytest.raises(LostOwnership):
            work(run)
        monkeypatch.undo()
        other, seen = taken
        assert dump(store) == seen
        other = work(other)
        assert dump(store) == after
        assert (other.status, other.seen) == (Status.SUCCEEDED, other.total)

    def test_batches_lost_in_a_power_failure_are_repeated(self, store: Store, before: Tables, after: Tables) -> None:
        """SQLite with synchronous=NORMAL may lose its newest commits, but the before-images remain."""
        if store.path is None:
            return  # PostgreSQL waits for its disk
        run = self.start(store, batch_size=7)
        kept = store.path.with_suffix(".kept")
        for batches in (1, 3):
            until, on_progress = after_batches(batches)
            run = workers.claim(work(run, until=until, on_progress=on_progress))
            store.close()
            if batches == 1:
                shutil.copyfile(store.path, kept)
        shutil.copyfile(kept, store.path)  # the same file with the content of three batches ago
        kept.unlink()
        run = work(die(run))
        assert dump(store) == after
        assert run.seen == run.total
        assert run.changed == len(list(self.changed(before, after)))
        undo(run)
        assert dump(store) == before

    def test_error_budget_stops_the_run(self, store: Store, before: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(executor, "BUDGET_AFTER", 10)

        def change(operation: Operation, row: Any) -> Any:
            raise ZeroDivisionError("out of luck")

        monkeypatch.setattr(registry.operation(self.operation), "process", change)
        run = self.execute(store, batch_size=4)
        count = 10 if run.batch_size == 1 else 12
        assert (run.status, run.failed, run.changed) == (Status.FAILED, count, 0)
        assert f"{count} of {count}" in run.error
        assert dump(store) == before
        assert not Lock.objects.exists()

    def test_a_row_that_changes_before_every_write_is_skipped(
        self, store: Store, before: Tables, after: Tables, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = self.a_change(before, after)
        old, new = self.written(before, key), self.meddling(before, key)
        self.interfere(monkeypatch, lambda: self.set_row(store, key, new), only=key)
        real = Executor._await_write

        def restore_after_failure(worker: Executor) -> bool:
            written = real(worker)
            if not written:
                self.set_row(store, key, old)
            return written

        monkeypatch.setattr(Executor, "_await_write", restore_after_failure)
        run = self.execute(store)
        assert left_by(run)["skipped"] == {"changed_concurrently": [str(key)]}
        assert (run.changed, run.seen) == (len(list(self.changed(before, after))) - 1, run.total)
        after = self.with_row_unchanged(after, before, key)
        after[self.table][key] = before[self.table][key] | old
        assert dump(store) == after

    def test_pause_and_resume(self, store: Store, after: Tables) -> None:
        run = self.start(store, batch_size=7)
        run = work(run, on_progress=once(lambda: lifecycle.pause(Run.objects.get(pk=run.pk), TESTER)))
        assert run.status == Status.PAUSED
        assert 0 < run.seen < run.total
        with pytest.raises(RunRefused, match=f"run {run.pk}"):
            self.execute(store)
        run = work(workers.claim(run))
        assert run.status == Status.SUCCEEDED
        assert dump(store) == after

    def test_cancelled_halfway_and_undone(self, store: Store, before: Tables, after: Tables) -> None:
        run = self.start(store, batch_size=7)
        run = work(run, on_progress=once(lambda: lifecycle.cancel(Run.objects.get(pk=run.pk), TESTER)))
        assert run.status == Status.CANCELLED
        assert 0 < run.changed < len(list(self.changed(before, after)))
        assert dump(store) != before
        undone = undo(run)
        assert (undone.status, undone.changed) == (Status.SUCCEEDED, rows_of(run))
        assert dump(store) == before


def before_text(store: Store, row: Row, key: str) -> Row:
    """Return a row as `dump` returns it: on PostgreSQL, every value is text."""
    return row | {key: str(row[key])} if store.vendor == "postgresql" else row


@contextmanager
def _wrapped(wrapper: Any, *aliases: str) -> Iterator[None]:
    first, second = aliases
    with connections[first].execute_wrapper(wrapper), connections[second].execute_wrapper(wrapper):
        yield


def forbid(store: Store, table: str, key: Any) -> Callable[[], None]:
    """Create a trigger that refuses every write to one row. Return a function that drops it."""
    condition = f"OLD.{store.key_columns(table)[0]} = {key!r}"
    if store.vendor == "sqlite":
        for event in ("UPDATE", "DELETE"):
            execute(
                store,
                f"CREATE TRIGGER forbids_{event} BEFORE {event} ON {table} WHEN {condition} "
                "BEGIN SELECT RAISE(ABORT, 'forbidden'); END",
            )

        def mend() -> None:
            for event in ("UPDATE", "DELETE"):
                execute(store, f"DROP TRIGGER forbids_{event}")

        return mend
    execute(
        store,
        "CREATE FUNCTION forbids() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'forbidden'; END $$",
    )
    execute(
        store,
        f"CREATE TRIGGER forbids BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW WHEN ({condition}) "
        "EXECUTE FUNCTION forbids()",
    )
    return lambda: execute(store, "DROP FUNCTION forbids CASCADE")
