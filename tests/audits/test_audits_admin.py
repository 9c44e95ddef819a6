"""Tests of the pages of audits, verdicts and the inbox: contents, permissions and numbers of queries."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from audits import admin as audits_admin
from audits.coverage import WINDOWS
from audits.demo import load
from audits.models import TaskAudit
from opsconsole.engine.models import Run
from tasks.agentos.models import Task
from tests.conftest import attach_url
from tests.support import agentos

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])

MODELS = ("audits_taskaudit", "audits_guardianverdict", "audits_inboxentry", "agentos_task")
AUDITS = "/admin/audits/taskaudit/"
COVERAGE = "/admin/audits/taskaudit/coverage/"
TABLES = ("tasks", "task_audits", "guardian_verdicts", "supervisor_inbox")


def signed_in(client, person):
    client.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def alices(client, alice):
    return signed_in(client, alice)


@pytest.fixture
def fill(tmp_path):
    """Return a function that adds dirty audits to the managed store: `fill(5_000)`."""

    def copy(rows):
        path = tmp_path / f"{rows}.db"
        agentos.create_sqlite(path, rows)
        with closing(sqlite3.connect(connections["agentos"].settings_dict["NAME"])) as store:
            store.execute("ATTACH DATABASE ? AS made", [str(path)])
            for table in TABLES:
                columns = ", ".join(row[1] for row in store.execute(f"PRAGMA made.table_info({table})"))
                store.execute(f"DELETE FROM {table}")
                store.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM made.{table}")
            store.commit()

    return copy


def queries(client, address):
    with CaptureQueriesContext(connections["agentos"]) as store, CaptureQueriesContext(connections["default"]) as own:
        response = client.get(address)
    assert response.status_code == 200, address
    return [query["sql"] for query in store.captured_queries], len(own.captured_queries)


# --- speed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        AUDITS,
        f"{AUDITS}?p=2",
        f"{AUDITS}?decision_times=missing",
        f"{AUDITS}?event_type=SUPERVISOR_PAUSED&level__exact=info&created_at_from=2025-11-01",
        f"{AUDITS}?q=01TASK{1:020d}",
        f"{AUDITS}?task_id=01TASK{1:020d}",
        f"/admin/agentos/task/01TASK{0:020d}/change/",
    ],
)
def test_the_number_of_queries_does_not_grow(alices, fill, address):
    fill(150)
    alices.get(address)  # queries that a process makes once
    few, own_few = queries(alices, address)
    fill(5_000)
    many, own_many = queries(alices, address)
    assert len(few) == len(many)
    assert own_few == own_many


def test_the_coverage_page_needs_a_constant_number_of_queries(alices, fill):
    fill(5_000)
    seen, _ = queries(alices, COVERAGE)
    assert len(seen) <= 7 + WINDOWS  # catalogue queries for columns and keys


@pytest.mark.parametrize(
    "address", [AUDITS, f"{AUDITS}?decision_times=missing", f"{AUDITS}?event_type=SUPERVISOR_PAUSED&p=1"]
)
def test_nothing_counts_or_sorts_the_whole_table(alices, fill, address):
    fill(300)
    seen, _ = queries(alices, address)
    for sql in seen:
        assert "DISTINCT" not in sql
        assert "JOIN" not in sql or "sqlite_master" in sql
        assert "COUNT(" not in sql or "LIMIT 10001" in sql
        assert "payload" not in sql


def test_a_search_uses_indexes(alices, fill):
    fill(300)
    seen, _ = queries(alices, f"{AUDITS}?q=17")
    (listed,) = [sql for sql in seen if "ORDER BY" in sql and "sqlite_master" not in sql]
    with connections["agentos"].cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {listed.replace('%', '%%')}")
        plan = [row[3] for row in cursor.fetchall()]
    assert not any(step.startswith("SCAN") for step in plan), plan


# --- contents ----------------------------------------------------------------------------------------


def test_every_dirty_audit_has_its_page(alices, fill):
    fill(160)
    assert alices.get(AUDITS).status_code == 200
    for key in TaskAudit.objects.values_list("pk", flat=True):
        response = alices.get(f"{AUDITS}{key}/change/")
        assert response.status_code == 200, key


def test_garbage_has_its_page(alices):
    task = Task.objects.create(task_id="t", title="")
    with connections["agentos"].cursor() as cursor:
        cursor.executemany(
            "INSERT INTO task_audits (task_id, event_type, level, payload, created_at, source_event_ts) "
            "VALUES (%s, CAST(%s AS TEXT), %s, %s, %s, %s)",
            [
                ("t", b"SUPERVISOR\xff", "fatal", b"\xff\xfe", "2026-02-30 10:00:00", "\x00"),
                ("t", "<script>alert(1)</script>", None, "[" * 900 + "]" * 900, 10**18, "9" * 400),
                ("t", "", "", "{" * 20_000, "", ""),
                ("t", "x", "<b>", '{"a": "</pre><script>"}', None, "1e400"),
            ],
        )
    page = alices.get(AUDITS).content.decode()
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    for key in TaskAudit.objects.values_list("pk", flat=True):
        page = alices.get(f"{AUDITS}{key}/change/")
        assert page.status_code == 200
        assert "</pre><script>" not in page.content.decode()
    assert alices.get(f"/admin/agentos/task/{task.pk}/change/").status_code == 200
    assert alices.get(COVERAGE).status_code == 200


def test_the_page_of_a_missing_task_does_not_fail(alices, fill):
    fill(100)
    with closing(sqlite3.connect(connections["agentos"].settings_dict["NAME"])) as store:
        store.execute("DELETE FROM tasks")
        store.commit()
    assert alices.get(AUDITS).status_code == 200
    key = TaskAudit.objects.order_by("pk").values_list("pk", flat=True)[0]
    assert alices.get(f"{AUDITS}{key}/change/").status_code == 200
    assert alices.get(f"/admin/agentos/task/01TASK{0:020d}/change/").status_code == 302  # reported on the dashboard


def test_deep_payloads_have_their_page(alices):
    Task.objects.create(task_id="t", title="t")
    for depth in range(890, 1_000, 10):
        TaskAudit.objects.create(task_id="t", event_type="x", payload='{"a":' * depth + "1" + "}" * depth)
    for key in TaskAudit.objects.values_list("pk", flat=True):
        assert alices.get(f"{AUDITS}{key}/change/").status_code == 200


@pytest.mark.parametrize("model", MODELS)
def test_lists_and_pages_open(alices, fill, model):
    fill(100)
    assert alices.get(reverse(f"admin:{model}_changelist")).status_code == 200
    key = {
        "audits_taskaudit": 1,
        "audits_guardianverdict": f"01VERDICT{0:017d}",
        "audits_inboxentry": f"01INBOX{0:019d}",
        "agentos_task": f"01TASK{0:020d}",
    }[model]
    assert alices.get(reverse(f"admin:{model}_change", args=[key])).status_code == 200
    if model.startswith("audits"):  # test_agentos_admin.py covers editable tasks
        assert alices.post(reverse(f"admin:{model}_change", args=[key]), {}).status_code == 403


def test_a_page_of_a_task_shows_its_newest_audits(alices, fill):
    fill(200)
    page = alices.get(f"/admin/agentos/task/01TASK{1:020d}/change/").content.decode()
    newest = TaskAudit.objects.filter(task_id=f"01TASK{1:020d}").order_by("-pk").values_list("pk", flat=True)
    assert f"{AUDITS}{newest[0]}/change/" in page
    assert f"{AUDITS}{newest[19]}/change/" in page
    assert f"{AUDITS}{newest[20]}/change/" not in page


def listed(client, **query):
    response = client.get(AUDITS, query)
    assert response.status_code == 200
    return {audit.pk for audit in response.context["cl"].result_list}


def test_filters_and_search_return_matching_rows(alices, fill):
    fill(90)
    audits = list(TaskAudit.objects.all())
    supervisor = {a.pk for a in audits if "SUPERVISOR" in a.event_type.upper()}
    both = {a.pk for a in audits if None not in (a.source_event_ts, a.supervisor_processed_at)}
    assert listed(alices, decision_times="missing") == supervisor - both
    assert listed(alices, decision_times="filled") == supervisor & both
    assert listed(alices, event_type="COMMIT_LINKED") == {a.pk for a in audits if a.event_type == "COMMIT_LINKED"}
    assert listed(alices, level__exact="error") == {a.pk for a in audits if a.level == "error"}
    assert listed(alices, task_id=audits[0].task_id) == {a.pk for a in audits if a.task_id == audits[0].task_id}
    decided = next(a for a in audits if a.decision_id)
    assert listed(alices, q=decided.decision_id) == {decided.pk}
    assert listed(alices, q=f" {audits[7].pk} ") == {audits[7].pk}
    assert listed(alices, q="nothing of the kind") == set()
    assert listed(alices, q="9" * 30) == set()


def test_days_are_filtered_by_the_text_of_the_store(alices):
    Task.objects.create(task_id="t", title="t")
    for text in ("2026-01-19 23:59:59", "2026-01-20T00:00:00", "2026-01-20 23:59:59.9", "2026-01-21", None):
        TaskAudit.objects.create(task_id="t", event_type="x", created_at=text)
    keys = list(TaskAudit.objects.order_by("pk").values_list("pk", flat=True))
    assert listed(alices, created_at_from="2026-01-20", created_at_to="2026-01-20") == set(keys[1:3])
    assert listed(alices, created_at_from="2026-01-20") == set(keys[1:4])
    assert listed(alices, created_at_from="no day", created_at_to="2026-02-31") == set(keys)


# --- stores without some columns ---------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.5.0", "0.20.0", "0.21.0"])
def test_older_stores_show_existing_columns(alices, tmp_path, version):
    agentos.create_sqlite(tmp_path / "old.db", 120, version=version)
    attach_url("agentos", f"sqlite:///{tmp_path / 'old.db'}")
    page = alices.get(AUDITS)
    assert page.status_code == 200
    assert "verdict_id" in page.content.decode()  # the page reports it as missing
    assert alices.get(f"{AUDITS}1/change/").status_code == 200
    assert alices.get(AUDITS, {"q": "1"}).status_code == 200
    coverage = alices.get(COVERAGE)
    assert coverage.status_code == (200 if version == "0.21.0" else 503)
    if version != "0.21.0":
        assert "ALTER TABLE task_audits ADD COLUMN source_event_ts TEXT" in coverage.content.decode()


@pytest.mark.parametrize("address", [AUDITS, COVERAGE, f"{AUDITS}1/change/", "/admin/agentos/task/"])
def test_a_store_without_the_tables_is_reported(alices, tmp_path, address):
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE something (else_ TEXT)")
    attach_url("agentos", f"sqlite:///{tmp_path / 'other.db'}")
    page = alices.get(address)
    assert page.status_code == 503
    assert str(tmp_path / "other.db") in page.content.decode()


def test_a_store_that_cannot_be_opened_is_reported(alices, tmp_path):
    attach_url("agentos", f"sqlite:///{tmp_path / 'none.db'}")
    assert alices.get(AUDITS).status_code == 503
    assert alices.get(COVERAGE).status_code == 503
    assert not (tmp_path / "none.db").exists()


# --- PostgreSQL --------------------------------------------------------------------------------------


@pytest.mark.parametrize("attached", ["postgresql-text", "postgresql-jsonb"], indirect=True)
def test_postgresql_shows_the_same(alices, attached):
    made = TaskAudit.objects.order_by("pk")
    audit = next(a for a in made if a.decision_id)
    assert listed(alices, q=audit.decision_id) == listed(alices, q=str(audit.pk)) == {audit.pk}
    assert listed(alices, q="nothing of the kind", decision_times="missing") == set()
    day = str(audit.created_at)[:10] if audit.created_at else "2025-11-01"
    assert audit.pk in listed(alices, created_at_from=day, created_at_to=day, event_type=audit.event_type)
    assert alices.get(COVERAGE).status_code == 200
    for key in made.values_list("pk", flat=True)[:12]:
        assert alices.get(f"{AUDITS}{key}/change/").status_code == 200
    assert alices.get(f"/admin/agentos/task/{audit.task_id}/change/").status_code == 200


# --- permissions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [*(f"/admin/{model.replace('_', '/')}/" for model in MODELS), COVERAGE])
def test_permissions_to_view(client, charlie, viewer, address):
    assert client.get(address).status_code == 302
    assert signed_in(client, charlie).get(address).status_code == 403
    assert signed_in(client, viewer).get(address).status_code == 200


def test_only_operators_are_offered_the_backfill(client, viewer, bob):
    list(load())
    assert "Plan backfill" not in signed_in(client, viewer).get(COVERAGE).content.decode()
    assert "Plan backfill" in signed_in(client, bob).get(COVERAGE).content.decode()


# --- the coverage page, and the demo -----------------------------------------------------------------


def test_the_demo_contains_the_documented_incident(alices):
    assert "2,014" in next(load())
    assert TaskAudit.objects.count() == 5_000
    assert Task.objects.count() == 60
    page = alices.get(COVERAGE).content.decode()
    assert "A decision time is missing in 2,014 of 2,204 supervisor audits." in page
    assert reverse("plan", args=["audits.backfill_decision_fields"]) in page


def test_the_demo_is_loaded_once_and_the_same_each_time():
    def rows():
        return list(TaskAudit.objects.order_by("pk").values_list("event_type", "payload", "created_at"))

    list(load())
    first = rows()
    assert "no sample data added" in next(load())
    assert rows() == first
    TaskAudit.objects.all().delete()
    Task.objects.all().delete()
    connections["agentos"].cursor().execute("DELETE FROM guardian_verdicts")
    connections["agentos"].cursor().execute("DELETE FROM supervisor_inbox")
    list(load())
    assert rows() == first


def test_an_attached_store_gets_no_demo(settings):
    settings.ATTACHED_STORES = frozenset({"agentos"})
    assert "attached" in next(load())
    assert not TaskAudit.objects.exists()


def test_the_page_names_the_sampled_audits(alices, fill, monkeypatch):
    monkeypatch.setattr(audits_admin, "NEWEST_AUDITS", 1_000)
    fill(3_000)
    page = alices.get(COVERAGE).content.decode()
    assert "From the newest 1,000 audits" in page
    assert f"{AUDITS}?decision_times=missing" in page


def test_the_list_plans_the_backfill_of_the_filtered_rows(client, bob, fill):
    fill(300)
    response = signed_in(client, bob).post(
        f"{AUDITS}?event_type=SUPERVISOR_PAUSED",
        {"action": "audits.backfill_decision_fields", "select_across": "1", "_selected_action": ["1"]},
    )
    assert response.status_code == 302
    run = Run.objects.get()
    wanted = TaskAudit.objects.filter(event_type="SUPERVISOR_PAUSED")
    missing = [a for a in wanted if None in (a.source_event_ts, a.supervisor_processed_at)]
    assert run.total == len(missing) > 0
    assert json.loads(json.dumps(run.selection))["query"] == "event_type=SUPERVISOR_PAUSED"
