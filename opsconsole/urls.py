"""URL configuration: the admin is the console."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.urls import URLPattern, include, path, re_path
from django.utils.module_loading import import_string
from django.views.generic import RedirectView

from opsconsole.api import endpoints
from opsconsole.console import (
    alert_admin,
    browse_views,
    dashboard_views,
    incident_views,
    operation_views,
    saved_views,
    series_views,
    space_views,
)
from opsconsole.console.backup_views import restore_backup
from opsconsole.console.find_views import find_page
from opsconsole.console.session_views import sessions
from opsconsole.monitoring import health, metrics
from opsconsole.stores.platforms import platform_pages

admin.autodiscover()


def _page(route: str, view: Callable[..., Any], name: str) -> URLPattern:
    """Return the URL of a page that requires a login."""
    return path(f"admin/operations/{route}", admin.site.admin_view(view), name=name)


urlpatterns = [
    path("api/", include(endpoints.urls())),  # first: clients poll it
    path("i18n/", include("django.conf.urls.i18n")),
    _page("", operation_views.operations, "operations"),
    _page("alert/test/", alert_admin.send_test, "alert-test"),
    _page("approvals/", operation_views.approvals, "approvals"),
    _page("backup/<int:pk>/restore/", restore_backup, "backup-restore"),
    _page("freeze/", operation_views.freeze, "freeze"),
    _page("statement/", operation_views.statement, "statement"),
    _page("<str:name>/plan/", operation_views.plan, "plan"),
    _page("<str:name>/plan-all/", series_views.plan_all, "plan-all"),
    _page("run/<int:pk>/series/", series_views.series_page, "run-series"),
    _page("run/<int:pk>/series/confirm/", series_views.confirm_all, "run-series-confirm"),
    _page("<str:name>/schedule/", operation_views.schedule, "schedule"),
    _page("run/<int:pk>/change/", operation_views.run_page, "run"),
    _page("run/<int:pk>/live/", operation_views.live, "run-live"),
    _page("run/<int:pk>/space/", space_views.space, "run-space"),
    _page("run/<int:pk>/confirm/", operation_views.confirm, "run-confirm"),
    _page("run/<int:pk>/replan/", operation_views.replan, "run-replan"),
    _page("run/<int:pk>/note/", operation_views.note, "run-note"),
    _page("run/<int:pk>/undo-row/", operation_views.undo_row, "run-undo-row"),
    _page("incident/<int:pk>/change/", incident_views.incident_page, "incident"),
    _page("incident/<int:pk>/repair/<str:name>/", incident_views.repair, "incident-repair"),
    re_path(
        r"^admin/operations/incident/(?P<pk>\d+)/"
        r"(?P<verb>acknowledge|assign|snooze|ignore|comment|link|resolve|reopen)/$",
        admin.site.admin_view(incident_views.act),
        name="incident-act",
    ),
    re_path(
        r"^admin/operations/run/(?P<pk>\d+)/(?P<verb>pause|resume|cancel|approve|reject|break-glass|undo|retry)/$",
        admin.site.admin_view(operation_views.act),
        name="run-act",
    ),
    path("admin/api/", admin.site.admin_view(dashboard_views.api_document), name="api-document"),
    path("admin/find/", admin.site.admin_view(find_page), name="find"),
    path("admin/views/save/", admin.site.admin_view(saved_views.save), name="view-save"),
    path("admin/views/<int:pk>/delete/", admin.site.admin_view(saved_views.delete), name="view-delete"),
    path("admin/sessions/", admin.site.admin_view(sessions), name="sessions"),
    *(
        path(f"admin/{page.route}", admin.site.admin_view(import_string(page.view)), name=page.name)
        for page in platform_pages()
    ),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.Readiness.as_view(), name="readyz"),
    path("metrics", metrics.metrics, name="metrics"),
    path("admin/dashboard/live/", admin.site.admin_view(dashboard_views.dashboard_live), name="dashboard-live"),
    path("admin/dashboard/check/", admin.site.admin_view(dashboard_views.check_stores), name="check-stores"),
    path("admin/dashboard/trends/", admin.site.admin_view(dashboard_views.trends), name="trends"),
    path("admin/store/<str:alias>/", admin.site.admin_view(browse_views.tables), name="browse"),
    path("admin/store/<str:alias>/rows/", admin.site.admin_view(browse_views.rows), name="browse-rows"),
    path("admin/store/<str:alias>/row/", admin.site.admin_view(browse_views.row), name="browse-row"),
    path("admin/stores/", admin.site.admin_view(dashboard_views.stores), name="stores"),
    path("admin/", admin.site.urls),
    path("", RedirectView.as_view(pattern_name="admin:index")),
]
