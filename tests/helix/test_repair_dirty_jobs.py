"""Repairing dirty jobs without deleting them: each type, and the undo of every column."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

import pytest

from opsconsole.engine import lifecycle, planner
from opsconsole.engine.models import Run, Status
from opsconsole.engine.selection import Selection
from opsconsole.stores.store import Store
from tests.conftest import HELIX_ENGINES
from tests.support import helix
from tests.support.contract import TESTER, EngineContract, left_by, operation_called, plan_whole, undo, work
from tests.support.plain_client import Row, Tables, dump, execute

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "helix"])
REPAIR = "helix.repair_dirty_jobs"
CLEARED = ("output_data", "assigned_at", "started_at", "completed_at")
OPEN = {"PENDING", "ASSIGNED", "IN_PROGRESS", "RETRYING"}


def repaired(store: Store, *keys: int) -> Run:
    planned = planner.plan(operation_called(REPAIR, store), Selection(list(keys)) if keys else Selection())
    run = lifecycle.create_run(planner.count_outcomes(planned), TESTER)
    return work(lifecycle.confirm(run, TESTER, background=False))


def expected(tables: Tables) -> Tables:
    """Return the repaired tables, from the documented types and without code of the console."""
    tables = deepcopy(tables)
    has = {int(row["task_id"]) for row in tables["artifacts"].values()}
    for key, row in list(tables["artifacts"].items()):
        task = tables["tasks"].get(int(row["task_id"]))
        if task is None or task["status"] == "FAILED" or task["status"] in OPEN:
            del tables["artifacts"][key]
    for job_key, job in tables["jobs"].items():
        tasks = [row for row in tables["tasks"].values() if int(row["job_id"]) == job_key]
        if job["status"] == "IN_PROGRESS" and tasks and all(task["status"] == "FAILED" for task in tasks):
            job["status"] = "FAILED"
            job["error_message"] = f"OpsConsole: all {len(tasks)} tasks of this job have failed."
    for key, row in tables["tasks"].items():
        job = tables["jobs"][int(row["job_id"])]
        if row["status"] == "COMPLETED" and key not in has and job["status"] not in ("FAILED", "CANCELLED"):
            row |= {"status": "PENDING", **dict.fromkeys(CLEARED)}
    return tables


def without(tables: Tables, column: str) -> Tables:
    return {
        t: {k: {n: v for n, v in row.items() if n != column} for k, row in rows.items()} for t, rows in tables.items()
    }


@pytest.mark.parametrize("engine", HELIX_ENGINES)
def test_each_type_is_repaired_and_restored(make_helix, engine):
    """The plan mentions the trigger that maintains updated_at. The undo does not restore that column."""
    store = make_helix(engine, helix.one_of_each())
    before = dump(store)
    operation = operation_called(REPAIR, store)
    assert any("touch_jobs" in sentence for sentence in planner.advice(plan_whole(operation)))
    run = repaired(store)
    after = dump(store)
    assert without(after, "updated_at") == without(expected(before), "updated_at")
    assert after["jobs"][3]["updated_at"] != before["jobs"][3]["updated_at"]
    assert (run.status, run.reasons["changed"]) == (Status.SUCCEEDED, {"A": 1, "B": 1, "C": 1, "F": 1})
    undone = undo(run)
    assert (undone.status, undone.invalid) == (Status.SUCCEEDED, 0)
    assert without(dump(store), "updated_at") == without(before, "updated_at")


def test_a_job_with_the_id_0(make_helix):
    store = make_helix("sqlite", helix.one_of_each())
    execute(store, "UPDATE tasks SET job_id = 0 WHERE job_id = 3")
    execute(store, "UPDATE jobs SET id = 0 WHERE id = 3")
    before = dump(store)
    run = repaired(store)
    assert without(dump(store), "updated_at") == without(expected(before), "updated_at")
    assert run.reasons["changed"] == {"A": 1, "B": 1, "C": 1, "F": 1}
    undo(run)
    assert without(dump(store), "updated_at") == without(before, "updated_at")


def test_jobs_that_cannot_be_repaired_are_skipped(make_helix):
    jobs = [*helix.one_of_each(), helix.Job("CANCELLED", [helix.Task("COMPLETED")])]
    store = make_helix("sqlite", jobs)
    before = dump(store)
    run = repaired(store, 4, 5, 7, 10)
    assert left_by(run) == {"skipped": {"to_decide": ["4", "5"], "no_finding": ["7"], "over": ["10"]}}
    assert (run.status, run.changed) == (Status.SUCCEEDED, 0)
    assert dump(store) == before


def test_artifacts_of_missing_tasks(make_helix):
    store = make_helix("sqlite", helix.one_of_each(), orphans=[(901, 77), (902, 78)])
    before = dump(store)
    chosen = repaired(store, 3)
    assert {901, 902} <= set(dump(store)["artifacts"])
    undo(chosen)
    run = repaired(store)
    assert run.status == Status.SUCCEEDED, run.error
    assert (run.before["vanished_tasks"], run.after["vanished_tasks"]) == (2, 0)
    assert not {901, 902} & set(dump(store)["artifacts"])
    undo(run)
    assert without(dump(store), "updated_at") == without(before, "updated_at")


def test_artifacts_of_a_restored_task_are_kept(make_helix):
    store = make_helix("sqlite", [], orphans=[(901, 77)])
    planned = planner.count_outcomes(planner.plan(operation_called(REPAIR, store)))
    assert planned.counts()["changed"] == 1
    run = lifecycle.confirm(lifecycle.create_run(planned, TESTER), TESTER, background=False)
    execute(
        store, "INSERT INTO tasks (id, job_id, agent_id, status, input_data) VALUES (77, 1, 'A', 'COMPLETED', '{}')"
    )
    work(run)
    assert set(dump(store)["artifacts"]) == {901}


def test_a_job_that_changed_since_the_plan_is_skipped(make_helix):
    store = make_helix("postgresql-enum", helix.one_of_each())
    planned = planner.count_outcomes(planner.plan(operation_called(REPAIR, store)))
    run = lifecycle.confirm(lifecycle.create_run(planned, TESTER), TESTER, background=False)
    execute(store, "UPDATE tasks SET status = 'PENDING' WHERE id = (SELECT MIN(id) FROM tasks WHERE job_id = 3)")
    run = work(run)
    assert dump(store)["jobs"][3]["status"] == "IN_PROGRESS"
    assert ["3"] in left_by(run)["skipped"].values(), left_by(run)


class TestRepairDirtyJobs(EngineContract):
    """The contract for an aggregate. Tests above replace those that are set to None."""

    operation = REPAIR
    points = ("after the image", "after the store's commit")
    engines = ("sqlite", "postgresql-enum")
    batch_sizes: ClassVar[tuple[int, ...]] = (1,)
    statements: ClassVar[int] = 40
    meddled: ClassVar[Row] = {"updated_at": "2026-01-01 00:00:00+00"}
    jobs: ClassVar[list[helix.Job]] = helix.many(24, seed=3)

    test_a_row_whose_processing_raises_fails = None  # type: ignore[assignment]
    test_a_row_whose_write_is_refused_fails = None  # type: ignore[assignment]
    test_verify_finds_a_row_that_is_in_scope_again = None  # type: ignore[assignment]
    test_rows_added_after_the_plan_are_not_changed = None  # type: ignore[assignment]
    test_a_concurrent_write_is_not_overwritten = None  # type: ignore[assignment]
    test_a_row_that_changes_before_every_write_is_skipped = None  # type: ignore[assignment]
    test_a_row_deleted_during_the_run_is_skipped = None  # type: ignore[assignment]
    test_undo_keeps_later_changes = None  # type: ignore[assignment]

    @pytest.fixture
    def store(self, make_helix: Any, engine: str) -> Store:
        store: Store = make_helix(engine, self.jobs, triggers=False)
        return store

    def expected(self, tables: Tables, vendor: str) -> Tables:
        return expected(tables)

    def changed(self, before: Tables, after: Tables) -> Any:
        """Yield the jobs of which a row, a task or an artifact changes."""
        of_task = {key: int(row["job_id"]) for key, row in before["tasks"].items()}
        keys = {k for k, row in before["jobs"].items() if after["jobs"][k] != row}
        keys |= {of_task[k] for k, row in before["tasks"].items() if after["tasks"][k] != row}
        deleted = before["artifacts"].keys() - after["artifacts"].keys()
        yield from sorted(keys | {of_task[int(before["artifacts"][k]["task_id"])] for k in deleted})
