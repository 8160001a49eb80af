"""Reading the text files that scores are published in, with errors that name file and line."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qmamba.errors import DataError


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a label file: cells without surrounding spaces, by lower-case column name."""

    path: Path
    line: int
    cells: Mapping[str, str]

    def text(self, column: str) -> str:
        """The cell of a column.

        Raises:
            DataError: it is empty.
        """
        value = self.cells[column.lower()]
        if not value:
            raise self.error(f"the column {column!r} is empty; fill it in or remove the line")
        return value

    def number(self, column: str) -> float:
        """The cell of a column as a finite number.

        Raises:
            DataError: it is anything else.
        """
        text = self.text(column)
        try:
            # Python's float also reads 1_0, as 10.
            value = math.nan if "_" in text else float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(
                f"the column {column!r} holds {text!r}, which is not a finite number; correct or"
                " remove the line"
            )
        return value

    def error(self, message: str) -> DataError:
        """An error that says where this row is."""
        return DataError(f"{str(self.path)!r} line {self.line}: {message}")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        DataError: the file is missing, not readable or not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"The label file {str(path)!r} is missing; put it there.") from None
    except OSError as error:
        raise DataError(f"Cannot read the label file {str(path)!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"The label file {str(path)!r} is not UTF-8 text (byte {error.start}); save it as "
            "UTF-8."
        ) from error


def read_csv(path: Path, columns: Sequence[str | tuple[str, ...]]) -> Iterator[Row]:
    """Rows of a comma-separated file with a header line; blank lines are passed over.

    Column names are compared without regard to case and surrounding spaces.

    Args:
        path: the file, UTF-8.
        columns: names that must be there; of a tuple of names, one.

    Raises:
        DataError: the file cannot be read, is empty, lacks a column or names one twice, or a row
            has too few or too many cells.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), skipinitialspace=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if not any(stripped):
                continue
            if header is None:
                header = _checked_header(path, stripped, columns)
            elif len(stripped) != len(header):
                raise DataError(
                    f"{str(path)!r} line {reader.line_num}: {len(stripped)} cells where the header"
                    f" has {len(header)}; put texts with commas in double quotes"
                )
            else:
                yield Row(path, reader.line_num, dict(zip(header, stripped, strict=True)))
    except csv.Error as error:
        raise DataError(
            f"{str(path)!r} line {reader.line_num} is not comma-separated text: {error}; save the"
            " file again as CSV"
        ) from error
    if header is None:
        raise DataError(f"The label file {str(path)!r} is empty; get it again.")


def read_words(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Rows of a file without a header whose cells are separated by spaces or tabs.

    Raises:
        DataError: the file cannot be read, is empty, or a row has another number of cells.
    """
    empty = True
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        words = text.split()
        if not words:
            continue
        empty = False
        if len(words) != len(columns):
            raise DataError(
                f"{str(path)!r} line {line}: {len(words)} words where {len(columns)}"
                f" ({', '.join(columns)}) are expected; get the file again"
            )
        yield Row(path, line, dict(zip(columns, words, strict=True)))
    if empty:
        raise DataError(f"The label file {str(path)!r} is empty; get it again.")


def _checked_header(
    path: Path, names: Sequence[str], columns: Sequence[str | tuple[str, ...]]
) -> list[str]:
    """The lower-case column names.

    Raises:
        DataError: one of `columns` (or each name of a tuple) is missing, or a name occurs twice.
    """
    header = [name.lower() for name in names]
    for column in columns:
        choice = (column,) if isinstance(column, str) else column
        if not any(name.lower() in header for name in choice):
            raise DataError(
                f"{str(path)!r} has no column {' or '.join(map(repr, choice))}; its columns,"
                f" separated by commas, are {', '.join(map(repr, names))}"
            )
    for name in header:
        if name and header.count(name) > 1:
            raise DataError(f"{str(path)!r} has more than one column {name!r}; keep one")
    return header
