"""Stores as the plain drivers create and read them, and comparisons of their contents.

No code of the console reads or writes here.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

Row = dict[str, Any]
Dump = dict[str, list[Row]]  # table, with its schema unless that is `public` or `main` → rows

OPTIONS = (
    "-c datestyle=ISO,MDY -c intervalstyle=postgres -c timezone=UTC -c bytea_output=hex -c extra_float_digits=1"
    " -c lc_monetary=C -c standard_conforming_strings=on -c search_path=public -c default_transaction_read_only=off"
    " -c statement_timeout=0 -c lock_timeout=0 -c xmloption=content"
)


class Place(NamedTuple):
    """The address of a store: the path of a SQLite file, or the URL of a PostgreSQL database for its superuser."""

    engine: str
    address: str

    @property
    def sqlite(self) -> bool:
        return self.engine == "sqlite"


@contextmanager
def client(place: Place) -> Iterator[Any]:
    """Open a connection of the plain driver in autocommit mode."""
    if place.sqlite:
        with closing(sqlite3.connect(place.address, isolation_level=None, timeout=10)) as connection:
            connection.text_factory = lambda raw: raw.decode(errors="surrogateescape")
            yield connection
        return
    with _connect(place) as pg:
        yield pg


def _connect(place: Place) -> Any:
    pg = psycopg.connect(place.address, autocommit=True, options=OPTIONS, prepare_threshold=None)
    # A database without a known encoding: the driver returns bytes.
    raw = pg.info.parameter_status("server_encoding") == "SQL_ASCII"
    pg.execute(f"SET client_encoding = '{'SQL_ASCII' if raw else 'UTF8'}'")
    return pg


_readers: dict[str, Any] = {}


@contextmanager
def reader(place: Place) -> Iterator[Any]:
    """Open a connection that only reads. PostgreSQL's stays open: a new one takes as long as the query."""
    if place.sqlite:
        with client(place) as connection:
            yield connection
        return
    if place.address not in _readers:
        _readers[place.address] = _connect(place)
    yield _readers[place.address]


def close_readers() -> None:
    while _readers:
        _readers.popitem()[1].close()


def dump(place: Place) -> Dump:
    """Return every row of every table, including unknown tables.

    Values of PostgreSQL are texts. Values of SQLite are the stored ones, with the `rowid` if no column names it.
    """
    with reader(place) as connection:
        return dict(_sqlite_tables(connection) if place.sqlite else _postgresql_tables(connection))


def _sqlite_tables(connection: Any) -> Iterator[tuple[str, list[Row]]]:
    for table, without_rowid in connection.execute(
        "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name <> 'sqlite_schema'"
    ).fetchall():
        names = [name for (name,) in connection.execute("SELECT name FROM pragma_table_xinfo(?)", [table])]
        rowid = "" if without_rowid or {"rowid", "_rowid_", "oid"} & set(names) else "rowid, "
        chosen = ", ".join(f"+{_quoted(name)}" for name in names)
        found = connection.execute(f"SELECT {rowid}{chosen} FROM {_quoted(table)}").fetchall()
        keys = [name.lower() for name in (["rowid", *names] if rowid else names)]
        yield table.lower(), [dict(zip(keys, row, strict=True)) for row in found]
    shape = connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()
    yield CATALOGUE, [dict(zip(("type", "name", "sql"), row, strict=True)) for row in shape]


def _postgresql_tables(connection: Any) -> Iterator[tuple[str, list[Row]]]:
    tables: Dump = {}
    shapes: list[tuple[str, list[str], bool]] = []
    queries: list[sql.Composed] = []
    for schema, table, kind, names in connection.execute(_TABLES).fetchall():
        schema, table, kind = _text(schema), _text(table), _text(kind)
        columns = [_text(one) for one in names]
        # A row of a partitioned table also has a partition. A foreign table has no tableoid.
        query = sql.SQL("SELECT {}, {}, ARRAY[{}] FROM {}{}").format(
            sql.Literal(len(shapes)),
            sql.SQL("''" if kind == "f" else "tableoid::regclass::text"),
            sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(one)) for one in columns),
            sql.SQL("ONLY " if kind == "r" else ""),
            sql.Identifier(schema, table),
        )
        queries.append(query)
        shapes.append((table if schema == "public" else f"{schema}.{table}", columns, kind == "p"))
        tables[shapes[-1][0]] = []
    # One statement for all tables: there are thousands of dumps.
    for number, place, values in connection.execute(sql.SQL(" UNION ALL ").join(queries)).fetchall() if queries else ():
        name, columns, partitioned = shapes[number]
        row = {one: _text(value) for one, value in zip(columns, values, strict=True)}
        tables[name].append(row | ({"partition": _text(place)} if partitioned else {}))
    yield from tables.items()
    yield CATALOGUE, [{"object": _text(name)} for (name,) in connection.execute(_SHAPE).fetchall()]


