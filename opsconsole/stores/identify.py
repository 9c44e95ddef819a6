"""The platform of a database, recognized by its tables and columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from django.conf import settings

from opsconsole.stores.router import DEFAULT
from opsconsole.stores.store import Store, attach_file


def platform_of(columns: Mapping[str, Iterable[str]]) -> str | None:
    """Return the store whose models have most of these columns. None if no store has any, or two have as many."""
    held = {(table.lower(), column.lower()) for table, names in columns.items() for column in names}
    known = sorted(((len(held & _columns(name)), name) for name in (DEFAULT, *settings.PLATFORMS)), reverse=True)
    (most, name), (second, _other) = known[:2]
    return name if most > second else None


def fitting_platform(columns: Mapping[str, Iterable[str]]) -> str | None:
    """Return the platform of these columns if they are at least half of the columns of its models."""
    name = platform_of(columns)
    if name is None:
        return None
    wanted = _columns(name)
    held = {(table.lower(), column.lower()) for table, names in columns.items() for column in names}
    return name if 2 * len(wanted & held) >= len(wanted) else None


def platform_of_file(path: str | Path) -> str | None:
    """Return the platform of a SQLite file. Raise StoreUnavailable for a path that is not a file with content."""
    file = attach_file(DEFAULT, path, read_only=True)
    try:
        return platform_of(file.tables)
    finally:
        file.close()


def _columns(name: str) -> set[tuple[str, str]]:
    return {
        (model._meta.db_table.lower(), str(field.column).lower())
        for model in Store(name, name).models()
        for field in model._meta.concrete_fields
    }
