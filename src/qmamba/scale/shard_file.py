"""The file that a finished shard leaves: Parquet, or JSON lines where pyarrow is missing.

Its rows and its footer (the hash of the plan, the number of rows, the errors by kind) are one file
that appears at once, so nothing else has to say whether a shard is done. The same rows give the
same bytes.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from qmamba.errors import ConfigError, DataError
from qmamba.files import atomic_write
from qmamba.scale import faults
from qmamba.scale.rows import COLUMNS, Row

Format = Literal["parquet", "jsonl.gz"]
FORMATS: tuple[Format, ...] = ("parquet", "jsonl.gz")

_METADATA_KEY = b"qmamba"
_ROW_GROUP = 100_000
_GZIP_COMMENT = 16
_GZIP_HEAD = struct.Struct("<4BI2B")
_MOST_COMMENT = 1 << 16


@dataclass(frozen=True)
class Footer:
    """What a shard's file says about itself."""

    plan: str
    """Hash of the plan that it belongs to."""
    rows: int
    """Number of its rows."""
    errors: dict[str, int]
    """Number of rows with an error, by kind."""


def choose_format(wanted: str | None) -> Format:
    """The format that is wanted, or the best that this installation can write.

    Raises:
        ConfigError: the format is unknown, or needs a package that is missing.
    """
    has_arrow = importlib.util.find_spec("pyarrow") is not None
    if wanted is None:
        return "parquet" if has_arrow else "jsonl.gz"
    if wanted not in FORMATS:
        raise ConfigError(f"format={wanted!r} is unknown; choose {' or '.join(FORMATS)}.")
    if wanted == "parquet":
        require_arrow()
    return wanted


def require_arrow() -> None:
    """Check that Parquet files can be read and written.

    Raises:
        ConfigError: pyarrow is missing.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigError("Parquet needs pyarrow; install it with pip install 'qmamba[parquet]'.")


def write_shard(path: Path, rows: Sequence[Row], footer: Footer) -> None:
    """Write a shard's file, all of it or nothing.

    Raises:
        DataError: the place is not writable or the disk is full.
    """
    with atomic_write(path) as stream:
        if path.suffix == ".parquet":
            _write_parquet(stream, rows, footer)
        else:
            _write_lines(stream, rows, footer)
        faults.reached("before_rename")
    faults.reached("after_rename")


def read_footer(path: Path) -> Footer:
    """The footer of a shard's file.

    Raises:
        DataError: the file is not one that :func:`write_shard` wrote.
    """
    try:
        text = _parquet_footer(path) if path.suffix == ".parquet" else _comment(path)
        return Footer(**json.loads(text))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{str(path)!r} is not a file of scores or is damaged; delete it and its shard will be"
            " scored again."
        ) from error


def read_columns(path: Path, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Some columns of a shard's file, as lists.

    Raises:
        DataError: the file is damaged.
    """
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            table = pyarrow.parquet.read_table(path, columns=list(columns))
            return {name: table.column(name).to_pylist() for name in columns}
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            rows = [json.loads(line) for line in stream]
        return {name: [row[name] for row in rows] for name in columns}
    except (OSError, ValueError, KeyError, EOFError, zlib.error) as error:
        raise DataError(f"Cannot read the scores in {str(path)!r}; the file is damaged.") from error


def _write_parquet(stream: BinaryIO, rows: Sequence[Row], footer: Footer) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = arrow_schema().with_metadata({_METADATA_KEY: json.dumps(asdict(footer))})
    with pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        # Also without rows the file has its columns.
        for first in range(0, max(1, len(rows)), _ROW_GROUP):
            part = list(rows[first : first + _ROW_GROUP])
            writer.write_table(pyarrow.Table.from_pylist(part, schema=schema))
        faults.reached("during_footer")


def arrow_schema() -> Any:
    """The columns of :data:`~qmamba.scale.rows.COLUMNS` as a schema of pyarrow."""
    import pyarrow

    types = {
        "string": pyarrow.string(),
        "float": pyarrow.float32(),
        "int": pyarrow.int32(),
        "bool": pyarrow.bool_(),
        "label": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
    }
    return pyarrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()])


def _parquet_footer(path: Path) -> bytes:
    require_arrow()
    import pyarrow.parquet

    return (pyarrow.parquet.read_metadata(path).metadata or {})[_METADATA_KEY]


def _write_lines(stream: BinaryIO, rows: Sequence[Row], footer: Footer) -> None:
    # The footer is the comment that a gzip file may have in its head, where no reader of the rows
    # meets it.
    comment = json.dumps(asdict(footer)).encode("ascii")
    stream.write(_GZIP_HEAD.pack(0x1F, 0x8B, 8, _GZIP_COMMENT, 0, 0, 255) + comment + b"\0")
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    checksum = size = 0
    for row in rows:
        line = json.dumps({name: _single(name, row[name]) for name in COLUMNS}).encode() + b"\n"
        checksum, size = zlib.crc32(line, checksum), size + len(line)
        stream.write(packer.compress(line))
    stream.write(packer.flush())
    faults.reached("during_footer")
    stream.write(struct.pack("<2I", checksum, size & 0xFFFFFFFF))


def _single(name: str, value: Any) -> Any:
    """A number as float32, so that both formats hold the same values."""
    if COLUMNS[name] != "float" or value is None:
        return value
    return struct.unpack("f", struct.pack("f", value))[0]


def _comment(path: Path) -> bytes:
    with open(path, "rb") as stream:
        head = stream.read(_GZIP_HEAD.size)
        if len(head) < _GZIP_HEAD.size or head[:4] != bytes((0x1F, 0x8B, 8, _GZIP_COMMENT)):
            raise ValueError("no comment")
        return stream.read(_MOST_COMMENT).partition(b"\0")[0]
