"""Rows of SQLite stores."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Any

from django.db import IntegrityError

from opsconsole.stores.catalog import quote
from opsconsole.stores.rows.changes import Key, Values, Write, key_of, key_values
from opsconsole.stores.rows.references import is_own_parent
from opsconsole.stores.sqlite import RawText, exact_text
from opsconsole.stores.store import Store

MARK = re.compile("(?<!%)%s")  # a parameter; `%` in a name is doubled
PARAMETERS = 30_000  # of one statement; the limit of SQLite is 32,766
PORTION_ROWS, ROUNDED_ROWS = 1_000, 100  # of one statement that writes many rows
DOCUMENT_CHARACTERS = 2_000  # of an average row that is long


class SQLiteRows:
    """Statements for SQLite. A raw value is what the driver stores: `+column` prevents its converters."""

    explain = "EXPLAIN QUERY PLAN"

    def __init__(self, store: Store) -> None:
        self.store = store

    def key(self, table: str, alias: str) -> str:
        """Return the key columns as a list of expressions."""
        return ", ".join(f"{alias}.{quote(name)}" for name in self.store.key_columns(table))

    def key_of(self, table: str, row: Values) -> tuple[Key, Values]:
        """Return the key that a row of a query begins with, and the rest of the row."""
        count = len(self.store.key_columns(table))
        return key_of(row[:count]), tuple(row[count:])

    def young(self, table: str, keys: Sequence[Key]) -> set[Key]:
        """Return no key: the write lock keeps rows from changing after they were read."""
        return set()

    def portions(self, table: str, keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
        """Yield the keys in portions that fit into one statement."""
        if _fit_json(keys):
            yield keys
        else:
            most = PARAMETERS // len(self.store.key_columns(table))
            yield from (keys[start : start + most] for start in range(0, len(keys), most))

    def key_condition(self, table: str, alias: str, keys: Sequence[Key]) -> tuple[str, list[Any]]:
        """Return the condition that a row has one of `keys`, and its parameters."""
        count = len(self.store.key_columns(table))
        if count > 1:
            rows = [key_values(key, count) for key in keys]
            if _fit_json(keys):
                parts = ", ".join(f"json_extract(value, '$[{place}]')" for place in range(count))
                return f"({self.key(table, alias)}) IN (SELECT {parts} FROM json_each(%s))", [json.dumps(rows)]
            marks = ", ".join([f"({', '.join(['%s'] * count)})"] * len(rows))
            return f"({self.key(table, alias)}) IN (VALUES {marks})", list(chain.from_iterable(rows))
        name = self.key(table, alias)
        if _fit_json(keys):
            return f"{name} IN (SELECT value FROM json_each(%s))", [json.dumps(list(keys))]
        return f"{name} IN ({', '.join(['%s'] * len(keys))})", list(keys)

    def read(self, table: str, columns: Sequence[str], keys: list[Key]) -> dict[Key, Values]:
        # The alias keeps the driver from converting values by a column's name, such as "at [timestamp]".
        raw = ", ".join(f"+t.{quote(column)} AS c{place}" for place, column in enumerate(columns))
        found: dict[Key, Values] = {}
        for part in self.portions(table, keys):
            condition, values = self.key_condition(table, "t", part)
            sql = f"SELECT {self.key(table, 't')}, {raw} FROM {quote(table)} AS t WHERE {condition}"
            with self.store.text_factory(exact_text):
                found |= dict(self.key_of(table, row) for row in self.store.query(sql, values))
        return found

    def _each(self, sql: str, rows: Sequence[Values]) -> int:
        """Execute a statement for each row. Text that is not UTF-8 is sent as bytes and cast to text."""
        plain = [row for row in rows if RawText not in map(type, row)]
        met = self.store.execute_many(sql, plain) if plain else 0
        for row in rows if len(plain) < len(rows) else ():
            if RawText in map(type, row):
                parts = MARK.split(sql)
                marks = ["CAST(%s AS TEXT)" if type(value) is RawText else "%s" for value in row]
                cast = "".join(f"{part}{mark}" for part, mark in zip(parts, [*marks, ""], strict=True))
                met += self.store.execute(cast, [bytes(v) if type(v) is RawText else v for v in row])
        return met

    def normalized(self, change: Write) -> Write:
        return change

    def column_may_alter(self, change: Write) -> bool:
        table = self.store.tables[change.table]
        exact = [_EXACT[affinity(table[name].type)] for name in change.columns]
        if all(types >= change.types for types in exact):
            return False
        rows = [new for _key, _old, new in change.rows if new is not None]
        return any(not types.issuperset(type(new[place]) for new in rows) for place, types in enumerate(exact))

    def mark(self) -> int:
        return int(self.store.query("PRAGMA data_version")[0][0])

    def new_keys(self, table: str, count: int, taken: Collection[Key]) -> list[Key]:
        first = self.store.query(f"SELECT COALESCE(MAX({self.key(table, 't')}), 0) FROM {quote(table)} AS t")[0][0]
        if self.store.query("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'"):
            # AUTOINCREMENT never gives the key of a deleted row again.
            sequence = "SELECT seq FROM sqlite_sequence WHERE name = %s COLLATE NOCASE"
            first = max([first, *(seq for (seq,) in self.store.query(sequence, [table]))])
        first = max([first, *(key for key in taken if isinstance(key, int))])
        return [first + place for place in range(1, count + 1)]

    def deleted(self, table: str) -> int:
        return -int(self.store.query(f"SELECT COUNT(*) FROM {quote(table)}")[0][0])

    # With OR ABORT, a UNIQUE … ON CONFLICT REPLACE of the schema does not delete another row.

    def update_sql(self, change: Write) -> str:
        columns = [quote(column) for column in change.columns]
        return (
            f"UPDATE OR ABORT {quote(change.table)} SET {', '.join(f'{c} = %s' for c in columns)} "
            f"WHERE {self._is_key(change.table)} AND {_unchanged(columns)}"
        )

    def update(self, change: Write) -> int:
        assigned = ", ".join(f"{quote(name)} = v.column{place}" for place, name in enumerate(change.columns, 1))
        start = f"UPDATE OR ABORT {quote(change.table)} AS t SET {assigned} FROM "
        end = f" AS v WHERE {self._joined(change, 1 + len(change.columns))}"
        return self._together(change, self.update_sql(change), start, end)

    def insert_sql(self, change: Write) -> str:
        columns = ", ".join(quote(column) for column in change.columns)
        marks = ", ".join(["%s"] * len(change.columns))
        return f"INSERT OR ABORT INTO {quote(change.table)} ({columns}) VALUES ({marks})"

    def insert(self, change: Write) -> int:
        rows = [new for _, _, new in change.rows if new is not None]
        if not is_own_parent(self.store, change.table):
            return self._each(self.insert_sql(change), rows)
        met, count = 0, max(1, PARAMETERS // len(change.columns))
        start = self.insert_sql(change).partition(" VALUES ")[0]
        for part in (rows[first : first + count] for first in range(0, len(rows), count)):
            marks = [", ".join("CAST(%s AS TEXT)" if type(v) is RawText else "%s" for v in row) for row in part]
            values = [bytes(v) if type(v) is RawText else v for row in part for v in row]
            met += self.store.execute(f"{start} VALUES ({'), ('.join(marks)})", values)
        return met

    def delete_sql(self, change: Write) -> str:
        columns = [quote(column) for column in change.columns]
        return f"DELETE FROM {quote(change.table)} WHERE {self._is_key(change.table)} AND {_unchanged(columns)}"

    def _is_key(self, table: str) -> str:
        return " AND ".join(f"{quote(name)} = %s" for name in self.store.key_columns(table))

    def delete(self, change: Write) -> int:
        table, single = self.store.tables[change.table], self.delete_sql(change)
        if not table.rowid:
            return self._each(single, _by_rows(self._flat(change), len(change.rows)))
        name = quote(table.rowid)
        start = f"DELETE FROM {table.sql} WHERE {name} IN (SELECT t.{name} FROM "
        end = f" AS v CROSS JOIN {table.sql} AS t WHERE {self._joined(change, 1)})"
        return self._together(change, single, start, end)

    def _flat(self, change: Write) -> list[Any]:
        """Return the values of all rows in one list: of each row the new values, the key and the old values."""
        count = len(self.store.key_columns(change.table))
        if count == 1:  # the hot path
            return [value for key, old, new in change.rows for value in (*(new or ()), key, *(old or ()))]
        return [
            value for key, old, new in change.rows for value in (*(new or ()), *key_values(key, count), *(old or ()))
        ]

    def _joined(self, change: Write, place: int) -> str:
        """Return the condition that a row of `t` has the key and the old values in `v`, whose key begins at `place`.

        `+v.column` has no affinity, like a parameter, and SQLite makes no index of it: it finds each row of `v` by the
        key of `t`, whatever the statistics of the file say.
        """
        keys = self.store.key_columns(change.table)
        is_key = [f"t.{quote(name)} = +v.column{number}" for number, name in enumerate(keys, place)]
        same = [
            f"+t.{quote(name)} COLLATE BINARY IS v.column{number}"
            for number, name in enumerate(change.columns, place + len(keys))
        ]
        return " AND ".join([*is_key, *same])

    def _together(self, change: Write, single: str, start: str, end: str) -> int:
        """Write rows by statements of many rows, `start (VALUES …) end`. The driver lets other threads run meanwhile.

        They are written by `single`, one by one, if the write of one can change another one, or if they are long:
        VALUES would be copied to a temporary table.
        """
        values, rows = self._flat(change), len(change.rows)
        if (
            sum([len(value) for value in values if type(value) is str]) > DOCUMENT_CHARACTERS * rows
            or not change.types <= _PLAIN
            or self.store.triggers(change.table, change.kind.upper())
            or is_own_parent(self.store, change.table)
        ):
            return self._each(single, _by_rows(values, rows))
        wide, met = len(values) // rows, 0
        most = max(1, min(PORTION_ROWS, PARAMETERS // wide))
        for first in range(0, rows, most):
            part = values[first * wide : (first + most) * wide]
            written = len(part) // wide
            # The driver keeps compiled statements. A row without a key, which meets no row, rounds their number up.
            count = min(most, -(-written // ROUNDED_ROWS) * ROUNDED_ROWS)
            marks = ", ".join([f"({', '.join('?' * wide)})"] * count)
            try:
                met += self.store.execute(f"{start}(VALUES {marks}){end}", part + [None] * (wide * (count - written)))
            except IntegrityError:  # a unique column may accept the rows in their order
                met += self._each(single, _by_rows(part, written))
        return met


def _by_rows(values: list[Any], rows: int) -> list[Values]:
    """Return values in one list as a tuple for each row."""
    wide = len(values) // rows
    return [tuple(values[first : first + wide]) for first in range(0, len(values), wide)]


def _fit_json(keys: Sequence[Key]) -> bool:
    """Return whether JSON can carry all keys: SQLite would cut a text at U+0000."""
    # A key of several columns is JSON itself.
    return all(
        isinstance(key, int) or (isinstance(key, str) and "\0" not in key and "\\u0000" not in key) for key in keys
    )


def _unchanged(columns: Sequence[str]) -> str:
    """Return the condition that columns hold the given values byte for byte, in every collation."""
    return " AND ".join(f"+{column} COLLATE BINARY IS %s" for column in columns)


# Python types that a column of this affinity stores unchanged.
_NONE = type(None)
_PLAIN = frozenset({str, int, float, bytes, _NONE})
_EXACT: dict[str, frozenset[type]] = {
    "TEXT": frozenset({str, bytes, _NONE}),
    "BLOB": frozenset({str, bytes, int, float, _NONE}),
    "INTEGER": frozenset({int, bytes, _NONE}),
    "NUMERIC": frozenset({int, bytes, _NONE}),
    "REAL": frozenset({float, bytes, _NONE}),
}


def affinity(declared: str) -> str:
    """Return the affinity of a declared type, by SQLite's rules in their order."""
    upper = declared.upper()
    if "INT" in upper:
        return "INTEGER"
    if any(part in upper for part in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if "BLOB" in upper or not upper:
        return "BLOB"
    if any(part in upper for part in ("REAL", "FLOA", "DOUB")):
        return "REAL"
    return "NUMERIC"
