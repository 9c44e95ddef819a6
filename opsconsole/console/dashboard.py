"""The dashboard: stores, open problems and runs, from figures that are measured beforehand."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib import admin
from django.db.models import Avg, Count, F, Max, Min, Q, Sum
from django.db.models.functions import TruncDate
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.console.page_parts import Table
from opsconsole.engine import queue, registry
from opsconsole.engine.checks import Check
from opsconsole.engine.labels import STATUS_VARIANTS, operation_title
from opsconsole.engine.models import ENDED, RESUMABLE, Finding, Run, Status
from opsconsole.engine.operation import LONG_CLUSTER, Priority
from opsconsole.formatting import duration, format_number
from opsconsole.monitoring.connectivity import identities, unreachable
from opsconsole.monitoring.measurements import CONNECTIONS, FINDING, LACKS, PROBLEM, SIZE, problem_operations
from opsconsole.monitoring.models import Measurement
from opsconsole.stores.models import Backup
from opsconsole.stores.platforms import store_titles
from opsconsole.stores.router import store_of
from opsconsole.stores.store import Store, all_stores

CHART_DAYS = 30
SHOWN_RUNS = 8
SHOWN_KINDS = 6
ATTENTION_DAYS = 7
OLD_FIGURES = timedelta(hours=2)
COLOURS = ("#2563eb", "#db2777", "#d97706", "#059669", "#7c3aed", "#dc2626", "#64748b")
GOOD, WARN, BAD = "success", "warning", "danger"
_WORST = (GOOD, WARN, BAD)
_RANK = {priority: rank for rank, priority in enumerate(Priority.values)}


@dataclass
class StoreCard:
    """A store at a glance."""

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
    """An open problem: one kind in one store."""

    priority: str
    kind: str
    store: Store
    count: int | None
    since: datetime | None
    moved: str
    as_of: datetime | None
    link: str = ""
    operation: str = ""  # whose plan repairs it
    params: Mapping[str, str] = field(default_factory=dict)
    button: str = ""
    code: str = ""  # of what people are told of by an alert

    @property
    def urgency(self) -> str:
        return str(Priority(self.priority).label)

    @property
    def variant(self) -> str:
        return {"immediate": BAD, "planned": WARN}.get(self.priority, "info")


class RunLine(NamedTuple):
    run: Run
    title: str
    variant: str
    percent: str
    done: str


class Chart(NamedTuple):
    title: str
    kind: str
    data: str
    options: str
    table: Table


class Dashboard:
    """Everything on the page, in a constant number of statements on the console's own database."""

    def __init__(self) -> None:
        self.now = timezone.now()
        self.stores = list(all_stores())
        self._by_alias = {store.alias: store for store in self.stores}
        self.down = unreachable([store for store in self.stores if store.alias in settings.STORES])
        self._identities = identities(self.stores)

    # --- what was measured ---------------------------------------------------------------------------------

    @cached_property
    def _measured(self) -> list[Measurement]:
        first = timezone.localdate(self.now) - timedelta(days=CHART_DAYS - 1)
        return list(Measurement.objects.filter(day__gte=first).order_by("day"))

    @cached_property
    def _latest(self) -> dict[tuple[str, str], Measurement]:
        return {(row.store, row.name): row for row in self._measured}

    @cached_property
    def as_of(self) -> datetime | None:
        """The age of the oldest store's newest figures."""
        newest: dict[str, datetime] = {}
        for row in self._latest.values():
            if row.store not in self.down:
                newest[row.store] = max(row.at, newest.get(row.store, row.at))
        return min(newest.values(), default=None)

    @property
    def figures_are_old(self) -> bool:
        return self.as_of is not None and self.now - self.as_of > OLD_FIGURES

    # --- stores ----------------------------------------------------------------------------------------------

    @cached_property
    def _backups(self) -> dict[str, datetime]:
        """Alias → the state that its newest verified backup holds."""
        rows = Backup.objects.filter(identity__in=self._identities, verified_at__isnull=False).order_by()
        newest = rows.values_list("identity").annotate(newest=Max("at"))
        return {self._identities[identity]: at for identity, at in newest}

    @cached_property
    def cards(self) -> list[StoreCard]:
        open_by_store: dict[str, list[ProblemRow]] = defaultdict(list)
        for line in self.problems:
            open_by_store[line.store.alias].append(line)
        return [self._card(store, open_by_store[store.alias]) for store in self.stores]

    def _card(self, store: Store, lines: Sequence[ProblemRow]) -> StoreCard:
        card = StoreCard(store)
        if store.alias in self.down:
            card.add(BAD, _("unreachable: %(reason)s") % {"reason": self.down[store.alias]})
        for line in lines[:3]:
            if line.code == "down":
                continue
            words = line.kind
            if line.count is not None:
                words = _("%(kind)s: %(count)s") % {"kind": line.kind, "count": format_number(line.count)}
            card.add({Priority.IMMEDIATE: BAD, Priority.PLANNED: WARN}.get(Priority(line.priority), GOOD), words)
        if len(lines) > 3:
            card.reasons.append(
                ngettext("%(count)d more problem", "%(count)d more problems", len(lines) - 3)
                % {"count": len(lines) - 3}
            )
        size = self._latest.get((store.alias, SIZE))
        if size is None:
            card.facts.append((_("Size"), _("not measured yet")))
        else:
            card.facts.append((_("Size"), filesizeformat(size.value or 0)))
            first = next(row for row in self._measured if (row.store, row.name) == (store.alias, SIZE))
            days = (size.day - first.day).days
            if days and first.value is not None and size.value is not None:
                growth = size.value - first.value
                words = filesizeformat(abs(growth))
                text = ngettext("%(size)s in %(days)d day", "%(size)s in %(days)d days", days)
                sign = "+" if growth >= 0 else "−"
                card.facts.append((_("Growth"), sign + text % {"size": words, "days": days}))
        at = self._backups.get(store.alias)
        card.facts.append((_("Newest verified backup"), self._ago(at) if at else _("none")))
        return card

    def _ago(self, at: datetime) -> str:
        return _("%(time)s ago") % {"time": duration((self.now - at).total_seconds())}

    # --- open problems ----------------------------------------------------------------------------------------

    @cached_property
    def problems(self) -> list[ProblemRow]:
        """Worst first."""
        found = [
            *self._unreachable(),
            *self._found(),
            *self._in_scope(),
            *self._lacking(),
            *self._connection_limit(),
            *self._without_backup(),
            *self._overdue(),
        ]
        kept: dict[tuple[str, str], ProblemRow] = {}  # two checks may see the same: the more urgent one says it
        for line in sorted(found, key=lambda line: (_RANK[line.priority], -(line.count or 0), line.kind)):
            kept.setdefault((line.store.alias, str(line.kind)), line)
        return list(kept.values())

    def alerts_due(self) -> list[ProblemRow]:
        """What people are told of: stores that are down, crowded servers, and backups that ran out."""
        late = [line for line in self._without_backup() if line.store.alias in self._backups]
        return [*self._unreachable(), *self._connection_limit(), *late]

    def _unreachable(self) -> Iterable[ProblemRow]:
        for alias, reason in self.down.items():
            store = self._by_alias[alias]
            yield ProblemRow(
                Priority.IMMEDIATE.value,
                _("unreachable"),
                store,
                None,
                None,
                reason,
                self.now,
                reverse("stores"),
                code="down",
            )

    def _found(self) -> Iterable[ProblemRow]:
        """What checks found and did not see resolved since, by kind."""
        rows = list(
            Finding.objects.filter(identity__in=self._identities, resolved_at=None)
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
        gone = {
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
                continue  # its rows in scope stand here themselves
            store = self._by_alias[self._identities[row["identity"]]]
            link = f"{reverse('admin:operations_finding_changelist')}?state=open&q={row['code']}"
            new, resolved = row["new"], gone.get((row["scan"], row["code"]), 0)
            yield ProblemRow(
                row["priority"],
                _kind(cls, row["code"]),
                store,
                row["count"],
                row["since"],
                _moved(new, resolved) if row["since"] != row["seen"] else _("new"),
                row["seen"],
                link,
                cls.repairs.get(row["code"], ""),
                {"store": store.alias} if "store" in cls.Params.base_fields else {},
                _("Plan repair"),
            )

    @cached_property
    def _repairs(self) -> dict[str, Run]:
        """Operation → its newest run over everything in scope: what it left is newer than what was measured."""
        runs = Run.objects.filter(operation__in=problem_operations(), identity__in=self._identities, selection={})
        newest = runs.filter(status__in=list(ENDED)).exclude(after={}).order_by().values("operation")
        last = newest.annotate(last=Max("pk")).values("last")
        return {run.operation: run for run in Run.objects.filter(pk__in=last).only(*_REPAIR_COLUMNS)}

    def _in_scope(self) -> Iterable[ProblemRow]:
        for (alias, name), row in self._latest.items():
            cls = registry.operations().get(name.removeprefix(PROBLEM)) if name.startswith(PROBLEM) else None
            if cls is None or cls.problem is None or alias not in self._by_alias:
                continue
            repair = self._repairs.get(cls.name)
            if repair is not None and repair.finished_at and repair.finished_at > row.at and "in_scope" in repair.after:
                row.before, row.value, row.at = row.value, repair.after["in_scope"], repair.finished_at
            if not row.value:
                continue
            change = row.value - (row.before if row.before is not None else 0)
            moved = _("new") if not row.before else _moved(max(change, 0), max(-change, 0))
            link = _rows_link(cls)
            yield ProblemRow(
                cls.problem.priority,
                str(cls.problem.kind),
                self._by_alias[alias],
                row.value,
                row.since,
                moved,
                row.at,
                link,
                cls.name,
                {},
                _("Plan repair"),
            )

    def _lacking(self) -> Iterable[ProblemRow]:
        for (alias, name), row in self._latest.items():
            if name == LACKS and row.value and alias in self._by_alias:
                kind = ngettext("table or column missing", "tables or columns missing", row.value)
                params = {"store": alias}
                yield ProblemRow(
                    Priority.PLANNED.value,
                    kind,
                    self._by_alias[alias],
                    row.value,
                    row.since,
                    row.text,
                    row.at,
                    reverse("stores"),
                    "backups.upgrade_store" if "backups.upgrade_store" in registry.operations() else "",
                    params,
                    _("Plan upgrade"),
                )

    def _connection_limit(self) -> Iterable[ProblemRow]:
        for (alias, name), row in self._latest.items():
            taken = row.value or 0
            if name == CONNECTIONS and alias in self._by_alias and taken >= settings.CONNECTIONS_ALERT_PERCENT:
                kind = _("per cent of the server's connections are taken (%(share)s)") % {"share": row.text}
                link = f"{reverse('stores')}#{alias}"
                yield ProblemRow(
                    Priority.IMMEDIATE.value, kind, self._by_alias[alias], taken, None, "", row.at, link, code="crowded"
                )

    def _without_backup(self) -> Iterable[ProblemRow]:
        limit = timedelta(hours=settings.BACKUP_MAX_AGE_HOURS)
        for store in self.stores:
            at = self._backups.get(store.alias)
            if at is not None and self.now - at <= limit:
                continue
            kind = (
                _("no verified backup")
                if at is None
                else _("no verified backup for %(hours)s h")
                % {"hours": format_number((self.now - at) / timedelta(hours=1), 0)}
            )
            priority = Priority.IMMEDIATE if settings.PRODUCTION else Priority.PERIODIC
            yield ProblemRow(
                priority.value,
                kind,
                store,
                None,
                at,
                "",
                self.now,
                reverse("admin:stores_backup_changelist"),
                "backups.backup_store",
                {"store": store.alias},
                _("Plan backup"),
                "backup",
            )

    def _overdue(self) -> Iterable[ProblemRow]:
        for state in self._schedules:
            if state.switch.on and state.next_run is not None and self.now - state.next_run > queue.OVERDUE:
                kind = _("overdue by schedule: %(title)s") % {"title": state.operation.title}
                store = self._by_alias.get(getattr(state.operation, "store", ""), self.stores[0])
                link = reverse("operations") + f"#{state.operation.name}"
                yield ProblemRow(Priority.IMMEDIATE.value, kind, store, None, state.next_run, "", self.now, link)

    # --- runs -----------------------------------------------------------------------------------------------------

    @cached_property
    def waiting(self) -> list[RunLine]:
        """Runs that go on, or are settled, by a person only."""
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
        for cluster in ("", LONG_CLUSTER):
            seen = queue.worker_seen(cluster)
            if seen is None or self.now - seen > queue.WORKER_SEEN:
                prefix = f"Q_CLUSTER_NAME={cluster} " if cluster else ""
                return _("No worker is running, so queued runs wait. Start one with: %(command)s") % {
                    "command": f"{prefix}python manage.py qcluster"
                }
        return ""

    # --- charts ---------------------------------------------------------------------------------------------------

    @cached_property
    def charts(self) -> list[Chart]:
        today = timezone.localdate(self.now)
        days = [today - timedelta(days=back) for back in range(CHART_DAYS - 1, -1, -1)]
        done = {
            row["on"]: row
            for row in Run.objects.filter(
                finished_at__gte=self.now - timedelta(days=CHART_DAYS), status__in=list(ENDED), started_at__isnull=False
            )
            .order_by()
            .annotate(on=TruncDate("finished_at"))
            .values("on")
            .annotate(rows=Sum("changed", filter=~Q(store="default")), seconds=Avg("elapsed_seconds"), runs=Count("pk"))
        }
        repaired = {day: row["rows"] or 0 for day, row in done.items()}
        seconds = {day: round(row["seconds"] or 0, 1) for day, row in done.items()}
        return [
            _chart(_("Open problems by kind"), "line", days, self._open_by_kind()),
            _chart(_("Rows repaired"), "bar", days, {_("rows"): repaired}),
            _chart(_("Seconds per run"), "bar", days, {_("seconds"): seconds}),
        ]

    def _open_by_kind(self) -> dict[str, dict[date, float]]:
        kinds: dict[str, dict[date, float]] = defaultdict(lambda: defaultdict(float))
        for row in self._measured:
            kind = _kind_of_figure(row.name)
            if kind:
                kinds[kind][row.day] += row.value or 0
        ranked = sorted(kinds, key=lambda kind: -max(kinds[kind].values()))
        shown = {kind: dict(kinds[kind]) for kind in ranked[:SHOWN_KINDS] if any(kinds[kind].values())}
        others: dict[date, float] = defaultdict(float)
        for kind in ranked[SHOWN_KINDS:]:
            for day, value in kinds[kind].items():
                others[day] += value
        return {**shown, **({_("others"): dict(others)} if any(others.values()) else {})}


_REPAIR_COLUMNS = ("operation", "after", "finished_at")


def _runs() -> Any:
    return Run.objects.exclude(status=Status.PLANNED).defer("plan", "selection", "reasons").order_by("-pk")


def _run_line(run: Run) -> RunLine:
    percent = f"{min(100 * run.seen / run.total, 100):.0f}" if run.total else "0"
    done = _("%(seen)s of %(total)s") % {"seen": format_number(run.seen), "total": format_number(run.total)}
    return RunLine(run, operation_title(run.operation), STATUS_VARIANTS[run.status], percent, done)


def _moved(more: int, fewer: int) -> str:
    parts = ([f"+{format_number(more)}"] if more else []) + ([f"−{format_number(fewer)}"] if fewer else [])
    return " ".join(parts) or _("unchanged")


def _kind(cls: type[Check], code: str) -> str:
    words = str(cls.reasons.get(code) or "")
    return words if words and "%(" not in words else code.replace("_", " ")


def _kind_of_figure(name: str) -> str:
    if name.startswith(PROBLEM):
        cls = registry.operations().get(name.removeprefix(PROBLEM))
        return str(cls.problem.kind) if cls is not None and cls.problem is not None else ""
    if name.startswith(FINDING):
        operation, _colon, code = name.removeprefix(FINDING).partition(":")
        check = registry.operations().get(operation)
        return _kind(check, code) if check is not None and issubclass(check, Check) else ""
    return ""


def _rows_link(cls: Any) -> str:
    model = cls.model
    if model not in admin.site._registry or store_of(model) != cls.store_alias:
        return ""
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def _chart(title: str, kind: str, days: Sequence[date], series: Mapping[str, Mapping[date, float]]) -> Chart:
    """A line breaks where nothing was measured; a bar is 0 where nothing ran."""
    datasets = [
        {
            "label": name,
            "data": [values.get(day, None if kind == "line" else 0) for day in days],
            "borderColor": COLOURS[place % len(COLOURS)],
            "backgroundColor": COLOURS[place % len(COLOURS)],
            "pointStyle": "circle",
            "pointRadius": 2,
        }
        for place, (name, values) in enumerate(series.items())
    ]
    seen = [day for day in reversed(days) if any(values.get(day) is not None for values in series.values())]
    rows = [
        [day.isoformat(), *(format_number(values[day]) if day in values else "–" for values in series.values())]
        for day in seen
    ]
    return Chart(
        title,
        kind,
        json.dumps({"labels": [f"{day:%m-%d}" for day in days], "datasets": datasets}),
        json.dumps(_OPTIONS),
        Table([_("Day"), *series], rows),
    )


_TICKS = {"color": "#8b95a5", "maxTicksLimit": 8}
_OPTIONS = {
    "animation": False,
    "responsive": True,
    "maintainAspectRatio": False,
    "spanGaps": True,
    "maxBarThickness": 10,
    "plugins": {"legend": {"position": "bottom", "labels": {"color": "#8b95a5", "boxWidth": 10, "boxHeight": 10}}},
    "scales": {
        "x": {"ticks": _TICKS, "grid": {"display": False}},
        "y": {"beginAtZero": True, "ticks": {**_TICKS, "precision": 0}, "grid": {"color": "rgba(139, 149, 165, 0.25)"}},
    },
}


def dashboard_context(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """What the theme's index page gets: see UNFOLD in the settings."""
    if request.user.has_perm("operations.view_run"):
        context["dashboard"] = Dashboard()
        context["may_operate"] = request.user.has_perm("operations.operate_run")
        context["title"] = _("Dashboard")
        context["stores_title"] = store_titles()
    return context
