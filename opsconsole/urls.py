"""Addresses: the admin is the console."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.urls import URLPattern, include, path, re_path
from django.views.generic import RedirectView

from opsconsole.api import console
from opsconsole.api.pages import sessions
from opsconsole.care import views as care
from opsconsole.care import watching
from opsconsole.operations import views
from tasks.views import search_page


def _page(route: str, view: Callable[..., Any], name: str) -> URLPattern:
    """A page of the console, behind its login."""
    return path(f"admin/operations/{route}", admin.site.admin_view(view), name=name)


urlpatterns = [
    path("api/", include(console.urls())),  # clients poll: theirs are found first
    path("i18n/", include("django.conf.urls.i18n")),
    _page("", views.operations, "operations"),
    _page("emergency/", views.emergency, "emergency"),
    _page("<str:name>/plan/", views.plan, "plan"),
    _page("<str:name>/schedule/", views.schedule, "schedule"),
    _page("run/<int:pk>/change/", views.run_page, "run"),
    _page("run/<int:pk>/live/", views.live, "run-live"),
    _page("run/<int:pk>/confirm/", views.confirm, "run-confirm"),
    _page("run/<int:pk>/replan/", views.replan, "run-replan"),
    _page("run/<int:pk>/note/", views.note, "run-note"),
    re_path(
        r"^admin/operations/run/(?P<pk>\d+)/(?P<verb>pause|resume|cancel|approve|reject|undo|retry)/$",
        admin.site.admin_view(views.act),
        name="run-act",
    ),
    path("admin/sessions/", admin.site.admin_view(sessions), name="sessions"),
    path("admin/search/", admin.site.admin_view(search_page), name="search"),
    path("healthz", watching.healthz, name="healthz"),
    path("readyz", watching.Readiness.as_view(), name="readyz"),
    path("metrics", watching.metrics, name="metrics"),
    path("admin/front/live/", admin.site.admin_view(care.front_live), name="front-live"),
    path("admin/stores/", admin.site.admin_view(care.stores), name="care-stores"),
    path("admin/", admin.site.urls),
    path("", RedirectView.as_view(pattern_name="admin:index")),
]
