"""Find by identifier: exact rows by an index, in every store, and what is not searched."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from opsconsole.engine.find import find, identifier
from opsconsole.engine.models import Finding, Incident, Run
from opsconsole.stores import schema
from opsconsole.stores.indexes import indexes
from opsconsole.stores.platforms import platform_apps
from opsconsole.stores.router import store_of
from opsconsole.stores.store import Store
from tasks.agentos.models import Task
from tests.conftest import attach_url, forget_attached
from tests.support import helix
from tests.support.contract import execute_run, operation_called
from tests.support.plain_client import execute

STORES = ("agentos", "helix", "records", "roadmaps")
IDENTIFIERS = ("5", "T1", str(uuid.UUID(int=7)))
pytestmark = pytest.mark.django_db(transaction=True, databases=["default", *STORES])


@pytest.fixture(params=("sqlite", "postgresql"))
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every store, as `setup` makes it, on each engine."""
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        for name in STORES:
            store = attach_url(name, server.create_database(f"find_{name}"), attached=False)
            schema.make_tables(store)
    yield request.param
    forget_attached()
    if request.param == "postgresql":
        for name in STORES:
            server.drop_database(f"find_{name}")


def identifier_columns() -> set[str]:
    """Return every column that a search compares, as `Found.searched` names it."""
    found = set()
    for app in platform_apps():
        for model in app.get_models():
            if not getattr(model, "store", None):
                continue
            names = [model._meta.pk.name, *app.identifiers.get(str(model._meta.model_name), ())]
            store = store_of(model)
            found |= {f"{store}: {model._meta.db_table}.{model._meta.get_field(name).column}" for name in names}  # type: ignore[union-attr]
    return found


def statements_on_tables(text: str, tables: set[str]) -> list[tuple[str, str]]:
    """Return the store and the SQL of each statement of a search that reads a table of a platform."""
    captures = {name: CaptureQueriesContext(connections[name]) for name in STORES}
    for capture in captures.values():
        capture.__enter__()
    found = find(text, None)
    for capture in captures.values():
        capture.__exit__(None, None, None)
    assert found.unsearched == {}
    return [
        (name, query["sql"])
        for name, capture in captures.items()
        for query in capture
        if (table := re.search(r'FROM "(\w+)"', query["sql"])) and table[1] in tables
    ]


def test_no_search_scans_a_table(engine: str) -> None:
    """Every declared identifier column is searched, and the engine answers by an index."""
    columns = identifier_columns()
    tables = {column.partition(": ")[2].partition(".")[0] for column in columns}
    searched = set()
    for text in IDENTIFIERS:
        searched |= set(find(text, None).searched) - {"operations.run", "operations.incident"}
        statements = statements_on_tables(text, tables)
        assert len(statements) > 10
        for name, sql in statements:
            with connections[name].cursor() as cursor:
                if engine == "sqlite":
                    cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
                    plan = [row[3] for row in cursor.fetchall()]
                    reads = [line for line in plan if "subquery" not in line.lower()]
                    assert all(line.startswith(("SEARCH", "CO-ROUTINE")) for line in reads), (sql, plan)
                else:
                    cursor.execute("SET enable_seqscan = off")  # which empty tables would be read by
                    cursor.execute(f"EXPLAIN {sql}")
                    plan = [row[0] for row in cursor.fetchall()]
                    assert "Seq Scan" not in "\n".join(plan), (sql, plan)
                    assert "Index Cond" in "\n".join(plan), (sql, plan)
    assert searched == columns


def test_a_column_without_a_usable_index_is_not_searched(managed: Any) -> None:
    for name, index in indexes(managed.store).items():
        if index.table == "task_audits" and not index.unique:
            managed.execute(f'DROP INDEX "{name}"')
    managed.execute("CREATE INDEX second ON task_audits (event_type, task_id)")
    managed.execute("CREATE INDEX part ON task_audits (task_id) WHERE event_type = 'x'")
    found = find("T1", None)
    assert "agentos: task_audits.task_id" in found.unsearched
    assert "agentos: task_audits.task_id" not in found.searched
    assert any(place.startswith("agentos: tasks.") for place in found.searched)


