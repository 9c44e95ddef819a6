"""Jobs in progress with failed tasks become FAILED, with the reason; tasks and artifacts stay."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

import pytest

from opsconsole.stores.store import Store
from tests.conftest import HELIX_ENGINES
from tests.helix.test_retry_failed_tasks import REPLACED_TESTS
from tests.support import helix
from tests.support.contract import Contract, execute_run, operation_called, undo
from tests.support.plain_client import Row, Tables, dump

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "helix"])
FAIL = "helix.fail_jobs"


def expected(tables: Tables) -> Tables:
    """Compute the expected tables without code of the console."""
    tables = deepcopy(tables)
    for key, job in tables["jobs"].items():
        tasks = [row for row in tables["tasks"].values() if int(row["job_id"]) == key]
        failed = [row for row in tasks if row["status"] == "FAILED"]
        is_open = any(row["status"] in {"PENDING", "ASSIGNED", "IN_PROGRESS", "RETRYING"} for row in tasks)
        if job["status"] == "IN_PROGRESS" and failed and not is_open:
            job["status"] = "FAILED"
            job["error_message"] = f"OpsConsole: {len(failed)} of {len(tasks)} tasks of this job have failed."
    return tables


@pytest.mark.parametrize("engine", HELIX_ENGINES)
def test_jobs_fail_with_their_reason_and_the_undo_restores_them(make_helix: Any, engine: str) -> None:
    store = make_helix(engine, helix.one_of_each(), triggers=False)
    before = dump(store)
    run = execute_run(operation_called(FAIL, store))
    assert run.changed
    assert dump(store) == expected(before)
    undo(run)
    assert dump(store) == before


class TestFailJobs(Contract):
    """A job with its tasks is one row of the operation; single rows are covered by other operations."""

    operation = FAIL
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
        return expected(tables)

    def changed(self, before: Tables, after: Tables) -> Any:
        """Yield the jobs that change."""
        yield from sorted(k for k, row in before["jobs"].items() if after["jobs"][k] != row)


for name in REPLACED_TESTS:
    setattr(TestFailJobs, name, None)
