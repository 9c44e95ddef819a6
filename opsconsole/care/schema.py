"""The documented tables, columns and indexes of a store, out of the very statements that its migrations run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import sqlparse
from django.db.migrations.loader import MigrationLoader

from opsconsole.stores.ddl import StoreSQL
from opsconsole.stores.store import Store


class Index(NamedTuple):
    table: str
    columns: tuple[str, ...]
    statement: str


@dataclass
class Documented:
    """As the documents have it, on one engine."""

    tables: dict[str, str] = field(default_factory=dict)  # table → CREATE TABLE
    columns: dict[str, dict[str, str]] = field(default_factory=dict)  # table → column → its declaration
    indexes: dict[str, Index] = field(default_factory=dict)


class Missing(NamedTuple):
    """Something that the store lacks, and the statement that adds it."""

    kind: str  # table, column, index
    name: str
    statement: str


@cache
def documented(store: str, vendor: str) -> Documented:
    """The console's own database has none: Django makes it. What the console adds itself, such as an index of
    words, is no part of the documents.
    """
    found = Documented()
    known = {model._meta.db_table for model in Store(store, store).models()}
    for statement in statements(store, vendor):
        if table := _TABLE.match(statement):
            name = _plain(table[1])
            if name not in known:
                continue
            found.tables[name] = statement
            found.columns[name] = dict(_declarations(statement))
        elif index := _INDEX.match(statement):
            columns = tuple(_plain(part.split()[0]) for part in _parts(statement[index.end() :]))
            if _plain(index[2]) in known and all(map(str.isidentifier, columns)):
                found.indexes[_plain(index[1])] = Index(_plain(index[2]), columns, statement)
    return found


def statements(store: str, vendor: str) -> Iterator[str]:
    loader = MigrationLoader(None, ignore_no_migrations=True)
    graph = loader.graph
    ordered = dict.fromkeys(key for leaf in graph.leaf_nodes() for key in graph.forwards_plan(leaf))
    for key in ordered:
        migration: Any = loader.disk_migrations.get(key)
        for operation in _flat(migration.operations if migration else ()):
            if isinstance(operation, StoreSQL) and operation.store == store:
                for statement in sqlparse.split(sqlparse.format(operation.scripts[vendor], strip_comments=True)):
                    yield statement.strip().rstrip(";")


def _flat(operations: Iterable[Any]) -> Iterator[Any]:
    for operation in operations:
        yield operation
        yield from _flat(getattr(operation, "database_operations", ()))


_NAME = r'("(?:[^"]|"")+"|\w+)'
_TABLE = re.compile(rf"CREATE TABLE (?:IF NOT EXISTS )?{_NAME}\s*\(", re.IGNORECASE)
_INDEX = re.compile(
    rf"CREATE (?:UNIQUE )?INDEX (?:IF NOT EXISTS )?{_NAME}\s+ON {_NAME}\s*(?:USING \w+\s*)?\(", re.IGNORECASE
)
_CONSTRAINTS = {"UNIQUE", "FOREIGN", "PRIMARY", "CHECK", "CONSTRAINT", "EXCLUDE", "LIKE"}


def _declarations(statement: str) -> Iterator[tuple[str, str]]:
    """Column → its declaration, of a CREATE TABLE."""
    for part in _parts(statement[statement.index("(") + 1 :]):
        name, _space, declaration = part.partition(" ")
        if name.upper() not in _CONSTRAINTS:
            yield _plain(name), " ".join(declaration.split())


def _parts(text: str) -> list[str]:
    """What stands between the commas, up to the parenthesis that closes the one before `text`."""
    parts, depth, start, quote = [], 0, 0, ""
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "(":
            depth += 1
        elif character == ")" and depth:
            depth -= 1
        elif character == ")" or (character == "," and not depth):
            parts.append(text[start:place].strip())
            start = place + 1
            if character == ")":
                break
    return parts


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def missing(store: Store) -> list[Missing]:
    """What the documents have and the store lacks, in the order in which it can be added."""
    wanted = documented(store.name, store.vendor)
    there = store.tables
    found = [Missing("table", name, sql) for name, sql in wanted.tables.items() if name not in there]
    found += [
        Missing("column", f"{table}.{name}", _added(store, table, name, declaration))
        for table, columns in wanted.columns.items()
        if table in there
        for name, declaration in columns.items()
        if name not in there[table]
    ]
    indexes = existing_indexes(store)
    covered = {(table, columns) for table, columns in indexes.values()}
    found += [
        Missing("index", name, index.statement)
        for name, index in wanted.indexes.items()
        if index.table in there and name not in indexes and (index.table, index.columns) not in covered
    ]
    return found


def _added(store: Store, table: str, column: str, declaration: str) -> str:
    """Rows are there already: what a table's first declaration may say, an added column may not."""
    declaration = re.sub(r"\bPRIMARY KEY\b|\bUNIQUE\b|\bAUTOINCREMENT\b", "", declaration, flags=re.IGNORECASE)
    if store.vendor == "sqlite":  # wants a constant, and no reference with a default
        declaration = re.sub(r"\s*DEFAULT CURRENT_\w+", "", declaration, flags=re.IGNORECASE)
    if not re.search(r"\bDEFAULT\b", declaration, re.IGNORECASE):
        declaration = re.sub(r"\s*\bNOT NULL\b", "", declaration, flags=re.IGNORECASE)
    quote = store.connection.ops.quote_name
    return f"ALTER TABLE {quote(table)} ADD COLUMN {quote(column)} {' '.join(declaration.split())}"


def existing_indexes(store: Store) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Index → its table and columns; an expression is no column."""
    with store.connection.cursor() as cursor:
        cursor.execute(_EXISTING[store.vendor])
        rows: Sequence[tuple[str, str, str | None]] = cursor.fetchall()
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name, table, column in rows:
        found[name] = (table, (*(found[name][1] if name in found else ()), column or "?"))
    return found


_EXISTING = {
    "sqlite": """
        SELECT l.name, m.name, i.name FROM sqlite_master AS m
        JOIN pragma_index_list(m.name) AS l JOIN pragma_index_info(l.name) AS i
        WHERE m.type = 'table' AND m.rootpage > 0 ORDER BY l.name, i.seqno
    """,
    "postgresql": """
        SELECT c.relname, t.relname, a.attname FROM pg_index AS i
        JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_class AS t ON t.oid = i.indrelid
        CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(number, place)
        LEFT JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number AND k.number > 0
        WHERE pg_table_is_visible(t.oid)
          AND t.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
          AND k.place <= i.indnkeyatts
        ORDER BY 1, k.place
    """,
}
