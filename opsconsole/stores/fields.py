"""Model fields and expressions that read dirty values of a store without raising."""

from __future__ import annotations

import re
from typing import Any

from django.db import models


@models.TextField.register_lookup
class HasWord(models.Lookup):
    """`has_word`: whether a text contains these letters, upper or lower case, in every database alike.

    Only A to Z have two cases here. A database's own rules differ (in Turkish the capital of i is no I), and a
    column whose collation is not deterministic takes no LIKE at all.
    """

    lookup_name = "has_word"
    prepare_rhs = False

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, Any]:
        text, params = self.process_lhs(compiler, connection)
        template = 'UPPER(({})::text COLLATE "C") LIKE %s' if connection.vendor == "postgresql" else "{} LIKE %s"
        escaped = re.sub("([!%_])", r"!\1", str(self.rhs).upper())
        return f"{template.format(text)} ESCAPE '!'", [*params, f"%{escaped}%"]


class RawTextField(models.TextField):  # type: ignore[type-arg]  # a str, whatever the column is
    """A text column read exactly as the database holds it, whatever it holds.

    JSON columns too: `json` and `jsonb` come as their text, and broken JSON in a text column is only
    text. The cast keeps every driver's converters away: they lose digits and raise on garbage.
    """

    def select_format(self, compiler: Any, sql: str, params: Any) -> tuple[str, Any]:
        return f"CAST({sql} AS TEXT)", params

    def get_placeholder(self, value: Any, compiler: Any, connection: Any) -> str:
        """A literal takes the type of its column, `jsonb` or an enum; Django's arrays of many rows are text."""
        return "%s"


class RawTimestampField(RawTextField):
    """A `TIMESTAMP` column without zone (UTC), read as text: deployed stores hold more than times there."""

    def db_type(self, connection: Any) -> str:
        return "timestamp"

    def get_prep_value(self, value: Any) -> Any:
        return value if value is None else str(value)


class StoreForeignKey(models.ForeignKey):  # type: ignore[type-arg]
    """A reference to another table of the store. Only the database enforces it, so a page can show a dangling one."""

    def __init__(self, to: Any, **kwargs: Any) -> None:
        kwargs.setdefault("on_delete", models.DO_NOTHING)
        kwargs.setdefault("db_constraint", False)
        kwargs.setdefault("related_name", "+")
        super().__init__(to, **kwargs)


class SortableTimestamp(models.Func):
    """A stored time as something that compares by time, whatever its form; NULL where it is none.

    SQLite holds times as text with a space, a `T`, a zone or fractions, and its own functions read them all.
    A PostgreSQL timestamp compares as it is; text in UTC is compared as text.
    """

    arity = 1
    output_field = models.TextField()

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, Any]:
        return self.as_sql(compiler, connection, template="julianday(%(expressions)s)", **extra)

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, Any]:
        return self.as_sql(compiler, connection, template="%(expressions)s", **extra)
