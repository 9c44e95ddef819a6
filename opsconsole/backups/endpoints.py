"""The source and the target of a copy, read and written by the plain drivers."""

from __future__ import annotations

import re
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from opsconsole.stores.catalog import Table, escape, identifier, quote
from opsconsole.stores.store import Store

if TYPE_CHECKING:
    import psycopg

Row = tuple[Any, ...]


@contextmanager
def endpoint(store: Store) -> Iterator[Endpoint]:
    """Open a separate connection: Django's converters lose digits and raise errors on invalid values."""
    if store.path is not None:
        with closing(sqlite3.connect(store.path, isolation_level=None, timeout=30)) as client:
            client.execute("PRAGMA foreign_keys=ON")
            client.text_factory = _text_or_bytes
            yield SQLiteEndpoint(store, client)
    else:
        from opsconsole.stores.connection import connect

        with connect(store) as pg_client:
            yield PostgreSQLEndpoint(store, pg_client)


def _text_or_bytes(raw: bytes) -> Any:
    """Return bytes for a text that is not UTF-8. A text column of the target refuses it."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def key_of(table: Table) -> tuple[str, ...]:
    """Return the columns that identify and order the rows, an empty tuple if the table has no key."""
    return table.key or next(iter(table.unique), ())


class Endpoint(ABC):
    """An end of a copy. `t` is the table in its statements."""

    parameter: ClassVar[str]

    def __init__(self, store: Store, client: Any) -> None:
        self.store, self.client = store, client

    def read(self, table: str, columns: Mapping[str, str], after: Row | None, limit: int) -> list[Row]:
        """Return the next rows after the key `after`, each with its key first. `columns` maps each name to its kind."""
        key, order = self._key(table), ", ".join(self._order(table))
        selected = [*key, *(self._raw(f"t.{self._quote(name)}", kind) for name, kind in columns.items())]
        conditions = [f"{name} IS NOT NULL" for name in key]
        if after is not None:
            conditions.append(f"({order}) > ({', '.join([self.parameter] * len(key))})")
        sql = (
            f"SELECT {', '.join(selected)} FROM {self._from(table)} WHERE {' AND '.join(conditions)} "
            f"ORDER BY {order} LIMIT {limit}"
        )
        return self._rows(sql, after or ())

    @abstractmethod
    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Insert all rows or none."""

    def last_key(self, table: str) -> Row | None:
        """Return the highest key, None if the table is empty."""
        key = self._key(table)
        filled = " AND ".join(f"{name} IS NOT NULL" for name in key)
        order = ", ".join(f"{one} DESC" for one in self._order(table))
        found = self._rows(f"SELECT {', '.join(key)} FROM {self._from(table)} WHERE {filled} ORDER BY {order} LIMIT 1")
        return found[0] if found else None

    def count(self, table: str) -> int:
        """Return the number of rows."""
        return int(self._value(f"SELECT COUNT(*) FROM {self._from(table)}"))

    def count_values(self, table: str, column: str) -> int:
        """Return the number of rows whose `column` is not NULL."""
        return int(self._value(f"SELECT COUNT(t.{self._quote(column)}) FROM {self._from(table)}"))

    def count_without_key(self, table: str) -> int:
        """Return the number of rows whose key is NULL."""
        missing = " OR ".join(f"{name} IS NULL" for name in self._key(table))
        return int(self._value(f"SELECT COUNT(*) FROM {self._from(table)} WHERE {missing}"))

    @abstractmethod
    def last_number(self, table: str) -> int | None:
        """Return the last number that the table generated for its key, None if it generates none."""

    @abstractmethod
    def continue_numbering(self, table: str, number: int | None) -> None:
        """Make the table generate numbers above those of its rows, and above `number` if possible."""

    @abstractmethod
    def _quote(self, name: str) -> str: ...

    @abstractmethod
    def _from(self, table: str) -> str: ...

    @abstractmethod
    def _order(self, table: str) -> list[str]: ...

    @abstractmethod
    def _raw(self, name: str, kind: str) -> str: ...

    @abstractmethod
    def _rows(self, sql: str, values: Row = ()) -> list[Row]: ...

    def _key(self, table: str) -> list[str]:
        return [f"t.{self._quote(name)}" for name in key_of(self.store.tables[table])]

    def _value(self, sql: str, values: Row = ()) -> Any:
        found = self._rows(sql, values)
        return found[0][0] if found else None


