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
        self,
        store: str,
        *,
        sqlite: str,
        postgresql: str,
        reverse: str = "",
        reverse_sqlite: str = "",
        reverse_postgresql: str = "",
    ) -> None:
        """`reverse` is for both engines, or one of the others where they differ."""
        self.store = store
        self.scripts = {"sqlite": sqlite, "postgresql": postgresql}
        self.reverse = {"sqlite": reverse_sqlite or reverse, "postgresql": reverse_postgresql or reverse}

    def state_forwards(self, app_label: str, state: Any) -> None:
        """The state stands beside it, in `SeparateDatabaseAndState`."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        self._execute(app_label, schema_editor, self.scripts)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        self._execute(app_label, schema_editor, self.reverse)

    def _execute(self, app_label: str, schema_editor: Any, scripts: dict[str, str]) -> None:
        connection = schema_editor.connection
        if not router.allow_migrate(connection.alias, app_label, store=self.store):
            return
        # sqlparse knows that a trigger's body holds semicolons.
        for statement in sqlparse.split(scripts[connection.vendor]):
            schema_editor.execute(statement.rstrip(";"), params=None)

    def describe(self) -> str:
        return f"Documented tables of {self.store}"
