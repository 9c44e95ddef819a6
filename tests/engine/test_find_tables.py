"""Find in stores without a platform: exact values of indexed columns, and stores that do not answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from opsconsole.engine.find import find
from opsconsole.engine.models import Run
from opsconsole.stores.store import Store
from tests.conftest import attach_url, forget_attached
from tests.support.contract import execute_run, operation_called

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", *settings.STORES])
UUID = "49961d40-0cac-4255-abba-adad0b901056"
KEY = {"sqlite": "INTEGER PRIMARY KEY", "postgresql": "int PRIMARY KEY"}
UUID_KEY = {"sqlite": "TEXT PRIMARY KEY NOT NULL", "postgresql": "uuid PRIMARY KEY"}
STATEMENTS = (
    'CREATE TABLE "Odd %s Name" (id {key}, "Of User" text, note text, at timestamp)',
    'CREATE INDEX of_user ON "Odd %s Name" ("Of User")',
    "CREATE TABLE parts (id {uuid}, place smallint)",
    "CREATE INDEX place ON parts (place)",
    "CREATE TABLE notes (note text)",
    """INSERT INTO "Odd %s Name" (id, "Of User", note) VALUES (7, 'x-1', 'secret'), (8, 'x-1', '7'), (9, '7', '')""",
    f"INSERT INTO parts VALUES ('{UUID}', 7)",
)


@pytest.fixture(params=("sqlite", "postgresql"))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path}/shop.db"
    if request.param == "sqlite":
        (tmp_path / "shop.db").touch()
    else:
        server = request.getfixturevalue("postgres")
        url = server.create_database("shop")
    store = attach_url("shop", url, platform="")
    with store.connection.cursor() as cursor:
        for sql in STATEMENTS:
            cursor.execute(sql.format(key=KEY[request.param], uuid=UUID_KEY[request.param]))
    store.close()
    yield store
    forget_attached()
    if request.param == "postgresql":
        server.drop_database("shop")


def _hits(text: str) -> list[tuple[str, str, Any, int]]:
    return [(hit.table, hit.column, hit.key, hit.rows) for hit in find(text, None).table_hits]


def test_identifiers_are_found_by_indexed_columns(store: Store) -> None:
    odd = "Odd %s Name"
    assert _hits("7") == [(odd, "id", 7, 1), (odd, "Of User", None, 1), ("parts", "place", None, 1)]
    assert _hits("x-1") == [(odd, "Of User", None, 2)]
    assert _hits(UUID) == [("parts", "id", UUID, 1)]
    assert _hits("secret") == []
    for text in ("99999999999999999999", "-1", "07", "x" * 300, "\ud800", "'; --", "%s", "2026-01-01"):
        assert _hits(text) == []
    assert "shop: Odd %s Name.Of User" in find("7", None).searched


def test_a_store_is_asked_in_a_constant_number_of_statements(store: Store) -> None:
    def statements() -> int:
        with CaptureQueriesContext(connections["shop"]) as capture:
            find("7", None)
        return len(capture)

    statements()
    few = statements()
    with store.connection.cursor() as cursor:
        for place in range(20):
            cursor.execute(f"CREATE TABLE t{place} (id int PRIMARY KEY, other int UNIQUE)")
    assert statements() == few


def test_the_page_links_to_the_rows(store: Store, client: Client, viewer: User) -> None:
    client.force_login(viewer)
    assert "shop" not in client.get("/admin/find/", {"q": "x-1"}).text
    viewer.user_permissions.add(Permission.objects.get(codename="browse_store"))
    found = client.get("/admin/find/", {"q": "x-1"}, follow=True)
    assert found.redirect_chain[0][0].startswith("/admin/store/shop/rows/")
    assert len(found.context["listed"].rows) == 2
    shown = client.get("/admin/find/", {"q": "7"})
    assert shown.text.count("/admin/store/shop/rows/") >= 3


def test_the_command_names_store_rows_and_runs(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    statement = """UPDATE "Odd %s Name" SET note = 'new' WHERE id = 7"""
    run: Any = execute_run(operation_called("operations.change_rows", store, store="shop", statement=statement))
    assert run.changed == 1
    call_command("find", "7", "--json")
    rows = json.loads(capsys.readouterr().out)["rows"]
    (row,) = [row for row in rows if row["store"] == "shop" and row["column"] == "id"]
    assert (row["table"], row["key"], row["written_by"]) == ("Odd %s Name", 7, [run.pk])
    call_command("find", "7")
    assert "shop: Odd %s Name" in capsys.readouterr().out
    statement = """DELETE FROM "Odd %s Name" WHERE id = 8"""
    run = execute_run(operation_called("operations.change_rows", store, store="shop", statement=statement))
    assert [row.run for row in find("8", None).deletions] == [Run.objects.get(pk=run.pk)]


def test_a_store_that_does_not_answer_is_not_empty(
    client: Client, bob: User, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    attach_url("down", "postgresql://u@127.0.0.1:1/x", platform="")
    attach_url("gone", f"sqlite:///{tmp_path}/gone.db", platform="agentos")
    with pytest.raises(SystemExit) as ended:
        call_command("find", "nowhere")
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert "Nothing" not in printed.out
    assert "127.0.0.1" in printed.err
    assert "gone.db" in printed.err
    assert find("nowhere", None).not_asked == ["down", "gone"]
    bob.user_permissions.add(Permission.objects.get(codename="browse_store"))
    client.force_login(bob)
    shown = client.get("/admin/find/", {"q": "nowhere"})
    assert "Nothing has" not in shown.text
    assert "127.0.0.1" in shown.text
