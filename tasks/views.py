"""The search page."""

from __future__ import annotations

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from opsconsole.stores.store import Store, StoreUnusable
from tasks.search import SOURCES, Source, search

PAGE_LIMIT = 50


def search_page(request: HttpRequest) -> HttpResponse:
    """Memory and knowledge of the AgentOS store, as far as this person may look."""
    allowed = [source for source in SOURCES.values() if may_search(request, source)]
    if not allowed:
        raise PermissionDenied
    text, chosen = request.GET.get("q", "").strip(), request.GET.get("in", "")
    sources = tuple(source.name for source in allowed if chosen in {"", source.name})
    context = {
        **admin.site.each_context(request),
        "title": _("Search memory and knowledge"),
        "text": text,
        "chosen": chosen,
        "sources": allowed,
    }
    status = 200
    if text and sources:
        try:
            context["found"] = search(Store("agentos", "agentos"), text, sources=sources, limit=PAGE_LIMIT)
        except StoreUnusable as error:
            context["sentence"], status = str(error), 503
    return render(request, "tasks/search.html", context, status=status)


def may_search(request: HttpRequest, source: Source) -> bool:
    meta = source.model._meta
    return request.user.has_perm(f"{meta.app_label}.view_{meta.model_name}")
