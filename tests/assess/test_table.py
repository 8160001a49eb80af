"""Table files: complete or not there, and no finished row is lost."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from qmamba.assess import COLUMNS, ImageRow, Score, TableFile
from qmamba.errors import ConfigError, DataError

SCORE = Score(
    score=61.000000000000014,
    raw=61.000000000000014,
    scale=(0.0, 100.0),
    higher_is_better=True,
    crop_spread=1 / 3,
    policy="crops(size=224,count=10,layout=fixed)",
    model="tiny",
    sha256="0" * 64,
    width=640,
    height=480,
    notes=("alpha composited on white", 'padded, "so to speak"'),
)
ROWS = [
    ImageRow('a, "b"\nc.png', score=SCORE),
    ImageRow("grüße 图.png", error="cannot decode: it is empty"),
    ImageRow(os.fsdecode(b"\xff.png"), error="cannot decode"),
]


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with open(path, encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


SETTINGS = {"policy": "crops", "precision": "fp32"}


def interrupt(path: Path, rows: list[ImageRow], settings: dict[str, str] = SETTINGS) -> None:
    with pytest.raises(KeyboardInterrupt), TableFile(path, settings=settings) as table:
        for row in rows:
            table.write(row)
        raise KeyboardInterrupt


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("cut", range(0, 400, 19))
def test_resuming_after_a_kill_anywhere(tmp_path: Path, suffix: str, cut: int) -> None:
    with TableFile(tmp_path / f"whole{suffix}") as table:
        for row in ROWS:
            table.write(row)
    path = tmp_path / f"out{suffix}"
    interrupt(path, ROWS)
    partial = tmp_path / f"out{suffix}.partial"
    partial.write_bytes(partial.read_bytes()[:-cut] if cut else partial.read_bytes())
    with TableFile(path, settings=SETTINGS, resume=True) as table:
        assert all(table.is_of(row, own.image) for row, own in zip(table.kept, ROWS, strict=False))
        assert len(table.kept) == table.rows <= len(ROWS)
        assert cut or len(table.kept) == len(ROWS)
        for row in ROWS[len(table.kept) :]:
            table.write(row)
    assert path.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted([f"out{suffix}", f"whole{suffix}"])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_kept_rows_are_the_same_rows(tmp_path: Path, suffix: str) -> None:
    interrupt(tmp_path / f"out{suffix}", ROWS[:2])
    with TableFile(tmp_path / f"out{suffix}", settings=SETTINGS, resume=True) as table:
        assert table.kept[1] == ROWS[1]
        assert table.kept[0].to_dict() == ROWS[0].to_dict()
        table.finish([*reversed(table.kept)])
    rows = read(tmp_path / f"out{suffix}")
    assert [row["image"] for row in rows] == [ROWS[1].image, ROWS[0].image]


def test_no_partial_file_is_lost(tmp_path: Path) -> None:
    path, partial = tmp_path / "out.csv", tmp_path / "out.csv.partial"
    interrupt(path, ROWS)
    content = partial.read_bytes()
    for options, message in [
        ({}, r"holds 3 rows of a run that was stopped; go on with it with --resume"),
        ({"resume": True, "settings": {**SETTINGS, "precision": "bf16"}}, r"precision was 'fp32'"),
        ({"resume": True, "settings": {"policy": "crops"}}, "and is None now"),
    ]:
        with pytest.raises(DataError, match=message):
            TableFile(path, **{"settings": SETTINGS, **options})  # type: ignore[arg-type]
        assert partial.read_bytes() == content
    (tmp_path / "out.csv.partial.json").unlink()
    with pytest.raises(DataError, match="which says how its rows were made, is missing"):
        TableFile(path, settings=SETTINGS, resume=True)
    partial.write_bytes(content + b"other,cells\n")
    with pytest.raises(DataError, match="is not what `qmamba score` writes"):
        TableFile(path, settings=SETTINGS, resume=True)
    with TableFile(path, settings=SETTINGS, force=True) as table:
        assert table.kept == []
    assert len(path.read_text().splitlines()) == 1


def test_csv_parses_back(tmp_path: Path) -> None:
    with TableFile(tmp_path / "out.csv") as table:
        for row in ROWS:
            table.write(row)
    rows = read(tmp_path / "out.csv")
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["image"] == ROWS[0].image
    assert float(rows[0]["score"]) == SCORE.score and float(rows[0]["crop_spread"]) == 1 / 3
    assert rows[0]["higher_is_better"] == "true" and rows[0]["error"] == ""
    assert rows[0]["notes"] == 'alpha composited on white; padded, "so to speak"'
    assert rows[1] == dict.fromkeys(COLUMNS, "") | {
        "image": "grüße 图.png",
        "error": "cannot decode: it is empty",
    }
    assert rows[2]["image"] == r"\udcff.png"


def test_jsonl_parses_back(tmp_path: Path) -> None:
    with TableFile(tmp_path / "out.JSONL") as table:
        for row in ROWS:
            table.write(row)
    lines = (tmp_path / "out.JSONL").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [row.to_dict() for row in ROWS]
    assert all(tuple(json.loads(line)) == COLUMNS for line in lines)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_rows_are_on_disk_at_once_and_the_table_at_the_end(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_text("old")
    with pytest.raises(DataError, match="exists already; --force replaces it"):
        TableFile(path)
    with TableFile(path, force=True) as table:
        for count, row in enumerate(ROWS, start=1):
            table.write(row)
            assert len(read_partial(table.partial, suffix, tmp_path)) == count
            assert path.read_text() == "old"
    assert len(read(path)) == 3
    assert os.listdir(tmp_path) == [path.name]


def read_partial(partial: Path, suffix: str, folder: Path) -> list[dict[str, Any]]:
    copy = folder / f"copy{suffix}"
    copy.write_bytes(partial.read_bytes())
    rows = read(copy)
    copy.unlink()
    return rows


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_table_keeps_its_rows_beside_the_old_one(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    with pytest.raises(error), TableFile(path, force=True) as table:
        table.write(ROWS[0])
        table.write(ROWS[1])
        raise error
    assert path.read_text() == "old"
    assert table.partial == tmp_path / "out.csv.partial"
    assert len(read_partial(table.partial, ".csv", tmp_path)) == 2


def test_interrupted_before_the_first_row_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), TableFile(tmp_path / "out.csv"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_rows_in_another_order(tmp_path: Path) -> None:
    with TableFile(tmp_path / "out.csv") as table:
        for row in ROWS:
            table.write(row)
        table.finish(ROWS[1::-1])
    assert [row["image"] for row in read(tmp_path / "out.csv")] == [
        "grüße 图.png",
        'a, "b"\nc.png',
    ]
    assert os.listdir(tmp_path) == ["out.csv"]


def test_table_without_rows_has_a_header(tmp_path: Path) -> None:
    with TableFile(tmp_path / "out.csv"):
        pass
    assert (tmp_path / "out.csv").read_text() == ",".join(COLUMNS) + "\n"


@pytest.mark.parametrize("name", ["out.txt", "out", ".csv", ".", "/"])
def test_unknown_suffix(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="must end in"):
        TableFile(tmp_path / name if name.strip("./") else name)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    for path in ("folder.csv", "missing/out.csv", "file/out.csv"):
        with pytest.raises(DataError, match="Cannot write"):
            TableFile(tmp_path / path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "out.csv.partial").symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left"), TableFile(tmp_path / "out.csv") as table:
        table.write(ROWS[0])
