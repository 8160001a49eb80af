"""Files of scores: both formats hold the same, and the same rows give the same bytes."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from qmamba.assess import Score
from qmamba.errors import ConfigError, DataError
from qmamba.scale.rows import COLUMNS, Row, count_errors, error_row, scored_row
from qmamba.scale.shard_file import (
    FORMATS,
    Footer,
    choose_format,
    read_columns,
    read_footer,
    write_shard,
)

SCORE = Score(1 / 3, -0.1, (0.0, 1.0), True, None, "native", "tiny", "0" * 64, 64, 48, ("a", "b"))
ROWS: list[Row] = [
    scored_row("a.tar/x.png", "0" * 32, SCORE, ("duplicate key",)),
    error_row("a.tar/line\nend.png", None, "cannot decode '/p/y': it is empty", (), "/p/y"),
]
FOOTER = Footer("f" * 64, 2, {"empty": 1})


@pytest.mark.parametrize("format", FORMATS)
def test_values_come_back(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"0.{format}"
    write_shard(path, ROWS, FOOTER)
    assert read_footer(path) == FOOTER
    table = read_columns(path, list(COLUMNS))
    assert table["key"] == ["a.tar/x.png", "a.tar/line\nend.png"]
    assert table["score"] == [float(np.float32(1 / 3)), None]
    assert table["notes"] == ["duplicate key; a; b", None]
    assert table["error"] == [None, "cannot decode: it is empty"]
    assert table["crop_spread"] == [None, None] and table["width"] == [64, None]
    assert table["policy"] == ["native", None] and table["higher_is_better"] == [True, None]
    content = path.read_bytes()
    write_shard(path, ROWS, FOOTER)
    assert path.read_bytes() == content


def test_any_reader_of_gzip_reads_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "0.jsonl.gz"
    write_shard(path, ROWS, FOOTER)
    lines = gzip.decompress(path.read_bytes()).splitlines()
    assert [json.loads(line)["key"] for line in lines] == [row["key"] for row in ROWS]
    done = subprocess.run(["gzip", "-dc", path], capture_output=True, check=True)
    assert done.stdout.splitlines() == lines


@pytest.mark.parametrize("format", FORMATS)
def test_a_shard_without_rows(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"0.{format}"
    write_shard(path, [], Footer("f", 0, {}))
    assert read_footer(path).rows == 0 and read_columns(path, ["key"]) == {"key": []}


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_files(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"0.{format}"
    write_shard(path, ROWS * 100, FOOTER)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match="damaged"):
        read_columns(path, ["key"])
    path.write_bytes(b"something else")
    with pytest.raises(DataError, match="is not a file of scores or is damaged; delete it"):
        read_footer(path)


def test_bytes_per_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number, value in enumerate(rng.random(5000).tolist()):
        score = Score(value, value, (0, 1), True, value / 9, "native", "tiny", "0" * 64, 640, 480)
        rows.append(scored_row(f"00042.tar/{number:09}.jpg", f"{number:032x}", score, ()))
    write_shard(tmp_path / "0.parquet", rows, Footer("f", 5000, {}))
    assert (tmp_path / "0.parquet").stat().st_size / 5000 < 30
    schema = pyarrow.parquet.read_schema(tmp_path / "0.parquet")
    assert [schema.field(n).type for n in ("score", "width")] == [
        pyarrow.float32(),
        pyarrow.int32(),
    ]


def test_kinds_of_errors() -> None:
    assert count_errors(ROWS) == {"empty": 1}
    odd = error_row("k", None, "something never heard of", (), "")
    assert count_errors([odd, *ROWS]) == {"empty": 1, "other": 1}


def test_formats() -> None:
    assert choose_format(None) == "parquet" and choose_format("jsonl.gz") == "jsonl.gz"
    with pytest.raises(ConfigError, match=r"choose parquet or jsonl\.gz"):
        choose_format("csv")


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_format(None) == "jsonl.gz"
    with pytest.raises(ConfigError, match=r"pip install 'qmamba\[parquet\]'"):
        choose_format("parquet")
