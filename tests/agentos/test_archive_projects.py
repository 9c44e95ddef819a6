"""Tests of the operation that archives idle projects, with the operation contract, on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from opsconsole.engine.models import Run
from opsconsole.engine.operation import Operation
from opsconsole.stores.store import Store, StoreUnavailable
from tests.support.contract import Contract, execute_run, operation_called, plan_whole
from tests.support.plain_client import Tables, dump, execute, neighbour

NAME = "agentos.archive_projects"
DDL = """CREATE TABLE projects (
    id TEXT PRIMARY KEY, path TEXT NOT NULL, added_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    name TEXT NOT NULL DEFAULT '', description TEXT, status TEXT DEFAULT 'active', tags TEXT, default_repo_id TEXT,
    default_workdir TEXT, settings TEXT, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, created_by TEXT)"""
OLD, NEW = "2024-03-01 09:00:00", "2999-01-01 00:00:00"
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
TOUCHED = (OLD, NEW, "2024-03-01 09:00:00.125", None)

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])


def fill(store: Store, count: int = 120) -> Store:
    with neighbour(store) as connection:
        connection.execute(DDL)
        for number in range(count):
            connection.execute(
                "INSERT INTO projects (id, path, name, status, updated_at, created_at, settings)"
                " VALUES (?, '/srv', '项目', ?, ?, ?, '{\"n\": 1.50}')",
                [
                    f"prj-{number:03d}",
                    "archived" if number % 6 == 5 else "active",
                    TOUCHED[number % 4],
                    OLD,
                ],
            )
    return store


class TestContract(Contract):
    operation = NAME
    late_key = "prj-zzz"
    meddled = {"status": "deleted", "updated_at": NEW}

    def rows(self, make_attached: Any, engine: str) -> Store:
        return fill(make_attached(engine, 50).store)

    @pytest.fixture(autouse=True)
    def _clock(self) -> Iterator[None]:
        """Freeze the time of the plans, because it is written into the rows."""
        real = Operation.__init__

        def init(operation: Operation, *args: Any) -> None:
            real(operation, *args)
            operation.as_of = NOW

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Operation, "__init__", init)
            yield

    def expected(self, tables: Tables, vendor: str) -> Tables:
        for row in tables["projects"].values():
            if row["status"] == "active" and row["updated_at"] != NEW:
                row |= {"status": "archived", "updated_at": "2026-11-01 12:00:00"}
        return tables


def test_idle_days_and_selected_projects(make_attached: Any) -> None:
    store = fill(make_attached("sqlite", 50).store)
    everything = plan_whole(operation_called(NAME, store, idle_days=0))
    idle = plan_whole(operation_called(NAME, store))
    assert everything.total == 100 > idle.total > 0
    assert plan_whole(operation_called(NAME, store, idle_days=36_500)).total == 0


def test_a_store_before_version_25_is_refused_with_the_statements(make_attached: Any) -> None:
    store: Store = make_attached("sqlite", 50).store
    execute(store, "CREATE TABLE projects (id TEXT PRIMARY KEY, path TEXT NOT NULL, added_at TIMESTAMP)")
    before = dump(store)
    with pytest.raises(StoreUnavailable, match="ALTER TABLE projects ADD COLUMN status TEXT"):
        execute_run(operation_called(NAME, store))
    assert dump(store) == before
    assert not Run.objects.exists()
