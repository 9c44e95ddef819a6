"""The two times of a supervisor audit, out of its payload (document 000, "字段提取逻辑").

orjson reads nearly every payload; what it refuses (lone surrogates, numbers beyond a float, deep nesting)
and documents in which a number is the wanted value are read again with `json`, which keeps digits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Never

import orjson

KEYS = {
    "source_event_ts": ("source_event_ts", "source_ts", "event_timestamp", "task_created_at"),
    "supervisor_processed_at": ("supervisor_processed_at", "processed_at", "timestamp"),
}


class Unreadable(Exception):
    """The payload holds no object. `reason`: broken_json, not_an_object or too_deep."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Number(str):
    """A JSON number, digit for digit."""


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant} is no JSON")


_EXACT = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=_refuse)


def read_object(payload: str | None) -> Mapping[str, Any]:
    """The payload's object; empty for NULL, empty and blank. Raises Unreadable."""
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
    """RFC 8259, numbers as their own text (`Number`). Raises Unreadable."""
    try:
        payload.encode()
        return _EXACT.decode(payload)
    except RecursionError:
        raise Unreadable("too_deep") from None
    except ValueError:
        raise Unreadable("broken_json") from None


def time_in(document: Mapping[str, Any], keys: tuple[str, ...], payload: str | None) -> str | None:
    """The first of `keys` that holds a time, as its own text; None when none does."""
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
