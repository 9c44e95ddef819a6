"""The dashboard: what is wrong, who acts next, what was repaired today. It reads the console's own database only."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import Count, Min
from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.console.actors import actor_of
from opsconsole.console.incident_page import VARIANTS, signed_change
from opsconsole.console.page_parts import list_url
from opsconsole.engine import history, incidents, lifecycle, queue, registry, repairs, wording
from opsconsole.engine.labels import STATUS_VARIANTS, operation_title, result_label
from opsconsole.engine.models import ENDED, RESUMABLE, Incident, IncidentQuerySet, Run, Status
from opsconsole.engine.operation import LONG_CLUSTER, Priority
from opsconsole.formatting import duration, format_number, listed
from opsconsole.monitoring.measurements import MISSING, SIZE
from opsconsole.monitoring.store_problems import UNREACHABLE, StoreStates
from opsconsole.stores.platforms import store_title
from opsconsole.stores.router import DEFAULT
from opsconsole.stores.store import Store

SHOWN_INCIDENTS = 7
ALWAYS_SHOWN = 5  # incidents; more are shown if their priority is not low
NAMED_LOW = 2  # incidents of low priority
SHOWN_RUNS = 8
ATTENTION_DAYS = 7
OLD_SCANS = timedelta(hours=2)
GOOD, WARN, BAD, UNKNOWN = "success", "warning", "danger", "default"
_WORST = (GOOD, WARN, UNKNOWN, BAD)
CARD_LEVELS = {Priority.IMMEDIATE: BAD, Priority.PLANNED: WARN, Priority.PERIODIC: GOOD}


@dataclass
class StoreCard:
    """A store in one line: its level, and the reason."""

    store: Store
    level: str = GOOD
    reasons: list[str] = field(default_factory=list)  # the worst one first
    incidents: int = 0
    only_low: bool = False  # the reason is the number of incidents

    def raise_to(self, level: str) -> bool:
        """Raise the level. Return whether it was lower."""
        is_worse = _WORST.index(level) > _WORST.index(self.level)
        self.level = level if is_worse else self.level
        return is_worse

    def add(self, level: str, reason: str) -> None:
        place = 0 if self.raise_to(level) else len(self.reasons)
        self.only_low = self.only_low and place > 0
        self.reasons.insert(place, reason)

    @property
    def word(self) -> str:
        words = {GOOD: _("healthy"), WARN: _("warning"), BAD: _("critical"), UNKNOWN: _("not checked yet")}
        return words[self.level]

    @property
    def others(self) -> int:
        """The number of reasons that the card does not show."""
        return len(self.reasons) - 1

    @property
    def incidents_url(self) -> str:
        return list_url(Incident, store=self.store.alias)


class IncidentLine(NamedTuple):
    """An incident with its recommended repair."""

    incident: Incident
    title: str
    variant: str
    store: str
    age: str
    change: str
    button: str  # of the recommended repair; empty if none is possible
    deletes: bool


class RunLine(NamedTuple):
    run: Run
    title: str
    variant: str
    percent: str
    done: str
    undone_by: Run | None = None


class Dashboard:
    """The content of the page."""

    def __init__(self, request: HttpRequest) -> None:
        self.request = request
        self.states = StoreStates()
        self.now = self.states.now

    # --- incidents ----------------------------------------------------------------------------------------

    @cached_property
    def _active(self) -> IncidentQuerySet:
        return Incident.objects.active().filter(identity__in=self.states.identities)

    @cached_property
    def _groups(self) -> list[Any]:
        """Return the number and the start of the active incidents by store and priority."""
        groups = self._active.order_by().values("store", "priority")
        return list(groups.annotate(incidents=Count("pk"), since=Min("opened_at")))

    @property
    def count(self) -> int:
        return sum(group["incidents"] for group in self._groups)

    @property
    def sentence(self) -> str:
        if not self.count:
            return _("No incident is open.")
        text = ngettext("%(count)s incident is open.", "%(count)s incidents are open.", self.count) % {
            "count": format_number(self.count)
        }
        critical = [group["since"] for group in self._groups if group["priority"] == Priority.IMMEDIATE]
        if critical:
            age = duration((self.now - min(critical)).total_seconds())
            text += " " + _("The oldest critical one started %(age)s ago.") % {"age": age}
        return text

    @cached_property
    def lines(self) -> list[IncidentLine]:
        shown = self._active.worst_first().select_related("owner").defer("history")[: self._shown]
        return [self._line(incident) for incident in shown]

    @property
    def _urgent(self) -> int:
        return sum(group["incidents"] for group in self._groups if group["priority"] != Priority.PERIODIC)

    @property
    def _shown(self) -> int:
        return min(max(self._urgent, ALWAYS_SHOWN), SHOWN_INCIDENTS)

    @property
    def more(self) -> int:
        return max(self.count - self._shown, 0)

    @cached_property
    def more_text(self) -> str:
        """Return how many incidents are not shown. If all of them have a low priority, name the first ones."""
        count = format_number(self.more)
        if self._urgent > self._shown:
            return ngettext("%(count)s more incident", "%(count)s more incidents", self.more) % {"count": count}
        named = self._active.worst_first().defer("history")[self._shown :][:NAMED_LOW]
        names = listed(map(incidents.title_of, named)) + (" …" if self.more > NAMED_LOW else "")
        return _("%(count)s more with low priority: %(names)s") % {"count": count, "names": names}

    @cached_property
    def _stores(self) -> dict[str, Store]:
        return {store.alias: store for store in self.states.stores}

    def _line(self, incident: Incident) -> IncidentLine:
        repair = None
        if incident.store not in self.states.down:
            repair = repairs.recommended(repairs.repairs_of(incident, self._stores.get(incident.store), briefly=True))
        return IncidentLine(
            incident,
            capfirst(incidents.title_of(incident)),
            VARIANTS.get(incident.priority, "info"),
            store_title(incident.store),
            duration((self.now - incident.opened_at).total_seconds()),
            signed_change(incident),
            repair.label if repair is not None else "",
            repair.deletes if repair is not None else False,
        )

    # --- stores ----------------------------------------------------------------------------------------------

    @cached_property
    def cards(self) -> list[StoreCard]:
        return [self._card(store) for store in self.states.stores]

    def _card(self, store: Store) -> StoreCard:
        """Describe a store by its worst incident and its own problems."""
        card = StoreCard(store)
        for group in self._groups:
            if group["store"] == store.alias:
                card.raise_to(CARD_LEVELS[Priority(group["priority"])])
        if card.level != GOOD or any(group["store"] == store.alias for group in self._groups):
            worst = self._active.filter(store=store.alias).worst_first().defer("history").first()
            total = sum(group["incidents"] for group in self._groups if group["store"] == store.alias)
            if worst is not None:
                low = ngettext("%(count)s incident with low priority", "%(count)s incidents with low priority", total)
                is_low = worst.priority == Priority.PERIODIC
                card.reasons = [low % {"count": format_number(total)} if is_low else incidents.title_of(worst)]
                card.incidents, card.only_low = total, is_low
        for problem in self.states.problems():
            if problem.store.alias == store.alias:
                level = BAD if problem.priority == Priority.IMMEDIATE else WARN
                detail = f": {problem.detail}" if problem.detail and problem.code == UNREACHABLE else ""
                card.add(level, f"{problem.title}{detail}")
        missing = self.states.latest.get((store.alias, MISSING))
        if missing is not None and missing.value:
            card.add(
                WARN,
                ngettext("%(count)d table or column missing", "%(count)d tables or columns missing", missing.value)
                % {"count": missing.value},
            )
        if store.alias != DEFAULT and store.alias not in self.states.down and store.alias not in self._checked:
            card.add(UNKNOWN, _("no scan has ended yet"))
        if not card.reasons:
            card.reasons.append(self._backup(store))
        return card

    def _backup(self, store: Store) -> str:
        at = self.states.backups[store.alias]
        return _("backup %(age)s old") % {"age": duration((self.now - at).total_seconds())}

    @cached_property
    def _checked(self) -> dict[str, datetime]:
        """Return the time of the newest scan of each store that was scanned or measured."""
        scans = incidents.newest_scan(list(self.states.identities))
        found = {self.states.identities[identity]: at for identity, at in scans.items()}
        for (alias, name), row in self.states.latest.items():
            if name == SIZE and alias in found:
                found[alias] = max(found[alias], row.at)
        return found

    @property
    def checked_at(self) -> datetime | None:
        """The time up to which every reachable store was checked."""
        return min((at for alias, at in self._checked.items() if alias not in self.states.down), default=None)

    @property
    def checked_age(self) -> str:
        return "" if self.checked_at is None else duration((self.now - self.checked_at).total_seconds())

    @property
    def is_old(self) -> bool:
        return self.checked_at is not None and self.now - self.checked_at > OLD_SCANS

    @property
    def overdue(self) -> list[str]:
        """Return the titles of the schedules that did not start in time."""
        return [
            str(state.operation.title)
            for state in queue.schedules()
            if state.switch.on and state.next_run is not None and self.now - state.next_run > queue.OVERDUE
        ]

    # --- runs -----------------------------------------------------------------------------------------------------

    @cached_property
    def waiting(self) -> list[RunLine]:
        """Return the runs that wait for the approval of this account, or need a person."""
        mine = lifecycle.awaiting(actor_of(self.request))
        since = self.now - timedelta(days=ATTENTION_DAYS)
        attention = {"status__in": [Status.NEEDS_ATTENTION, Status.FAILED], "finished_at__gte": since}
        runs = [*_newest(*RESUMABLE), *_ended_last().filter(**attention)[: 3 * SHOWN_RUNS]]
        undone = history.undone_by(runs)
        settled = history.settled(runs)
        open_runs = [run for run in runs if run.pk not in undone and run.pk not in settled]
        return [_run_line(run) for run in [*mine, *open_runs]][:SHOWN_RUNS]

    @cached_property
    def running(self) -> list[RunLine]:
        return [_run_line(run) for run in _newest(Status.RUNNING, Status.QUEUED)]

    @cached_property
    def repaired_today(self) -> list[RunLine]:
        """Return the runs that changed rows of a store today. An undo is not a repair and is not listed."""
        others = [name for name, cls in registry.operations().items() if not cls.writes_store]
        midnight = self.now.astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
        ended = _ended_last().filter(status__in=list(ENDED), finished_at__gte=midnight, changed__gt=0)
        runs = list(ended.exclude(store=DEFAULT).exclude(operation__in=[history.UNDO, *others])[:SHOWN_RUNS])
        undone = history.undone_by(runs)
        return [_run_line(run, undone.get(run.pk)) for run in runs]

    @cached_property
    def worker_missing(self) -> str:
        return wording.worker_missing() or wording.worker_missing(LONG_CLUSTER)


def _newest(*statuses: str) -> list[Run]:
    """Return the newest runs with these statuses. An index contains the runs of one status in this order."""
    runs = Run.objects.without_documents().order_by("-pk")
    found = [run for status in statuses for run in runs.filter(status=status)[:SHOWN_RUNS]]
    return sorted(found, key=lambda run: run.pk, reverse=True)[:SHOWN_RUNS]


def _ended_last() -> Any:
    return Run.objects.without_documents().order_by("-finished_at", "-pk")


def _run_line(run: Run, undone_by: Run | None = None) -> RunLine:
    title = result_label(run) if run.ended else operation_title(run.operation)
    percent = f"{min(100 * run.seen / run.total, 100):.0f}" if run.total else "0"
    done = wording.progress(run)
    return RunLine(run, title, STATUS_VARIANTS[run.status], percent, done, undone_by)


def dashboard_context(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Return the context of the theme's index page: see UNFOLD in the settings."""
    if request.user.has_perm("operations.view_run"):
        context["dashboard"] = Dashboard(request)
        context["may_operate"] = request.user.has_perm("operations.operate_run")
        context["title"] = _("Dashboard")
        context["all_incidents"] = reverse("admin:operations_incident_changelist")
    return context
