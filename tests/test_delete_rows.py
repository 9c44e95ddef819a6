"""Deleting rows by hand: chosen rows of managed stores only; the pages are in test_agentos_admin."""

from __future__ import annotations

from typing import Any

import pytest

from opsconsole.operations import planning
from opsconsole.operations.operations import delete_rows
from opsconsole.operations.planning import UnableToPlan
from opsconsole.operations.selection import Selection
from tests.contract import operation_called

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos", "helix", "records", "roadmaps"])
NAME = "operations.delete_rows"


def test_it_wants_chosen_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.models import Task

    Task.objects.bulk_create(Task(task_id=f"t{number}", title="one") for number in range(3))
    operation = operation_called(NAME, store="agentos", table="tasks")
    with pytest.raises(UnableToPlan, match="No rows are chosen"):
        planning.plan(operation)
    monkeypatch.setattr(delete_rows, "MAX_ROWS", 2)
    with pytest.raises(UnableToPlan, match="At most 2 rows"):
        planning.plan(operation, Selection(["t0", "t1", "t2"]))
    assert planning.plan(operation, Selection(["t0", "t1"])).total == 2


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"store": "nowhere", "table": "tasks"}, "No store is called nowhere"),
        ({"store": "default", "table": "auth_user"}, "is not a managed store"),
        ({"store": "agentos", "table": "auth_user"}, "has no table auth_user"),
        ({"store": "agentos", "table": 'a"; DROP TABLE tasks; --'}, "has no table"),
    ],
)
def test_other_places_are_refused(params: dict[str, str], sentence: str) -> None:
    with pytest.raises(UnableToPlan, match=sentence):
        operation_called(NAME, **params)


def test_an_attached_store_is_refused(make_attached: Any) -> None:
    store = make_attached("sqlite", 5).store
    with pytest.raises(UnableToPlan, match="is not a managed store"):
        operation_called(NAME, store, store="agentos", table="tasks")
