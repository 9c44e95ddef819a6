"""`stores add` tests a database without writing to it, and appends its entry to `opsconsole.toml`."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support import agentos
from tests.support.subprocess_cli import Shell

SECRET = "hunter2secret"
SQLITE = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE "Odd Name" (x);
CREATE VIEW adults AS SELECT * FROM customers;
CREATE TRIGGER stamp AFTER UPDATE ON customers BEGIN SELECT 1; END;
"""
POSTGRESQL = """
CREATE TABLE customers (id int PRIMARY KEY, name text);
CREATE TABLE "Odd Name" (x text);
CREATE VIEW adults AS SELECT * FROM customers;
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER stamp BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION stamp();
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "console")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "console" / "opsconsole.toml"


def _create(path: Path, script: str = SQLITE) -> str:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return f"sqlite:///{path}"


def test_a_sqlite_file(tmp_path: Path, shell: Shell, file: Path) -> None:
    before = "# our stores\n[policies]  # kept\ntoken_days = 7\n"
    file.write_text(before)
    file.chmod(0o640)
    url = _create(tmp_path / "My Shop.db")
    content = (tmp_path / "My Shop.db").read_bytes()
    url = url.replace(" ", "%20")
    found = shell.json("stores", "add", url)
    assert file.read_text() == f'{before}\n[stores.my_shop]\nurl = "{url}"\n'
    assert file.stat().st_mode & 0o777 == 0o640
    assert (found["alias"], found["platform"], found["tables"], found["needs_restart"]) == ("my_shop", None, 2, True)
    assert found["without_key"] == ["Odd Name"]
    assert found["triggers"] == {"customers": ["stamp"]}
    assert found["other_relations"] == {"adults": "view"}
    assert (tmp_path / "My Shop.db").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["My Shop.db", "console"]
    assert "my_shop is already a store" in shell.refused("stores", "add", url)
    assert "is already the store my_shop" in shell.refused("stores", "add", url, "--alias", "other")


def test_the_line_ends_of_the_file_are_kept(tmp_path: Path, shell: Shell, file: Path) -> None:
    before = b"# our stores\r\n[policies]\r\ntoken_days = 7\r\n"
    file.write_bytes(before)
    url = _create(tmp_path / "shop.db")
    shell.json("stores", "add", url)
    assert file.read_bytes() == before + f'\r\n[stores.shop]\r\nurl = "{url}"\r\n'.encode()
    assert "shop" in shell.run("stores").stdout


def test_a_postgresql_database(postgres: Any, shell: Shell, file: Path) -> None:
    url = postgres.create_database("to_add")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(POSTGRESQL)
    scheme, rest = url.split("://")
    user, host = rest.rsplit("@", 1) if "@" in rest else ("postgres", rest)
    given = f"{scheme}://{user.partition(':')[0]}:{SECRET}@{host}"
    done = shell.run("stores", "add", given, "--alias", "shop")
    assert done.returncode == 0, done.stderr
    assert "SHOP_DATABASE_PASSWORD" in done.stdout
    assert "stamp" in done.stdout
    assert "adults (view)" in done.stdout
    assert SECRET not in done.stdout + done.stderr + file.read_text()
    assert "[stores.shop]" in file.read_text()
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
        assert {name for (name,) in tables} == {"customers", "customers_pkey", "Odd Name", "adults"}
    assert "shop" in shell.run("stores").stdout
    postgres.drop_database("to_add")


def test_the_platform_is_recognized(tmp_path: Path, shell: Shell, file: Path) -> None:
    assert shell.run("setup").returncode == 0
    copy = tmp_path / "eu.db"
    copy.write_bytes((tmp_path / "console" / "agentos.sqlite3").read_bytes())
    found = shell.json("stores", "add", f"sqlite:///{copy}")
    assert (found["platform"], found["missing"]) == ("agentos", [])
    assert 'platform = "agentos"' in file.read_text()
    agentos.create_sqlite(tmp_path / "old.db", 5)  # some of the tables only
    found = shell.json("stores", "add", f"sqlite:///{tmp_path}/old.db", "--platform", "agentos", "--alias", "cn")
    assert "memory_items" in found["missing"]
    listed = {one["alias"]: one for one in shell.json("stores")["stores"]}
    assert {"eu", "cn"} <= listed.keys()
    assert not listed["eu"]["managed"]
    own = tmp_path / "other.sqlite3"
    own.write_bytes((tmp_path / "console" / "default.sqlite3").read_bytes())
    assert "is the database of a console" in shell.refused("stores", "add", f"sqlite:///{own}")


def test_refusals_change_nothing(tmp_path: Path, shell: Shell, file: Path) -> None:
    url = _create(tmp_path / "shop.db")
    (tmp_path / "no.db").write_text("no database at all, but long enough to be one" * 50)
    for words, sentence in (
        ((f"mysql://u:{SECRET}@h/x",), "The URL cannot be read"),
        ((f"postgresql://u:{SECRET}@127.0.0.1:1/x",), "127.0.0.1:1/x cannot be reached"),
        ((f"postgresql://u@h/x?sslpassword={SECRET}",), "sslpassword"),
        ((f"sqlite:///{tmp_path}/none.db",), "does not exist"),
        ((f"sqlite:///{tmp_path}/no.db",), "not a SQLite database"),
        ((url, "--alias", "Shop-1"), "cannot be the name"),
        ((url, "--alias", "default"), "cannot be the name"),
        ((url, "--platform", "nosuch"), "No platform is called nosuch"),
        ((url, "--alias", "helix", "--platform", "agentos"), "name of a platform"),
    ):
        refused = shell.refused("stores", "add", *words)
        assert sentence in refused
        assert SECRET not in refused
        assert not file.exists()
    assert not (tmp_path / "none.db").exists()
    file.write_text("stores = {}\n")
    assert "Add these lines yourself" in shell.refused("stores", "add", url)
    assert file.read_text() == "stores = {}\n"


def test_a_store_that_replaces_the_embedded_one_is_announced(shell: Shell, tmp_path: Path) -> None:
    agentos.create_sqlite(tmp_path / "eu.db", 10)
    words = ("stores", "add", "--platform", "agentos")
    assert shell.json(*words, f"sqlite:///{tmp_path}/eu.db", "--alias", "agentos_eu")["replaces"] == "agentos"
    agentos.create_sqlite(tmp_path / "cn.db", 10)
    done = shell.run(*words, f"sqlite:///{tmp_path}/cn.db", "--alias", "agentos_cn")
    assert done.returncode == 0
    assert "[stores.agentos]" not in done.stdout  # it is replaced already
    assert shell.json("stores", "add", _create(tmp_path / "shop.db"))["replaces"] is None
