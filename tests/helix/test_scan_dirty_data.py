"""The scan for dirty data: all types, no false findings, priorities, JSON and stored findings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opsconsole.engine.models import Alert, Finding, Incident, Status
from opsconsole.stores.store import Store
from tasks.helix.dirty_data import dirty_jobs, jobs_with_all
from tasks.helix.models import HelixJob
from tasks.helix.operations.scan_dirty_data import ScanDirtyData
from tests.conftest import HELIX_ENGINES
from tests.support import helix
from tests.support.contract import execute_run, operation_called
from tests.support.plain_client import dump, execute, schema
from tests.support.subprocess_cli import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "helix"])
SCAN = "helix.scan_dirty_data"


def found_in(store: Store) -> dict[tuple[str, Any], tuple[list[int], list[int]]]:
    scan = ScanDirtyData(store)
    return {
        (one.code, one.data["job_id"]): (one.data["task_ids"], one.data["artifact_ids"])
        for question in scan.rules
        for one in scan.run_rule(question)
    }


@pytest.mark.parametrize("engine", HELIX_ENGINES)
def test_one_finding_of_each_type_and_no_other(make_helix, engine):
    jobs = helix.one_of_each()
    store = make_helix(engine, jobs)
    before, shape = dump(store), schema(store)
    found = found_in(store)
    assert found == helix.expected(jobs)
    assert {code: job for code, job in found if code != "E"} == {"A": 1, "B": 2, "C": 3, "D": 4, "F": 6}
    assert not {7, 8, 9} & {job for _code, job in found}
    assert (dump(store), schema(store)) == (before, shape)


@pytest.mark.parametrize("engine", HELIX_ENGINES)
def test_artifacts_of_missing_tasks(make_helix, engine):
    """They exist only without foreign keys, and their job is unknown."""
    store = make_helix(engine, helix.one_of_each(), orphans=[(901, 77), (902, 78), (900, 77 + 10_000)])
    scan = ScanDirtyData(store)
    missing = [one for one in scan.run_rule("B") if one.data["job_id"] is None]
    assert [(one.data["task_ids"], one.data["artifact_ids"]) for one in missing] == [
        ([77], [901]),
        ([78], [902]),
        ([10_077], [900]),
    ]
    assert scan.as_json(missing[0]) == {
        "type": "B",
        "job_id": None,
        "task_ids": [77],
        "artifact_ids": [901],
        "priority": "periodic",
        "detail": "artifacts of failed or missing tasks: 1",
    }


TASKS = st.builds(helix.Task, st.sampled_from(helix.TASK), st.integers(0, 4), st.integers(0, 2))
JOBS = st.lists(st.builds(helix.Job, st.sampled_from(helix.JOB), st.lists(TASKS, max_size=4)), max_size=8)


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-enum"])
def test_no_false_findings(make_helix, engine):
    """SQL, Python and the independent model agree on random stores."""
    store = make_helix(engine, [])

    @given(jobs=JOBS)
    @hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def agree(jobs: list[helix.Job]) -> None:
        execute(store, "DELETE FROM artifacts")
        execute(store, "DELETE FROM tasks")
        execute(store, "DELETE FROM jobs")
        with_values(store, jobs)
        wanted = helix.expected(jobs)
        assert found_in(store) == wanted
        rows = HelixJob.objects.using(store.alias)
        dirty = sorted(rows.filter(pk__in=dirty_jobs()).values_list("pk", flat=True))
        assert dirty == sorted({job for _code, job in wanted})
        for row in jobs_with_all(store, list(range(1, len(jobs) + 1))):
            problems = {code: [task.row.pk for task in tasks] for code, tasks in row.problems().items()}
            assert problems == {code: tasks for (code, job), (tasks, _a) in wanted.items() if job == row.pk}

    agree()


def with_values(store: Store, jobs: list[helix.Job]) -> None:
    from tests.support.plain_client import neighbour

    with neighbour(store) as connection:
        connection.execute("BEGIN")
        for sql, values in helix.rows(jobs):
            connection.execute(sql, values)
        connection.execute("COMMIT")


@pytest.mark.parametrize(
    ("environment", "priorities", "risk"),
    [
        ("development", {"periodic"}, "low"),
        ("staging", {"immediate", "planned"}, "medium"),
        ("production", {"immediate", "planned"}, "high"),
    ],
)
def test_priority_and_risk(make_helix, settings, environment, priorities, risk):
    """The documented priorities: immediate, planned and periodic."""
    settings.ENVIRONMENT = environment
    scan = ScanDirtyData(make_helix("sqlite", helix.one_of_each()))
    found = [one for question in scan.rules for one in scan.run_rule(question)]
    assert {one.priority for one in found} == priorities
    assert scan.report(found)["risk"] == risk
    if environment != "development":
        assert {one.data["job_id"] for one in found if one.priority == "planned"} == {2}


def test_the_number_of_retries_is_configurable(make_helix, settings):
    settings.HELIX_MAX_RETRY_COUNT = 1
    jobs = helix.one_of_each()
    assert found_in(make_helix("sqlite", jobs)) == helix.expected(jobs, max_retries=1)


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-enum"])
def test_one_pass_per_type(make_helix, engine):
    counts = []
    for size in (5, 50):
        store = make_helix(engine, helix.many(size))
        scan = ScanDirtyData(store)
        with CaptureQueriesContext(connections[store.alias]) as queries:
            for question in scan.rules:
                list(scan.run_rule(question))
        counts.append(len([query for query in queries if "SELECT" in query["sql"]]))
    assert counts[0] == counts[1] == 6


def test_findings_are_stored_and_incidents_reported_once(make_helix, settings):
    settings.ENVIRONMENT = "staging"
    store = make_helix("postgresql-enum", helix.one_of_each())
    first = execute_run(operation_called(SCAN))
    assert (first.status, first.after["new"]) == (Status.SUCCEEDED, len(helix.expected(helix.one_of_each())))
    alerts = set(Alert.objects.values_list("subject", flat=True))
    assert len(alerts) == Incident.objects.count() == 5
    assert all(subject.startswith("New incident: ") for subject in alerts)

    second = execute_run(operation_called(SCAN))
    assert (second.after["new"], second.after["persisting"]) == (0, 7)
    assert Alert.objects.count() == 5

    execute(store, "UPDATE jobs SET status = 'CANCELLED' WHERE id = 3")
    execute(store, "UPDATE jobs SET status = 'IN_PROGRESS' WHERE id = 2")
    third = execute_run(operation_called(SCAN))
    assert (third.after["new"], third.after["persisting"], third.after["resolved"]) == (1, 6, 1)
    resolved = Alert.objects.get(subject__startswith="Incident resolved: ")
    assert "all its tasks have failed" in resolved.subject
    assert Finding.objects.get(code="C").resolved_run == third


def test_the_command(make_helix, tmp_path, empty_console):
    store = make_helix("sqlite", helix.one_of_each())
    shell = Shell(tmp_path / "console", empty_console)
    answer = shell.json("cleanup_dirty_data", "scan", "--db-path", store.path)
    assert answer["counts"] == {"A": 1, "B": 1, "C": 1, "D": 1, "E": 2, "F": 1}
    assert {tuple(one) for one in answer["findings"]} == {
        ("type", "job_id", "task_ids", "artifact_ids", "priority", "detail")
    }
    assert next(one for one in answer["findings"] if one["type"] == "F") == {
        "type": "F",
        "job_id": 6,
        "task_ids": [14],
        "artifact_ids": [7, 8],
        "priority": "periodic",
        "detail": "artifacts of tasks that still have to run, whose next attempt will collide: 2",
    }
    assert shell.json("cleanup_dirty_data", "scan", "--exit-code", "--db-path", store.path, code=3)["persisting"] == 7
    text = shell.run("cleanup_dirty_data", "scan", "--dry-run", "--db-path", store.path)
    assert text.returncode == 0
    assert "in progress, but all tasks have failed: 2" in text.stdout
    healthy = make_helix("sqlite", [helix.Job("PENDING")])
    answer = shell.json("cleanup_dirty_data", "scan", "--exit-code", "--db-path", healthy.path)
    assert (answer["findings"], set(answer["counts"].values())) == ([], {0})
    assert json.loads(json.dumps(answer))["risk"] == "low"
