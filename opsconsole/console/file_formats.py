"""CSV, XLSX and JSON that hold a store's values exactly, and give them back as they were.

In a cell nothing is NULL, and a lone apostrophe an empty text (of a column that is never NULL, nothing is the empty
text). Text that a spreadsheet would take for a formula has an apostrophe before it, as spreadsheets write it
themselves; reading takes it away again. In JSON `null` is NULL. A file is read no further than its limits.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from typing import Any

import tablib
from django.utils.translation import gettext as _
from import_export.formats import base_formats
from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.styles import Font

from opsconsole.console import workbook
from opsconsole.console.workbook import (
    MAX_BYTES,
    MAX_CELLS,
    MAX_COLUMNS,
    Problem,
    Rounded,
    Unreadable,
    is_rounded,
    too_large,
)
from opsconsole.escaping import for_cell, from_cell
from opsconsole.formatting import format_number

__all__ = ["ABSENT", "CSV", "JSON", "NULL", "XLSX", "Rounded", "Unreadable"]

MAX_IMPORTED = 10_000
MAX_NESTING = 100  # of lists and objects in a value
MAX_SEPARATORS = 2_000_000  # commas, line ends and brackets of a text: what it could be split into
CELL_CHARACTERS = 32_767  # Excel's limit; openpyxl would cut the rest off without a word

csv.field_size_limit(MAX_BYTES)  # documents are longer than the 128 KiB that the module allows


class Null:
    """SQL NULL, said outright: an empty cell says it only where the column may be NULL."""

    def __str__(self) -> str:
        return "NULL"


class Absent(Null):
    """This row says nothing about the column."""


NULL, ABSENT = Null(), Absent()


def _cells(dataset: Any) -> Iterator[list[Any]]:
    """Rows as cells: None is an empty one."""
    never_null = set(getattr(dataset, "never_null", ()))
    plain = [header in never_null for header in dataset.headers]
    for row in dataset:
        yield [
            None if value is None or (value == "" and never) else for_cell(value) if isinstance(value, str) else value
            for value, never in zip(map(_finite, row), plain, strict=True)
        ]


def _finite(value: Any) -> Any:
    """A number, as text where a file has no such numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _dataset(headers: Iterable[Any], rows: Iterable[list[Any]]) -> Any:
    """A dataset of at most MAX_IMPORTED rows; raises Unreadable before it reads any further."""
    names = ["" if header is None else str(header).strip() for header in headers]
    while names and not names[-1]:
        names.pop()  # columns that somebody has emptied
    if not names or "" in names:
        raise Unreadable(_("The first row must name the columns."))
    if len(names) > MAX_COLUMNS:
        raise too_large(_("columns"), MAX_COLUMNS)
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise Unreadable(_("The file has these columns twice: %(columns)s.") % {"columns": ", ".join(twice)})
    dataset = tablib.Dataset(headers=names)
    for number, row in enumerate(rows, 1):
        if number > MAX_IMPORTED:
            raise Unreadable(
                _("The file has more than %(count)s rows. Split it, or use the store's own client.")
                % {"count": format_number(MAX_IMPORTED)}
            )
        if len(row) > len(names) and any(cell not in (None, "") for cell in row[len(names) :]):
            raise Unreadable(_("Row %(row)s has more cells than there are columns.") % {"row": format_number(number)})
        for name, cell in zip(names, row, strict=False):
            if isinstance(cell, Problem):
                raise _problem(number, name, cell)
        if number * len(names) > MAX_CELLS:
            raise too_large(_("cells"), MAX_CELLS)
        dataset.append([*row, *[None] * (len(names) - len(row))][: len(names)])
    return dataset


class _Exact:
    """Read and written as bytes: text files lose their line ends."""

    def is_binary(self) -> bool:
        return True

    def get_read_mode(self) -> str:
        return "rb"


class CSV(_Exact, base_formats.CSV):  # type: ignore[misc]
    def create_dataset(self, in_stream: bytes, **kwargs: Any) -> Any:
        rows = csv.reader(io.StringIO(_text(in_stream), newline=""), strict=True)
        try:
            headers = next(rows, [])
            return _dataset(headers, ([from_cell(cell) if cell else None for cell in row] for row in rows if row))
        except csv.Error as error:
            raise Unreadable(_("The file is no CSV: %(reason)s.") % {"reason": error}) from None

    def export_data(self, dataset: Any, **kwargs: Any) -> bytes:
        out = io.StringIO(newline="")
        writer = csv.writer(out)
        writer.writerow(dataset.headers)
        for row in _cells(dataset):
            # A row of one empty cell would be an empty line, which is no row.
            writer.writerow(row) if len(row) > 1 or row[0] is not None else out.write('""\r\n')
        return out.getvalue().encode(errors="backslashreplace")


class JSON(_Exact, base_formats.JSON):  # type: ignore[misc]
    def create_dataset(self, in_stream: bytes, **kwargs: Any) -> Any:
        rows = list(_objects(_text(in_stream)))
        headers = list(dict.fromkeys(name for row in rows for name in row))
        if len(headers) > MAX_COLUMNS:
            raise too_large(_("columns"), MAX_COLUMNS)
        return _dataset(headers, ([_value(row.get(name, ABSENT)) for name in headers] for row in rows))

    def export_data(self, dataset: Any, **kwargs: Any) -> bytes:
        rows = [dict(zip(dataset.headers, map(_finite, row), strict=True)) for row in dataset]
        text = json.dumps(rows, ensure_ascii=False, indent=1, allow_nan=False)
        return text.encode(errors="backslashreplace")