class SQLiteEndpoint(Endpoint):
    """A SQLite file."""

    parameter = "?"

    def _quote(self, name: str) -> str:
        return identifier(name)

    def _from(self, table: str) -> str:
        return f"{identifier(table)} AS t"

    def _order(self, table: str) -> list[str]:
        return self._key(table)

    def _raw(self, name: str, kind: str) -> str:
        return name

    def _rows(self, sql: str, values: Row = ()) -> list[Row]:
        # A key of PostgreSQL may be of a type that SQLite's driver does not know.
        known = [one if isinstance(one, int | float | str | bytes) else str(one) for one in values]
        found: list[Row] = self.client.execute(sql, known).fetchall()
        return found

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        parameters = ", ".join("?" * len(columns))
        sql = f"INSERT INTO {identifier(table)} ({', '.join(map(identifier, columns))}) VALUES ({parameters})"
        self.client.execute("BEGIN IMMEDIATE")
        try:
            self.client.executemany(sql, rows)
        except BaseException:
            self.client.execute("ROLLBACK")
            raise
        self.client.execute("COMMIT")

    def last_number(self, table: str) -> int | None:
        if not self._has_autoincrement(table):
            return None
        found: int | None = self._value("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,))
        return found

    def continue_numbering(self, table: str, number: int | None) -> None:
        if number is None or not self._has_autoincrement(table):
            return
        if self.last_number(table) is None:
            self._rows("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, number))
        else:
            self._rows("UPDATE sqlite_sequence SET seq = MAX(seq, ?) WHERE name = ?", (number, table))

    def _has_autoincrement(self, table: str) -> bool:
        """Return whether the table never reuses the number of a deleted row."""
        sql = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE"
        return bool(re.search(r"\bAUTOINCREMENT\b", self._value(sql, (table,)) or "", re.IGNORECASE))


class PostgreSQLEndpoint(Endpoint):
    """A PostgreSQL database."""

    parameter = "%s"

    def _quote(self, name: str) -> str:
        return quote(name)

    def _from(self, table: str) -> str:
        """Return the table without the rows of tables that inherit from it."""
        declared = self.store.tables[table]
        return f"{'ONLY ' if declared.children else ''}{declared.sql} AS t"

    def _order(self, table: str) -> list[str]:
        """Order text by its bytes, as SQLite does."""
        columns = self.store.tables[table]
        return [
            f't.{quote(name)} COLLATE "C"' if columns[name].category == "S" else f"t.{quote(name)}"
            for name in key_of(columns)
        ]

    def _raw(self, name: str, kind: str) -> str:
        return _RAW.get(kind, "{}::text").format(name)

    def _rows(self, sql: str, values: Row = ()) -> list[Row]:
        found: psycopg.Cursor[Any] = self.client.execute(sql.encode(), values, binary=False)
        return found.fetchall()

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        target = f"{identifier(self.store.tables[table].schema)}.{identifier(table)}"  # COPY has no parameters
        sql = f"COPY {target} ({', '.join(map(identifier, columns))}) FROM STDIN"
        with self.client.transaction(), self.client.cursor() as cursor, cursor.copy(sql.encode()) as copy:
            for row in rows:
                copy.write_row(row)

    def last_number(self, table: str) -> int | None:
        for column, sequence, *_bounds in self._sequences(table):
            if (column,) == key_of(self.store.tables[table]):
                return self._last_value(sequence)
        return None

    def continue_numbering(self, table: str, number: int | None) -> None:
        declared = self.store.tables[table]
        for column, sequence, increment, least, most in self._sequences(table):
            furthest = max if increment > 0 else min
            highest = self._value(f"SELECT {furthest.__name__}({quote(column)})::bigint FROM {declared.sql}")
            of_key = number if (column,) == key_of(declared) else None
            known = [one for one in (highest, of_key, self._last_value(sequence)) if one is not None]
            if possible := [one for one in known if least <= one <= most]:
                self._rows("SELECT setval(%s::text::regclass, %s, true)", (sequence, furthest(possible)))

    def _sequences(self, table: str) -> list[Row]:
        """Return column, sequence, increment and bounds of the sequences that the table uses."""
        return self._rows(_SEQUENCES, (self.store.tables[table].oid,) * 2)

    def _last_value(self, sequence: str) -> int | None:
        found: int | None = self._value(f"SELECT CASE WHEN is_called THEN last_value END FROM {escape(sequence)}")
        return found


# Kind → the expression that reads it; the others are read as text.
_RAW = {
    "moment": "({} AT TIME ZONE 'UTC')::text",
    "int": "{}",
    "float": "{}",
    "bytes": "{}",
    "bool": "{}::int",
}
# Sequences of serial and identity columns, and of defaults that call one.
_SEQUENCES = """
    SELECT DISTINCT a.attname, format('%%I.%%I', n.nspname, c.relname), s.seqincrement, s.seqmin, s.seqmax
    FROM pg_sequence AS s JOIN pg_class AS c ON c.oid = s.seqrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN (
        SELECT objid AS sequence, refobjid AS relation, refobjsubid AS number FROM pg_depend
        WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND refobjid = %s::bigint::oid
          AND deptype IN ('a', 'i')
        UNION ALL
        SELECT p.refobjid, d.adrelid, d.adnum FROM pg_attrdef AS d
        JOIN pg_depend AS p ON p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid
          AND p.refclassid = 'pg_class'::regclass
        WHERE d.adrelid = %s::bigint::oid
    ) AS used ON used.sequence = s.seqrelid
    JOIN pg_attribute AS a ON a.attrelid = used.relation AND a.attnum = used.number ORDER BY 1
"""
