"""The selected rows of an operation's scope: all, given keys, or the rows of a filtered list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from django.db import models
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.stores.rows import Key


class Selection(NamedTuple):
    """The selected rows: those with `keys`, or those that the changelist shows for `query`, or all."""

    keys: Sequence[Key] | None = None
    query: str | None = None

    @property
    def is_everything(self) -> bool:
        return self.keys is None and self.query is None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if value is not None}

    def words(self) -> str:
        """Return a description of the selection."""
        if self.keys is not None:
            count = len(self.keys)
            return ngettext("%(count)d selected row", "%(count)d selected rows", count) % {"count": count}
        if self.query is not None:
            return _("all rows that match the filter")
        return _("everything in scope")


# Set by the console, which owns the lists: model and query string → the rows that the list shows.
rows_of_list: Callable[[type[models.Model], str], QuerySet[Any]] | None = None


def listed_rows(model: type[models.Model], query: str) -> QuerySet[Any]:
    """Return the rows that the list of a model shows for a query string."""
    if rows_of_list is None:
        raise RuntimeError("The console is not installed, so a filtered list cannot be read.")
    return rows_of_list(model, query)
