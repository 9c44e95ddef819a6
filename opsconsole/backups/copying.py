"""Copy a store's tables into another database, of the same engine or the other: in key order, a batch at a time.

What is in the target says how far it is, so a copy that died goes on there. Values are read as the source holds them
and turned into what the target's column takes; a row that it can't hold is left out, with the reason.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC
from decimal import Decimal
from functools import cached_property
from typing import Any, Protocol

import psycopg
from django.db import transaction
from django.utils.translation import gettext as _

from opsconsole.jsontext import Unreadable, decode
from opsconsole.stores import schema
from opsconsole.stores.catalog import Table, identifier, quote
from opsconsole.stores.connection import connect
from opsconsole.stores.errors import ErrorKind, classify, first_line
from opsconsole.stores.store import Store
from opsconsole.timestamps import parse_timestamp

BATCH = 5_000
LISTED_FAILURES = 1_000
Row = tuple[Any, ...]
Convert = Callable[[Any], Any]
OWN = ("schema_version",)  # tables that belong to a store and have no model


class Endpoint(Protocol):
    """One end of a copy."""

    store: Store

    def read(self, table: str, columns: Mapping[str, str], after: Row | None, limit: int) -> list[Row]:
        """Return the next rows behind the key `after`, each with its key first. `columns`: name → see `kind_of`."""

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Insert all of them or none."""

    def last_key(self, table: str) -> Row | None: ...

    def count(self, table: str) -> int: ...

    def count_values(self, table: str, column: str) -> int:
        """Return how many rows have something in `column`."""

    def without_key(self, table: str) -> int:
        """Return how many rows have no key: SQLite allows NULL there."""

    def last_number(self, table: str) -> int | None:
        """Return the last number given to a row, where the table numbers its rows itself."""

    def continue_numbering(self, table: str, number: int | None) -> None:
        """Let the table give numbers above those of its rows, and above `number` where it can."""


@contextmanager
def endpoint(store: Store) -> Iterator[Endpoint]:
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


def key_of(table: Table) -> tuple[str, ...]:
    """Return the columns by which rows are told apart and ordered; none where the table has no key."""
    return table.key or next(iter(table.unique), ())


class _SQLite:
    def __init__(self, store: Store, client: sqlite3.Connection) -> None:
        self.store, self.client = store, client

    def _key(self, table: str) -> list[str]:
        return [identifier(name) for name in key_of(self.store.tables[table])]

    def read(self, table: str, columns: Mapping[str, str], after: Row | None, limit: int) -> list[Row]:
        key = self._key(table)
        names, order = ", ".join([*key, *map(identifier, columns)]), ", ".join(key)
        where = " AND ".join(f"{name} IS NOT NULL" for name in key)
        if after is not None:
            where += f" AND ({order}) > ({', '.join('?' * len(key))})"
        sql = f"SELECT {names} FROM {identifier(table)} WHERE {where} ORDER BY {order} LIMIT {limit}"
        values = [one if isinstance(one, int | float | str | bytes) else str(one) for one in after or ()]
        return self.client.execute(sql, values).fetchall()

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        marks = ", ".join("?" * len(columns))
        sql = f"INSERT INTO {identifier(table)} ({', '.join(map(identifier, columns))}) VALUES ({marks})"
        self.client.execute("BEGIN IMMEDIATE")
        try:
            self.client.executemany(sql, rows)
        except BaseException:
            self.client.execute("ROLLBACK")
            raise
        self.client.execute("COMMIT")

    def last_key(self, table: str) -> Row | None:
        key = self._key(table)
        order = ", ".join(f"{name} DESC" for name in key)
        sql = f"SELECT {', '.join(key)} FROM {identifier(table)} ORDER BY {order} LIMIT 1"
        row: Row | None = self.client.execute(sql).fetchone()
        return row

    def count(self, table: str) -> int:
        return self._number(f"SELECT COUNT(*) FROM {identifier(table)}")

    def count_values(self, table: str, column: str) -> int:
        return self._number(f"SELECT COUNT({identifier(column)}) FROM {identifier(table)}")

    def without_key(self, table: str) -> int:
        condition = " OR ".join(f"{name} IS NULL" for name in self._key(table))
        return self._number(f"SELECT COUNT(*) FROM {identifier(table)} WHERE {condition}")

    def _number(self, sql: str) -> int:
        return int(self.client.execute(sql).fetchone()[0])

    def last_number(self, table: str) -> int | None:
        if not self._numbers_rows(table):
            return None
        row = self.client.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", [table]).fetchone()
        return row[0] if row else None

    def continue_numbering(self, table: str, number: int | None) -> None:
        if number is None or not self._numbers_rows(table):
            return
        if self.last_number(table) is None:
            self.client.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", [table, number])
        else:
            self.client.execute("UPDATE sqlite_sequence SET seq = MAX(seq, ?) WHERE name = ?", [number, table])

    def _numbers_rows(self, table: str) -> bool:
        """Whether numbers of rows that were deleted are not given again."""
        sql = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE"
        row = self.client.execute(sql, [table]).fetchone()
        return bool(row and re.search(r"\bAUTOINCREMENT\b", row[0], re.IGNORECASE))


