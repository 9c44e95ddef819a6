"""Raw rows by key: read as the database holds them, written under the precondition that they still stand.

On SQLite a raw value is what the driver stores (`+column` keeps its converters away). On PostgreSQL it
is the value's text, cast back to the column's own type when written, so that enums, `jsonb`, times and
numbers all keep what they were.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from django.db import DatabaseError, IntegrityError

from opsconsole.stores.store import Store, text_of

Key = int | str
Values = tuple[Any, ...]

# Above this many characters in a batch's average row, one array per column is far slower than a
# prepared statement per row.
DOCUMENT_CHARACTERS = 2_000


class Write(NamedTuple):
    """Changes of one kind to one table: `rows` are `[key, old values, new values]`, in the order of
    `columns`. An insert has no old values, a delete no new ones.
    """

    table: str
    columns: tuple[str, ...]
    rows: list[tuple[Key, Values | None, Values | None]]

    @property
    def kind(self) -> str:
        _, old, new = self.rows[0]
        return "insert" if old is None else "delete" if new is None else "update"

    def reversed(self) -> Write:
        return Write(self.table, self.columns, [(key, new, old) for key, old, new in self.rows])


def is_bigint(number: int) -> bool:
    """Whether an integer column can hold it: no engine's has more than 64 bits."""
    return -(2**63) <= number < 2**63


def write(store: Store, change: Write) -> int:
    """Apply `change` and return how many rows it met. Fewer than it has: some row has moved."""
    sql = _SQLite(store) if store.vendor == "sqlite" else _PostgreSQL(store)
    try:
        return int(getattr(sql, change.kind)(change))
    except DatabaseError as error:
        state = getattr(error.__cause__, "sqlstate", None)
        if state and (state.startswith("P0") or type(error) is DatabaseError):
            # A trigger's RAISE, with a state of its own or without: SQLite's is an integrity error already.
            raise IntegrityError(*error.args) from error
        raise


def read(store: Store, table: str, columns: Sequence[str], keys: Iterable[Key]) -> dict[Key, Values]:
    """Key → raw values of `columns`, for the rows that exist: one statement."""
    sql = _SQLite(store) if store.vendor == "sqlite" else _PostgreSQL(store)
    return sql.read(table, columns, list(keys))


class _Statements:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.quote = store.connection.ops.quote_name

    def _key(self, table: str) -> str:
        return self.quote(self.store.key_column(table))

    def _many(self, sql: str, rows: list[Values]) -> int:
        with self.store.connection.cursor() as cursor:
            cursor.executemany(sql, rows)
            return int(cursor.rowcount)


class _SQLite(_Statements):
    def read(self, table: str, columns: Sequence[str], keys: list[Key]) -> dict[Key, Values]:
        key = self._key(table)
        raw = ", ".join(f"+{self.quote(column)}" for column in columns)
        sql = f"SELECT {key}, {raw} FROM {self.quote(table)} WHERE {key} IN (SELECT value FROM json_each(%s))"
        with self.store.connection.cursor() as cursor:
            cursor.execute(sql, [json.dumps(keys)])
            return {row[0]: tuple(row[1:]) for row in cursor.fetchall()}

    def update(self, change: Write) -> int:
        columns = [self.quote(column) for column in change.columns]
        sql = (
            f"UPDATE {self.quote(change.table)} SET {', '.join(f'{c} = %s' for c in columns)} "
            f"WHERE {self._key(change.table)} = %s AND {' AND '.join(f'{c} IS %s' for c in columns)}"
        )
        return self._many(sql, [(*new, key, *old) for key, old, new in change.rows])  # type: ignore[misc]

    def insert(self, change: Write) -> int:
        columns = ", ".join(self.quote(column) for column in change.columns)
        marks = ", ".join(["%s"] * len(change.columns))
        sql = f"INSERT INTO {self.quote(change.table)} ({columns}) VALUES ({marks})"
        return self._many(sql, [new for _, _, new in change.rows if new is not None])

    def delete(self, change: Write) -> int:
        conditions = " AND ".join(f"{self.quote(column)} IS %s" for column in change.columns)
        sql = f"DELETE FROM {self.quote(change.table)} WHERE {self._key(change.table)} = %s AND {conditions}"
        return self._many(sql, [(key, *old) for key, old, _ in change.rows if old is not None])


