"""The router of models: a `StoreModel` belongs to the stores of its platform, every other model to `default`.

A platform can have several stores. `use` chooses one for the code that it calls, such as the view of a page.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.conf import settings
from django.db.models import Model

from opsconsole.stores.models import StoreModel

DEFAULT = "default"
_chosen: ContextVar[str] = ContextVar("chosen", default="")


def store_of(model: type[Model]) -> str:
    """Return the platform of a model, `default` for the console's own models."""
    return model.store if issubclass(model, StoreModel) else DEFAULT


@contextmanager
def use(alias: str) -> Iterator[None]:
    """Work on this store of its platform in the `with` block."""
    token = _chosen.set(alias)
    try:
        yield
    finally:
        _chosen.reset(token)


def alias_of(platform: str) -> str:
    """Return the alias of the chosen store if it belongs to this platform, else of the platform's first store."""
    alias = _chosen.get()
    return alias if settings.STORES.get(alias) == platform else aliases_of(platform)[0]


def is_chosen(platform: str) -> bool:
    """Return whether it is clear which store is meant: the chosen one, the platform's own or the only one."""
    return len(aliases_of(platform)) == 1 or platform in settings.STORES or alias_of(platform) == _chosen.get()


def aliases_of(platform: str) -> list[str]:
    """Return the aliases of the stores of a platform. The one with the platform's name is the first."""
    return [alias for alias, own in settings.STORES.items() if platform and own == platform] or [platform]


class StoreRouter:
    def db_for_read(self, model: type[Model], **hints: Any) -> str:
        # An attached file has another alias than its store.
        instance = hints.get("instance")
        if instance is not None and instance._state.db and store_of(type(instance)) == store_of(model):
            return str(instance._state.db)
        return alias_of(store_of(model))

    db_for_write = db_for_read

    def allow_relation(self, one: Model, other: Model, **hints: Any) -> bool:
        return store_of(type(one)) == store_of(type(other))

    def allow_migrate(self, db: str, app_label: str, model_name: str | None = None, **hints: Any) -> bool:
        """Allow migrations only in the console's own database: tables of stores come from `schema/<engine>.sql`."""
        return db == DEFAULT
