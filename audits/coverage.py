"""How far the two decision times are filled, how far apart they lie, and whether they agree with the payload.

Document 000's verification query, per column and per event type; the lag between the columns; and, of a
sample, what the payload says.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import accumulate
from typing import Any

from django.db import DatabaseError
from django.db.models import Count, Q, QuerySet, TextField
from django.db.models.functions import Cast, Coalesce
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from audits.extraction import KEYS, read_object, time_in
from audits.models import TaskAudit
from audits.operations.backfill_decision_fields import BackfillDecisionFields
from opsconsole.jsontext import Unreadable
from opsconsole.stores.store import Store
from opsconsole.timestamps import parse_timestamp

SAMPLE = 20_000  # filled audits whose payload is read
WINDOWS = 20  # in as many places, evenly over the keys
CHUNK = 5_000

FILLED = Q(source_event_ts__isnull=False) & Q(supervisor_processed_at__isnull=False)

_SUPERVISOR = re.compile("SUPERVISOR", re.ASCII | re.IGNORECASE)

Figures = dict[str, Any]


def coverage(store: Store, *, newest: int | None = None, sample: int = SAMPLE) -> Figures:
    """The figures of `store`, as of now. Raises StoreUnavailable.

    `newest` bounds what is read, for a page: lag and consistency are of the newest so many audits, and the
    counts, still of all, are what the indexes know: not how many have `supervisor_processed_at` alone.
    """
    store.require({TaskAudit: ("audit_id", "event_type", "payload", *KEYS)})
    as_of = timezone.now()
    supervisor = BackfillDecisionFields(store).population().order_by()
    try:
        older = _older_than_newest(store, newest)
        looked_at = supervisor if older is None else supervisor.filter(pk__gt=older)
        return {
            "store": store.alias,
            "location": store.location,
            "as_of": as_of.isoformat(),
            **(_counts(supervisor) if older is None else _counts_by_index(store)),
            "newest": None if older is None else newest,
            "lag": lag(looked_at.values_list(*KEYS).iterator(CHUNK)),
            "consistency": _consistency(supervisor, sample, older or 0),
        }
    except DatabaseError as error:
        raise store.unusable(error) from error


# --- counts ------------------------------------------------------------------------------------------


def _counts(supervisor: QuerySet[TaskAudit]) -> Figures:
    """One pass in the table's own order: grouped by the bare column, SQLite would follow an index instead
    and look each of its entries up.
    """
    rows: QuerySet[Any] = (
        supervisor.annotate(kind=Cast("event_type", TextField()))
        .values("kind")
        .annotate(total=Count("pk"), both=Count("pk", filter=FILLED), **{f"has_{name}": Count(name) for name in KEYS})
        .order_by("kind")
    )
    event_types = [
        {
            "event_type": row["kind"],
            "total": row["total"],
            "lacking": row["total"] - row["both"],
            "columns": {name: _share(row[f"has_{name}"], row["total"]) for name in KEYS},
        }
        for row in rows
    ]
    return _summed(event_types, sum(row["lacking"] for row in event_types), tuple(KEYS))


def _counts_by_index(store: Store) -> Figures:
    """The same without a look at the table: what `supervisor_processed_at` holds alone, no index knows."""
    audits = TaskAudit.objects.using(store.alias).order_by()
    by_type = audits.values_list("event_type").annotate(Count("pk"))
    filled = dict(by_type.filter(source_event_ts__isnull=False))
    others = [kind for kind in filled if not _SUPERVISOR.search(kind)]  # seldom any, with few rows to look up
    both = audits.filter(FILLED).count() - audits.filter(FILLED, event_type__in=others).count()
    event_types = [
        {
            "event_type": kind,
            "total": total,
            "lacking": None,
            "columns": {"source_event_ts": _share(filled.get(kind, 0), total)},
        }
        for kind, total in sorted(by_type)
        if _SUPERVISOR.search(kind)
    ]
    return _summed(event_types, sum(row["total"] for row in event_types) - both, ("source_event_ts",))


def _summed(event_types: list[Figures], lacking: int, columns: tuple[str, ...]) -> Figures:
    total = sum(row["total"] for row in event_types)
    return {
        "total": total,
        "lacking": lacking,
        "both": _share(total - lacking, total),
        "columns": {
            name: _share(sum(row["columns"][name]["filled"] for row in event_types), total) for name in columns
        },
        "event_types": event_types,
    }


def _share(filled: int, total: int) -> Figures:
    return {"filled": filled, "total": total, "percent": round(100 * filled / total, 2) if total else None}


def _older_than_newest(store: Store, count: int | None) -> int | None:
    """The key behind the newest `count` audits, None if there are no more: it bounds what is read."""
    if count is None:
        return None
    keys = TaskAudit.objects.using(store.alias).order_by("-pk").values_list("pk", flat=True)
    return keys[count : count + 1].first()


# --- lag ---------------------------------------------------------------------------------------------


def lag(pairs: Iterable[tuple[str | None, str | None]]) -> Figures:
    """Seconds from source event to supervisor. Each pair is counted once: measured, unreadable or without both.

    Negative ones are measured like all others, and counted as well.
    """
    spread, unreadable, without_both = Histogram(), 0, 0
    for source, processed in pairs:
        if source is None or processed is None:
            without_both += 1
            continue
        begin, end = parse_timestamp(source), parse_timestamp(processed)
        if begin is None or end is None:
            unreadable += 1
        else:
            spread.add((end - begin) // _MICROSECOND)
    return {
        "looked_at": spread.count + unreadable + without_both,
        **spread.figures(),
        "unreadable": unreadable,
        "without_both": without_both,
    }


class Histogram:
    """The distribution of microseconds, in bounded memory: up to `EXACT` different values are kept as they
    are, more of them to four digits. Smallest, largest and mean are exact at any number.
    """

    EXACT = 200_000

    def __init__(self) -> None:
        self.values: Counter[int] = Counter()
        self.exact = True
        self.count = self.negative = self.sum = self.least = self.most = 0

    def add(self, value: int) -> None:
        if not self.count:
            self.least = self.most = value
        elif value < self.least:
            self.least = value
        elif value > self.most:
            self.most = value
        self.count += 1
        self.negative += value < 0
        self.sum += value
        self.values[value if self.exact else round_significant(value)] += 1
        if self.exact and len(self.values) > self.EXACT:
            self._round()

    def _round(self) -> None:
        rounded: Counter[int] = Counter()
        for value, times in self.values.items():
            rounded[round_significant(value)] += times
        self.values, self.exact = rounded, False

    def figures(self) -> Figures:
        names = ("min", "p50", "p90", "p99", "max", "mean")
        if not self.count:
            return {"count": 0, "negative": 0, **dict.fromkeys(names)}
        ordered = sorted(self.values)
        ranks = list(accumulate(self.values[value] for value in ordered))
        # The smallest value that so many percent of all do not exceed.
        percentiles = (ordered[bisect_left(ranks, -(-percent * self.count // 100))] for percent in (50, 90, 99))
        values = (self.least, *percentiles, self.most, round(self.sum / self.count))
        return {
            "count": self.count,
            "negative": self.negative,
            **{name: value / 1e6 for name, value in zip(names, values, strict=True)},
        }


def round_significant(value: int) -> int:
    return round(value, 4 - len(str(abs(value))))


_MICROSECOND = timedelta(microseconds=1)


# --- consistency -------------------------------------------------------------------------------------

VERDICTS = {
    "equal": _("equal"),
    "differing": _("differing"),
    "silent": _("payload silent"),
    "unreadable": _("payload unreadable"),
}


def _consistency(supervisor: QuerySet[TaskAudit], sample: int, older: int) -> Figures:
    """Per column, how many filled values the payload confirms, contradicts, or says nothing about."""
    columns = {column: dict.fromkeys(VERDICTS, 0) for column in KEYS}
    looked_at = 0
    # COALESCE where OR would do: SQLite answers that by the columns' indexes, and sorts all they hold.
    filled = supervisor.alias(either=Coalesce(*KEYS)).filter(either__isnull=False)
    for payload, *values in _sample(filled.values_list("payload", *KEYS), sample, older):
        looked_at += 1
        for (column, keys), value in zip(KEYS.items(), values, strict=True):
            if value is not None:
                columns[column][_verdict(payload, keys, value)] += 1
    return {"looked_at": looked_at, "sample": sample, "columns": columns}


def _verdict(payload: str | None, keys: tuple[str, ...], value: str) -> str:
    try:
        said = time_in(read_object(payload), keys, payload)
    except Unreadable:
        return "unreadable"
    if said is None:
        return "silent"
    return "equal" if said == value else "differing"


def _sample(rows: QuerySet[Any], size: int, older: int) -> Iterator[Any]:
    """Up to `size` rows behind the key `older`, the first ones of each of `WINDOWS` equal spans of the key."""
    keys = rows.filter(pk__gt=older).values_list("pk", flat=True)
    first, last = keys.order_by("pk").first(), keys.order_by("-pk").first()
    if first is None or last is None:
        return
    span = (last - first) // WINDOWS + 1
    for start in range(first, last + 1, span):
        window = rows.filter(pk__gte=start, pk__lt=start + span).order_by("pk")
        yield from window[: size // WINDOWS]
