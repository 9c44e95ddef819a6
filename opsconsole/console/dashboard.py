"""The dashboard: stores, open problems and runs. It shows measurements and queries no store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.contrib import admin
from django.db.models import Count, F, Max, Min, Q
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.console.dashboard_charts import Chart, charts
from opsconsole.engine import queue, registry, wording
from opsconsole.engine.checks import Check
from opsconsole.engine.labels import STATUS_VARIANTS, finding_label, operation_title
from opsconsole.engine.models import ENDED, RESUMABLE, Finding, Run, Status
from opsconsole.engine.operation import LONG_CLUSTER, Priority
from opsconsole.formatting import duration, format_number
from opsconsole.monitoring.measurements import MISSING, PROBLEM, SIZE, problem_operations
from opsconsole.monitoring.store_problems import BACKUP_MISSING, UNREACHABLE, StoreStates
from opsconsole.stores.platforms import store_titles
from opsconsole.stores.router import store_of
from opsconsole.stores.store import Store

SHOWN_RUNS = 8
SHOWN_PROBLEMS = 3  # of a card
ATTENTION_DAYS = 7
OLD_FIGURES = timedelta(hours=2)
BACKUP_STORE, UPGRADE_STORE = "backups.backup_store", "backups.upgrade_store"
GOOD, WARN, BAD = "success", "warning", "danger"
_WORST = (GOOD, WARN, BAD)
PRIORITY_VARIANTS = {Priority.IMMEDIATE: BAD, Priority.PLANNED: WARN, Priority.PERIODIC: "info"}
CARD_LEVELS = {Priority.IMMEDIATE: BAD, Priority.PLANNED: WARN, Priority.PERIODIC: GOOD}
_RANK = {priority: rank for rank, priority in enumerate(Priority.values)}


@dataclass
class StoreCard:
    """The state of a store: level, reasons and facts."""

    store: Store
    level: str = GOOD
    reasons: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)

    def add(self, level: str, reason: str) -> None:
        self.level = max(self.level, level, key=_WORST.index)
        self.reasons.append(reason)

    @property
    def word(self) -> str:
        return {GOOD: _("healthy"), WARN: _("warning"), BAD: _("critical")}[self.level]


@dataclass(frozen=True)
class ProblemRow:
    """An open problem of one kind in one store."""

    code: str  # two checks that report the same problem in a store share it
    priority: str
    title: str
    store: Store
    count: int | None = None
    since: datetime | None = None
    change: str = ""  # since the previous scan or measurement
    link: str = ""
    operation: str = ""  # the operation that repairs it
    params: Mapping[str, str] = field(default_factory=dict)
    button: str = ""

    @property
    def urgency(self) -> str:
        return str(Priority(self.priority).label)

    @property
    def variant(self) -> str:
        return PRIORITY_VARIANTS[Priority(self.priority)]


class RunLine(NamedTuple):
    run: Run
    title: str
    variant: str
    percent: str
    done: str


class Dashboard:
    """The content of the page. The number of statements on the console's own database is constant."""

    def __init__(self) -> None:
        self.states = StoreStates()
        self.now = self.states.now

    @cached_property
    def as_of(self) -> datetime | None:
        """Return the time of the newest measurement of the reachable store that was measured least recently."""
        newest: dict[str, datetime] = {}
        for row in self.states.latest.values():
            if row.store not in self.states.down:
                newest[row.store] = max(row.at, newest.get(row.store, row.at))
        return min(newest.values(), default=None)

    @property
    def figures_are_old(self) -> bool:
        return self.as_of is not None and self.now - self.as_of > OLD_FIGURES

    # --- stores ----------------------------------------------------------------------------------------------

    @cached_property
    def cards(self) -> list[StoreCard]:
        by_store: dict[str, list[ProblemRow]] = defaultdict(list)
        for problem in self.problems:
            by_store[problem.store.alias].append(problem)
        return [self._card(store, by_store[store.alias]) for store in self.states.stores]

    def _card(self, store: Store, problems: Sequence[ProblemRow]) -> StoreCard:
        card = StoreCard(store)
        if store.alias in self.states.down:
            card.add(BAD, _("unreachable: %(reason)s") % {"reason": self.states.down[store.alias]})
        for problem in problems[:SHOWN_PROBLEMS]:
            if problem.code == UNREACHABLE:
                continue
            words = problem.title
            if problem.count is not None:
                values = {"kind": problem.title, "count": format_number(problem.count)}
                words = _("%(kind)s: %(count)s") % values
            card.add(CARD_LEVELS[Priority(problem.priority)], words)
        more = len(problems) - SHOWN_PROBLEMS
        if more > 0:
            card.reasons.append(ngettext("%(count)d more problem", "%(count)d more problems", more) % {"count": more})
        card.facts.extend(self._size(store))
        at = self.states.backups.get(store.alias)
        card.facts.append((_("Newest verified backup"), self._ago(at) if at else _("none")))
        return card

    def _size(self, store: Store) -> Iterator[tuple[str, str]]:
        size = self.states.latest.get((store.alias, SIZE))
        if size is None:
            yield _("Size"), _("not measured yet")
            return
        yield _("Size"), filesizeformat(size.value or 0)
        first = next(row for row in self.states.measured if (row.store, row.name) == (store.alias, SIZE))
        days = (size.day - first.day).days
        if days and first.value is not None and size.value is not None:
            growth = size.value - first.value
            text = ngettext("%(size)s in %(days)d day", "%(size)s in %(days)d days", days)
            sign = "+" if growth >= 0 else "−"
            yield _("Growth"), sign + text % {"size": filesizeformat(abs(growth)), "days": days}

    def _ago(self, at: datetime) -> str:
        return _("%(time)s ago") % {"time": duration((self.now - at).total_seconds())}

    # --- open problems ----------------------------------------------------------------------------------------

    @cached_property
    def problems(self) -> list[ProblemRow]:
        """Return the open problems by priority, then by count. Of two reports of one problem, the more urgent one."""
        found = [
            *self._of_stores(),
            *self._of_findings(),
            *self._of_rows_in_scope(),
            *self._missing_tables_or_columns(),
            *self._overdue_schedules(),
        ]
        kept: dict[tuple[str, str], ProblemRow] = {}
        for problem in sorted(found, key=lambda one: (_RANK[one.priority], -(one.count or 0), one.code)):
            kept.setdefault((problem.store.alias, problem.code), problem)
        return list(kept.values())

    def _of_stores(self) -> Iterator[ProblemRow]:
        for problem in self.states.problems():
            alias = problem.store.alias
            row = ProblemRow(
                problem.code,
                problem.priority.value,
                problem.title,
                problem.store,
                since=problem.since,
                change=problem.detail,
                link=f"{reverse('stores')}#{alias}",
            )
            if problem.code == BACKUP_MISSING:
                row = replace(
                    row,
                    link=reverse("admin:stores_backup_changelist"),
                    operation=BACKUP_STORE,
                    params={"store": alias},
                    button=_("Plan backup"),
                )
            yield row

    def _of_findings(self) -> Iterator[ProblemRow]:
        """Yield the open findings of checks, by code."""
        identities = self.states.identities
        rows = list(
            Finding.objects.filter(identity__in=identities, resolved_at=None)
            .order_by()
            .values("operation", "identity", "code", "priority")
            .annotate(
                count=Count("pk"),
                since=Min("found_at"),
                seen=Max("seen_at"),
                scan=Max("last_run"),
                new=Count("pk", filter=Q(first_run=F("last_run"))),
            )
        )
        resolved = {
            (row["resolved_run"], row["code"]): row["count"]
            for row in Finding.objects.filter(resolved_run__in={row["scan"] for row in rows})
            .order_by()
            .values("resolved_run", "code")
            .annotate(count=Count("pk"))
        }
        for row in rows:
            cls = registry.operations().get(row["operation"])
            if cls is None or not issubclass(cls, Check):
                continue
            repair = registry.operations().get(cls.repairs.get(row["code"], ""))
            if repair is not None and repair.problem is not None:
                continue  # `_of_rows_in_scope` counts the same rows
            store = self.states.by_alias[identities[row["identity"]]]
            scanned_twice = row["since"] != row["seen"]
            yield ProblemRow(
                cls.problem_code(row["code"]),
                row["priority"],
                finding_label(cls, row["code"]),
                store,
                row["count"],
                row["since"],
                _change(row["new"], resolved.get((row["scan"], row["code"]), 0)) if scanned_twice else _("new"),
                f"{reverse('admin:operations_finding_changelist')}?state=open&q={row['code']}",
                cls.repairs.get(row["code"], ""),
                {"store": store.alias} if "store" in cls.Params.base_fields else {},
                _("Plan repair"),
            )

    @cached_property
    def _repairs(self) -> dict[str, Run]:
        """Return the newest run of each repair over its whole scope. It may be newer than the measurement."""
        runs = Run.objects.filter(operation__in=problem_operations(), identity__in=self.states.identities, selection={})
        newest = runs.filter(status__in=list(ENDED)).exclude(after={}).order_by().values("operation")
        last = newest.annotate(last=Max("pk")).values("last")
        return {run.operation: run for run in Run.objects.filter(pk__in=last).only(*_REPAIR_COLUMNS)}

    def _of_rows_in_scope(self) -> Iterator[ProblemRow]:
        """Yield the operations whose rows in scope are a problem."""
        for (alias, name), row in self.states.latest.items():
            cls = registry.operations().get(name.removeprefix(PROBLEM)) if name.startswith(PROBLEM) else None
            if cls is None or cls.problem is None or alias not in self.states.by_alias:
                continue
            value, before = row.value, row.before
            repair = self._repairs.get(cls.name)
            if repair is not None and repair.finished_at and repair.finished_at > row.at and "in_scope" in repair.after:
                value, before = repair.after["in_scope"], row.value
            if not value:
                continue
            growth = value - (before or 0)
            yield ProblemRow(
                cls.name,
                cls.problem.priority,
                str(cls.problem.title),
                self.states.by_alias[alias],
                value,
                row.since,
                _change(max(growth, 0), max(-growth, 0)) if before else _("new"),
                _rows_link(cls),
                cls.name,
                {},
                _("Plan repair"),
            )

    def _missing_tables_or_columns(self) -> Iterator[ProblemRow]:
        for (alias, name), row in self.states.latest.items():
            if name == MISSING and row.value and alias in self.states.by_alias:
                yield ProblemRow(
                    MISSING,
                    Priority.PLANNED.value,
                    ngettext("table or column missing", "tables or columns missing", row.value),
                    self.states.by_alias[alias],
                    row.value,
                    row.since,
                    row.text,
                    reverse("stores"),
                    UPGRADE_STORE if UPGRADE_STORE in registry.operations() else "",
                    {"store": alias},
                    _("Plan upgrade"),
                )

    def _overdue_schedules(self) -> Iterator[ProblemRow]:
        for state in self._schedules:
            if state.switch.on and state.next_run is not None and self.now - state.next_run > queue.OVERDUE:
                operation = state.operation
                yield ProblemRow(
                    f"overdue:{operation.name}",
                    Priority.IMMEDIATE.value,
                    _("overdue by schedule: %(title)s") % {"title": operation.title},
                    self.states.by_alias.get(getattr(operation, "store_alias", ""), self.states.stores[0]),
                    since=state.next_run,
                    link=f"{reverse('operations')}#{operation.name}",
                )

    # --- runs -----------------------------------------------------------------------------------------------------

    @cached_property
    def waiting(self) -> list[RunLine]:
        """Return the unsettled runs that need a user: to approve, to resume, or to look at the result."""
        since = self.now - timedelta(days=ATTENTION_DAYS)
        runs = list(
            _runs().filter(
                Q(status__in=[Status.AWAITING_APPROVAL, *RESUMABLE])
                | Q(status__in=[Status.NEEDS_ATTENTION, Status.FAILED], finished_at__gte=since)
            )[: 3 * SHOWN_RUNS]
        )
        settled = dict(
            Run.objects.filter(fingerprint__in={run.fingerprint for run in runs}, status=Status.SUCCEEDED)
            .order_by()
            .values_list("fingerprint")
            .annotate(newest=Max("pk"))
        )
        return [_run_line(run) for run in runs if settled.get(run.fingerprint, 0) < run.pk][:SHOWN_RUNS]

    @cached_property
    def running(self) -> list[RunLine]:
        return [_run_line(run) for run in _runs().filter(status__in=[Status.RUNNING, Status.QUEUED])[:SHOWN_RUNS]]

    @cached_property
    def recent_runs(self) -> list[RunLine]:
        return [_run_line(run) for run in _runs().filter(status__in=list(ENDED))[:SHOWN_RUNS]]

    @cached_property
    def _schedules(self) -> list[queue.ScheduleState]:
        return queue.schedules()

    @property
    def next(self) -> list[queue.ScheduleState]:
        due = [state for state in self._schedules if state.switch.on and state.next_run is not None]
        return sorted(due, key=lambda state: state.next_run or self.now)[:SHOWN_RUNS]

    @property
    def next_lines(self) -> list[tuple[str, datetime | None]]:
        return [(str(state.operation.title), state.next_run) for state in self.next]

    @cached_property
    def worker_missing(self) -> str:
        return wording.worker_missing() or wording.worker_missing(LONG_CLUSTER)

    @cached_property
    def charts(self) -> list[Chart]:
        return charts(self.states)


_REPAIR_COLUMNS = ("operation", "after", "finished_at")


def _runs() -> Any:
    return Run.objects.exclude(status=Status.PLANNED).defer("plan", "selection", "reasons").order_by("-pk")


def _run_line(run: Run) -> RunLine:
    percent = f"{min(100 * run.seen / run.total, 100):.0f}" if run.total else "0"
    done = wording.progress(run)
    return RunLine(run, operation_title(run.operation), STATUS_VARIANTS[run.status], percent, done)


def _change(more: int, fewer: int) -> str:
    parts = ([f"+{format_number(more)}"] if more else []) + ([f"−{format_number(fewer)}"] if fewer else [])
    return " ".join(parts) or _("unchanged")


def _rows_link(cls: Any) -> str:
    model = cls.model
    if model not in admin.site._registry or store_of(model) != cls.store_alias:
        return ""
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def dashboard_context(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Return the context of the theme's index page, see UNFOLD in the settings."""
    if request.user.has_perm("operations.view_run"):
        context["dashboard"] = Dashboard()
        context["may_operate"] = request.user.has_perm("operations.operate_run")
        context["title"] = _("Dashboard")
        context["stores_title"] = store_titles()
    return context