class _PostgreSQL:
    def __init__(self, store: Store, client: psycopg.Connection[Any]) -> None:
        self.store, self.client = store, client

    def _execute(self, sql: str, values: Row = ()) -> psycopg.Cursor[Any]:
        return self.client.execute(sql.encode(), values, binary=False)

    def _from(self, table: str) -> str:
        """The table's own rows; those of tables that inherit from it are theirs."""
        declared = self.store.tables[table]
        return f"ONLY {declared.sql}" if declared.children else declared.sql

    def _key(self, table: str) -> tuple[list[str], list[str]]:
        """The key, and how it is ordered: text by its bytes, as SQLite does."""
        columns = self.store.tables[table]
        names = {f"t.{quote(name)}": columns[name].category == "S" for name in key_of(columns)}
        return list(names), [f'{name} COLLATE "C"' if is_text else name for name, is_text in names.items()]

    def read(self, table: str, columns: Mapping[str, str], after: Row | None, limit: int) -> list[Row]:
        key, order = self._key(table)
        names = [_READ.get(kind, "{}::text").format(f"t.{quote(name)}") for name, kind in columns.items()]
        by = ", ".join(order)
        where = "" if after is None else f"WHERE ({by}) > ({', '.join(['%s'] * len(key))})"
        sql = f"SELECT {', '.join([*key, *names])} FROM {self._from(table)} AS t {where} ORDER BY {by} LIMIT {limit}"
        return self._execute(sql, after or ()).fetchall()

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        declared = self.store.tables[table]
        target = f"{identifier(declared.schema)}.{identifier(table)}"  # a COPY has no parameters, and no % of its own
        sql = f"COPY {target} ({', '.join(map(identifier, columns))}) FROM STDIN"
        with self.client.transaction(), self.client.cursor() as cursor, cursor.copy(sql.encode()) as copy:
            for row in rows:
                copy.write_row(row)

    def last_key(self, table: str) -> Row | None:
        key, order = self._key(table)
        by = ", ".join(f"{one} DESC" for one in order)
        sql = f"SELECT {', '.join(key)} FROM {self._from(table)} AS t ORDER BY {by} LIMIT 1"
        row: Row | None = self._execute(sql).fetchone()
        return row

    def count(self, table: str) -> int:
        return int(self._value(f"SELECT COUNT(*) FROM {self._from(table)}"))

    def count_values(self, table: str, column: str) -> int:
        return int(self._value(f"SELECT COUNT({quote(column)}) FROM {self._from(table)}"))

    def without_key(self, table: str) -> int:
        return 0

    def _value(self, sql: str, values: Row = ()) -> Any:
        row = self._execute(sql, values).fetchone()
        return row[0] if row else None

    def _sequences(self, table: str) -> list[Row]:
        """Column, sequence, its increment and bounds: of serial and identity columns, and of defaults that call one."""
        return self._execute(_SEQUENCES, (self.store.tables[table].oid,) * 2).fetchall()

    def last_number(self, table: str) -> int | None:
        for column, sequence, *_bounds in self._sequences(table):
            if (column,) == key_of(self.store.tables[table]):
                return self._given(sequence)
        return None

    def _given(self, sequence: str) -> int | None:
        """The last number that a sequence gave."""
        found: int | None = self._value(
            f"SELECT CASE WHEN is_called THEN last_value END FROM {sequence.replace('%', '%%')}"
        )
        return found

    def continue_numbering(self, table: str, number: int | None) -> None:
        declared = self.store.tables[table]
        for column, sequence, increment, least, most in self._sequences(table):
            furthest = max if increment > 0 else min
            highest = self._value(f"SELECT {furthest.__name__}({quote(column)})::bigint FROM {declared.sql}")
            of_key = number if (column,) == key_of(declared) else None
            known = [one for one in (highest, of_key, self._given(sequence)) if one is not None]
            if possible := [one for one in known if least <= one <= most]:
                self._execute("SELECT setval(%s::text::regclass, %s, true)", (sequence, furthest(possible)))


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


