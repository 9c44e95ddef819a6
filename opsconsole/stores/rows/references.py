"""Rows of a table that refer to rows of the same table, and the tables that refer to it."""

from __future__ import annotations

from opsconsole.stores.catalog import ForeignKey
from opsconsole.stores.rows.changes import Key, Write
from opsconsole.stores.store import Store


def known_table(store: Store, reference: ForeignKey) -> str | None:
    """Return the name of the referring table in the store, None if the store does not know the table."""
    for name, table in store.tables.items():
        same = table.oid == reference.child_oid if store.vendor == "postgresql" else name == reference.child
        if same:
            return name if store.has_key(name) else None
    return None


def is_own_parent(store: Store, table: str) -> bool:
    """Return whether rows of `table` may refer to each other."""
    return bool(_to_itself(store, table))


def _to_itself(store: Store, table: str) -> list[ForeignKey]:
    return [one for one in store.foreign_keys if known_table(store, one) == table and store.is_parent(one, table)]


def children_first(store: Store, change: Write) -> Write:
    """Order the rows of a delete: a row comes before the row of the same table that it refers to."""
    own = _to_itself(store, change.table)
    if not own or len(change.rows) < 2:
        return change
    places = {name: place for place, name in enumerate(change.columns)}
    own = [one for one in own if places.keys() >= {*one.columns, *one.referred}]
    rows = {row[0]: row for row in change.rows}
    parents: dict[Key, set[Key]] = {}
    for one in own:
        by_value = {tuple((row[1] or ())[places[name]] for name in one.referred): key for key, row in rows.items()}
        for key, row in rows.items():
            parent = by_value.get(tuple((row[1] or ())[places[name]] for name in one.columns))
            if parent is not None and parent != key:
                parents.setdefault(key, set()).add(parent)
    ordered: list[Key] = []
    left = dict.fromkeys(rows)
    while left:
        referred = {parent for key in left for parent in parents.get(key, ()) if parent in left}
        free = [key for key in left if key not in referred] or list(left)  # in a circle, any order
        ordered += free
        for key in free:
            del left[key]
    return Write(change.table, change.columns, [rows[key] for key in ordered])
