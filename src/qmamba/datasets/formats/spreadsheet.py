"""The cells of an Excel workbook (.xlsx), read with the standard library alone.

Only what label files use is understood: shared and inline texts, numbers, and the stored results
of formulas.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from qmamba.datasets.formats.label_files import Row
from qmamba.errors import DataError

_LARGEST_PART = 200_000_000
_MOST_ROWS = 1_048_576
_ROWS_ABOVE_HEADER = 20
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def read_sheet(path: Path, columns: Sequence[str], sheet: str | None = None) -> Iterator[Row]:
    """Rows below the header of a sheet, reduced to `columns`; without rows that are empty in them.

    The header is the first row that has all `columns`; titles may stand above it and other cells
    beside it.

    Args:
        path: the workbook.
        columns: names that the header must have, compared without regard to case.
        sheet: name of the sheet; the first sheet when None.

    Raises:
        DataError: the file is missing or not a workbook, or has no such sheet or header.
    """
    rows = sheet_cells(path, sheet)
    wanted = [column.lower() for column in columns]
    headers = ([cell.lower() for cell in cells] for cells in rows[:_ROWS_ABOVE_HEADER])
    found = ((line, names) for line, names in enumerate(headers, 1) if set(wanted) <= set(names))
    top, header = next(found, (0, []))
    if not header:
        raise DataError(
            f"No row of {str(path)!r} has the columns {', '.join(map(repr, columns))}; get the"
            " original workbook."
        )
    indices = {column: header.index(column) for column in wanted}
    for line, cells in enumerate(rows[top:], top + 1):
        values = {
            column: cells[index] if index < len(cells) else "" for column, index in indices.items()
        }
        if any(values.values()):
            yield Row(path, line, values)


def sheet_cells(path: Path, sheet: str | None = None) -> list[list[str]]:
    """Every row of a sheet as stripped texts; numbers as they are stored, "" for an empty cell.

    Raises:
        DataError: the file is missing or not a workbook, or has no such sheet.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _cells(_xml(archive, _sheet_part(archive, path, sheet)), _shared_texts(archive))
    except FileNotFoundError:
        raise DataError(f"The label file {str(path)!r} is missing; put it there.") from None
    except OSError as error:
        raise DataError(f"Cannot read the label file {str(path)!r}: {error.strerror}.") from error
    except (zipfile.BadZipFile, ElementTree.ParseError, LookupError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{str(path)!r} is not a complete Excel workbook ({error}); get it again"
        ) from error


def _sheet_part(archive: zipfile.ZipFile, path: Path, sheet: str | None) -> str:
    sheets = {
        element.get("name", ""): element.get(_RELATION, "")
        for element in _elements(_xml(archive, "xl/workbook.xml"), "sheet")
    }
    if sheet is not None and sheet not in sheets:
        raise DataError(
            f"{str(path)!r} has no sheet {sheet!r}, only {', '.join(map(repr, sheets))}; get the"
            " original workbook"
        )
    relation = sheets[next(iter(sheets), "") if sheet is None else sheet]
    targets = {
        element.get("Id"): element.get("Target", "")
        for element in _elements(_xml(archive, "xl/_rels/workbook.xml.rels"), "Relationship")
    }
    return posixpath.normpath(posixpath.join("/xl", targets[relation])).lstrip("/")


def _xml(archive: zipfile.ZipFile, part: str) -> ElementTree.Element:
    if archive.getinfo(part).file_size > _LARGEST_PART:
        raise ValueError(f"{part} is larger than {_LARGEST_PART} bytes")
    return ElementTree.fromstring(archive.read(part))


def _elements(root: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """Elements of this name below a root element, in its namespace."""
    return root.iter(_namespace(root) + name)


def _namespace(root: ElementTree.Element) -> str:
    return root.tag.rpartition("}")[0] + "}"


def _shared_texts(archive: zipfile.ZipFile) -> list[str]:
    if "xl/sharedStrings.xml" not in archive.namelist():
        return []
    root = _xml(archive, "xl/sharedStrings.xml")
    return [_text(item, _namespace(root)) for item in _elements(root, "si")]


def _cells(sheet: ElementTree.Element, shared: list[str]) -> list[list[str]]:
    namespace = _namespace(sheet)
    rows: list[list[str]] = []
    for row in _elements(sheet, "row"):
        number = int(row.get("r", len(rows) + 1))
        if not len(rows) < number <= _MOST_ROWS:
            raise ValueError(f"row {number} is out of order")
        rows.extend([] for _ in range(number - len(rows)))
        cells = rows[-1]
        for cell in row.iterfind(namespace + "c"):
            column = _column(cell.get("r"), len(cells))
            cells.extend("" for _ in range(column + 1 - len(cells)))
            cells[column] = _value(cell, namespace, shared).strip()
    return rows


def _column(reference: str | None, following: int) -> int:
    """Zero-based column of a reference such as "AB12"; without one, the cell follows the last."""
    if reference is None:
        return following
    letters = re.match("[A-Z]{1,3}", reference)
    if letters is None:
        raise ValueError(f"{reference!r} is not a cell")
    column = 0
    for letter in letters[0]:
        column = 26 * column + ord(letter) - ord("A") + 1
    return column - 1


def _value(cell: ElementTree.Element, namespace: str, shared: list[str]) -> str:
    kind = cell.get("t")
    if kind == "inlineStr":
        return _text(cell, namespace)
    value = cell.findtext(namespace + "v", "")
    return shared[int(value)] if kind == "s" else value


def _text(item: ElementTree.Element, namespace: str) -> str:
    """All runs of a text, without the phonetic guide that some languages add."""
    indices = ("t", "r/t", "is/t", "is/r/t")
    paths = ("/".join(namespace + part for part in index.split("/")) for index in indices)
    return "".join(element.text or "" for path in paths for element in item.iterfind(path))
