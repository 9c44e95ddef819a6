"""What people type into a search box: words that must all occur, "phrases", beginnings*, and -words that must not.

Anything odd is only text. A run of Chinese, Japanese or Korean characters is looked for wherever it stands,
every other word as a whole, capitals or not. Of a JSON document, what it says is searched and shown.
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

# The characters that are found one by one; migration 0002 builds the indexes by the same ones.
HAN = "々〇ぁ-ゖゝ-ゟァ-ヺー-ヿ㐀-䶿一-鿿가-힣豈-﫿𠀀-𿿽"

MAX_CHARACTERS = 400  # of a query
MAX_TERMS = 16
SNIPPET_CHARACTERS = 200
COUNTED = 50  # occurrences of a term in one text

_WORD = rf"(?:[^\W_{HAN}]|[\u0300-\u036f])"  # a character of a word, or an accent of its own
_PIECES = re.compile(rf"[{HAN}]+|{_WORD}+")
_TERMS = re.compile(r'(-?)(?:"([^"]*)"(\*?)|(\S+))')
_UNPRINTABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True)
class Term:
    """A word or a phrase, as its pieces: runs of Han, and words."""

    pieces: tuple[str, ...]
    prefix: bool
    excluded: bool

    def words(self) -> tuple[list[str], bool]:
        """The words of the index that stand one after another, and whether the last is only a beginning.

        There, each Han character makes a word with the next one, and the last of a run is one alone.
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
            return words[:-1], False  # the run may go on
        return words, True

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The term in a text."""
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
    """A parsed search. Without a term that must occur, it finds nothing."""

    def __init__(self, text: str) -> None:
        self.text = text
        text = text[:MAX_CHARACTERS]
        terms = list(islice(_terms(text), MAX_TERMS))
        if all(term.excluded for term in terms):  # then a minus is text, too
            terms = [Term(term.pieces, term.prefix, excluded=False) for term in terms]
        self.terms = [term for term in terms if not term.excluded]
        self.excluded = [term for term in terms if term.excluded]

    def __bool__(self) -> bool:
        return bool(self.terms)

    def score(self, text: str) -> float:
        """How well `text` fits, 0 if it is none: BM25 without the rarity of words, as each must occur."""
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
        """Where most of the terms stand close together."""
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
    """A piece of a text, in parts that are marked or not."""

    parts: tuple[tuple[str, bool], ...]

    def __str__(self) -> str:
        return "".join(part for part, _ in self.parts).strip()

    def html(self) -> SafeString:
        return format_html_join(
            "", "{}", ((format_html("<mark>{}</mark>", part) if marked else part,) for part, marked in self.parts)
        )


def pieces(text: str) -> list[str]:
    """The words and the runs of Han in `text`."""
    return _PIECES.findall(text)


def is_han(piece: str) -> bool:
    return re.match(f"[{HAN}]", piece) is not None


def json_strings(text: str) -> str:
    """What a JSON document says, without its escapes and punctuation; any other text as it stands."""
    if not text.lstrip().startswith(("{", "[", '"')):
        return text
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text
    found: list[str] = []
    ahead = [document]
    while ahead:
        node = ahead.pop()
        if isinstance(node, dict):
            ahead += reversed(node.values())
        elif isinstance(node, list):
            ahead += reversed(node)
        elif isinstance(node, str | int | float) and not isinstance(node, bool):
            found.append(str(node))
    return " ".join(found)


def printable(text: str) -> str:
    """On one line, without control characters, and without what no page can carry."""
    return _UNPRINTABLE.sub(" ", text).encode(errors="backslashreplace").decode()


def _terms(text: str) -> Iterable[Term]:
    text = text.encode(errors="replace").decode()  # no database takes a lone surrogate
    for minus, phrase, star, word in _TERMS.findall(text):
        if found := pieces(phrase or word):
            yield Term(tuple(found), prefix=bool(star) or word.endswith("*"), excluded=bool(minus))
