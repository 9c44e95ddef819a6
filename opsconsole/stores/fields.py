"""Model fields and expressions that read dirty values of a store without raising."""

from __future__ import annotations

import re
from typing import Any

from django.db import models


@models.TextField.register_lookup
class HasWord(models.Lookup):
    """The lookup `has_word`: a text contains a word, in upper or lower case, in the same way on every database.

    Only A to Z have two cases here. The rules of databases differ: in Turkish, I is not the capital of i. A column
    with a nondeterministic collation does not support LIKE.
    """

    lookup_name = "has_word"
    prepare_rhs = False

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, Any]:
        text, params = self.process_lhs(compiler, connection)
        # PostgreSQL's planner knows the frequent values of a column, but not those of a function such as UPPER.
        template = '({})::text COLLATE "C" ILIKE %s' if connection.vendor == "postgresql" else "{} LIKE %s"
        escaped = re.sub("([!%_])", r"!\1", str(self.rhs))
        return f"{template.format(text)} ESCAPE '!'", [*params, f"%{escaped}%"]


class RawTextField(models.TextField):  # type: ignore[type-arg]  # a str for every type of column
    """A column that is read as the exact text that the database stores.

    `json` and `jsonb` are read as text too. The cast avoids the converters of the drivers, which lose digits and
    raise errors on invalid values.
    """

    def select_format(self, compiler: Any, sql: str, params: Any) -> tuple[str, Any]:
        return f"CAST({sql} AS TEXT)", params

    def get_placeholder(self, value: Any, compiler: Any, connection: Any) -> str:
        """Return a plain parameter, so that PostgreSQL gives it the type of the column, such as `jsonb` or an enum."""
        return "%s"


class RawTimestampField(RawTextField):
    """A `TIMESTAMP` column without zone (UTC), read as text: stores in use contain other values too."""

    def db_type(self, connection: Any) -> str:
        return "timestamp"

    def get_prep_value(self, value: Any) -> Any:
        return value if value is None else str(value)


class Beginning(models.Func):
    """The first characters of a text, so that a list does not read whole documents."""

    template = "SUBSTR(%(expressions)s, 1, %(characters)s)"

    def __init__(self, name: str, characters: int) -> None:
        super().__init__(models.F(name), characters=characters)

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, Any]:
        # SUBSTR ends a text at U+0000, so a short text is read without it.
        template = (
            "CASE WHEN LENGTH(CAST(%(expressions)s AS BLOB)) < %(characters)s THEN %(expressions)s "
            f"ELSE {self.template} END"
        )
        return self.as_sql(compiler, connection, template=template, **extra)

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, Any]:
        return self.as_sql(compiler, connection, template="SUBSTR((%(expressions)s)::text, 1, %(characters)s)", **extra)


class StoreForeignKey(models.ForeignKey):  # type: ignore[type-arg]
    """A reference to another table of the store. Only the database enforces it, so a page can show a dangling one."""

    def __init__(self, to: Any, **kwargs: Any) -> None:
        kwargs.setdefault("on_delete", models.DO_NOTHING)
        kwargs.setdefault("db_constraint", False)
        kwargs.setdefault("related_name", "+")
        super().__init__(to, **kwargs)


class SortableTimestamp(models.Func):
    """A stored time as a value that can be ordered by time. NULL if it is not a time.

    SQLite stores times as text with a space, a `T`, a zone or fractions, and its functions read all of them. A
    PostgreSQL timestamp is compared directly, and text in UTC is compared as text.
    """

    arity = 1
    output_field = models.TextField()

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, Any]:
        return self.as_sql(compiler, connection, template="julianday(%(expressions)s)", **extra)

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, Any]:
        return self.as_sql(compiler, connection, template="%(expressions)s", **extra)
