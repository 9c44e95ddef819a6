"""The tables and columns that an operation needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from django.db.models import Model

from opsconsole.engine.operation import Operation
from opsconsole.stores.router import store_of


def required_columns(operation: Operation) -> dict[type[Model], Iterable[str]]:
    """Return model → columns that the store of `operation` must have."""
    reads, model = operation.reads, operation.model
    if not isinstance(reads, Mapping):
        if store_of(model) != operation.store.platform:
            return {}  # such as backups: the console keeps them in its own database
        reads = {model: reads}
    return {
        model: tuple(
            dict.fromkeys((str(model._meta.pk.column), *columns, *operation.writes.get(model._meta.db_table, ())))
        )
        for model, columns in reads.items()
    }


def readable_columns(operation: Operation) -> list[tuple[str, str]]:
    """Return table and column of everything that the account of the store must be allowed to read."""
    required = required_columns(operation)
    return [(model._meta.db_table, column) for model, columns in required.items() for column in columns]
