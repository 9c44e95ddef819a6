"""Tests of the operation that rebuilds the search indexes of a managed store."""

from __future__ import annotations

from typing import Any

import pytest

from opsconsole.engine.models import Status
from tasks.agentos import search_index
from tasks.agentos.search import search
from tests.conftest import Managed
from tests.support.contract import execute_run, left_by, operation_called, plan_whole
from tests.support.plain_client import dump, schema

NAME = "agentos.rebuild_search_index"

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])


def remember(managed: Managed, key: str, text: str) -> None:
    managed.execute(
        "INSERT INTO memory_items (id, scope, type, content) VALUES (?, 'global', 'decision', ?)", key, text
    )


def found(managed: Managed, text: str) -> list[str]:
    return sorted(hit.key for hit in search(managed.store, text).hits)


def test_a_run_rebuilds_and_verifies_the_index(managed: Managed) -> None:
    remember(managed, "m1", "数据 words")
    planned = plan_whole(operation_called(NAME))
    assert (planned.total, planned.counts()["changed"]) == (2, 2)
    assert "memory_items" in planned.sample[0]["detail"]
    if managed.engine == "sqlite":
        managed.execute("INSERT INTO memory_fts (memory_fts) VALUES ('delete-all')")
        managed.execute("INSERT INTO memory_grams (memory_grams) VALUES ('delete-all')")
        assert search_index.check(managed.store)
    run = execute_run(operation_called(NAME))
    assert (run.status, run.changed) == (Status.SUCCEEDED, 2), run.error
    assert search_index.check(managed.store) == []
    assert found(managed, "数据") == found(managed, "words") == ["m1"]


def test_remaining_problems_need_attention(managed: Managed, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(managed, "m1", "words")
    monkeypatch.setattr(search_index, "check", lambda store: ["It is not."])
    run = execute_run(operation_called(NAME))
    assert (run.status, run.error) == (Status.NEEDS_ATTENTION, "It is not.")


def test_an_attached_store_is_not_changed(make_attached: Any) -> None:
    store = make_attached("sqlite", 50).store
    with store.connection.cursor() as cursor:
        cursor.execute("CREATE TABLE memory_items (id TEXT PRIMARY KEY, content TEXT, tags TEXT)")
    before = dump(store), schema(store)
    run = execute_run(operation_called(NAME, store))
    assert (run.status, run.invalid) == (Status.SUCCEEDED, 2)
    assert left_by(run) == {"invalid": {"attached": ["memory", "knowledge"]}}
    assert (dump(store), schema(store)) == before
