"""Readers of the documents in `test_records`: JSON as text or bytes, gzip-compressed if it is long.

A document that is longer than `MAX_BYTES` is refused without unpacking the rest, so the memory stays bounded
(see docs/platforms/records.md).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import orjson

from opsconsole.jsontext import Unreadable, decode, loads, strict_decoder

MAX_BYTES = 64 * 1024 * 1024  # of JSON; the platform's largest documents have 50 MB
IN_MEMORY_LIMIT = 1024 * 1024  # shorter documents are parsed as a whole
LONGEST_ID = 500  # characters; PostgreSQL's index rejects much longer values
MAGIC = b"\x1f\x8b"
GZIP = 16 + zlib.MAX_WBITS
BLANK = b" \t\r\n"


Stored = bytes | memoryview | str | None


def json_text(stored: Stored, compressed: Any = False, *, limit: int = MAX_BYTES) -> bytes:
    """Return the unpacked JSON text. Raise Unreadable.

    The first bytes decide whether it is gzip. The flag `compressed` only tells broken gzip from broken JSON.
    """
    raw = stored.encode(errors="surrogatepass") if isinstance(stored, str) else bytes(stored or b"")
    if raw[:2] == MAGIC:
        return _unpack(raw, limit)
    text = raw.strip(BLANK)
    if not text:
        raise Unreadable("empty")
    if str(compressed) not in NOT_COMPRESSED and text[:1] not in b"{[":
        raise Unreadable("broken_gzip")
    if len(text) > limit:
        raise Unreadable("too_large")
    return text


NOT_COMPRESSED = frozenset(("None", "0", "False", "false", ""))


def _unpack(raw: bytes, limit: int) -> bytes:
    """Unpack all members of a gzip file, up to `limit` bytes."""
    parts, room = [], limit
    while raw[:2] == MAGIC:
        member = zlib.decompressobj(GZIP)
        try:
            part = member.decompress(raw, room + 1)
        except zlib.error:
            raise Unreadable("broken_gzip") from None
        if len(part) > room:
            raise Unreadable("too_large")
        if not member.eof:
            raise Unreadable("broken_gzip")
        parts.append(part)
        room -= len(part)
        raw = member.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def decode_document(stored: Stored, compressed: Any = False, *, limit: int = MAX_BYTES) -> Any:
    """Return the parsed document. Raise Unreadable."""
    return loads(json_text(stored, compressed, limit=limit))


def execution_id(stored: Stored, compressed: Any = False) -> str:
    """Return the `execution_id` of the top level. Raise Unreadable if it is missing.

    While a long document is parsed, only this key is kept in memory, in addition to the text.
    """
    text = json_text(stored, compressed)
    found: Any
    try:
        found = orjson.loads(text) if len(text) <= IN_MEMORY_LIMIT else decode(text, _SKIMMER)
    except ValueError:
        found = decode(text, _SKIMMER)
    if not isinstance(found, dict):
        raise Unreadable("not_an_object")
    value = found.get("execution_id")
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_ID:
        raise Unreadable("no_execution_id")
    return value


def _skim(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Reduce an object to its last `execution_id`, or to the shared empty object."""
    for key, value in reversed(pairs):
        if key == "execution_id":
            return {key: value}
    return _EMPTY


def _forget(number: str) -> None:
    """Discard a number: it cannot be an execution id."""


_EMPTY: dict[str, Any] = {}
_SKIMMER = strict_decoder(object_pairs_hook=_skim, parse_int=_forget, parse_float=_forget)
