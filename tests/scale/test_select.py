"""Subsets: which images, and how they are written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import qmamba
from qmamba.assess import Scorer
from qmamba.cli import app
from qmamba.errors import ConfigError
from qmamba.scale.choice.select import Wanted, _best, parse_top
from qmamba.scale.rows import COLUMNS, Row
from qmamba.scale.worker import Worker
from tests.scale.sets import make_job, planned, write_set


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """A folder with a set and its scores."""
    folder = tmp_path_factory.mktemp("scored")
    write_set(folder / "set", tars=3, each=10)
    job = make_job(folder / "scores", weights, threads=None)
    planned(job, [folder / "set"])
    Worker(job, lambda message: None, threading.Event()).run()
    return folder


def rows_of(scores: Path) -> list[Row]:
    return pyarrow.dataset.dataset(scores, format="parquet").to_table().to_pylist()


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["select", *map(str, arguments)])


def keys(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_the_folder_is_one_data_set(scored: Path, weights: Path) -> None:
    rows = rows_of(scored / "scores")
    assert len(rows) == 30 + 10 + 8 and set(rows[0]) == set(COLUMNS)
    by_key = {row["key"]: row for row in rows}
    direct = Scorer.from_pretrained(weights)(scored / "set" / "single3.png")
    assert by_key["single3.png"]["raw"] == float(np.float32(direct.raw))


def test_thresholds(scored: Path, tmp_path: Path) -> None:
    rows = [row for row in rows_of(scored / "scores") if row["score"] is not None]
    bound = sorted(row["score"] for row in rows)[len(rows) // 2]
    result = run(scored / "scores", "--min", repr(bound), "-o", tmp_path / "k.jsonl")
    assert result.exit_code == 0, result.output
    kept = [json.loads(line)["key"] for line in (tmp_path / "k.jsonl").read_text().splitlines()]
    assert kept == [row["key"] for row in rows if row["score"] >= bound]
    assert f"{len(kept)} of {len(rows)} images" in result.stderr
    result = run(scored / "scores", "--max", repr(bound), "-o", tmp_path / "k.parquet")
    table = pyarrow.dataset.dataset(tmp_path / "k.parquet").to_table().to_pylist()
    assert [row["key"] for row in table] == [row["key"] for row in rows if row["score"] <= bound]


def test_the_best(scored: Path, tmp_path: Path) -> None:
    rows = [row for row in rows_of(scored / "scores") if row["score"] is not None]
    order = sorted(rows, key=lambda row: -row["raw"])
    # A key of the set holds a line end, which the worst images do not need.
    clean = all("\n" not in row["key"] for row in order[:5])
    result = run(scored / "scores", "--top", "5", "-o", tmp_path / "k.txt")
    assert result.exit_code == (0 if clean else 2), result.output
    if clean:
        assert sorted(keys(tmp_path / "k.txt")) == sorted(row["key"] for row in order[:5])
    everything = run(scored / "scores", "--top", "100%", "-o", tmp_path / "all.txt")
    assert everything.exit_code == 2 and "holds a line end" in everything.stderr
    assert not (tmp_path / "all.txt").exists()


def test_shares_within_groups(scored: Path, tmp_path: Path) -> None:
    options = ("--top", "30%", "--per-key", r"^(0000\d)\.tar", "--min", "-1000")
    result = run(scored / "scores", *options, "-o", tmp_path / "k.jsonl")
    assert result.exit_code == 0, result.output
    kept = [json.loads(line)["key"] for line in (tmp_path / "k.jsonl").read_text().splitlines()]
    for number in range(3):
        assert sum(key.startswith(f"0000{number}.tar") for key in kept) == 3


def test_new_tar_files(scored: Path, tmp_path: Path) -> None:
    out = tmp_path / "subset"
    result = run(scored / "scores", "--top", "20", "--shard-size", "8", "-o", out)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in out.iterdir()) == ["00000.tar", "00001.tar", "00002.tar"]
    images = 0
    for path in sorted(out.iterdir()):
        with tarfile.open(path) as archive:
            members = {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
        for name, content in members.items():
            images += name.endswith(".png")
            source = next(iter((scored / "set").glob(f"*/{name}")), scored / "set" / name)
            if source.is_file():
                assert content == source.read_bytes()
            stem = name.split(".")[0]
            if stem.isdecimal():
                assert {f"{stem}.png", f"{stem}.json", f"{stem}.txt"} <= set(members)
                with tarfile.open(scored / "set" / f"{int(stem) // 10:05}.tar") as archive:
                    assert archive.extractfile(name).read() == content  # type: ignore[union-attr]
    assert images == 20
    again = run(scored / "scores", "--top", "20", "-o", out)
    assert again.exit_code == 2 and "is not empty" in again.stderr


def test_identifiers_of_datacomp(scored: Path, tmp_path: Path) -> None:
    rows = [row for row in rows_of(scored / "scores") if row["uid"] is not None]
    options = ("--top", "4", "--per-key", r"^0000\d", "--min", "-1000")
    result = run(scored / "scores", *options, "-o", tmp_path / "k.npy")
    # The set has images without an identifier, too.
    assert result.exit_code == 2 and "has no identifier of 32" in result.stderr
    from qmamba.scale.choice.select import Selection
    from qmamba.scale.choice.subsets import write_list

    file = sorted((scored / "scores").glob("*.parquet"))[0]
    keep = np.ones(10, bool)
    assert write_list([Selection(file, keep)], tmp_path / "k.npy") == 10
    array = np.load(tmp_path / "k.npy")
    assert array.dtype == np.dtype("u8,u8") and len(array) == 10
    wanted = {(int(r["uid"][:16], 16), int(r["uid"][16:], 16)) for r in rows}
    assert {tuple(entry) for entry in array.tolist()} <= wanted
    assert array.tolist() == sorted(array.tolist())


def test_folders_that_are_not_complete(scored: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "scores"
    shutil.copytree(scored / "scores", folder)
    sorted(folder.glob("*.parquet"))[1].unlink()
    result = run(folder, "--top", "3", "-o", tmp_path / "k.jsonl")
    assert result.exit_code == 3 and "shards are done; wait, or take" in result.stderr
    assert run(folder, "--top", "3", "--partial", "-o", tmp_path / "k.jsonl").exit_code == 0
    status = CliRunner().invoke(app, ["scores", "status", str(folder)])
    assert status.exit_code == 3 and "done" in status.stdout
    complete = CliRunner().invoke(app, ["scores", "status", str(scored / "scores"), "--json"])
    assert complete.exit_code == 0
    content = json.loads(complete.stdout)
    assert content["complete"] and content["errors"] == {
        "damaged": 1,
        "empty": 2,
        "not an image": 1,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "Say which images to keep"),
        (("--min", "0.9", "--max", "0.1"), "No score is at least 0.9"),
        (("--top", "x"), "takes a share such as 10% or a number"),
        (("--top", "0"), "must be 1 or more"),
        (("--top", "0%"), "above 0 %"),
        (("--min", "1", "--per-key", "x"), "give --top, too"),
        (("--top", "1", "--per-key", "("), "is no regular expression"),
    ],
)
def test_wrong_usage(scored: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    result = run(scored / "scores", *options, "-o", tmp_path / "k.jsonl")
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert not (tmp_path / "k.jsonl").exists()


def test_outputs_without_a_meaning(scored: Path, tmp_path: Path) -> None:
    result = run(scored / "scores", "--top", "1", "-o", tmp_path / "k.doc")
    assert result.exit_code == 2 and "must end in .txt" in result.stderr


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.booleans()), max_size=30),
    st.one_of(st.integers(1, 5), st.floats(0.01, 1)),
)
@settings(max_examples=100, deadline=None)
def test_the_best_against_sorting(rows: list[tuple[int, int, bool]], top: float) -> None:
    wanted = Wanted(share=top) if isinstance(top, float) else Wanted(count=top)
    order = np.array([value for value, _, _ in rows], np.float32)
    group = np.array([number for _, number, _ in rows], np.int64)
    kept = np.array([keep for _, _, keep in rows], bool)
    expected: set[int] = set()
    for number in set(group.tolist()):
        members = [i for i in range(len(rows)) if group[i] == number]
        limit = top if isinstance(top, int) else int(len(members) * top + 1e-9)
        best = sorted((i for i in members if kept[i]), key=lambda i: (order[i], i))
        expected |= set(best[: int(limit)])
    assert set(np.flatnonzero(_best(order, kept, group, wanted)).tolist()) == expected


@pytest.mark.parametrize("output", ["subset", "keys.txt"])
def test_nothing_kept_is_said(scored: Path, tmp_path: Path, output: str) -> None:
    """One percent of 48 images is less than one."""
    result = run(scored / "scores", "--top", "1%", "-o", tmp_path / output)
    assert result.exit_code == 1 and result.stderr.startswith("error: none of ")
    assert "written" not in result.stderr


def test_shares_and_numbers() -> None:
    assert parse_top("10%") == (0.1, None) and parse_top("5000") == (None, 5000)
    with pytest.raises(ConfigError, match="not both"):
        Wanted(share=0.1, count=1)


@pytest.mark.parametrize(
    "arguments", [("scores", "status"), ("select", "--top", "2", "-o", "keys.txt")]
)
def test_looking_at_scores_imports_no_network(
    arguments: tuple[str, ...], scored: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; sys.argv = ['qmamba', *sys.argv[1:]]\n"
        "from qmamba.cli import main\n"
        "try: main()\n"
        "finally: print(*sorted(m.partition('.')[0] for m in sys.modules), file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments, str(scored / "scores")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(qmamba.__file__).parent.parent)},
    )
    assert result.returncode == 0, result.stderr
    assert not {"torch", "PIL", "safetensors"} & set(result.stderr.split())
