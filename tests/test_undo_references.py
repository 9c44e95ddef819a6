"""Undo of deletes: rows that refer to each other, and rowids of SQLite that other rows have taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any

import pytest

from audits.models import GuardianVerdict
from opsconsole.engine import registry, workers
from opsconsole.engine.models import Run, Status
from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.outcomes import Changes, Outcome, RowChange
from opsconsole.stores.store import Store
from tests.support.contract import after_batches, execute_run, left_by, operation_called, plan_whole, start, undo, work
from tests.support.plain_client import dump, execute, neighbour

NAME = "tests.delete_families"
ENGINES = ["sqlite", "postgresql-text"]
FAMILIES = 6
TABLES = ("grandchildren", "children", "parents")  # in the order of deletion
TREE = (
    "CREATE TABLE parents (id TEXT PRIMARY KEY, a INTEGER, b TEXT, name TEXT, boss TEXT REFERENCES parents (id), "
    "UNIQUE (a, b))",
    "CREATE TABLE children (id TEXT PRIMARY KEY, parent TEXT REFERENCES parents (id) ON DELETE CASCADE, a INTEGER, "
    "b TEXT, FOREIGN KEY (a, b) REFERENCES parents (a, b) ON DELETE CASCADE)",
    "CREATE TABLE grandchildren (id TEXT PRIMARY KEY, child TEXT REFERENCES children (id) ON DELETE CASCADE)",
)

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "agentos"])


class DeleteFamilies(Operation):
    """An operation that deletes a parent with its child and grandchild. The row is a verdict of the same name."""

    title = "Delete families"
    description = "Deletes each parent with its child and grandchild."
    store_alias = "agentos"
    model = GuardianVerdict
    writes = dict.fromkeys(TABLES, ())
    risk = Risk.DELETE

    def process(self, row: Any) -> Outcome:
        return Changes([RowChange(table, key, {}, None) for table, key in self.family(row.pk)])

    def family(self, key: str) -> list[tuple[str, str]]:
        return [("grandchildren", f"g{key}"), ("children", f"c{key}"), ("parents", key)]

    def verify(self, after: Any, left: int) -> list[str]:
        return []  # it keeps the verdicts


@pytest.fixture
def registered() -> Iterator[None]:
    DeleteFamilies.name = NAME
    registry.operations()[NAME] = DeleteFamilies
    yield
    del registry.operations()[NAME]


@pytest.fixture
def make_families(make_attached: Any, registered: None) -> Callable[..., Store]:
    def make(engine: str, link: str, numbers: Iterable[int] = range(FAMILIES)) -> Store:
        """Return a store whose children refer to their parents by one column or by two (`link`)."""
        store: Store = make_attached(engine, 1).store
        with neighbour(store) as connection:
            connection.execute("DELETE FROM guardian_verdicts")
            for statement in TREE:
                connection.execute(statement)
            for number in numbers:
                key = f"p{number}"
                verdict = "INSERT INTO guardian_verdicts (id, task_id, triggered_by, policy_json, decision, created_at)"
                connection.execute(f"{verdict} VALUES (?, 't', 'x', 'x', 'warn', 'x')", [key])
                connection.execute("INSERT INTO parents VALUES (?, ?, 'x', 'one', NULL)", [key, number])
                by_key, a, b = (key, None, None) if link == "key" else (None, number, "x")
                connection.execute("INSERT INTO children VALUES (?, ?, ?, ?)", [f"c{key}", by_key, a, b])
                connection.execute("INSERT INTO grandchildren VALUES (?, ?)", [f"g{key}", f"c{key}"])
        return store

    return make


def conflicts(run: Run) -> dict[str, list[str]]:
    return {reason: sorted(labels) for reason, labels in left_by(run).get("invalid", {}).items()}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("link", ["key", "columns"])
@pytest.mark.parametrize("size", [1, 2, 500])
def test_children_are_not_restored_below_another_parent(make_families: Any, engine: str, link: str, size: int) -> None:
    store = make_families(engine, link)
    before = dump(store)
    run = execute_run(operation_called(NAME, store), batch_size=4)
    assert not any(dump(store)[table] for table in TABLES)
    for number in (1, 4):  # with the values that the children refer to
        execute(store, "INSERT INTO parents VALUES (?, ?, 'x', 'another', NULL)", [f"p{number}", number])
    planned = plan_whole(operation_called("operations.undo_run", run=run.pk))
    undone = undo(run, batch_size=size)
    strays = ["children cp1", "children cp4", "grandchildren gp1", "grandchildren gp4"]
    assert conflicts(undone) == {"conflict": ["parents p1", "parents p4"], "parent": strays}
    assert (undone.status, undone.reasons) == (Status.SUCCEEDED, planned.reasons)
    for key in ("p1", "p4"):
        before["parents"][key]["name"] = "another"
        del before["children"][f"c{key}"], before["grandchildren"][f"g{key}"]
    assert dump(store) == before


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [1, 500])
def test_children_of_a_row_that_cannot_be_restored_are_not_restored(make_families: Any, engine: str, size: int) -> None:
    """Another row, with another key, has the values that the children refer to."""
    store = make_families(engine, "columns")
    before = dump(store)
    run = execute_run(operation_called(NAME, store), batch_size=4)
    execute(store, "INSERT INTO parents VALUES ('new', 1, 'x', 'another', NULL)")
    undone = undo(run, batch_size=size)
    assert undone.status == Status.NEEDS_ATTENTION
    assert list(undone.failed_items.values_list("label", flat=True)) == ["parents p1"]
    assert conflicts(undone) == {"parent": ["children cp1", "grandchildren gp1"]}
    before["parents"]["new"] = before["parents"].pop("p1") | {"id": "new", "name": "another"}
    del before["children"]["cp1"], before["grandchildren"]["gp1"]
    assert dump(store) == before
    execute(store, "DELETE FROM parents WHERE id = 'new'")
    again = undo(run, batch_size=size)  # a second undo restores the rest
    assert (again.status, again.changed) == (Status.SUCCEEDED, 3)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [1, 500])
def test_rows_of_one_table_that_refer_to_each_other(make_families: Any, engine: str, size: int) -> None:
    """The last batch deleted the boss of all others. A cycle and a row that is its own boss are restored, too."""
    store = make_families(engine, "key")
    with neighbour(store) as connection:
        connection.execute("UPDATE parents SET boss = 'p5' WHERE id IN ('p0', 'p4', 'p5')")
        connection.execute("UPDATE parents SET boss = 'p4' WHERE id IN ('p1', 'p3')")
    before = dump(store)
    run = execute_run(operation_called(NAME, store), batch_size=3)
    assert undo(run, batch_size=size).changed == 3 * FAMILIES
    assert dump(store) == before
    run = execute_run(operation_called(NAME, store), batch_size=3)
    execute(store, "INSERT INTO parents VALUES ('p5', 5, 'x', 'another', NULL)")
    undone = undo(run, batch_size=size)
    strays = [f"{table} {prefix}p{number}" for table, prefix in (("children", "c"), ("grandchildren", "g"))
              for number in (0, 1, 3, 4, 5)]  # fmt: skip
    assert conflicts(undone) == {
        "conflict": ["parents p5"],
        "parent": sorted([*strays, *(f"parents p{number}" for number in (0, 1, 3, 4))]),
    }
    assert set(dump(store)["parents"]) == {"p2", "p5"}
    assert set(dump(store)["grandchildren"]) == {"gp2"}


@pytest.mark.parametrize("engine", ENGINES)
def test_an_undo_resumes_below_parents_that_a_trigger_changed(make_families: Any, engine: str) -> None:
    """An earlier batch of the undo restored the parents, and another process resumes the undo."""
    store = make_families(engine, "key")
    before = dump(store)
    run = execute_run(operation_called(NAME, store), batch_size=4)
    body = "UPDATE parents SET name = 'has children' WHERE id = NEW.parent"
    if store.vendor == "sqlite":
        execute(store, f"CREATE TRIGGER touch AFTER INSERT ON children BEGIN {body}; END")
    else:
        execute(
            store,
            f"CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$",
        )
        execute(store, "CREATE TRIGGER touch AFTER INSERT ON children FOR EACH ROW EXECUTE FUNCTION touch()")
    execute(store, "INSERT INTO children VALUES ('new', NULL, NULL, NULL)")
    undone = start(operation_called("operations.undo_run", run=run.pk), batch_size=1)
    while undone.status == Status.RUNNING:
        until, on_progress = after_batches(1)
        undone = work(undone, until=until, on_progress=on_progress)
        if undone.status == Status.INTERRUPTED:
            undone = workers.claim(undone)
    assert (undone.changed, conflicts(undone)) == (3 * FAMILIES, {})
    after = dump(store)
    assert {row["name"] for row in after["parents"].values()} == {"has children"}
    assert after["grandchildren"] == before["grandchildren"]


# --- rowids ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 500])
def test_rows_keep_their_rowids_if_others_get_new_ones(make_families: Any, size: int) -> None:
    store = make_families("sqlite", "key", reversed(range(FAMILIES)))  # rows with low rowids are restored first

    def rowids() -> dict[str, dict[str, int]]:
        with neighbour(store) as connection:
            return {t: dict(connection.execute(f"SELECT id, rowid FROM {t}").fetchall()) for t in TABLES}

    before = rowids()
    run = execute_run(operation_called(NAME, store), batch_size=4)
    execute(store, "INSERT INTO parents (id, name) VALUES ('new', 'x'), ('newer', 'x')")  # the rowids 1 and 2
    execute(store, "INSERT INTO children (rowid, id) VALUES (?, 'new')", [before["children"]["cp3"]])
    undone = undo(run, batch_size=size)
    assert (undone.status, undone.changed) == (Status.SUCCEEDED, 3 * FAMILIES)
    found = deepcopy(rowids())
    assert {key for key in before["parents"] if found["parents"][key] != before["parents"][key]} == {"p5", "p4"}
    assert {key for key in before["children"] if found["children"][key] != before["children"][key]} == {"cp3"}
    assert found["grandchildren"] == before["grandchildren"]


@pytest.mark.parametrize("size", [1, 500])
def test_children_of_a_row_that_an_index_finds_by_its_rowid(make_families: Any, size: int) -> None:
    store = make_families("sqlite", "key")
    execute(store, "CREATE VIRTUAL TABLE search USING fts5(name, content=parents)")
    run = execute_run(operation_called(NAME, store), batch_size=4)
    execute(store, "INSERT INTO parents (rowid, id) VALUES (2, 'new')")
    planned = plan_whole(operation_called("operations.undo_run", run=run.pk))
    undone = undo(run, batch_size=size)
    assert conflicts(undone) == {"rowid_taken": ["parents p1"], "parent": ["children cp1", "grandchildren gp1"]}
    assert (undone.status, undone.reasons) == (Status.SUCCEEDED, planned.reasons)


@pytest.mark.parametrize("rowid", [2**63 - 1, -(2**63)])
def test_rowids_at_the_limits(make_families: Any, rowid: int) -> None:
    store = make_families("sqlite", "key")
    before = dump(store)
    run = execute_run(operation_called(NAME, store), batch_size=4)
    execute(store, "INSERT INTO parents (rowid, id, name) VALUES (1, 'new', 'x'), (?, 'end', 'x')", [rowid])
    undone = undo(run, batch_size=2)
    assert (undone.status, undone.changed) == (Status.SUCCEEDED, 3 * FAMILIES)
    after = dump(store)
    assert {key: row for key, row in after["parents"].items() if key.startswith("p")} == before["parents"]
