"""Charts of the dashboard: open problems, repaired rows and the duration of runs, by day."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import NamedTuple

from django.db.models import Avg, Q, Sum
from django.db.models.functions import TruncDate
from django.utils import timezone
from django.utils.translation import gettext as _

from opsconsole.console.page_parts import Table
from opsconsole.engine import registry
from opsconsole.engine.checks import Check
from opsconsole.engine.history import in_force
from opsconsole.engine.labels import finding_label
from opsconsole.engine.models import ENDED, Run
from opsconsole.formatting import format_number
from opsconsole.monitoring.measurements import FINDING, PROBLEM
from opsconsole.monitoring.models import Measurement
from opsconsole.monitoring.store_problems import SHOWN_DAYS, StoreStates
from opsconsole.stores.router import DEFAULT

SHOWN_SERIES = 6
COLOURS = ("#2563eb", "#db2777", "#d97706", "#059669", "#7c3aed", "#dc2626", "#64748b")
_GREY = "#8b95a5"
_TICKS = {"color": _GREY, "maxTicksLimit": 8}
_OPTIONS = {
    "animation": False,
    "responsive": True,
    "maintainAspectRatio": False,
    "spanGaps": True,
    "maxBarThickness": 10,
    "plugins": {"legend": {"position": "bottom", "labels": {"color": _GREY, "boxWidth": 10, "boxHeight": 10}}},
    "scales": {
        "x": {"ticks": _TICKS, "grid": {"display": False}},
        "y": {"beginAtZero": True, "ticks": {**_TICKS, "precision": 0}, "grid": {"color": "rgba(139, 149, 165, 0.25)"}},
    },
}


class Chart(NamedTuple):
    """A chart as the theme draws it, and the same figures as a table."""

    title: str
    kind: str
    data: str
    options: str
    table: Table


def charts(states: StoreStates) -> list[Chart]:
    today = timezone.localdate(states.now)
    days = [today - timedelta(days=back) for back in range(SHOWN_DAYS - 1, -1, -1)]
    ended = in_force(Run.objects.all()).filter(
        finished_at__gte=states.now - timedelta(days=SHOWN_DAYS), status__in=list(ENDED), started_at__isnull=False
    )
    by_day = (
        ended.order_by()
        .annotate(day=TruncDate("finished_at"))
        .values("day")
        .annotate(rows=Sum("changed", filter=~Q(store=DEFAULT)), seconds=Avg("elapsed_seconds"))
    )
    rows: dict[date, float] = {}
    seconds: dict[date, float] = {}
    for figures in by_day:
        rows[figures["day"]] = figures["rows"] or 0
        seconds[figures["day"]] = round(figures["seconds"] or 0, 1)
    return [
        _chart(_("Open problems by kind"), "line", days, _open_problems(states.measured)),
        _chart(_("Rows repaired"), "bar", days, {_("rows"): rows}),
        _chart(_("Seconds per run"), "bar", days, {_("seconds"): seconds}),
    ]


def _open_problems(measured: Sequence[Measurement]) -> dict[str, dict[date, float]]:
    """Return title → count per day of the most frequent problems, and of all others together."""
    titles: dict[str, str] = {}
    counts: dict[str, dict[date, float]] = defaultdict(lambda: defaultdict(float))
    for row in measured:
        if problem := _problem(row.name):
            code, titles[code] = problem
            counts[code][row.day] += row.value or 0
    ranked = sorted(
        (code for code in counts if any(counts[code].values())), key=lambda code: -max(counts[code].values())
    )
    shown = {titles[code]: dict(counts[code]) for code in ranked[:SHOWN_SERIES]}
    others: dict[date, float] = defaultdict(float)
    for code in ranked[SHOWN_SERIES:]:
        for day, value in counts[code].items():
            others[day] += value
    return {**shown, **({_("others"): dict(others)} if others else {})}


def _problem(measurement: str) -> tuple[str, str] | None:
    """Return code and title of the problem that a measurement counts."""
    if measurement.startswith(PROBLEM):
        cls = registry.operations().get(measurement.removeprefix(PROBLEM))
        return (cls.problem.code, str(cls.title)) if cls is not None and cls.problem is not None else None
    if measurement.startswith(FINDING):
        name, _colon, code = measurement.removeprefix(FINDING).partition(":")
        check = registry.operations().get(name)
        if check is not None and issubclass(check, Check):
            return check.cause_of_code(code).code, finding_label(check, code)
    return None


def _chart(title: str, kind: str, days: Sequence[date], series: Mapping[str, Mapping[date, float]]) -> Chart:
    """Draw a gap in a line where nothing was measured, and 0 in a bar where nothing ran."""
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
    measured = [day for day in reversed(days) if any(day in values for values in series.values())]
    rows = [
        [day.isoformat(), *(format_number(values[day]) if day in values else "–" for values in series.values())]
        for day in measured
    ]
    return Chart(
        title,
        kind,
        json.dumps({"labels": [f"{day:%m-%d}" for day in days], "datasets": datasets}),
        json.dumps(_OPTIONS),
        Table([_("Day"), *series], rows),
    )
