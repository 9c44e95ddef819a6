"""The check of a store: damage, references, values, schema, frequent queries and settings."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from django.db import DatabaseError, DataError, transaction
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from opsconsole.backups import dump
from opsconsole.backups.folders import folder_of
from opsconsole.backups.params import StoreParams, each_store
from opsconsole.engine.checks import Check, FindingData
from opsconsole.engine.operation import Priority, Schedule
from opsconsole.engine.registry import needed_columns
from opsconsole.jsontext import Unreadable, loads
from opsconsole.monitoring.causes import CAUSES
from opsconsole.stores import schema
from opsconsole.stores.catalog import ForeignKey, escape, identifier, quote
from opsconsole.stores.config import is_writable
from opsconsole.stores.errors import ErrorKind, classify, first_line, sqlite_code
from opsconsole.stores.models import Backup
from opsconsole.stores.platforms import HotQuery, platform_apps
from opsconsole.stores.store import StoreUnavailable

SHOWN = 20  # keys, values or lines of one finding
READ_ROWS = 2_000
_FULL_TEXT = re.compile(r"\bUSING\s+(fts[345])\b", re.IGNORECASE)
IS_JSON_SINCE = 160_000  # the predicate IS JSON; a cast to `json` fails at the first invalid row


class CheckStore(Check):
    title = _("Check a store")
    description = _(
        "Finds damage, dangling references, invalid JSON, unknown values of enumerations, missing "
        "tables, columns and indexes, frequent queries without an index, and server settings below the "
        "recommended values. The store is only read."
    )
    model = Backup
    schedule = Schedule("0 3 * * 0", each_store)
    Params = StoreParams
    rules = ("integrity", "references", "json", "enumerations", "schema", "hot queries", "settings")
    messages = {
        "damaged": _("SQLite's integrity check failed: %(text)s"),
        "damaged_index": _(
            "the full-text index %(name)s does not match its rows (%(text)s); rebuild it with: %(statement)s"
        ),
        "unchecked_index": _("the full-text index %(name)s could not be checked: %(text)s"),
        "unanswered": _("the rule “%(question)s” failed: %(text)s"),
        "invalid_index": _(
            "the index %(name)s of %(table)s is invalid; rebuild it with REINDEX, or drop and create it again"
        ),
        "dangling_reference": _(
            "%(rows)d rows of %(table)s refer by %(column)s to rows of %(parent)s that do not exist"
        ),
        "broken_reference": _("the foreign keys of %(table)s could not be checked: %(text)s"),
        "invalid_json": _("%(rows)d rows of %(table)s have invalid JSON in %(column)s, such as %(keys)s"),
        "outside_enumeration": _("%(rows)d rows of %(table)s have the unknown value %(value)s in %(column)s"),
        "missing_table": _("the table %(name)s is missing; create it with: %(statement)s"),
        "absent_table": _("the table %(name)s is missing; the platform's own migrations create it"),
        "missing_column": _("the column %(name)s is missing; add it with: %(statement)s"),
        "missing_index": _("the index %(name)s is missing; create it with: %(statement)s"),
        "other_shape": "%(statement)s",
        "pending_migration": _("%(name)s is missing. %(statement)s"),
        "query_without_index": _("the query “%(name)s” reads all of %(table)s"),
        "setting_advised": _("%(name)s is %(value)s; the recommended value is %(advised)s"),
    }
    reasons = {
        "damaged": _("damaged pages"),
        "damaged_index": _("full-text indexes that do not match their rows"),
        "unchecked_index": _("full-text indexes that could not be checked"),
        "unanswered": _("failed rules"),
        "invalid_index": _("invalid indexes"),
        "dangling_reference": _("foreign keys with dangling rows"),
        "broken_reference": _("foreign keys that could not be checked"),
        "invalid_json": _("columns with invalid JSON"),
        "outside_enumeration": _("unknown values of enumerations"),
        "missing_table": _("missing documented tables"),
        "absent_table": _("documented tables that the platform has not created"),
        "missing_column": _("missing documented columns"),
        "missing_index": _("missing documented indexes"),
        "other_shape": _("tables of another shape"),
        "pending_migration": _("columns that the platform's own migrations add"),
        "query_without_index": _("frequent queries without an index"),
        "setting_advised": _("settings below the recommended values"),
    }
    causes = CAUSES

    def check_prerequisites(self) -> None:
        self.store.require_file()
        self.store.connection.ensure_connection()

    def run_rule(self, question: str) -> Iterable[FindingData]:
        questions: dict[str, Callable[[], Iterator[FindingData]]] = {
            "integrity": self._integrity,
            "references": self._references,
            "json": self._json,
            "enumerations": self._enumerations,
            "schema": self._schema,
            "hot queries": self._hot_queries,
            "settings": self._settings,
        }
        try:
            yield from questions[question]()
        except (DatabaseError, sqlite3.Error, OSError) as error:  # damage, a missing privilege, a full disk
            if classify(error) == ErrorKind.TRANSIENT:
                raise
            data = {"question": question, "text": first_line(error)}
            yield FindingData("unanswered", question, data, Priority.IMMEDIATE.value)

    # --- damage ----------------------------------------------------------------------------------------------

    def _integrity(self) -> Iterator[FindingData]:
        if self.store.vendor == "postgresql":
            for table, name in self.store.query(_INVALID_INDEXES):
                yield FindingData("invalid_index", name, {"table": table, "name": name}, Priority.IMMEDIATE.value)
            return
        try:
            said = [str(row[0]) for row in self.store.query(f"PRAGMA integrity_check({SHOWN})")]
        except DatabaseError as error:
            said = [str(error)]
        if said != ["ok"]:
            for text in said:
                yield FindingData("damaged", text[:200], {"text": text[:500]}, Priority.IMMEDIATE.value)
        else:
            yield from self._search_indexes()

    def _search_indexes(self) -> Iterator[FindingData]:
        """Compare each full-text index with its rows. SQLite takes the write lock, so an attached store is copied."""
        declared = self.store.query("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND rootpage = 0")
        kinds = {name: match[1].lower() for name, sql in declared if (match := _FULL_TEXT.search(sql))}
        if not kinds:
            return
        found: list[FindingData] = []
        with self._checked_connection() as execute:
            for name, kind in kinds.items():
                table = identifier(name)
                columns, values = ("", "'integrity-check'") if kind != "fts5" else (", rank", "'integrity-check', 1")
                try:
                    execute(f"INSERT INTO {table} ({table}{columns}) VALUES ({values})")
                except (DatabaseError, sqlite3.Error) as error:
                    if classify(error) == ErrorKind.TRANSIENT:
                        raise
                    damaged = sqlite_code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CORRUPT_VTAB}
                    statement = f"INSERT INTO {table} ({table}) VALUES ('rebuild')"
                    data = {"name": name, "text": first_line(error), "statement": statement}
                    priority = Priority.IMMEDIATE if damaged else Priority.PERIODIC
                    found.append(
                        FindingData("damaged_index" if damaged else "unchecked_index", name, data, priority.value)
                    )
        yield from found  # after the lock is released

    @contextmanager
    def _checked_connection(self) -> Iterator[Callable[[str], Any]]:
        """Yield a function that executes statements on the store, or on a copy of it. Their changes are rolled back."""
        path = self.store.path
        if self.store.managed and path is not None and is_writable(path):
            with transaction.atomic(using=self.store.alias), self.store.connection.cursor() as cursor:
                yield cursor.execute
                transaction.set_rollback(True, using=self.store.alias)
            return
        with TemporaryDirectory(dir=folder_of("")) as folder:
            copy = Path(folder, "copy.sqlite3")
            dump.copy_database(self.store, copy)
            with closing(sqlite3.connect(copy)) as connection:
                yield connection.execute

    # --- foreign keys -----------------------------------------------------------------------------------------

    def _references(self) -> Iterator[FindingData]:
        yield from self._dangling_sqlite() if self.store.vendor == "sqlite" else self._dangling_postgresql()

    def _dangling_sqlite(self) -> Iterator[FindingData]:
        keys = {key.name: key for key in self.store.foreign_keys}
        for table in sorted({key.child for key in keys.values()}):
            try:
                # Grouped in SQL: there may be millions of rows.
                found = self.store.query(
                    "SELECT fkid, COUNT(*) FROM pragma_foreign_key_check(%s) GROUP BY fkid", [table]
                )
            except DatabaseError as error:
                yield FindingData("broken_reference", table, {"table": table, "text": str(error)})
                continue
            for number, rows in found:
                yield self._dangling(keys[f"{table}.{number}"], rows)

    def _dangling_postgresql(self) -> Iterator[FindingData]:
        tables = {table.oid for table in self.store.tables.values()}
        for key in self.store.foreign_keys:
            if key.child_oid not in tables:
                continue
            filled = " AND ".join(f"c.{quote(column)} IS NOT NULL" for column in key.columns)
            ((rows,),) = self.store.query(
                f"SELECT COUNT(*) FROM {key.child_sql} AS c WHERE {filled}"
                f" AND NOT EXISTS (SELECT FROM {escape(key.parent)} AS p WHERE {key.matches})"
            )
            if rows:
                yield self._dangling(key, rows)

    @staticmethod
    def _dangling(key: ForeignKey, rows: int) -> FindingData:
        column = ", ".join(key.columns)
        data = {"table": key.child, "column": column, "parent": key.parent, "rows": rows}
        return FindingData("dangling_reference", f"{key.child}.{column}", data)

    # --- values ---------------------------------------------------------------------------------------------------

    def _json(self) -> Iterator[FindingData]:
        declared_json = {
            name: one for app in platform_apps(self.store.platform) for name, one in app.json_columns.items()
        }
        for table, columns in declared_json.items():
            for column in columns:
                declared = self.store.tables[table].columns.get(column) if table in self.store.tables else None
                if declared is None or declared.base in {"json", "jsonb"}:
                    continue
                rows, keys = self._broken(table, column)
                if rows:
                    data = {"table": table, "column": column, "rows": rows, "keys": ", ".join(map(str, keys))}
                    yield FindingData("invalid_json", f"{table}.{column}", data, Priority.PERIODIC.value)

    def _broken(self, table: str, column: str) -> tuple[int, list[Any]]:
        """Return the number of rows with invalid JSON, and the keys of the first ones."""
        name, at = quote(column), quote(table)
        key = next((quote(n) for n, declared in self.store.tables[table].items() if declared.primary_key), name)
        condition = self._is_broken(name)
        if condition:
            ((rows,),) = self.store.query(f"SELECT COUNT(*) FROM {at} WHERE {condition}")
            first = f"SELECT {key} FROM {at} WHERE {condition} LIMIT {SHOWN}"
            return rows, [row[0] for row in self.store.query(first)] if rows else []
        with suppress(DataError), transaction.atomic(using=self.store.alias):
            self.store.query(f"SELECT COUNT({name}::json) FROM {at}")  # fails at the first invalid row
            return 0, []
        rows = 0
        keys: list[Any] = []
        with transaction.atomic(using=self.store.alias), self.store.connection.chunked_cursor() as cursor:
            cursor.execute(f"SELECT {key}, {name}::text FROM {at} WHERE {name} IS NOT NULL", [])
            while portion := cursor.fetchmany(READ_ROWS):
                for row_key, text in portion:
                    if not _is_json(text):
                        rows += 1
                        if len(keys) < SHOWN:
                            keys.append(row_key)
        return rows, keys

    def _is_broken(self, name: str) -> str:
        """Return the condition in SQL, an empty text if the engine has none."""
        if self.store.vendor == "sqlite":
            return f"{name} IS NOT NULL AND NOT json_valid({name})"
        if int(self.store.connection.pg_version) >= IS_JSON_SINCE:  # type: ignore[attr-defined]
            return f"{name} IS NOT NULL AND {name} IS NOT JSON"
        return ""

    def _enumerations(self) -> Iterator[FindingData]:
        for model in self.store.models():
            table = model._meta.db_table
            for one in model._meta.concrete_fields:
                if not one.flatchoices or one.column is None or one.column not in self.store.tables.get(table, {}):
                    continue
                values = [str(value) for value, _label in one.flatchoices]
                if one.blank:
                    values.append("")
                name, marks = quote(one.column), ", ".join(["%s"] * len(values))
                text = f"CAST({name} AS TEXT)"
                sql = (
                    f"SELECT {text}, COUNT(*) FROM {quote(table)} WHERE {name} IS NOT NULL"
                    f" AND {text} NOT IN ({marks}) GROUP BY 1 ORDER BY 2 DESC LIMIT {SHOWN}"
                )
                for value, rows in self.store.query(sql, values):
                    shown = str(value)[:100]
                    data = {"table": table, "column": str(one.column), "value": shown, "rows": rows}
                    yield FindingData("outside_enumeration", f"{table}.{one.column}={shown}", data)

    # --- schema ---------------------------------------------------------------------------------------------------

    def _schema(self) -> Iterator[FindingData]:
        codes = {"shape": "other_shape", "migration": "pending_migration"}
        needed = None
        if not self.store.managed:  # a platform creates its tables itself
            codes |= {"table": "absent_table"}
            needed = needed_columns(self.store)
        for one in schema.missing(self.store, needed):
            if one.kind != "invalid":  # the rule `integrity` finds it
                code = codes.get(one.kind, f"missing_{one.kind}")
                yield FindingData(code, one.name, {"name": one.name, "statement": one.statement})
        known = schema.documented(self.store.platform, self.store.vendor).tables
        for name in self.store.missing():  # the console's own tables have models and no script
            table = name.partition(".")[0]
            if table not in known:
                kind = "column" if "." in name else "table"
                yield FindingData(f"missing_{kind}", name, {"name": name, "statement": "python manage.py setup"})

    def _hot_queries(self) -> Iterator[FindingData]:
        for query, by_index in self._explained():
            if not by_index:
                yield FindingData("query_without_index", query.name, {"name": query.name, "table": query.table})

    def _explained(self) -> Iterator[tuple[HotQuery, bool]]:
        """Yield the frequent queries whose columns exist, and whether the database uses an index for each."""
        reads_all = self._reads_all_sqlite if self.store.vendor == "sqlite" else self._reads_all_postgresql
        for query in (query for app in platform_apps(self.store.platform) for query in app.hot_queries):
            if set(query.columns) <= set(self.store.tables.get(query.table, ())):
                yield query, not reads_all(query.sql)

    @cached_property
    def _hot(self) -> dict[str, bool]:
        """Frequent query → whether it uses an index. Empty if the store is damaged."""
        try:
            return {query.name: by_index for query, by_index in self._explained()}
        except (DatabaseError, StoreUnavailable):
            return {}

    def notes(self) -> list[str]:
        by_index = ", ".join(name for name, uses in self._hot.items() if uses)
        return [gettext("Frequent queries that use an index: %(names)s.") % {"names": by_index}] if by_index else []

    def report(self, found: Sequence[FindingData]) -> dict[str, Any]:
        return super().report(found) | {"hot_queries": self._hot}

    def _reads_all_sqlite(self, sql: str) -> bool:
        steps = [str(row[3]) for row in self.store.query(f"EXPLAIN QUERY PLAN {sql}")]
        return any((step.startswith("SCAN") and "USING" not in step) or "TEMP B-TREE" in step for step in steps)

    def _reads_all_postgresql(self, sql: str) -> bool:
        """Return whether the plan scans a table although scans are disabled. Otherwise it scans every small table."""
        with transaction.atomic(using=self.store.alias):
            self.store.query("SELECT set_config('enable_seqscan', 'off', true)")
            ((plan,),) = self.store.query(f"EXPLAIN (FORMAT JSON) {sql}")
        return "Seq Scan" in json.dumps(plan)

    # --- settings ------------------------------------------------------------------------------------------------

    def _settings(self) -> Iterator[FindingData]:
        if self.store.vendor == "sqlite":
            ((mode,),) = self.store.query("PRAGMA journal_mode")
            if mode != "wal":
                yield self._advised("journal_mode", mode, "wal")
            return
        wanted = {name: size for app in platform_apps(self.store.platform) for name, size in app.server_memory.items()}
        for name, value, unit_bytes in self.store.query(_MEMORY) if wanted else ():
            advised = wanted[name]
            if int(value) * int(unit_bytes) < _bytes(advised):
                yield self._advised(name, _size(int(value) * int(unit_bytes)), advised)

    @staticmethod
    def _advised(name: str, value: str, advised: str) -> FindingData:
        return FindingData(
            "setting_advised", name, {"name": name, "value": value, "advised": advised}, Priority.PERIODIC.value
        )


def _is_json(text: str) -> bool:
    try:
        loads(text)
    except Unreadable:
        return False
    return True


def _bytes(text: str) -> int:
    number, unit = int(text[:-2]), text[-2:]
    return number * {"kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}[unit]


def _size(size: int) -> str:
    for unit, factor in (("GB", 1 << 30), ("MB", 1 << 20)):
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size // 1024}kB"


_INVALID_INDEXES = """
    SELECT i.indrelid::regclass::text, i.indexrelid::regclass::text FROM pg_index AS i
    JOIN pg_class AS c ON c.oid = i.indexrelid
    WHERE NOT i.indisvalid AND c.relkind = 'i' AND pg_table_is_visible(i.indrelid)
"""
_MEMORY = """
    SELECT name, setting::bigint, CASE unit WHEN '8kB' THEN 8192 ELSE 1024 END FROM pg_settings
    WHERE name IN ('shared_buffers', 'effective_cache_size', 'work_mem') AND unit IN ('8kB', 'kB')
"""
