"""The coverage of the decision times, the lag between them, and their consistency with the payload.

See "Decision times" in docs/platforms/agentos.md.
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
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from audits.extraction import KEYS, read_times, time_in
from audits.models import TaskAudit
from audits.operations.backfill_decision_fields import BackfillDecisionFields
from opsconsole.formatting import format_number
from opsconsole.jsontext import Unreadable
from opsconsole.stores.store import Store
from opsconsole.timestamps import parse_timestamp

SAMPLE = 20_000  # filled audits whose payload is read
WINDOWS = 20  # spans of the key that the sample is taken from
CHUNK = 5_000

FILLED = Q(source_event_ts__isnull=False) & Q(supervisor_processed_at__isnull=False)

_SUPERVISOR = re.compile("SUPERVISOR", re.ASCII | re.IGNORECASE)

Figures = dict[str, Any]


def coverage(store: Store, *, newest: int | None = None, sample: int = SAMPLE) -> Figures:
    """Return the figures of `store`. Raise StoreUnavailable.

    `newest` keeps a page fast: lag and consistency are computed from that many audits, and the counts, which still
    cover all audits, come from the indexes. These do not tell how many audits have `supervisor_processed_at` only.
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
    """Count in one pass over the table.

    The cast keeps SQLite from following an index on the column and looking up each of its entries.
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
            "missing": row["total"] - row["both"],
            "columns": {name: _share(row[f"has_{name}"], row["total"]) for name in KEYS},
        }
        for row in rows
    ]
    return _summed(event_types, sum(row["missing"] for row in event_types), tuple(KEYS))


def _counts_by_index(store: Store) -> Figures:
    """Count by the indexes only. None of them contains `supervisor_processed_at` alone."""
    audits = TaskAudit.objects.using(store.alias).order_by()
    by_type = audits.values_list("event_type").annotate(Count("pk"))
    filled = dict(by_type.filter(source_event_ts__isnull=False))
    others = [kind for kind in filled if not _SUPERVISOR.search(kind)]  # rare, so the lookup of their rows is cheap
    both = audits.filter(FILLED).count() - audits.filter(FILLED, event_type__in=others).count()
    event_types = [
        {
            "event_type": kind,
            "total": total,
            "missing": None,
            "columns": {"source_event_ts": _share(filled.get(kind, 0), total)},
        }
        for kind, total in sorted(by_type)
        if _SUPERVISOR.search(kind)
    ]
    return _summed(event_types, sum(row["total"] for row in event_types) - both, ("source_event_ts",))


def _summed(event_types: list[Figures], missing: int, columns: tuple[str, ...]) -> Figures:
    total = sum(row["total"] for row in event_types)
    return {
        "total": total,
        "missing": missing,
        "both": _share(total - missing, total),
        "columns": {
            name: _share(sum(row["columns"][name]["filled"] for row in event_types), total) for name in columns
        },
        "event_types": event_types,
    }


def _share(filled: int, total: int) -> Figures:
    return {"filled": filled, "total": total, "percent": round(100 * filled / total, 2) if total else None}


def _older_than_newest(store: Store, count: int | None) -> int | None:
    """Return the key that precedes the newest `count` audits, or None if there are not more."""
    if count is None:
        return None
    keys = TaskAudit.objects.using(store.alias).order_by("-pk").values_list("pk", flat=True)
    return keys[count : count + 1].first()


# --- lag ---------------------------------------------------------------------------------------------


def lag(pairs: Iterable[tuple[str | None, str | None]]) -> Figures:
    """Measure the seconds from source event to supervisor.

    Each pair is counted once: measured, unreadable or without both. Negative lags are measured and counted separately.
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


LAG_LABELS = {
    "min": _("smallest"),
    "p50": "p50",
    "p90": "p90",
    "p99": "p99",
    "max": _("largest"),
    "mean": _("mean"),
}
LAG_COUNT_LABELS = {
    "count": _("measured"),
    "negative": _("of them negative"),
    "unreadable": _("unreadable"),
    "without_both": _("without both times"),
}


class Histogram:
    """A distribution of microseconds in bounded memory.

    More than `EXACT` distinct values are rounded to four digits. Smallest, largest and mean remain exact.
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
        if not self.count:
            return {"count": 0, "negative": 0, **dict.fromkeys(LAG_LABELS)}
        ordered = sorted(self.values)
        ranks = list(accumulate(self.values[value] for value in ordered))
        # Nearest rank: the smallest value that is not below the given percentage of all values.
        percentiles = (ordered[bisect_left(ranks, -(-percent * self.count // 100))] for percent in (50, 90, 99))
        values = (self.least, *percentiles, self.most, round(self.sum / self.count))
        return {
            "count": self.count,
            "negative": self.negative,
            **{name: value / 1e6 for name, value in zip(LAG_LABELS, values, strict=True)},
        }


def round_significant(value: int) -> int:
    return round(value, 4 - len(str(abs(value))))


_MICROSECOND = timedelta(microseconds=1)


# --- consistency -------------------------------------------------------------------------------------

VERDICTS = {
    "equal": _("equal"),
    "differing": _("differing"),
    "silent": _("not in the payload"),
    "unreadable": _("payload unreadable"),
}


def _consistency(supervisor: QuerySet[TaskAudit], sample: int, older: int) -> Figures:
    """Count, for each column, the filled values that equal the payload's, differ from them or are missing there."""
    columns = {column: dict.fromkeys(VERDICTS, 0) for column in KEYS}
    looked_at = 0
    # SQLite would answer an OR by the indexes of the columns and sort all their entries.
    filled = supervisor.alias(either=Coalesce(*KEYS)).filter(either__isnull=False)
    for payload, *values in _sample(filled.values_list("payload", *KEYS), sample, older):
        looked_at += 1
        for (column, keys), value in zip(KEYS.items(), values, strict=True):
            if value is not None:
                columns[column][_verdict(payload, keys, value)] += 1
    return {"looked_at": looked_at, "sample": sample, "columns": columns}


def sample_note(consistency: Figures) -> str:
    """Return the number of payloads that the consistency is based on, as a sentence."""
    return gettext("Payloads read: %(count)s, at most %(sample)s, spread evenly.") % {
        "count": format_number(consistency["looked_at"]),
        "sample": format_number(consistency["sample"]),
    }


def _verdict(payload: str | None, keys: tuple[str, ...], value: str) -> str:
    try:
        time = time_in(read_times(payload), keys, payload)
    except Unreadable:
        return "unreadable"
    if time is None:
        return "silent"
    return "equal" if time == value else "differing"


def _sample(rows: QuerySet[Any], size: int, older: int) -> Iterator[Any]:
    """Yield up to `size` rows after the key `older`: the first rows of each of `WINDOWS` equal spans of the key."""
    keys = rows.filter(pk__gt=older).values_list("pk", flat=True)
    first, last = keys.order_by("pk").first(), keys.order_by("-pk").first()
    if first is None or last is None:
        return
    span = (last - first) // WINDOWS + 1
    for start in range(first, last + 1, span):
        window = rows.filter(pk__gte=start, pk__lt=start + span).order_by("pk")
        yield from window[: size // WINDOWS]
