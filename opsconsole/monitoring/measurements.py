"""Measurements of the stores, one per day. The dashboard shows them without querying any store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import DatabaseError, InterfaceError, transaction
from django.db.models import Count
from django.utils import timezone

from opsconsole.engine import incidents, planner, registry
from opsconsole.engine.models import Finding
from opsconsole.engine.operation import Operation
from opsconsole.engine.registry import InvalidParameters
from opsconsole.monitoring.models import Measurement
from opsconsole.monitoring.stats import connections_used
from opsconsole.stores.store import Store, StoreUnavailable

KEPT_DAYS, COMPARED_DAYS = 400, 40
SIZE, MISSING, CONNECTIONS = "size_bytes", "missing_parts", "connections_percent"
PROBLEM, FINDING = "problem:", "finding:"


class Figure(NamedTuple):
    name: str
    value: int | None
    text: str = ""


def figures(store: Store) -> Iterator[Figure]:
    """Return all measurements of a store. Raises StoreUnavailable."""
    try:
        yield Figure(SIZE, store.size())
        missing = store.missing()
        if store.vendor == "postgresql":
            limit, used = connections_used(store)
            yield Figure(CONNECTIONS, round(100 * used / limit), f"{used}/{limit}")
    except (DatabaseError, InterfaceError) as error:
        raise store.unusable(error) from error
    except OSError as error:
        raise StoreUnavailable(str(error)) from error
    yield Figure(MISSING, len(missing), ", ".join(missing[:10]))
    for name, cls in registry.problem_operations().items():
        if cls.store_alias == store.platform:
            yield _in_scope(store, name, cls)
    found = Finding.objects.filter(identity=store.identity(), resolved_at=None).order_by()
    for row in found.values("operation", "code").annotate(count=Count("pk")):
        yield Figure(f"{FINDING}{row['operation']}:{row['code']}", row["count"])


def _in_scope(store: Store, name: str, cls: type[Operation]) -> Figure:
    try:
        operation = planner.operation_on(cls, store, registry.clean(cls, {}))
        return Figure(PROBLEM + name, planner.plan(operation).total)
    except (StoreUnavailable, InvalidParameters) as error:
        return Figure(PROBLEM + name, None, str(error))
    except (DatabaseError, InterfaceError) as error:
        return Figure(PROBLEM + name, None, str(store.unusable(error)))


def keep(store: Store, measured: list[Figure]) -> None:
    """Save the measurements of today. A resolved finding counts 0."""
    now = timezone.now()
    today = timezone.localdate(now)
    with transaction.atomic():
        last: dict[str, Measurement] = {}
        rows = Measurement.objects.filter(store=store.alias, day__gt=today - timedelta(days=COMPARED_DAYS))
        for row in rows.order_by("day"):
            last[row.name] = row
        names = {figure.name for figure in measured}
        gone = [
            Figure(name, 0)
            for name, row in last.items()
            if name.startswith(FINDING) and name not in names and row.value
        ]
        Measurement.objects.bulk_create(
            (_row(store, figure, last.get(figure.name), now) for figure in (*measured, *gone)),
            update_conflicts=True,
            unique_fields=("day", "store", "name"),
            update_fields=("value", "before", "since", "text", "at"),
        )
        Measurement.objects.filter(store=store.alias, day__lte=today - timedelta(days=KEPT_DAYS)).delete()


def _row(store: Store, figure: Figure, before: Measurement | None, now: datetime) -> Measurement:
    since = None
    if figure.value:
        since = before.since if before is not None and before.value and before.since else now
    return Measurement(
        day=timezone.localdate(now),
        store=store.alias,
        name=figure.name,
        value=figure.value,
        before=before.value if before is not None else None,
        since=since,
        text=figure.text,
        at=now,
    )


def measure(store: Store) -> int:
    """Measure a store and save the result. Return the number of measurements. Raises StoreUnavailable."""
    measured = list(figures(store))
    keep(store, measured)
    for figure in measured:
        cls = registry.operations().get(figure.name.removeprefix(PROBLEM)) if figure.name.startswith(PROBLEM) else None
        if cls is not None and figure.value is not None:
            incidents.save_count(store.name, store.identity(), cls, figure.value)
    return len(measured)
