"""The executor reads the next batch while a thread writes this one."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone, translation

from opsconsole.engine import batch_writer, executor, planner, queue, recovery, stored_plans
from opsconsole.engine.batch_writer import BatchWriter
from opsconsole.engine.executor import Executor
from opsconsole.engine.models import Batch, Event, Run, Status
from opsconsole.engine.outcomes import Change
from opsconsole.stores import rows
from opsconsole.stores.store import Store, StoreUnavailable
from tests.support.contract import TESTER, Crash, crash, die, execute_run, lose_worker, operation_called, start, undo
from tests.support.fault_injection import interposed
from tests.support.plain_client import dump, execute

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])
BACKFILL = "audits.backfill_decision_fields"


@pytest.mark.parametrize("kind", ["sqlite", "postgresql-text"])
def test_a_run_that_fails_while_a_batch_is_written_counts_this_batch(
    make_attached: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_attached(kind, 300, seed=5).store
    before = dump(store)
    run = start(operation_called(BACKFILL, store), batch_size=50)
    cls = type(operation_called(BACKFILL, store))
    real = cls.fetch

    def fail_after_the_first_batch(operation: Any, rows: Any, **options: Any) -> list[Any]:
        if options["after"] is not None and Batch.objects.exists():
            raise RuntimeError("no such luck")
        return real(operation, rows, **options)

    monkeypatch.setattr(cls, "fetch", fail_after_the_first_batch)
    with pytest.raises(RuntimeError):
        Executor(run).work()
    monkeypatch.undo()
    run.refresh_from_db()
    assert (run.status, run.error) == (Status.FAILED, "no such luck")
    written = sum(old != new for key, old in before["task_audits"].items() for new in [dump(store)["task_audits"][key]])
    assert run.changed == written > 0
    assert undo(run).status == Status.SUCCEEDED
    assert dump(store) == before


@pytest.mark.parametrize("seconds", [0.02, 1_000])
def test_a_log_that_always_has_a_reader_is_bounded(
    make_attached: Any, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(batch_writer, "LOG_PAGES", 40)
    monkeypatch.setattr(batch_writer, "CHECKPOINT_ROWS_ALONE", 1)
    store = make_attached("sqlite", 600, seed=5).store
    run = start(operation_called(BACKFILL, store), batch_size=5)
    sizes: list[int] = []
    restarts: list[int] = []
    real, restart = BatchWriter.checkpoint, BatchWriter._restart_log

    def observe(writer: BatchWriter) -> None:
        real(writer)
        sizes.append(store.path.with_name(f"{store.path.name}-wal").stat().st_size)

    def count(writer: BatchWriter) -> bool:
        restarts.append(len(sizes))
        return restart(writer)

    monkeypatch.setattr(BatchWriter, "checkpoint", observe)
    monkeypatch.setattr(BatchWriter, "_restart_log", count)
    with _readers(store.path, seconds):
        Executor(run).work()
    assert run.status == Status.SUCCEEDED
    assert len(sizes) > 20
    if seconds < 1:
        assert max(sizes) < 150 * 4096, "readers of short queries let the log start again"
    else:
        assert len(restarts) < len(sizes) / 4, "a restart that a long query prevents is not tried at each batch"


def test_a_log_of_long_rows_is_copied_before_it_has_many_rows(
    make_attached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_writer, "LOG_BYTES", 200_000)
    store = make_attached("sqlite", 600, seed=5).store
    execute(store, "UPDATE task_audits SET payload = ?", [f'{{"source_event_ts": "then", "x": "{"y" * 20_000}"}}'])
    copies: list[int] = []
    real = Store.query

    def query(self: Store, sql: str, *options: Any) -> Any:
        if "wal_checkpoint(PASSIVE)" in sql:
            copies.append(Batch.objects.count())
        return real(self, sql, *options)

    monkeypatch.setattr(Store, "query", query)
    run = execute_run(operation_called(BACKFILL, store), batch_size=20)
    assert run.changed < batch_writer.CHECKPOINT_ROWS_ALONE
    assert len([batch for batch in copies if batch < run.batches_done]) > 2


def test_the_file_has_all_changes_at_the_end_of_a_run(make_attached: Any, tmp_path: Path) -> None:
    """Otherwise the next COMMIT of another client would copy the log."""
    store = make_attached("sqlite", 600, seed=5).store
    with closing(sqlite3.connect(store.path)) as other:  # SQLite itself copies the log when the last client leaves
        other.execute("SELECT * FROM task_audits").fetchone()
        run = execute_run(operation_called(BACKFILL, store), batch_size=50)
        alone = tmp_path / "alone.sqlite3"
        shutil.copy(store.path, alone)
    with closing(sqlite3.connect(alone)) as copy:
        held = copy.execute("SELECT audit_id, source_event_ts FROM task_audits ORDER BY 1").fetchall()
    assert run.changed > 0
    assert dict(held) == {key: row["source_event_ts"] for key, row in dump(store)["task_audits"].items()}


@contextmanager
def _readers(path: Path, seconds: float) -> Iterator[None]:
    """Let clients read the file in turns of some seconds: each begins before the one before it ends."""
    over, begun = threading.Event(), threading.Event()

    def read() -> None:
        last: sqlite3.Connection | None = None
        while not over.is_set():
            client = sqlite3.connect(path, isolation_level=None)
            client.execute("BEGIN")
            client.execute("SELECT 1 FROM tasks").fetchone()
            if last is not None:
                last.close()
            last = client
            begun.set()
            over.wait(seconds)
        client.close()

    thread = threading.Thread(target=read)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_run_leaves_the_file_to_a_client_that_writes(make_attached: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_attached("sqlite", 600, seed=5).store
    run = start(operation_called(BACKFILL, store), batch_size=5)
    pauses: list[tuple[bool, float]] = []
    wrote = False
    real = BatchWriter._pause

    def observe(writer: BatchWriter) -> None:
        nonlocal wrote
        began, held = writer._released, writer._held
        real(writer)
        pauses.append((wrote, (time.monotonic() - began) / held if held else 1.0))
        if len(pauses) == 8:
            with closing(sqlite3.connect(store.path)) as client, client:
                client.execute("UPDATE tasks SET title = title || '!' WHERE rowid = 1")
            wrote = True

    monkeypatch.setattr(BatchWriter, "_pause", observe)
    Executor(run).work()
    after = [share for written, share in pauses if written][1:]  # the next batch notices the write
    assert len(after) > 5
    assert min(after) >= 1.0


@pytest.mark.parametrize("kind", ["sqlite", "postgresql-text"])
def test_every_thread_has_the_language_and_the_time_zone_of_the_worker(
    make_attached: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_attached(kind, 60).store
    found: dict[str, set[tuple[str, str]]] = {}

    def observe(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def function(*args: Any, **options: Any) -> Any:
            settings = translation.get_language(), timezone.get_current_timezone_name()
            found.setdefault(threading.current_thread().name.partition("_")[0], set()).add(settings)
            return real(*args, **options)

        monkeypatch.setattr(owner, name, function)

    observe(type(operation_called(BACKFILL, store)), "fetch")
    observe(rows, "write")
    with translation.override("zh-hans"), timezone.override("Asia/Shanghai"):
        run = execute_run(operation_called(BACKFILL, store), batch_size=7)
    assert run.status == Status.SUCCEEDED
    assert {found["store-reader"].pop(), found["store-writer"].pop()} == {("zh-hans", "Asia/Shanghai")}
    assert not any(found[name] for name in ("store-reader", "store-writer"))


FOLLOW = {
    "sqlite": """CREATE TRIGGER follow AFTER UPDATE ON task_audits WHEN OLD.audit_id = {first} BEGIN
        UPDATE task_audits SET payload = '{payload}' WHERE audit_id = {second}; END""",
    "postgresql-text": """
        CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE task_audits SET payload = '{payload}' WHERE audit_id = {second}; RETURN NULL; END $$;
        CREATE TRIGGER follow AFTER UPDATE ON task_audits FOR EACH ROW WHEN (OLD.audit_id = {first})
        EXECUTE FUNCTION follow()""",
}


@pytest.mark.parametrize("kind", FOLLOW)
@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_a_row_that_a_trigger_of_the_run_changes_is_not_written_from_an_earlier_read(
    make_attached: Any, kind: str, ahead: int
) -> None:
    """The write of a row of the first batch makes a trigger change a row that is `ahead` batches later."""
    store = make_attached(kind, 200).store
    whole = execute_run(operation_called(BACKFILL, store), batch_size=5)
    keys = [
        [key for write in batch.writes if len(write.columns) == 2 for key, _old, _new in write.rows]
        for batch in whole.batches.order_by("number")
    ]
    undo(whole)
    first, second = keys[0][0], keys[ahead][-1]
    payload = '{"source_event_ts": "new", "supervisor_processed_at": "new"}'
    execute(store, FOLLOW[kind].format(first=first, second=second, payload=payload))
    run = execute_run(operation_called(BACKFILL, Store(store.alias, store.name)), batch_size=5)
    row = dump(store)["task_audits"][second]
    assert (run.status, run.changed) == (Status.SUCCEEDED, whole.changed)
    assert {row["source_event_ts"], row["supervisor_processed_at"]} == {"new"}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql-text"])
def test_batches_of_long_rows_have_fewer_rows(make_attached: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches are in memory at the same time."""
    monkeypatch.setattr(planner, "BATCH_CHARACTERS", 100_000)
    store = make_attached(kind, 600, seed=5).store
    payload = f'{{"source_event_ts": "then", "x": "{"y" * 10_000}"}}'
    execute(store, "UPDATE task_audits SET payload = ? WHERE source_event_ts IS NULL", [payload])
    operation = operation_called(BACKFILL, store)
    planned = [len(rows) for rows in planner.walk(planner.plan(operation), batch_size=50)]
    assert max(planned) <= 20
    run = execute_run(operation, batch_size=50)
    assert run.seen == run.total == sum(_sizes(run)) == sum(planned)
    assert max(_sizes(run)) <= 20