CATALOGUE = " what there is "
_SHAPE = """
    SELECT concat_ws(' ', relkind, relname, relhastriggers, relrowsecurity, relpersistence) FROM pg_class
    WHERE oid >= 16384 AND relnamespace <> 'pg_toast'::regnamespace AND relpersistence <> 't'
    UNION ALL SELECT concat_ws(' ', tgname, tgenabled) FROM pg_trigger WHERE oid >= 16384
    UNION ALL SELECT conname FROM pg_constraint WHERE oid >= 16384 AND NOT EXISTS (
        SELECT FROM pg_class AS t WHERE t.oid = conrelid AND t.relpersistence = 't')
    UNION ALL SELECT proname FROM pg_proc WHERE oid >= 16384
"""
_TABLES = """
    SELECT n.nspname, c.relname, c.relkind::text, array_agg(a.attname ORDER BY a.attnum)
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relkind IN ('r', 'p', 'm', 'f') AND NOT c.relispartition
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
    GROUP BY 1, 2, 3 ORDER BY 1, 2
"""


def _text(value: Any) -> Any:
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# --- comparing ------------------------------------------------------------------------------------------------

Columns = frozenset[tuple[str, str]]


def differences(found: Dump, wanted: Dump, *, but: Iterable[tuple[str, str]] = ()) -> list[str]:
    """Describe the differences between two dumps. `but` contains each (table, column) that may differ."""
    told = []
    for table in sorted({*found, *wanted}):
        if table not in found or table not in wanted:
            told.append(f"{table} is {'new' if table in found else 'gone'}")
            continue
        left_out = {column for name, column in but if name == table}
        if "*" in left_out:
            continue
        is_, ought = (Counter(_row(row, left_out) for row in rows[table]) for rows in (found, wanted))
        told += [f"{table}: {text}" for text in _told(list((is_ - ought).elements()), list((ought - is_).elements()))]
    return told


Cells = tuple[tuple[str, str, str], ...]


def _row(row: Row, left_out: set[str]) -> Cells:
    """Return a row with the types of its values: 1 differs from 1.0."""
    return tuple((name, type(value).__name__, repr(value)) for name, value in row.items() if name not in left_out)


def _told(found: list[Cells], wanted: list[Cells]) -> Iterator[str]:
    """Describe differing rows. Of similar rows, describe the differing values."""
    for row in found:
        like = max(wanted, key=lambda other: len({*row} & {*other}), default=())
        if len({*row} & {*like}) * 2 > len(row):
            wanted.remove(like)
            yield f"{row[0][0]} {row[0][2]} has {_shown({*row} - {*like})} instead of {_shown({*like} - {*row})}"
        else:
            yield f"has a row {_shown(row)}"
    yield from (f"is missing the row {_shown(row)}" for row in wanted)


def _shown(cells: Iterable[tuple[str, str, str]]) -> str:
    return ", ".join(f"{name}={text[:60]}" for name, _type, text in sorted(cells) if text != "None") or "NULL"


def copied(tables: Dump) -> Dump:
    return deepcopy(tables)


def moment(text: Any) -> Any:
    """Return a time in one form, and any other value unchanged."""
    form = r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d)(:\d\d)?(\.\d+)?(\+00(:00)?|Z)?"
    found = re.fullmatch(form, text) if isinstance(text, str) else None
    if found is None:
        return text
    return f"{found[1]} {found[2]}{found[3] or ':00'}{(found[4] or '').rstrip('0').rstrip('.')}"


# --- sentences --------------------------------------------------------------------------------------------------

NOT_IN_A_SENTENCE = re.compile(r"can't be reached|cannot be reached|Traceback|psycopg|sqlite3\.|Error:|<class|\bNone\b")


def unclear(sentence: str, words: Iterable[str]) -> str:
    """Return what is wrong with the message of a refusal, an empty text if nothing is."""
    if found := NOT_IN_A_SENTENCE.search(sentence):
        return f"says {found[0]!r}"
    absent = [word for word in words if not any(one in sentence.lower() for one in word.lower().split("|"))]
    return f"does not name {absent}" if absent else ""


# --- making ------------------------------------------------------------------------------------------------------

Statement = str | tuple[str, Sequence[Any]]


def create(place: Place, statements: Iterable[Statement]) -> None:
    """Execute statements with `?` as parameters in one transaction."""
    with client(place) as connection:
        connection.execute("BEGIN")
        for statement in statements:
            text, values = (statement, ()) if isinstance(statement, str) else statement
            if place.sqlite:
                connection.execute(text, values)
            else:
                connection.execute(text.replace("?", "%s") if values else text, values or None)
        connection.execute("COMMIT")


def apply(
    place: Place, statements: Sequence[str | Callable[[Any, Mapping[str, str]], None]], names: Mapping[str, str]
) -> None:
    """Execute the statements of an oddity with the names filled in, each in its own transaction."""
    if not statements:
        return
    with client(place) as connection:
        for statement in statements:
            if callable(statement):
                statement(connection, names)
            else:
                connection.execute(filled(statement, names))


def filled(text: str, names: Mapping[str, str]) -> str:
    return re.sub(r"<(\w+)>", lambda found: names.get(found[1], found[0]), text)
