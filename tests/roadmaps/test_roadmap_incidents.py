"""The incidents of roadmap tasks: one per task, repaired and undone without a scan."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from django.urls import reverse

from opsconsole.engine import incidents, lifecycle, planner, registry, repairs
from opsconsole.engine.labels import result_label
from opsconsole.engine.models import Finding, Incident, Run, Status
from opsconsole.engine.wording import PlanWording, figure_rows
from opsconsole.stores.store import Store
from tests.conftest import attach_url
from tests.roadmaps.test_fail_unrecoverable import make_tables
from tests.support import roadmaps
from tests.support.contract import TESTER, execute_run, operation_called, undo, work
from tests.support.plain_client import execute
from tests.support.roadmaps import Maker, concept, minutes_ago

NAME, SYNC = "roadmaps.check_recovery", "roadmaps.sync_results"
RECOVER, GIVE_UP = "roadmaps.recover_tasks", "roadmaps.fail_unrecoverable"
REGENERATE, ACCEPT = "roadmaps.retry_failed_concepts", "roadmaps.accept_partial"
BOTH = pytest.mark.parametrize("engine", ["sqlite", "postgresql-jsonb"])

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "roadmaps"])


def configured(make_roadmaps: Any, engine: str, rows: Any) -> Store:
    """Return a store that the settings name, as an incident needs it."""
    store: Store = make_roadmaps(engine, rows)
    make_tables(store)
    return attach_url("roadmaps", f"sqlite:///{store.path}") if store.path else store


def stuck_store(make_roadmaps: Any, engine: str) -> Store:
    maker = Maker()
    roadmaps.incident(maker)
    store = configured(make_roadmaps, engine, maker.rows)
    execute(store, "UPDATE roadmap_metadata SET title = 'Agent performance tuning'")
    return store


def scan(store: Store) -> Run:
    return execute_run(operation_called(NAME, store))


def open_ones() -> dict[str, Incident]:
    return {one.cause: one for one in Incident.objects.filter(resolved_at=None)}


def planned(incident: Incident, name: str, **params: Any) -> Any:
    cls = registry.operation(name)
    operation = repairs.operation_for(incident, cls)
    operation.params |= params
    return planner.count_outcomes(planner.plan(operation, repairs.selection_for(incident, cls)))


def repair(incident: Incident, name: str, **params: Any) -> Run:
    run = lifecycle.create_run(planned(incident, name, **params), TESTER, incident=incident)
    return work(lifecycle.confirm(run, TESTER, background=False))


@BOTH
def test_a_stuck_task_is_one_incident_with_its_figures(make_roadmaps: Any, engine: str) -> None:
    scan(stuck_store(make_roadmaps, engine))
    (incident,) = open_ones().values()
    assert {"stuck", "no_checkpoint", "framework_behind_content"} == set(Finding.objects.values_list("code", flat=True))
    assert incidents.title_of(incident) == "Roadmap “Agent performance tuning” is stuck at 27 of 30 concepts"
    assert (incident.data["done"], incident.data["total"], incident.priority) == (27, 30, "immediate")
    assert incident.count == 1, "findings of different priorities about one row count once"


@BOTH
def test_a_sync_resolves_it_and_the_missing_concepts_are_next(make_roadmaps: Any, settings: Any, engine: str) -> None:
    settings.ROADMAPS_RETRY_URL = "http://127.0.0.1:9/retry"
    store = stuck_store(make_roadmaps, engine)
    scan(store)
    (incident,) = open_ones().values()
    offered = repairs.repairs_of(incident)
    best = repairs.recommended(offered)
    assert best is not None
    assert (best.operation.name, best.label) == (SYNC, "Sync 27 concepts")
    assert [one.operation.name for one in offered] == [SYNC, RECOVER, GIVE_UP]
    assert "checkpoint" in offered[1].refusal
    assert offered[2].label == "Mark 1 task as failed"
    assert PlanWording.of_plan(planned(incident, SYNC)).action == "Sync 27 concepts"

    run = repair(incident, SYNC)
    assert (run.status, result_label(run)) == (Status.SUCCEEDED, "27 concepts synced")
    assert figure_rows(registry.operation(SYNC), run.before, run.after, selected=True) == [
        ("concepts completed in the framework", "0 of 30", "27 of 30"),
        ("task", "processing", "partially failed"),
    ]
    assert not Run.objects.filter(operation=NAME, pk__gt=run.pk).exists()
    after = open_ones()
    assert set(after) == {"partial_result"}
    (following,) = incidents.others_of_same_row(incident)
    assert following == after["partial_result"]
    assert incidents.title_of(following) == ("Roadmap “Agent performance tuning” has content for 27 of 30 concepts")
    following_repair = repairs.recommended(repairs.repairs_of(following))
    assert following_repair is not None
    assert (following_repair.operation.name, following_repair.label) == (REGENERATE, "Regenerate 3 concepts")


@BOTH
def test_an_undo_restores_all_tables(make_roadmaps: Any, engine: str) -> None:
    store = stuck_store(make_roadmaps, engine)
    scan(store)
    execute_run(operation_called("roadmaps.verify_sync", store))
    before = incident_states(), open_findings()
    (incident,) = open_ones().values()
    run = repair(incident, SYNC)
    assert undo(run).status == Status.SUCCEEDED
    assert (incident_states(), open_findings()) == before


def incident_states() -> set[tuple[Any, ...]]:
    return set(Incident.objects.filter(resolved_at=None).values_list("cause", "subject", "count", "opened_at"))


def open_findings() -> set[tuple[str, ...]]:
    return set(Finding.objects.filter(resolved_at=None).values_list("operation", "code", "subject", "cause"))


@BOTH
def test_only_the_written_tasks_are_compared_again(make_roadmaps: Any, engine: str) -> None:
    """Another task that becomes stuck in the meantime is left to the next scan."""
    store = stuck_store(make_roadmaps, engine)
    scan(store)
    (incident,) = open_ones().values()
    execute(
        store,
        "INSERT INTO roadmap_tasks (task_id, status, task_type, updated_at) VALUES "
        f"('late', 'processing', 'creation', '{minutes_ago(99)}')",
    )
    repair(incident, SYNC)
    assert "late" not in set(Finding.objects.values_list("subject", flat=True))
    scan(store)
    assert "late" in set(Finding.objects.values_list("subject", flat=True))


@BOTH
def test_subjects_of_written_rows(make_roadmaps: Any, engine: str) -> None:
    maker = Maker()
    for roadmap in ("a", "b"):
        maker.roadmap(roadmap, [concept("x")])
        maker.task(f"first-{roadmap}", roadmap)
        maker.task(f"second-{roadmap}", roadmap)
    store = configured(make_roadmaps, engine, maker.rows)
    check: Any = operation_called(NAME, store)
    assert check.subjects_of({"roadmap_tasks": ["first-a"]}) == ["first-a"]
    assert check.subjects_of({"roadmap_metadata": ["b"], "roadmap_tasks": ["gone"]}) == [
        "first-b",
        "gone",
        "second-b",
    ]
    assert check.subjects_of({"quiz_metadata": ["q"]}) is None


@BOTH
def test_without_content_the_task_is_marked_as_failed(make_roadmaps: Any, engine: str) -> None:
    """There is nothing to sync, and nothing to resume from."""
    maker = Maker()
    maker.roadmap("r", [concept("a"), concept("b")])
    maker.task("empty", "r", updated_at=minutes_ago(90))
    store = configured(make_roadmaps, engine, maker.rows)
    scan(store)
    (incident,) = open_ones().values()
    assert incidents.title_of(incident) == "Roadmap “x” is stuck at 0 of 2 concepts"
    offered = repairs.repairs_of(incident)
    best = repairs.recommended(offered)
    assert best is not None
    assert best.operation.name == GIVE_UP
    assert "no content" in offered[0].refusal
    run = repair(incident, GIVE_UP)
    assert result_label(run) == "1 task marked as failed"
    assert not open_ones()


@BOTH
def test_a_task_without_a_readable_roadmap_is_one_incident(make_roadmaps: Any, engine: str) -> None:
    maker = Maker()
    maker.task("lost", None, updated_at=minutes_ago(90))
    maker.task("ended", "nowhere", status="completed")
    store = configured(make_roadmaps, engine, maker.rows)
    scan(store)
    assert set(Incident.objects.values_list("cause", "subject")) == {
        ("roadmap_missing", "lost"),
        ("roadmap_missing", "ended"),
    }
    lost = Incident.objects.get(subject="lost")
    assert "lost" in incidents.title_of(lost)
    best = repairs.recommended(repairs.repairs_of(lost))
    assert best is not None
    assert best.operation.name == GIVE_UP
    ended = Incident.objects.get(subject="ended")
    assert repairs.recommended(repairs.repairs_of(ended)) is None
    assert "backup" in incidents.advice_for(ended)


@BOTH
def test_an_accepted_partial_result_is_resolved_at_once(make_roadmaps: Any, engine: str) -> None:
    store = stuck_store(make_roadmaps, engine)
    execute_run(operation_called(SYNC, store))
    scan(store)
    (incident,) = open_ones().values()
    run = repair(incident, ACCEPT, reason="enough for this reader")
    assert not open_ones()
    assert figure_rows(registry.operation(ACCEPT), run.before, run.after, selected=True) == [("accepted", "0", "1")]


@BOTH
def test_a_title_that_the_console_cannot_show_raw(make_roadmaps: Any, engine: str) -> None:
    store = stuck_store(make_roadmaps, engine)
    execute(
        store,
        "UPDATE roadmap_metadata SET title = 'a' || CHR(27) || 'b'"
        if engine != "sqlite"
        else "UPDATE roadmap_metadata SET title = CAST(X'61ff1b62' AS TEXT)",
    )
    scan(store)
    (incident,) = open_ones().values()
    assert "\x1b" not in incidents.title_of(incident)


@BOTH
def test_a_store_without_titles_names_the_roadmap(make_roadmaps: Any, engine: str) -> None:
    store = stuck_store(make_roadmaps, engine)
    execute(store, "ALTER TABLE roadmap_metadata DROP COLUMN title")
    fresh = Store(store.alias, store.name)
    scan(fresh)
    (incident,) = open_ones().values()
    assert roadmaps.INCIDENT_ROADMAP in incidents.title_of(incident)


@BOTH
def test_the_statements_of_a_recheck_do_not_grow(make_roadmaps: Any, engine: str) -> None:
    counts = []
    for tasks in (20, 200):
        store = make_roadmaps(engine, roadmaps.without_broken(roadmaps.everything(tasks=tasks)))
        check: Any = operation_called(NAME, store)
        statements: list[str] = []

        def counted(call: Any, sql: str, *rest: Any, statements: list[str] = statements) -> Any:
            statements.append(sql)
            return call(sql, *rest)

        keys = [row["task_id"] for row in roadmaps.everything(tasks=tasks)["roadmap_tasks"]]
        with connections[store.alias].execute_wrapper(counted):
            check.chosen = check.subjects_of({"roadmap_tasks": keys})
            assert len(list(check.run_rule("tasks"))) > 5
        counts.append(len(statements))
    assert counts[0] == counts[1]


def test_the_pages_show_the_bar_the_proof_and_the_advice(make_roadmaps: Any, client: Client, alice: User) -> None:
    client.force_login(alice)
    store = stuck_store(make_roadmaps, "sqlite")
    execute(store, "INSERT INTO roadmap_tasks (task_id, roadmap_id, status) VALUES ('ended', 'nowhere', 'completed')")
    scan(store)
    stuck = open_ones()["stuck_roadmap"]
    page = client.get(reverse("incident", args=[stuck.pk])).text
    assert "stuck at 27 of 30 concepts" in page
    assert "width: 90.0%" in page
    assert "Recommended: Sync 27 concepts" in page
    missing = client.get(reverse("incident", args=[open_ones()["roadmap_missing"].pk])).text
    assert "restore the roadmap from a backup" in missing
    run = repair(stuck, SYNC)
    proof = client.get(reverse("run", args=[run.pk])).text
    assert "27 concepts synced" in proof
    assert "0 of 30" in proof
    assert "27 of 30" in proof
    assert "partially failed" in proof


@BOTH
def test_a_finding_whose_cause_changes_moves_to_the_other_incident(make_roadmaps: Any, engine: str) -> None:
    """The platform ends the task. The framework is still behind its content, but the task is no longer stuck."""
    store = stuck_store(make_roadmaps, engine)
    scan(store)
    (stuck,) = open_ones().values()
    execute(store, "UPDATE roadmap_tasks SET status = 'completed'")
    scan(store)
    (other,) = open_ones().values()
    assert other != stuck
    found = Finding.objects.filter(resolved_at=None)
    assert {finding.incident for finding in found} == {other}
    assert repairs.selection_for(other, registry.operation(SYNC)).keys