def test_a_run_is_cancelled_while_its_store_is_out_of_reach_and_its_undo_is_complete(
    make_attached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_args: Any) -> None:
        raise StoreUnavailable("no answer")

    store = make_attached("sqlite", 60, seed=5).store
    before = dump(store)
    run = start(operation_called(BACKFILL, store), batch_size=10)
    monkeypatch.setattr(*interposed("after the store's commit", 1, crash))
    with pytest.raises(Crash):
        Executor(run).work()
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "writing", unreachable)
        queue.cancel(lose_worker(run), TESTER)
    run = Run.objects.get(pk=run.pk)
    assert (run.status, run.changed) == (Status.CANCELLED, 0)
    assert Event.objects.get(verb="settle_failed").detail["error"] == "no answer"
    assert dump(store) != before
    assert undo(run).status == Status.SUCCEEDED
    assert dump(store) == before


@pytest.mark.parametrize("kind", ["sqlite", "postgresql-text"])
def test_batches_of_the_default_size_grow_while_they_are_fast(
    make_attached: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "DEFAULT_BATCH_SIZE", 10)
    monkeypatch.setattr(executor, "FAST_BATCH_SIZE", 20)
    monkeypatch.setattr(executor, "TARGET_SECONDS", 10.0)
    store = make_attached(kind, 600, seed=5).store
    run = execute_run(operation_called(BACKFILL, store), batch_size=10)
    assert _sizes(run)[0] == 10
    assert max(_sizes(run)) == 20
    assert undo(run, batch_size=15).status == Status.SUCCEEDED
    assert max(_sizes(Run.objects.latest("pk"))) == 15, "a chosen size is kept"


