"""Times of the store: they have no zone and are in `ROADMAPS_TIME_ZONE`.

A local time that occurs twice, when clocks are set back, counts as the later one.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings

from opsconsole.timestamps import parse_timestamp


def stuck_before(as_of: datetime) -> datetime:
    """Return the time such that a processing task without a change since then is stuck."""
    return as_of - timedelta(minutes=settings.ROADMAPS_STUCK_AFTER_MINUTES)


def is_recent(at: datetime | None, as_of: datetime) -> bool:
    """Return whether a task that changed at this time does not count as stuck yet."""
    return at is not None and at >= stuck_before(as_of)


def local_bound(at: datetime) -> str:
    """Return the local time from which on a stored time counts as `at` or later.

    In the first of two equal hours, any stored time of that hour may belong to the second.
    """
    local = at.astimezone(settings.ROADMAPS_TIME_ZONE)
    while _is_repeated(local) and not local.fold:
        local = local.replace(second=0, microsecond=0)
        if not _is_repeated(earlier := local.replace(tzinfo=None) - timedelta(minutes=1)):
            break
        local = earlier.replace(tzinfo=settings.ROADMAPS_TIME_ZONE)
    return f"{local:%Y-%m-%d %H:%M:%S}"


def _is_repeated(local: datetime) -> bool:
    first, second = (local.replace(tzinfo=settings.ROADMAPS_TIME_ZONE, fold=fold).utcoffset() for fold in (0, 1))
    return first is not None and second is not None and first > second


def stored_time(text: str | None) -> datetime | None:
    """Return the time that a stored text means, None if it is not a time."""
    found = parse_timestamp(text, settings.ROADMAPS_TIME_ZONE) if text else None
    try:
        return found and max(found.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    except (OverflowError, ValueError):  # at the ends of the calendar
        return None


def last_changed(task: Any) -> datetime | None:
    """Return when a task last changed, which is its creation if it has no `updated_at`."""
    return stored_time(task.updated_at or task.created_at)
