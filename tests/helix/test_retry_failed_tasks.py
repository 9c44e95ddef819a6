"""Failed tasks back to PENDING: exactly those of jobs in progress at which the platform does not work."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

import pytest
from django.utils import timezone

from opsconsole.stores.store import Store
from tests.conftest import HELIX_ENGINES
from tests.support import helix
from tests.support.contract import Contract, execute_run, left_by, operation_called, undo
from tests.support.plain_client import Row, Tables, dump, execute

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "helix"])
RETRY = "helix.retry_failed_tasks"
CLEARED = ("output_data", "assigned_at", "started_at", "completed_at")
REPLACED_TESTS: tuple[str, ...] = (
    "test_a_row_whose_processing_raises_fails",
    "test_a_row_whose_write_is_refused_fails",
    "test_verify_finds_a_row_that_is_in_scope_again",
    "test_rows_added_after_the_plan_are_not_changed",
    "test_a_concurrent_write_is_not_overwritten",
    "test_a_row_deleted_during_the_run_is_skipped",
    "test_undo_keeps_later_changes",
)


def expected(tables: Tables) -> Tables:
    """Compute the expected tables without code of the console."""
    tables = deepcopy(tables)
    with_artifacts = {int(row["task_id"]) for row in tables["artifacts"].values()}
    for job_key, job in tables["jobs"].items():
        failed = [
            (key, row)
            for key, row in tables["tasks"].items()
            if int(row["job_id"]) == job_key and row["status"] == "FAILED"
        ]
        if job["status"] != "IN_PROGRESS" or any(key in with_artifacts for key, _row in failed):
            continue
        for _key, row in failed:
            row |= {"status": "PENDING", "retry_count": "0", **dict.fromkeys(CLEARED)}
    return tables


def plain(tables: Tables) -> Tables:
    """Return values as text, like a dump of PostgreSQL."""
    return {
        table: {k: {n: None if v is None else str(v) for n, v in row.items()} for k, row in rows.items()}
        for table, rows in tables.items()
    }


@pytest.mark.parametrize("engine", HELIX_ENGINES)
def test_failed_tasks_are_retried_and_the_undo_restores_them(make_helix: Any, engine: str) -> None:
    store = make_helix(engine, helix.one_of_each(), triggers=False)
    before = dump(store)
    run = execute_run(operation_called(RETRY, store))
    assert plain(dump(store)) == plain(expected(before))
    assert run.changed
    assert run.amount == sum(len(write.rows) for batch in run.batches.all() for write in batch.writes)
    undo(run)
    assert dump(store) == before


def test_a_job_that_the_platform_works_on_is_skipped(make_helix: Any) -> None:
    store = make_helix("sqlite", helix.one_of_each(), triggers=False)
    execute(store, f"UPDATE tasks SET updated_at = '{timezone.now():%Y-%m-%d %H:%M:%S}+00' WHERE job_id = 4")
    before = dump(store)
    run = execute_run(operation_called(RETRY, store))
    assert "4" in left_by(run)["skipped"]["still_working"]
    assert {k: row for k, row in dump(store)["tasks"].items() if row["job_id"] == 4} == {
        k: row for k, row in before["tasks"].items() if row["job_id"] == 4
    }


def test_a_failed_task_with_artifacts_waits_for_their_repair(make_helix: Any) -> None:
    jobs = [helix.Job("IN_PROGRESS", [helix.Task("FAILED", 3, artifacts=1), helix.Task("FAILED", 3)])]
    store = make_helix("sqlite", jobs, triggers=False)
    before = dump(store)
    run = execute_run(operation_called(RETRY, store))
    assert left_by(run)["skipped"] == {"has_artifacts": ["1"]}
    assert dump(store) == before


class TestRetryFailedTasks(Contract):
    """A job with its tasks is one row of the operation; single rows are covered by other operations."""

    operation = RETRY
    engines = ("sqlite", "postgresql-enum")
    batch_sizes: ClassVar[tuple[int, ...]] = (1,)
    statements: ClassVar[int] = 40
    meddled: ClassVar[Row] = {"updated_at": "2026-01-01 00:00:00+00"}
    jobs: ClassVar[list[helix.Job]] = helix.with_failed_tasks(30, seed=3)

    @pytest.fixture
    def store(self, make_helix: Any, engine: str) -> Store:
        store: Store = make_helix(engine, self.jobs, triggers=False)
        return store

    def expected(self, tables: Tables, vendor: str) -> Tables:
        wanted = expected(tables)
        if vendor == "sqlite":
            for row in wanted["tasks"].values():
                row["retry_count"] = int(row["retry_count"])
        return wanted

    def changed(self, before: Tables, after: Tables) -> Any:
        """Yield the jobs of which a task changes."""
        yield from sorted({int(row["job_id"]) for k, row in before["tasks"].items() if after["tasks"][k] != row})


for name in REPLACED_TESTS:
    setattr(TestRetryFailedTasks, name, None)
