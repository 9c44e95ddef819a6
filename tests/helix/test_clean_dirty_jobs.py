"""Cleaning dirty jobs: exactly the planned rows, an exact undo, locks, refusals and questions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

from opsconsole.engine import executor, lifecycle, obstacles, planner
from opsconsole.engine.batch_writer import BatchWriter
from opsconsole.engine.errors import PlanDrifted, RunRefused
from opsconsole.engine.models import Run, Status
from opsconsole.engine.selection import Selection
from opsconsole.stores.store import Store
from tests.conftest import HELIX_ENGINES
from tests.support import helix
from tests.support.contract import TESTER, EngineContract, left_by, operation_called, undo, work
from tests.support.plain_client import Row, Tables, dump, execute, schema
from tests.support.subprocess_cli import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "helix"])
CLEAN = "helix.clean_dirty_jobs"


def planned_run(store: Store, *keys: int, note: str = "", **params: Any) -> Run:
    """Create a planned run with all its counts."""
    operation = operation_called(CLEAN, store, **params)
    planned = planner.plan(operation, Selection(list(keys)) if keys else Selection())
    return lifecycle.create_run(planner.count_outcomes(planned), TESTER, note=note)


def confirmed(store: Store, *keys: int, **options: Any) -> Run:
    return lifecycle.confirm(planned_run(store, *keys, **options), TESTER, background=False)


def without_jobs(tables: Tables, jobs: set[int]) -> Tables:
    """Return the tables without these jobs and their tasks and artifacts."""
    tasks = {key for key, row in tables["tasks"].items() if int(row["job_id"]) in jobs}
    return {
        **tables,
        "jobs": {key: row for key, row in tables["jobs"].items() if key not in jobs},
        "tasks": {key: row for key, row in tables["tasks"].items() if key not in tasks},
        "artifacts": {k: row for k, row in tables["artifacts"].items() if int(row["task_id"]) not in tasks},
    }


@pytest.mark.parametrize("engine", HELIX_ENGINES)
def test_exactly_the_dirty_jobs_are_deleted_and_restored(make_helix, engine):
    store = make_helix(engine, helix.one_of_each())
    before, shape = dump(store), schema(store)
    run = work(confirmed(store))
    assert dump(store) == without_jobs(before, {1, 2, 3, 4, 5, 6})
    assert (run.status, run.changed, run.batches_done) == (Status.SUCCEEDED, 6, 6)
    assert run.before == {"in_scope": 6, "tasks": 14, "artifacts": 8}
    assert run.after == {"in_scope": 0, "tasks": 0, "artifacts": 0}
    assert [write.table for write in run.batches.get(number=1).writes] == ["artifacts", "tasks", "jobs"]
    undone = undo(run)
    assert (undone.status, undone.invalid, undone.skipped) == (Status.SUCCEEDED, 0, 0)
    assert (dump(store), schema(store)) == (before, shape)


@pytest.mark.parametrize("engine", HELIX_ENGINES)
def test_only_selected_jobs_are_deleted(make_helix, engine):
    store = make_helix(engine, helix.one_of_each())
    before = dump(store)
    run = work(confirmed(store, 3, 5, 7))
    assert dump(store) == without_jobs(before, {3, 5})
    assert left_by(run) == {"skipped": {"no_finding": ["7"]}}
    assert run.status == Status.SUCCEEDED
    assert undo(run).status == Status.SUCCEEDED
    assert dump(store) == before


CHANGES = {
    "a task restarted": "UPDATE tasks SET status = 'PENDING', retry_count = 2 WHERE job_id = 3",
    "a task added": "INSERT INTO tasks (id, job_id, agent_id, status, input_data) "
    "VALUES (999, 3, 'A', 'PENDING', '{}')",
    "an artifact added": "INSERT INTO artifacts (id, task_id, name, schema_id, payload) "
    "SELECT 999, id, 'late', 'v1', '{}' FROM tasks WHERE job_id = 3 LIMIT 1",
    "the job touched": "UPDATE jobs SET error_message = 'under investigation' WHERE id = 3",
    "a task deleted": "DELETE FROM tasks WHERE id = (SELECT MIN(id) FROM tasks WHERE job_id = 3)",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("engine", ["sqlite", "postgresql-enum"])
def test_a_job_that_changed_since_the_plan_is_skipped(make_helix, engine, change):
    store = make_helix(engine, helix.one_of_each())
    run = confirmed(store)
    execute(store, CHANGES[change])
    changed = dump(store)
    run = work(run)
    assert dump(store) == without_jobs(changed, {1, 2, 4, 5, 6})
    assert list(left_by(run)["skipped"].values()) == [["3"]]
    assert run.status == Status.SUCCEEDED, run.error


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-enum"])
def test_a_row_that_is_added_before_the_write(make_helix, engine, monkeypatch):
    """Another client adds an artifact after the batch was read and before it is written."""
    store = make_helix(engine, helix.one_of_each())
    real = BatchWriter._apply
    late: list[int] = []

    def apply(worker: Any, writes: Any, *rest: Any) -> None:
        if not late and any(write.table == "jobs" and write.rows[0][0] == 3 for write in writes):
            late.append(3)
            execute(store, CHANGES["a task added"])
        real(worker, writes, *rest)

    monkeypatch.setattr(BatchWriter, "_apply", apply)
    run = work(confirmed(store))
    assert late
    assert set(dump(store)["jobs"]) == {3, 7, 8, 9}
    assert 999 in dump(store)["tasks"]
    assert left_by(run) == {"skipped": {"changed_since_plan": ["3"]}}


def test_a_confirmation_is_refused_after_changes(make_helix):
    store = make_helix("postgresql-enum", helix.one_of_each())
    run = planned_run(store, 3)
    obstacles.check_drift(run)
    execute(store, CHANGES["a task restarted"])
    with pytest.raises(PlanDrifted):
        obstacles.check_drift(run)


def test_jobs_created_or_deleted_since_the_plan(make_helix):
    store = make_helix("sqlite", helix.one_of_each())
    run = confirmed(store)
    execute(store, "INSERT INTO jobs (id, status, initial_request) VALUES (100, 'IN_PROGRESS', '{}')")
    execute(store, "INSERT INTO tasks (job_id, agent_id, status, input_data) VALUES (100, 'A', 'FAILED', '{}')")
    execute(store, "DELETE FROM tasks WHERE job_id = 3")
    execute(store, "DELETE FROM jobs WHERE id = 3")
    run = work(run)
    assert (run.status, run.changed, run.reasons["skipped"]) == (Status.SUCCEEDED, 5, {"no_longer_in_scope": 1})
    assert set(dump(store)["jobs"]) == {7, 8, 9, 100}


def test_rows_of_unknown_tables_are_not_deleted(make_helix):
    store = make_helix("postgresql-enum", helix.one_of_each())
    execute(
        store, "CREATE TABLE reviews (id SERIAL PRIMARY KEY, job_id INTEGER REFERENCES jobs (id) ON DELETE CASCADE)"
    )
    execute(store, "INSERT INTO reviews (job_id) VALUES (3)")
    before = dump(store)
    run = work(confirmed(store, 3, 4))
    assert dump(store) == without_jobs(before, {4})
    assert (run.status, run.failed) == (Status.NEEDS_ATTENTION, 1)
    assert "reviews" in run.failed_items.get().error


def test_locks_of_two_operators(make_helix):
    """The first run locks its job. Another job is free, but the whole table is not."""
    store = make_helix("sqlite", helix.one_of_each())
    first = confirmed(store, 3, 4)
    with pytest.raises(RunRefused, match=f"run {first.pk}"):
        confirmed(store, 4, 5)
    second = confirmed(store, 5)
    with pytest.raises(RunRefused, match="is locked by"):
        confirmed(store)
    repair = operation_called("helix.repair_dirty_jobs", store)
    drafted = lifecycle.create_run(planner.count_outcomes(planner.plan(repair, Selection([3]))), TESTER)
    with pytest.raises(RunRefused, match=f"run {first.pk}"):
        lifecycle.confirm(drafted, TESTER, background=False)
    assert [work(run).status for run in (second, first)] == [Status.SUCCEEDED] * 2
    assert set(dump(store)["jobs"]) == {1, 2, 6, 7, 8, 9}


def test_force_needs_a_reason(make_helix):
    store = make_helix("sqlite", helix.one_of_each())
    with pytest.raises(RunRefused, match="why"):
        confirmed(store, 7, force=True)
    run = work(confirmed(store, 7, force=True, note="reset of the test data"))
    assert 7 not in dump(store)["jobs"]
    assert run.reasons["changed"] == {"forced": 1}


def test_all_rows_of_a_filtered_list(make_helix, client, bob):
    """All jobs that match a filter of the list are selected, and healthy ones are skipped."""
    make_helix("postgresql-enum", helix.one_of_each())
    client.force_login(bob)
    chosen = {"action": CLEAN, "_selected_action": ["3"], "select_across": "1"}
    page = client.post("/admin/helix/helixjob/?status__exact=IN_PROGRESS", chosen, follow=True).content.decode()
    run = Run.objects.get()
    assert (run.total, run.plan["rows"]) == (5, {"artifacts": 6, "tasks": 12, "jobs": 5})
    assert "Delete 5 jobs" in page
    assert work(lifecycle.confirm(run, TESTER, background=False)).changed == 5


# --- the platform's health ---------------------------------------------------------------------------------


@pytest.fixture
def health(settings) -> Iterator[dict[str, int]]:
    answer = {"status": 200}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer["status"])
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    settings.HELIX_HEALTH_URL = f"http://127.0.0.1:{server.server_port}/api/v1/health"
    yield answer
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_clean_succeeds_only_if_the_platform_is_healthy(make_helix, health, settings):
    store = make_helix("sqlite", helix.one_of_each())
    assert work(confirmed(store, 3)).status == Status.SUCCEEDED
    health["status"] = 500
    run = work(confirmed(store, 4))
    assert (run.status, run.changed) == (Status.NEEDS_ATTENTION, 1)
    assert "500" in run.error
    settings.HELIX_HEALTH_URL = "http://127.0.0.1:1/health"
    assert "failed" in work(confirmed(store, 5)).error


def test_a_clean_succeeds_only_if_nothing_remains(make_helix, monkeypatch):
    """Without foreign keys, an agent can finish a task whose row was just deleted."""
    store = make_helix("sqlite", helix.one_of_each(), orphans=[(900, 10_000)])
    real = executor.Executor._finish

    def finish(worker: Any) -> Run:
        execute(store, *helix.orphan(901, 6))
        return real(worker)

    monkeypatch.setattr(executor.Executor, "_finish", finish)
    run = work(confirmed(store, 3))
    assert run.status == Status.NEEDS_ATTENTION
    assert "1 artifacts" in run.error


# --- the shell ------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path, empty_console) -> Shell:
    return Shell(tmp_path / "console", empty_console)


def test_the_command(make_helix, shell):
    store = make_helix("sqlite", helix.one_of_each())
    before = dump(store)
    dry = shell.json("cleanup_dirty_data", "cleanup", "3", "4", "--db-path", store.path)
    assert (dry["mode"], dry["status"], dry["total"], dry["changed"]) == ("dry-run", "planned", 2, 2)
    assert dump(store) == before
    wanted = ("cleanup_dirty_data", "cleanup", "3", "4", "--db-path", store.path)
    unanswered = shell.run(*wanted, "--execute")
    assert (unanswered.returncode, "--yes" in unanswered.stderr) == (2, True)
    assert dump(store) == before
    done = shell.json(*wanted, "--execute", "--yes", "--note", "incident 4711")
    assert (done["mode"], done["status"], done["changed"]) == ("execute", "succeeded", 2)
    assert dump(store) == without_jobs(before, {3, 4})
    assert "no row with the key 3" in shell.refused(*wanted)
    back = shell.json("runs", "undo", done["run"], "--execute", "--yes")
    assert back["status"] == "succeeded"
    assert dump(store) == before


def test_a_job_without_finding_is_refused(make_helix, shell):
    store = make_helix("sqlite", helix.one_of_each())
    before = dump(store)
    healthy = ("cleanup_dirty_data", "cleanup", "3", "7", "--db-path", store.path)
    assert "Job 7 has no finding" in shell.refused(*healthy)
    assert "Job 7 has no finding" in shell.refused(*healthy, "--execute", "--yes")
    assert "--note" in shell.refused(*healthy, "--execute", "--yes", "--force")
    assert dump(store) == before
    done = shell.json(*healthy, "--execute", "--yes", "--force", "--note", "reset of the test data")
    assert done["changed"] == 2
    assert dump(store) == without_jobs(before, {3, 7})
    assert shell.json("runs", "show", done["run"])["note"] == "reset of the test data"


def test_bad_input(make_helix, shell, tmp_path):
    store = make_helix("sqlite", helix.one_of_each())
    cleanup = ("cleanup_dirty_data", "cleanup")
    assert "is not a key of jobs" in shell.refused(*cleanup, "abc", "--db-path", store.path)
    assert "no row with the key 4711" in shell.refused(*cleanup, "4711", "--db-path", store.path)
    assert "Omit --batch-size." in shell.refused(*cleanup, "3", "--batch-size", "5", "--db-path", store.path)
    assert "does not exist" in shell.refused(*cleanup, "3", "--db-path", tmp_path / "nowhere.db")
    execute(store, "ALTER TABLE tasks DROP COLUMN retry_count")
    assert "is missing tasks.retry_count" in shell.refused(*cleanup, "3", "--db-path", store.path)
    assert "is missing tasks.retry_count" in shell.refused("cleanup_dirty_data", "scan", "--db-path", store.path)


# --- the contract of changing operations -------------------------------------------------------------------------


class TestCleanDirtyJobs(EngineContract):
    """The contract for an aggregate. Tests above replace those that are set to None."""

    operation = CLEAN
    engines = ("sqlite", "postgresql-enum")
    batch_sizes: ClassVar[tuple[int, ...]] = (1,)
    statements: ClassVar[int] = 40
    meddled: ClassVar[Row] = {"updated_at": "2026-01-01 00:00:00+00"}
    jobs: ClassVar[list[helix.Job]] = helix.many(24, seed=3)

    test_verify_finds_a_row_that_is_in_scope_again = None  # type: ignore[assignment]
    test_rows_added_after_the_plan_are_not_changed = None  # type: ignore[assignment]
    test_a_row_that_changes_before_every_write_is_skipped = None  # type: ignore[assignment]
    test_a_row_deleted_during_the_run_is_skipped = None  # type: ignore[assignment]

    @pytest.fixture
    def store(self, make_helix: Any, engine: str) -> Store:
        store: Store = make_helix(engine, self.jobs, triggers=False)
        return store

    def expected(self, tables: Tables, vendor: str) -> Tables:
        return without_jobs(tables, self.dirty)

    @property
    def dirty(self) -> set[int]:
        return {job for _code, job in helix.expected(self.jobs)}

    def with_row_unchanged(self, after: Tables, before: Tables, key: Any) -> Tables:
        return without_jobs(deepcopy(before), self.dirty - {key})

    def beneath(self, tables: Tables, key: Any) -> list[tuple[str, Any]]:
        left = without_jobs(deepcopy(tables), {key})
        return [(table, row) for table in ("tasks", "artifacts") for row in tables[table].keys() - left[table].keys()]