def test_the_command_names_the_incidents_of_a_row_and_the_runs_that_wrote_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = Store("helix", "helix")
    for sql, values in helix.rows(helix.one_of_each()):
        execute(store, sql, values)
    execute_run(operation_called("helix.scan_dirty_data", store))
    incident = Incident.objects.get(cause="failed_tasks")
    run = execute_run(operation_called("helix.repair_dirty_jobs", store))
    call_command("find", "4")
    assert re.search(rf"incident +{incident.pk} +\S", capsys.readouterr().out)
    call_command("find", "3")
    assert re.search(rf"written by run +{run.pk} +Repair dirty HELIX jobs · 2\d\d\d-.* · ", capsys.readouterr().out)
    call_command("find", "3", "--json")
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["written_by"] for row in rows if row["table"] == "jobs"] == [[run.pk]]


def test_a_deleted_row_leads_to_the_run_that_deleted_it(
    client: Client, bob: User, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(
        Store("agentos", "agentos"),
        "INSERT INTO memory_items (id, scope, type, content, auto_cleanup, expires_at) VALUES "
        "('m1', 'global', 'note', '{}', 1, '2020-01-01 00:00:00')",
    )
    run = execute_run(operation_called("agentos.clean_memory_items"))
    client.force_login(bob, backend="django.contrib.auth.backends.ModelBackend")
    answer = client.get("/admin/find/", {"q": "m1"})
    assert (answer.status_code, answer.url) == (302, reverse("run", args=[run.pk]))  # type: ignore[attr-defined]
    call_command("find", "m1", "--json")
    assert json.loads(capsys.readouterr().out)["deleted_by"] == [run.pk]
    execute_run(operation_called("operations.undo_run", run=run.pk))
    call_command("find", "m1", "--json")
    restored = json.loads(capsys.readouterr().out)
    assert (restored["deleted_by"], restored["rows"][0]["key"]) == ([], "m1")


@pytest.mark.parametrize(
    ("pasted", "meant"),
    [
        (" 5 ", "5"),
        ("\t5\r\n", "5"),
        ("\u00a05\u00a0", "5"),
        ('"5"', "5"),
        ("' 5 '", "5"),
        ('"5",', "5"),
        ("“5”", "5"),
        ("`5`;", "5"),
        ('"', '"'),
        ("O'Neill", "O'Neill"),
        ('a"', 'a"'),
        ("  ", ""),
    ],
)
def test_what_is_around_a_pasted_identifier(pasted: str, meant: str) -> None:
    assert identifier(pasted) == meant


def test_the_page_opens_the_only_hit(client: Client, bob: User) -> None:
    Task.objects.create(task_id="T-1", title="one")
    client.force_login(bob, backend="django.contrib.auth.backends.ModelBackend")
    for text in ("T-1", " T-1 ", "'T-1'", '"T-1",'):
        answer = client.get("/admin/find/", {"q": text})
        assert (answer.status_code, answer.url) == (302, "/admin/agentos/task/T-1/change/"), text  # type: ignore[attr-defined]
    nothing = client.get("/admin/find/", {"q": "T-2"})
    assert "Nothing has the identifier T-2." in nothing.content.decode()
    for odd in ("\x00", "x" * 5000, "😀", "%", "-1", "9" * 30, "' OR 1=1 --"):
        assert client.get("/admin/find/", {"q": odd}).status_code == 200, odd


def test_an_account_that_may_not_see_incidents_is_not_led_to_one(client: Client, bob: User) -> None:
    task = Task.objects.create(task_id="T-1", title="one")
    identity = Store("agentos", "agentos").identity()
    now = timezone.now()
    incident = Incident.objects.create(
        store="agentos", identity=identity, cause="cause", priority="planned", opened_at=now, seen_at=now
    )
    run = Run.objects.create(operation="audits.check_references", store="agentos", identity=identity, batch_size=1)
    Finding.objects.create(
        operation=run.operation,
        identity=identity,
        table="tasks",
        key=task.pk,
        incident=incident,
        found_at=now,
        seen_at=now,
        first_run=run,
        last_run=run,
    )
    for rights, page in (("view_task", "/admin/agentos/task/T-1/change/"), ("view_run", None)):
        bob.groups.clear()
        bob.user_permissions.add(*Permission.objects.filter(codename=rights))
        client.force_login(bob, backend="django.contrib.auth.backends.ModelBackend")
        answer = client.get("/admin/find/", {"q": "T-1"})
        assert answer.url == (page or reverse("incident", args=[incident.pk]))  # type: ignore[attr-defined]


def test_the_knowledge_search_has_its_own_address(client: Client, bob: User) -> None:
    client.force_login(bob, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get("/admin/")
    assert 'action="/admin/find/"' in page.content.decode()
    assert client.get("/admin/search/").status_code == 200
