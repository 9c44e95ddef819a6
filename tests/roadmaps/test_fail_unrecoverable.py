"""Failing stuck tasks without a checkpoint: the contract, and the tasks that are skipped."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any, ClassVar

import psycopg
import pytest
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver

from opsconsole.engine.operation import Operation
from opsconsole.stores.store import Store, StoreUnavailable
from roadmaps.operations.fail_unrecoverable import REASON
from tests.support import roadmaps
from tests.support.contract import Contract, execute_run, operation_called
from tests.support.plain_client import Row, Tables, dump
from tests.support.roadmaps import AS_OF, LONG_AGO, NOW, Maker, concept

NAME = "roadmaps.fail_unrecoverable"

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "roadmaps"])


@pytest.fixture(autouse=True)
def _frozen() -> Iterator[None]:
    """Make every plan at noon."""
    real = Operation.__init__

    def at_noon(self: Operation, *args: Any) -> None:
        real(self, *args)
        self.as_of = AS_OF

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Operation, "__init__", at_noon)
        yield


def make_tables(store: Store) -> None:
    """Create LangGraph's tables with its savers."""
    if store.path is not None:
        with closing(sqlite3.connect(store.path)) as connection:
            SqliteSaver(connection).setup()
            connection.execute("PRAGMA journal_mode=DELETE")
        return
    config = store.connection.settings_dict
    address = {"host": config["HOST"], "port": config["PORT"], "user": config["USER"], "dbname": config["NAME"]}
    with psycopg.connect(**address, autocommit=True) as pg:
        PostgresSaver(pg).setup()


class TestContract(Contract):
    operation = NAME
    engines = ("sqlite", "postgresql-json")
    late_key = "zzz"
    meddled: ClassVar[Row] = {
        "status": "cancelled",
        "current_step": None,
        "error_message": None,
        "updated_at": LONG_AGO,
    }

    @pytest.fixture
    def store(self, make_roadmaps: Any, engine: str) -> Store:
        maker = Maker()
        for number in range(64):
            maker.roadmap(f"r{number}", [concept("a")])
            maker.task(f"task{number:02d}", f"r{number}", task_type="creation" if number % 5 else "retry_quiz")
        maker.task("alone-at-work", "r1", updated_at=roadmaps.AT_WORK)
        maker.task("alone-waits", "r1", status="human_review_pending")
        store: Store = make_roadmaps(engine, maker.rows)
        make_tables(store)
        return store

    def expected(self, tables: Tables, vendor: str) -> Tables:
        for key, task in tables["roadmap_tasks"].items():
            if task["task_type"] == "creation" and not key.startswith("alone-"):
                task |= {
                    "status": "failed",
                    "current_step": "recovery_failed",
                    "error_message": REASON,
                    "updated_at": NOW,
                }
        return tables


def test_without_tables_of_langgraph_checkpoints_are_unknown(make_roadmaps: Any) -> None:
    maker = Maker()
    maker.roadmap("r", [concept("a")])
    maker.task("t", "r")
    store = make_roadmaps("sqlite", maker.rows)
    before = dump(store)
    with pytest.raises(StoreUnavailable, match="ROADMAPS_CHECKPOINT_URL"):
        execute_run(operation_called(NAME, store))
    assert dump(store) == before
