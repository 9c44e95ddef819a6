"""An independent model of the audit backfill, written from the platform's documents alone.

It shares no code and no library with the operation: JSON is read by a small pushdown automaton over one
regular expression, so that what the standard library accepts beyond RFC 8259 (NaN), or turns into something
else (numbers), can't hide the same fault on both sides. Slow on purpose: some 20,000 payloads a second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Engine = Literal["sqlite", "postgresql"]

#: Where each column's value is looked for, best key first.
KEYS = {
    "source_event_ts": ("source_event_ts", "source_ts", "event_timestamp", "task_created_at"),
    "supervisor_processed_at": ("supervisor_processed_at", "processed_at", "timestamp"),
}
#: The deepest nesting that every parser in use takes (the documents name 20,000 levels as too deep; what lies
#: between depends on the parser, so no test should ask for it).
DEEPEST = 1000

BROKEN = "broken JSON"
NOT_AN_OBJECT = "not an object"
TOO_DEEP = "too deep"
NOT_STORABLE = "value the store can't hold"
NO_CREATED_AT = "no created_at to fall back to"


@dataclass(frozen=True)
class Invalid:
    """A row that the backfill leaves as it is, and why (one of the constants above)."""

    reason: str


class _Refusal(Exception):
    """Carries the reason out of the depths of the reading."""


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

#: state → what may come next there, and the state after it. A value's own state is on the stack.
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
    """The characters that a JSON string's source text, with its quotes, stands for."""
    plain = ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else SHORT[m[2]], raw[1:-1])
    # Two escaped halves of a character beyond U+FFFF become that character; a lone half stays one.
    return plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _members(source: str) -> dict[str, tuple[str, str]]:
    """The top object's members: key → (token kind, source text); of duplicate keys the last."""
    members: dict[str, tuple[str, str]] = {}
    stack: list[str] = []  # the state to go on with once the open list or object is closed
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
    """The first key's value that says anything, or None."""
    for key in keys:
        kind, raw = members.get(key, ("word", "null"))
        if kind == "number":
            return raw
        if kind == "string" and (text := _text(raw)).strip():
            return text
    return None


def _stored_created_at(created_at: str, engine: Engine) -> str:
    """`created_at` as the fallback writes it; PostgreSQL's own text has no zeros at the end of a fraction."""
    if engine == "sqlite" or "." not in created_at:
        return created_at
    whole, fraction = created_at.split(".")
    return f"{whole}.{fraction:0<6}"


def _storable(value: str, engine: Engine) -> bool:
    """Whether the engine's UTF-8 text can hold the value."""
    lone_half = any("\ud800" <= character <= "\udfff" for character in value)
    return not lone_half and not (engine == "postgresql" and "\0" in value)


def in_scope(event_type: str, source_event_ts: str | None, supervisor_processed_at: str | None) -> bool:
    """Whether the backfill takes the row at all."""
    return "supervisor" in event_type.lower() and None in (source_event_ts, supervisor_processed_at)


def expected(
    payload: str | bytes | None,
    created_at: str | None,
    source_event_ts: str | None,
    supervisor_processed_at: str | None,
    engine: Engine,
) -> tuple[str | None, str | None] | Invalid:
    """The two columns after the backfill of a row in scope, or why it stays as it is.

    All arguments are what the store holds, as text: `created_at` by `CAST(… AS TEXT)` or `::text`, a `json`
    or `jsonb` payload by `::text`. A row is filled as a whole or not at all.
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
    """Yields (audit_id, outcome) of each row in scope; rows as `tests.support.agentos.read_…` gives them."""
    for audit_id, event_type, payload, created_at, source, processed in rows:
        if in_scope(event_type, source, processed):
            yield audit_id, expected(payload, created_at, source, processed, engine)
