"""The store's times: naive, in `ROADMAPS_TIME_ZONE`. What they say twice, when clocks go back, counts as the later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings

from opsconsole.timestamps import parse_timestamp
from roadmaps.models import RoadmapTask


def stuck_before(as_of: datetime) -> datetime:
    """A processing task that has not moved since then is stuck."""
    return as_of - timedelta(minutes=settings.ROADMAPS_STUCK_AFTER_MINUTES)


def bound_text(at: datetime) -> str:
    """The local time from which on a stored one is not before `at`.

    In the first of two equal hours every stored time of that hour may be of the second.
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


def moved_at(text: str | None) -> datetime | None:
    """A stored time as a moment; None for what is no time."""
    found = parse_timestamp(text, settings.ROADMAPS_TIME_ZONE) if text else None
    try:
        return found and max(found.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    except (OverflowError, ValueError):  # at the ends of the calendar
        return None


def last_moved(task: Any) -> datetime | None:
    """A task that nothing has touched yet moved when it was made; None for what is no time."""
    return moved_at(task.updated_at or task.created_at)


def is_at_work(status: str, moved: datetime | None, as_of: datetime) -> bool:
    """Processing, and moved within the time after which it counts as stuck."""
    return status == RoadmapTask.Status.PROCESSING and moved is not None and moved >= stuck_before(as_of)
