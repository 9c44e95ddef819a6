"""The console's views of incidents: their page, their verbs, and the start of a repair."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, time, timedelta

from django.contrib import messages
from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from opsconsole.console.actors import actor_of
from opsconsole.console.incident_page import IncidentPage
from opsconsole.console.operation_views import needs, render_page
from opsconsole.console.page_parts import REFUSALS
from opsconsole.engine import incidents, lifecycle, queue, registry, repairs
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.incidents import IncidentRefused
from opsconsole.engine.models import Incident, Run
from opsconsole.engine.operation import Operation
from opsconsole.engine.stored_plans import same_command
from opsconsole.stores.store import StoreUnavailable

MORNING = time(8)
SNOOZES: dict[str, Callable[[], datetime]] = {
    "1h": lambda: timezone.now() + timedelta(hours=1),
    "4h": lambda: timezone.now() + timedelta(hours=4),
    "tomorrow": lambda: next_morning(1),
    "week": lambda: next_morning(7),
}


def next_morning(days: int) -> datetime:
    """Return eight o'clock, so many days from today, in the current time zone."""
    day = timezone.localdate() + timedelta(days=days)
    return timezone.make_aware(datetime.combine(day, MORNING))  # aware in the same statement


@require_safe
@needs("view_run")
def incident_page(request: HttpRequest, pk: int) -> HttpResponse:
    incident = get_object_or_404(Incident.objects.select_related("owner", "resolved_run"), pk=pk)
    return _page(request, incident)


def _page(request: HttpRequest, incident: Incident, *, error: str = "", status: int = 200) -> HttpResponse:
    page = IncidentPage(incident, request.user)
    return render_page(
        request,
        "console/incident.html",
        page.title,
        status=status,
        page=page,
        incident=incident,
        error=error,
        posted=request.POST,
    )


@require_POST
@needs("handle_incident")
def act(request: HttpRequest, pk: int, verb: str) -> HttpResponse:
    """Acknowledge, assign, snooze, ignore, comment, link, resolve or reopen an incident."""
    incident = get_object_or_404(Incident, pk=pk)
    verbs: dict[str, Callable[[Incident, Actor], None]] = {
        "acknowledge": incidents.acknowledge,
        "resolve": incidents.resolve,
        "reopen": incidents.reopen,
        "assign": lambda one, actor: incidents.assign(one, actor, _owner(request.POST.get("owner", ""))),
        "snooze": lambda one, actor: incidents.snooze(one, actor, _until(request.POST.get("until", ""))),
        "ignore": lambda one, actor: incidents.ignore(one, actor, _percent(request.POST.get("percent", ""))),
        "comment": lambda one, actor: incidents.comment(one, actor, request.POST.get("text", "")),
        "link": lambda one, actor: incidents.link(one, actor, request.POST.get("url", "")),
    }
    try:
        verbs[verb](incident, actor_of(request))
    except IncidentRefused as error:
        return _page(request, get_object_or_404(Incident, pk=pk), error=str(error), status=400)
    return redirect("incident", pk)


def _owner(name: str) -> User | None:
    if not name:
        return None
    owner = User.objects.filter(username=name, is_active=True).first()
    if owner is None:
        raise IncidentRefused(_("No active account is called %(name)s.") % {"name": name})
    return owner


def _until(choice: str) -> datetime:
    if choice not in SNOOZES:
        raise IncidentRefused(_("The end of the snooze is missing. Choose one from the list."))
    return SNOOZES[choice]()


def _percent(text: str) -> int:
    if not text.isdecimal() or len(text) > 5:
        raise IncidentRefused(_("%(value)s is out of range. Enter a percentage from 1 to 10000.") % {"value": text})
    return int(text)


@require_POST
@needs("operate_run")
def repair(request: HttpRequest, pk: int, name: str) -> HttpResponse:
    """Plan a repair for exactly the incident's rows. A small change that was shown is executed at once."""
    incident = get_object_or_404(Incident, pk=pk)
    cause = incidents.cause_of(incident)
    cls = registry.operations().get(name)
    if cls is None or cause is None or name not in cause.repairs:
        raise Http404
    if incident.resolved_at is not None:
        messages.info(request, _("This incident is already resolved."))
        return redirect("incident", pk)
    shown = request.POST.get("digest", "")
    try:
        if not shown:
            run = _plan(incident, cls, actor_of(request), request.POST.get("note", ""))
            return redirect("run", run.pk)
        if not repairs.is_unchanged(incident, cls, shown):
            changed = _("The rows have changed since this page was made. Nothing was written. Review the repair again.")
            refusal = repairs.assess(incident, cls).refusal
            return _page(request, incident, error=refusal or changed, status=409)
        started = same_command(repairs.operation_for(incident, cls), repairs.selection_for(incident, cls))
        if started is not None:  # by a second click, or in another browser
            return redirect("run", started.pk)
        at_once = not lifecycle.asks_more(repairs.operation_for(incident, cls))
        run = _plan(incident, cls, actor_of(request), request.POST.get("note", ""), separate=at_once)
        if at_once:
            run = queue.run_now(run, actor_of(request))
        return redirect("run", run.pk)
    except REFUSALS as error:
        if isinstance(error, StoreUnavailable) and error.error is not None:
            raise  # the store's own page reports it
        return _page(request, incident, error=str(error), status=409)


def _plan(incident: Incident, cls: type[Operation], actor: Actor, note: str, *, separate: bool = False) -> Run:
    selection = repairs.selection_for(incident, cls)
    return queue.plan(
        repairs.operation_for(incident, cls), selection, actor, note=note, incident=incident, separate=separate
    )
