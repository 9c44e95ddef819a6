"""Rows of SQLite that are written together hold exactly what they would hold if a plain client wrote each of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from opsconsole.stores import rows as stored_rows
from opsconsole.stores.rows import RowsChanged, Write, composite_key
from opsconsole.stores.store import Store, attach_file
from tests.conftest import forget_attached

pytestmark = pytest.mark.django_db(transaction=True)

COLUMNS = ("plain", "letters", "whole", "fraction", "number", "raw")
TABLES = {
    "numbered": "id INTEGER PRIMARY KEY",
    "named": "id TEXT PRIMARY KEY",
    "folded": "id TEXT PRIMARY KEY COLLATE NOCASE",
    "without_rowid": "id TEXT PRIMARY KEY",
}
TEXTS = some.text(some.characters(exclude_categories=["Cs"]), max_size=30)
VALUES = some.one_of(
    some.none(),
    TEXTS,
    TEXTS.map(lambda text: f"{text}\0{text}"),
    some.sampled_from(
        ["", "007", "1e3", " 5", "5.0", "null", "[1]", '"', "\\u0041", "\ufeff", "A", "a", "ß", "\U0010ffff"]
    ),
    some.integers(-(2**63), 2**63 - 1),
    some.floats(allow_nan=False),
    some.binary(max_size=20),
)
ROWS = some.lists(some.tuples(*[VALUES] * (2 * len(COLUMNS))), min_size=1, max_size=20)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    path = tmp_path / "store.db"
    columns = "plain, letters TEXT COLLATE NOCASE, whole INTEGER, fraction REAL, number NUMERIC, raw BLOB"
    with closing(sqlite3.connect(path)) as plain:
        for table, key in TABLES.items():
            end = " WITHOUT ROWID" if table == "without_rowid" else ""
            plain.execute(f"CREATE TABLE {table} ({key}, {columns}){end}")
            plain.execute(f"CREATE TABLE {table}_twin ({key}, {columns}){end}")
        plain.commit()
    yield attach_file("agentos", path)
    forget_attached()


def keys(table: str, count: int) -> list[Any]:
    return list(range(1, count + 1)) if table == "numbered" else [f"Key {place}\u0000'\"é" for place in range(count)]


def fill(store: Store, table: str, rows: list[tuple[Any, ...]]) -> None:
    marks = ", ".join("?" * (1 + len(COLUMNS)))
    with closing(sqlite3.connect(str(store.path))) as plain:
        for name in (table, f"{table}_twin"):
            plain.execute(f"DELETE FROM {name}")
            plain.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
        plain.commit()


def held(store: Store, table: str) -> list[Any]:
    """Return types and bytes of all values: 5, 5.0 and '5' differ."""
    shown = ", ".join(f"typeof({name}), hex({name}), quote({name})" for name in COLUMNS)
    with closing(sqlite3.connect(str(store.path))) as plain:
        return plain.execute(f"SELECT quote(id), hex(id), {shown} FROM {table} ORDER BY hex(id)").fetchall()


def written(store: Store, change: Write) -> None:
    with transaction.atomic(using=store.alias):
        stored_rows.write(store, change)


@pytest.mark.parametrize("table", TABLES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=ROWS)
def test_every_value_is_written_and_compared_exactly(store: Store, table: str, values: list[Any]) -> None:
    count, wide = len(values), len(COLUMNS)
    fill(store, table, [(key, *row[:wide]) for key, row in zip(keys(table, count), values, strict=True)])
    old = stored_rows.read(store, table, COLUMNS, keys(table, count))
    assert set(old) == set(keys(table, count))
    rows: list[Any] = [(key, old[key], row[wide:]) for key, row in zip(keys(table, count), values, strict=True)]
    written(store, Write(table, COLUMNS, rows))
    assigned = ", ".join(f"{name} = ?" for name in COLUMNS)
    with closing(sqlite3.connect(str(store.path))) as plain:
        plain.executemany(f"UPDATE {table}_twin SET {assigned} WHERE id = ?", [(*new, key) for key, _, new in rows])
        plain.commit()
    assert held(store, table) == held(store, f"{table}_twin")
    new = stored_rows.read(store, table, COLUMNS, keys(table, count))
    written(store, Write(table, COLUMNS, [(key, new[key], None) for key in new]))
    assert held(store, table) == []


TEXT_PAIRS = [("a", "A"), ("a\0b", "a"), ("é", "e\u0301"), ("", None), (None, "")]
PAIRS = [*TEXT_PAIRS, ("5", 5), (5, "5"), (b"a", "a"), (None, 0), (1, 1.5)]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    ("column", "holds", "expects"),
    [*(("plain", *pair) for pair in PAIRS), *(("letters", *pair) for pair in TEXT_PAIRS)],
)
def test_a_value_that_differs_in_type_or_letters_is_not_overwritten(
    store: Store, table: str, column: str, holds: Any, expects: Any
) -> None:
    place = COLUMNS.index(column)
    fill(store, table, [(key, *[None] * place, holds, *[None] * (5 - place)) for key in keys(table, 3)])
    before = held(store, table)
    for new in (("new",), None):
        rows: list[Any] = [(key, (holds,), new) for key in keys(table, 3)]
        rows[1] = (rows[1][0], (expects,), new)
        with pytest.raises(RowsChanged) as refused:
            written(store, Write(table, (column,), rows))
        assert set(refused.value.unmet) == {(table, rows[1][0])}
        assert held(store, table) == before


@pytest.mark.parametrize("new", [("new",), None])
def test_keys_that_differ_in_case_are_two_rows(store: Store, new: Any) -> None:
    """A key that compares bytes permits them in a column that ignores case."""
    with closing(sqlite3.connect(str(store.path))) as plain:
        plain.execute("CREATE TABLE mixed (id TEXT COLLATE NOCASE, plain, PRIMARY KEY (id COLLATE BINARY))")
        plain.executemany("INSERT INTO mixed VALUES (?, ?)", [("a", 1), ("A", 2), ("b", 1), ("B", 2)])
        plain.commit()
    written(store, Write("mixed", ("plain",), [("a", (1,), new), ("B", (2,), new)]))
    with closing(sqlite3.connect(str(store.path))) as plain:
        left = dict(plain.execute("SELECT id, plain FROM mixed"))
    assert left == {"A": 2, "b": 1} | ({"a": "new", "B": "new"} if new else {})


@pytest.mark.parametrize("table", TABLES)
def test_thousands_of_rows(store: Store, table: str) -> None:
    """They need several statements, of which the last one is short."""
    count = 2_345
    fill(store, table, [(key, place, *[None] * 5) for place, key in enumerate(keys(table, count))])
    rows: list[Any] = [(key, (place,), (f"new {place}",)) for place, key in enumerate(keys(table, count))]
    written(store, Write(table, ("plain",), rows))
    assert sorted(stored_rows.read(store, table, ("plain",), keys(table, count)).values()) == sorted(
        (f"new {place}",) for place in range(count)
    )
    with closing(sqlite3.connect(str(store.path))) as plain:
        plain.execute(f"UPDATE {table} SET plain = 'another' WHERE plain = 'new 2000'")
        plain.commit()
    with pytest.raises(RowsChanged) as refused:
        written(store, Write(table, ("plain",), [(key, new, None) for key, _old, new in rows]))
    assert list(refused.value.unmet) == [(table, keys(table, count)[2000])]
    assert len(held(store, table)) == count


def test_unique_values_move_from_row_to_row(store: Store) -> None:
    """Each row takes the value that the row before it has given up, so the order matters."""
    fill(store, "named", [(key, place, *[None] * 5) for place, key in enumerate(keys("named", 50))])
    with closing(sqlite3.connect(str(store.path))) as plain:
        plain.execute("CREATE UNIQUE INDEX single ON named (plain)")
        plain.commit()
    rows: list[Any] = [(key, (place,), (place + 1,)) for place, key in enumerate(keys("named", 50))]
    for change in (rows[::-1], [(key, new, old) for key, old, new in rows]):
        written(store, Write("named", ("plain",), change))
    assert sorted(stored_rows.read(store, "named", ("plain",), keys("named", 50)).values()) == [(n,) for n in range(50)]


def test_a_trigger_that_changes_another_row_of_the_batch_is_not_overwritten(store: Store) -> None:
    fill(store, "numbered", [(key, 0, *[None] * 5) for key in keys("numbered", 3)])
    with closing(sqlite3.connect(str(store.path))) as plain:
        plain.execute(
            "CREATE TRIGGER spreads AFTER UPDATE ON numbered WHEN NEW.id = 1 "
            "BEGIN UPDATE numbered SET plain = 'by the trigger' WHERE id = 3; END"
        )
        plain.commit()
    with pytest.raises(RowsChanged) as refused:
        written(store, Write("numbered", ("plain",), [(key, (0,), (1,)) for key in keys("numbered", 3)]))
    assert list(refused.value.unmet) == [("numbered", 3)]


def test_a_key_of_several_columns_may_contain_nul(store: Store) -> None:
    with closing(sqlite3.connect(str(store.path))) as plain:
        plain.execute("CREATE TABLE parts (a TEXT, b INTEGER, save TEXT, PRIMARY KEY (a, b))")
        plain.executemany("INSERT INTO parts VALUES (?, ?, ?)", [("x\0y", 1, "one"), ("x", 1, "two")])
        plain.commit()
    vars(store).pop("tables", None)
    long, short = composite_key(["x\0y", 1]), composite_key(["x", 1])
    assert stored_rows.read(store, "parts", ["save"], [long]) == {long: ("one",)}
    assert stored_rows.existing(store, "parts", [long, short]) == {long, short}
    written(store, Write("parts", ("save",), [(long, ("one",), None)]))
    assert stored_rows.read(store, "parts", ["save"], [long, short]) == {short: ("two",)}
