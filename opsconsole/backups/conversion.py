"""Values of a copy: converted for the column of the target, and compared between the engines."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _

from opsconsole.jsontext import Unreadable, decode
from opsconsole.timestamps import parse_timestamp

Convert = Callable[[Any], Any]

_KINDS = {
    "timestamp with time zone": "moment",
    "timestamp without time zone": "naive",
    "boolean": "bool",
    "json": "json",
    "jsonb": "json",
    "bytea": "bytes",
    "smallint": "int",
    "integer": "int",
    "bigint": "int",
    "real": "float",
    "double precision": "float",
    "numeric": "number",
    "uuid": "uuid",
}
_BITS = {"smallint": 15, "integer": 31, "bigint": 63}


class Unstorable(ValueError):
    """A value that the column of the target cannot store."""


def kind_of(base: str) -> str:
    """Return the kind of a PostgreSQL type."""
    return _KINDS.get(base, "text")


def converter(base: str) -> Convert:
    """Return the function that converts a value to a PostgreSQL type. It raises ValueError or OverflowError."""
    return _integer(base) if base in _BITS else _CONVERT.get(kind_of(base), _to_text)


def comparable(base: str) -> Convert:
    """Return the function that gives equal values of a type one form on both engines."""
    return _COMPARABLE[kind_of(base)]


def unchanged(value: Any) -> Any:
    """Return the value itself."""
    return value


# --- into PostgreSQL -----------------------------------------------------------------------------------------


def _to_moment(value: Any) -> str:
    at = parse_timestamp(str(value))
    if at is None:
        raise Unstorable(_("%(value)s is not a time") % {"value": str(value)[:50]})
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds") + "+00"


def _to_naive(value: Any) -> str:
    return _to_moment(value)[:-3]


def _to_bool(value: Any) -> bool:
    if str(value).lower() in {"1", "t", "true"}:
        return True
    if str(value).lower() in {"0", "f", "false"}:
        return False
    raise Unstorable(_("%(value)s is neither true nor false") % {"value": str(value)[:50]})


def _to_text(value: Any) -> str:
    try:
        text = _as_text(value)
    except UnicodeDecodeError:
        raise Unstorable(_("the text is not valid UTF-8")) from None
    if "\x00" in text:
        raise Unstorable(_("PostgreSQL cannot store U+0000 in a text"))
    return text


def _to_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _to_json(value: Any) -> str:
    text = _to_text(value)
    try:
        decode(text)
    except Unreadable:
        raise Unstorable(_("the text is not valid JSON")) from None
    return text


def _to_float(value: Any) -> float:
    try:
        return float(value)
    except ValueError:
        raise Unstorable(_("%(value)s is not a number") % {"value": str(value)[:50]}) from None


def _integer(base: str) -> Convert:
    limit = 1 << _BITS[base]

    def convert(value: Any) -> int:
        try:
            number = int(value)
        except (ValueError, OverflowError):
            number = None
        if number is None or (isinstance(value, float) and number != value):
            raise Unstorable(_("%(value)s is not an integer") % {"value": str(value)[:50]})
        if not -limit <= number < limit:
            raise Unstorable(_("%(value)s is out of range for %(type)s") % {"value": number, "type": base})
        return number

    return convert


_CONVERT: dict[str, Convert] = {
    "moment": _to_moment,
    "naive": _to_naive,
    "bool": _to_bool,
    "json": _to_json,
    "bytes": _to_bytes,
    "float": _to_float,
}


# --- comparison ----------------------------------------------------------------------------------------------


def _as_text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _comparable_moment(value: Any) -> Any:
    at = parse_timestamp(str(value))
    return str(value) if at is None else at.timestamp()


def _comparable_json(value: Any) -> Any:
    try:
        return json.dumps(decode(value if isinstance(value, bytes) else str(value)), sort_keys=True)
    except Unreadable:
        return value


def _comparable_number(value: Any) -> Any:
    try:
        return Decimal(str(value)).normalize().as_tuple()
    except ArithmeticError:
        return str(value)


_COMPARABLE: dict[str, Convert] = {
    "moment": _comparable_moment,
    "naive": _comparable_moment,
    "json": _comparable_json,
    "bool": lambda value: int(_to_bool(value)),
    "int": int,
    "float": float,
    "number": _comparable_number,
    "bytes": _to_bytes,
    "uuid": lambda value: str(value).lower(),
    "text": _as_text,
}
