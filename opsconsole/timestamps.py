"""Timestamps that stores hold as text."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_MILLISECONDS = 1e11  # as seconds: the year 5138; as milliseconds: 1973
_NUMBER = re.compile(r"[+-]?\d{1,20}(\.\d{1,20})?([eE][+-]?\d{1,2})?", re.ASCII)


def format_timestamp(at: datetime, zone: tzinfo = UTC) -> str:
    """Return a time as `CURRENT_TIMESTAMP` writes it: to the second, in `zone` and without naming it."""
    return f"{at.astimezone(zone):%Y-%m-%d %H:%M:%S}"


def current_timestamp() -> str:
    """Return what `DEFAULT CURRENT_TIMESTAMP` would write now."""
    return format_timestamp(datetime.now(UTC))


def parse_timestamp(text: str, zone: tzinfo = UTC) -> datetime | None:
    """Return the time in `text`, None if it is not a time.

    The text is ISO 8601, in `zone` if it names no zone, or epoch seconds or milliseconds. Reports parse
    millions of them: the usual forms take half a microsecond.
    """
    if text[4:5] != "-":
        text = text.strip()
        if _NUMBER.fullmatch(text):
            return _since_epoch(float(text))
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=zone)


def _since_epoch(number: float) -> datetime | None:
    seconds = number if abs(number) < FIRST_MILLISECONDS else number / 1000
    try:
        return EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return None
