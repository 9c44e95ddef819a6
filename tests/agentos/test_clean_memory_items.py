"""Tests of the operation that removes expired memory items, with the operation contract, on both engines."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from opsconsole.engine.models import Status
from opsconsole.stores.store import Store, StoreUnavailable
from opsconsole.timestamps import format_timestamp
from tests.support.contract import Contract, execute_run, left_by, operation_called, plan_whole, start, undo, work
from tests.support.plain_client import Tables, dump, execute, neighbour

NAME = "agentos.clean_memory_items"
DDL = """CREATE TABLE memory_items (
    id TEXT PRIMARY KEY, scope TEXT NOT NULL, type TEXT NOT NULL, content TEXT NOT NULL, tags TEXT, sources TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    confidence REAL DEFAULT 0.5, project_id TEXT, last_used_at TIMESTAMP, use_count INTEGER DEFAULT 0,
    retention_type TEXT DEFAULT 'project', expires_at TIMESTAMP, auto_cleanup INTEGER DEFAULT 1)"""
PAST, FUTURE = "2026-01-20 10:00:00", "2999-01-01 00:00:00"
ENDS = (PAST, "2026-02-01T10:00:00.125000", FUTURE, None, "2026-03-01 00:00:00.5")
#: Only SQLite accepts an invalid time in this column.
ODD_ENDS = ("soon", "", "2026-04-01T08:00:00Z")
CONTENT = ('{"text": "记忆"}', "{broken", "", '{"n": 1.50}')

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])


def fill(store: Store, count: int = 240) -> Store:
    """Add items of every kind. Every fifth must not be removed, every seventh is temporary."""
    ends = ENDS if store.vendor == "postgresql" else ENDS + ODD_ENDS
    with neighbour(store) as connection:
        connection.execute(DDL)
        for number in range(count):
            connection.execute(
                "INSERT INTO memory_items (id, scope, type, content, tags, expires_at, auto_cleanup, retention_type,"
                " last_used_at, created_at) VALUES (?, 'project', 'decision', ?, ?, ?, ?, ?, ?, ?)",
                [
                    f"mem-{number:03d}",
                    CONTENT[number % len(CONTENT)],
                    None if number % 3 else '["a"]',
                    ends[number % len(ends)],
                    int(number % 5 != 0),
                    "temporary" if number % 7 == 0 else "project",
                    PAST if number % 4 else None,
                    PAST,
                ],
            )
    return store


def may_go(row: Any) -> bool:
    ends = row["expires_at"]
    expired = bool(ends) and str(ends)[:1] == "2" and str(ends) < "2900"
    return expired and int(row["auto_cleanup"]) == 1


class TestContract(Contract):
    operation = NAME
    late_key = "mem-zzz"
    meddled = {"expires_at": FUTURE}

    def rows(self, make_attached: Any, engine: str) -> Store:
        return fill(make_attached(engine, 50).store)

    def expected(self, tables: Tables, vendor: str) -> Tables:
        items = tables["memory_items"]
        tables["memory_items"] = {key: row for key, row in items.items() if not may_go(row)}
        return tables


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-text"])
def test_an_item_used_since_the_plan_is_kept(make_attached: Any, engine: str) -> None:
    """An agent uses one item and creates another between the plan and the run."""
    store = fill(make_attached(engine, 50).store)
    operation = operation_called(NAME, store)
    operation.as_of = timezone.now() - timedelta(hours=1)
    planned = plan_whole(operation)
    run = start(operation)
    now = format_timestamp(timezone.now())
    victims = [key for key, row in dump(store)["memory_items"].items() if may_go(row)]
    execute(store, "UPDATE memory_items SET last_used_at = ?, use_count = 1 WHERE id = ?", [now, victims[0]])
    row = {"id": "mem-000a", "scope": "task", "type": "decision", "content": "{}", "expires_at": PAST}
    marks = ", ".join("?" * len(row))
    execute(store, f"INSERT INTO memory_items ({', '.join(row)}) VALUES ({marks})", list(row.values()))
    run = work(run)
    kept = dump(store)["memory_items"]
    assert {victims[0], "mem-000a"} <= set(kept)
    assert not set(victims[1:]) & set(kept)
    assert run.changed == planned.counts()["changed"] - 1
    left = left_by(run)["skipped"]
    assert "made_since" not in left, "a row that the plan did not show is not even looked at"
    assert victims[0] in left["used_since"]


def test_one_retention_type_and_figures_by_type(make_attached: Any) -> None:
    store = fill(make_attached("sqlite", 50).store)
    operation = operation_called(NAME, store, retention_type="temporary")
    run = execute_run(operation)
    gone = 240 - len(dump(store)["memory_items"])
    assert run.status == Status.SUCCEEDED
    assert gone == run.changed > 0
    assert run.before["retention_type temporary"] == run.before["in_scope"]
    whole = plan_whole(operation_called(NAME, store))
    assert whole.before["retention_type project"] > 0


@pytest.mark.parametrize("ends", ["2999-01-01 00:00:00+0800", "2999-01-01T00", "20990101T000000", "4102444800"])
def test_a_time_that_sqlite_cannot_parse_is_processed_too(make_attached: Any, ends: str) -> None:
    store = fill(make_attached("sqlite", 50).store, count=3)
    execute(store, "UPDATE memory_items SET auto_cleanup = 1, expires_at = ?", [ends])
    assert execute_run(operation_called(NAME, store)).reasons["skipped"] == {"not_expired": 3}
    execute(store, "UPDATE memory_items SET expires_at = 1577836800")
    run = execute_run(operation_called(NAME, store))
    assert (run.changed, run.skipped) == (3, 0), "a number is a time since 1970"


def test_a_table_without_possible_deletes_is_refused(make_attached: Any) -> None:
    store: Store = make_attached("sqlite", 50).store
    execute(store, DDL.rstrip(")") + ", FOREIGN KEY (project_id) REFERENCES projects(id))")
    with pytest.raises(
        StoreUnavailable, match=r"refuses to delete rows of memory_items: no such table: main\.projects"
    ):
        plan_whole(operation_called(NAME, store))
    store = make_attached("sqlite", 50).store
    execute(store, DDL.replace("id TEXT PRIMARY KEY", "id TEXT"))
    insert = "INSERT INTO memory_items (id, scope, type, content) VALUES (?, 'task', 'decision', '{}')"
    execute(store, insert, ["one"])
    assert plan_whole(operation_called(NAME, store)).total == 0  # keys are unique, although no index enforces it
    for key in ("one", None):
        execute(store, insert, [key])
        with pytest.raises(
            StoreUnavailable, match=r"memory_items has \d rows with the same key|Rows of memory_items have no key"
        ):
            plan_whole(operation_called(NAME, store))
        execute(store, "DELETE FROM memory_items WHERE rowid > 1")


def test_invalid_times_are_invalid_and_unchanged(make_attached: Any) -> None:
    store = fill(make_attached("sqlite", 50).store)
    run = execute_run(operation_called(NAME, store))
    kept = dump(store)["memory_items"]
    assert set(left_by(run)["invalid"]["unreadable_time"]) <= set(kept)
    assert run.reasons["invalid"]["unreadable_time"] == run.invalid > 0


#: AgentOS's full-text index, which refers to items by their implicit rowid.
SEARCH = """
CREATE VIRTUAL TABLE memory_fts USING fts5(id UNINDEXED, content, tags, content='memory_items', content_rowid='rowid');
CREATE TRIGGER memory_fts_insert AFTER INSERT ON memory_items BEGIN
    INSERT INTO memory_fts (rowid, id, content, tags) VALUES (new.rowid, new.id, new.content, new.tags);
