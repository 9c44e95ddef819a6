"""Copy a store's tables into another database, of the same engine or the other: in key order, a batch at a time.

What is in the target says how far it is, so a copy that died goes on there. Values are read as the source holds them
and turned into what the target's column takes; a row that it can't hold is left out, with the reason.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC
from functools import cached_property
from typing import Any, Protocol

import psycopg
from django.db import transaction
from django.utils.translation import gettext as _

from opsconsole.care import schema
from opsconsole.care.dumps import quoted
from opsconsole.stores.connection import connect
from opsconsole.stores.moments import read_moment
from opsconsole.stores.store import Store

BATCH = 5_000
SHOWN_LEFT = 1_000
Row = tuple[Any, ...]
Convert = Callable[[Any], Any]
UNHELD = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.RaiseException,
)


class Side(Protocol):
    """One end of a copy."""

    store: Store

    def read(self, table: str, columns: Sequence[str], after: Any, limit: int) -> list[Row]:
        """The next rows behind the key `after`, the key first."""

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """All of them or none."""

    def last_key(self, table: str) -> Any: ...

    def count(self, table: str) -> int: ...

    def sequence(self, table: str) -> int | None:
        """The last number given to a row, where the table numbers its rows itself."""

    def set_sequence(self, table: str, number: int) -> None: ...


@contextmanager
def side(store: Store) -> Iterator[Side]:
    """A plain driver's connection of its own: Django's converters lose digits and raise on garbage."""
    if store.path is not None:
        with closing(sqlite3.connect(store.path, isolation_level=None, timeout=30)) as client:
            client.execute("PRAGMA foreign_keys=ON")
            client.text_factory = _text_or_bytes
            yield _SQLite(store, client)
    else:
        with connect(store) as pg_client:
            yield _PostgreSQL(store, pg_client)


def _text_or_bytes(raw: bytes) -> Any:
    """What is no UTF-8 stays what it is, to be refused by a column of text."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


class _SQLite:
    def __init__(self, store: Store, client: sqlite3.Connection) -> None:
        self.store, self.client = store, client

    def read(self, table: str, columns: Sequence[str], after: Any, limit: int) -> list[Row]:
        key = quoted(self.store.key_column(table))
        names = ", ".join(map(quoted, columns))
        where = "" if after is None else f"WHERE {key} > ?"
        sql = f"SELECT {key}, {names} FROM {quoted(table)} {where} ORDER BY {key} LIMIT {limit}"
        return self.client.execute(sql, () if after is None else (after,)).fetchall()

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        marks = ", ".join("?" * len(columns))
        sql = f"INSERT INTO {quoted(table)} ({', '.join(map(quoted, columns))}) VALUES ({marks})"
        self.client.execute("BEGIN IMMEDIATE")
        try:
            self.client.executemany(sql, rows)
        except BaseException:
            self.client.execute("ROLLBACK")
            raise
        self.client.execute("COMMIT")

    def last_key(self, table: str) -> Any:
        return self.client.execute(
            f"SELECT MAX({quoted(self.store.key_column(table))}) FROM {quoted(table)}"
        ).fetchone()[0]

    def count(self, table: str) -> int:
        return int(self.client.execute(f"SELECT COUNT(*) FROM {quoted(table)}").fetchone()[0])

    def sequence(self, table: str) -> int | None:
        try:
            row = self.client.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", [table]).fetchone()
        except sqlite3.OperationalError:  # no table of the file counts its rows so
            return None
        return row[0] if row else None

    def set_sequence(self, table: str, number: int) -> None:
        if self.sequence(table) is not None:
            self.client.execute("UPDATE sqlite_sequence SET seq = MAX(seq, ?) WHERE name = ?", [number, table])