@pytest.mark.parametrize(("slow", "seconds"), [(0, 0.009), (40, 0.015)])
def test_batches_that_have_grown_are_as_short_as_those_of_the_default_size(
    make_attached: Any, monkeypatch: pytest.MonkeyPatch, slow: int, seconds: float
) -> None:
    """A row takes `seconds` if its batch has at least `slow` rows. A batch may take 0.1 s, or 0.5 s if it is large."""
    monkeypatch.setattr(executor, "DEFAULT_BATCH_SIZE", 10)
    monkeypatch.setattr(executor, "FAST_BATCH_SIZE", 40)
    real = BatchWriter._apply

    def apply(writer: BatchWriter, writes: Any, read: Any) -> None:
        time.sleep(seconds * len(read.rows) if len(read.rows) >= slow else 0)
        real(writer, writes, read)

    monkeypatch.setattr(BatchWriter, "_apply", apply)
    run = execute_run(operation_called(BACKFILL, make_attached("sqlite", 1_200, seed=5).store), batch_size=10)
    assert run.status == Status.SUCCEEDED
    # Some batches are read before the first slow one is written.
    assert _sizes(run).count(40) <= (recovery.READ_AHEAD + 2 if slow else 0)


def test_batches_keep_their_size_while_another_client_writes_to_the_file(
    make_attached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "DEFAULT_BATCH_SIZE", 10)
    monkeypatch.setattr(executor, "FAST_BATCH_SIZE", 20)
    store = make_attached("sqlite", 600, seed=5).store
    run = start(operation_called(BACKFILL, store), batch_size=10)
    Executor(run).work(on_progress=lambda run: execute(store, "UPDATE task_audits SET level = level"))
    assert run.status == Status.SUCCEEDED
    assert max(_sizes(run)[6:]) == 10, "the first ones were read before the other client was noticed"


