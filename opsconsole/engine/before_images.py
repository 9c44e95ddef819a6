"""The encoding of before-images: the writes of a batch with old and new values, as compressed JSON."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import orjson

from opsconsole.stores.rows import Write
from opsconsole.stores.sqlite import RawText

_MARKERS = (b'{"$b":', b'{"$t":', b'{"$f":')


def encode_before_image(
    writes: list[Write], unchanged: dict[str, dict[str, list[str]]], reasons: dict[str, dict[str, int]]
) -> bytes:
    """Return the encoded before-image of a batch: its writes with all values, unchanged rows, counts by reason.

    JSON, compressed; bytes in it become `{"$b": hex}`, texts that are not UTF-8 `{"$t": hex}`, and infinite numbers
    `{"$f": "inf"}`. Raises TypeError for values that cannot be stored exactly.
    """
    plain = [(write.table, write.columns, _finite_rows(write)) for write in writes]
    image = orjson.dumps({"writes": plain, "unchanged": unchanged, "reasons": reasons}, default=_encode)
    return zlib.compress(image, 1)


def decode_before_image(image: bytes | memoryview) -> dict[str, Any]:
    """Return writes, labels and counts of an encoded before-image."""
    text = zlib.decompress(image)
    unpacked: dict[str, Any] = orjson.loads(text)
    # Inside a string the quote would be escaped: only real markers match.
    return _decode(unpacked) if any(marker in text for marker in _MARKERS) else unpacked


def writes_of(image: bytes | memoryview) -> list[Write]:
    """Return the writes of an encoded before-image, with old and new values."""
    return [
        Write(table, tuple(columns), [(k, o and tuple(o), n and tuple(n)) for k, o, n in rows])
        for table, columns, rows in decode_before_image(image)["writes"]
    ]


def _finite_rows(write: Write) -> Sequence[Any]:
    """Return the rows of a write, with markers for infinite numbers."""
    if float not in write.types:
        return write.rows
    return [(key, _finite(old), _finite(new)) for key, old, new in write.rows]


def _finite(values: Sequence[Any] | None) -> Sequence[Any] | None:
    """Return the values with markers for infinite numbers, which the encoder would turn into null."""
    if values is None or not (math.inf in values or -math.inf in values):
        return values
    return [{"$f": str(value)} if value in (math.inf, -math.inf) else value for value in values]


def _encode(value: Any) -> dict[str, str]:
    if isinstance(value, RawText):
        return {"$t": value.hex()}
    if isinstance(value, bytes | memoryview):
        return {"$b": bytes(value).hex()}
    raise TypeError(f"{type(value).__name__} is not a raw value of a store.")


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if "$b" in value:
            return bytes.fromhex(value["$b"])
        if "$f" in value:
            return float(value["$f"])
        return RawText.fromhex(value["$t"]) if "$t" in value else {k: _decode(v) for k, v in value.items()}
    return [_decode(item) for item in value] if isinstance(value, list) else value
