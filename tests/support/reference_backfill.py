"""An independent model of the audit backfill, written from the platform's documents alone.

It shares no code and no library with the operation. A small pushdown automaton with one regular expression reads JSON,
because the json module accepts more than RFC 8259 (NaN) and converts numbers, which could hide the same fault on both
sides. It reads about 20,000 payloads per second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Engine = Literal["sqlite", "postgresql"]

#: Column → the keys of its value, in order of preference.
KEYS = {
    "source_event_ts": ("source_event_ts", "source_ts", "event_timestamp", "task_created_at"),
    "supervisor_processed_at": ("supervisor_processed_at", "processed_at", "timestamp"),
}
#: The deepest nesting that every parser accepts. The documents call 20,000 levels too deep. Parsers differ between the
#: two, so no test uses such a depth.
DEEPEST = 1000

BROKEN = "broken JSON"
NOT_AN_OBJECT = "not an object"
TOO_DEEP = "too deep"
NOT_STORABLE = "value the store can't hold"
NO_CREATED_AT = "no created_at to fall back to"


@dataclass(frozen=True)
class Invalid:
    """A row that the backfill does not change, with the reason (one of the constants above)."""

    reason: str


class _Refusal(Exception):
    """The payload is invalid, for the reason in the message."""


TOKEN = re.compile(
    r"""[ \t\n\r]*(?:
        (?P<string> " (?: [^"\\\x00-\x1f] | \\ (?: ["\\/bfnrt] | u[0-9A-Fa-f]{4} ) )* " )
      | (?P<number> -? (?: 0 | [1-9][0-9]* ) (?: \.[0-9]+ )? (?: [eE][+-]?[0-9]+ )? )
      | (?P<word> true | false | null )
      | (?P<mark> [][{}:,] )
      | (?P<end> \Z )
    )""",
    re.VERBOSE,
)
ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|(.))")
SHORT = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}

#: State → possible tokens and the states after them. The state after a value is on the stack.
GRAMMAR: dict[str, dict[str, str]] = {
    "document": {"value": "done"},
    "done": {"end": "over"},
    "{": {"string": "key", "}": "close"},
    "{,": {"string": "key"},
    "key": {":": "key:"},
    "key:": {"value": "member"},
    "member": {",": "{,", "}": "close"},
    "[": {"value": "item", "]": "close"},
    "[,": {"value": "item"},
    "item": {",": "[,", "]": "close"},
}


def _text(raw: str) -> str:
    """Return the characters of a JSON string from its source text with quotes."""
    plain = ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else SHORT[m[2]], raw[1:-1])
    # Two escaped surrogates become one character beyond U+FFFF. A lone surrogate does not change.
    return plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _members(source: str) -> dict[str, tuple[str, str]]:
    """Return the members of the top object: key → (token kind, source text). The last of duplicate keys counts."""
    members: dict[str, tuple[str, str]] = {}
    stack: list[str] = []  # the state after the end of the open list or object
    state, position, key, root = "document", 0, "", ""
    while state != "over":
        found = TOKEN.match(source, position)
        if found is None:
            raise _Refusal(BROKEN)
        position, kind, raw = found.end(), str(found.lastgroup), found[str(found.lastgroup)]
        after = GRAMMAR[state]
        step = raw if kind == "mark" and raw in after else kind if kind in after else "value"
        opens = raw in ("{", "[")
        if step not in after or (step == "value" and (kind == "end" or (kind == "mark" and not opens))):
            raise _Refusal(BROKEN)
        if state == "document":
            root = raw
        if len(stack) == 1 and step == "string":
            key = _text(raw)
        if len(stack) == 1 and state == "key:":
            members[key] = (kind, raw)
        if after[step] == "close":
            state = stack.pop()
        elif step == "value" and opens:
            stack.append(after[step])
            state = raw
        else:
            state = after[step]
        if len(stack) > DEEPEST:
            raise _Refusal(TOO_DEEP)
    if root != "{":
        raise _Refusal(NOT_AN_OBJECT)
    return members


def _value(members: dict[str, tuple[str, str]], keys: tuple[str, ...]) -> str | None:
    """Return the value of the first key with a usable value, or None."""
    for key in keys:
        kind, raw = members.get(key, ("word", "null"))
        if kind == "number":
            return raw
        if kind == "string" and (text := _text(raw)).strip():
            return text
    return None


def _stored_created_at(created_at: str, engine: Engine) -> str:
    """Return `created_at` as the fallback writes it. The text of PostgreSQL has no trailing zeros."""
    if engine == "sqlite" or "." not in created_at:
        return created_at
    whole, fraction = created_at.split(".")
    return f"{whole}.{fraction:0<6}"


def _storable(value: str, engine: Engine) -> bool:
    """Return whether a UTF-8 text of the engine can store the value."""
    lone_half = any("\ud800" <= character <= "\udfff" for character in value)
    return not lone_half and not (engine == "postgresql" and "\0" in value)


def in_scope(event_type: str, source_event_ts: str | None, supervisor_processed_at: str | None) -> bool:
    """Return whether the row is in scope."""
    return "supervisor" in event_type.lower() and None in (source_event_ts, supervisor_processed_at)


def expected(
    payload: str | bytes | None,
    created_at: str | None,
    source_event_ts: str | None,
    supervisor_processed_at: str | None,
    engine: Engine,
) -> tuple[str | None, str | None] | Invalid:
    """Return the two columns after the backfill of a row in scope, or the reason why it does not change.

    All arguments are texts of the stored values: `created_at` by `CAST(… AS TEXT)` or `::text`, and a `json` or `jsonb`
    payload by `::text`. The backfill fills both columns of a row, or none.
    """
    try:
        source = payload.decode() if isinstance(payload, bytes) else payload or ""
        members = _members(source) if source.strip() else {}
        columns: list[str | None] = []
        for stored, keys in zip((source_event_ts, supervisor_processed_at), KEYS.values(), strict=True):
            value = stored if stored is not None else _value(members, keys)
            if value is None:
                if created_at is None:
                    raise _Refusal(NO_CREATED_AT)
                value = _stored_created_at(created_at, engine)
            elif stored is None and not _storable(value, engine):
                raise _Refusal(NOT_STORABLE)
            columns.append(value)
    except UnicodeDecodeError:
        return Invalid(BROKEN)
    except _Refusal as refusal:
        return Invalid(str(refusal))
    return columns[0], columns[1]


def expected_rows(
    rows: Iterable[tuple[int, str, str | bytes | None, str | None, str | None, str | None]], engine: Engine
) -> Iterator[tuple[int, tuple[str | None, str | None] | Invalid]]:
    """Yield (audit_id, outcome) of each row in scope. `tests.support.agentos.read_…` returns such rows."""
    for audit_id, event_type, payload, created_at, source, processed in rows:
        if in_scope(event_type, source, processed):
            yield audit_id, expected(payload, created_at, source, processed, engine)
