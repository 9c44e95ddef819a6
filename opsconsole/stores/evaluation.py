"""The rows that a statement would change, with old and new values, evaluated by the database and without a write."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from typing import Any, TypeVar

from django.db import DatabaseError, transaction
from django.utils.translation import gettext as _

from opsconsole.stores import rows as stored_rows
from opsconsole.stores.catalog import escape, quote
from opsconsole.stores.errors import ErrorKind, classify, first_line, is_unreachable, sqlite_code, sqlstate
from opsconsole.stores.functions import SQLITE_FUNCTIONS, volatile_functions
from opsconsole.stores.rows import Key, Values
from opsconsole.stores.sqlite import exact_text
from opsconsole.stores.statement import Statement, StatementRefused
from opsconsole.stores.store import Store

MAX_ROWS = 1_000_000  # of one plan
CHUNK = 1_000  # rows

Kept = TypeVar("Kept")
EvaluatedRow = tuple[Key, Values, Values | None]


class Evaluation:
    """A statement on a store. `table` and `columns` are spelled as the store spells them."""

    def __init__(self, store: Store, statement: Statement) -> None:
        self.store, self.statement = store, statement

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

        self.store.connection.ensure_connection()
        driver = self.store.connection.connection
        driver.set_authorizer(authorize)
        try:
            self.store.query(sql)
        finally:
            driver.set_authorizer(None)
        return found

    def _check_postgresql(self) -> None:
        """Ask by EXPLAIN VERBOSE: it writes the expressions as the server understands them, with every function."""
        plans: list[Any] = []
        with self._read_only():
            try:
                with transaction.atomic(using=self.store.alias):
                    plans.append(self._explained(escape(self.statement.text)))
            except DatabaseError as error:
                if sqlstate(error) != "42501":  # before a run, `require_privileges` names the missing GRANT
                    raise
            else:
                target = plans[0]["Plan"]
                table = self.store.tables[self.table]
                done = (target.get("Operation", "").lower(), target.get("Schema"), target.get("Relation Name"))
                if done != (self.statement.kind, table.schema, table.name):
                    raise _other_statement()
            plans.append(self._explained(self._select()))
            if unsafe := volatile_functions(self.store, self.statement.text, plans):
                raise _unsafe(unsafe)

    def _explained(self, sql: str) -> Any:
        return self.store.query(f"EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) {sql}")[0][0][0]

    # --- rows -------------------------------------------------------------------------------------------------

    def read(self, keep: Callable[[list[EvaluatedRow]], Kept], keys: Sequence[Key] | None = None) -> list[Kept]:
        """Read the rows that the statement would change, in the order of their keys, from one snapshot.

        A row is its key, the old values of `guarded` and the new values of `assigned`. Only rows with `keys` are read.
        Return what `keep` makes of each CHUNK of rows.
        """
        kept: list[Kept] = []
        condition, values = self._among(keys)
        order = ", ".join(f"{self._alias}.{quote(name)}" for name in self.store.key_columns(self.table))
        sql = f"{self._select()}{condition} ORDER BY {order} LIMIT {MAX_ROWS + 1}"
        width = len(self.guarded)
        count = 0
        with self._refusals(), self._cursor() as cursor:
            cursor.execute(sql, values)
            while chunk := cursor.fetchmany(CHUNK):
                count += len(chunk)
                if count > MAX_ROWS:
                    raise StatementRefused(
                        _("The statement changes more than 1,000,000 rows. Narrow its WHERE clause, and repeat it.")
                    )
                found = [self._keyed(row) for row in chunk]
                new = self._assignable([row[width:] for _key, row in found])
                kept.append(keep([(key, row[:width], after) for (key, row), after in zip(found, new, strict=True)]))
        return kept

    def matches_every_row(self, keys: Sequence[Key] | None = None) -> bool:
        """Return whether no row of the table is left out."""
        among, values = self._among(keys, "OR NOT")
        sql = f"SELECT 1 FROM {self._from} WHERE ({escape(self.statement.where)}) IS NOT TRUE{among} LIMIT 1"
        with self._refusals(), self._read_only():
            return not self.store.query(sql, values)

    def _keyed(self, row: Values) -> tuple[Key, Values]:
        count = len(self.store.key_columns(self.table))
        if any(isinstance(value, bytes | float) or value is None for value in row[:count]):
            raise StatementRefused(
                _("A row of %(table)s has a key that is neither a text nor a whole number: %(key)s. Leave the row out.")
                % {"table": self.table, "key": ", ".join(map(repr, row[:count]))}
            )
        return stored_rows.key_of(row[:count]), tuple(row[count:])

    def _assignable(self, new: list[Values]) -> Sequence[Values | None]:
        """Return the new values as their columns will hold them; None for each row of a delete."""
        if self.statement.kind == "delete":
            return [None] * len(new)
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
            old = [f"+{self._alias}.{quote(name)}" for name in self.guarded]
            keys = [f"+{self._alias}.{quote(name)}" for name in self.store.key_columns(self.table)]
            listed = [f'{one} AS "{place}\ue000"' for place, one in enumerate([*keys, *old, *new])]
        else:
            old = [f"{self._alias}.{quote(name)}::text" for name in self.guarded]
            types = [escape(self._type(name)) for name in self.assigned]
            new = [f"({one}::{type_})::text" for one, type_ in zip(new, types, strict=True)]
            listed = [stored_rows.key_sql(self.store, self.table, self._alias), *old, *new]
        return f"SELECT {', '.join(listed)} FROM {self._from} WHERE ({escape(self.statement.where)})"

    def _type(self, name: str) -> str:
        """Return the type of PostgreSQL that a new value is cast to.

        A length is left out: a cast would cut a text that is too long, and an assignment refuses it. A precision is
        kept, because an assignment rounds like a cast.
        """
        column = self.store.tables[self.table][name]
        rounded = re.sub(r"\(.*?\)", "", column.type) == column.base and column.category in {"N", "D", "T"}
        return column.type if rounded else column.base

    def _among(self, keys: Sequence[Key] | None, word: str = "AND") -> tuple[str, list[Any]]:
        if keys is None:
            return "", []
        condition, values = stored_rows.key_condition(self.store, self.table, self._alias, keys)
        return f" {word} {condition}", values

    # --- access without a write -------------------------------------------------------------------------------

    @contextmanager
    def _read_only(self) -> Iterator[None]:
        """Open a transaction of PostgreSQL, or let a connection to SQLite refuse every write."""
        if self.store.vendor == "sqlite":
            ((before,),) = self.store.query("PRAGMA query_only")
            self.store.execute("PRAGMA query_only = ON")
            try:
                yield
            finally:
                self.store.execute(f"PRAGMA query_only = {before}")
            return
        with transaction.atomic(using=self.store.alias):
            self.store.execute("SET TRANSACTION READ ONLY")
            yield

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        if self.store.vendor == "sqlite":
            with self._read_only(), self.store.text_factory(exact_text), self.store.connection.cursor() as cursor:
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
            tried_to_write = sqlstate(error) == "25006" or sqlite_code(error) == sqlite3.SQLITE_READONLY
            if not tried_to_write and (
                is_unreachable(error) or classify(error) in {ErrorKind.TRANSIENT, ErrorKind.RESOURCE}
            ):
                raise
            raise StatementRefused(
                _("The database refuses the statement on %(table)s: %(reason)s. Nothing was written. Correct it.")
                % {"table": self.table, "reason": first_line(error).removesuffix(".")}
            ) from error


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
