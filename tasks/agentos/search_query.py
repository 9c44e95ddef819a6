"""The query language of the search: words, "phrases", prefixes* and -exclusions (see docs/platforms/agentos.md).

A run of Chinese, Japanese or Korean characters matches anywhere, every other word as a whole and in any case. All other
characters are literal text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

# Characters that are indexed one by one. The schema files use the same ranges.
HAN = "々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽"

MAX_CHARACTERS = 400  # of a query
MAX_TERMS = 16
SNIPPET_CHARACTERS = 200
COUNTED = 50  # occurrences of a term in one text

_WORD = rf"(?:[^\W_{HAN}]|[\u0300-\u036f])"  # a letter, a digit or a combining accent
_PIECES = re.compile(rf"[{HAN}]+|{_WORD}+")
_TERMS = re.compile(r'(-?)(?:"([^"]*)"(\*?)|(\S+))')
_UNPRINTABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True)
class Term:
    """A word or a phrase, split into pieces: words and runs of Han characters."""

    pieces: tuple[str, ...]
    prefix: bool
    excluded: bool

    def words(self) -> tuple[list[str], bool]:
        """Return the successive words of the index, and whether the last one is a prefix.

        In the index, each Han character forms a word with the next one, and the last of a run is a word alone.
        """
        words: list[str] = []
        for piece in self.pieces:
            if is_han(piece):
                words += [piece[place : place + 2] for place in range(len(piece))]
            else:
                words.append(piece)
        if not is_han(self.pieces[-1]):
            return words, self.prefix
        if len(self.pieces[-1]) > 1:
            return words[:-1], False  # the run may continue in the text
        return words, True

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Return the regular expression that finds the term."""
        found = ""
        for before, piece in zip((None, *self.pieces), self.pieces, strict=False):
            if before is not None:
                found += r"[\W_]+" if is_han(before) == is_han(piece) else r"[\W_]*"
            elif not is_han(piece):
                found += f"(?<!{_WORD})"
            found += re.escape(piece)
        if not is_han(self.pieces[-1]) and not self.prefix:
            found += f"(?!{_WORD})"
        return re.compile(found, re.IGNORECASE)


class Query:
    """A parsed search. It finds nothing unless it has a term that must occur."""

    def __init__(self, text: str) -> None:
        self.text = text
        text = text[:MAX_CHARACTERS]
        terms = list(islice(_terms(text), MAX_TERMS))
        if all(term.excluded for term in terms):  # then the minus is literal text
            terms = [Term(term.pieces, term.prefix, excluded=False) for term in terms]
        self.terms = [term for term in terms if not term.excluded]
        self.excluded = [term for term in terms if term.excluded]

    def __bool__(self) -> bool:
        return bool(self.terms)

    def score(self, text: str) -> float:
        """Return the score of `text`, or 0 if it does not match.

        This is BM25 without the rarity of words, because every word must occur.
        """
        if any(term.pattern.search(text) for term in self.excluded):
            return 0.0
        norm = 1.2 * (0.25 + 0.75 * len(text) / 1000)
        score = 0.0
        for term in self.terms:
            times = sum(1 for _ in islice(term.pattern.finditer(text), COUNTED))
            if not times:
                return 0.0
            score += times / (times + norm)
        return score

    def snippet(self, text: str) -> Snippet:
        """Return the part of the text that contains most of the terms."""
        spans = sorted(
            match.span()
            for match in chain.from_iterable(islice(term.pattern.finditer(text), COUNTED) for term in self.terms)
        )
        best, seen = 0, 0
        for place, _ in spans:
            begin = max(0, place - SNIPPET_CHARACTERS // 4)
            inside = text[begin : begin + SNIPPET_CHARACTERS]
            number = sum(term.pattern.search(inside) is not None for term in self.terms)
            if number > seen:
                best, seen = begin, number
            if seen == len(self.terms):
                break
        end = best + SNIPPET_CHARACTERS
        parts: list[tuple[str, bool]] = [("…", False)] if best else []
        place = best
        for start, stop in spans:
            begin, close = max(start, place), min(stop, end)
            if begin < close:
                parts += [(text[place:begin], False), (text[begin:close], True)]
                place = close
        parts += [(text[place:end], False), ("…" if end < len(text) else "", False)]
        return Snippet(tuple((printable(part), marked) for part, marked in parts if part))


@dataclass(frozen=True)
class Snippet:
    """A part of a text, split into marked and unmarked parts."""

    parts: tuple[tuple[str, bool], ...]

    def __str__(self) -> str:
        return "".join(part for part, _ in self.parts).strip()

    def html(self) -> SafeString:
        return format_html_join(
            "", "{}", ((format_html("<mark>{}</mark>", part) if marked else part,) for part, marked in self.parts)
        )


def pieces(text: str) -> list[str]:
    """Return the words and the runs of Han characters in `text`."""
    return _PIECES.findall(text)


def is_han(piece: str) -> bool:
    return re.match(f"[{HAN}]", piece) is not None


def json_strings(text: str) -> str:
    """Return the strings and numbers of a JSON document, or any other text unchanged."""
    if not text.lstrip().startswith(("{", "[", '"')):
        return text
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text
    found: list[str] = []
    pending = [document]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            pending += reversed(node.values())
        elif isinstance(node, list):
            pending += reversed(node)
        elif isinstance(node, str | int | float) and not isinstance(node, bool):
            found.append(str(node))
    return " ".join(found)


def printable(text: str) -> str:
    """Return the text on one line, without control characters and lone surrogates."""
    return _UNPRINTABLE.sub(" ", text).encode(errors="backslashreplace").decode()


def _terms(text: str) -> Iterable[Term]:
    text = text.encode(errors="replace").decode()  # databases refuse lone surrogates
    for minus, phrase, star, word in _TERMS.findall(text):
        if found := pieces(phrase or word):
            yield Term(tuple(found), prefix=bool(star) or word.endswith("*"), excluded=bool(minus))