class XLSX(_Exact, base_formats.XLSX):  # type: ignore[misc]
    def create_dataset(self, in_stream: bytes, **kwargs: Any) -> Any:
        _require_size(in_stream)
        rows = workbook.rows(in_stream)
        headers = next(rows, ())
        return _dataset(headers, ([_from_cell(cell) for cell in row] for row in rows))

    def export_data(self, dataset: Any, **kwargs: Any) -> bytes:
        book = Workbook(write_only=True)
        sheet = book.create_sheet()
        sheet.freeze_panes = "A2"
        sheet.append([_bold(sheet, header) for header in dataset.headers])
        for number, row in enumerate(_cells(dataset), 1):
            sheet.append(
                [
                    _text_cell(sheet, str(cell), number, name) if _is_text(cell) else cell
                    for name, cell in zip(dataset.headers, row, strict=True)
                ]
            )
        out = io.BytesIO()
        book.save(out)
        return out.getvalue()


def _problem(number: int, column: str, sentence: str) -> Unreadable:
    return Unreadable(
        _("Row %(row)s, %(column)s: %(problem)s")
        % {"row": format_number(number), "column": column, "problem": sentence}
    )


def _require_size(data: bytes) -> None:
    if len(data) > MAX_BYTES:
        raise Unreadable(
            _("The file is larger than %(limit)s MiB. Split it.") % {"limit": format_number(MAX_BYTES >> 20)}
        )


def _text(data: bytes) -> str:
    _require_size(data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable(_("The file is not in UTF-8: save it in that encoding.")) from None
    if sum(map(text.count, ",\n\r[{")) > MAX_SEPARATORS:
        raise too_large(_("values"), MAX_SEPARATORS)
    return text


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list, one after the other, so that those beyond the limit are not made."""
    decoder = json.JSONDecoder(parse_float=_Digits, parse_int=_Digits, parse_constant=_Constant)
    no_list = Unreadable(_("The file must be a list of objects, one for each row."))
    place = _after_blanks(text, 0)
    if text[place : place + 1] != "[":
        raise no_list
    place = _after_blanks(text, place + 1)
    rows, mark = 0, text[place : place + 1]
    if mark == "]":
        place += 1
    try:
        while mark != "]" and rows <= MAX_IMPORTED:
            row, place = decoder.raw_decode(text, place)
            if not isinstance(row, dict):
                raise no_list
            rows += 1
            for name, value in row.items():
                if constant := _constant_in(value):
                    raise _problem(rows, name, _("%(value)s is no JSON.") % {"value": constant})
            yield row
            place = _after_blanks(text, place)
            mark = text[place : place + 1]
            if mark not in {",", "]"}:
                break
            place = _after_blanks(text, place + 1)
        if rows <= MAX_IMPORTED and (mark != "]" or text[place:].strip(_BLANKS)):
            raise ValueError(_("something else stands at character %(place)s") % {"place": format_number(place + 1)})
    except (ValueError, RecursionError) as error:
        raise Unreadable(_("The file is no JSON: %(reason)s.") % {"reason": error}) from None


_BLANKS = " \t\r\n"
_BLANK = re.compile(f"[{_BLANKS}]*")


def _after_blanks(text: str, place: int) -> int:
    found = _BLANK.match(text, place)
    return found.end() if found else place


class _Constant(str):
    """NaN or an infinity: Python writes them into JSON, which has none."""


def _constant_in(value: Any) -> str:
    """The first of them within a value, or nothing."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return next(filter(None, map(_constant_in, value)), "")
    return value if isinstance(value, _Constant) else ""


class _Digits(str):
    """A number of a JSON document, digit for digit."""


def _value(value: Any) -> Any:
    """A JSON value as a column's: numbers by their digits, documents as their text."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return _document(value)
    return str(value) if isinstance(value, _Digits) else value


def _document(value: Any, depth: int = 1) -> str:
    if depth > MAX_NESTING:
        raise Unreadable(_("A value is nested deeper than %(limit)s levels.") % {"limit": format_number(MAX_NESTING)})
    if isinstance(value, dict):
        parts = (f"{json.dumps(k, ensure_ascii=False)}: {_document(v, depth + 1)}" for k, v in value.items())
        return "{" + ", ".join(parts) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_document(part, depth + 1) for part in value) + "]"
    return str(value) if isinstance(value, _Digits) else json.dumps(value, ensure_ascii=False)


# --- cells of a workbook ------------------------------------------------------------------------------------

# What XML can't hold stands as `_x000D_`; text that looks like this has its own underscore written so.
_LIKE_ESCAPED = re.compile(r"_(?=x[0-9A-Fa-f]{4}_)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")


def _is_text(cell: Any) -> bool:
    """Numbers that a workbook would round are text, too."""
    return isinstance(cell, str) or (isinstance(cell, int) and is_rounded(cell))


def _text_cell(sheet: Any, text: str, number: int, column: str) -> Any:
    text = _CONTROL.sub(lambda found: f"_x{ord(found[0]):04X}_", _LIKE_ESCAPED.sub("_x005F_", text))
    if len(text) > CELL_CHARACTERS:
        raise ValueError(
            _("Row %(row)s: %(column)s is longer than a cell of XLSX can be. Export CSV or JSON.")
            % {"row": format_number(number), "column": column}
        )
    cell = WriteOnlyCell(sheet, value=text)
    cell.data_type = "s"  # never a formula
    return cell


def _bold(sheet: Any, text: str) -> Any:
    cell = WriteOnlyCell(sheet, value=text)
    cell.font = Font(bold=True)
    return cell


def _from_cell(value: Any) -> Any:
    if isinstance(value, Problem | Rounded):
        return value
    if isinstance(value, str):
        return from_cell(value) if value else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, date | time):
        return value.isoformat()
    return value
