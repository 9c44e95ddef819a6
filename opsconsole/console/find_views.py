"""The page that finds rows, runs and incidents by their identifier, and pages and operations by their name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from django.contrib.admin.utils import quote
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import NoReverseMatch, reverse
from django.utils.http import urlencode
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from opsconsole.console.navigation import navigation
from opsconsole.console.operation_views import render_page
from opsconsole.console.store_urls import urlconf
from opsconsole.engine import incidents, registry
from opsconsole.engine.find import Hit, TableHit, count_text, find
from opsconsole.engine.labels import operation_title
from opsconsole.engine.models import Incident, Run
from opsconsole.stores.platforms import store_title

SHOWN_PAGES = 20


class Link(NamedTuple):
    """A line of the result."""

    kind: str
    text: str
    url: str
    note: str = ""


@require_safe
def find_page(request: HttpRequest) -> HttpResponse:
    """Open the only hit, list several, or name where was searched."""
    found = find(request.GET.get("q", ""), request.user)
    text = found.text
    pages = _pages(request, text) if text else []
    lines = [
        *_incident_links([*found.incidents, *found.incidents_of_rows]),
        *_run_links(_("run"), found.runs),
        *_run_links(_("deleted by run"), (row.run for row in found.deletions)),
        *(link for hit in found.hits if (link := _row_link(hit, text))),
        *(_table_link(hit, text) for hit in found.table_hits),
    ]
    if found.single_incident is not None:
        return redirect("incident", found.single_incident.pk)
    if len(lines) == 1 and not pages and lines[0].url and not found.not_asked:
        return redirect(lines[0].url)
    return render_page(request, "console/find.html", _("Find"), found=found, lines=[*lines, *pages], text=text)


def _incident_links(found: Iterable[Incident]) -> list[Link]:
    return [
        Link(_("incident"), capfirst(incidents.title_of(one)), reverse("incident", args=[one.pk]), str(one.state.label))
        for one in found
    ]


def _run_links(kind: str, runs: Iterable[Run]) -> list[Link]:
    return [
        Link(
            kind,
            f"{run.pk} {operation_title(run.operation)}",
            reverse("run", args=[run.pk]),
            run.get_status_display(),
        )
        for run in runs
    ]


def _row_link(hit: Hit, text: str) -> Link | None:
    meta = hit.model._meta
    name = f"admin:{meta.app_label}_{meta.model_name}"
    title = store_title(hit.store)
    try:
        if hit.key is not None:
            url = reverse(f"{name}_change", urlconf(hit.store), args=[quote(hit.key)])
            note = incidents.title_of(hit.incident) if hit.incident is not None else ""
            return Link(f"{title} · {meta.verbose_name}", str(hit.key), url, note)
        url = reverse(f"{name}_changelist", urlconf(hit.store))
    except NoReverseMatch:
        return None
    return _rows(hit, text, title, url)


def _table_link(hit: TableHit, text: str) -> Link:
    shown = text if hit.key is not None else count_text(hit.rows)
    url = reverse("browse-rows", args=[hit.store], query={"table": hit.table, hit.field: text})
    return Link(f"{store_title(hit.store)} · {hit.table}", shown, url, hit.column)


def _rows(hit: Hit, text: str, title: str, url: str) -> Link:
    meta = hit.model._meta
    query = urlencode({f"{hit.column}__exact": text})
    return Link(f"{title} · {meta.verbose_name_plural}", count_text(hit.rows), f"{url}?{query}", hit.column)


def _pages(request: HttpRequest, text: str) -> list[Link]:
    """Return pages and operations whose title contains the text."""
    wanted = text.casefold()
    found = [
        Link(_("page"), str(item["title"]), str(item["link"]))
        for group in navigation(request)
        for item in group["items"]
        if wanted in str(item["title"]).casefold()
    ]
    if request.user.has_perm("operations.view_run"):
        base = reverse("operations")
        found += [
            Link(_("operation"), str(cls.title), f"{base}#{name}")
            for name, cls in registry.operations().items()
            if wanted in str(cls.title).casefold() or wanted in name
        ]
    return found[:SHOWN_PAGES]
