"""Views of the dashboard's changing part and of the stores."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_POST, require_safe

from opsconsole.console.actors import actor_of
from opsconsole.console.dashboard import Dashboard
from opsconsole.console.dashboard_charts import charts
from opsconsole.console.operation_views import needs, render_page
from opsconsole.console.page_parts import REFUSALS
from opsconsole.engine import lifecycle, planner, queue, registry
from opsconsole.engine.checks import Check
from opsconsole.engine.stored_plans import same_command, store_for
from opsconsole.formatting import format_number, format_time
from opsconsole.monitoring.connectivity import unreachable
from opsconsole.monitoring.operations.measure_stores import MeasureStores
from opsconsole.monitoring.stats import stats
from opsconsole.monitoring.store_problems import StoreStates
from opsconsole.stores.router import use
from opsconsole.stores.store import Store, StoreUnavailable, all_stores


@require_safe
@needs("view_run")
def dashboard_live(request: HttpRequest) -> HttpResponse:
    """Render the running runs of the dashboard, which the page requests again while a run is active."""
    return render(request, "console/_running_runs.html", {"dashboard": Dashboard(request)})


@require_POST
@needs("operate_run")
def check_stores(request: HttpRequest) -> HttpResponse:
    """Queue the scheduled checks of every reachable store, and the measurement of all stores."""
    down = unreachable(list(all_stores())[1:])
    actor = actor_of(request)
    count = 0
    for cls in registry.operations().values():
        if not issubclass(cls, Check | MeasureStores) or cls.schedule is None:
            continue
        for alias, values in registry.scheduled_runs(cls):
            params = registry.clean(cls, values)
            with use(alias):
                store = store_for(cls, params)
            if store.alias in down:
                continue
            try:
                planned = planner.plan(planner.operation_on(cls, store, params))
                if same_command(planned.operation, planned.selection) is None:
                    queue.confirm(lifecycle.create_run(planned, actor), actor)
                    count += 1
            except REFUSALS as error:
                messages.warning(request, f"{cls.title}: {error}")
    text = ngettext("%(count)d check is queued.", "%(count)d checks are queued.", count) % {"count": count}
    messages.info(request, text)
    return redirect("admin:index")


@require_safe
@needs("view_run")
def trends(request: HttpRequest) -> HttpResponse:
    """Charts of the last days: open problems, repaired rows, duration of runs."""
    return render_page(request, "console/trends.html", _("Trends"), charts=charts(StoreStates()))


@require_safe
@needs("view_run")
def api_document(request: HttpRequest) -> HttpResponse:
    """Render the OpenAPI document of the API."""
    return render_page(request, "console/api_document.html", _("API"), options={"url": reverse("api:openapi")})


_HEADINGS = {  # of the columns of `monitoring.stats`
    "table": gettext_lazy("table"),
    "rows": gettext_lazy("rows"),
    "bytes": gettext_lazy("size"),
    "index_bytes": gettext_lazy("indexes"),
    "dead_rows": gettext_lazy("dead rows"),
    "last_autovacuum": gettext_lazy("last autovacuum"),
    "index": gettext_lazy("index"),
    "application": gettext_lazy("application"),
    "database": gettext_lazy("database"),
    "state": gettext_lazy("state"),
    "connections": gettext_lazy("connections"),
    "longest_seconds": gettext_lazy("longest, in seconds"),
    "pid": gettext_lazy("process"),
    "mode": gettext_lazy("mode"),
    "what": gettext_lazy("what"),
    "seconds": gettext_lazy("seconds"),
    "blocked_by": gettext_lazy("blocked by"),
}


class Listing(NamedTuple):
    """A table of the statistics of a store."""

    title: str
    headers: list[str]
    rows: list[list[Any]]


@require_safe
@needs("view_run")
def stores(request: HttpRequest) -> HttpResponse:
    """Show the current sizes, rows, connections, locks and pools of each store, or why it is unreachable."""
    known = list(all_stores())
    down = unreachable(known[1:])
    context = {
        **admin.site.each_context(request),
        "title": _("Stores"),
        "reports": [_report(store, down.get(store.alias, "")) for store in known],
        "may_operate": request.user.has_perm("operations.operate_run"),
    }
    return render(request, "console/stores.html", context)


def _report(store: Store, error: str) -> dict[str, Any]:
    report: dict[str, Any] = {}
    if not error:
        try:
            report = stats(store)
        except StoreUnavailable as unavailable:
            error = str(unavailable)
    tables = [
        _listing(_("Tables"), report.get("tables", [])),
        _listing(_("Connections"), report.get("connections", {}).get("by", [])),
        _listing(_("Awaited locks"), report.get("locks_waited_for", [])),
        _listing(_("Unused indexes"), report.get("unused_indexes", [])),
    ]
    operations = [
        ("backups.backup_store", _("Plan backup")),
        ("monitoring.check_store", _("Check now")),
        ("backups.upgrade_store", _("Plan upgrade")),
    ]
    shown = [table for table in tables if table.rows]
    return {"store": store, "error": error, "report": report, "tables": shown, "operations": operations}


def _listing(title: str, rows: list[dict[str, Any]]) -> Listing:
    headers = [str(_HEADINGS.get(name, name)) for name in rows[0] if name != "estimated"] if rows else []
    return Listing(title, headers, [[_cell(row, name) for name in row if name != "estimated"] for row in rows])


def _cell(row: dict[str, Any], name: str) -> Any:
    value = row[name]
    if name in {"bytes", "index_bytes"}:
        return filesizeformat(value)
    if name == "last_autovacuum":
        return format_time(value)
    if name == "rows" and row.get("estimated"):
        return f"≈ {format_number(value)}"
    return format_number(value) if isinstance(value, int) and name != "pid" else value
