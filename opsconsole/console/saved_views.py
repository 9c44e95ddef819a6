"""Saved views: the filters of a list under a name, for oneself or for everybody who may see the list."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.apps import apps
from django.contrib import admin, messages
from django.contrib.admin.exceptions import NotRegistered
from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from opsconsole.accounts.models import MAX_NAME, MAX_QUERY, SavedView
from opsconsole.console.actors import actor_of
from opsconsole.console.filter_chips import ERROR, PAGE
from opsconsole.console.page_parts import list_url
from opsconsole.engine.audit_log import record

SHOWN_VIEWS = 50
MAX_VIEWS = 100  # of one account


class ShownView(NamedTuple):
    """An entry of the menu."""

    pk: int
    name: str
    link: str
    owner: str  # empty: one's own
    shared: bool
    is_current: bool


class Menu(NamedTuple):
    """The saved views of a list, and the filters that would be saved now."""

    views: list[ShownView]
    table: str
    query: str

    @property
    def current(self) -> ShownView | None:
        """Return the view of which the filters are in force; one's own comes first."""
        return next((view for view in sorted(self.views, key=lambda view: view.owner) if view.is_current), None)


def menu(model: type[models.Model], request: HttpRequest) -> Menu:
    table, query = model._meta.label_lower, normal(request.GET.urlencode())
    found = SavedView.objects.filter(Q(owner_id=request.user.pk) | Q(shared=True), table=table).select_related("owner")
    views = [
        ShownView(
            view.pk,
            view.name,
            f"?{view.query}",
            "" if view.owner_id == request.user.pk else view.owner.get_username(),
            view.shared,
            view.query == query,
        )
        for view in found.order_by("name", "pk")[:SHOWN_VIEWS]
    ]
    return Menu(views, table, query)


def normal(query: str) -> str:
    """Return a query string in the form in which it is compared: sorted, without empty values, on the first page."""
    given = QueryDict(query)
    kept = sorted((name, value) for name, values in given.lists() for value in values if value)
    result = QueryDict(mutable=True)
    for name, value in kept:
        if name not in {PAGE, ERROR}:
            result.appendlist(name, value)
    return result.urlencode()


@require_POST
def save(request: HttpRequest) -> HttpResponse:
    """Save the filters of a list. The same filters again get a new name, the same name gets the new filters."""
    model_admin = _admin_of(request.POST.get("table", ""))
    if not model_admin.has_view_permission(request):
        raise PermissionDenied
    table = model_admin.model._meta.label_lower
    query, name = normal(request.POST.get("query", "")), " ".join(request.POST.get("name", "").split())
    back = f"{list_url(model_admin.model)}?{query}"
    if not name or len(name) > MAX_NAME:
        messages.warning(
            request,
            _("The name is empty or longer than %(count)d characters. Enter another one.") % {"count": MAX_NAME},
        )
        return redirect(back)
    if len(query) > MAX_QUERY:
        messages.warning(request, _("The filters are too long to be saved. Remove some of them."))
        return redirect(back[:MAX_QUERY])
    actor = actor_of(request)
    own = SavedView.objects.filter(owner=actor.user)
    of_list = own.filter(table=table)
    view = of_list.filter(name=name).first() or of_list.filter(query=query).first()
    if view is None:
        if own.count() >= MAX_VIEWS:
            messages.warning(
                request, _("You have %(count)d saved views. Delete one to save another.") % {"count": MAX_VIEWS}
            )
            return redirect(back)
        view = SavedView(owner=actor.user, table=table)
    view.name, view.query, view.shared = name, query, "shared" in request.POST
    view.save()
    record(None, "view_saved", actor, list=table, name=name, query=query, shared=view.shared)
    messages.info(request, _("The view %(name)s is saved.") % {"name": name})
    return redirect(back)


@require_POST
def delete(request: HttpRequest, pk: int) -> HttpResponse:
    """Delete one's own view."""
    view = get_object_or_404(SavedView, pk=pk, owner_id=request.user.pk)
    view.delete()
    record(None, "view_deleted", actor_of(request), list=view.table, name=view.name)
    messages.info(request, _("The view %(name)s is deleted.") % {"name": view.name})
    return redirect(f"{list_url(_admin_of(view.table).model)}?{view.query}")


def _admin_of(table: str) -> Any:
    try:
        return admin.site.get_model_admin(apps.get_model(table))
    except (LookupError, ValueError, NotRegistered):
        raise Http404 from None
