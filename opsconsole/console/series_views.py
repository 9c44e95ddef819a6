"""Plans of an operation on all stores of its platform: made together, shown together, confirmed together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, InterfaceError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from opsconsole.console.actors import actor_of
from opsconsole.console.operation_views import needs, render_page
from opsconsole.console.page_parts import REFUSALS, Table
from opsconsole.engine import lifecycle, planner, queue, registry, series, stored_plans
from opsconsole.engine.labels import operation_title
from opsconsole.engine.models import Run, Status
from opsconsole.engine.registry import InvalidParameters
from opsconsole.engine.selection import Selection
from opsconsole.formatting import format_number
from opsconsole.stores.platforms import store_title
from opsconsole.stores.router import aliases_of, use
from opsconsole.stores.store import failed_store


@require_POST
@needs("operate_run")
def plan_all(request: HttpRequest, name: str) -> HttpResponse:
    """Plan an operation with its default parameters on every store of its platform."""
    cls = registry.operations().get(name)
    if cls is None or not hasattr(cls, "store_alias"):
        raise Http404
    if cls.permission and not request.user.has_perm(cls.permission):
        raise PermissionDenied
    try:
        params = registry.clean(cls, {field: one.initial for field, one in cls.Params().fields.items()})
    except InvalidParameters as error:
        messages.warning(request, str(error))
        return redirect("operations")
    made: list[Run] = []
    reasons: dict[str, str] = {}
    for alias in aliases_of(cls.store_alias):
        with use(alias):
            store = stored_plans.store_for(cls, params)
            try:
                run = queue.plan(
                    planner.operation_on(cls, store, params), Selection(), actor_of(request), separate=True
                )
            except REFUSALS as error:
                reasons[alias] = str(error)
                continue
            except (DatabaseError, InterfaceError) as error:
                if failed_store() is None:
                    raise  # of the console's own database
                reasons[alias] = str(store.unusable(error))
                continue
        series.add(run, made[-1] if made else None)
        made.append(run)
    if made:
        series.leave_out(made, reasons, actor_of(request))
        return redirect("run-series", made[0].pk)
    for alias, reason in reasons.items():
        messages.warning(
            request, _("%(store)s: not planned. %(reason)s") % {"store": store_title(alias), "reason": reason}
        )
    return redirect("operations")


@require_safe
@needs("view_run")
def series_page(request: HttpRequest, pk: int) -> HttpResponse:
    """Show the runs of a series, and the button that confirms them if each needs only a click."""
    return _page(request, series.runs_of(get_object_or_404(Run, pk=pk)))


def _page(request: HttpRequest, runs: Sequence[Run], *, error: str = "", status: int = 200) -> HttpResponse:
    return render_page(
        request,
        "console/series.html",
        operation_title(runs[0].operation),
        status=status,
        runs=runs,
        error=error,
        listed=Table(
            [_("Store"), _("Run"), _("Status"), _("In scope"), _("Changed"), _("Skipped"), _("Invalid"), _("Failed")],
            [_line(run) for run in runs],
        ),
        left_out=[(store_title(alias), reason) for alias, reason in series.left_out(runs).items()],
        not_started=[(store_title(run.store), run, reason) for run, reason in series.not_started(runs)],
        can_confirm=_can_confirm(runs) and request.user.has_perm("operations.operate_run"),
        is_planned=any(run.status == Status.PLANNED for run in runs),
    )


def _line(run: Run) -> list[Any]:
    link = format_html('<a class="text-link" href="{}">{}</a>', reverse("run", args=[run.pk]), run.pk)
    reasons = run.plan.get("reasons", {}) if run.status == Status.PLANNED else {}
    counts = [
        sum(reasons.get(name, {}).values()) if reasons else getattr(run, name)
        for name in ("changed", "skipped", "invalid", "failed")
    ]
    return [store_title(run.store), link, run.get_status_display(), *map(format_number, [run.total, *counts])]


def _can_confirm(runs: Sequence[Run]) -> bool:
    """Return whether a click is enough for every plan of the series."""
    try:
        return all(
            run.status == Status.PLANNED
            and run.plan["counted"]
            and not lifecycle.asks_more(stored_plans.operation_of(run))
            for run in runs
        )
    except REFUSALS:
        return False


@require_POST
@needs("operate_run")
def confirm_all(request: HttpRequest, pk: int) -> HttpResponse:
    """Confirm the plans of a series in their order. The first refusal stops it."""
    runs = series.runs_of(get_object_or_404(Run, pk=pk))
    if not _can_confirm(runs) or request.POST.getlist("digest") != [run.digest for run in runs]:
        changed = _("The plans have changed, or one needs more than a click. Nothing was written. Review them again.")
        return _page(request, runs, error=changed, status=409)
    for run in runs:
        try:
            queue.confirm(run, actor_of(request))
        except REFUSALS as error:
            return _page(request, runs, error=f"{store_title(run.store)}: {error}", status=409)
    return redirect("run-series", runs[0].pk)
