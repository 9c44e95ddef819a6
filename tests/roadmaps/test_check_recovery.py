"""The check of tasks and frameworks: every code on every engine, and the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from opsconsole.engine.models import Finding, Status
from opsconsole.stores.store import Store
from roadmaps.operations.check_recovery import CheckRecovery
from tests.support import roadmaps
from tests.support.contract import execute_run, operation_called
from tests.support.plain_client import dump
from tests.support.roadmaps import ENGINES, INCIDENT, Maker, concept, minutes_ago
from tests.support.subprocess_cli import Shell

NAME = "roadmaps.check_recovery"
COMPLETED = {
    "content_status": "completed",
    "tutorial_id": "t-{0}-a-1",
    "content_ref": "https://content/a/1",
    "content_version": "v1",
    "resources_status": "completed",
    "resources_id": "r-{0}-a-1",
    "resources_count": 3,
    "quiz_status": "completed",
    "quiz_id": "q-{0}-a-1",
    "quiz_questions_count": 5,
}

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "roadmaps"])


def complete(roadmap: str, **changes: Any) -> Any:
    values = {key: value.format(roadmap) if isinstance(value, str) else value for key, value in COMPLETED.items()}
    return concept("a", **values | changes)


def cases(maker: Maker) -> dict[str, set[str]]:
    """Create one task per case. Return task -> the expected codes."""
    wanted: dict[str, set[str]] = {}

    def case(name: str, codes: set[str], framework_concept: Any, *, content: bool = True, **columns: Any) -> None:
        maker.roadmap(name, [framework_concept])
        if content:
            maker.content(name, "a")
        done = {"status": "completed", "current_step": "completed"}
        maker.task(f"task-{name}", name, **done | columns)
        wanted[f"task-{name}"] = codes

    case("fine", set(), complete("fine"))
    case("behind", {"framework_behind_content"}, concept("a"))
    case("stale", {"framework_behind_content"}, complete("stale", content_ref="https://elsewhere"))
    case(
        "ahead",
        {"framework_ahead_of_content", "reference_dangling", "status_mismatch"},
        complete("ahead"),
        content=False,
    )
    case("missing", {"reference_missing"}, complete("missing", quiz_id=None))
    case("dangling", {"reference_dangling"}, complete("dangling", resources_id="gone"))
    case("mismatch", {"status_mismatch"}, complete("mismatch"), status="partial_failure")
    case(
        "stuck",
        {"stuck", "no_checkpoint", "framework_behind_content"},
        concept("a"),
        status="processing",
        updated_at=minutes_ago(40),
    )
    case("at-work", set(), concept("a"), status="processing", updated_at=minutes_ago(3))
    case("review", set(), concept("a"), status="human_review_pending")
    case("retry", {"stuck"}, complete("retry"), status="processing", updated_at=minutes_ago(40), task_type="retry_quiz")
    maker.task("task-lost", "nowhere", status="completed")
    wanted["task-lost"] = {"roadmap_missing"}
    maker.task("task-early", None, status="processing", updated_at=minutes_ago(2))
    wanted["task-early"] = set()
    maker.roadmap("old", [complete("old", tutorial_id="t-old-a-1", content_ref="https://content/a/1")])
    maker.content("old", "a")
    maker.tutorial("old", "a", 2)
    maker.task("task-old", "old", status="completed")
    wanted["task-old"] = {"framework_behind_content"}
    return wanted


@pytest.mark.parametrize("engine", ENGINES)
def test_every_code(make_roadmaps: Any, engine: str) -> None:
    maker = Maker()
    wanted = cases(maker)
    store = make_roadmaps(engine, maker.rows)
    before = dump(store)
    check: Any = operation_called(NAME, store)
    found = {report.task.task_id: {problem.code for problem in report.problems} for report in check.task_reports()}
    assert found == wanted
    run = execute_run(check)
    assert run.status == Status.SUCCEEDED
    kept: dict[str, set[str]] = {}
    for code, subject in Finding.objects.values_list("code", "subject"):
        kept.setdefault(subject, set()).add(code)
    assert kept == {task: codes for task, codes in wanted.items() if codes}
    assert dump(store) == before
    assert all(CheckRecovery.causes[code].repairs for code in {"stuck", "no_checkpoint", "partial_failure"})


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-jsonb"])
def test_statements_do_not_grow_with_the_store(make_roadmaps: Any, engine: str) -> None:
    counts = []
    for tasks in (20, 400):
        store = make_roadmaps(engine, roadmaps.without_broken(roadmaps.everything(tasks=tasks)))
        statements: list[str] = []
        check: Any = operation_called(NAME, store)
        with connections[store.alias].execute_wrapper(_counted(statements)):
            assert len(list(check.task_reports())) >= tasks
        counts.append(len(statements))
    assert counts[0] == counts[1] < 25


def _counted(statements: list[str]) -> Any:
    def wrapper(call: Any, sql: str, *rest: Any) -> Any:
        statements.append(sql)
        return call(sql, *rest)

    return wrapper


# --- the commands -------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path: Path, empty_console: Path) -> Shell:
    return Shell(tmp_path / "console", empty_console)


@pytest.fixture
def incident(make_roadmaps: Any) -> Store:
    maker = Maker()
    roadmaps.incident(maker)
    store: Store = make_roadmaps("sqlite", maker.rows)
    return store


def test_check_sync_verify_from_the_shell(shell: Shell, incident: Store) -> None:
    at = ("--db-path", str(incident.path))
    content = Path(at[1]).read_bytes()
    found = shell.json("check_task_recovery_status", INCIDENT, *at)
    assert Path(at[1]).read_bytes() == content
    assert {key: found[key] for key in ("task_id", "status", "current_step", "concepts", "references_complete")} == {
        "task_id": INCIDENT,
        "status": "processing",
        "current_step": "content_generation",
        "concepts": 30,
        "references_complete": 0,
    }
    assert found["framework"] == {"tutorial": 0, "resources": 0, "quiz": 0}
    assert found["content"] == {"tutorial": 27, "resources": 27, "quiz": 27}
    assert {problem["code"] for problem in found["problems"]} == {"stuck", "no_checkpoint", "framework_behind_content"}
    assert shell.run("check_task_recovery_status", "--all", "--exit-code", *at).returncode == 3
    planned = shell.json("sync_task_results_to_framework", INCIDENT, "--dry-run", *at)
    done = shell.json("sync_task_results_to_framework", INCIDENT, *at)
    assert [planned[key] for key in ("total", "changed", "skipped", "invalid")] == [1, 1, 0, 0]
    assert [done[key] for key in ("status", "total", "changed", "skipped", "invalid")] == ["succeeded", 1, 1, 0, 0]
    after = shell.json("check_task_recovery_status", "--all", *at)["tasks"]
    assert [(one["references_complete"], one["problems"], one["status"]) for one in after] == [
        (27, [], "partial_failure")
    ]
    verified = shell.run("verify_framework_sync", INCIDENT, "--exit-code", *at)
    assert verified.returncode == 0
    assert "27/27 with complete references" in verified.stdout
    again = shell.json("sync_task_results_to_framework", INCIDENT, *at)
    assert (again["changed"], again["status"]) == (0, "succeeded")
    assert shell.json("sync_task_results_to_framework", "--all", *at)["total"] == 0


def test_refusals(shell: Shell, make_roadmaps: Any) -> None:
    maker = Maker()
    maker.roadmap("r", [concept("a")])
    maker.task("moving", "r", updated_at=minutes_ago(5))
    at = ("--db-path", str(make_roadmaps("sqlite", maker.rows).path))
    assert "moving" in shell.refused("sync_task_results_to_framework", "moving", *at)
    assert "nobody" in shell.refused("sync_task_results_to_framework", "nobody", *at)
    assert "nobody" in shell.refused("check_task_recovery_status", "nobody", *at)
    assert "--all" in shell.refused("sync_task_results_to_framework", *at)
    assert "exclude each other" in shell.refused("verify_framework_sync", "moving", "--all", *at)
    assert "ROADMAPS_RESUME_URL" in shell.refused("recover_interrupted_tasks", "--yes", *at)
    assert "moving" in shell.refused("recover_task", "moving", "--yes", *at)
    assert shell.json("sync_task_results_to_framework", "moving", "--force", *at)["changed"] == 1


def test_unreadable_frameworks_do_not_stop_the_check(shell: Shell, make_roadmaps: Any) -> None:
    store = make_roadmaps("sqlite", roadmaps.everything(tasks=5))
    found = shell.json("check_task_recovery_status", "--all", "--db-path", str(store.path))["tasks"]
    broken = {one["task_id"] for one in found if "roadmap_missing" in {p["code"] for p in one["problems"]}}
    assert broken == {"alone-broken", "alone-empty", "alone-list", "alone-null", "alone-without", "alone-early"}
    assert json.dumps(found)
