"""The selected rows of an operation's scope: all, given keys, or the rows of a filtered list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from django.contrib import admin
from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.engine.operation import Operation
from opsconsole.stores.rows import Key


class Selection(NamedTuple):
    """`keys`, or the query string of the model's changelist in `query`; neither: everything in scope."""

    keys: Sequence[Key] | None = None
    query: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if value is not None}

    def restrict(self, rows: QuerySet[Any], operation: Operation) -> QuerySet[Any]:
        """Return the selected rows of `rows`."""
        operation.selected = self != Selection()
        if self.keys is not None:
            return operation.select(rows, self.keys)
        if self.query is not None:
            shown = _changelist_queryset(operation.model, self.query)
            return rows.filter(pk__in=shown.using(rows.db).order_by().values("pk"))
        return rows

    def words(self) -> str:
        """Return a description of the selection."""
        if self.keys is not None:
            count = len(self.keys)
            return ngettext("%(count)d selected row", "%(count)d selected rows", count) % {"count": count}
        if self.query is not None:
            return _("all rows that match the filter")
        return _("everything in scope")


def _changelist_queryset(model: type[models.Model], query: str) -> QuerySet[Any]:
    """Return the rows that the changelist shows at this address."""
    from django.test import RequestFactory  # imports the whole test client

    admin.autodiscover()
    model_admin = admin.site.get_model_admin(model)
    request = RequestFactory().get("/", query_params=None, QUERY_STRING=query)
    request.user = AnonymousUser()
    return model_admin.get_changelist_instance(request).get_queryset(request)
