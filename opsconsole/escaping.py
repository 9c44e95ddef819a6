"""Text that is not ours, for what would take part of it as a command: a terminal, and a spreadsheet.

Pages escape by Django's templates and `format_html`. Statements escape names by `stores.catalog.quote` and bind values.
"""

from __future__ import annotations

import re

# Controls (C0, DEL, C1), what changes the direction of text or is not seen, and halves of characters.
_SEEN_ONLY_BY_TERMINALS = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f"
)
_RAW = re.compile(f"[{_SEEN_ONLY_BY_TERMINALS}]")
_RAW_IN_LINE = re.compile(f"[\t\n{_SEEN_ONLY_BY_TERMINALS}]")
_SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r", "\x1b": r"\e"}


def for_terminal(text: str, *, one_line: bool = False) -> str:
    """Return `text` with every character that a terminal would obey or hide as a visible escape.

    Line ends and tabs stay, but in `one_line`.
    """
    return (_RAW_IN_LINE if one_line else _RAW).sub(_visible, text)


def in_json(text: str) -> str:
    r"""Return a JSON document with the same characters as `\uXXXX`, so that it means what it meant."""
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
        return found[0]  # between the values: a document has none within them
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


# What begins a formula in Excel, LibreOffice or Google Sheets, after blanks and what is not seen, in its wide form too.
_FORMULA = re.compile(r"'*(?:[\t\r\n]|[\s\x00\ufeff\u200b-\u200f\u2060]*[=+\-@\uff1d\uff0b\uff0d\uff20\u2212]|\Z)")


def for_cell(text: str) -> str:
    """Return `text` for a cell of CSV or XLSX: an apostrophe stands before what a spreadsheet would calculate.

    The empty text and text that begins with apostrophes get one, too, so that `from_cell` knows which is ours.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(text: str) -> str:
    """Return what `for_cell` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text
