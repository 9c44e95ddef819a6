"""The pages of a store without a platform: any names, types and keys, read-only, by one permission."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils.html import escape

from opsconsole.engine import planner
from opsconsole.engine.models import Status
from opsconsole.engine.planner import PlanRefused
from opsconsole.monitoring.measurements import measure
from opsconsole.stores.store import Store, StoreUnavailable
from tests.conftest import attach_url, forget_attached
from tests.support.contract import execute_run, operation_called, plan_whole

HOSTILE = 'a"; DROP TABLE x; -- 100% %s <b>/../'
QUOTED = HOSTILE.replace('"', '""')
COMMON = (
    "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, city TEXT)",
    "CREATE INDEX by_city ON customers (city)",
    "INSERT INTO customers VALUES (1, '<script>alert(1)</script>', 'Bonn'), (2, 'Lin', 'Xi 100%')",
    'CREATE TABLE "Orders" (region VARCHAR(9), "No" BIGINT, customer INTEGER REFERENCES customers (id), '
    'PRIMARY KEY (region, "No"))',
    "INSERT INTO \"Orders\" VALUES ('eu', 2, 1), ('eu', 10, 9223372036854775807), ('cn', 1, NULL)",
    f'CREATE TABLE "{QUOTED}" ("{QUOTED}" TEXT PRIMARY KEY, v TEXT)',
    f"INSERT INTO \"{QUOTED}\" VALUES ('{HOSTILE}', 'here')",
    "CREATE TABLE heap (v TEXT)",
    "INSERT INTO heap VALUES ('one'), ('two')",
    "CREATE VIEW adults AS SELECT * FROM customers",
)
SQLITE = (
    "CREATE TABLE odd (id TEXT PRIMARY KEY, at TIMESTAMP, raw BLOB, n INTEGER)",
    "INSERT INTO odd VALUES ('k', 'never', X'FF00', 'text')",
)
POSTGRESQL = (
    "CREATE TYPE mood AS ENUM ('sad', 'happy')",
    "CREATE TABLE odd (id uuid PRIMARY KEY, m mood, tags text[], p point, raw bytea, j jsonb, r int4range, i interval)",
    "INSERT INTO odd VALUES ('00000000-0000-0000-0000-000000000001', 'sad', '{a,NULL}', '(1,2)', '\\xff', '{}',"
    " '[1,3)', 'P1D')",
    'CREATE SCHEMA "Other"',
    'CREATE TABLE "Other".hidden (id int PRIMARY KEY)',
    "CREATE TABLE secrets (id int PRIMARY KEY)",
    "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id)",
    "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (1) TO (100)",
    "INSERT INTO parts VALUES (5)",
    "CREATE TABLE parent (id int PRIMARY KEY)",
    "CREATE TABLE heir () INHERITS (parent)",
)
pytestmark = pytest.mark.django_db(transaction=True, databases=["default", *settings.STORES])


@pytest.fixture(params=("sqlite", "postgresql"))
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as client:
            client.execute("PRAGMA foreign_keys=OFF")
            for statement in (*COMMON, *SQLITE):
                client.execute(statement)
        yield attach_url("shop", f"sqlite:///{tmp_path}/shop.db", platform="")
        forget_attached()
        return
    server = request.getfixturevalue("postgres")
    url = server.create_database("shop")
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in (*COMMON, *POSTGRESQL):
            connection.execute(statement.replace("9223372036854775807", "2"))
    yield attach_url("shop", url, platform="")
    forget_attached()
    server.drop_database("shop")


@pytest.fixture
def page(client: Client, bob: User) -> Client:
    bob.user_permissions.add(Permission.objects.get(codename="browse_store"))
    client.force_login(bob)
    return client


def rows(page: Client, table: str, **query: str) -> Any:
    return page.get(reverse("browse-rows", args=["shop"]), {"table": table, **query})


def cells(response: Any) -> list[list[str]]:
    assert response.status_code == 200
    return [[str(cell) for cell in line] for line in response.context["listed"].rows]


def test_the_tables_of_the_catalog(page: Client, shop: Store) -> None:
    before = set(shop.tables)
    shown = page.get("/admin/store/shop/")
    assert shown.status_code == 200
    text = shown.text
    assert "customers" in text
    assert "&lt;b&gt;/../" in text
    assert "<b>/../" not in text
    refused = {name: str(why) for name, why in shown.context["refused"].rows}
    assert refused["adults"] == "view"
    if shop.vendor == "postgresql":
        assert shown.context["schemas"].rows == [["Other", "1"]]
        assert "parent" in refused
        assert cells(rows(page, "parts"))[0][1].count("5") == 1
    assert set(Store.called("shop").tables) == before


def test_names_values_and_keys_of_any_kind(page: Client, shop: Store) -> None:
    listed = rows(page, "customers")
    assert "<script>alert" not in listed.text
    assert "&lt;script&gt;alert(1)" in listed.text
    odd = cells(rows(page, HOSTILE))
    assert "here" in odd[0][2]
    for table in (HOSTILE, "Orders", "odd", "customers"):
        for line in cells(rows(page, table)):
            url = line[0].split('href="')[1].split('"')[0].replace("&amp;", "&").replace("&#x27;", "'")
            assert page.get(url).status_code == 200, url
    assert len(cells(rows(page, "heap"))) == 2
    assert rows(page, "nothing").status_code == 404
    assert rows(page, "adults").status_code == 404
    if shop.vendor == "sqlite":
        assert "FF00" in rows(page, "odd").text
    else:
        assert "1 day" in rows(page, "odd").text


def test_foreign_keys_are_links(page: Client, shop: Store) -> None:
    listed = rows(page, "Orders", c0="eu", c1="2")
    assert "/admin/store/shop/row/?table=customers&amp;key=1" in listed.text
    followed = page.get("/admin/store/shop/row/", {"table": "customers", "key": "1"})
    assert "Bonn" in followed.text


def test_filters_use_indexed_columns_only(page: Client, shop: Store) -> None:
    assert [one.label for one in rows(page, "customers").context["filters"]] == ["id", "city"]
    assert len(cells(rows(page, "customers", c2="Xi 100%"))) == 1
    assert len(cells(rows(page, "customers", c0="2"))) == 1
    assert len(cells(rows(page, "customers", c1="Lin"))) == 2  # no index: no filter
    for name, value in (("c0", "x"), ("c0", "9" * 30), ("c0", "٣"), ("c2", "a\x00b")):
        response = rows(page, "customers", **{name: value})
        assert cells(response) == []
        assert response.context["problem"]
    if shop.vendor == "postgresql":
        assert rows(page, "odd", c0="no uuid").context["problem"]


@pytest.mark.parametrize("table", ["many", "pairs"])
def test_pages_follow_each_other_by_the_key(page: Client, shop: Store, table: str) -> None:
    shop.execute("CREATE TABLE many (id TEXT PRIMARY KEY, v TEXT)")
    shop.execute("CREATE TABLE pairs (a BIGINT, b TEXT, PRIMARY KEY (b, a))")
    for number in range(250):
        shop.execute("INSERT INTO many VALUES (%s, %s)", [f"k'{number}", "x" * 100_000 if number == 7 else "v"])
        shop.execute("INSERT INTO pairs VALUES (%s, %s)", [number % 10, f"b{number // 10}"])
    for start in ("first", "last"):
        seen: list[str] = []
        response = rows(page, table, **{"from": start})
        while True:
            assert len(response.content) < 500_000
            seen += [line[0] for line in cells(response)]
            if not response.context["next_url"]:
                break
            with CaptureQueriesContext(connections["shop"]) as captured:
                response = page.get(response.context["next_url"])
            assert not any("OFFSET" in query["sql"] or "COUNT(" in query["sql"] for query in captured)
        assert len(seen) == len(set(seen)) == 250


def test_the_operations_on_any_store(page: Client, shop: Store) -> None:
    run = execute_run(operation_called("monitoring.check_store", shop, store="shop"))
    assert run.status in {Status.SUCCEEDED, Status.NEEDS_ATTENTION}
    assert (shop.missing(), shop.unknown()) == ([], [])
    run = execute_run(operation_called("backups.backup_store", shop, store="shop"))
    assert run.status == Status.SUCCEEDED
    measure(shop)
    for address in ("/admin/", "/admin/stores/", "/admin/operations/", "/admin/find/?q=customers", "/metrics"):
        assert page.get(address).status_code == 200
    with pytest.raises(PlanRefused, match="no platform"):
        planner.plan(operation_called("backups.upgrade_store", shop, store="shop"))


def test_keys_of_sqlite_can_be_null_and_of_several_types(page: Client, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "odd.db", isolation_level=None)) as client:
        client.execute("CREATE TABLE odd (k PRIMARY KEY, v)")
        client.executemany("INSERT INTO odd VALUES (?, ?)", [(None, f"null {number}") for number in range(120)])
        client.executemany("INSERT INTO odd VALUES (?, ?)", [(1, "i"), ("1", "t"), (2.5, "f"), (b"\x00", "b")])
    attach_url("shop", f"sqlite:///{tmp_path}/odd.db", platform="")
    seen, response = [], rows(page, "odd")
    while True:
        for line in cells(response):
            url = line[0].split('href="')[1].split('"')[0].replace("&amp;", "&")
            value = line[2].split(">")[1].split("<")[0]
            assert f">{value}<" in page.get(url).text
            seen.append(value)
        if not response.context["next_url"]:
            break
        response = page.get(response.context["next_url"])
    assert sorted(seen) == sorted([*(f"null {number}" for number in range(120)), "i", "t", "f", "b"])


def test_a_key_that_no_address_can_hold(page: Client, shop: Store) -> None:
    if shop.vendor == "sqlite":
        return
    shop.execute("CREATE TYPE pair AS (a int, b int)")
    shop.execute("CREATE TABLE composite (id pair PRIMARY KEY)")
    shop.execute("INSERT INTO composite SELECT (n, n)::pair FROM generate_series(1, 101) AS n")
    shown = rows(page, "composite")
    assert (len(cells(shown)), shown.context["is_cut"], shown.context["next_url"]) == (100, True, "")


def test_a_wrong_address_is_not_found(page: Client, shop: Store) -> None:
    for query in (
        {"table": "customers", "key": "x"},
        {"table": "customers", "key": "3"},
        {"table": "Orders", "key": "[1]"},
        {"table": "Orders", "key": "[" * 9000},
        {"table": "odd", "key": "no uuid"},
        {"table": "customers"},
    ):
        assert page.get("/admin/store/shop/row/", query).status_code == 404, query
    assert rows(page, "customers", after="x").status_code == 404
    for alias in ("agentos", "default", "none"):
        assert page.get(f"/admin/store/{alias}/").status_code == 404


def test_a_table_leads_to_a_statement(page: Client, shop: Store, bob: User) -> None:
    assert reverse("statement") not in rows(page, HOSTILE).text
    bob.user_permissions.add(Permission.objects.get(codename="change_by_statement"))
    assert reverse("statement", query={"store": "shop"}) in page.get("/admin/store/shop/").text
    url = rows(page, HOSTILE).context["statement_url"]
    assert escape(url) in rows(page, HOSTILE).text
    form = page.get(url).context["form"]
    assert form["store"].value() == "shop"
    statement = form["statement"].value().replace("SET ", "SET v = 'new'") + "v = 'here'"
    run = execute_run(operation_called("operations.change_rows", store="shop", statement=statement))
    assert (run.changed, run.status) == (1, Status.SUCCEEDED)
    assert not rows(page, "heap").context["statement_url"]  # it has no key


def test_the_kinds_of_tables_are_translated(page: Client, shop: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django.utils.translation._trans.pgettext", lambda context, text: f"«{text}»")
    shown = page.get("/admin/store/shop/")
    assert {name: str(why) for name, why in shown.context["refused"].rows}["adults"] == "«view»"
    assert {str(kind) for _name, kind, *_others in shown.context["listed"].rows} >= {"«table»"}
    statement = "UPDATE adults SET name = 'x' WHERE id = 1"
    operation = operation_called("operations.change_rows", store="shop", statement=statement)
    with pytest.raises(StoreUnavailable, match="«view»"):
        plan_whole(operation)


def test_the_permission(client: Client, shop: Store, bob: User, viewer: User, alice: User) -> None:
    addresses = ("/admin/store/shop/", "/admin/store/shop/rows/?table=customers", "/admin/store/shop/row/?key=1")
    for person in (bob, viewer):
        client.force_login(person)
        assert [client.get(address).status_code for address in addresses] == [403, 403, 403]
        assert "/admin/store/shop/" not in client.get("/admin/").text
    client.force_login(alice)
    assert "/admin/store/shop/" in client.get("/admin/").text
    assert client.post(addresses[0]).status_code == 405


def test_hidden_rows_are_not_shown_as_all(page: Client, shop: Store) -> None:
    if shop.vendor == "sqlite":
        return
    shop.execute("CREATE ROLE peeper LOGIN")
    try:
        shop.execute("ALTER TABLE secrets ENABLE ROW LEVEL SECURITY")
        shop.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO peeper")
        connections["shop"].close()
        connections["shop"].settings_dict["USER"] = "peeper"
        refused = {name: str(why) for name, why in page.get("/admin/store/shop/").context["refused"].rows}
        assert "Row-level security" in refused["secrets"]
        assert rows(page, "secrets").status_code == 503
    finally:
        connections["shop"].close()
        connections["shop"].settings_dict["USER"] = ""
