"""The command `change`, on a store without a platform: plan, execute, undo, and what is refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.matrix.harness import Place, differences, dump
from tests.support import shop
from tests.support.subprocess_cli import Shell

pytestmark = pytest.mark.django_db(transaction=True, databases=["default"])


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    server = None if request.param == "sqlite" else request.getfixturevalue("postgres")
    with shop.shops(tmp_path, request.param, server, ("shop_change",)) as (one,):
        yield one


@pytest.fixture
def shell(tmp_path: Path, empty_console: Path, place: Place) -> Shell:
    url = f"sqlite:///{place.address}" if place.sqlite else place.address
    shell = Shell(tmp_path / "console", empty_console)
    config = f'[stores.shop]\nurl = "{url}"\n[stores.gone]\nurl = "postgresql://u@127.0.0.1:1/gone"\n'
    (shell.folder / "opsconsole.toml").write_text(config)
    return shell


def test_a_row_is_repaired_and_undone(shell: Shell, place: Place, tmp_path: Path) -> None:
    before = dump(place)
    command = ("change", "shop", "UPDATE orders SET status = 'closed' WHERE status = 'open'", "--json")
    planned = json.loads(shell.run(*command).stdout)
    assert (planned["mode"], planned["total"], planned["changed"]) == ("dry-run", 2, 2)
    assert "open → closed" in shell.run(*command[:-1]).stdout
    assert differences(dump(place), before) == []
    keys = tmp_path / "keys.txt"
    keys.write_text("2\n5\n")
    done = shell.run(*command, "--keys", keys, "--execute", "--yes")
    result = json.loads(done.stdout)
    assert (result["store"], result["status"], result["changed"]) == ("shop", "succeeded", 1)
    assert shop.do(place, "SELECT id FROM orders WHERE status = 'closed'") == [(2,)]
    undone = shell.run("runs", "undo", result["run"], "--execute", "--yes", "--json")
    assert json.loads(undone.stdout)["status"] == "succeeded"
    assert differences(dump(place), before) == []


def test_a_plan_counts_the_rows_that_it_does_not_show(shell: Shell, place: Place) -> None:
    shop.do(place, "DELETE FROM customers")
    values = ", ".join(f"({key}, 0)" for key in range(1, 41))
    shop.do(place, f"INSERT INTO customers VALUES {values}")
    printed = shell.run("change", "shop", "UPDATE customers SET vip = 1 WHERE vip = 0").stdout
    shown = printed.count("vip: 0 → 1")
    assert 0 < shown < 40
    assert f"{shown} of 40" in printed


def test_yes_does_not_confirm_a_statement_for_all_rows(shell: Shell, place: Place) -> None:
    command = ("change", "shop", "UPDATE customers SET vip = 2 WHERE id = id", "--execute")
    refused = shell.run(*command, "--yes")
    assert (refused.returncode, "--confirm operations.change_rows" in refused.stderr) == (2, True)
    assert shop.do(place, "SELECT count(*) FROM customers WHERE vip = 2") == [(0,)]
    assert shell.json(*command, "--confirm", "operations.change_rows")["changed"] == 3


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_a_missing_table_of_another_schema_is_named(shell: Shell, place: Place) -> None:
    shop.do(place, "CREATE SCHEMA sales")
    shop.do(place, "CREATE TABLE sales.leads (id INTEGER PRIMARY KEY)")
    try:
        assert "schema sales" in shell.refused("change", "shop", "DELETE FROM leads WHERE id = 1")
    finally:
        shop.do(place, "DROP SCHEMA sales CASCADE")


def test_bad_input_is_one_sentence(shell: Shell, place: Place, tmp_path: Path) -> None:
    before = dump(place)
    (tmp_path / "none.txt").write_text(" \n")
    (tmp_path / "raw.txt").write_bytes(b"\xff\xfe1")
    statement = "UPDATE orders SET status = 'x' WHERE id = 1"
    wrong: dict[tuple[Any, ...], str] = {
        ("nowhere", statement): "No store is called nowhere. The stores are: ",
        ("default", statement): "No store is called default. The stores are: ",
        ("gone", statement): "cannot be reached",
        ("shop", "UPDATE orders SET status = random() WHERE id = 1"): "random()",
        ("shop", statement, "--db-path", shell.folder / "default.sqlite3"): "works on shop",
        ("shop", "UPDATE order SET status = 'x' WHERE id = 1"): "orders",
        ("shop", "DELETE FROM seen WHERE id = 1"): "view",
        ("shop", "UPDATE MixedCase SET x = 'x' WHERE id = 1"): '"Mixed Case"',
        ("shop", statement, "--keys", tmp_path / "missing.txt"): "cannot be read",
        ("shop", statement, "--keys", tmp_path / "none.txt"): "contains no keys",
        ("shop", statement, "--keys", tmp_path / "raw.txt"): "not UTF-8",
    }
    for words, part in wrong.items():
        answer = shell.run("change", *words, "--execute", "--yes")
        assert (answer.returncode, answer.stdout) == (2, ""), answer
        assert part in answer.stderr
        assert answer.stderr.strip().count("\n") == 0
    assert differences(dump(place), before) == []
