"""CSV, XLSX and JSON files that keep every value of a store exactly.

An empty cell is NULL, or empty text if the column is NOT NULL. A cell with a single apostrophe is empty text. Text that
a spreadsheet would treat as a formula gets a leading apostrophe on export, which the import removes. JSON uses `null`.
Size limits are checked before a file is parsed.
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
from itertools import islice
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
    CellError,
    Rounded,
    Unreadable,
    is_rounded,
    too_large,
)
from opsconsole.escaping import for_cell, from_cell
from opsconsole.formatting import format_number

__all__ = ["CSV", "JSON", "MISSING", "NULL", "XLSX", "Rounded", "Unreadable"]

MAX_IMPORTED = 10_000
MAX_NESTING = 100  # of lists and objects in a value
MAX_SEPARATORS = 2_000_000  # commas, line ends and brackets of a text file: an upper bound of its values
CELL_CHARACTERS = 32_767  # Excel's limit; openpyxl truncates longer text silently

csv.field_size_limit(MAX_BYTES)  # the default of 128 KiB is too small for JSON documents


class Null:
    """An explicit SQL NULL. An empty cell is NULL only in a nullable column."""

    def __str__(self) -> str:
        return "NULL"


class Missing(Null):
    """The value of a column that a JSON object does not contain."""


NULL, MISSING = Null(), Missing()


def _cells(dataset: Any) -> Iterator[list[Any]]:
    """Yield the rows as cells; None is an empty cell."""
    never_null = set(getattr(dataset, "never_null", ()))
    plain = [header in never_null for header in dataset.headers]
    for row in dataset:
        yield [
            None if value is None or (value == "" and never) else for_cell(value) if isinstance(value, str) else value
            for value, never in zip(map(_finite, row), plain, strict=True)
        ]


def _finite(value: Any) -> Any:
    """Return NaN and infinities as text, because the file formats have no such numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _dataset(headers: Iterable[Any], rows: Iterable[list[Any]]) -> Any:
    """Return a dataset. Raise Unreadable at the first row beyond MAX_IMPORTED."""
    names = ["" if header is None else str(header).strip() for header in headers]
    while names and not names[-1]:
        names.pop()  # spreadsheets keep cleared columns
    if not names or "" in names:
        raise Unreadable(_("The first row must name the columns."))
    if len(names) > MAX_COLUMNS:
        raise too_large(_("columns"), MAX_COLUMNS)
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        text = _("The file contains columns %(columns)s twice. Keep one of each.")
        raise Unreadable(text % {"columns": ", ".join(twice)})
    dataset = tablib.Dataset(headers=names)
    for number, row in enumerate(rows, 1):
        if number > MAX_IMPORTED:
            raise Unreadable(
                _("The file has more than %(count)s rows. Split it, or use the database client.")
                % {"count": format_number(MAX_IMPORTED)}
            )
        if len(row) > len(names) and any(cell not in (None, "") for cell in row[len(names) :]):
            text = _("Row %(row)s has more cells than the header. Remove the extra cells.")
            raise Unreadable(text % {"row": format_number(number)})
        for name, cell in zip(names, row, strict=False):
            if isinstance(cell, CellError):
                raise _problem(number, name, cell)
        if number * len(names) > MAX_CELLS:
            raise too_large(_("cells"), MAX_CELLS)
        dataset.append([*row, *[None] * (len(names) - len(row))][: len(names)])
    return dataset


class _BinaryMixin:
    """A format that is read and written as bytes, because text mode changes line ends."""

    def is_binary(self) -> bool:
        return True

    def get_read_mode(self) -> str:
        return "rb"


class CSV(_BinaryMixin, base_formats.CSV):  # type: ignore[misc]
    def create_dataset(self, in_stream: bytes, **kwargs: Any) -> Any:
        rows = csv.reader(io.StringIO(_text(in_stream), newline=""), strict=True)
        try:
            headers = next(rows, [])
            return _dataset(headers, ([from_cell(cell) if cell else None for cell in row] for row in rows if row))
        except csv.Error as error:
            raise Unreadable(_("The file is not valid CSV: %(reason)s.") % {"reason": error}) from None

    def export_data(self, dataset: Any, **kwargs: Any) -> bytes:
        out = io.StringIO(newline="")
        writer = csv.writer(out)
        writer.writerow(dataset.headers)
        for row in _cells(dataset):
            # A reader skips an empty line, so a single empty cell is written quoted.
            writer.writerow(row) if len(row) > 1 or row[0] is not None else out.write('""\r\n')
        return out.getvalue().encode(errors="backslashreplace")


