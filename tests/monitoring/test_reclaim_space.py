"""The space of deleted rows is reclaimed, and the undo of earlier runs stays exact."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.urls import reverse

from opsconsole.engine import lifecycle
from opsconsole.engine.models import Status
from opsconsole.engine.planner import PlanRefused
from opsconsole.monitoring import space
from opsconsole.stores.store import StoreUnavailable
from tests.support.contract import execute_run, operation_called, plan_whole, undo

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])
DELETE = "DELETE FROM heaps WHERE n % 10 <> 0"


def reclaim(**params: Any) -> Any:
    return operation_called("monitoring.reclaim_space", store="agentos", **params)


@pytest.fixture
def deleted(managed: Any) -> Any:
    """Return a managed store and the run that deleted most rows of a table without a whole number as its key."""
    managed.execute("CREATE TABLE heaps (code TEXT NOT NULL UNIQUE, n INTEGER, v TEXT)")
    for number in range(3_000):
        managed.execute("INSERT INTO heaps VALUES (?, ?, ?)", f"c{number}", number, "x" * 300)
    run = execute_run(operation_called("operations.change_rows", store="agentos", statement=DELETE))
    assert (run.status, run.changed) == (Status.SUCCEEDED, 2_700)
    return managed, run


def rows(managed: Any) -> Any:
    rowid = "rowid" if managed.engine == "sqlite" else "0"
    return managed.execute(f"SELECT {rowid}, code, n FROM heaps ORDER BY n")


def test_space_is_reclaimed_and_the_undo_stays_exact(deleted: Any) -> None:
    managed, run = deleted
    store, before = managed.store, rows(managed)
    table = {"table": "heaps"} if managed.engine == "postgresql" else {}
    identity = store.identity()
    if managed.engine == "postgresql":
        managed.execute("SELECT pg_stat_force_next_flush()")
    assert space.unreclaimed(store, ["heaps"])
    done = execute_run(reclaim(**table))
    assert (done.status, done.changed, done.error) == (Status.SUCCEEDED, 1, "")
    assert rows(managed) == before
    assert store.identity() == identity
    assert not space.unreclaimed(store, ["heaps"])
    assert undo(run).status == Status.SUCCEEDED
    assert [number for _rowid, _code, number in rows(managed)] == list(range(3_000))
    if managed.engine == "sqlite":
        assert [rowid for rowid, _code, _number in rows(managed)] == list(range(1, 3_001))


@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
def test_a_renumbering_vacuum_is_refused(managed: Any) -> None:
    managed.execute("CREATE TABLE plain (v TEXT)")
    for number in range(500):
        managed.execute("INSERT INTO plain VALUES (?)", str(number) * 200)
    managed.execute("DELETE FROM plain WHERE rowid < 300")
    before = managed.execute("SELECT rowid, v FROM plain")
    with closing(sqlite3.connect(managed.url)) as connection:
        free = connection.execute("PRAGMA freelist_count").fetchone()
    run = execute_run(reclaim())
    assert run.failed == 1
    assert "plain" in run.failed_items.get().error
    assert managed.execute("SELECT rowid, v FROM plain") == before
    with closing(sqlite3.connect(managed.url)) as connection:
        assert connection.execute("PRAGMA freelist_count").fetchone() == free


@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("key", "vacuums"), [("", False), ("UNIQUE", True)])
def test_another_client_writes_between_the_trial_and_vacuum(
    managed: Any, monkeypatch: pytest.MonkeyPatch, key: str, vacuums: bool
) -> None:
    managed.execute(f"CREATE TABLE plain (v TEXT {key})")
    managed.execute("CREATE TRIGGER refuse BEFORE UPDATE ON plain BEGIN SELECT RAISE(FAIL, 'no'); END")
    managed.execute("CREATE TABLE filler (id INTEGER PRIMARY KEY, v TEXT)")
    for number in range(300):
        managed.execute("INSERT INTO plain VALUES (?)", str(number) * 9)
        managed.execute("INSERT INTO filler VALUES (?, ?)", number, "x" * 500)
    managed.execute("DELETE FROM filler")
    removed = space._remove
    before: list[Any] = []

    def remove_and_write(trial: Any) -> None:
        was_made = trial.exists()
        removed(trial)
        if not was_made:
            return
        managed.execute("DELETE FROM plain WHERE rowid % 2 = 0")
        managed.execute("INSERT INTO plain (rowid, v) VALUES (1000 + (SELECT max(rowid) FROM plain), random())")
        before[:] = managed.execute("SELECT rowid, v FROM plain")

    monkeypatch.setattr(space, "_remove", remove_and_write)
    run = execute_run(reclaim())
    assert (run.changed, run.failed) == ((1, 0) if vacuums else (0, 1))
    assert managed.execute("SELECT rowid, v FROM plain") == before


@pytest.mark.parametrize("managed", ["sqlite"], indirect=True)
def test_only_writers_that_wait_ask_for_typing(managed: Any, settings: Any) -> None:
    assert lifecycle.needs_typing(reclaim())
    settings.ATTACHED_STORES |= {"agentos"}
    with pytest.raises(StoreUnavailable, match="attached"):
        plan_whole(reclaim())


@pytest.mark.parametrize("managed", ["postgresql"], indirect=True)
def test_a_table_is_named_and_owned(managed: Any) -> None:
    assert not lifecycle.needs_typing(reclaim(table="tasks"))
    with pytest.raises(PlanRefused, match="Name the table"):
        plan_whole(reclaim())
    with pytest.raises(StoreUnavailable, match="no table nothing"):
        plan_whole(reclaim(table="nothing"))


def test_the_page_of_a_delete_offers_it(deleted: Any, client: Any, alice: User) -> None:
    managed, run = deleted
    if managed.engine == "postgresql":
        managed.execute("SELECT pg_stat_force_next_flush()")
    client.force_login(alice)
    url = reverse("run-space", args=[run.pk])
    assert url in client.get(reverse("run", args=[run.pk])).content.decode()
    part = client.get(url).content.decode()
    assert reverse("plan", args=["monitoring.reclaim_space"]) in part
    assert ("heaps" in part) == (managed.engine == "postgresql")
