"""Escaping of foreign text for terminals, JSON and spreadsheets.

Pages escape by Django's templates and `format_html`. Statements escape names by `stores.catalog.quote` and bind values.
"""

from __future__ import annotations

import re

# Controls (C0, DEL, C1), characters that are invisible or change the direction of text, and lone surrogates.
_SEEN_ONLY_BY_TERMINALS = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f"
)
_RAW = re.compile(f"[{_SEEN_ONLY_BY_TERMINALS}]")
_RAW_IN_LINE = re.compile(f"[\t\n{_SEEN_ONLY_BY_TERMINALS}]")
_SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r", "\x1b": r"\e"}


def for_terminal(text: str, *, one_line: bool = False) -> str:
    """Return `text` with visible escapes for control and invisible characters.

    Newlines and tabs are escaped only with `one_line`.
    """
    return (_RAW_IN_LINE if one_line else _RAW).sub(_visible, text)


def in_json(text: str) -> str:
    r"""Return a JSON document with these characters as `\uXXXX`. Its values do not change."""
    return _RAW.sub(_escaped_in_json, text)


def _visible(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    return _SHORT.get(character) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


def _escaped_in_json(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return found[0]  # whitespace between values: JSON texts contain no raw controls
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


# The start of a formula in Excel, LibreOffice or Google Sheets: after blanks and invisible characters, and full-width.
_FORMULA = re.compile(r"'*(?:[\t\r\n]|[\s\x00\ufeff\u200b-\u200f\u2060]*[=+\-@\uff1d\uff0b\uff0d\uff20\u2212]|\Z)")


def for_cell(text: str) -> str:
    """Return `text` for a cell of CSV or XLSX, with an apostrophe before a formula.

    Empty text and text that begins with an apostrophe get one too, so that `from_cell` can remove it.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(text: str) -> str:
    """Return the text that `for_cell` escaped."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text
