"""CSV, XLSX and JSON that hold a store's values exactly, and give them back as they were.

In a cell nothing is NULL, and a lone apostrophe an empty text (of a column that is never NULL, nothing is the empty
text). Text that a spreadsheet would take for a formula has an apostrophe before it, as spreadsheets write it
themselves; reading takes it away again. In JSON `null` is NULL.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from typing import Any

import tablib
from django.utils.translation import gettext as _
from import_export.formats import base_formats
from openpyxl import Workbook, load_workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.cell.cell import ERROR_CODES
from openpyxl.styles import Font

from opsconsole.display import figure

MAX_IMPORTED = 10_000
CELL_CHARACTERS = 32_767  # Excel's limit; openpyxl would cut the rest off without a word

csv.field_size_limit(2**31 - 1)  # documents are longer than the 128 KiB that the module allows


class Unreadable(Exception):
    """The file can't be imported. The message says why and what to do."""


class Null:
    """SQL NULL, said outright: an empty cell says it only where the column may be NULL."""

    def __str__(self) -> str:
        return "NULL"


class Absent(Null):
    """This row says nothing about the column."""


class Rounded(str):
    """A number of a spreadsheet that may have been another one: it keeps whole numbers only below 2^53."""


NULL, ABSENT = Null(), Absent()
EXACT_BELOW = 2**53

# Apostrophes, then what begins a formula, or nothing.
_ESCAPED = re.compile(r"'*(?:[=+\-@\t\r]|\Z)")


def escape(text: str) -> str:
    return f"'{text}" if _ESCAPED.match(text) else text


def unescape(text: str) -> str:
    return text[1:] if text.startswith("'") and _ESCAPED.match(text[1:]) else text


