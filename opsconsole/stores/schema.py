"""The documented tables, columns and indexes of a store, from its apps' `schema/<engine>.sql`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import sqlparse
from django.db import transaction
from django.db.models import Model

from opsconsole.stores import remedies
from opsconsole.stores.catalog import NAME, identifier, unquoted
from opsconsole.stores.indexes import Index, condition, free_name, indexes, names_taken
from opsconsole.stores.platforms import platform_apps
from opsconsole.stores.store import Store


@dataclass
class Documented:
    """The documented schema of a store on one engine."""

    tables: dict[str, str] = field(default_factory=dict)  # table → CREATE TABLE
    columns: dict[str, dict[str, str]] = field(default_factory=dict)  # table → column → declaration
    indexes: dict[str, tuple[Index, str]] = field(default_factory=dict)  # name → index, CREATE INDEX


class Missing(NamedTuple):
    """A documented part that the store is missing.

    `statement` adds it, or is the reason why it cannot be added. The kind `invalid` is an index that PostgreSQL has
    not finished, `shape` a table with another key, `migration` a column that the platform's own migration adds.
    """

    kind: str  # table, column, index, invalid; shape, migration
    name: str
    statement: str
    table: str
    columns: frozenset[str] = frozenset()


ADDED = ("column", "index", "invalid")


@cache
def documented(store: str, vendor: str) -> Documented:
    """Return the documented schema of a store. Tables without a model, such as a full-text index, are left out."""
    found = Documented()
    known = {model._meta.db_table for model in Store(store, store).models()}
    for statement in statements(store, vendor):
        if table := _TABLE.match(statement):
            name = unquoted(table[1])
            if name not in known:
                continue
            found.tables[name] = statement
            found.columns[name] = dict(_declarations(statement))
        elif index := _INDEX.match(statement):
            columns = tuple(unquoted(part.split()[0]) for part in _parts(statement[index.end() :]))
            if unquoted(index[2]) in known and all(map(str.isidentifier, columns)):
                unique = bool(re.match(r"CREATE\s+UNIQUE", statement, re.IGNORECASE))
                wanted = Index(unquoted(index[2]), columns, unique, condition(statement))
                found.indexes[unquoted(index[1])] = wanted, statement
    return found


def make_tables(store: Store) -> list[str]:
    """Create the documented tables of each app that has none of them in the store. Return the names of these apps.

    The tables of other apps do not change: `upgrade_store` adds missing columns and indexes.
    """
    made = []
    store.connection.ensure_connection()  # creates the file of an embedded store
    for app in platform_apps(store.platform):
        documented_here = {
            unquoted(found[1]) for one in _script(app.path, store.vendor) if (found := _TABLE.match(one))
        }
        if documented_here.isdisjoint(Store(store.alias, store.platform).tables):
            with transaction.atomic(using=store.alias), store.connection.cursor() as cursor:
                for statement in _script(app.path, store.vendor):
                    cursor.execute(statement)
            made.append(app.name)
    return made


def statements(store: str, vendor: str) -> Iterator[str]:
    """Yield the statements that create the documented tables of a store."""
    for app in platform_apps(store):
        yield from _script(app.path, vendor)


@cache
def _script(app: str, vendor: str) -> tuple[str, ...]:
    text = (Path(app) / "schema" / f"{vendor}.sql").read_text(encoding="utf-8")
    # sqlparse recognizes the semicolons in the body of a trigger.
    found = (one.strip().rstrip(";") for one in sqlparse.split(sqlparse.format(text, strip_comments=True)))
    return tuple(one for one in found if one)


_TABLE = re.compile(rf"CREATE TABLE (?:IF NOT EXISTS )?{NAME}\s*\(", re.IGNORECASE)
_INDEX = re.compile(
    rf"CREATE (?:UNIQUE )?INDEX (?:IF NOT EXISTS )?{NAME}\s+ON {NAME}\s*(?:USING \w+\s*)?\(", re.IGNORECASE
)
_CONSTRAINTS = {"UNIQUE", "FOREIGN", "PRIMARY", "CHECK", "CONSTRAINT", "EXCLUDE", "LIKE"}


def _declarations(statement: str) -> Iterator[tuple[str, str]]:
    """Yield name and declaration of each column of a CREATE TABLE."""
    for part in _parts(statement[statement.index("(") + 1 :]):
        name, _space, declaration = part.partition(" ")
        if name.upper() not in _CONSTRAINTS:
            yield unquoted(name), " ".join(declaration.split())


def _parts(text: str) -> list[str]:
    """Return the parts between the commas, up to the parenthesis that closes the one before `text`."""
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


def missing(store: Store, needed: Mapping[str, Collection[str]] | None = None) -> list[Missing]:
    """Return the documented parts that the store is missing, in the order in which they can be added.

    `needed` (table → columns) limits the columns.
    """
    wanted = documented(store.platform, store.vendor)
    models = {model._meta.db_table: model for model in store.models()}
    shapes = [table for table in wanted.tables if table in models and remedies.other_shape(store, models[table])]
    found = [Missing("table", name, sql, name) for name, sql in wanted.tables.items() if name not in store.tables]
    found += [Missing("shape", table, remedies.shape_sentence(store, models[table]), table) for table in shapes]
    there = {table: set(columns) for table, columns in store.tables.items() if table not in shapes}
    for table, columns in wanted.columns.items():
        names = [
            name
            for name in columns
            if name not in there.get(table, columns) and (needed is None or name in needed.get(table, ()))
        ]
        found += _missing_columns(store, models[table], names, columns) if names else ()
    for one in found:
        if one.kind == "column":
            there[one.table] |= one.columns
    return found + [
        one for one in _missing_indexes(store, wanted) if one.table in there and one.columns <= there[one.table]
    ]


def _missing_columns(
    store: Store, model: type[Model], names: Iterable[str], declarations: Mapping[str, str]
) -> Iterator[Missing]:
    table = model._meta.db_table
    later = remedies.pending_migrations(store, model, names)
    for migration, columns in later.items():
        sentence = remedies.migration_sentence(store, table, columns, migration)
        yield Missing(
            "migration", ", ".join(f"{table}.{name}" for name in columns), sentence, table, frozenset(columns)
        )
    left_out = {name for columns in later.values() for name in columns}
    for name in names:
        if name not in left_out:
            statement = _added(store, table, name, declarations[name])
            yield Missing("column", f"{table}.{name}", statement, table, frozenset({name}))


def _missing_indexes(store: Store, wanted: Documented) -> Iterator[Missing]:
    """Yield the documented indexes that no index of the store serves. Another index may have the documented name."""
    there = indexes(store)
    taken = names_taken(store)
    for name, (index, statement) in wanted.indexes.items():
        serving = {other: one.valid for other, one in there.items() if one.serves(index)}
        if any(serving.values()):
            continue
        if serving:  # PostgreSQL only: an interrupted CREATE INDEX CONCURRENTLY leaves an invalid index
            kind, other = "invalid", min(serving)
            statement = f"REINDEX INDEX CONCURRENTLY {identifier(other)}"
        else:
            kind, other = "index", free_name(name, taken)
            statement = re.sub(rf"(INDEX (?:IF NOT EXISTS )?){NAME}", rf"\1{other}", statement, count=1)
        yield Missing(kind, other, statement, index.table, frozenset(map(str, index.columns)))


def _added(store: Store, table: str, column: str, declaration: str) -> str:
    """Return the statement that adds a column. Existing rows do not allow every part of a declaration."""
    declaration = re.sub(r"\bPRIMARY KEY\b|\bUNIQUE\b|\bAUTOINCREMENT\b", "", declaration, flags=re.IGNORECASE)
    if store.vendor == "sqlite":  # SQLite requires a constant default
        declaration = re.sub(r"\s*DEFAULT CURRENT_\w+", "", declaration, flags=re.IGNORECASE)
    if not re.search(r"\bDEFAULT\b", declaration, re.IGNORECASE):
        declaration = re.sub(r"\s*\bNOT NULL\b", "", declaration, flags=re.IGNORECASE)
    return f"ALTER TABLE {identifier(table)} ADD COLUMN {identifier(column)} {' '.join(declaration.split())}"
