"""The dashboard: its problems and their buttons, its number of queries, and unreachable stores."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import cache
from django.db import DatabaseError
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audits.models import TaskAudit
from opsconsole.console.dashboard_charts import charts
from opsconsole.engine import planner, queue
from opsconsole.engine.models import Finding, Incident, Run, Status
from opsconsole.monitoring import measurements
from opsconsole.monitoring.models import Measurement
from opsconsole.monitoring.store_problems import StoreStates
from opsconsole.stores.models import Backup
from opsconsole.stores.store import Store
from tasks.agentos.models import Task
from tests.backups.test_backup_store import back_up
from tests.conftest import attach_url
from tests.support.contract import execute_run, operation_called, undo

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.clear()
    monkeypatch.setattr(settings, "DATA_DIR", tmp_path / "data")


def make_audits(count: int) -> None:
    task, _made = Task.objects.get_or_create(task_id="T1", title="one")
    TaskAudit.objects.bulk_create(
        TaskAudit(task=task, event_type="SUPERVISOR_DECISION", payload="{}", created_at="2026-01-01 00:00:00")
        for _number in range(count)
    )


def find(count: int) -> None:
    """Add this many findings to the newest scan of the references."""
    scan = Run.objects.filter(operation="audits.check_references").latest("pk")
    Finding.objects.bulk_create(
        Finding(
            operation=scan.operation,
            store="agentos",
            identity=scan.identity,
            question="q",
            code=f"code_{number % 7}",
            subject=f"{count} {number}",
            priority="planned",
            found_at=timezone.now(),
            seen_at=timezone.now(),
            first_run=scan,
            last_run=scan,
        )
        for number in range(count)
    )


def measure() -> None:
    execute_run(operation_called("monitoring.measure_stores"))


def card(page: str, store: str) -> str:
    return re.search(rf'id="store-{store}".*?</li>\s*(?=<li class="store-card|</ul>)', page, re.S)[0]  # type: ignore[index]


def check_everything(client: Client) -> None:
    """Press "Check again" and let a worker execute what it queues."""
    assert client.post("/admin/dashboard/check/").status_code == 302
    for run in Run.objects.filter(status=Status.QUEUED).order_by("pk"):
        assert queue.run_slice(run.pk, run.generation) == Status.SUCCEEDED, run


def test_an_incident_and_its_repair(bob: Any, client: Client) -> None:
    client.force_login(bob)
    assert client.get("/").headers["Location"] == "/admin/"
    page = client.get("/admin/").content.decode()
    assert "Not checked yet" in page
    assert "not checked yet" in card(page, "helix")
    make_audits(30)
    for name in ("default", *settings.STORES):
        back_up(Store(name, name))
    check_everything(client)
    page = client.get("/admin/").content.decode()
    assert "1 incident is open" in page
    assert "30 supervisor audits have no decision times" in card(page, "agentos")
    assert "Fill 30 audits…" in page
    assert "warning" in card(page, "agentos")
    assert "healthy" in card(page, "helix")
    incident = Incident.objects.get()
    page = client.get(f"/admin/operations/incident/{incident.pk}/change/").content.decode()
    digest = re.search(r'name="digest" value="(\w+)"', page)[1]  # type: ignore[index]
    url = f"/admin/operations/incident/{incident.pk}/repair/audits.backfill_decision_fields/"
    response = client.post(url, {"digest": digest, "note": "on call"})
    run = Run.objects.latest("pk")
    assert response.headers["Location"] == f"/admin/operations/run/{run.pk}/change/"
    assert (run.status, run.changed, run.incident, run.note) == (Status.SUCCEEDED, 30, incident, "on call")
    page = client.get("/admin/").content.decode()
    assert "No incident is open" in page
    assert "healthy" in card(page, "agentos")
    assert "30 audits filled" in page


def test_an_undone_run_does_not_count(bob: Any, client: Client) -> None:
    client.force_login(bob)
    make_audits(3)
    check_everything(client)
    run = execute_run(operation_called("audits.backfill_decision_fields"))
    assert "No incident is open" in client.get("/admin/").content.decode()
    undo(run)
    page = client.get("/admin/").content.decode()
    assert "3 supervisor audits have no decision times" in page
    assert "undone by" in page
    assert page.count("3 audits filled") == 1
    assert repaired_rows_today() == 0
    page = client.get(f"/admin/operations/run/{run.pk}/change/").content.decode()
    assert f"/admin/operations/run/{run.pk}/undo/" not in page


def repaired_rows_today() -> float:
    chart = next(one for one in charts(StoreStates()) if one.kind == "bar")
    rows: float = sum(value or 0 for data in json.loads(chart.data)["datasets"] for value in data["data"])
    return rows


def test_a_repair_whose_effect_changed_is_not_executed(bob: Any, client: Client) -> None:
    client.force_login(bob)
    make_audits(3)
    check_everything(client)
    incident = Incident.objects.get()
    page = client.get(f"/admin/operations/incident/{incident.pk}/change/").content.decode()
    digest = re.search(r'name="digest" value="(\w+)"', page)[1]  # type: ignore[index]
    TaskAudit.objects.update(payload='{"supervisor_processed_at": "2026-02-03T04:05:06Z"}')
    url = f"/admin/operations/incident/{incident.pk}/repair/audits.backfill_decision_fields/"
    response = client.post(url, {"digest": digest, "note": "kept"})
    assert response.status_code == 409
    assert "have changed since this page was made" in response.content.decode()
    assert 'value="kept"' in response.content.decode()
    assert not Run.objects.filter(operation="audits.backfill_decision_fields").exists()


@pytest.mark.parametrize("damage", ["replaced", "damaged", "removed"])
def test_the_pages_of_an_incident_outlive_its_store(
    bob: Any, client: Client, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """The record and its verbs remain, and the repairs report the reason."""
    client.force_login(bob)
    make_audits(3)
    check_everything(client)
    page = f"/admin/operations/incident/{Incident.objects.get().pk}/"
    if damage == "replaced":
        Incident.objects.update(identity="another database")
        reason = "The incident belongs to another database"
    elif damage == "removed":
        monkeypatch.setattr(planner, "all_stores", list)
        reason = "No store is called agentos"
    else:
        monkeypatch.setattr(planner, "walk", _broken)
        reason = "file is not a database"
    shown = client.get(f"{page}change/")
    assert shown.status_code == 200
    assert reason in shown.content.decode()
    assert client.get("/admin/").status_code == 200
    refused = client.post(f"{page}repair/audits.backfill_decision_fields/", {"digest": "1_a"})
    assert refused.status_code == 409
    assert reason in refused.content.decode()
    assert client.post(f"{page}comment/", {"text": "the disk is full"}).status_code == 302


def _broken(*_args: Any, **_options: Any) -> Any:
    raise DatabaseError("file is not a database")


def test_the_number_of_queries_does_not_grow(bob: Any, client: Client, django_assert_max_num_queries: Any) -> None:
    def queries() -> int:
        client.get("/admin/")  # what a first visit looks up is kept
        with django_assert_max_num_queries(120) as seen:
            assert client.get("/admin/").status_code == 200
        return len(seen.captured_queries)

    client.force_login(bob)
    make_audits(10)
    measure()
    execute_run(operation_called("audits.check_references"))
    execute_run(operation_called("audits.backfill_decision_fields"))
    find(1)
    few = queries()
    make_audits(5_000)
    for days in range(1, 29):
        Measurement.objects.bulk_create(
            Measurement(
                day=timezone.localdate() - timedelta(days=days), store=row.store, name=row.name, value=7, at=row.at
            )
            for row in Measurement.objects.filter(day=timezone.localdate())
        )
    find(3_000)
    for _number in range(10):
        execute_run(operation_called("audits.backfill_decision_fields"))
    measure()
    assert queries() == few


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_an_unreachable_store_turns_only_its_card_red(bob: Any, client: Client, tmp_path: Path, engine: str) -> None:
    for name in ("default", *settings.STORES):
        back_up(Store(name, name))
    client.force_login(bob)
    check_everything(client)
    where = f"sqlite:///{tmp_path}/gone.db" if engine == "sqlite" else "postgresql://nobody:hunter2@127.0.0.1:1/gone"
    attach_url("helix", where)
    started = timezone.now()
    page = client.get("/admin/").content.decode()
    assert timezone.now() - started < timedelta(seconds=5)
    assert "critical" in card(page, "helix")
    assert "unreachable" in card(page, "helix")
    for other in ("default", "agentos", "records", "roadmaps"):
        assert "healthy" in card(page, other)
    assert "hunter2" not in page
    measure()
    assert Run.objects.latest("pk").reasons["skipped"] == {"measured": 4, "down": 1}


def test_permissions_to_view(charlie: Any, viewer: Any, client: Client) -> None:
    client.force_login(charlie)
    assert "store-card" not in client.get("/admin/").content.decode()
    assert client.get("/admin/dashboard/live/").status_code == 403
    client.force_login(viewer)
    page = client.get("/admin/").content.decode()
    assert "store-card" in page
    assert "Check again" not in page
    assert client.get("/admin/dashboard/live/").status_code == 200


def test_measure_now_is_a_run(bob: Any, client: Client) -> None:
    client.force_login(bob)
    client.post("/admin/operations/monitoring.measure_stores/plan/")
    run = Run.objects.get()
    assert run.status == Status.QUEUED
    assert queue.run_slice(run.pk, run.generation) == Status.SUCCEEDED
    assert Measurement.objects.filter(name=measurements.SIZE).count() == 5


def test_age_and_change_of_a_problem() -> None:
    store = Store("helix", "helix")
    for value in (0, 5, 7, 0, 3):
        measurements.keep(store, [measurements.Figure("problem:x", value)])
    row = Measurement.objects.get(name="problem:x")
    assert (row.value, row.before) == (3, 0)
    assert row.since == row.at
    measurements.keep(store, [measurements.Figure("problem:x", 4)])
    again = Measurement.objects.get(name="problem:x")
    assert (again.value, again.before, again.since) == (4, 3, row.since)


def test_a_backup_is_planned_and_made_from_the_page(bob: Any, client: Client) -> None:
    client.force_login(bob)
    measure()
    assert "no verified backup" in card(client.get("/admin/").content.decode(), "helix")
    assert 'action="/admin/operations/backups.backup_store/plan/"' in client.get("/admin/stores/").content.decode()
    response = client.post("/admin/operations/backups.backup_store/plan/", {"asked": "1", "store": "helix"})
    run = Run.objects.latest("pk")
    assert (response.status_code, run.store) == (302, "helix")
    page = client.get(f"/admin/operations/run/{run.pk}/change/").content.decode()
    assert "Back up helix" in page
    client.post(f"/admin/operations/run/{run.pk}/confirm/", {"digest": run.digest})
    run.refresh_from_db()
    assert queue.run_slice(run.pk, run.generation) == Status.SUCCEEDED
    assert client.get(f"/admin/operations/run/{run.pk}/change/").status_code == 200
    assert ".sqlite3.gz" in client.get("/admin/stores/backup/").content.decode()
    backup = Backup.objects.get(store="helix")
    page = client.get(reverse("backup-restore", args=[backup.pk])).content.decode()
    assert page.count(f'name="file" value="{backup.path}"') == 2
    for values in ({}, {"as_": "helix_copy"}):
        answer = client.post(
            "/admin/operations/backups.restore_store/plan/",
            {"asked": "1", "store": "helix", "file": backup.path, **values},
        )
        assert answer.status_code == 302, answer.content.decode()[-3000:]
        assert Run.objects.latest("pk").params["file"] == backup.path
    client.post("/admin/operations/monitoring.check_store/plan/", {"asked": "1", "store": "helix"})
    check = Run.objects.latest("pk")
    assert (check.operation, check.status) == ("monitoring.check_store", Status.QUEUED)
    client.post("/admin/operations/backups.upgrade_store/plan/", {"asked": "1", "store": "helix"})
    page = client.get(f"/admin/operations/run/{Run.objects.latest('pk').pk}/change/").content.decode()
    assert "the store has all documented columns and indexes" in page
