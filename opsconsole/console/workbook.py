"""A streaming reader for the first sheet of an untrusted XLSX workbook.

openpyxl is not used for reading: it unpacks all strings before any limit applies, removes `x005F_` from text, drops
rows that are out of order, and reads a formula without a cached value as an empty cell.
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from django.utils.translation import gettext as _
from openpyxl.styles.numbers import BUILTIN_FORMATS, is_date_format, is_timedelta_format
from openpyxl.utils.cell import column_index_from_string
from openpyxl.utils.datetime import MAC_EPOCH, WINDOWS_EPOCH, from_excel

from opsconsole.formatting import format_number

MAX_BYTES = 16 << 20  # of a file
MAX_UNPACKED = 64 << 20
MAX_PARTS = 1_000
MAX_COLUMNS = 500
MAX_CELLS = 500_000
MAX_CHARACTERS = 16 << 20  # of all cells together; a shared string counts once for each cell
MAX_BLANK_ROWS = 50_000
MAX_XML_DEPTH = 64
MAX_NODES = 3_000_000  # elements and attributes of a streamed part
MAX_TREE_NODES = 500_000  # elements and attributes of a part that is kept in memory
PORTION = 64 << 10  # the longest tag
EXACT = 2**53  # the numbers of a workbook are floats


class Unreadable(Exception):
    """A file that cannot be imported. The message contains the reason and the remedy."""


class CellError(str):
    """A sentence about a cell that cannot be imported; the caller adds the row and the column."""


class Rounded(str):
    """A number that the spreadsheet may have rounded: integers are exact only below 2^53."""


def is_rounded(number: float) -> bool:
    return abs(number) >= EXACT


def too_large(what: str, limit: int) -> Unreadable:
    return Unreadable(
        _("The file has more than %(limit)s %(what)s. Split it.") % {"what": what, "limit": format_number(limit)}
    )


def rows(data: bytes) -> Iterator[list[Any]]:
    """Yield rows of cells: None, str, int, float, bool, a date or time, Rounded or CellError. Raise Unreadable."""
    with _opened(data) as book:
        root = _relations(book, "")
        main = _target(root, "/officeDocument")
        sheets, epoch = _sheets(book, main)
        relations = _relations(book, main)
        sheet = next((relations[key][1] for key in sheets if relations.get(key, ("",))[0].endswith("/worksheet")), None)
        if sheet is None:
            raise Unreadable(_("The workbook does not contain a sheet. Add one."))
        strings = _strings(book, _target(relations, "/sharedStrings", ""))
        formats = _formats(book, _target(relations, "/styles", ""))
        yield from _Sheet(strings, formats, epoch).rows(book, sheet)


@contextmanager
def _opened(data: bytes) -> Iterator[zipfile.ZipFile]:
    try:
        if data.count(b"PK\x01\x02") > MAX_PARTS:
            raise too_large(_("parts"), MAX_PARTS)
        with zipfile.ZipFile(io.BytesIO(data)) as book:
            parts = book.infolist()
            # zipfile stops reading a part at its declared size.
            if sum(part.file_size for part in parts) > MAX_UNPACKED:
                raise Unreadable(
                    _("The unpacked workbook is larger than %(limit)s MiB. Split it.")
                    % {"limit": format_number(MAX_UNPACKED >> 20)}
                )
            if any(part.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED} for part in parts):
                raise Unreadable(_("The file is not an XLSX workbook. Save it as XLSX."))
            yield book
    except _BROKEN:
        raise Unreadable(_("The file is not an XLSX workbook. Save it as XLSX.")) from None


# The exceptions that zipfile, zlib, expat and this module raise for a malformed file.
_BROKEN = (zipfile.BadZipFile, zlib.error, expat.ExpatError, OSError, LookupError, ValueError, RuntimeError, EOFError)


class _Parser:
    """A limited expat parser for one XML part. It refuses document types and therefore entities."""

    def __init__(
        self,
        start: Callable[[str, dict[str, str]], object],
        end: Callable[[str], object],
        limit: int = MAX_NODES,
    ) -> None:
        self._start, self._end, self._limit, self._depth, self._nodes = start, end, limit, 0, 0
        self.text: Callable[[str], None] | None = None

    def parse(self, book: zipfile.ZipFile, name: str) -> None:
        for _portion in self.portions(book, name):
            pass

    def portions(self, book: zipfile.ZipFile, name: str) -> Iterator[None]:
        """Parse a part and yield after each portion, so that the caller can collect results."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler = self._started
        parser.EndElementHandler = self._ended
        parser.StartDoctypeDeclHandler = _refuse_doctype
        if self.text is not None:
            parser.CharacterDataHandler = self.text
        with book.open(name) as part:
            given = 0
            while portion := part.read(PORTION):
                parser.Parse(portion)
                given += len(portion)
                if given - parser.CurrentByteIndex > 2 * PORTION:
                    raise Unreadable(_("The file is not an XLSX workbook. Save it as XLSX."))
                yield
        parser.Parse(b"", True)
        yield

    def _started(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._nodes += 1 + len(attributes)
        if self._depth > MAX_XML_DEPTH:
            raise Unreadable(_("The file is not an XLSX workbook. Save it as XLSX."))
        if self._nodes > self._limit:
            raise too_large(_("cells"), MAX_CELLS)
        self._start(_local(name), attributes)

    def _ended(self, name: str) -> None:
        self._depth -= 1
        self._end(_local(name))


def _refuse_doctype(*_arguments: Any) -> None:
    raise Unreadable(_("The file is not an XLSX workbook. Save it as XLSX."))


def _local(name: str) -> str:
    return name.rpartition(" ")[2]


def _tree(book: zipfile.ZipFile, name: str) -> ElementTree.Element:
    """Return the elements of a small part without their text."""
    builder = ElementTree.TreeBuilder()
    _Parser(builder.start, builder.end, MAX_TREE_NODES).parse(book, name)
    return builder.close()


def _relations(book: zipfile.ZipFile, part: str) -> dict[str, tuple[str, str]]:
    """Return the relations of a part: id → type and target."""
    folder, _slash, file = part.rpartition("/")
    return {
        relation.attrib["Id"]: (
            relation.attrib["Type"],
            posixpath.normpath(posixpath.join("/", folder, relation.attrib["Target"])).lstrip("/"),
        )
        for relation in _tree(book, posixpath.join(folder, "_rels", f"{file}.rels")).iter("Relationship")
    }


def _target(relations: dict[str, tuple[str, str]], type_: str, *default: str) -> str:
    return next((target for kind, target in relations.values() if kind.endswith(type_)), *default)


def _sheets(book: zipfile.ZipFile, main: str) -> tuple[list[str], datetime]:
    """Return the ids of the sheets and the epoch of dates."""
    root = _tree(book, main)
    sheets = [value for sheet in root.iter("sheet") for key, value in sheet.attrib.items() if _local(key) == "id"]
    mac = any(properties.get("date1904") in {"1", "true"} for properties in root.iter("workbookPr"))
    return sheets, MAC_EPOCH if mac else WINDOWS_EPOCH


def _formats(book: zipfile.ZipFile, name: str) -> list[str]:
    """Return the number format of each cell style."""
    if not name:
        return []
    root = _tree(book, name)
    own = {one.attrib["numFmtId"]: one.attrib["formatCode"][:255] for one in root.iter("numFmt")}
    numbers = [style.get("numFmtId", "0") for styles in root.iter("cellXfs") for style in styles.iter("xf")]
    return [own.get(number) or BUILTIN_FORMATS.get(int(number), "General") for number in numbers]


def _strings(book: zipfile.ZipFile, name: str) -> list[str]:
    found: list[str] = []
    text = _Text()

    def start(element: str, attributes: dict[str, str]) -> None:
        text.start(element)

    def end(element: str) -> None:
        text.end(element)
        if element == "si":
            if len(found) >= MAX_CELLS:
                raise too_large(_("strings"), MAX_CELLS)
            found.append(text.take())

    parser = _Parser(start, end)
    parser.text = text.add
    if name:
        parser.parse(book, name)
    return found


class _Text:
    """The text of a string from its formatted runs, without the phonetic hints (`rPh`)."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._wanted = self._aloud = False

    def start(self, element: str) -> None:
        if element == "rPh":
            self._aloud = True
        elif element == "t":
            self._wanted = not self._aloud

    def end(self, element: str) -> None:
        if element == "rPh":
            self._aloud = False
        elif element == "t":
            self._wanted = False

    def add(self, text: str) -> None:
        if self._wanted:
            self._parts.append(text)

    def take(self) -> str:
        text, self._parts = "".join(self._parts), []
        return _XML_ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)


class _Sheet:
    """The rows of a sheet, built from its XML events."""

    def __init__(self, strings: list[str], formats: list[str], epoch: datetime) -> None:
        self._strings, self._formats, self._epoch = strings, formats, epoch
        self._dates: dict[str, bool | None] = {}
        self._row: list[Any] = []
        self._rows: list[list[Any]] = []
        self._blank = self._cells = self._characters = 0
        self._cell: dict[str, str] = {}
        self._value: list[str] | None = None
        self._raw = ""
        self._given = self._formula = False
        self._text = _Text()

    def rows(self, book: zipfile.ZipFile, name: str) -> Iterator[list[Any]]:
        parser = _Parser(self._start, self._end)
        parser.text = self._add
        for _portion in parser.portions(book, name):
            found, self._rows = self._rows, []
            yield from found

    def _start(self, element: str, attributes: dict[str, str]) -> None:
        if element == "c":
            self._cell, self._raw, self._given, self._formula = attributes, "", False, False
            self._count_cells(1)
        elif element == "v":
            self._value = []
        elif element == "f":
            self._formula = True
        elif element == "row":
            self._row = []
        else:
            self._text.start(element)

    def _add(self, text: str) -> None:
        if self._value is not None:
            self._value.append(text)
        else:
            self._text.add(text)

    def _end(self, element: str) -> None:
        if element == "v" and self._value is not None:
            self._raw, self._given, self._value = "".join(self._value), True, None
        elif element == "c":
            self._place(self._read())
        elif element == "row":
            self._finish()
        else:
            self._text.end(element)

    def _place(self, value: Any) -> None:
        letters = _COLUMN.match(self._cell.get("r", ""))
        column = column_index_from_string(letters[0]) - 1 if letters else len(self._row)
        if value is None:
            return
        if column >= MAX_COLUMNS:
            raise too_large(_("columns"), MAX_COLUMNS)
        gap = column - len(self._row)
        if gap > 0:
            self._count_cells(gap)
        self._row += [None] * (gap + 1)
        self._row[column] = value
        if isinstance(value, str):
            self._characters += len(value)
            if self._characters > MAX_CHARACTERS:
                raise too_large(_("characters"), MAX_CHARACTERS)

    def _count_cells(self, count: int) -> None:
        self._cells += count
        if self._cells > MAX_CELLS:
            raise too_large(_("cells"), MAX_CELLS)

    def _finish(self) -> None:
        if self._row:
            self._rows.append(self._row)
            return
        self._blank += 1
        if self._blank > MAX_BLANK_ROWS:
            raise too_large(_("blank rows"), MAX_BLANK_ROWS)

    def _read(self) -> Any:
        kind, raw = self._cell.get("t", "n"), self._raw
        if kind == "inlineStr":
            return self._text.take()
        if self._formula and not self._raw.strip() and (kind != "str" or not self._given):
            return CellError(_("The formula has no stored value. Replace the formula with its value."))
        if kind == "s":
            return self._strings[int(raw)] if raw else None
        if kind == "str":
            return _XML_ESCAPED.sub(lambda found: chr(int(found[1], 16)), raw)
        if kind == "e":
            return CellError(_("The cell contains the error %(error)s.") % {"error": raw[:20]})
        if not raw.strip():
            return None
        if kind == "b":
            return raw.strip() == "1"
        if kind == "d":
            return datetime.fromisoformat(raw)
        return self._numeric(raw.strip())

    def _numeric(self, raw: str) -> Any:
        if not _NUMBER.fullmatch(raw):
            return CellError(_("%(text)s is not a number.") % {"text": raw[:40]})
        number = float(raw)
        style = self._cell.get("s", "0")
        if style not in self._dates:
            place = int(style)
            self._dates[style] = _dates(self._formats[place]) if place < len(self._formats) else None
        dates = self._dates[style]
        if dates is not None:
            try:
                found: date | time | None = from_excel(number, self._epoch, timedelta=dates)
            except (ValueError, OverflowError):
                return CellError(_("%(text)s is not a valid date.") % {"text": raw[:40]})
            return found
        if is_rounded(number):
            return Rounded(f"{int(raw):d}" if _WHOLE.fullmatch(raw) else f"{number:.0f}")
        return int(raw) if _WHOLE.fullmatch(raw) else number


def _dates(code: str) -> bool | None:
    """Return whether a number format is for durations, or None if it is not for dates."""
    return bool(is_timedelta_format(code)) if is_date_format(code) else None


_COLUMN = re.compile(r"[A-Z]{1,3}")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,400}", re.ASCII)
# XLSX writes characters that XML cannot contain as `_x000D_`.
_XML_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")
