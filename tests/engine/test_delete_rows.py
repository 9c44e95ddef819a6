"""Deleting rows by hand: selected rows of managed stores only; the pages are in test_agentos_admin."""

from __future__ import annotations

from typing import Any

import pytest

from opsconsole.engine import lifecycle, planner
from opsconsole.engine.batch_writer import BatchWriter
from opsconsole.engine.models import Status
from opsconsole.engine.operations import delete_rows
from opsconsole.engine.planner import PlanRefused
from opsconsole.engine.selection import Selection
from tests.support.contract import TESTER, operation_called, undo, work

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
NAME = "operations.delete_rows"


def test_it_requires_selected_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.agentos.models import Task

    Task.objects.bulk_create(Task(task_id=f"t{number}", title="one") for number in range(3))
    operation = operation_called(NAME, store="agentos", table="tasks")
    with pytest.raises(PlanRefused, match="No rows are selected"):
        planner.plan(operation)
    monkeypatch.setattr(delete_rows, "MAX_ROWS", 2)
    with pytest.raises(PlanRefused, match="At most 2 rows"):
        planner.plan(operation, Selection(["t0", "t1", "t2"]))
    assert planner.plan(operation, Selection(["t0", "t1"])).total == 2


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"store": "nowhere", "table": "tasks"}, "No store is called nowhere"),
        ({"store": "default", "table": "auth_user"}, "is not a managed store"),
        ({"store": "agentos", "table": "auth_user"}, "The table auth_user of agentos is unknown"),
        ({"store": "agentos", "table": 'a"; DROP TABLE tasks; --'}, "is unknown"),
    ],
)
def test_other_directories_are_refused(params: dict[str, str], sentence: str) -> None:
    with pytest.raises(PlanRefused, match=sentence):
        operation_called(NAME, **params)


def test_an_attached_store_is_refused(make_attached: Any) -> None:
    store = make_attached("sqlite", 5).store
    with pytest.raises(PlanRefused, match="is not a managed store"):
        operation_called(NAME, store, store="agentos", table="tasks")


@pytest.mark.parametrize("reread", [False, True])
@pytest.mark.parametrize("size", [1, 2, 500])
@pytest.mark.parametrize("action", ["", "ON DELETE CASCADE"])
def test_chosen_rows_that_refer_to_each_other(
    managed: Any, size: int, action: str, reread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be in different batches. The first batch deletes all of them, unless another row refers to one.

    `reread`: other clients write all the time, so every batch is read again before it is written.
    """
    if reread:
        monkeypatch.setattr(BatchWriter, "mark", lambda writer: 0)
    managed.execute(f"ALTER TABLE tasks ADD COLUMN parent TEXT REFERENCES tasks (task_id) {action}")
    for number in range(6):
        managed.execute("INSERT INTO tasks (task_id, title) VALUES (?, 'x')", f"t{number}")
    managed.execute("UPDATE tasks SET parent = 't0' WHERE task_id IN ('t1', 't2')")
    managed.execute("UPDATE tasks SET parent = 't2' WHERE task_id = 't3'")
    managed.execute("CREATE TABLE unknown (task TEXT REFERENCES tasks (task_id))")
    managed.execute("INSERT INTO unknown VALUES ('t4')")
    managed.execute("UPDATE tasks SET parent = 't4' WHERE task_id = 't5'")
    before = managed.execute("SELECT * FROM tasks ORDER BY 1")
    operation = operation_called(NAME, store="agentos", table="tasks")
    chosen = Selection([f"t{number}" for number in range(6)])
    planned = planner.count_outcomes(planner.plan(operation, chosen))
    assert planned.reasons["changed"] == {"": 2}
    assert planned.reasons["skipped"] == {"along": 3}
    assert planned.reasons["invalid"] == {"referenced": 1}
    run = work(lifecycle.confirm(lifecycle.create_run(planned, TESTER, batch_size=size), TESTER, background=False))
    assert (run.status, run.changed, run.invalid, run.failed) == (Status.SUCCEEDED, 2, 1, 0)
    assert managed.execute("SELECT task_id FROM tasks") == [("t4",)]
    assert undo(run, batch_size=size).status == Status.SUCCEEDED
    assert managed.execute("SELECT * FROM tasks ORDER BY 1") == before
