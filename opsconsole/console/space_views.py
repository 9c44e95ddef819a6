"""The part of a run's page about the space that its deleted rows still take."""

from __future__ import annotations

from typing import Any

from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from opsconsole.console.operation_views import needs
from opsconsole.console.page_parts import REFUSALS
from opsconsole.engine import stored_plans
from opsconsole.engine.models import Run
from opsconsole.formatting import format_number
from opsconsole.monitoring.operations.reclaim_space import ReclaimSpace
from opsconsole.monitoring.space import Unreclaimed, require_reclaimable, unreclaimed
from opsconsole.stores.store import Store, StoreUnavailable


@require_safe
@needs("view_run")
def space(request: HttpRequest, pk: int) -> HttpResponse:
    """Ask the store. The page of the run does not wait for the answer; without one, it shows nothing."""
    run = get_object_or_404(Run, pk=pk)
    try:
        store = stored_plans.store_of(run)
        lines = [_line(request, store, found) for found in unreclaimed(store, run.writes)]
    except (DatabaseError, *REFUSALS):
        lines = []
    return render(request, "console/_run_space.html", {"run": run, "lines": lines})


def _line(request: HttpRequest, store: Store, found: Unreclaimed) -> dict[str, Any]:
    if found.table:
        sentence = _("%(table)s: %(dead)s dead rows in %(size)s.") % {
            "table": found.table,
            "dead": format_number(found.dead_rows),
            "size": filesizeformat(found.size),
        }
    else:
        sentence = _("%(free)s of the file's %(size)s are free pages.") % {
            "free": filesizeformat(found.free),
            "size": filesizeformat(found.size),
        }
    try:
        require_reclaimable(store, found.table)
        may_plan = request.user.has_perm("operations.operate_run")
    except StoreUnavailable:
        may_plan = False
    return {"sentence": sentence, "table": found.table, "may_plan": may_plan, "operation": ReclaimSpace.name}