def _cells(dataset: Any) -> Iterator[list[Any]]:
    """Rows as cells: None is an empty one."""
    never_null = set(getattr(dataset, "never_null", ()))
    plain = [header in never_null for header in dataset.headers]
    for row in dataset:
        yield [
            None if value is None or (value == "" and never) else escape(value) if isinstance(value, str) else value
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
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Unreadable(_("The file has these columns twice: %(columns)s.") % {"columns": ", ".join(twice)})
    dataset = tablib.Dataset(headers=names)
    for number, row in enumerate(rows, 1):
        if number > MAX_IMPORTED:
            raise Unreadable(
                _("The file has more than %(count)s rows. Split it, or use the store's own client.")
                % {"count": figure(MAX_IMPORTED)}
            )
        if len(row) > len(names) and any(cell not in (None, "") for cell in row[len(names) :]):
            raise Unreadable(_("Row %(row)s has more cells than there are columns.") % {"row": figure(number)})
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
        rows = csv.reader(io.StringIO(_utf8(in_stream), newline=""), strict=True)
        try:
            headers = next(rows, [])
            return _dataset(headers, ([unescape(cell) if cell else None for cell in row] for row in rows if row))
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
        try:
            # Numbers keep their digits.
            rows = json.loads(_utf8(in_stream), parse_float=_Digits, parse_int=_Digits, parse_constant=_Constant)
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise Unreadable(_("The file must be a list of objects, one for each row."))
            for number, row in enumerate(rows, 1):
                for name, value in row.items():
                    if constant := _constant_in(value):
                        raise _problem(number, name, _("%(value)s is no JSON.") % {"value": constant})
        except (ValueError, RecursionError) as error:
            raise Unreadable(_("The file is no JSON: %(reason)s.") % {"reason": error}) from None
        headers = list(dict.fromkeys(name for row in rows for name in row))
        return _dataset(headers, ([_value(row.get(name, ABSENT)) for name in headers] for row in rows))

    def export_data(self, dataset: Any, **kwargs: Any) -> bytes:
        rows = [dict(zip(dataset.headers, map(_finite, row), strict=True)) for row in dataset]
        text = json.dumps(rows, ensure_ascii=False, indent=1, allow_nan=False)
        return text.encode(errors="backslashreplace")


class XLSX(_Exact, base_formats.XLSX):  # type: ignore[misc]
    def create_dataset(self, in_stream: bytes, **kwargs: Any) -> Any:
        try:
            rows = _sheet(in_stream).iter_rows()
            headers = [cell.value for cell in next(rows, ())]
        except Exception:  # noqa: BLE001  # zip, XML and the library's own; all mean the same
            raise Unreadable(_("The file is no XLSX workbook.")) from None
        return _dataset(headers, _filled_rows(in_stream, headers, rows))

    def export_data(self, dataset: Any, **kwargs: Any) -> bytes:
        book = Workbook(write_only=True)
        sheet = book.create_sheet()
        sheet.freeze_panes = "A2"
        sheet.append([_bold(sheet, header) for header in dataset.headers])
        for number, row in enumerate(_cells(dataset), 1):
            cells = [str(cell) if isinstance(cell, int) and _is_rounded(cell) else cell for cell in row]
            sheet.append(
                [
                    _text_cell(sheet, cell, number, name) if isinstance(cell, str) else cell
                    for name, cell in zip(dataset.headers, cells, strict=True)
                ]
            )
        out = io.BytesIO()
        book.save(out)
        return out.getvalue()


def _problem(number: int, column: str, sentence: str) -> Unreadable:
    return Unreadable(
        _("Row %(row)s, %(column)s: %(problem)s") % {"row": figure(number), "column": column, "problem": sentence}
    )


def _utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable(_("The file is not in UTF-8: save it in that encoding.")) from None


class _Digits(str):
    """A number of a JSON document, digit for digit."""


class _Constant(str):
    """NaN or an infinity: Python writes them into JSON, which has none."""


def _constant_in(value: Any) -> str:
    """The first of them within a value, or nothing."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return next(filter(None, map(_constant_in, value)), "")
    return value if isinstance(value, _Constant) else ""


def _value(value: Any) -> Any:
    """A JSON value as a column's: numbers by their digits, documents as their text."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return _document(value)
    return str(value) if isinstance(value, _Digits) else value


def _document(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {_document(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_document, value)) + "]"
    return str(value) if isinstance(value, _Digits) else json.dumps(value, ensure_ascii=False)


# --- cells of a workbook ------------------------------------------------------------------------------------

# What XML can't hold stands as `_x000D_`; text that looks like this has its own underscore written so.
_LIKE_ESCAPED = re.compile(r"_(?=x[0-9A-Fa-f]{4}_)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")
_XML_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")


def _text_cell(sheet: Any, text: str, number: int, column: str) -> Any:
    text = _CONTROL.sub(lambda found: f"_x{ord(found[0]):04X}_", _LIKE_ESCAPED.sub("_x005F_", text))
    if len(text) > CELL_CHARACTERS:
        raise ValueError(
            _("Row %(row)s: %(column)s is longer than a cell of XLSX can be. Export CSV or JSON.")
            % {"row": figure(number), "column": column}
        )
    cell = WriteOnlyCell(sheet, value=text)
    cell.data_type = "s"  # never a formula
    return cell


def _bold(sheet: Any, text: str) -> Any:
    cell = WriteOnlyCell(sheet, value=text)
    cell.font = Font(bold=True)
    return cell


def _sheet(data: bytes, *, calculated: bool = False) -> Any:
    """The first sheet; of formulas their text, or what they came to when the file was last saved."""
    sheet = load_workbook(io.BytesIO(data), read_only=True, data_only=calculated).worksheets[0]
    sheet.reset_dimensions()  # what the file says of its size may be wrong: all its rows are read
    return sheet


def _filled_rows(data: bytes, headers: list[Any], rows: Iterator[Any]) -> Iterator[list[Any]]:
    """The values of all rows that are not empty. No formula is evaluated here."""
    calculated: list[Any] = []
    number = 0
    for line, row in enumerate(rows, 1):
        if all(cell.value is None for cell in row):
            continue
        number += 1
        values = []
        for place, cell in enumerate(row):
            value = cell.value
            column = str(headers[place]) if place < len(headers) else str(place + 1)
            if cell.data_type == "f":
                if not calculated:
                    known = _sheet(data, calculated=True).iter_rows(max_row=MAX_IMPORTED + 2, values_only=True)
                    calculated = list(known)
                value = calculated[line][place] if line < len(calculated) and place < len(calculated[line]) else None
                if value is None:
                    raise _problem(number, column, _("The formula has no value. Replace it by its value."))
            if cell.data_type == "e" or (cell.data_type == "f" and value in ERROR_CODES):
                raise _problem(number, column, _("The cell holds the error %(error)s.") % {"error": value})
            values.append(_from_cell(value))
        yield values


def _is_rounded(number: float) -> bool:
    return abs(number) >= EXACT_BELOW


def _from_cell(value: Any) -> Any:
    if isinstance(value, str):
        return unescape(_XML_ESCAPED.sub(lambda found: chr(int(found[1], 16)), value)) if value else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, int | float) and _is_rounded(value):
        return Rounded(f"{value:d}" if isinstance(value, int) else f"{value:.0f}")
    return value
