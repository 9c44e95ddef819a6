"""The search for an identifier in the indexed columns of a store without a platform."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from django.utils.translation import gettext as _

from opsconsole.stores.catalog import Column, quote
from opsconsole.stores.indexes import indexes
from opsconsole.stores.rows import Key, is_bigint
from opsconsole.stores.store import Store, StoreUnavailable
from opsconsole.stores.table_models import table_model

MAX_COUNT = 100  # rows that are counted behind a column
COLUMNS = 100  # of one statement
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")


class Place(NamedTuple):
    """An indexed column, and the identifier as its value."""

    table: str
    column: str
    field: str  # of the model of the table
    value: Key
    is_key: bool


class Places(NamedTuple):
    """The columns to search, and table → why it is not searched."""

    searched: list[Place]
    unsearched: dict[str, str]


def places(store: Store, text: str) -> Places:
    """Return the indexed columns of a store whose type can hold the identifier."""
    found = Places([], {})
    known = list(indexes(store).values())
    for name, table in sorted(store.tables.items()):
        if table.row_security:
            found.unsearched[name] = _("Row-level security hides rows from this role.")
            continue
        try:
            fields = table_model(store, name).columns
        except StoreUnavailable as error:
            found.unsearched[name] = str(error)
            continue
        for column, declared in table.items():
            value = _value(store, declared, text)
            by_index = any(one.table == name and one.ordered and one.finds(column) for one in known)
            if value is not None and (by_index or table.key[:1] == (column,)):
                found.searched.append(Place(name, column, fields[column], value, table.identity == (column,)))
    return found


def count(store: Store, searched: list[Place]) -> Iterator[tuple[Place, int]]:
    """Return each place with the number of its rows, at most MAX_COUNT, in one statement for 100 columns."""
    for start in range(0, len(searched), COLUMNS):
        some = searched[start : start + COLUMNS]
        parts = [
            f"(SELECT count(*) FROM (SELECT 1 FROM {store.tables[one.table].sql} "  # noqa: S608  # quoted
            f"WHERE {quote(one.column)} = %s LIMIT {MAX_COUNT}) AS found)"
            for one in some
        ]
        yield from zip(some, store.query(f"SELECT {', '.join(parts)}", [one.value for one in some])[0], strict=True)


def _value(store: Store, column: Column, text: str) -> Key | None:
    """Return the identifier as the type of a column, or None if it cannot be one."""
    number = int(text) if re.fullmatch(r"-?(0|[1-9][0-9]{0,18})", text) else None
    if store.vendor == "sqlite":
        is_number = "INT" in column.type.upper()
    elif column.base == "uuid":
        return text if _UUID.fullmatch(text) else None
    elif column.is_whole_number or column.category == "S":
        is_number = column.is_whole_number
    else:
        return None
    if is_number:
        return number if number is not None and is_bigint(number) else None
    return text if store.can_store(text) else None