class _PostgreSQL:
    def __init__(self, store: Store, client: psycopg.Connection[Any]) -> None:
        self.store, self.client = store, client

    def _key(self, table: str) -> tuple[str, str]:
        """The key, and how it is ordered: text by its bytes, as SQLite does."""
        name = self.store.key_column(table)
        text = kind_of(self.store.tables[table][name].type) == "text"
        return quoted(name), f'{quoted(name)} COLLATE "C"' if text else quoted(name)

    def read(self, table: str, columns: Sequence[str], after: Any, limit: int) -> list[Row]:
        key, order = self._key(table)
        types = self.store.tables[table]
        names = ", ".join(_READ.get(kind_of(types[name].type), "{}::text").format(quoted(name)) for name in columns)
        where = "" if after is None else f"WHERE {order} > %s"
        sql = f"SELECT {key}, {names} FROM {quoted(table)} {where} ORDER BY {order} LIMIT {limit}"
        return self.client.execute(sql.encode(), None if after is None else (after,), binary=False).fetchall()

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        sql = f"COPY {quoted(table)} ({', '.join(map(quoted, columns))}) FROM STDIN"
        with self.client.transaction(), self.client.cursor() as cursor, cursor.copy(sql.encode()) as copy:
            for row in rows:
                copy.write_row(row)

    def last_key(self, table: str) -> Any:
        key, order = self._key(table)
        row = self.client.execute(
            f"SELECT {key} FROM {quoted(table)} ORDER BY {order} DESC LIMIT 1".encode()
        ).fetchone()
        return row[0] if row else None

    def count(self, table: str) -> int:
        row = self.client.execute(f"SELECT COUNT(*) FROM {quoted(table)}".encode()).fetchone()
        return int(row[0]) if row else 0

    def _sequence_name(self, table: str) -> str | None:
        row = self.client.execute(
            "SELECT pg_get_serial_sequence(quote_ident(%s), %s)", [table, self.store.key_column(table)]
        ).fetchone()
        return row[0] if row else None

    def sequence(self, table: str) -> int | None:
        name = self._sequence_name(table)
        if name is None:
            return None
        row = self.client.execute(f"SELECT CASE WHEN is_called THEN last_value END FROM {name}".encode()).fetchone()
        return row[0] if row else None

    def set_sequence(self, table: str, number: int) -> None:
        name = self._sequence_name(table)
        if name is not None:
            self.client.execute("SELECT setval(%s, GREATEST(%s, 1), %s)", [name, number, number > 0])


# --- values ----------------------------------------------------------------------------------------------------

_READ = {
    "moment": "({} AT TIME ZONE 'UTC')::text",
    "int": "{}",
    "float": "{}",
    "bytes": "{}",
    "bool": "{}::int",
}


def kind_of(type_: str) -> str:
    """What a PostgreSQL type holds, as far as a copy cares."""
    if type_.startswith("timestamp"):
        return "moment" if "with time zone" in type_ else "naive"
    return {
        "boolean": "bool",
        "json": "json",
        "jsonb": "json",
        "bytea": "bytes",
        "smallint": "int",
        "integer": "int",
        "bigint": "int",
        "real": "float",
        "double precision": "float",
    }.get(type_, "text")


class Unheld(ValueError):
    """A value that the target's column can't hold."""


def _to_moment(value: Any) -> str:
    at = read_moment(str(value))
    if at is None:
        raise Unheld(_("%(value)s is no time") % {"value": str(value)[:50]})
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")


def _to_naive(value: Any) -> str:
    return _to_moment(value)[:-3]


def _to_bool(value: Any) -> bool:
    if str(value).lower() in {"1", "t", "true"}:
        return True
    if str(value).lower() in {"0", "f", "false"}:
        return False
    raise Unheld(_("%(value)s is neither true nor false") % {"value": str(value)[:50]})


def _to_text(value: Any) -> str:
    text = value if isinstance(value, str) else value.decode() if isinstance(value, bytes) else str(value)
    if "\x00" in text:
        raise Unheld(_("a text of PostgreSQL can't hold U+0000"))
    return text


def _to_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _to_json(value: Any) -> str:
    text = _to_text(value)
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise Unheld(_("it is no JSON")) from None
    return text


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _to_int(value: Any) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise Unheld(_("%(value)s is no whole number") % {"value": value})
    try:
        return int(value)
    except ValueError:
        raise Unheld(_("%(value)s is no whole number") % {"value": str(value)[:50]}) from None


_CONVERT: dict[str, Convert] = {
    "moment": _to_moment,
    "naive": _to_naive,
    "bool": _to_bool,
    "json": _to_json,
    "bytes": _to_bytes,
    "int": _to_int,
    "float": float,
    "text": _to_text,
}


def _same_moment(value: Any) -> Any:
    at = read_moment(str(value))
    return str(value) if at is None else at.timestamp()


def _same_json(value: Any) -> Any:
    try:
        return json.dumps(json.loads(value), sort_keys=True)
    except (ValueError, RecursionError, TypeError):
        return value


def _same_text(value: Any) -> Any:
    return value if type(value) is str else value.decode() if isinstance(value, bytes) else str(value)


# Values of both sides in one form, to be compared.
_SAME: dict[str, Convert] = {
    "moment": _same_moment,
    "naive": _same_moment,
    "json": _same_json,
    "bool": lambda value: int(_to_bool(value)),
    "int": int,
    "float": float,
    "bytes": _to_bytes,
    "text": _same_text,
}


# --- a table --------------------------------------------------------------------------------------------------


