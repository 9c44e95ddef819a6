"""Undo of rows in several tables, with updates, inserts and deletes, and conflicts of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from audits.models import GuardianVerdict
from opsconsole.engine import registry, workers
from opsconsole.engine.errors import RunRefused
from opsconsole.engine.models import Status
from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.outcomes import Changes, Outcome, RowChange
from opsconsole.stores.store import Store
from tests.support.contract import (
    Crash,
    after_batches,
    crash,
    die,
    execute_run,
    figures,
    left_by,
    operation_called,
    plan_whole,
    start,
    undo,
    work,
)
from tests.support.fault_injection import POINTS, interposed
from tests.support.plain_client import Tables, dump, execute, neighbour

NAME = "tests.file_verdicts"
COUNT = 30
VERDICT = ("id", "task_id", "triggered_by", "policy_json", "decision", "reasons_json", "created_at")
INBOX = ("id", "task_id", "event_type", "event_ts", "created_at")

pytestmark = [
    pytest.mark.django_db(transaction=True, databases=["default", "agentos"]),
    pytest.mark.parametrize("engine", ["sqlite", "postgresql-jsonb"]),
]


class FileVerdicts(Operation):
    """An operation that deletes a verdict, closes its task, and adds a note to the inbox."""

    title = "File the verdicts"
    description = "Moves every verdict into the inbox and closes its task."
    store_alias = "agentos"
    model = GuardianVerdict
    reads = ("task_id", "policy_json")
    writes = {"guardian_verdicts": VERDICT, "supervisor_inbox": INBOX, "tasks": ("status",)}
    risk = Risk.DELETE

    def process(self, row: Any) -> Outcome:
        note = dict(zip(INBOX, (f"note-{row.pk}", row.task_id, "FILED", row.policy_json, "now"), strict=True))
        return Changes(
            (
                RowChange("supervisor_inbox", note["id"], None, note),
                RowChange("tasks", row.task_id, {"status": "running"}, {"status": "closed"}),
                RowChange("guardian_verdicts", row.pk, {}, None),
            )
        )

    @property
    def columns(self) -> tuple[str, ...]:
        return self.reads


@pytest.fixture
def store(make_attached: Any, engine: str) -> Iterator[Store]:
    """Return a store with thirty verdicts on thirty tasks, with texts that are hard to copy exactly."""
    FileVerdicts.name = NAME  # the registry takes the name from the module
    registry.operations()[NAME] = FileVerdicts
    store: Store = make_attached(engine, 50).store
    odd = ("{}", "", "null", '{"a": 1.50}', "任务 🚦", "a\nb", "'quoted' \"twice\" \\ %s ? {}", "1e400", "\x7f", " ")
    marks = ", ".join("?" * len(VERDICT))
    with neighbour(store) as connection:
        connection.execute("DELETE FROM guardian_verdicts")
        connection.execute("UPDATE tasks SET status = 'running'")
        for number in range(2, COUNT):
            task = (f"01TASK{number:020d}", "task", "running")
            connection.execute("INSERT INTO tasks (task_id, title, status) VALUES (?, ?, ?)", task)
        for number in range(COUNT):
            text = odd[number % len(odd)]
            row = (f"v{number:02d}", f"01TASK{number:020d}", text, text, "warn", None if number % 3 else text, text)
            connection.execute(f"INSERT INTO guardian_verdicts ({', '.join(VERDICT)}) VALUES ({marks})", row)
    yield store
    del registry.operations()[NAME]


def expected(tables: Tables) -> Tables:
    for key, row in tables["guardian_verdicts"].items():
        tables["tasks"][row["task_id"]]["status"] = "closed"
        note = dict.fromkeys(next(iter(tables["supervisor_inbox"].values())))
        note |= dict(zip(INBOX, (f"note-{key}", row["task_id"], "FILED", row["policy_json"], "now"), strict=True))
        tables["supervisor_inbox"][note["id"]] = note | {"status": "pending"}
    tables["guardian_verdicts"] = {}
    return tables


@pytest.mark.parametrize("size", [1, 7, 500])
def test_all_or_nothing_of_each_row(store: Store, size: int) -> None:
    before = dump(store)
    run = execute_run(operation_called(NAME, store), batch_size=size)
    assert dump(store) == expected(deepcopy(before))
    assert (run.status, run.changed) == (Status.SUCCEEDED, COUNT)
    undone = undo(run, batch_size=7)
    assert dump(store) == before
    for one in (run, undone):  # both insert rows, which an undo deletes
        assert operation_called("operations.undo_run", run=one.pk).effective_risk() == Risk.DELETE
    assert (undone.status, undone.total, undone.changed) == (Status.SUCCEEDED, COUNT * 3, COUNT * 3)
    again = undo(undone)
    assert again.changed == COUNT * 3
    assert dump(store) == expected(deepcopy(before))


@pytest.mark.parametrize("point", POINTS)
def test_worker_dies(store: Store, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker dies in the run, and then in its undo."""
    before = dump(store)
    after = expected(deepcopy(before))

    def through(operation: Operation) -> Any:
        run, call = start(operation, batch_size=7), 2
        if point == "while recovering":
            until, on_progress = after_batches(2)
            run, call = workers.claim(work(run, until=until, on_progress=on_progress)), 1
        monkeypatch.setattr(*interposed(point, call, crash))
        with pytest.raises(Crash):
            work(run)
        monkeypatch.undo()
        run = work(die(run))
        assert (run.status, run.seen) == (Status.SUCCEEDED, run.total), run.error
        return run

    run = through(operation_called(NAME, store))
    assert dump(store) == after
    through(operation_called("operations.undo_run", run=run.pk))
    assert dump(store) == before


