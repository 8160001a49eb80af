"""Tables of scores on disk, as CSV or JSON lines, that lose no finished row."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from qmamba.assess.folder import COLUMNS, ImageRow
from qmamba.assess.native import REASON_COLUMNS
from qmamba.cells import path_cell
from qmamba.errors import ConfigError, DataError
from qmamba.files import atomic_write
from qmamba.locks import owned_output

TABLE_SUFFIXES = (".csv", ".jsonl")
"""Endings of the table files that can be written."""

_NUMBERS: dict[str, Callable[[str], float]] = {
    "score": float,
    "raw": float,
    "scale_low": float,
    "scale_high": float,
    "crop_spread": float,
    "whole": float,
    "native": float,
    "width": int,
    "height": int,
    **dict.fromkeys(REASON_COLUMNS[1:], float),
}


class TableFile:
    """A table that is written row by row and appears under its name only when it is complete.

    Use it as a context manager. Every row goes to ``<path>.partial`` at once. When the block ends
    without an error the complete table takes the place of ``path``; when it does not, the partial
    file stays with all rows so far and ``path`` is untouched.

    CSV: a header, then one line per row; empty where there is no value, ``true`` and ``false``,
    numbers with all their digits, notes joined by ``"; "``. JSON lines: one object per row with
    the same keys. Both are UTF-8; bytes of a file name that are not are escaped.

    The table belongs to this process until then: another one is refused. Beside the partial file
    ``<path>.partial.json`` keeps the settings, so that a later run can go
    on with the rows if it would make them alike.

    Args:
        path: file to write, ``.csv`` or ``.jsonl``.
        settings: what the rows depend on beside the images, as values that JSON has.
        resume: go on with a partial file that is there; its rows are in :attr:`kept`.
        force: replace a table that is there, and begin anew where a partial file is there.
        reasons: a CSV file gets the columns :data:`~qmamba.assess.REASON_COLUMNS`, too.

    Raises:
        ConfigError: another suffix.
        DataError: the file cannot be written there, or another process writes it; a partial file
            with rows is there and neither ``resume`` nor ``force`` is given, or it was made with
            other settings; or the table is there, no rows are taken up, and ``force`` is not given.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        settings: Mapping[str, Any] | None = None,
        resume: bool = False,
        force: bool = False,
        reasons: bool = False,
    ) -> None:
        self.path = Path(path)
        self._columns = (*COLUMNS, *REASON_COLUMNS) if reasons else COLUMNS
        if self.path.suffix.lower() not in TABLE_SUFFIXES:
            raise ConfigError(
                f"The output {str(self.path)!r} must end in {' or '.join(TABLE_SUFFIXES)}."
            )
        self.partial = self.path.with_name(self.path.name + ".partial")
        """Where the rows are until the table is complete."""
        self.settings_file = self.path.with_name(self.path.name + ".partial.json")
        """Where the settings of these rows are."""
        self.kept: list[ImageRow] = []
        """Rows of an earlier run, in their order."""
        if self.path.is_dir():
            raise DataError(f"Cannot write {str(self.path)!r}: it is a folder, give a file name.")
        settings = dict(settings or {})
        with ExitStack() as stack:
            stack.enter_context(owned_output(self.path))
            kept = 0 if force else self._keep(settings, resume)
            if not (kept or force) and self.path.is_file():
                state = "is complete, no stopped run is left" if resume else "exists already"
                raise DataError(f"{str(self.path)!r} {state}; --force replaces it.")
            try:
                self._open(settings, kept)
            except BaseException:
                if not kept:
                    self._discard()
                raise
            self._ownership = stack.pop_all()
        self.rows = len(self.kept)
        """Number of rows written, those of an earlier run included."""

    def _open(self, settings: dict[str, Any], length: int) -> None:
        try:
            self._stream = open(  # noqa: SIM115 - lives as long as the table
                self.partial, "r+b" if length else "wb"
            )
            if length:
                self._stream.truncate(length)
                self._stream.seek(length)
            else:
                with atomic_write(self.settings_file, "w") as stream:
                    json.dump(settings, stream, indent=1)
                self._stream.write(self._header())
        except OSError as error:
            raise DataError(f"Cannot write {str(self.path)!r}: {error.strerror}.") from error

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
        self.settings_file.unlink(missing_ok=True)

    def _keep(self, settings: Mapping[str, Any], resume: bool) -> int:
        """Take up the rows of a partial file; the number of its bytes that stay."""
        if self.partial.exists() and not self.partial.is_file():
            # A device or pipe holds no rows and may never end.
            return 0
        try:
            content = self.partial.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return 0
        except OSError as error:
            raise DataError(f"Cannot read {str(self.partial)!r}: {error.strerror}.") from error
        rows, length = self._complete_rows(content)
        if not rows:
            return 0
        name = str(self.partial)
        if not resume:
            raise DataError(
                f"{name!r} holds {len(rows)} rows of a run that was stopped; go on with it with"
                " --resume, or discard it with --force."
            )
        try:
            before = json.loads(self.settings_file.read_bytes())
            changed = [k for k in {**before, **settings} if before.get(k) != settings.get(k)]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"{name!r} cannot be resumed: {str(self.settings_file)!r}, which says how its rows"
                " were made, is missing or damaged; discard it with --force."
            ) from error
        if changed:
            raise DataError(
                f"{name!r} cannot be resumed: {changed[0]} was {before.get(changed[0])!r} and is"
                f" {settings.get(changed[0])!r} now; give the same options, or --force."
            )
        self.kept = rows
        return length

    def _complete_rows(self, content: bytes) -> tuple[list[ImageRow], int]:
        """The rows of a partial file and where they end; what a kill cut short is left out."""
        rows: list[ImageRow] = []
        length = 0
        records = _records(content, quotes=self._is_csv)
        try:
            if self._is_csv:
                header = next(records, b"")
                if header != self._header():
                    return [], 0
                length = len(header)
            for record in records:
                rows.append(ImageRow.from_dict(self._values(record)))
                length += len(record)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{str(self.partial)!r} is not what `qmamba score` writes; discard it with --force."
            ) from error
        return rows, length

    def _values(self, record: bytes) -> dict[str, Any]:
        if not self._is_csv:
            return dict(json.loads(record))
        (cells,) = csv.reader(io.StringIO(record.decode("utf-8"), newline=""))
        return {c: _value(c, cell) for c, cell in zip(self._columns, cells, strict=True)}

    def is_of(self, row: ImageRow, name: str) -> bool:
        """Whether a kept row is that of the image of this name."""
        if self._is_csv:
            name = path_cell(name).encode("utf-8", "backslashreplace").decode("utf-8")
        return row.image == name

    def __enter__(self) -> TableFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._ownership:
            if kind is None:
                self.finish()
            elif not self._stream.closed:
                with suppress(OSError):
                    self._stream.close()
                if not self.rows:
                    self._discard()

    def _discard(self) -> None:
        """Remove a partial file that holds nothing."""
        with suppress(OSError):
            self.partial.unlink(missing_ok=True)
            self.settings_file.unlink(missing_ok=True)

    @property
    def _is_csv(self) -> bool:
        return self.path.suffix.lower() == ".csv"

    def _header(self) -> bytes:
        return _csv_line(self._columns) if self._is_csv else b""

    def _line(self, row: ImageRow) -> bytes:
        values = row.to_dict()
        if self._is_csv:
            values["image"] = path_cell(row.image)
            return _csv_line(_cell(values.get(column)) for column in self._columns)
        return json.dumps(values).encode() + b"\n"


def _records(content: bytes, *, quotes: bool) -> Iterator[bytes]:
    """The lines that are complete; with `quotes` a line end between quotes ends none."""
    record = b""
    for line in _lines(content):
        record += line
        if record.endswith(b"\n") and not (quotes and record.count(b'"') % 2):
            yield record
            record = b""


def _lines(content: bytes) -> Iterator[bytes]:
    start = 0
    while (end := content.find(b"\n", start)) >= 0:
        yield content[start : end + 1]
        start = end + 1


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


def _value(column: str, cell: str) -> Any:
    """The value that :func:`_cell` made a cell of."""
    if column == "notes":
        return cell.split("; ") if cell else []
    if cell == "":
        # A model without a file has an empty hash, which stays one where there is a score.
        return None
    if column in _NUMBERS:
        return _NUMBERS[column](cell)
    return cell == "true" if column == "higher_is_better" else cell