class TableCopying:
    """One table on its way from `source` to `target`."""

    def __init__(self, source: Side, target: Side, table: str) -> None:
        self.source, self.target, self.table = source, target, table
        there = target.store.tables[table]
        self.columns = [name for name in source.store.tables[table] if name in there]
        self.left: dict[Any, str] = {}  # key → why the target can't hold the row
        self._retried: list[tuple[Any, Row]] = []

    @cached_property
    def _kinds(self) -> list[str]:
        """Per column: what the PostgreSQL side holds there, if one is."""
        for end in (self.target, self.source):
            if end.store.vendor == "postgresql":
                return [kind_of(end.store.tables[self.table][name].type) for name in self.columns]
        return ["raw"] * len(self.columns)

    @cached_property
    def _converts(self) -> list[Convert] | None:
        """What SQLite takes, its rows already are."""
        return [_CONVERT[kind] for kind in self._kinds] if self.target.store.vendor == "postgresql" else None

    def run(self, on_batch: Callable[[int], None] = lambda rows: None) -> None:
        """Copy what is not there yet, in key order. A row that refers to a later one is tried again at the end."""
        after = self.target.last_key(self.table)
        while rows := self.source.read(self.table, self.columns, after, BATCH):
            after = rows[-1][0]
            self._insert([pair for row in rows if (pair := self._converted(row)) is not None], last=False)
            on_batch(len(rows))
        again, self._retried = self._retried, []
        for pair in again:
            self._insert([pair], last=True)
        numbers = [number for number in (self.source.sequence(self.table), self._highest()) if number is not None]
        if numbers:
            self.target.set_sequence(self.table, max(numbers))

    def _highest(self) -> int | None:
        last = self.target.last_key(self.table)
        return last if isinstance(last, int) else None

    def _converted(self, row: Row) -> tuple[Any, Row] | None:
        key, values = row[0], row[1:]
        if self._converts is None:
            return key, values
        try:
            return key, tuple(
                None if value is None else convert(value) for convert, value in zip(self._converts, values, strict=True)
            )
        except (Unheld, ValueError, OverflowError) as error:
            self.left[key] = str(error)
            return None

    def _insert(self, pairs: list[tuple[Any, Row]], *, last: bool) -> None:
        """By halves, until the rows that the target refuses stand alone."""
        if not pairs:
            return
        try:
            self.target.insert(self.table, self.columns, [row for _key, row in pairs])
        except UNHELD as error:
            if len(pairs) > 1:
                middle = len(pairs) // 2
                self._insert(pairs[:middle], last=last)
                self._insert(pairs[middle:], last=last)
            elif last:
                self.left[pairs[0][0]] = str(error).strip().splitlines()[0]
            else:
                self._retried += pairs

    def agrees(self) -> bool:
        """Whether both sides hold the same rows, but for those left out: read again on both, compared by value."""
        return self._sum(self.source) == self._sum(self.target)

    def _sum(self, end: Side) -> tuple[int, int]:
        same = [_SAME.get(kind, lambda value: value) for kind in self._kinds]
        rows = total = 0
        after = None
        while portion := end.read(self.table, self.columns, after, BATCH):
            after = portion[-1][0]
            for row in portion:
                if row[0] not in self.left:
                    rows += 1
                    total += hash(tuple([None if v is None else one(v) for one, v in zip(same, row[1:], strict=True)]))
        return rows, total & ((1 << 64) - 1)


def order(store: Store, tables: Sequence[str]) -> list[str]:
    """Tables, those that others refer to first."""
    parents: dict[str, set[str]] = {table: set() for table in tables}
    with store.connection.cursor() as cursor:
        cursor.execute(_PARENTS[store.vendor])
        for child, parent in cursor.fetchall():
            if child in parents and parent in parents and child != parent:
                parents[child].add(parent)
    ordered: list[str] = []
    while parents:
        free = sorted(table for table, wanted in parents.items() if wanted <= set(ordered)) or sorted(parents)[:1]
        ordered += free
        for table in free:
            del parents[table]
    return ordered


def make_tables(store: Store) -> None:
    """The documented tables, in a target that has none."""
    with transaction.atomic(using=store.alias), store.connection.cursor() as cursor:
        for statement in schema.statements(store.name, store.vendor):
            cursor.execute(statement)
        there = Store(store.alias, store.name).tables
        for table in {*schema.documented(store.name, store.vendor).tables, "schema_version"} & set(there):
            cursor.execute(f"DELETE FROM {quoted(table)}")  # what the statements filled in: the source has its own


_PARENTS = {
    "sqlite": """
        SELECT m.name, f."table" FROM sqlite_master AS m JOIN pragma_foreign_key_list(m.name) AS f
        WHERE m.type = 'table' AND m.rootpage > 0
    """,
    "postgresql": """
        SELECT c.relname::text, p.relname::text FROM pg_constraint AS f
        JOIN pg_class AS c ON c.oid = f.conrelid JOIN pg_class AS p ON p.oid = f.confrelid WHERE f.contype = 'f'
    """,
}
