"""What every model of a source system shares: it knows its store, and it reads dirty values without raising."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models


class StoreModel(models.Model):
    """A table of a source system. `store` names the store it lives in; the router reads it."""

    store: ClassVar[str]

    class Meta:
        abstract = True


class RawTextField(models.TextField):  # type: ignore[type-arg]  # a str, whatever the column is
    """A text column read exactly as the database holds it, whatever it holds.

    JSON columns too: `json` and `jsonb` come as their text, and broken JSON in a text column is only
    text. The cast keeps every driver's converters away: they lose digits and raise on garbage.
    """

    def select_format(self, compiler: Any, sql: str, params: Any) -> tuple[str, Any]:
        return f"CAST({sql} AS TEXT)", params


class RawTimestampField(RawTextField):
    """A `TIMESTAMP` column without zone (UTC), read as text: deployed stores hold more than times there."""

    def db_type(self, connection: Any) -> str:
        return "timestamp"

    def get_prep_value(self, value: Any) -> Any:
        return value if value is None else str(value)
