"""Tests of the check of references: dangling references and cycles, on both engines and in older stores."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsconsole.engine.models import Status
from opsconsole.stores.store import Store
from tasks.agentos.cycles import cycles
from tests.support.contract import execute_run, operation_called
from tests.support.plain_client import dump, neighbour, schema

NAME = "audits.check_references"

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])


@pytest.mark.parametrize("engine", ["sqlite", "postgresql-text"])
def test_each_dangling_reference_is_found_once(make_attached: Any, engine: str) -> None:
    store: Store = make_attached(engine, 50).store
    with neighbour(store) as connection:
        connection.execute("CREATE TABLE task_artifact_ref (artifact_id INTEGER PRIMARY KEY, task_id TEXT NOT NULL)")
        connection.execute(
            "CREATE TABLE task_dependency (dependency_id INTEGER PRIMARY KEY, task_id TEXT, depends_on_task_id TEXT)"
        )
        task = connection.execute("SELECT MIN(task_id) FROM tasks").fetchone()[0]
        for number, owner in enumerate((task, "gone", "gone", "lost")):
            connection.execute("INSERT INTO task_artifact_ref VALUES (?, ?)", [number, owner])
        connection.execute("INSERT INTO task_dependency VALUES (1, ?, ?)", [task, task])
        first = connection.execute("SELECT MIN(id) FROM supervisor_inbox").fetchone()[0]
        connection.execute("UPDATE supervisor_inbox SET task_id = 'nobody' WHERE id = ?", [first])
        connection.execute("UPDATE tasks SET session_id = 'nowhere' WHERE task_id = ?", [task])
    before, shape = dump(store), schema(store)
    check = operation_called(NAME, store)
    run = execute_run(check)
    assert run.status == Status.SUCCEEDED, list(run.failed_items.values_list("label", "error"))
    found = {(one.code, one.subject): one.data for one in run.findings.all()}
    assert set(found) == {
        ("artifact_of_vanished_task", "task_artifact_ref.task_id gone"),
        ("artifact_of_vanished_task", "task_artifact_ref.task_id lost"),
        ("dangling_task", "supervisor_inbox.task_id nobody"),
        ("dependency_cycle", task),
    }, "sessions are not asked about: the store has no such table"
    assert found["artifact_of_vanished_task", "task_artifact_ref.task_id gone"]["rows"] == 2
    assert (dump(store), schema(store)) == (before, shape)


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
def test_circles_are_those_of_an_independent_sorter(pairs: list[tuple[int, int]]) -> None:
    edges = [(str(a), str(b)) for a, b in pairs]
    found = cycles(edges)
    grouped = {node for group in found for node in group}
    without = [(a, b) for a, b in edges if not (a in grouped and b in grouped and _together(found, a, b))]
    graph: dict[str, set[str]] = {}
    for a, b in without:
        graph.setdefault(a, set()).add(b)
    TopologicalSorter(graph).prepare()  # raises CycleError if a cycle was missed
    for group in found:
        inner: dict[str, set[str]] = {}
        for a, b in edges:
            if a in group and b in group:
                inner.setdefault(a, set()).add(b)
        with pytest.raises(CycleError):
            TopologicalSorter(inner).prepare()


def _together(groups: list[list[str]], a: str, b: str) -> bool:
    return any(a in group and b in group for group in groups)


def test_a_long_chain_is_not_a_cycle_and_causes_no_recursion() -> None:
    chain = [(str(number), str(number + 1)) for number in range(50_000)]
    assert cycles(chain) == []
    assert len(cycles([*chain, ("50000", "0")])[0]) == 50_001