def test_an_aggregate_whose_last_row_fails_is_unchanged(store: Store) -> None:
    """The verdict cannot be deleted, so its note and its task do not change either. A retry succeeds."""
    before = dump(store)
    execute(store, "CREATE TABLE appeals (verdict TEXT REFERENCES guardian_verdicts (id) ON DELETE CASCADE)")
    execute(store, "INSERT INTO appeals VALUES ('v07')")
    run = execute_run(operation_called(NAME, store))
    after = expected(deepcopy(before))
    for table, key in (("guardian_verdicts", "v07"), ("tasks", f"01TASK{7:020d}")):
        after[table][key] = before[table][key]
    del after["supervisor_inbox"]["note-v07"]
    found = dump(store)
    assert len(found.pop("appeals")) == 1
    assert found == after
    assert (run.status, run.failed) == (Status.NEEDS_ATTENTION, 1)
    assert "appeals" in run.failed_items.get().error
    execute(store, "DROP TABLE appeals")
    retry = execute_run(operation_called("operations.retry_failed_rows", run=run.pk))
    assert (retry.status, retry.changed) == (Status.SUCCEEDED, 1)
    assert dump(store) == expected(deepcopy(before))


def test_conflicts_of_each_kind(store: Store) -> None:
    """An edited note, a changed task and a verdict that was added again stay unchanged and are listed."""
    before = dump(store)
    run = execute_run(operation_called(NAME, store), batch_size=7)
    with neighbour(store) as connection:
        connection.execute("UPDATE supervisor_inbox SET event_ts = 'edited' WHERE id = 'note-v03'")
        connection.execute(f"UPDATE tasks SET status = 'reopened' WHERE task_id = '01TASK{5:020d}'")
        connection.execute("DELETE FROM supervisor_inbox WHERE id = 'note-v20'")
        connection.execute(
            "INSERT INTO guardian_verdicts (id, task_id, triggered_by, policy_json, decision, created_at) "
            "VALUES ('v11', 'other', 'x', 'x', 'approve', 'x')"
        )
    now = dump(store)
    planned = plan_whole(operation_called("operations.undo_run", run=run.pk))
    undone = undo(run)
    assert planned.reasons == undone.reasons
    assert sorted(left_by(undone)["invalid"]["conflict"]) == [
        "guardian_verdicts v11",
        "supervisor_inbox note-v03",
        f"tasks 01TASK{5:020d}",
    ]
    assert left_by(undone)["skipped"] == {"as_before": ["supervisor_inbox note-v20"]}
    for table, key in (("tasks", f"01TASK{5:020d}"), ("guardian_verdicts", "v11"), ("supervisor_inbox", "note-v03")):
        before[table][key] = now[table][key]
    assert dump(store) == before
    assert undone.status == Status.SUCCEEDED


def test_a_run_without_undo_is_refused(store: Store) -> None:
    """The undo is refused for a run without changes, and for a run whose before-images were pruned."""
    run = execute_run(operation_called(NAME, store))
    for pruned in (execute_run(operation_called(NAME, store)), run):
        pruned.batches.update(before_image=None)
        with pytest.raises(RunRefused, match=f"Run {pruned.pk} cannot be undone. It changed no rows"):
            operation_called("operations.undo_run", run=pruned.pk)


def test_the_same_work_gives_the_same_figures(store: Store) -> None:
    whole = execute_run(operation_called(NAME, store))
    undo(whole)
    run, slices = start(operation_called(NAME, store), batch_size=4), 0
    while run.status == Status.RUNNING:
        until, on_progress = after_batches(1)
        run = work(run, until=until, on_progress=on_progress)
        slices += 1
        if run.status == Status.INTERRUPTED:
            run = workers.claim(run)
    assert slices > 5
    assert figures(run) == figures(whole)
