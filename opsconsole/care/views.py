"""Pages of store care."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from opsconsole.care.front import Front
from opsconsole.operations.views import needs


@require_safe
@needs("view_run")
def front_live(request: HttpRequest) -> HttpResponse:
    """What moves on the front page: asked for again and again while something runs."""
    return render(request, "care/_running.html", {"front": Front(), "live": True})


@require_safe
@needs("view_run")
def stores(request: HttpRequest) -> HttpResponse:
    context = {**admin.site.each_context(request), "title": _("Stores")}
    return render(request, "care/stores.html", context)
