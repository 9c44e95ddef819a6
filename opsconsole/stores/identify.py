"""The platform of a database, recognized by its tables and columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from opsconsole.stores.platforms import store_titles
from opsconsole.stores.store import Store


def platform_of(columns: Mapping[str, Iterable[str]]) -> str | None:
    """Return the store whose models have most of these columns. None if no store has any, or two have as many."""
    held = {(table, column) for table, names in columns.items() for column in names}
    known = sorted(((len(held & _columns(name)), name) for name in store_titles()), reverse=True)
    (most, name), (second, _other) = known[:2]
    return name if most > second else None


def _columns(name: str) -> set[tuple[str, str]]:
    return {
        (model._meta.db_table, str(field.column))
        for model in Store(name, name).models()
        for field in model._meta.concrete_fields
    }