# --- values ----------------------------------------------------------------------------------------------------

_READ = {
    "moment": "({} AT TIME ZONE 'UTC')::text",
    "int": "{}",
    "float": "{}",
    "bytes": "{}",
    "bool": "{}::int",
}
_KINDS = {
    "timestamp with time zone": "moment",
    "timestamp without time zone": "naive",
    "boolean": "bool",
    "json": "json",
    "jsonb": "json",
    "bytea": "bytes",
    "smallint": "int",
    "integer": "int",
    "bigint": "int",
    "real": "float",
    "double precision": "float",
    "numeric": "number",
    "uuid": "uuid",
}
_BITS = {"smallint": 15, "integer": 31, "bigint": 63}


def kind_of(base: str) -> str:
    """What a PostgreSQL type holds, as far as a copy cares."""
    return _KINDS.get(base, "text")


class Unstorable(ValueError):
    """A value that the target's column can't hold."""


def _to_moment(value: Any) -> str:
    at = parse_timestamp(str(value))
    if at is None:
        raise Unstorable(_("%(value)s is no time") % {"value": str(value)[:50]})
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds") + "+00"


def _to_naive(value: Any) -> str:
    return _to_moment(value)[:-3]


def _to_bool(value: Any) -> bool:
    if str(value).lower() in {"1", "t", "true"}:
        return True
    if str(value).lower() in {"0", "f", "false"}:
        return False
    raise Unstorable(_("%(value)s is neither true nor false") % {"value": str(value)[:50]})


def _to_text(value: Any) -> str:
    text = value if isinstance(value, str) else value.decode() if isinstance(value, bytes) else str(value)
    if "\x00" in text:
        raise Unstorable(_("a text of PostgreSQL can't hold U+0000"))
    return text


def _to_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _to_json(value: Any) -> str:
    text = _to_text(value)
    try:
        decode(text)
    except Unreadable:
        raise Unstorable(_("it is no JSON")) from None
    return text


def _to_int(value: Any) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise Unstorable(_("%(value)s is no whole number") % {"value": value})
    try:
        return int(value)
    except ValueError:
        raise Unstorable(_("%(value)s is no whole number") % {"value": str(value)[:50]}) from None


def _whole_number(base: str) -> Convert:
    limit = 1 << _BITS[base]

    def convert(value: Any) -> int:
        number = _to_int(value)
        if not -limit <= number < limit:
            raise Unstorable(_("%(value)s is beyond the range of %(type)s") % {"value": number, "type": base})
        return number

    return convert


_CONVERT: dict[str, Convert] = {
    "moment": _to_moment,
    "naive": _to_naive,
    "bool": _to_bool,
    "json": _to_json,
    "bytes": _to_bytes,
    "float": float,
    "number": _to_text,
    "uuid": _to_text,
    "text": _to_text,
}


def _converter(base: str) -> Convert:
    return _whole_number(base) if base in _BITS else _CONVERT[kind_of(base)]


def _same_moment(value: Any) -> Any:
    at = parse_timestamp(str(value))
    return str(value) if at is None else at.timestamp()


