"""Recovery of a real LangGraph workflow with both savers: killed, resumed, synced and verified."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from opsconsole.engine import leases, lifecycle, notifications, planner
from opsconsole.engine.models import Alert, Run, Status
from opsconsole.engine.selection import Selection
from opsconsole.stores.store import Store
from roadmaps import attempts, resume
from roadmaps.models import Recovery
from roadmaps.resume import NotConfigured
from tests.support.contract import TESTER, Crash, die, operation_called, plan_whole, work
from tests.support.graphs import NODES
from tests.support.plain_client import dump, execute, schema
from tests.support.platform_endpoint import listening
from tests.support.roadmaps import INCIDENT, Maker, concept, minutes_ago
from tests.support.subprocess_cli import ROOT

NAME = "roadmaps.recover_tasks"
ENGINES = ("sqlite", "postgresql-json")

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "roadmaps"])


@pytest.fixture(autouse=True)
def _workflow(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.ROADMAPS_WORKFLOW_GRAPH = "tests.support.graphs.make"
    settings.TASK_RECOVERY_DELAY_SECONDS = 0
    monkeypatch.setattr(attempts, "POLL_SECONDS", 0.01)
    monkeypatch.setenv("GRAPH_NOTES", str(tmp_path / "notes"))
    monkeypatch.delenv("GRAPH_ACCIDENT", raising=False)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def nodes_run(notes: Path) -> list[str]:
    return notes.read_text().split() if notes.exists() else []


BEGIN = """
import sys
from tests.support.graphs import make
address, *threads = sys.argv[1:]
if address.startswith("postgresql"):
    from langgraph.checkpoint.postgres import PostgresSaver as Saver
else:
    from langgraph.checkpoint.sqlite import SqliteSaver as Saver
with Saver.from_conn_string(address) as saver:
    saver.setup()
    for thread in threads:
        make(saver).invoke({"done": []}, {"configurable": {"thread_id": thread}}, durability="sync")
"""


def begin(address: str, *threads: str, accident: str = "") -> int:
    """Run the workflow as the platform's worker would, until it is killed. Return the exit code."""
    environment = {**os.environ, "GRAPH_ACCIDENT": accident}
    done = subprocess.run([sys.executable, "-c", BEGIN, address, *threads], cwd=ROOT, env=environment, check=False)
    return done.returncode


def address_of(store: Store) -> str:
    if store.path is not None:
        return str(store.path)
    config = store.connection.settings_dict
    return f"postgresql://{config['USER']}@{config['HOST']}:{config['PORT']}/{config['NAME']}"


def a_store(make_roadmaps: Any, engine: str, *, complete: bool = True, **columns: Any) -> Store:
    """Create a store with one interrupted task and its content. One quiz is missing if it is not complete."""
    maker = Maker()
    maker.roadmap("r", [concept("a"), concept("b")])
    for key in ("a", "b"):
        maker.content("r", key)
    if not complete:
        maker.rows["quiz_metadata"].pop()
    maker.task(INCIDENT, "r", **{"created_at": minutes_ago(90), "updated_at": minutes_ago(45), **columns})
    store: Store = make_roadmaps(engine, maker.rows)
    return store


def recover(store: Store, *keys: str) -> Run:
    planned = planner.plan(operation_called(NAME, store), Selection(list(keys)) if keys else Selection())
    return work(lifecycle.confirm(lifecycle.create_run(planned, TESTER), TESTER, background=False))


@pytest.mark.parametrize("engine", ENGINES)
def test_killed_in_the_middle_and_recovered(make_roadmaps: Any, engine: str, notes: Path) -> None:
    store = a_store(make_roadmaps, engine)
    assert begin(address_of(store), INCIDENT, accident="kill tutorials") == -signal.SIGKILL
    assert nodes_run(notes) == ["intent", "curriculum"]
    before, shape = dump(store), schema(store)
    planned = plan_whole(operation_called(NAME, store))
    assert planned.reasons["changed"] == {"from_checkpoint": 1}
    assert planned.sample[0]["detail"].startswith("step 2, checkpoint of 20")
    assert dump(store) == before
    run = recover(store)
    assert (run.status, run.reasons["changed"]) == (Status.SUCCEEDED, {"recovered": 1})
    assert nodes_run(notes) == list(NODES), "finished nodes are not run again"
    task = dump(store)["roadmap_tasks"][INCIDENT]
    assert (task["status"], task["failed_concepts"]) == ("completed", None)
    assert schema(store) == shape
    assert Recovery.objects.get().outcome == "recovered"
    assert Run.objects.get(operation="roadmaps.sync_results").started_by == run.started_by


