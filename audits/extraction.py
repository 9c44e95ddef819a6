"""Readers of the two times in the payload of a supervisor audit (see docs/platforms/agentos.md).

orjson reads nearly every payload. `json`, which keeps every digit, reads the rest: payloads that orjson refuses
(lone surrogates, numbers beyond a float, deep nesting) and those in which the time is a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from opsconsole.jsontext import Unreadable, decode, strict_decoder

KEYS = {
    "source_event_ts": ("source_event_ts", "source_ts", "event_timestamp", "task_created_at"),
    "supervisor_processed_at": ("supervisor_processed_at", "processed_at", "timestamp"),
}


class Number(str):
    """A JSON number, digit for digit."""


_EXACT = strict_decoder(parse_int=Number, parse_float=Number)


def read_object(payload: str | None) -> Mapping[str, Any]:
    """Return the payload's object, empty if the payload is NULL, empty or blank. Raise Unreadable."""
    if payload is None:
        return {}
    try:
        value = orjson.loads(payload)
    except ValueError:
        if not payload or payload.isspace():
            return {}
        value = read_exactly(payload)
    if type(value) is not dict:
        raise Unreadable("not_an_object")
    return value


def read_exactly(payload: str) -> Any:
    """Return the document with its numbers as text (`Number`). Raise Unreadable."""
    return decode(payload, _EXACT)


def time_in(document: Mapping[str, Any], keys: tuple[str, ...], payload: str | None) -> str | None:
    """Return the text of the first of `keys` that contains a time, or None."""
    for key in keys:
        value = document.get(key)
        if value is None:
            continue
        kind = type(value)
        if kind is str or kind is Number:
            if value and not value.isspace():
                return str(value)
        elif (kind is int or kind is float) and payload is not None:
            return str(read_exactly(payload)[key])
    return None
