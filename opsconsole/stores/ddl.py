"""The documented tables of a managed store, as a migration operation.

Django 5.2 makes neither database-level cascades nor immediate foreign keys, and a plain `sqlite3` or
`psql` client shall be held to the documented schema: so the tables come from the document's own DDL,
one text per engine, beside Django's state.
"""

from __future__ import annotations

from typing import Any

import sqlparse
from django.db import router
from django.db.migrations.operations.base import Operation


class StoreSQL(Operation):
    """Statements for one store: `sqlite` or `postgresql`, whichever engine it is on."""

    reduces_to_sql = True
    reversible = True

    def __init__(
        self, store: str, *, sqlite: str, postgresql: str, reverse: str = "", reverse_postgresql: str = ""
    ) -> None:
        """`reverse` is for both engines; `reverse_postgresql` follows it there: functions, which SQLite has not."""
        self.store, self.sqlite, self.postgresql = store, sqlite, postgresql
        self.reverse, self.reverse_postgresql = reverse, reverse_postgresql

    def state_forwards(self, app_label: str, state: Any) -> None:
        """The state stands beside it, in `SeparateDatabaseAndState`."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        alias = schema_editor.connection.alias
        if router.allow_migrate(alias, app_label, store=self.store):
            script = self.sqlite if schema_editor.connection.vendor == "sqlite" else self.postgresql
            self._execute(schema_editor, script)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if router.allow_migrate(schema_editor.connection.alias, app_label, store=self.store):
            self._execute(schema_editor, self.reverse)
            if schema_editor.connection.vendor == "postgresql":
                self._execute(schema_editor, self.reverse_postgresql)

    @staticmethod
    def _execute(schema_editor: Any, script: str) -> None:
        # sqlparse knows that a trigger's body holds semicolons.
        for statement in sqlparse.split(script):
            schema_editor.execute(statement.rstrip(";"), params=None)

    def describe(self) -> str:
        return f"Documented tables of {self.store}"
