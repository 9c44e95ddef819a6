"""The rows that a statement would change, with old and new values, evaluated by the database and without a write."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import date
from decimal import Decimal
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeVar
from uuid import UUID

from django.db import DatabaseError, transaction
from django.utils.translation import gettext as _

from opsconsole.formatting import format_number
from opsconsole.stores import rows as stored_rows
from opsconsole.stores.catalog import escape, quote, shadow_tables
from opsconsole.stores.errors import (
    ErrorKind,
    classify,
    first_line,
    is_unreachable,
    sqlite_code,
    sqlstate,
    trouble_code,
)
from opsconsole.stores.functions import SQLITE_FUNCTIONS, volatile_functions
from opsconsole.stores.rows import Key, Values
from opsconsole.stores.sqlite import reader
from opsconsole.stores.statement import Statement, StatementRefused
from opsconsole.stores.store import Store

MAX_ROWS = 1_000_000  # of one plan
MAX_BYTES = 1_000_000_000  # of the values of one plan
CHUNK = 1_000  # rows
FETCHED_BYTES = 1_000_000  # after which fewer rows are fetched at once
NEW_CHARACTERS = 10_000_000  # of a new value
PLAN_CHARACTERS = 10_000_000  # of a plan of PostgreSQL
# SQLite: of a value that the statement reads or builds, unless the table has longer rows. Within a function, nothing
# can stop SQLite: instr() of 1 MB in 1 MB takes seconds, of 10 MB in 10 MB an hour.
SQLITE_VALUE_BYTES = 1_000_000
SQLITE_SECONDS = 3_600.0  # as long as `config.STATEMENT_TIMEOUT` of PostgreSQL; a request has its own limit

# Types of the driver whose text names one key. An interval, for example, is not among them.
_KEY_TYPES = (str, int, Decimal, UUID, date, IPv4Address, IPv6Address, IPv4Network, IPv6Network)
# PostgreSQL computes constants such as repeat('x', 1000000000) at planning, and EXPLAIN writes their values. A block of
# code cuts the plan on the server. The setting that it reads and writes ends with the transaction.
_EXPLAIN = f"""
    DO $$
    DECLARE
        plan text;
    BEGIN
        EXECUTE pg_catalog.current_setting('opsconsole.explain') INTO plan;
        PERFORM pg_catalog.set_config('opsconsole.explain', pg_catalog.left(plan, {PLAN_CHARACTERS + 1}), true);
    END
    $$
