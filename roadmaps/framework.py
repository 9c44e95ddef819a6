"""A roadmap's framework: its concepts, and the document with other values in their places.

A document is changed by replacing the text of single values. So whatever the console does not know
survives where it stands, numbers keep their digits, and the layout stays the document's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from opsconsole.jsontext import Unreadable, strict_decoder

LEVELS = ("stages", "modules", "concepts")  # each the key of a list in the objects of the one before


class Member(NamedTuple):
    """One `"key": value` of an object, by its places in the text."""

    start: int
    key_end: int
    value_start: int
    end: int


class Concept(NamedTuple):
    """A concept as it stands in the text; of duplicate keys the last counts."""

    values: dict[str, Any]
    members: dict[str, Member]
    separator: str  # between two members, as this document writes it

    @property
    def key(self) -> str:
        return str(self.values["concept_id"])


def concepts_in(text: str | None) -> list[Concept]:
    """Every concept that has an identifier, in order, with the places of its values. Raises Unreadable."""
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


def read(document: Any) -> Iterator[dict[str, Any]]:
    """The same concepts of a parsed document; what is no list or object on the way is passed over."""
    for stage in objects(document, "stages"):
        for module in objects(stage, "modules"):
            for concept in objects(module, "concepts"):
                if isinstance(concept.get("concept_id"), str):
                    yield concept


def replaced(text: str, changes: Sequence[tuple[Concept, Mapping[str, Any]]], *, binary: bool = False) -> str:
    """`text` with other values in some concepts; a missing key is added behind the last one.

    `binary`: the text of a `jsonb` column, which keeps keys by length and characters unescaped.
    """
    escaped = text.isascii() and not binary
    pieces: list[tuple[int, int, str]] = []
    for concept, values in changes:
        for key in sorted(values, key=binary_order) if binary else values:
            literal = json.dumps(values[key], ensure_ascii=escaped)
            member = concept.members.get(key)
            if member is not None:
                pieces.append((member.value_start, member.end, literal))
            else:
                pieces.append(_added(text, concept, key, literal, binary))
    pieces.sort(key=lambda piece: piece[:2])  # stable: added keys keep their order
    parts: list[str] = []
    at = 0
    for start, end, literal in pieces:
        parts += (text[at:start], literal)
        at = end
    return "".join((*parts, text[at:]))


def _added(text: str, concept: Concept, key: str, literal: str, binary: bool) -> tuple[int, int, str]:
    """Where a new member goes, and its text."""
    if binary:
        after = [member for name, member in concept.members.items() if binary_order(name) > binary_order(key)]
        if after:
            place = min(member.start for member in after)
            return place, place, f'"{key}": {literal}, '
    last = max(concept.members.values(), key=lambda member: member.end)
    colon = text[last.key_end : last.value_start]
    return last.end, last.end, f'{concept.separator}"{key}"{colon}{literal}'


def as_text(document: Mapping[str, Any], *, binary: bool = False) -> str:
    """A flat document as a column holds it; `binary`: exactly as `jsonb` would give it back."""
    ordered = {key: document[key] for key in sorted(document, key=binary_order)} if binary else document
    return json.dumps(ordered, ensure_ascii=False)


def binary_order(key: str) -> tuple[int, bytes]:
    """How `jsonb` sorts the keys of an object."""
    raw = key.encode(errors="surrogatepass")
    return len(raw), raw


# --- reading with places: the outline here, every value by the C scanner ----------------------------------------


def _integer(literal: str) -> Any:
    return int(literal) if len(literal) < 1_000 else literal  # Python refuses to read very long ones


_scan: Callable[[str, int], tuple[Any, int]] = strict_decoder(  # type: ignore[attr-defined]
    parse_int=_integer
).scan_once
_SPACE = re.compile(r"[ \t\n\r]*")


def _space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too


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
    """The object at `at`: collect the concepts below it; returns where it ends."""
    mine: list[Concept] = []
    at = _space(text, at + 1)
    if text[at] == "}":
        return at + 1
    while True:
        key, _key_end, value_start = _key(text, at)
        if key == LEVELS[level]:
            mine = []  # an earlier one of the same name no longer counts
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
    """A member's key, where it ends, and where its value starts."""
    if text[at] != '"':
        raise ValueError("no key")
    key, key_end = _scan(text, at)
    colon = _space(text, key_end)
    if text[colon] != ":":
        raise ValueError("no colon")
    return key, key_end, _space(text, colon + 1)


def _next(text: str, end: int, closing: str) -> tuple[int, bool]:
    """Behind a value: where the next one starts, or where the object or list ends."""
    at = _space(text, end)
    if text[at] == ",":
        return _space(text, at + 1), True
    if text[at] != closing:
        raise ValueError("neither another value nor the end")
    return at + 1, False


def objects(document: Any, key: str) -> Iterator[dict[str, Any]]:
    """The objects in the list under `key`, if there is one."""
    found = document.get(key) if isinstance(document, dict) else None
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict):
            yield one
