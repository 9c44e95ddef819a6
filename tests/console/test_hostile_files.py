"""Malicious uploads are refused with a message, in little time and memory, before they are parsed."""

from __future__ import annotations

import io
import json
import time
import tracemalloc
import zipfile
from typing import Any

import pytest
from openpyxl import Workbook, load_workbook

from opsconsole.console import file_formats, workbook
from opsconsole.console.workbook import Unreadable
from opsconsole.escaping import for_cell, from_cell

SHEET = "xl/worksheets/sheet1.xml"
STRINGS = "xl/sharedStrings.xml"
RELATIONS = "xl/_rels/workbook.xml.rels"
TYPE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/sharedStrings"
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def book(rows: Any = (("id", "name"), (1, "a"))) -> bytes:
    made = Workbook()
    for row in rows:
        made.active.append(row)
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def with_part(name: str, content: bytes, data: bytes | None = None) -> bytes:
    """Return a workbook with an additional part of this name."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data or book())) as old,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for part in old.namelist():
            if part != name:
                new.writestr(part, old.read(part))
        new.writestr(name, content)
    return out.getvalue()


def sheet(content: str) -> bytes:
    return with_part(SHEET, f'<worksheet xmlns="{MAIN}"><sheetData>{content}</sheetData></worksheet>'.encode())


def strings(content: str, count: int = 1) -> bytes:
    data = f'<sst xmlns="{MAIN}">{content}</sst>'.encode()
    row = '<row><c t="s"><v>0</v></c></row>'
    cells = f'<worksheet xmlns="{MAIN}"><sheetData>{row * count}</sheetData></worksheet>'.encode()
    relations = zipfile.ZipFile(io.BytesIO(book())).read(RELATIONS).decode()
    own = relations.replace(
        "</Relationships>", f'<Relationship Id="s" Type="{TYPE}" Target="sharedStrings.xml"/></Relationships>'
    )
    return with_part(RELATIONS, own.encode(), with_part(STRINGS, data, with_part(SHEET, cells)))


HEAD = '<row><c t="inlineStr"><is><t>id</t></is></c></row>'
LETTER = '<c t="inlineStr"><is><t>x</t></is></c>'
BOMBS = {
    "one huge cell": lambda: sheet(f'<row><c t="inlineStr"><is><t>{"a" * (60 << 20)}</t></is></c></row>'),
    "unpacked": lambda: sheet(f'<row><c t="inlineStr"><is><t>{"a" * (70 << 20)}</t></is></c></row>'),
    "many strings": lambda: strings("<si/>" * 6_000_000),
    "one string often": lambda: strings(f"<si><t>{'a' * (1 << 20)}</t></si>", 200),
    "blank rows": lambda: sheet(HEAD + "<row/>" * 9_000_000),
    "many rows": lambda: sheet(HEAD * 400_000),
    "wide rows": lambda: sheet(HEAD + '<row><c r="XFD1" t="b"><v>1</v></c></row>' * 10_000),
    "a wide row": lambda: sheet(f"<row>{LETTER * 700_000}</row>"),
    "blank cells": lambda: sheet(HEAD + f"<row>{'<c/>' * 12_000_000}</row>"),
    "attributes": lambda: sheet("<row " + " ".join(f"a{n}=''" for n in range(1_500_000)) + "/>"),
    "tags with attributes": lambda: sheet(("<row " + " ".join(f"a{n}=''" for n in range(5_000)) + "/>") * 1_000),
    "deep": lambda: sheet("<a>" * 1_000_000),
    "entities": lambda: with_part(
        SHEET,
        b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
        b"<worksheet><sheetData><row><c><v>&b;</v></c></row></sheetData></worksheet>",
    ),
    "parts": lambda: many_parts(20_000),
}


def many_parts(count: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for number in range(count):
            made.writestr(str(number), "")
    return out.getvalue()


@pytest.mark.parametrize("name", BOMBS)
def test_a_workbook_within_limits(name: str) -> None:
    data = BOMBS[name]()
    assert len(data) < 12 << 20
    began = time.process_time()
    with pytest.raises(Unreadable) as refused:
        file_formats.XLSX().create_dataset(data)
    assert time.process_time() - began < 3, "about a second where nothing else runs"
    assert str(refused.value).endswith(".")


def test_a_workbook_needs_little_memory() -> None:
    data = BOMBS["one string often"]()
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable):
            file_formats.XLSX().create_dataset(data)
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("CSV", lambda: b"a," * 8_000_000),
        ("CSV", lambda: ",".join(f"c{n}" for n in range(60_000)).encode() + b"\n" + b"," * 60_000),
        ("CSV", lambda: b"a\n" * 2_000_000),
        ("CSV", lambda: b"a\n" + b'"x' * 5_000_000),
        ("CSV", lambda: b"a" * (17 << 20)),
        ("JSON", lambda: b"[" + b"{}," * 5_000_000 + b"{}]"),
        ("JSON", lambda: json.dumps([{f"k{n}": 1} for n in range(9_000)]).encode()),
        ("JSON", lambda: b'[{"a": [' + b"0," * 5_000_000 + b"0]}]"),
        ("JSON", lambda: b'[{"a": ' + b"[" * 500 + b"]" * 500 + b"}]"),
        ("JSON", lambda: b'[{"a": ' + b'{"a":' * 1_000_000),
        ("JSON", lambda: b'[{"a": NaN}]'),
        ("JSON", lambda: b'[{"a": 1}] x'),
        ("JSON", lambda: b'[{"a": 1},]'),
        ("JSON", lambda: b'[{"a": 1} {"a": 2}]'),
        ("JSON", lambda: b'{"a": 1}'),
        ("JSON", lambda: b""),
    ],
)
def test_text_within_limits(kind: str, content: Any) -> None:
    data = content()
    began = time.process_time()
    with pytest.raises(Unreadable):
        getattr(file_formats, kind)().create_dataset(data)
    assert time.process_time() - began < 3


def test_json_is_read_object_by_object() -> None:
    found = file_formats.JSON().create_dataset(b' [ {"a": 1.50, "b": {"x": [1e400]}} , {"b": null} ] ')
    assert found.headers == ["a", "b"]
    assert list(found[0]) == ["1.50", '{"x": [1e400]}']
    assert file_formats.JSON().create_dataset(b'[{"a": 1}]').height == 1


def test_ten_thousand_rows_are_read_within_the_time_limit() -> None:
    row = "<row>" + "<c><v>1234</v></c>" * 20 + "</row>"
    heads = "".join(f'<c t="inlineStr"><is><t>c{n}</t></is></c>' for n in range(20))
    data = sheet(f"<row>{heads}</row>{row * 10_000}")
    began = time.process_time()
    assert file_formats.XLSX().create_dataset(data).height == 10_000
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ("<c><f>1+1</f></c>", "Row 1, id: The formula has no stored value."),
        ('<c t="e"><v>#REF!</v></c>', "Row 1, id: The cell contains the error #REF!."),
        ('<c t="e"><f>1/0</f><v>#DIV/0!</v></c>', "Row 1, id: The cell contains the error #DIV/0!."),
        ("<c><v>nan</v></c>", "nan is not a number."),
        ('<c t="s"><v>99</v></c>', "not an XLSX workbook"),
        ('<c t="n" s="x"><v>1</v></c>', "not an XLSX workbook"),
    ],
)
def test_a_cell_without_an_exact_value_is_named(cells: str, said: str) -> None:
    with pytest.raises(Unreadable) as refused:
        file_formats.XLSX().create_dataset(sheet(f"{HEAD}<row>{cells}</row>"))
    assert said in str(refused.value)


def test_shared_strings() -> None:
    assert [list(row) for row in workbook.rows(strings("<si><t>a_x0041_</t></si>", 2))] == [["aA"], ["aA"]]


def test_values_that_a_spreadsheet_program_writes() -> None:
    cells = (
        '<c r="A2"><f>1+1</f><v>2</v></c><c r="C2" t="str"><f>x</f><v></v></c><c r="D2"><v>1.5</v></c>'
        '<c r="E2" t="b"><v>0</v></c><c r="F2" t="inlineStr"><is><r><t>a</t></r><r><t>b</t></r>'
        '<rPh><t>c</t></rPh></is></c><c r="G2"/>'
    )
    heads = "".join(f'<c t="inlineStr"><is><t>{name}</t></is></c>' for name in "abcdefg")
    found = file_formats.XLSX().create_dataset(sheet(f"<row>{heads}</row><row/><row>{cells}</row>"))
    assert list(found[0]) == [2, None, None, 1.5, "false", "ab", None]


def test_large_numbers_are_restored_exactly() -> None:
    import tablib

    data = tablib.Dataset((2**53 + 1, -(2**62), 7), headers=["a", "b", "c"])
    content = file_formats.XLSX().export_data(data)
    row = list(load_workbook(io.BytesIO(content)).active.iter_rows(values_only=True))[1]
    assert row == (str(2**53 + 1), str(-(2**62)), 7)
    assert list(file_formats.XLSX().create_dataset(content)[0]) == [str(2**53 + 1), str(-(2**62)), 7]


FORMULAS = (
    "=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", " =1", "\u200b=1", "\ufeff=1", "＝1", "＋1", "－1", "＠x",
    "'=1", "''=1", "'", "", "−1", "\xa0=1", '=HYPERLINK("http://x")',
)  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_exported_as_text_and_imported_unchanged(text: str) -> None:
    assert for_cell(text) == f"'{text}"
    assert from_cell(for_cell(text)) == text


@pytest.mark.parametrize("text", ["a=1", "'a", "x", " x", "“=", "7", "''x", "a\n=1"])
def test_other_text_is_unchanged(text: str) -> None:
    assert for_cell(text) == from_cell(text) == text


def test_no_part_is_read_beyond_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory of the archive declares smaller sizes than its parts have."""
    data = bytearray(sheet(HEAD * 1_000))
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as made:
        size = made.getinfo(SHEET).file_size
    lying = bytes(data).replace(size.to_bytes(4, "little"), (100).to_bytes(4, "little"))
    with pytest.raises(Unreadable):
        file_formats.XLSX().create_dataset(lying)
    monkeypatch.setattr(workbook, "MAX_UNPACKED", 1_000)
    with pytest.raises(Unreadable, match="unpacked"):
        file_formats.XLSX().create_dataset(bytes(data))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("size", "status"), [(69, 200), (64 << 20, 400)])
def test_a_strangers_upload_is_refused_before_it_is_read(client: Any, size: int, status: int) -> None:
    """The login form is parsed without a login."""
    body = b"--x\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\na\r\n--x--\r\n"
    assert len(body) == 69
    answer = client.generic(
        "POST", "/admin/login/", body, content_type="multipart/form-data; boundary=x", CONTENT_LENGTH=str(size)
    )
    assert answer.status_code == status