def test_a_change_of_a_column_that_the_operation_does_not_read_fails_its_row_only(
    make_attached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_attached("sqlite", 60, seed=5).store
    operation = operation_called(BACKFILL, store)
    (first, *_others), *_batches = planner.walk(planner.plan(operation), batch_size=5)
    real = type(operation).process
    monkeypatch.setattr(
        type(operation),
        "process",
        lambda self, row: Change(row, level="high") if row.pk == first.pk else real(self, row),
    )
    run = execute_run(operation)
    assert (run.status, run.failed, run.reasons["failed"]) == (Status.NEEDS_ATTENTION, 1, {"AttributeError": 1})
    assert run.changed == run.total - run.invalid - 1 > 0


def _sizes(run: Run) -> list[int]:
    return [batch.changed + batch.invalid for batch in run.batches.order_by("number")]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql-text"])
def test_rows_that_an_earlier_batch_wrote_do_not_tell_whether_a_batch_is_committed(
    make_attached: Any, kind: str
) -> None:
    run = execute_run(operation_called(BACKFILL, make_attached(kind, 60, seed=5).store))
    batch, operation = run.batches.get(), stored_plans.operation_of(run)
    written = {
        (write.table, key, column, value)
        for write in batch.writes
        for key, _old, new in write.rows
        for column, value in zip(write.columns, new or (), strict=True)
    }
    assert recovery.is_committed(batch, operation) is True
    assert recovery.is_committed(batch, operation, written) is None


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", ["sqlite", "postgresql-text"])
def test_a_plan_without_rows(make_attached: Any, kind: str, late: bool) -> None:
    """`late`: a row enters the scope after the plan, and the run changes it."""
    store = make_attached(kind, 60, seed=5).store
    execute(store, "UPDATE task_audits SET source_event_ts = 'x', supervisor_processed_at = 'x'")
    run = start(operation_called(BACKFILL, store))
    if late:
        execute(
            store,
            "UPDATE task_audits SET event_type = 'SUPERVISOR_A', source_event_ts = NULL, payload = '{}', created_at = ?"
            " WHERE audit_id = 7",
            ["2026-01-01 00:00:00"],
        )
    run = Executor(run).work()
    assert (run.status, run.total, run.changed, run.after["in_scope"]) == (Status.SUCCEEDED, 0, int(late), 0)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT interrupt this process, which a shell may have started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("kind", "frozen"), [("sqlite", False), ("postgresql-text", False), ("postgresql-text", True)])
def test_an_interrupted_run_does_not_wait_for_a_long_read(
    make_attached: Any, kind: str, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`frozen`: the server does not answer a cancellation."""
    store = make_attached(kind, 200, seed=5).store
    run = start(operation_called(BACKFILL, store), batch_size=20)
    cls = type(operation_called(BACKFILL, store))
    real = cls.fetch
    long = "SELECT pg_sleep(60)"
    if kind == "sqlite":
        counted = "SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000"
        long = f"WITH RECURSIVE n(i) AS ({counted}) SELECT MAX(i) FROM n"

    interrupt = threading.Timer(0.5, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    servers: list[int] = []

    def fetch(operation: Any, rows: Any, **options: Any) -> list[Any]:
        if options["after"] is not None and interrupt.ident is None:
            interrupt.start()
            if frozen:
                servers.append(operation.store.query("SELECT pg_backend_pid()")[0][0])
                threading.Timer(0.2, os.kill, [*servers, signal.SIGSTOP]).start()
            operation.store.query(long)
        return real(operation, rows, **options)

    monkeypatch.setattr(cls, "fetch", fetch)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            Executor(run).work()
    finally:
        signal.signal(signal.SIGINT, before)
        for server in servers:
            os.kill(server, signal.SIGCONT)
    assert time.monotonic() - began < 20
    monkeypatch.undo()
    run = Executor(die(run)).work()
    assert (run.status, run.seen) == (Status.SUCCEEDED, run.total)
