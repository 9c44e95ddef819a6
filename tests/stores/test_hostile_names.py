"""Names of tables and columns are quoted, and nothing in them is executed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from opsconsole.backups import dump
from opsconsole.backups.models import TableCopy
from opsconsole.backups.salvage import rebuild
from opsconsole.cli.management.commands.stores import report
from opsconsole.engine.models import Finding, Run, Status
from opsconsole.monitoring import stats
from opsconsole.stores.cascade import cascade, references
from opsconsole.stores.catalog import identifier, quote
from opsconsole.stores.models import Backup
from opsconsole.stores.schema import missing
from opsconsole.stores.store import Store
from tests.backups.test_copy_store import target  # noqa: F401
from tests.support.contract import execute_run, operation_called

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])

NAMES = (
    'a"; DROP TABLE x; --',
    'x" (a) VALUES (1); DROP TABLE x; --',
    "it's 100% %s %(name)s %%",
    "a.b (c), d?",
    "two\nlines",
    "表 \u202e 🙂",
    '"quoted"',
    "\x1b[31mred",
    "$1 $$ \\ {0} :name",
    "Select",
)


@pytest.fixture
def hostile(managed: Any) -> Any:
    """Create a managed store with tables and columns of these names, connected by foreign keys."""
    text = "TEXT"
    managed.execute("CREATE TABLE x (id INTEGER PRIMARY KEY)")
    managed.execute("INSERT INTO x VALUES (1)")
    for number, name in enumerate(NAMES):
        table, column = identifier(name), identifier(f"{name}!")
        plain(
            managed,
            f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, {column} {text}, "
            f"x INTEGER REFERENCES x(id), item {text} REFERENCES memory_items(id))",
        )
        plain(managed, f"INSERT INTO {table} VALUES (1, 'v', 1, NULL)")
        plain(managed, f"CREATE INDEX {identifier(f'{name}#')} ON {table} ({column})")
        plain(managed, f"ALTER TABLE memory_items ADD COLUMN {column} {text} DEFAULT 'd{number}'")
    managed.execute(
        "INSERT INTO memory_items (id, scope, type, content, confidence) VALUES (?, 'task', 'decision', '{}', 0.1)", "m"
    )
    return managed


def plain(managed: Any, sql: str) -> Any:
    """Execute a statement without parameters by the plain driver."""
    return managed.client.execute(sql)


def untouched(managed: Any) -> bool:
    return bool(managed.execute("SELECT id FROM x") == [(1,)])


def run(name: str, **parameters: Any) -> Run:
    done = execute_run(operation_called(name, store="agentos", **parameters))
    assert done.status in {Status.SUCCEEDED, Status.NEEDS_ATTENTION}, done.error
    return done


def test_a_name_is_one_identifier() -> None:
    with closing(sqlite3.connect(":memory:")) as client:
        for name in NAMES:
            assert client.execute(f"SELECT 1 AS {identifier(name)}").description[0][0] == name
            assert quote(name) % () == identifier(name)


@pytest.mark.parametrize("plain_text", [False, True], ids=["binary", "plain"])
def test_backups(hostile: Any, plain_text: bool) -> None:
    done = run("backups.backup_store", plain=plain_text)
    rows = Backup.objects.get(run_id=done.pk).rows
    assert {name.removeprefix("public.") for name in rows} > set(NAMES)
    assert untouched(hostile)


def test_check_stats_and_stores(hostile: Any) -> None:
    plain(hostile, f"UPDATE memory_items SET {identifier(NAMES[0] + '!')} = 'x'")
    run("monitoring.check_store")
    assert not Finding.objects.filter(code__in=["unanswered", "broken_reference"]).exists()
    tables = {row["table"]: row["rows"] for row in stats.stats(hostile.store)["tables"]}
    assert set(NAMES) <= set(tables)
    entry, reason = report(hostile.store)
    assert entry["reachable"], reason
    assert set(NAMES) <= set(entry["unknown"])
    assert missing(Store("agentos", "agentos")) == []  # missing parts for upgrade_store
    assert untouched(hostile)


def test_a_dangling_reference_is_found(hostile: Any) -> None:
    if hostile.engine == "sqlite":
        hostile.execute("PRAGMA foreign_keys=OFF")
    else:
        hostile.execute("SET session_replication_role = replica")
    for name in NAMES:
        plain(hostile, f"UPDATE {identifier(name)} SET item = 'gone'")
    run("monitoring.check_store")
    assert Finding.objects.filter(code="dangling_reference").count() == len(NAMES)


def test_a_delete_lists_its_cascades(hostile: Any) -> None:
    for name in NAMES:
        plain(hostile, f"UPDATE {identifier(name)} SET item = 'm'")
    found = cascade(hostile.store, "memory_items", ["m"], references(hostile.store))
    assert sum(found.staying.values()) == len(NAMES)
    assert untouched(hostile)


def test_a_clean(hostile: Any) -> None:
    hostile.execute(
        "UPDATE memory_items SET auto_cleanup = ?, expires_at = '2020-01-01'", hostile.engine == "sqlite" or 1
    )
    done = execute_run(operation_called("agentos.clean_memory_items"))
    assert (done.status, done.changed) == (Status.SUCCEEDED, 1)
    undone = execute_run(operation_called("operations.undo_run", run=done.pk))
    assert (undone.status, undone.changed) == (Status.SUCCEEDED, 1)
    columns = ", ".join(identifier(f"{name}!") for name in NAMES)
    row = plain(hostile, f"SELECT {columns} FROM memory_items").fetchone()
    assert row == tuple(f"d{number}" for number in range(len(NAMES)))
    assert untouched(hostile)


def test_a_copy(hostile: Any, target: Any) -> None:  # noqa: F811
    """Columns with these names are copied if the target has them."""
    run("backups.copy_store", to="agentos_new")
    assert TableCopy.objects.get(table="memory_items").agrees
    assert untouched(hostile)


@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
def test_a_rebuild(hostile: Any, tmp_path: Path) -> None:
    saved = rebuild(Path(hostile.url), tmp_path / "saved.db")
    assert saved.lost == []
    assert set(NAMES) <= set(saved.rows)


@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
def test_the_plain_text_of_sqlite_loads(hostile: Any) -> None:
    with closing(sqlite3.connect(hostile.url)) as source, closing(sqlite3.connect(":memory:")) as loaded:
        source.executescript(
            "CREATE TABLE odd (t TEXT, v TEXT AS (t || '!')); CREATE TABLE keyed (k TEXT PRIMARY KEY) WITHOUT ROWID;"
            "INSERT INTO odd (rowid, t) VALUES (7, 'a' || char(0) || char(39) || 'b'), (11, X'00FF');"
            "INSERT INTO keyed VALUES ('k')"
        )
        loaded.executescript(dump._Lines(source).read(1 << 30).decode())
        odd = "SELECT rowid, typeof(t), hex(t) FROM odd"
        assert loaded.execute(odd).fetchall() == source.execute(odd).fetchall()
        assert loaded.execute("SELECT k FROM keyed").fetchall() == [("k",)]
        for name in NAMES:
            assert loaded.execute(f"SELECT * FROM {identifier(name)}").fetchall() == [(1, "v", 1, None)]
