"""Readers of the two times in the payload of a supervisor audit (see docs/platforms/agentos.md).

msgspec reads nearly every text: it checks the whole text, but creates only the values of the keys. orjson reads bytes,
which msgspec does not check for UTF-8 outside of the keys, and deep nesting: the limit of orjson is the same in every
thread. `json`, which keeps every digit, reads the rest: payloads that both refuse (lone surrogates, numbers beyond a
float) and those in which the time is a number.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from opsconsole.jsontext import Unreadable, decode, strict_decoder

KEYS = {
    "source_event_ts": ("source_event_ts", "source_ts", "event_timestamp", "task_created_at"),
    "supervisor_processed_at": ("supervisor_processed_at", "processed_at", "timestamp"),
}


class Number(str):
    """A JSON number, digit for digit."""


_EXACT = strict_decoder(parse_int=Number, parse_float=Number)
#: The values of all keys in a payload; None for a missing one.
Times = msgspec.defstruct("Times", [(key, Any, None) for keys in KEYS.values() for key in keys], gc=False)
_EMPTY = Times()
_decode_times = msgspec.json.Decoder(Times).decode


def read_times(payload: str | bytes | None) -> Any:
    """Return the `Times` of a payload, without values if the payload is NULL, empty or blank. Raise Unreadable."""
    if payload is None:
        return _EMPTY
    if type(payload) is str:
        try:  # the hot path: `suppress` costs a tenth of the decoding
            return _decode_times(payload)
        except (ValueError, RecursionError):  # read below
            pass
    if not payload or payload.isspace():
        return _EMPTY
    try:
        return _times_of(orjson.loads(payload))
    except ValueError:
        return _read_exactly(payload)


def _read_exactly(payload: str | bytes) -> Any:
    """Return the `Times` of a payload with numbers as text (`Number`). Raise Unreadable."""
    return _times_of(decode(payload, _EXACT))


def _times_of(document: Any) -> Any:
    if type(document) is not dict:
        raise Unreadable("not_an_object")
    return Times(**{key: document[key] for key in Times.__struct_fields__ if key in document})


def time_in(times: Any, keys: tuple[str, ...], payload: str | bytes | None) -> str | None:
    """Return the text of the first of `keys` that contains a time, or None."""
    for key in keys:
        value = getattr(times, key)
        if value is None:
            continue
        kind = type(value)
        if kind is str:
            if value and not value.isspace():
                return value  # type: ignore[no-any-return]
        elif kind is Number:
            return str(value)
        elif (kind is int or kind is float) and payload is not None:
            return str(getattr(_read_exactly(payload), key))
    return None
