"""Strict JSON: decoding of everything that RFC 8259 allows, but not NaN and Infinity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Never

import orjson


class Unreadable(Exception):
    """Stored text or bytes without a document of the expected kind. `reason` is a code or a sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant} is not valid in JSON")


def strict_decoder(**hooks: Any) -> json.JSONDecoder:
    """Return a decoder of the standard library with these hooks. It refuses NaN and Infinity."""
    return json.JSONDecoder(parse_constant=_refuse, **hooks)


_STRICT = strict_decoder()


def decode(text: str | bytes, decoder: json.JSONDecoder = _STRICT) -> Any:
    """Return the document in `text`. Raise Unreadable: not_text, too_deep or broken_json."""
    try:
        return decoder.decode(text.decode() if isinstance(text, bytes) else text)
    except UnicodeDecodeError:
        raise Unreadable("not_text") from None
    except RecursionError:
        raise Unreadable("too_deep") from None
    except ValueError:
        raise Unreadable("broken_json") from None


def loads(text: str | bytes) -> Any:
    """Return the document in `text`. Raise Unreadable.

    orjson is fast, but it refuses lone surrogates and deep nesting: those texts are decoded again.
    """
    try:
        return orjson.loads(text)
    except ValueError:
        return decode(text)


def encode(value: Any) -> bytes:
    """Return a value as JSON, including what orjson refuses: lone surrogates, and integers beyond 64 bits."""
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return json.dumps(value, default=str).encode()


class JSONSerializer:
    """Serializer of the live cache, which other programs read and write.

    A value that is not JSON is returned as its bytes, so that the reader can report it.
    """

    def dumps(self, value: Any) -> bytes:
        return orjson.dumps(value)

    def loads(self, stored: bytes) -> Any:
        try:
            return orjson.loads(stored)
        except ValueError:
            return stored


def plain_json(values: Mapping[str, Any]) -> Any:
    """Return values as JSON types. Values of other types become text."""
    return orjson.loads(orjson.dumps(dict(values), default=str))
