"""Copies of a store's tables into another database, in key order and in batches.

A copy that was interrupted resumes from the rows in the target. A row that the target cannot store is left out and
listed with the reason.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import Any

from django.db import transaction

from opsconsole.backups.conversion import Convert, comparable, converter, kind_of, unchanged
from opsconsole.backups.endpoints import Endpoint, Row, key_of
from opsconsole.stores import schema
from opsconsole.stores.catalog import quote
from opsconsole.stores.errors import ErrorKind, classify, first_line
from opsconsole.stores.store import Store

BATCH = 5_000
LISTED_FAILURES = 1_000
OWN = ("schema_version",)  # tables that belong to a store and have no model


class TableCopyJob:
    """The copy of one table from `source` to `target`."""

    def __init__(self, source: Endpoint, target: Endpoint, table: str) -> None:
        self.source, self.target, self.table = source, target, table
        read, written = source.store.tables[table], target.store.tables[table]
        self.columns = [name for name in read if name in written]
        self.written = [name for name in self.columns if not written[name].generated]
        self._kinds = {end: {name: self._kind(end, name) for name in self.columns} for end in (source, target)}
        self._key_width = len(key_of(read))
        self.left: dict[Row, str] = {}  # key → why the target cannot store the row
        self.without_key = 0  # rows that nothing identifies
        self._retried: list[tuple[Row, Row]] = []

    def _base(self, end: Endpoint, name: str) -> str:
        """Return the type of a column on PostgreSQL. A column of SQLite can store anything."""
        return end.store.tables[self.table][name].base if end.store.vendor == "postgresql" else ""

    def _kind(self, end: Endpoint, name: str) -> str:
        """Return how a column is read: between columns of one type, as the exact text of PostgreSQL."""
        bases = {self._base(self.source, name), self._base(self.target, name)}
        return "exact" if len(bases) == 1 else kind_of(self._base(end, name))

    @cached_property
    def _converters(self) -> list[Convert]:
        found = []
        for name in self.written:
            base = self._base(self.target, name)
            found.append(unchanged if self._kinds[self.target][name] == "exact" or not base else converter(base))
        return found

    def run(self, on_batch: Callable[[int], None] = lambda rows: None) -> None:
        """Copy the rows that the target is missing. A row that refers to a later row is retried at the end."""
        after = self.target.last_key(self.table)
        if after is not None:
            after = self._fill_gaps(after)
        while rows := self._read(self.source, self.written, after):
            after = rows[-1][0]
            self._copy(rows)
            on_batch(len(rows))
        retried, self._retried = self._retried, []
        for pair in retried:
            self._insert([pair], last=True)
        self.without_key = self.source.count_without_key(self.table)
        self.target.continue_numbering(self.table, self.source.last_number(self.table))

    def _fill_gaps(self, last: Row) -> Row:
        """Copy the rows up to the key `last` that an interrupted copy left out. Return the last key that was read."""
        after: Row | None = None
        while rows := self._read(self.source, self.written, after):
            existing = {_text_of(key) for key, _row in self._read(self.target, (), after)}
            self._copy([(key, row) for key, row in rows if _text_of(key) not in existing])
            after = rows[-1][0]
            if _text_of(last) in {_text_of(key) for key, _row in rows}:
                break
        return after or last

    def _read(self, end: Endpoint, columns: Iterable[str], after: Row | None) -> list[tuple[Row, Row]]:
        kinds = self._kinds[end]
        rows = end.read(self.table, {name: kinds[name] for name in columns}, after, BATCH)
        return [(row[: self._key_width], row[self._key_width :]) for row in rows]

    def _copy(self, rows: Iterable[tuple[Row, Row]]) -> None:
        self._insert([pair for key, row in rows if (pair := self._converted(key, row)) is not None], last=False)

    def _converted(self, key: Row, values: Row) -> tuple[Row, Row] | None:
        pairs = zip(self._converters, values, strict=True)
        try:
            return key, tuple([None if value is None else convert(value) for convert, value in pairs])
        except (ValueError, OverflowError) as error:
            self.left[key] = str(error)
            return None

    def _insert(self, pairs: list[tuple[Row, Row]], *, last: bool) -> None:
        """Insert rows. Halve the batch until each row that the target refuses is isolated."""
        if not pairs:
            return
        import psycopg

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
        """Read both tables again. Return whether they contain equal rows, except for the rows that were left out."""
        return self._checksum(self.source) == self._checksum(self.target)

    def _checksum(self, end: Endpoint) -> tuple[int, int]:
        forms = [self._comparable(name) for name in self.columns]
        rows = total = 0
        after = None
        while portion := self._read(end, self.columns, after):
            after = portion[-1][0]
            for key, row in portion:
                if key not in self.left:
                    rows += 1
                    total += hash(tuple([None if v is None else form(v) for form, v in zip(forms, row, strict=True)]))
        return rows, total & ((1 << 64) - 1)

    def _comparable(self, name: str) -> Convert:
        if self._kinds[self.target][name] == "exact":
            return unchanged
        return comparable(self._base(self.target, name) or self._base(self.source, name))


def _text_of(key: Row) -> tuple[str, ...]:
    """Return a key as texts: the driver of PostgreSQL returns objects for some types."""
    return tuple(map(str, key))


# --- tables ---------------------------------------------------------------------------------------------------


def obstacle(source: Store, table: str, columns: Collection[str] | None) -> str:
    """Return the code of the reason why a table cannot be copied, else an empty text. `columns` are the target's."""
    known = {model._meta.db_table for model in source.models()} | set(OWN)
    key = key_of(source.tables[table])
    if table not in known:
        return "unknown_table"
    if columns is None:
        return "no_table"
    if not key:
        return "no_key"
    return "" if set(key) <= set(columns) else "other_key"


def source_tables(store: Store) -> list[str]:
    """Return the tables to copy, parents first: without partitions and the tables of full-text indexes."""
    of_indexes = tuple(f"{name}_" for name in store.virtual_tables())
    partitions: set[int] = set()
    if store.vendor == "postgresql":
        partitions = {oid for (oid,) in store.query("SELECT oid::bigint FROM pg_class WHERE relispartition")}
    tables = store.tables.items()
    return _parents_first(
        store, [name for name, one in tables if not name.startswith(of_indexes) and one.oid not in partitions]
    )


_REFERENCES = re.compile(r"\bREFERENCES\s+(\w+)", re.IGNORECASE)


def _parents_first(store: Store, tables: Sequence[str]) -> list[str]:
    """Order tables by the foreign keys of the store and by the documented ones."""
    parents: dict[str, set[str]] = {table: set() for table in tables}
    named: dict[Any, str] = {store.tables[table].oid or table: table for table in tables}
    for key in store.foreign_keys:
        child, parent = named.get(key.child_oid or key.child), named.get(key.parent_oid or key.parent)
        if child and parent and child != parent:
            parents[child].add(parent)
    for child, statement in schema.documented(store.platform, store.vendor).tables.items():
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
    """Create the documented tables of an empty target, without the rows that their scripts insert."""
    with transaction.atomic(using=store.alias):
        schema.make_tables(store)
        made = Store(store.alias, store.platform).tables
        for table in {*schema.documented(store.platform, store.vendor).tables, *OWN} & made.keys():
            store.execute(f"DELETE FROM {quote(table)}")