def _same_json(value: Any) -> Any:
    try:
        return json.dumps(json.loads(value), sort_keys=True)
    except (ValueError, RecursionError, TypeError):
        return value


def _same_text(value: Any) -> Any:
    return value if type(value) is str else value.decode() if isinstance(value, bytes) else str(value)


def _same_number(value: Any) -> Any:
    try:
        return Decimal(str(value)).normalize().as_tuple()
    except ArithmeticError:
        return str(value)


# Values of both sides in one form, to be compared.
_SAME: dict[str, Convert] = {
    "moment": _same_moment,
    "naive": _same_moment,
    "json": _same_json,
    "bool": lambda value: int(_to_bool(value)),
    "int": int,
    "float": float,
    "number": _same_number,
    "bytes": _to_bytes,
    "uuid": lambda value: str(value).lower(),
    "text": _same_text,
}


# --- a table --------------------------------------------------------------------------------------------------


class TableCopyJob:
    """One table on its way from `source` to `target`."""

    def __init__(self, source: Endpoint, target: Endpoint, table: str) -> None:
        self.source, self.target, self.table = source, target, table
        ours, theirs = source.store.tables[table], target.store.tables[table]
        self.columns = [name for name in ours if name in theirs]
        self.written = [name for name in self.columns if not theirs[name].generated]
        self._reads = {
            end: {name: self._read_as(end, name) for name in self.columns} for end in (self.source, self.target)
        }
        self._width = len(key_of(ours))
        self.left: dict[Row, str] = {}  # key → why the target can't hold the row
        self.unnamed = 0  # rows without a key: nothing tells them apart
        self._retried: list[tuple[Any, Row]] = []

    def _base(self, end: Endpoint, name: str) -> str:
        """The column's type where the end is PostgreSQL; SQLite's columns hold anything."""
        return end.store.tables[self.table][name].base if end.store.vendor == "postgresql" else ""

    def _read_as(self, end: Endpoint, name: str) -> str:
        """Between columns of one type values go as PostgreSQL's own text of them: exactly."""
        bases = {self._base(self.source, name), self._base(self.target, name)}
        return "exact" if len(bases) == 1 else kind_of(self._base(end, name))

    @cached_property
    def _converts(self) -> list[Convert]:
        """For each written column what turns a value into what the target takes; SQLite takes everything."""
        found = []
        for name in self.written:
            base = self._base(self.target, name)
            found.append(_as_it_is if self._reads[self.target][name] == "exact" or not base else _converter(base))
        return found

    def run(self, on_batch: Callable[[int], None] = lambda rows: None) -> None:
        """Copy what is not there yet, in key order. A row that refers to a later one is tried again at the end."""
        after = self.target.last_key(self.table)
        if after is not None:
            after = self._look_back(after)
        while rows := self._read(self.source, self.written, after):
            after = rows[-1][0]
            self._copy(rows)
            on_batch(len(rows))
        again, self._retried = self._retried, []
        for pair in again:
            self._insert([pair], last=True)
        self.unnamed = self.source.without_key(self.table)
        self.target.continue_numbering(self.table, self.source.last_number(self.table))

    def _look_back(self, last: Row) -> Row:
        """Try again what a copy that died has left out, or not yet tried again; return the last key looked at."""
        after: Row | None = None
        while rows := self._read(self.source, self.written, after):
            there = {_text_of(key) for key, _row in self._read(self.target, (), after)}
            self._copy([(key, row) for key, row in rows if _text_of(key) not in there])
            after = rows[-1][0]
            if _text_of(last) in {_text_of(key) for key, _row in rows}:
                break
        return after or last

    def _read(self, end: Endpoint, columns: Iterable[str], after: Row | None) -> list[tuple[Row, Row]]:
        kinds = self._reads[end]
        rows = end.read(self.table, {name: kinds[name] for name in columns}, after, BATCH)
        return [(row[: self._width], row[self._width :]) for row in rows]

    def _copy(self, rows: Iterable[tuple[Row, Row]]) -> None:
        self._insert([pair for key, row in rows if (pair := self._converted(key, row)) is not None], last=False)

    def _converted(self, key: Row, values: Row) -> tuple[Any, Row] | None:
        try:
            return key, tuple(
                None if value is None else convert(value) for convert, value in zip(self._converts, values, strict=True)
            )
        except (ValueError, OverflowError) as error:
            self.left[key] = str(error)
            return None

    def _insert(self, pairs: list[tuple[Any, Row]], *, last: bool) -> None:
        """By halves, until the rows that the target refuses stand alone."""
        if not pairs:
            return
        try:
            self.target.insert(self.table, self.written, [row for _key, row in pairs])
        except (sqlite3.Error, psycopg.Error) as error:
            if classify(error) != ErrorKind.ROW:
                raise
            if len(pairs) > 1:
                middle = len(pairs) // 2
                self._insert(pairs[:middle], last=last)
                self._insert(pairs[middle:], last=last)
            elif last:
                self.left[pairs[0][0]] = first_line(error)
            else:
                self._retried += pairs

    def matches(self) -> bool:
        """Whether both sides hold the same rows, but for those left out: read again on both, compared by value."""
        return self._sum(self.source) == self._sum(self.target)

    def _sum(self, end: Endpoint) -> tuple[int, int]:
        same = [self._same(name) for name in self.columns]
        rows = total = 0
        after = None
        while portion := self._read(end, self.columns, after):
            after = portion[-1][0]
            for key, row in portion:
                if key not in self.left:
                    rows += 1
                    total += hash(tuple([None if v is None else one(v) for one, v in zip(same, row, strict=True)]))
        return rows, total & ((1 << 64) - 1)

    def _same(self, name: str) -> Convert:
        """What gives a value of either side one form."""
        if self._reads[self.target][name] == "exact":
            return _as_it_is
        return _SAME[kind_of(self._base(self.target, name) or self._base(self.source, name))]