@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_that_raises_leaves_the_task_recoverable(
    make_roadmaps: Any, engine: str, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = a_store(make_roadmaps, engine)
    begin(address_of(store), INCIDENT, accident="kill curriculum")
    monkeypatch.setenv("GRAPH_ACCIDENT", "raise quizzes")
    before = dump(store)["roadmap_tasks"]
    for failed in (1, 2, 3):
        run = recover(store)
        assert (run.status, run.failed) == (Status.NEEDS_ATTENTION, 1)
        assert run.failed_items.get().error == "the model is overloaded"
        assert attempts.failures(store.identity(), INCIDENT) == failed
    assert dump(store)["roadmap_tasks"] == before
    assert nodes_run(notes) == ["intent", "curriculum", "tutorials"]
    assert Alert.objects.filter(key__startswith="recovery/").count() == 1
    left = recover(store)
    assert left.total == 0, "after three failures it needs a person"
    monkeypatch.delenv("GRAPH_ACCIDENT")
    assert recover(store, INCIDENT).status == Status.SUCCEEDED
    assert nodes_run(notes) == list(NODES)
    assert attempts.failures(store.identity(), INCIDENT) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_without_a_checkpoint_the_task_fails(make_roadmaps: Any, engine: str) -> None:
    store = a_store(make_roadmaps, engine)
    begin(address_of(store), "another")
    planned = plan_whole(operation_called(NAME, store))
    assert planned.reasons["changed"] == {"no_checkpoint": 1}
    run = recover(store)
    assert (run.status, run.reasons["changed"]) == (Status.SUCCEEDED, {"no_checkpoint": 1})
    task = dump(store)["roadmap_tasks"][INCIDENT]
    assert (task["status"], task["current_step"]) == ("failed", "recovery_failed")
    assert task["error_message"].startswith("No checkpoint")


def test_waiting_active_and_old_tasks_are_not_recovered(make_roadmaps: Any, settings: Any) -> None:
    store = a_store(make_roadmaps, "sqlite")
    begin(address_of(store), INCIDENT, accident="kill tutorials")
    for change in (
        "status = 'human_review_pending'",
        f"updated_at = '{minutes_ago(5)}'",
        f"created_at = '{minutes_ago(25 * 60)}'",
        "task_type = 'retry_quiz'",
        "status = 'completed'",
    ):
        kept = dump(store)["roadmap_tasks"][INCIDENT]
        execute(store, f"UPDATE roadmap_tasks SET {change}")
        assert recover(store).total == 0, change
        for name in ("status", "updated_at", "created_at", "task_type"):
            execute(store, f"UPDATE roadmap_tasks SET {name} = ?", [kept[name]])
    execute(store, f"UPDATE roadmap_tasks SET updated_at = '{minutes_ago(5)}'")
    assert recover(store, INCIDENT).reasons["skipped"] == {"moves": 1}


def test_a_missing_or_invalid_graph_is_refused(make_roadmaps: Any, settings: Any) -> None:
    store = a_store(make_roadmaps, "sqlite")
    begin(address_of(store), INCIDENT, accident="kill tutorials")
    before = dump(store)
    for path, words in (("", "ROADMAPS_RESUME_URL"), ("tests.support.graphs.nothing", "cannot be imported")):
        settings.ROADMAPS_WORKFLOW_GRAPH = path
        with pytest.raises(NotConfigured, match=words):
            recover(store)
    settings.ROADMAPS_WORKFLOW_GRAPH = "tests.support.graphs.make"
    assert dump(store) == before
    assert not Run.objects.exists()


def test_tables_of_langgraph_are_not_created(make_roadmaps: Any) -> None:
    store = a_store(make_roadmaps, "sqlite")
    before, shape = dump(store), schema(store)
    with pytest.raises(Exception, match="ROADMAPS_CHECKPOINT_URL"):
        recover(store)
    assert (dump(store), schema(store)) == (before, shape)


@pytest.mark.parametrize("engine", ENGINES)
def test_checkpoints_in_a_separate_database(
    make_roadmaps: Any, engine: str, settings: Any, tmp_path: Path, request: pytest.FixtureRequest, notes: Path
) -> None:
    store = a_store(make_roadmaps, "sqlite")
    address = str(tmp_path / "checkpoints.db")
    if engine != "sqlite":
        address = request.getfixturevalue("postgres").create_database("checkpoints")
    begin(address, INCIDENT, accident="kill tutorials")
    settings.ROADMAPS_CHECKPOINT_URL = address if "://" in address else f"sqlite:///{address}"
    assert operation_called("roadmaps.check_recovery", store)
    assert recover(store).reasons["changed"] == {"recovered": 1}
    assert nodes_run(notes) == list(NODES)


def test_the_worker_of_the_console_is_killed_as_well(make_roadmaps: Any, notes: Path, monkeypatch: Any) -> None:
    """The run resumes the same task from its newest checkpoint."""
    store = a_store(make_roadmaps, "sqlite")
    begin(address_of(store), INCIDENT, accident="kill curriculum")
    real = resume.resume

    def half(*args: Any) -> bool:
        monkeypatch.setenv("GRAPH_ACCIDENT", "raise quizzes")
        try:
            real(*args)
        except RuntimeError:
            raise Crash from None
        return True

    monkeypatch.setattr(resume, "resume", half)
    planned = planner.plan(operation_called(NAME, store))
    run = lifecycle.confirm(lifecycle.create_run(planned, TESTER), TESTER, background=False)
    with pytest.raises(Crash):
        work(run)
    assert Recovery.objects.get().outcome == "running"
    monkeypatch.setattr(resume, "resume", real)
    monkeypatch.delenv("GRAPH_ACCIDENT")
    run = work(die(run))
    assert (run.status, run.reasons["changed"]) == (Status.SUCCEEDED, {"recovered": 1})
    assert nodes_run(notes) == list(NODES)
    assert list(Recovery.objects.order_by("pk").values_list("outcome", flat=True)) == ["failed", "recovered"]


def test_limit_and_delay_of_recoveries(make_roadmaps: Any, settings: Any, monkeypatch: Any) -> None:
    settings.TASK_RECOVERY_MAX_CONCURRENT = 1
    store = a_store(make_roadmaps, "sqlite")
    begin(address_of(store), INCIDENT, accident="kill tutorials")
    other = Run.objects.create(
        operation=NAME,
        store="roadmaps",
        identity="x",
        status=Status.RUNNING,
        worker=leases.this_worker(),
        lease_until=timezone.now() + timedelta(minutes=1),
    )
    first = Recovery.objects.create(identity="x", task_id="other", run=other)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        Run.objects.filter(pk=other.pk).update(status=Status.SUCCEEDED)

    monkeypatch.setattr("roadmaps.attempts.time.sleep", sleep)
    with attempts.attempt(store.identity(), INCIDENT, None):
        pass
    assert len(waited) == 1
    first.refresh_from_db()
    assert first.outcome == "failed", "its run ended without an outcome"
    settings.TASK_RECOVERY_DELAY_SECONDS = 3600
    long_ago = timezone.now() - timedelta(hours=2)
    monkeypatch.setattr("roadmaps.attempts.time.sleep", lambda seconds: Recovery.objects.update(started_at=long_ago))
    with attempts.attempt(store.identity(), INCIDENT, None):
        assert Recovery.objects.count() == 3


def test_the_resume_endpoint(make_roadmaps: Any, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_store(make_roadmaps, "sqlite", complete=False)
    begin(address_of(store), INCIDENT, accident="kill tutorials")
    settings.ROADMAPS_WORKFLOW_GRAPH, settings.ROADMAPS_RESUME_SECRET = "", "s3cret"
    monkeypatch.setattr(resume, "POLL_SECONDS", 0.01)
    with listening() as platform:
        platform.answers = [503, 202]
        settings.ROADMAPS_RESUME_URL = platform.url
        run = recover(store)
        assert run.failed_items.get().error == "The resume endpoint answered 503."
        platform.then = lambda: execute(store, "UPDATE roadmap_tasks SET status = 'failed'")
        run = recover(store)
        assert run.reasons["changed"] == {"recovered": 1}
    headers, body = platform.seen[-1]
    assert json.loads(body)["task_id"] == INCIDENT
    assert headers[notifications.SIGNATURE] == notifications.signature("s3cret", headers[notifications.TIMESTAMP], body)
    assert headers["Idempotency-Key"].startswith(INCIDENT)
    assert dump(store)["roadmap_tasks"][INCIDENT]["status"] == "partial_failure"


def test_the_recovery_waits_while_content_is_generated(
    make_roadmaps: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of the platform's queue does not change the task. Its content rows show that it is active."""
    store = a_store(make_roadmaps, "sqlite")
    begin(address_of(store), INCIDENT, accident="kill tutorials")
    settings.ROADMAPS_WORKFLOW_GRAPH, settings.ROADMAPS_STUCK_AFTER_MINUTES = "", 0
    polls: list[float] = []

    def sleep(seconds: float) -> None:
        polls.append(seconds)
        if polls.count(resume.POLL_SECONDS) == 3:
            execute(store, "UPDATE roadmap_tasks SET status = 'completed'")

    def start() -> None:
        execute(store, f"UPDATE quiz_metadata SET generated_at = '{minutes_ago(-5)}'")
        monkeypatch.setattr("roadmaps.resume.time.sleep", sleep)

    with listening() as platform:
        settings.ROADMAPS_RESUME_URL, platform.answers, platform.then = platform.url, [202], start
        assert recover(store).reasons["changed"] == {"recovered": 1}
    assert polls.count(resume.POLL_SECONDS) == 3


def test_the_journal_mode_of_a_file_stays(make_roadmaps: Any, notes: Path) -> None:
    """The saver's own `setup()` would switch a SQLite file to WAL for good."""
    store = a_store(make_roadmaps, "sqlite")
    begin(address_of(store), INCIDENT, accident="kill tutorials")
    with closing(sqlite3.connect(str(store.path))) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    shape = schema(store)
    assert recover(store).reasons["changed"] == {"recovered": 1}
    assert schema(store) == shape
