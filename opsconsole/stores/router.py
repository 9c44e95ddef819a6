"""The router of models: a `StoreModel` belongs to its `store`, every other model to `default`."""

from __future__ import annotations

from typing import Any

from django.db.models import Model

from opsconsole.stores.models import StoreModel

DEFAULT = "default"


def store_of(model: type[Model]) -> str:
    """Return the store of a model, `default` for the console's own models."""
    return model.store if issubclass(model, StoreModel) else DEFAULT


class StoreRouter:
    def db_for_read(self, model: type[Model], **hints: Any) -> str:
        # An attached file has another alias than its store.
        instance = hints.get("instance")
        if instance is not None and instance._state.db and store_of(type(instance)) == store_of(model):
            return str(instance._state.db)
        return store_of(model)

    db_for_write = db_for_read

    def allow_relation(self, one: Model, other: Model, **hints: Any) -> bool:
        return store_of(type(one)) == store_of(type(other))

    def allow_migrate(self, db: str, app_label: str, model_name: str | None = None, **hints: Any) -> bool:
        """Allow migrations only in the console's own database: tables of stores come from `schema/<engine>.sql`."""
        return db == DEFAULT
