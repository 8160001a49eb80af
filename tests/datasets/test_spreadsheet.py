from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from qmamba.datasets.formats.spreadsheet import read_sheet, sheet_cells
from qmamba.errors import DataError
from tests.datasets.trees import Cell, write_workbook


def replaced(path: Path, part: str, content: str | None) -> None:
    """Write the workbook again with one part changed, or left out for None."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name).decode() for name in archive.namelist()}
    parts.pop(part)
    if content is not None:
        parts[part] = content
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)


def test_sheets_and_empty_cells(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    rows: list[list[Cell]] = [["a & b", None, 1.5], [], [None, " padded "]]
    write_workbook(path, {"first": rows, "second": [["x"]]})
    assert sheet_cells(path) == [["a & b", "", "1.5"], [], ["", "padded"]]
    assert sheet_cells(path, "second") == [["x"]]
    with pytest.raises(DataError, match="no sheet 'third', only 'first', 'second'"):
        sheet_cells(path, "third")


def test_header_below_titles(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    rows: list[list[Cell]] = [
        ["Ratings"],
        [],
        [None, "Name", "MOS", "MOS"],
        [None, "a", 2],
        [9],
        [None, "b", 3, 4],
    ]
    write_workbook(path, {"first": rows})
    found = list(read_sheet(path, ("name", "mos")))
    assert [(row.line, row.text("Name"), row.number("MOS")) for row in found] == [
        (4, "a", 2.0),
        (6, "b", 3.0),
    ]
    with pytest.raises(DataError, match=r"No row of .* has the columns 'name', 'score'"):
        list(read_sheet(path, ("name", "score")))


def test_other_kinds_of_cells(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    write_workbook(path, {"first": [["shared"]]})
    namespace = "http://purl.oclc.org/ooxml/spreadsheetml/main"
    cells = (
        '<row r="2"><c t="s"><v>0</v></c><c t="inlineStr"><is><t>in</t><r><t>line</t></r></is></c>'
        '<c r="AB2" t="str"><f>1</f><v>formula</v></c></row><row><c><v>1E-3</v></c></row>'
    )
    sheet = f'<worksheet xmlns="{namespace}"><sheetData>{cells}</sheetData></worksheet>'
    replaced(path, "xl/worksheets/sheet1.xml", sheet)
    texts = "<si><r><t>rich </t></r><r><t>text</t></r><rPh><t>guide</t></rPh></si>"
    replaced(path, "xl/sharedStrings.xml", f'<sst xmlns="{namespace}">{texts}</sst>')
    rows = sheet_cells(path)
    assert rows[0] == [] and rows[2] == ["1E-3"]
    assert rows[1][:2] == ["rich text", "inline"]
    assert len(rows[1]) == 28 and rows[1][27] == "formula"


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("xl/workbook.xml", None),
        ("xl/workbook.xml", "<workbook"),
        ("xl/workbook.xml", "<workbook/>"),
        ("xl/worksheets/sheet1.xml", None),
        ("xl/_rels/workbook.xml.rels", "<Relationships/>"),
        ("xl/sharedStrings.xml", None),
        ("xl/worksheets/sheet1.xml", '<w xmlns="m"><row r="99999999"/></w>'),
        ("xl/worksheets/sheet1.xml", '<w xmlns="m"><row r="2"/><row r="1"/></w>'),
        ("xl/worksheets/sheet1.xml", '<w xmlns="m"><row><c r="1"/></row></w>'),
        ("xl/worksheets/sheet1.xml", '<w xmlns="m"><row><c t="s"><v>7</v></c></row></w>'),
    ],
)
def test_damaged_workbooks(tmp_path: Path, part: str, content: str | None) -> None:
    path = tmp_path / "book.xlsx"
    write_workbook(path, {"first": [["x"]]})
    replaced(path, part, content)
    with pytest.raises(DataError, match=r"is not a complete Excel workbook .*; get it again"):
        sheet_cells(path)


def test_not_a_workbook(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    path.write_text("name,mos\n")
    with pytest.raises(DataError, match="is not a complete Excel workbook"):
        sheet_cells(path)
    with pytest.raises(DataError, match="is missing"):
        sheet_cells(tmp_path / "absent.xlsx")
    with pytest.raises(DataError, match="Cannot read"):
        sheet_cells(tmp_path)