"""
Kept = TypeVar("Kept")
EvaluatedRow = tuple[Key, Values, Values | None]


class Evaluation:
    """A statement on a store. `table` and `columns` are spelled as the store spells them."""

    def __init__(self, store: Store, statement: Statement) -> None:
        self.store, self.statement = store, statement
        self._value_bytes = SQLITE_VALUE_BYTES

    # --- names ------------------------------------------------------------------------------------------------

    @cached_property
    def table(self) -> str:
        """The table. SQLite ignores the case of its name. An unknown name is left to `preflight`."""
        name = self.statement.table
        if self.store.vendor == "sqlite":
            return next((one for one in self.store.tables if one.lower() == name.lower()), name)
        return name

    def require_names(self) -> None:
        """Refuse a table of another schema or database, and columns that a statement cannot assign."""
        name, schema = self.statement.table, self.statement.schema
        if self.store.vendor == "sqlite" and schema.lower() not in {"", "main"}:
            raise StatementRefused(
                _("%(schema)s is not the database of this store. Name the table without it.") % {"schema": schema}
            )
        known = self.store.tables.get(self.table)
        if known is not None and self.table in shadow_tables(self.store):
            raise StatementRefused(
                _("%(table)s holds the content of a virtual table, such as a full-text index. Name another table.")
                % {"table": self.table}
            )
        if self.store.vendor == "postgresql" and schema and (known is None or known.schema != schema):
            raise StatementRefused(
                _(
                    "The table %(schema)s.%(table)s is not in the schemas of this store (%(schemas)s). Correct its "
                    "name, or add the schema to search_path in the URL of the store."
                )
                % {"schema": schema, "table": name, "schemas": self.store.schema}
            )
        if known is not None:
            self.assigned  # noqa: B018  # it refuses

    @cached_property
    def assigned(self) -> tuple[str, ...]:
        """The columns that SET assigns, in its order."""
        columns = self.store.tables[self.table]
        found: list[str] = []
        for one in self.statement.assignments:
            name = one.column
            if self.store.vendor == "sqlite":
                name = next((column for column in columns if column.lower() == name.lower()), name)
            values = {"table": self.table, "column": name}
            if name not in columns:
                raise StatementRefused(_("%(table)s has no column %(column)s. Correct the name.") % values)
            if name in self.store.key_columns(self.table):
                raise StatementRefused(
                    _(
                        "%(table)s.%(column)s identifies the row, so no plan can follow a row whose %(column)s "
                        "changes. Leave the column out."
                    )
                    % values
                )
            if name in found:
                raise StatementRefused(_("SET assigns %(table)s.%(column)s twice. Assign it once.") % values)
            found.append(name)
        return tuple(found)

    @cached_property
    def guarded(self) -> tuple[str, ...]:
        """The columns whose old values are kept: a row in which one of them has changed is not written."""
        columns = self.store.tables[self.table]
        if self.statement.kind == "delete" or self.statement.reads_whole_row:
            return tuple(columns)
        names = {*self.assigned}
        return tuple(name for name in columns if name in names or name.lower() in self.statement.names)

    @property
    def type_schemas(self) -> list[str]:
        """The schemas of the types that the query of PostgreSQL names."""
        columns = self.store.tables[self.table]
        keys = [columns[name].base_schema for name in self.store.key_columns(self.table)]
        new = [schema for name in self.assigned for schema in (columns[name].base_schema, columns[name].type_schema)]
        return sorted({*keys, *new})

    # --- what the database says -------------------------------------------------------------------------------

    def check(self) -> None:
        """Let the database compile the statement. Refuse it unless it changes this table and only evaluates safely.

        An EXPLAIN executes nothing except immutable functions with constant arguments.
        """
        with self._refusals():
            if self.store.vendor == "sqlite":
                self._check_sqlite()
            else:
                self._check_postgresql()

    def _check_sqlite(self) -> None:
        """Ask by the authorizer of SQLite: it names each table, column and function of a compiled statement."""
        table = self.table.lower()
        if self.statement.kind == "update":
            wanted = {(sqlite3.SQLITE_UPDATE, table, name.lower()) for name in self.assigned}
        else:
            wanted = {(sqlite3.SQLITE_DELETE, table, "")}
        actions = self._compiled(f"EXPLAIN {escape(self.statement.text)}")
        if not wanted <= actions:
            raise _other_statement()
        reads = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
        actions |= self._compiled(f"EXPLAIN {self._select()}", reads)
        functions = {name for action, _table, name in actions if action == sqlite3.SQLITE_FUNCTION}
        if unknown := sorted(functions - SQLITE_FUNCTIONS):
            raise _unsafe(unknown)

    def _compiled(self, sql: str, allowed: set[int] | None = None) -> set[tuple[int, str, str]]:
        """Return the actions of a statement: what is done, to which table, and which column.

        With `allowed`, other actions are refused, and the actions inside of views and WITH count too. Without it, they
        and those of triggers are left out.
        """
        found: set[tuple[int, str, str]] = set()

        def authorize(action: int, one: str | None, other: str | None, database: str | None, within: str | None) -> int:
            if within is None or allowed is not None:
                found.add((action, (one or "").lower(), (other or "").lower()))
            return sqlite3.SQLITE_OK if allowed is None or action in allowed else sqlite3.SQLITE_DENY

        with self._cursor() as cursor:
            cursor.connection.set_authorizer(authorize)
            cursor.execute(sql, [])
            cursor.fetchall()
        return found

    def _check_postgresql(self) -> None:
        """Ask by EXPLAIN VERBOSE: it writes the expressions as the server understands them, with every function."""
        plans: list[Any] = []
        with self._read_only():
            try:
                with transaction.atomic(using=self.store.alias):
                    plans.append(self._explained(self.statement.text))
            except DatabaseError as error:
                if sqlstate(error) != "42501":  # before a run, `require_privileges` names the missing GRANT
                    raise
            else:
                target = plans[0]["Plan"]
                table = self.store.tables[self.table]
                done = (target.get("Operation", "").lower(), target.get("Schema"), target.get("Relation Name"))
                if done != (self.statement.kind, table.schema, table.name):
                    raise _other_statement()
            plans.append(self._explained(self._select().replace("%%", "%")))
            if unsafe := volatile_functions(self.store, self.statement.text, plans):
                raise _unsafe(unsafe)

    def _explained(self, sql: str) -> Any:
        """Return the plan of a statement without parameters. Refuse a plan that is too long for this process."""
        explain = f"EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) {sql}"
        self.store.query("SELECT set_config('opsconsole.explain', %s, true)", [explain])
        self.store.execute(_EXPLAIN)
        ((plan,),) = self.store.query("SELECT current_setting('opsconsole.explain')")
        if len(plan) > PLAN_CHARACTERS:
            raise StatementRefused(
                _(
                    "PostgreSQL computes the constants of the statement, and its plan has more than 10,000,000 "
                    "characters. Write shorter constants."
                )
            )
        return json.loads(plan)[0]

    # --- rows -------------------------------------------------------------------------------------------------

    def read(self, keep: Callable[[list[EvaluatedRow]], Kept], keys: Sequence[Key] | None = None) -> list[Kept]:
        """Read the rows that the statement would change, in the order of their keys, from one snapshot.

        A row is its key, the old values of `guarded` and the new values of `assigned`. Only rows with `keys` are read.
        Return what `keep` makes of each CHUNK of rows.
        """
        condition, values = self._among(keys)
        order = ", ".join(f"{self._alias}.{quote(name)}" for name in self.store.key_columns(self.table))
        sql = f"{self._select()}{condition} ORDER BY {order} LIMIT {MAX_ROWS + 1}"
        self._value_bytes = max([SQLITE_VALUE_BYTES, *(len(str(value).encode()) for value in values)])
        with self._refusals():
            try:
                return self._read(keep, sql, values)
            except DatabaseError as error:
                if not _is_too_big(error) or (longest := self._longest_row()) <= self._value_bytes:
                    raise
                self._value_bytes = longest
                return self._read(keep, sql, values)

    def _read(self, keep: Callable[[list[EvaluatedRow]], Kept], sql: str, values: Sequence[Any]) -> list[Kept]:
        kept: list[Kept] = []
        width = len(self.guarded)
        chunk: list[EvaluatedRow] = []
        count = size = 0
        with self._cursor() as cursor:
            cursor.execute(sql, values)
            for rows in _fetched(cursor):
                count += len(rows)
                size += _size(rows)
                if count > MAX_ROWS:
                    raise StatementRefused(
                        _("The statement changes more than 1,000,000 rows. Narrow its WHERE clause, and repeat it.")
                    )
                if size > MAX_BYTES:
                    raise StatementRefused(
                        _("The rows of the statement hold more than 1 GB. Narrow its WHERE clause, and repeat it.")
                    )
                found = [self._keyed(row) for row in rows]
                new = self._assignable([row[width:] for _key, row in found])
                chunk += [(key, row[:width], after) for (key, row), after in zip(found, new, strict=True)]
                while len(chunk) >= CHUNK:
                    kept.append(keep(chunk[:CHUNK]))
                    chunk = chunk[CHUNK:]
        return [*kept, keep(chunk)] if chunk else kept

    def _longest_row(self) -> int:
        """Return the bytes that a value of SQLite may have so that the longest row of the table can be changed."""
        lengths = " + ".join(f"COALESCE(length(CAST({quote(name)} AS BLOB)), 0)" for name in self.guarded)
        ((longest,),) = self.store.query(f"SELECT max({lengths}) FROM {self.store.tables[self.table].sql}")
        return 2 * int(longest or 0)

    def matches_every_row(self, keys: Sequence[Key] | None = None) -> bool:
        """Return whether no row of the table is left out."""
        among, values = self._among(keys, "OR NOT")
        sql = f"SELECT 1 FROM {self._from} WHERE ({escape(self.statement.where)}) IS NOT TRUE{among} LIMIT 1"
        with self._refusals(), self._cursor() as cursor:
            cursor.execute(sql, values)
            return not cursor.fetchall()

    def _keyed(self, row: Values) -> tuple[Key, Values]:
        count = len(self.store.key_columns(self.table))
        if not all(isinstance(value, _KEY_TYPES) for value in row[:count]):
            raise StatementRefused(
                _("A row of %(table)s has a key that is neither a text nor a whole number: %(key)s. Leave the row out.")
                % {"table": self.table, "key": ", ".join(map(repr, row[:count]))}
            )
        return stored_rows.key_of(row[:count]), tuple(row[count:])

    def _assignable(self, new: list[Values]) -> Sequence[Values | None]:
        """Return the new values as their columns will hold them; None for each row of a delete."""
        if self.statement.kind == "delete":
            return [None] * len(new)
        if any(isinstance(value, str | bytes) and len(value) > NEW_CHARACTERS for row in new for value in row):
            raise StatementRefused(
                _("A new value has more than 10,000,000 characters. Shorten it, or leave the row out.")
            )
        if self.store.vendor != "sqlite":
            return new
        # A column of SQLite may convert a value. A table in memory with the same affinities does the same.
        columns = self.store.tables[self.table]
        declared = [f"c{place} {stored_rows.affinity(columns[name].type)}" for place, name in enumerate(self.assigned)]
        plain = [tuple(None if isinstance(value, bytes) else value for value in row) for row in new]
        with closing(sqlite3.connect(":memory:")) as memory:
            memory.execute(f"CREATE TABLE v ({', '.join(declared)})")
            memory.executemany(f"INSERT INTO v VALUES ({', '.join('?' * len(declared))})", plain)
            held = memory.execute("SELECT * FROM v ORDER BY rowid").fetchall()
        return [
            tuple(given if isinstance(given, bytes) else kept for given, kept in zip(row, values, strict=True))
            for row, values in zip(new, held, strict=True)
        ]

    # --- statements -------------------------------------------------------------------------------------------

    @property
    def _alias(self) -> str:
        return quote(self.statement.alias)

    @property
    def _from(self) -> str:
        return f"{self.store.tables[self.table].sql} AS {self._alias}"

    def _select(self) -> str:
        """Return the query of the rows that the statement would change. WHERE and new values are the user's text.

        SQLite resolves an unknown name in WHERE as the alias of an expression: no name is spelled like these.
        """
        new = [f"({escape(one.expression)})" for one in self.statement.assignments]
        if self.store.vendor == "sqlite":
            new = [f"+{one}" for one in new]  # else the driver converts the value of a column by its declared type
            old = [f"+{self._alias}.{quote(name)}" for name in self.guarded]
            keys = [f"+{self._alias}.{quote(name)}" for name in self.store.key_columns(self.table)]
            listed = [f'{one} AS "{place}\ue000"' for place, one in enumerate([*keys, *old, *new])]
        else:
            old = [f"{self._alias}.{quote(name)}::text" for name in self.guarded]
            new = [self._stored(name, one) for name, one in zip(self.assigned, new, strict=True)]
            listed = [stored_rows.key_sql(self.store, self.table, self._alias), *old, *new]
        return f"SELECT {', '.join(listed)} FROM {self._from} WHERE ({escape(self.statement.where)})"

    def _stored(self, name: str, expression: str) -> str:
        """Return the text of a new value as its column of PostgreSQL will hold it.

        A cast would cut a text that is too long for its column, but an assignment refuses it. The input function of the
        type does the same as an assignment: it rounds, pads and refuses. A query calls it for the columns of a record.
        """
        column = self.store.tables[self.table][name]
        text = f"({expression}::{escape(column.base)})::text"
        type_ = escape(column.type)
        if column.limited:
            text = (
                f"(SELECT r.c::text FROM pg_catalog.json_to_record(pg_catalog.json_build_object('c', {text})) "
                f"AS r(c {type_}))"
            )
        elif column.type != column.base:  # a domain
            text = f"({expression}::{type_})::text"
        return f"pg_catalog.left({text}, {NEW_CHARACTERS + 1})"

    def _among(self, keys: Sequence[Key] | None, word: str = "AND") -> tuple[str, list[Any]]:
        if keys is None:
            return "", []
        condition, values = stored_rows.key_condition(self.store, self.table, self._alias, keys)
        return f" {word} {condition}", values

    # --- access without a write -------------------------------------------------------------------------------

    @contextmanager
    def _read_only(self) -> Iterator[None]:
        """Open a transaction of PostgreSQL that refuses writes."""
        with transaction.atomic(using=self.store.alias):
            self.store.execute("SET TRANSACTION READ ONLY")
            yield

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        if self.store.vendor == "sqlite":
            connection = self.store.connection
            with reader(connection, value_bytes=self._value_bytes, seconds=SQLITE_SECONDS) as cursor:
                yield cursor
            return
        with self._read_only(), self.store.connection.chunked_cursor() as cursor:
            yield cursor

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turn an error of the statement into a refusal. A lock or a lost connection stays an error of the store."""
        try:
            yield
        except DatabaseError as error:
            if _is_too_big(error):
                raise StatementRefused(
                    _(
                        "A value that the statement reads or builds has more than %(count)s bytes. "
                        "Nothing was written. Shorten it, or leave its row out."
                    )
                    % {"count": format_number(self._value_bytes)}
                ) from error
            if trouble_code(error) == "timeout":
                raise StatementRefused(
                    _(
                        "The database stopped the statement on %(table)s: %(reason)s. Nothing was written. "
                        "Narrow it, or use the command: it waits longer than a page."
                    )
                    % {"table": self.table, "reason": first_line(error).removesuffix(".")}
                ) from error
            tried_to_write = sqlstate(error) == "25006" or sqlite_code(error) == sqlite3.SQLITE_READONLY
            if not tried_to_write and (
                is_unreachable(error) or classify(error) in {ErrorKind.TRANSIENT, ErrorKind.RESOURCE}
            ):
                raise
            raise StatementRefused(
                _("The database refuses the statement on %(table)s: %(reason)s. Nothing was written. Correct it.")
                % {"table": self.table, "reason": first_line(error).removesuffix(".")}
            ) from error


def _is_too_big(error: DatabaseError) -> bool:
    code = sqlite_code(error)
    return code is not None and code & 0xFF == sqlite3.SQLITE_TOOBIG


def _fetched(cursor: Any) -> Iterator[list[Values]]:
    """Yield the rows of a cursor, fewer at once if they are long."""
    count = 1
    while rows := cursor.fetchmany(count):
        yield rows
        count = min(2 * count, CHUNK) if _size(rows) < FETCHED_BYTES else max(count // 2, 1)


def _size(rows: Iterable[Values]) -> int:
    return sum(len(value) if isinstance(value, str | bytes) else 8 for row in rows for value in row)


def _other_statement() -> StatementRefused:
    return StatementRefused(
        _("The database reads the statement in another way than the console. Write it more simply.")
    )


def _unsafe(names: Sequence[str]) -> StatementRefused:
    return StatementRefused(
        _(
            "The statement calls %(names)s, whose result may differ each time or which may have a side effect. "
            "Write the value instead."
        )
        % {"names": ", ".join(f"{name}()" for name in names)}
    )