class _PostgreSQL(_Statements):
    def _type(self, table: str, column: str) -> str:
        return self.store.tables[table][column].type

    def read(self, table: str, columns: Sequence[str], keys: list[Key]) -> dict[Key, Values]:
        key = self._key(table)
        raw = ", ".join(f"{self.quote(column)}::text" for column in columns)
        type_ = self._type(table, self.store.key_column(table))
        sql = f"SELECT {key}, {raw} FROM {self.quote(table)} WHERE {key} = ANY (%s::text[]::{type_}[])"
        with self.store.connection.cursor() as cursor:
            cursor.execute(sql, [[str(key) for key in keys]])
            return {row[0]: tuple(row[1:]) for row in cursor.fetchall()}

    def update(self, change: Write) -> int:
        table, columns = change.table, change.columns
        assign, stand = [], []
        for number, column in enumerate(columns):
            name = self.quote(column)
            assign.append((name, self._type(table, column), number))
            stand.append((name, number))
        key_type = self._type(table, self.store.key_column(table))
        rows = [
            (str(key), *map(text_of, new), *map(text_of, old))  # type: ignore[arg-type]
            for key, old, new in change.rows
        ]
        if _average_characters(rows) > DOCUMENT_CHARACTERS:
            sql = (
                f"UPDATE {self.quote(table)} SET {', '.join(f'{c} = %s::text::{t}' for c, t, _ in assign)} "
                f"WHERE {self._key(table)} = %s::text::{key_type} AND "
                + " AND ".join(f"{c}::text IS NOT DISTINCT FROM %s::text" for c, _ in stand)
            )
            wide = len(columns)
            return self._many(sql, [(*row[1 : wide + 1], row[0], *row[wide + 1 :]) for row in rows])
        names = ["k", *(f"n{i}" for i in range(len(columns))), *(f"o{i}" for i in range(len(columns)))]
        sql = (
            f"UPDATE {self.quote(table)} AS t SET {', '.join(f'{c} = v.n{i}::{ty}' for c, ty, i in assign)} "
            f"FROM unnest({', '.join(['%s::text[]'] * len(names))}) AS v({', '.join(names)}) "
            f"WHERE t.{self._key(table)} = v.k::{key_type} AND "
            + " AND ".join(f"t.{c}::text IS NOT DISTINCT FROM v.o{i}" for c, i in stand)
        )
        with self.store.connection.cursor() as cursor:
            cursor.execute(sql, [list(column) for column in zip(*rows, strict=True)])
            return int(cursor.rowcount)

    def insert(self, change: Write) -> int:
        columns = ", ".join(self.quote(column) for column in change.columns)
        marks = ", ".join(f"%s::text::{self._type(change.table, column)}" for column in change.columns)
        sql = f"INSERT INTO {self.quote(change.table)} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({marks})"
        return self._many(sql, [tuple(map(text_of, new)) for _, _, new in change.rows if new is not None])

    def delete(self, change: Write) -> int:
        conditions = " AND ".join(
            f"{self.quote(column)}::text IS NOT DISTINCT FROM %s::text" for column in change.columns
        )
        key_type = self._type(change.table, self.store.key_column(change.table))
        sql = (
            f"DELETE FROM {self.quote(change.table)} "
            f"WHERE {self._key(change.table)} = %s::text::{key_type} AND {conditions}"
        )
        rows = [(str(key), *map(text_of, old)) for key, old, _ in change.rows if old is not None]
        return self._many(sql, rows)


def _average_characters(rows: list[Values]) -> float:
    return sum(len(value or "") for row in rows for value in row) / len(rows)


def references(store: Store, table: str, keys: Sequence[Key]) -> dict[str, int]:
    """Table → how many of its rows refer to these rows of `table` by a foreign key of the store's own."""
    connection, quote = store.connection, store.connection.ops.quote_name
    found: dict[str, int] = {}
    with connection.cursor() as cursor:
        cursor.execute(_REFERRING[store.vendor], [table])
        for child, column in cursor.fetchall():
            if store.vendor == "sqlite":
                condition, value = "IN (SELECT value FROM json_each(%s))", json.dumps(list(keys))
            else:
                type_ = store.tables[child][column].type
                condition, value = f"= ANY (%s::text[]::{type_}[])", [str(key) for key in keys]  # type: ignore[assignment]
            cursor.execute(f"SELECT COUNT(*) FROM {quote(child)} WHERE {quote(column)} {condition}", [value])
            count = cursor.fetchone()[0]
            if count:
                found[child] = found.get(child, 0) + count
    return found


_REFERRING = {
    "sqlite": """
        SELECT m.name, f."from" FROM sqlite_master AS m JOIN pragma_foreign_key_list(m.name) AS f
        WHERE m.type = 'table' AND m.rootpage > 0 AND f."table" = %s COLLATE NOCASE
    """,
    "postgresql": """
        SELECT c.conrelid::regclass::text, a.attname FROM pg_constraint AS c
        JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
        WHERE c.contype = 'f' AND c.confrelid = %s::regclass
    """,
}