def _text_of(key: Row) -> tuple[str, ...]:
    """A key in one form: PostgreSQL gives some as objects."""
    return tuple(map(str, key))


def _as_it_is(value: Any) -> Any:
    return value


# --- what is copied, and in which order -------------------------------------------------------------------------


def obstacle(source: Store, table: str, columns: Collection[str] | None) -> str:
    """Return the code of what keeps a table from being copied, or nothing. `columns` are the target's."""
    known = {model._meta.db_table for model in source.models()} | set(OWN)
    key = key_of(source.tables[table])
    if table not in known:
        return "unknown_table"
    if columns is None:
        return "no_table"
    if not key:
        return "no_key"
    return "" if set(key) <= set(columns) else "other_key"


def sources_of(store: Store) -> list[str]:
    """Return all tables with rows of their own, those that others refer to first: no partitions, nothing of indexes."""
    of_indexes = tuple(f"{name}_" for name in store.virtual_tables())
    partitions: set[int] = set()
    if store.vendor == "postgresql":
        partitions = {oid for (oid,) in store.query("SELECT oid::bigint FROM pg_class WHERE relispartition")}
    return order(
        store,
        [
            name
            for name, table in store.tables.items()
            if not name.startswith(of_indexes) and table.oid not in partitions
        ],
    )


_REFERENCES = re.compile(r"\bREFERENCES\s+(\w+)", re.IGNORECASE)


def order(store: Store, tables: Sequence[str]) -> list[str]:
    """Tables, those that others refer to first: by the store's own foreign keys, and by the documented ones."""
    parents: dict[str, set[str]] = {table: set() for table in tables}
    named: dict[Any, str] = {store.tables[table].oid or table: table for table in tables}
    for key in store.foreign_keys:
        child, parent = named.get(key.child_oid or key.child), named.get(key.parent_oid or key.parent)
        if child and parent and child != parent:
            parents[child].add(parent)
    for child, statement in schema.documented(store.name, store.vendor).tables.items():
        if child in parents:
            parents[child] |= {one for one in _REFERENCES.findall(statement) if one in parents and one != child}
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
            cursor.execute(f"DELETE FROM {identifier(table)}")  # what the statements filled in: the source has its own
