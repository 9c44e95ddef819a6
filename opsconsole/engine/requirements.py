"""Tables and columns that the operations need in a store."""

from __future__ import annotations

from opsconsole.engine import registry
from opsconsole.stores.store import Store


def needed_columns(store: Store, operation: str = "") -> dict[str, set[str]]:
    """Return table → columns that `operation` needs, or all operations of the store."""
    found: dict[str, set[str]] = {}
    for name, cls in registry.operations().items():
        if getattr(cls, "store_alias", None) == store.name and operation in {"", name}:
            for model, columns in cls(store).needs().items():
                found.setdefault(model._meta.db_table, set()).update(columns)
    return found