class JSON(_BinaryMixin, base_formats.JSON):  # type: ignore[misc]
    def create_dataset(self, in_stream: bytes, **kwargs: Any) -> Any:
        rows = list(islice(_objects(_text(in_stream)), MAX_IMPORTED + 1))
        headers = list(dict.fromkeys(name for row in rows for name in row))
        if len(headers) > MAX_COLUMNS:
            raise too_large(_("columns"), MAX_COLUMNS)
        return _dataset(headers, ([_value(row.get(name, MISSING)) for name in headers] for row in rows))

    def export_data(self, dataset: Any, **kwargs: Any) -> bytes:
        rows = [dict(zip(dataset.headers, map(_finite, row), strict=True)) for row in dataset]
        text = json.dumps(rows, ensure_ascii=False, indent=1, allow_nan=False)
        return text.encode(errors="backslashreplace")


class XLSX(_BinaryMixin, base_formats.XLSX):  # type: ignore[misc]
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
        raise Unreadable(_("The file is not encoded in UTF-8. Save it as UTF-8.")) from None
    if sum(map(text.count, ",\n\r[{")) > MAX_SEPARATORS:
        raise too_large(_("values"), MAX_SEPARATORS)
    return text


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON list one by one, so that rows beyond the limit are not allocated."""
    decoder = json.JSONDecoder(parse_float=_Digits, parse_int=_Digits, parse_constant=_Constant)
    not_a_list = Unreadable(_("The file must contain a list of objects, one for each row."))
    try:
        found = _LIST_START.match(text)
        if found is None:
            raise not_a_list
        place, closed, number = found.end(), found[1] == "]", 0
        while not closed:
            row, place = decoder.raw_decode(text, place)
            if not isinstance(row, dict):
                raise not_a_list
            number += 1
            for name, value in row.items():
                if constant := _constant_in(value):
                    sentence = _("%(value)s is not valid JSON. Use null or text.") % {"value": constant}
                    raise _problem(number, name, sentence)
            yield row
            found = _LIST_NEXT.match(text, place)
            if found is None:
                raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
            place, closed = found.end(), found[1] == "]"
        if place < len(text):
            raise json.JSONDecodeError("Extra data", text, place)
    except (ValueError, RecursionError) as error:
        raise Unreadable(_("The file is not valid JSON: %(reason)s.") % {"reason": error}) from None


_LIST_START = re.compile(r"[ \t\r\n]*\[[ \t\r\n]*(\]?)[ \t\r\n]*")
_LIST_NEXT = re.compile(r"[ \t\r\n]*([,\]])[ \t\r\n]*")


class _Constant(str):
    """A NaN or infinity in a JSON file. Python writes them, although JSON does not define them."""


def _constant_in(value: Any) -> str:
    """Return the first NaN or infinity within a value, or an empty string."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return next(filter(None, map(_constant_in, value)), "")
    return value if isinstance(value, _Constant) else ""


class _Digits(str):
    """A number of a JSON file with its original digits."""


def _value(value: Any) -> Any:
    """Return a JSON value as the value of a column: numbers with their digits, objects and lists as text."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return _document(value)
    return str(value) if isinstance(value, _Digits) else value


def _document(value: Any, depth: int = 1) -> str:
    if depth > MAX_NESTING:
        text = _("A value has more than %(limit)s nested levels. Flatten it.")
        raise Unreadable(text % {"limit": format_number(MAX_NESTING)})
    if isinstance(value, dict):
        parts = (f"{json.dumps(k, ensure_ascii=False)}: {_document(v, depth + 1)}" for k, v in value.items())
        return "{" + ", ".join(parts) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_document(part, depth + 1) for part in value) + "]"
    return str(value) if isinstance(value, _Digits) else json.dumps(value, ensure_ascii=False)


# --- cells of a workbook ------------------------------------------------------------------------------------

# XLSX writes characters that XML cannot contain as `_x000D_`, and the underscore of text like that as `_x005F_`.
_LIKE_ESCAPED = re.compile(r"_(?=x[0-9A-Fa-f]{4}_)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")


def _is_text(cell: Any) -> bool:
    """Return whether a cell is written as text: numbers that a workbook would round are."""
    return isinstance(cell, str) or (isinstance(cell, int) and is_rounded(cell))


def _text_cell(sheet: Any, text: str, number: int, column: str) -> Any:
    text = _CONTROL.sub(lambda found: f"_x{ord(found[0]):04X}_", _LIKE_ESCAPED.sub("_x005F_", text))
    if len(text) > CELL_CHARACTERS:
        raise ValueError(
            _("Row %(row)s: %(column)s is too long for an XLSX cell. Export CSV or JSON.")
            % {"row": format_number(number), "column": column}
        )
    cell = WriteOnlyCell(sheet, value=text)
    cell.data_type = "s"  # openpyxl would write text with a leading `=` as a formula
    return cell


def _bold(sheet: Any, text: str) -> Any:
    cell = WriteOnlyCell(sheet, value=text)
    cell.font = Font(bold=True)
    return cell


def _from_cell(value: Any) -> Any:
    if isinstance(value, CellError | Rounded):
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
