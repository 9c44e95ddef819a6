"""No operation and no undo gives a platform work that it did not have before.

The queries are those with which HELIX, the roadmap service and AgentOS look for work, in our own SQL.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain
from typing import Any

import pytest

from audits import demo as audits
from opsconsole.engine import registry
from opsconsole.engine.models import Run, Status
from opsconsole.engine.operation import Action
from opsconsole.stores.store import Store
from tasks.agentos import demo as tasks
from tests.roadmaps.test_fail_unrecoverable import make_tables
from tests.support import helix, roadmaps
from tests.support.contract import execute_run, operation_called, undo
from tests.support.plain_client import neighbour
from tests.support.roadmaps import ENGINES

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])

Work = dict[str, set[Any]]  # query → its result

HELIX = {
    "jobs to begin": "SELECT id FROM jobs WHERE status = 'PENDING'",
    "tasks to work on": "SELECT id FROM tasks WHERE status = 'PENDING'",
    "tasks whose successor is to be made": "SELECT t.id FROM tasks t JOIN jobs j ON j.id = t.job_id"
    " WHERE t.status = 'COMPLETED' AND j.status = 'IN_PROGRESS'",
    "tasks to try again": "SELECT id FROM tasks WHERE status = 'FAILED' AND retry_count < 3",
    "tasks of jobs that are over": "SELECT t.id FROM tasks t JOIN jobs j ON j.id = t.job_id"
    " WHERE t.status IN ('PENDING', 'ASSIGNED', 'RETRYING') AND j.status IN ('FAILED', 'CANCELLED')",
}
ROADMAPS = {
    "tasks to recover": "SELECT task_id FROM roadmap_tasks WHERE status = 'processing' AND task_type = 'creation'",
    "tasks that keep their roadmap busy": "SELECT task_id FROM roadmap_tasks"
    " WHERE status IN ('pending', 'processing', 'human_review_pending')",
    "retries under way": "SELECT task_id FROM roadmap_tasks"
    " WHERE status IN ('pending', 'processing') AND task_type LIKE 'retry%'",
    "tutorials to be made": "SELECT tutorial_id FROM tutorial_metadata"
    " WHERE content_status IN ('pending', 'generating')",
}
AGENTOS = {
    "tasks to start or to continue": "SELECT task_id FROM tasks"
    " WHERE status IN ('created', 'queued', 'pending', 'approved', 'running', 'paused')",
    "events to process": "SELECT id FROM supervisor_inbox WHERE status IN ('pending', 'processing')",
    "projects to work in": "SELECT id FROM projects WHERE status = 'active'",
    "memory to be reminded of": "SELECT id FROM memory_items",
    "audits without decision times": "SELECT audit_id FROM task_audits WHERE lower(event_type) LIKE '%supervisor%'"
    " AND (source_event_ts IS NULL OR supervisor_processed_at IS NULL)",
    "audits whose lag counts": "SELECT audit_id FROM task_audits WHERE lower(event_type) LIKE '%supervisor%'"
    " AND source_event_ts IS NULL AND supervisor_processed_at IS NOT NULL",
}


def work_for(store: Store, questions: Mapping[str, str]) -> Work:
    with neighbour(store) as connection:
        return {name: {row[0] for row in connection.execute(sql).fetchall()} for name, sql in questions.items()}


def more(before: Work, after: Work) -> Work:
    """Return the results of each query that are new."""
    return {name: found - before[name] for name, found in after.items() if found - before[name]}


def finished(run: Run) -> Run:
    assert run.status == Status.SUCCEEDED, run.error
    assert run.changed
    return run


def test_every_changing_operation_is_tested_here() -> None:
    changing = {
        name
        for name, cls in registry.operations().items()
        if cls.writes and isinstance(cls.writes, dict) and not issubclass(cls, Action) and cls.undoable
    }
    assert {name for name in changing if not name.startswith("operations.")} == {
        "audits.backfill_decision_fields",
        "roadmaps.fail_unrecoverable",
        "roadmaps.sync_results",
        "agentos.archive_projects",
        "records.backfill_execution_ids",  # on rows that no platform selects by state
        "helix.clean_dirty_jobs",
        "agentos.clean_memory_items",
        "helix.repair_dirty_jobs",
        "helix.retry_failed_tasks",
        "helix.fail_jobs",
    }


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-enum"])
@pytest.mark.parametrize("jobs", [helix.one_of_each(), helix.many(60)], ids=["one of each", "many"])
def test_helix_cleaned(make_helix: Any, engine: str, jobs: list[helix.Job]) -> None:
    store = make_helix(engine, jobs)
    before = work_for(store, HELIX)
    run = finished(execute_run(operation_called("helix.clean_dirty_jobs", store)))
    assert not more(before, work_for(store, HELIX))
    undo(run)
    assert work_for(store, HELIX) == before


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-enum"])
@pytest.mark.parametrize("jobs", [helix.one_of_each(), helix.many(60)], ids=["one of each", "many"])
def test_helix_repaired(make_helix: Any, engine: str, jobs: list[helix.Job]) -> None:
    """A repair only gives work back for completed tasks without an artifact whose job is in progress."""
    store = make_helix(engine, jobs)
    lost = {
        "": "SELECT t.id FROM tasks t JOIN jobs j ON j.id = t.job_id WHERE t.status = 'COMPLETED'"
        " AND j.status NOT IN ('FAILED', 'CANCELLED') AND NOT EXISTS (SELECT 1 FROM artifacts a WHERE a.task_id = t.id)"
    }
    again = work_for(store, lost)[""]
    before = work_for(store, HELIX)
    run = finished(execute_run(operation_called("helix.repair_dirty_jobs", store)))
    after = work_for(store, HELIX)
    assert more(before, after) == {"tasks to work on": again}
    assert not again & after["tasks whose successor is to be made"]
    undo(run)
    assert work_for(store, HELIX) == before


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-enum"])
def test_helix_retried(make_helix: Any, engine: str) -> None:
    """A retry gives exactly the retried tasks back to the agents."""
    store = make_helix(engine, helix.with_failed_tasks(60))
    before = work_for(store, HELIX)
    run = finished(execute_run(operation_called("helix.retry_failed_tasks", store)))
    retried = {row[0] for batch in run.batches.all() for write in batch.writes for row in write.rows}
    gained = more(before, work_for(store, HELIX))
    assert retried
    assert {key for keys in gained.values() for key in keys} <= retried
    undo(run)
    assert work_for(store, HELIX) == before


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-enum"])
def test_helix_failed(make_helix: Any, engine: str) -> None:
    store = make_helix(engine, helix.with_failed_tasks(60))
    before = work_for(store, HELIX)
    run = finished(execute_run(operation_called("helix.fail_jobs", store)))
    assert run.changed
    assert not more(before, work_for(store, HELIX))
    undo(run)
    assert work_for(store, HELIX) == before


def concepts_waiting(store: Store) -> set[Any]:
    """Return the parts of concepts that the frameworks mark as in progress."""
    found = set()
    with neighbour(store) as connection:
        for roadmap, text in connection.execute("SELECT roadmap_id, framework_data FROM roadmap_metadata").fetchall():
            try:
                framework = json.loads(text) if isinstance(text, str) else text
                modules = [module for stage in framework["stages"] for module in stage["modules"]]
            except (ValueError, TypeError, KeyError):
                continue
            for concept in (concept for module in modules for concept in module["concepts"]):
                for part in ("content_status", "resources_status", "quiz_status"):
                    if concept.get(part) in {"pending", "generating"}:
                        found.add((roadmap, concept["concept_id"], part))
    return found


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["sync_results", "fail_unrecoverable"])
def test_roadmaps(make_roadmaps: Any, engine: str, name: str) -> None:
    rows = roadmaps.everything()
    store = make_roadmaps(engine, rows if engine == "sqlite" else roadmaps.without_broken(rows))
    if name == "fail_unrecoverable":  # none of its tasks has a checkpoint
        make_tables(store)
    before, waiting = work_for(store, ROADMAPS), concepts_waiting(store)
    run = execute_run(operation_called(f"roadmaps.{name}", store))
    assert run.changed, run.error
    after = work_for(store, ROADMAPS)
    assert not more(before, after)
    assert len(after["tasks that keep their roadmap busy"]) < len(before["tasks that keep their roadmap busy"])
    assert concepts_waiting(store) <= waiting
    undo(run)
    assert (work_for(store, ROADMAPS), concepts_waiting(store)) == (before, waiting)


@pytest.mark.parametrize(
    "name", ["audits.backfill_decision_fields", "agentos.archive_projects", "agentos.clean_memory_items"]
)
def test_agentos(managed: Any, name: str) -> None:
    """The test uses the sample data of the demo."""
    list(chain(audits.load(), tasks.load()))
    before = work_for(managed.store, AGENTOS)
    assert all(found for question, found in before.items() if question != "audits whose lag counts")
    run = finished(execute_run(operation_called(name, managed.store)))
    assert not more(before, work_for(managed.store, AGENTOS))
    undo(run)
    assert work_for(managed.store, AGENTOS) == before
