"""The framework document of a roadmap: reading its concepts, and replacing single values in its text.

Only the text of the replaced values changes. Unknown keys, the digits of numbers and the layout stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from opsconsole.jsontext import Unreadable, strict_decoder

LEVELS = ("stages", "modules", "concepts")  # nested: each is the key of a list in the objects of the previous one


class Member(NamedTuple):
    """The positions of one `"key": value` in the text."""

    start: int
    key_end: int
    value_start: int
    end: int


class Concept(NamedTuple):
    """A concept with the positions of its values. Of duplicate keys the last one counts."""

    values: dict[str, Any]
    members: dict[str, Member]
    separator: str  # between two members, in the layout of this document

    @property
    def key(self) -> str:
        return str(self.values["concept_id"])


def parse_concepts(text: str | None) -> list[Concept]:
    """Return every concept with an identifier, in order, with the positions of its values. Raise Unreadable."""
    if text is None:
        raise Unreadable("no_framework")
    try:
        found = _outline(text)
    except (ValueError, StopIteration, IndexError):
        raise Unreadable("broken_framework") from None
    except RecursionError:
        raise Unreadable("too_deep") from None
    if not found:
        raise Unreadable("no_concepts")
    return found


def concepts_of(document: Any) -> Iterator[dict[str, Any]]:
    """Yield the same concepts of a parsed document. Values of an unexpected type are ignored."""
    for stage in objects(document, "stages"):
        for module in objects(stage, "modules"):
            for concept in objects(module, "concepts"):
                if isinstance(concept.get("concept_id"), str):
                    yield concept


def replace_values(text: str, changes: Sequence[tuple[Concept, Mapping[str, Any]]], *, jsonb: bool = False) -> str:
    """Return `text` with new values in some concepts. A missing key is added after the last one.

    The text of a `jsonb` column has its keys sorted by length, and its characters unescaped.
    """
    escaped = text.isascii() and not jsonb
    pieces: list[tuple[int, int, str]] = []
    for concept, values in changes:
        for key in sorted(values, key=jsonb_order) if jsonb else values:
            literal = json.dumps(values[key], ensure_ascii=escaped)
            member = concept.members.get(key)
            if member is not None:
                pieces.append((member.value_start, member.end, literal))
            else:
                pieces.append(_new_member(text, concept, key, literal, jsonb))
    pieces.sort(key=lambda piece: piece[:2])  # a stable sort: added keys keep their order
    parts: list[str] = []
    at = 0
    for start, end, literal in pieces:
        parts += (text[at:start], literal)
        at = end
    return "".join((*parts, text[at:]))


def _new_member(text: str, concept: Concept, key: str, literal: str, jsonb: bool) -> tuple[int, int, str]:
    """Return the position of a new member and its text."""
    if jsonb:
        after = [member for name, member in concept.members.items() if jsonb_order(name) > jsonb_order(key)]
        if after:
            place = min(member.start for member in after)
            return place, place, f'"{key}": {literal}, '
    last = max(concept.members.values(), key=lambda member: member.end)
    colon = text[last.key_end : last.value_start]
    return last.end, last.end, f'{concept.separator}"{key}"{colon}{literal}'


def as_text(document: Mapping[str, Any], *, jsonb: bool = False) -> str:
    """Return a flat document as the text that its column returns. `jsonb` columns sort the keys."""
    ordered = {key: document[key] for key in sorted(document, key=jsonb_order)} if jsonb else document
    return json.dumps(ordered, ensure_ascii=False)


def jsonb_order(key: str) -> tuple[int, bytes]:
    """Return the sort key by which `jsonb` orders the keys of an object."""
    raw = key.encode(errors="surrogatepass")
    return len(raw), raw


# --- the outline: objects and lists are parsed here, values by the scanner of the standard library -------------


def _integer(literal: str) -> Any:
    return int(literal) if len(literal) < 1_000 else literal  # int() refuses very long ones


_scan: Callable[[str, int], tuple[Any, int]] = strict_decoder(  # type: ignore[attr-defined]
    parse_int=_integer
).scan_once
_SPACE = re.compile(r"[ \t\n\r]*")


def _space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it also matches the empty string


def _outline(text: str) -> list[Concept]:
    at = _space(text, 0)
    found: list[Concept] = []
    is_object = text[at] == "{"
    end = _object(text, at, 0, found) if is_object else _scan(text, at)[1]
    if _space(text, end) != len(text):
        raise ValueError("more than one document")
    if not is_object:
        raise Unreadable("not_an_object")
    return found


def _object(text: str, at: int, level: int, found: list[Concept]) -> int:
    """Collect the concepts in the object at `at`. Return its end."""
    mine: list[Concept] = []
    at = _space(text, at + 1)
    if text[at] == "}":
        return at + 1
    while True:
        key, _key_end, value_start = _key(text, at)
        if key == LEVELS[level]:
            mine = []  # of duplicate keys the last one counts
        if key == LEVELS[level] and text[value_start] == "[":
            end = _list(text, value_start, level, mine)
        else:
            end = _scan(text, value_start)[1]
        at, more = _next(text, end, "}")
        if not more:
            found += mine
            return at


def _list(text: str, at: int, level: int, found: list[Concept]) -> int:
    at = _space(text, at + 1)
    if text[at] == "]":
        return at + 1
    while True:
        if text[at] != "{":
            end = _scan(text, at)[1]
        elif level + 1 < len(LEVELS):
            end = _object(text, at, level + 1, found)
        else:
            end = _concept(text, at, found)
        at, more = _next(text, end, "]")
        if not more:
            return at


def _concept(text: str, at: int, found: list[Concept]) -> int:
    values: dict[str, Any] = {}
    members: dict[str, Member] = {}
    separator, last_end = "", None
    at = _space(text, at + 1)
    if text[at] == "}":
        return at + 1
    while True:
        key, key_end, value_start = _key(text, at)
        value, end = _scan(text, value_start)
        if last_end is not None:
            separator = text[last_end:at]
        values[key], members[key] = value, Member(at, key_end, value_start, end)
        last_end = end
        at, more = _next(text, end, "}")
        if not more:
            if isinstance(values.get("concept_id"), str):
                found.append(Concept(values, members, separator or ", "))
            return at


def _key(text: str, at: int) -> tuple[str, int, int]:
    """Return a member's key, the end of the key and the start of the value."""
    if text[at] != '"':
        raise ValueError("no key")
    key, key_end = _scan(text, at)
    colon = _space(text, key_end)
    if text[colon] != ":":
        raise ValueError("no colon")
    return key, key_end, _space(text, colon + 1)


def _next(text: str, end: int, closing: str) -> tuple[int, bool]:
    """Return the start of the next value and True, or the end of the object or list and False."""
    at = _space(text, end)
    if text[at] == ",":
        return _space(text, at + 1), True
    if text[at] != closing:
        raise ValueError("neither another value nor the end")
    return at + 1, False


def objects(document: Any, key: str) -> Iterator[dict[str, Any]]:
    """Yield the objects in the list under `key`, if there is such a list."""
    found = document.get(key) if isinstance(document, dict) else None
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict):
            yield one