END;
CREATE TRIGGER memory_fts_update AFTER UPDATE ON memory_items BEGIN
    UPDATE memory_fts SET content = new.content, tags = new.tags WHERE rowid = new.rowid;
END;
CREATE TRIGGER memory_fts_delete AFTER DELETE ON memory_items BEGIN
    DELETE FROM memory_fts WHERE rowid = old.rowid;
END;
"""
FIND = "SELECT m.id FROM memory_fts JOIN memory_items AS m ON m.rowid = memory_fts.rowid WHERE memory_fts MATCH ?"


def test_the_search_of_the_platform_is_correct_after_an_undo(make_attached: Any) -> None:
    """Each of forty items has one word. The run removes every second item while the platform continues to write."""
    store: Store = make_attached("sqlite", 50).store
    assert store.path is not None
    words = [f"word{number:02d}" for number in range(40)]
    with closing(sqlite3.connect(store.path, isolation_level=None)) as client:
        client.execute(DDL)
        client.executescript(SEARCH)
        for number, word in enumerate(words):
            client.execute(
                "INSERT INTO memory_items (id, scope, type, content, expires_at) VALUES (?, 'task', 'decision', ?, ?)",
                [f"id-{(number * 7) % 40:02d}", f'{{"text": "{word}"}}', PAST if number % 2 else FUTURE],
            )

        def found() -> dict[str, list[str]]:
            return {word: [row[0] for row in client.execute(FIND, [word])] for word in words}

        before = found()
        assert all(len(ids) == 1 for ids in before.values())
        run = execute_run(operation_called(NAME, store))
        assert run.changed == 20
        assert found() == {word: ids if number % 2 == 0 else [] for number, (word, ids) in enumerate(before.items())}
        client.execute("UPDATE memory_items SET use_count = use_count + 1 WHERE id = 'id-00'")
        undone = undo(run)
        assert (undone.status, undone.changed) == (Status.SUCCEEDED, 20)
        assert found() == before
