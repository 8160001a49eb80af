"""Tables of scores on disk, as CSV or JSON lines, that lose no finished row."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from qmamba.assess.folder import COLUMNS, ImageRow
from qmamba.errors import ConfigError, DataError
from qmamba.files import atomic_write

TABLE_SUFFIXES = (".csv", ".jsonl")
"""Endings of the table files that can be written."""


class TableFile:
    """A table that is written row by row and appears under its name only when it is complete.

    Use it as a context manager. Every row goes to ``<path>.partial`` at once. When the block ends
    without an error the complete table takes the place of ``path``; when it does not, the partial
    file stays with all rows so far and ``path`` is untouched.

    CSV: a header, then one line per row; empty where there is no value, ``true`` and ``false``,
    numbers with all their digits, notes joined by ``"; "``. JSON lines: one object per row with
    the same keys. Both are UTF-8; bytes of a file name that are not are escaped.

    Args:
        path: file to write, ``.csv`` or ``.jsonl``.

    Raises:
        ConfigError: another suffix.
        DataError: the file cannot be written there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        """Where the rows are until the table is complete."""
        self.rows = 0
        """Number of rows written."""
        if self.path.suffix.lower() not in TABLE_SUFFIXES:
            raise ConfigError(
                f"The output {str(self.path)!r} must end in {' or '.join(TABLE_SUFFIXES)}."
            )
        if self.path.is_dir():
            raise DataError(f"Cannot write {str(self.path)!r}: it is a folder, give a file name.")
        try:
            self._stream = open(self.partial, "wb")  # noqa: SIM115 - lives as long as the table
        except OSError as error:
            raise DataError(f"Cannot write {str(self.path)!r}: {error.strerror}.") from error
        self._stream.write(self._header())

    def write(self, row: ImageRow) -> None:
        """Add a row; it is with the operating system when this returns.

        Raises:
            DataError: the disk is full or gone.
        """
        try:
            self._stream.write(self._line(row))
            self._stream.flush()
        except OSError as error:
            raise DataError(
                f"Cannot write {str(self.partial)!r}: {error.strerror}; it holds the "
                f"{self.rows} rows so far."
            ) from error
        self.rows += 1

    def finish(self, rows: Iterable[ImageRow] | None = None) -> None:
        """Put the complete table in its place; called at the end of the block.

        Args:
            rows: the same rows in another order, to be written instead.

        Raises:
            DataError: the file cannot be written; the partial file stays.
        """
        if self._stream.closed:
            return
        self._stream.close()
        with atomic_write(self.path) as target:
            if rows is None:
                with open(self.partial, "rb") as source:
                    shutil.copyfileobj(source, target)
            else:
                target.write(self._header())
                target.writelines(map(self._line, rows))
        self.partial.unlink(missing_ok=True)

    def __enter__(self) -> TableFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish()
        elif not self._stream.closed:
            with suppress(OSError):
                self._stream.close()
            if not self.rows:
                self.partial.unlink(missing_ok=True)

    @property
    def _is_csv(self) -> bool:
        return self.path.suffix.lower() == ".csv"

    def _header(self) -> bytes:
        return _csv_line(COLUMNS) if self._is_csv else b""

    def _line(self, row: ImageRow) -> bytes:
        values = row.to_dict()
        if self._is_csv:
            return _csv_line(_cell(values[column]) for column in COLUMNS)
        return json.dumps(values).encode() + b"\n"


def _csv_line(cells: Iterable[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "; ".join(value)
    return str(value)
