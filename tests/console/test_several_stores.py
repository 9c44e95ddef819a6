"""Several stores of one platform: each has its pages, plans, runs, checks and incidents."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audits.models import TaskAudit
from audits.operations.backfill_decision_fields import BackfillDecisionFields
from opsconsole.console.store_urls import urlconf
from opsconsole.engine import find, queue, registry, stored_plans, workers
from opsconsole.engine.executor import Executor
from opsconsole.engine.locks import release
from opsconsole.engine.models import Alert, Incident, Run, ScheduleSetting, Status, Trigger
from opsconsole.monitoring import measurements
from opsconsole.monitoring.store_problems import StoreStates
from opsconsole.stores.router import use
from opsconsole.stores.store import Store
from tasks.agentos.models import Project
from tasks.helix import demo
from tests.conftest import EMPTY, attach_url, forget_attached
from tests.support import agentos
from tests.support.contract import execute_run, operation_called
from tests.support.subprocess_cli import Shell

BACKFILL = BackfillDecisionFields.name
EU, CN = "agentos_eu", "agentos_cn"
LIST = "/admin/store/{}/audits/taskaudit/"
pytestmark = pytest.mark.django_db(transaction=True, databases=["default", *settings.STORES])


@pytest.fixture(params=("sqlite", "postgresql"))
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """Two further attached AgentOS stores, with different audits."""
    found, server = [], None
    for place, alias in enumerate((EU, CN)):
        rows = 200 + 100 * place
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path}/{alias}.db"
            agentos.create_sqlite(tmp_path / f"{alias}.db", rows, seed=place)
        else:
            server = request.getfixturevalue("postgres")
            url = server.create_database(alias)
            agentos.create_postgres(url, rows, seed=place)
        found.append(attach_url(alias, url, platform="agentos"))
    yield found[0], found[1]
    forget_attached()
    if server is not None:
        for alias in (EU, CN):
            server.drop_database(alias)


@pytest.fixture
def page(client: Client, bob: User) -> Client:
    client.force_login(bob)
    return client


def _confirm(page: Client, run: Run) -> Run:
    page.post(reverse("run-confirm", args=[run.pk]), {"digest": run.digest})
    run.refresh_from_db()
    return Executor(workers.claim(run)).work()


def _in_scope(store: Store) -> int:
    return operation_called(BACKFILL, store).queryset().count()


def test_lists_and_pages_show_their_store(stores: tuple[Store, Store], page: Client) -> None:
    for store, rows in zip(stores, (200, 300), strict=True):
        shown = page.get(LIST.format(store.alias))
        assert shown.status_code == 200
        assert shown.context["cl"].result_count == rows
        row = TaskAudit.objects.using(store.alias).order_by("-pk")[0]
        link = f"{LIST.format(store.alias)}{row.pk}/change/"
        assert link in shown.text  # a link on a page of a store stays in the store
        detail = page.get(link)
        assert detail.status_code == 200
        assert f"/admin/store/{store.alias}/agentos/task/{row.task_id}/change/" in detail.text
        other = CN if store.alias == EU else EU
        assert f'href="{LIST.format(other)}"' in shown.text
        assert reverse("admin:audits_taskaudit_changelist") == "/admin/audits/taskaudit/"
        assert page.get(f"/admin/store/{store.alias}/search/").status_code == 200
    assert page.get("/admin/audits/taskaudit/").context["cl"].result_count == 0
    for address in ("/admin/store/agentos/audits/taskaudit/", "/admin/store/none/audits/taskaudit/"):
        assert page.get(address).status_code == 404
    assert page.get(f"/admin/store/{EU}/helix/helixjob/").status_code == 404


def test_the_operations_page_offers_each_store(stores: tuple[Store, Store], page: Client) -> None:
    shown = page.get("/admin/operations/", {"q": BACKFILL}).text
    for address in (f"/admin/operations/{BACKFILL}/plan/", f"/admin/store/{EU}/operations/{BACKFILL}/plan/"):
        assert f'action="{address}"' in shown
    assert f"/admin/store/{EU}/operations/helix." not in page.get("/admin/operations/", {"q": "helix"}).text


def test_a_command_works_on_the_store_that_it_names(tmp_path: Path) -> None:
    agentos.create_sqlite(tmp_path / "eu.db", 100)
    (tmp_path / "opsconsole.toml").write_text(
        f'[stores.{EU}]\nplatform = "agentos"\nurl = "sqlite:///{tmp_path}/eu.db"\n[stores.agentos]\n'
    )
    shell = Shell(tmp_path)
    assert shell.run("setup").returncode == 0
    done = shell.json("backfill_audit_decision_fields", "--database", EU, "--yes", code=0)
    assert (done["store"], done["status"]) == (EU, "succeeded")
    assert done["changed"] > 0
    undone = shell.json("runs", "undo", done["run"], "--execute", "--yes")
    assert (undone["store"], undone["changed"]) == (EU, done["changed"])
    assert "backfill" in shell.refused("backfill_audit_decision_fields", "--database", "helix")
    commands = [
        ["backfill_audit_decision_fields"],
        ["search", "x"],
        ["audit_coverage"],
        ["run", "audits.check_references"],
    ]
    for words in commands:
        assert f"agentos, {EU}" in shell.refused(*words)
    found = shell.json("backfill_audit_decision_fields", "--all-stores", "--dry-run")["stores"]
    assert [(one["store"], one["total"] > 0) for one in found] == [("agentos", False), (EU, True)]
    found = shell.json("backfill_audit_decision_fields", "--all-stores", "--yes")["stores"]
    assert [one["status"] for one in found] == ["succeeded", "succeeded"]
    assert "rows of one store" in shell.refused("run", BACKFILL, "--all-stores", "--keys", "1")
    refused = shell.refused("run", "backups.backup_store", "--store", "agentos", "--all-stores")
    assert "does not work on all stores" in refused


def test_a_command_leaves_out_a_store_that_it_cannot_reach(tmp_path: Path) -> None:
    for place, alias in enumerate((EU, CN)):
        agentos.create_sqlite(tmp_path / f"{alias}.db", 100, seed=place)
    (tmp_path / "opsconsole.toml").write_text(
        f'[stores.agentos_down]\nplatform = "agentos"\nurl = "postgresql://u@127.0.0.1:1/x"\n'
        f'[stores.{EU}]\nplatform = "agentos"\nurl = "sqlite:///{tmp_path}/{EU}.db"\n'
        f'[stores.gone]\nplatform = "agentos"\nurl = "sqlite:///{tmp_path}/gone.db"\n'
        f'[stores.{CN}]\nplatform = "agentos"\nurl = "sqlite:///{tmp_path}/{CN}.db"\n'
    )
    shell = Shell(tmp_path)
    assert shell.run("setup").returncode == 0
    for words, status in ((["--dry-run"], "planned"), (["--yes"], "succeeded")):
        found = shell.json("backfill_audit_decision_fields", "--all-stores", *words, code=2)["stores"]
        assert [(one["store"], one["status"]) for one in found] == [
            *(("agentos_down", "not_planned"), (EU, status), ("gone", "not_planned"), (CN, status))
        ]
        assert "127.0.0.1" in found[0]["error"]
        assert found[3]["changed"] > 0
    assert shell.run("runs", "undo", "2", "--execute", "--yes").returncode == 0
    with closing(sqlite3.connect(tmp_path / f"{EU}.db")) as connection:
        connection.executescript(
            "UPDATE task_audits SET source_event_ts = NULL, supervisor_processed_at = NULL;"
            "CREATE TRIGGER refuse BEFORE UPDATE ON task_audits BEGIN SELECT RAISE(ABORT, 'refused'); END;"
        )
    found = shell.json("backfill_audit_decision_fields", "--all-stores", "--yes", code=3)["stores"]
    assert [one["status"] for one in found] == ["not_planned", "needs_attention", "not_started", "not_started"]
    done = shell.run("backfill_audit_decision_fields", "--all-stores", "--yes")
    assert f"gone, {CN}" in done.stderr


def _series(page: Client) -> tuple[list[Run], Any]:
    """Plan the backfill on all stores. Return the runs, and their page."""
    made = page.post(f"/admin/operations/{BACKFILL}/plan-all/")
    runs = list(Run.objects.order_by("pk"))
    assert made["Location"] == reverse("run-series", args=[runs[0].pk])
    return runs, page.get(made["Location"])


def _slice(run: Run) -> Run:
    run.refresh_from_db()
    queue.run_slice(run.pk, run.generation)
    run.refresh_from_db()
    return run


def test_runs_on_all_stores_start_one_after_another(stores: tuple[Store, Store], page: Client) -> None:
    runs, shown = _series(page)
    assert [run.store for run in runs] == ["agentos", EU, CN]
    assert all(reverse("run", args=[run.pk]) in shown.text for run in runs)
    changed = page.post(f"/admin/operations/run/{runs[0].pk}/series/confirm/", {"digest": ["x", "y", "z"]})
    assert changed.status_code == 409
    digests = [run.digest for run in runs]
    page.post(f"/admin/operations/run/{runs[0].pk}/series/confirm/", {"digest": digests})
    assert _slice(runs[2]).status == Status.QUEUED
    assert f"Run {runs[1].pk} on" in runs[2].waiting
    for run in runs:
        assert _slice(run).status == Status.SUCCEEDED
    assert runs[1].changed > 0
    assert f"/admin/operations/run/{runs[1].pk}/series/" in page.get(reverse("run", args=[runs[1].pk])).text


def test_a_run_that_needs_attention_stops_the_next_ones(stores: tuple[Store, Store], page: Client) -> None:
    runs, _shown = _series(page)
    digests = [run.digest for run in runs]
    page.post(f"/admin/operations/run/{runs[0].pk}/series/confirm/", {"digest": digests})
    _slice(runs[0])
    Run.objects.filter(pk=runs[1].pk).update(status=Status.NEEDS_ATTENTION)
    assert _slice(runs[2]).status == Status.QUEUED
    assert "needs attention" in runs[2].waiting
    assert "needs attention" in page.get(reverse("run-series", args=[runs[0].pk])).text
    Run.objects.filter(pk=runs[1].pk).update(status=Status.CANCELLED)
    assert _slice(runs[2]).status == Status.QUEUED  # a cancelled run has not succeeded either
    release(runs[1])
    later = execute_run(operation_called(BACKFILL, stores[0]))
    assert later.status == Status.SUCCEEDED
    assert _slice(runs[2]).status == Status.SUCCEEDED


def test_the_page_names_the_stores_that_are_not_planned(
    stores: tuple[Store, Store], page: Client, tmp_path: Path
) -> None:
    attach_url("agentos_down", "postgresql://u@127.0.0.1:1/x", platform="agentos")
    attach_url("agentos_gone", f"sqlite:///{tmp_path}/gone.db", platform="agentos")
    runs, shown = _series(page)
    assert [run.store for run in runs] == ["agentos", EU, CN]
    assert not (tmp_path / "gone.db").exists()
    page.post(reverse("run-replan", args=[runs[0].pk]))
    new = Run.objects.get(replaces=runs[0])
    for found in (shown, page.get(reverse("run-series", args=[new.pk]))):
        assert [title for title, _reason in found.context["left_out"]] == [
            "AgentOS (agentos_down)",
            "AgentOS (agentos_gone)",
        ]
        assert "127.0.0.1" in found.text
        assert "gone.db" in found.text


def test_a_discarded_or_replaced_plan_of_a_series(stores: tuple[Store, Store], page: Client) -> None:
    runs, _shown = _series(page)
    page.post(reverse("run-replan", args=[runs[1].pk]))
    new = Run.objects.get(replaces=runs[1])
    runs[2].refresh_from_db()
    assert (runs[2].follows, new.follows) == (new, runs[0])
    page.post(f"/admin/operations/run/{new.pk}/cancel/")
    page.post(reverse("run-confirm", args=[runs[0].pk]), {"digest": runs[0].digest})
    page.post(reverse("run-confirm", args=[runs[2].pk]), {"digest": runs[2].digest})
    assert _slice(runs[0]).status == Status.SUCCEEDED
    assert _slice(runs[2]).status == Status.SUCCEEDED


def test_a_managed_further_store_is_edited_and_exported(page: Client, bob: User, tmp_path: Path) -> None:
    path = tmp_path / "eu.db"
    path.write_bytes(EMPTY["agentos"].read_bytes())
    store = attach_url(EU, f"sqlite:///{path}", attached=False, platform="agentos")
    assert store.managed
    for alias in (EU, "agentos"):
        Project.objects.using(alias).create(id="p1", path="/p1", name=f"before in {alias}")
    address = f"/admin/store/{EU}/agentos/project/p1/change/"
    form = page.get(address, {"edit": "1"}).context["adminform"].form
    values = {name: value for name, value in form.initial.items() if value is not None}
    answer = page.post(f"{address}?edit=1", {**values, "name": "after"})
    assert (answer.status_code, answer["Location"].partition("?")[0]) == (302, address)
    assert Project.objects.using(EU).get().name == "after"
    assert Project.objects.using("agentos").get().name == "before in agentos"
    run = Run.objects.get()
    assert (run.store, run.changed) == (EU, 1)
    form = page.get(f"/admin/store/{EU}/agentos/project/export/").context["form"]
    fields = {name: "on" for name in form.fields if "_" in name and name != "export_items"}
    exported = page.post(f"/admin/store/{EU}/agentos/project/export/", {"format": "0", "resource": "0", **fields})
    assert "attachment" in exported["Content-Disposition"]
    assert (b"after" in exported.content, b"before" in exported.content) == (True, False)
    saved = page.post(f"/admin/store/{EU}/views/save/", {"table": "agentos.project", "query": "", "name": "mine"})
    assert saved["Location"].startswith(f"/admin/store/{EU}/agentos/project/")


def test_rights_stay_per_platform(stores: tuple[Store, Store], client: Client, charlie: User) -> None:
    client.force_login(charlie)
    assert client.get(LIST.format(EU)).status_code == 403
    assert client.post(f"/admin/store/{EU}/operations/{BACKFILL}/plan/").status_code == 403


def test_a_plan_from_a_list_works_on_its_store(stores: tuple[Store, Store], page: Client) -> None:
    eu, cn = stores
    before = _in_scope(cn)
    shown = page.get(LIST.format(EU))
    assert f'action="/admin/store/{EU}/operations/{BACKFILL}/plan/"' in shown.text
    page.post(f"/admin/store/{EU}/operations/{BACKFILL}/plan/")
    run = Run.objects.get()
    assert (run.store, run.attached_path, run.total) == (EU, "", _in_scope(eu))
    assert stored_plans.store_of(run) == eu
    plan = page.get(reverse("run", args=[run.pk]))
    assert f"/admin/store/{EU}/audits/taskaudit/" in plan.text
    page.post(reverse("run-replan", args=[run.pk]))
    run = Run.objects.get(status=Status.PLANNED)
    assert run.store == EU
    assert _confirm(page, run).status == Status.SUCCEEDED
    assert _in_scope(eu) < run.total
    assert _in_scope(cn) == before
    page.post(f"/admin/operations/run/{run.pk}/undo/")
    undo = Run.objects.get(parent=run)
    assert undo.store == EU


def test_selected_and_matching_rows_are_planned_in_their_store(stores: tuple[Store, Store], page: Client) -> None:
    keys = list(operation_called(BACKFILL, stores[0]).queryset().values_list("pk", flat=True)[:3])
    posted = {"action": BACKFILL, "_selected_action": keys}
    assert page.post(LIST.format(EU), posted).status_code == 302
    run = Run.objects.latest("pk")
    assert (run.store, run.total) == (EU, 3)
    query = f"?due={BACKFILL}"
    page.post(LIST.format(EU) + query, {**posted, "select_across": "1"})
    run = Run.objects.latest("pk")
    assert (run.store, run.total) == (EU, _in_scope(stores[0]))
    assert _confirm(page, run).seen == run.total  # a worker reads the filtered list of the same store


def test_schedules_checks_and_measurements_of_each_store(stores: tuple[Store, Store], page: Client) -> None:
    queue.run_schedule("audits.check_references", "2026-01-01 00:00")
    queue.run_schedule("audits.check_references", "2026-01-01 00:00")  # a doubled tick
    assert sorted(Run.objects.values_list("store", flat=True)) == ["agentos", CN, EU]
    for store in stores:
        measurements.measure(store)
    states = StoreStates()
    assert {alias for alias, name in states.latest if name == f"problem:{BACKFILL}"} == {EU, CN}
    assert states.latest[EU, f"problem:{BACKFILL}"].value == _in_scope(stores[0])
    dashboard = page.get("/admin/")
    for alias in (EU, CN):
        assert f"AgentOS ({alias})" in dashboard.text
        assert f'opsconsole_store_up{{store="{alias}"}} 1.0' in page.get("/metrics").text


def test_a_schedule_for_one_store(stores: tuple[Store, Store], page: Client, bob: User) -> None:
    bob.user_permissions.add(Permission.objects.get(codename="change_schedulesetting"))
    name = "audits.check_references"
    refused = page.post(f"/admin/operations/{name}/schedule/", {"on": "1", "cron": "0 3 * * *", "store": "helix"})
    assert refused.status_code == 400
    assert CN in refused.text
    page.post(f"/admin/operations/{name}/schedule/", {"on": "1", "cron": "0 3 * * *", "store": CN})
    assert f'<option value="{CN}" selected>' in page.get("/admin/operations/", {"q": name}).text
    queue.run_schedule(name, "2026-01-01 00:00")
    assert list(Run.objects.values_list("store", flat=True)) == [CN]
    page.post("/admin/operations/backups.backup_store/schedule/", {"on": "1", "cron": "0 3 * * *", "store": EU})
    queue.run_schedule("backups.backup_store", "2026-01-01 00:00")
    assert Run.objects.latest("pk").params["store"] == EU
    page.post(f"/admin/operations/{name}/schedule/", {"on": "1", "cron": "0 3 * * *", "store": ""})
    queue.run_schedule(name, "2026-01-02 00:00")
    assert set(Run.objects.filter(operation=name).values_list("store", flat=True)) == {"agentos", EU, CN}


def test_a_schedule_that_no_longer_runs_on_one_of_its_stores_is_overdue(stores: tuple[Store, Store]) -> None:
    name = "audits.check_references"
    ScheduleSetting.objects.create(operation=name, on=True, cron="*/20 * * * *")
    queue.run_schedule(name, "2026-01-01 00:00")
    Run.objects.update(status=Status.SUCCEEDED)
    queue.report_overdue()
    assert not Alert.objects.exists()
    Run.objects.filter(store=CN).update(created_at=timezone.now() - timedelta(days=1))
    Run.objects.filter(store=EU).update(trigger=Trigger.ADMIN)  # as if the schedule had never run on EU
    queue.report_overdue()
    assert f"AgentOS ({CN})" in Alert.objects.get().subject
    queue.run_schedule(name, "2026-01-02 00:00")
    Run.objects.update(status=Status.SUCCEEDED)
    queue.report_overdue()
    assert "no longer overdue" in Alert.objects.latest("pk").subject


def test_metrics_name_the_store_of_runs(stores: tuple[Store, Store], page: Client) -> None:
    for store in stores:
        assert execute_run(operation_called(BACKFILL, store)).changed
    shown = page.get("/metrics").text
    for alias in (EU, CN):
        assert f'opsconsole_runs{{operation="{BACKFILL}",status="succeeded",store="{alias}"}} 1.0' in shown
        changed = Run.objects.get(store=alias).changed
        assert f'opsconsole_rows_changed_total{{operation="{BACKFILL}",store="{alias}"}} {changed}.0' in shown


def test_a_page_of_an_app_stays_in_its_store(stores: tuple[Store, Store], page: Client) -> None:
    shown = page.get(LIST.format(CN))
    assert f'href="/admin/store/{CN}/audits/"' in shown.text
    index = page.get(f"/admin/store/{CN}/audits/")
    assert index.status_code == 200
    assert LIST.format(CN) in index.text
    assert page.get(f"/admin/store/{CN}/helix/").status_code == 404


def test_an_incident_is_repaired_in_its_store(stores: tuple[Store, Store], page: Client) -> None:
    for store in stores:
        measurements.measure(store)
    incident = Incident.objects.get(store=CN, source=BACKFILL)
    shown = page.get(reverse("incident", args=[incident.pk]))
    assert f"{LIST.format(CN)}?due={BACKFILL}" in shown.text
    page.post(reverse("incident-repair", args=[incident.pk, BACKFILL]))
    run = Run.objects.get()
    assert (run.store, run.total) == (CN, _in_scope(stores[1]))
    other = _in_scope(stores[0])
    assert _confirm(page, run).status == Status.SUCCEEDED
    incident.refresh_from_db()
    assert incident.count == _in_scope(stores[1]) < run.total
    assert Incident.objects.get(store=EU, source=BACKFILL).count == _in_scope(stores[0]) == other


def test_the_page_of_a_check_repairs_its_store(page: Client, tmp_path: Path) -> None:
    path = tmp_path / "eu.db"
    path.write_bytes(EMPTY["helix"].read_bytes())
    store = attach_url("helix_eu", f"sqlite:///{path}", attached=False, platform="helix")
    with use(store.alias):
        list(demo.load())
    run: Any = execute_run(operation_called("helix.scan_dirty_data", store))
    shown = page.get(reverse("run", args=[run.pk])).text
    assert 'action="/admin/store/helix_eu/operations/helix.' in shown
    assert 'action="/admin/operations/helix.' not in shown


def test_find_searches_each_store(stores: tuple[Store, Store], page: Client) -> None:
    key = TaskAudit.objects.using(CN).order_by("-pk")[0].pk
    assert not TaskAudit.objects.using(EU).filter(pk=key).exists()
    hits = [hit for hit in find.find(str(key), None).hits if hit.model is TaskAudit]
    assert [(hit.store, hit.key) for hit in hits] == [(CN, key)]
    shown = page.get("/admin/find/", {"q": str(key)}, follow=True)
    assert f"{LIST.format(CN)}{key}/change/" in shown.text


def test_a_chosen_store_is_the_store_of_its_platform_only(stores: tuple[Store, Store]) -> None:
    with use(EU):
        assert Store.current("agentos") == stores[0]
        assert Store.current("helix") == Store("helix", "helix")
        assert TaskAudit.objects.count() == 200
    assert Store.current("agentos") == Store("agentos", "agentos")
    assert urlconf("agentos") == urlconf("default")


def test_backups_and_checks_name_the_store(stores: tuple[Store, Store], tmp_path: Path) -> None:
    run: Any = execute_run(operation_called("monitoring.check_store", stores[0], store=EU))
    assert run.store == EU
    run = execute_run(operation_called("backups.backup_store", stores[1], store=CN))
    assert run.status == Status.SUCCEEDED
    assert run.backups.get().store == CN
    assert {"store": EU} in list(registry.scheduled_params(registry.operation("backups.backup_store")))


def test_the_only_store_of_a_platform_is_meant(tmp_path: Path) -> None:
    agentos.create_sqlite(tmp_path / "eu.db", 100)
    (tmp_path / "opsconsole.toml").write_text(
        f'[stores.{EU}]\nplatform = "agentos"\nurl = "sqlite:///{tmp_path}/eu.db"\n'
    )
    shell = Shell(tmp_path)
    assert shell.run("setup", "--demo").returncode == 0
    assert not (tmp_path / "agentos.sqlite3").exists()
    assert [one["alias"] for one in shell.json("stores")["stores"]][:2] == ["default", EU]
    assert shell.json("audit_coverage")["location"] == str(tmp_path / "eu.db")
    done = shell.json("backfill_audit_decision_fields", "--yes")
    assert (done["store"], done["status"]) == (EU, "succeeded")
    assert "eu.db" in shell.refused("search", "redis")  # without a table of the memory
    assert "agentos" in shell.refused("check_store", "agentos")


@pytest.fixture
def pair(stores: tuple[Store, Store]) -> tuple[Store, Store]:
    """Return the two further stores, without a store that has the name of the platform."""
    settings.STORES = {alias: platform for alias, platform in settings.STORES.items() if alias != "agentos"}
    return stores


def test_addresses_without_a_store_lead_to_the_first_one(pair: tuple[Store, Store], page: Client) -> None:
    found = page.get("/admin/audits/taskaudit/?event_type__exact=x")
    assert found["Location"] == f"{LIST.format(EU)}?event_type__exact=x"
    assert page.get("/admin/search/", {"q": "x"})["Location"] == f"/admin/store/{EU}/search/?q=x"
    assert page.get("/admin/helix/helixjob/").status_code == 200
    assert page.get("/admin/store/agentos/audits/taskaudit/").status_code == 404
    plan = f"operations/{BACKFILL}/plan/"
    assert EU in page.post(f"/admin/{plan}", follow=True).text  # names the stores to choose from
    assert not Run.objects.exists()
    shown = page.get("/admin/operations/", {"q": BACKFILL}).text
    assert [shown.count(f'action="/admin/{place}{plan}"') for place in (f"store/{EU}/", f"store/{CN}/", "")] == [
        1,
        1,
        0,
    ]
    page.post(f"/admin/store/{CN}/{plan}")
    assert Run.objects.get().store == CN
    for address in ("/admin/", "/admin/stores/", "/metrics", "/readyz", "/admin/operations/freeze/"):
        shown = page.get(address).text
        assert EU in shown or "AgentOS" not in shown
        assert 'store="agentos"' not in shown
