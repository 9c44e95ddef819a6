"""What `test_records` keeps of a run: JSON as text or bytes, gzip-compressed when it was long (document 002).

Whatever stands there, nothing here takes more memory than a few times `LARGEST`: a document that would be
longer is refused, not unpacked.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import orjson

from opsconsole.jsontext import Unreadable, decode, loads, strict_decoder

LARGEST = 64 * 1024 * 1024  # bytes of JSON; the platform's largest are 50 MB
IN_MEMORY_LIMIT = 1024 * 1024  # up to here a whole document in memory is no matter
LONGEST_ID = 500  # characters; an index can't hold what is much longer
MAGIC = b"\x1f\x8b"
GZIP = 16 + zlib.MAX_WBITS
BLANK = b" \t\r\n"


Stored = bytes | memoryview | str | None


def json_text(stored: Stored, compressed: Any = False, *, limit: int = LARGEST) -> bytes:
    """The JSON text that is stored, unpacked. Raises Unreadable.

    The bytes say whether they are gzip; the flag alone (`compressed`) tells a broken one from broken JSON.
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
    """All members of a gzip file, up to `limit` bytes."""
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


def document(stored: Stored, compressed: Any = False, *, limit: int = LARGEST) -> Any:
    """The document that is stored, as Python holds it. Raises Unreadable."""
    text = json_text(stored, compressed, limit=limit)
    return loads(text)


def execution_id(stored: Stored, compressed: Any = False) -> str:
    """The top level's `execution_id`. Raises Unreadable where there is none.

    Of a long document nothing but this key is ever held, beside its text.
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
    """Of an object only its last `execution_id`; of all others one and the same empty object."""
    for key, value in reversed(pairs):
        if key == "execution_id":
            return {key: value}
    return _EMPTY


def _forget(number: str) -> None:
    """No number is an execution id."""


_EMPTY: dict[str, Any] = {}
_SKIMMER = strict_decoder(object_pairs_hook=_skim, parse_int=_forget, parse_float=_forget)
