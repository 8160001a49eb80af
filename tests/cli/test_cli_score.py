"""`qmamba score` within this process: rows, tables, exit codes, and what an interrupt leaves."""

from __future__ import annotations

import csv
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from qmamba.assess import COLUMNS, Scorer
from qmamba.cli import app
from tests.assess.samples import encoded, pixels, write_image
from tests.images.image_files import png_chunk

Run = Callable[..., Result]


@pytest.fixture
def run(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `qmamba score` with the tiny model in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def score(*arguments: str | Path, stdin: bytes = b"", model: Path | str = weights) -> Result:
        parts = ["score", *map(str, arguments), "--model", str(model)]
        return CliRunner().invoke(app, parts, input=stdin)

    return score


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate(["c.png", "a.png", "b.png"], start=1):
        write_image(folder / name, seed=seed)
    return folder


def bomb() -> bytes:
    """PNG header of an image of 10^10 pixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_table_on_the_screen(run: Run, photos: Path) -> None:
    result = run("photos")
    assert result.exit_code == 0
    header, *lines = result.stdout.splitlines()
    assert header.split() == ["score", "spread", "image"]
    assert [line.split()[2] for line in lines] == [
        "photos/a.png",
        "photos/b.png",
        "photos/c.png",
    ]
    assert all(float(line.split()[0]) >= 0 and float(line.split()[1]) > 0 for line in lines)
    assert "test MOS: 0 to 100, higher is better; model tiny" in result.stderr
    assert "crops(size=32,count=5,layout=fixed), cpu" in result.stderr
    assert "3 images scored" in result.stderr


def test_an_empty_name_is_no_model(run: Run, photos: Path, weights: Path) -> None:
    for result in (run("photos", model=""), run("photos", "--tuned", "")):
        assert result.exit_code == 2 and "name of the weights is empty" in result.stderr


def test_sorted_table(run: Run, photos: Path) -> None:
    Path("photos/0.png").touch()
    result = run("photos", "--sort", "best")
    assert result.exit_code == 1
    *good, bad = result.stdout.splitlines()[1:]
    values = [float(line.split()[0]) for line in good]
    assert values == sorted(values, reverse=True) and len(values) == 3
    assert "0.png: cannot decode: " in bad
    *good, bad = run("photos", "--sort", "worst").stdout.splitlines()[1:]
    assert [float(line.split()[0]) for line in good] == values[::-1]
    assert "0.png: cannot decode: " in bad


def test_json(run: Run, photos: Path, weights: Path) -> None:
    write_image(photos / "small.png", 10, 20)
    Path("photos/zero.png").touch()
    result = run("photos", "--json")
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert [tuple(row) for row in rows] == [COLUMNS] * 5
    assert [row["error"] is None for row in rows] == [True] * 4 + [False]
    assert rows[3]["notes"] == ["padded from 20x10 by reflection"]
    scorer = Scorer.from_pretrained(weights)
    assert [row["raw"] for row in rows[:4]] == [scorer(row["image"]).raw for row in rows[:4]]


@pytest.mark.parametrize("sort", ["input", "best"])
def test_csv_and_jsonl(run: Run, photos: Path, sort: str) -> None:
    for name in ("out.csv", "out.jsonl"):
        result = run("photos", "-o", name, "--sort", sort)
        assert result.exit_code == 0 and result.stdout == ""
        assert f"3 images scored, written to {name}" in result.stderr
    rows = read_csv(Path("out.csv"))
    objects = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [float(row["raw"]) for row in rows] == [row["raw"] for row in objects]
    assert [row["image"] for row in rows] == [row["image"] for row in objects]
    key: Any = (lambda r: r["image"]) if sort == "input" else (lambda r: -r["raw"])
    assert objects == sorted(objects, key=key)
    assert sorted(os.listdir()) == ["out.csv", "out.jsonl", "photos"]


def test_file_and_json_at_once(run: Run, photos: Path) -> None:
    result = run("photos", "--json", "-o", "out.csv")
    assert [row["image"] for row in json.loads(result.stdout)] == [
        row["image"] for row in read_csv(Path("out.csv"))
    ]


def test_hostile_folder(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "hostile"
    folder.mkdir()
    good = encoded(seed=3)
    files = {
        "bomb.png": bomb(),
        "empty.jpg": b"",
        "pixel.png": encoded(1, 1),
        "same 1.png": good,
        "same 2.jpg": good,
        "text.jpg": b"no image at all",
        "truncated.png": good[: len(good) // 2],
        "ünï 图.png": good,
        "two\nlines.png": good,
        ".hidden.png": b"",
        "readme.txt": b"",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "broken.png").symlink_to(folder / "nowhere")
    (folder / "folder.jpg").mkdir()
    gray = Image.fromarray(pixels()).convert("CMYK")
    gray.save(folder / "folder.jpg" / "cmyk.jpg")
    result = run("hostile", "-r", "-o", "out.csv", "--max-pixels", "1000000", "--workers", "3")
    assert result.exit_code == 1
    rows = {os.path.basename(row["image"]): row for row in read_csv(Path("out.csv"))}
    bad = {"bomb.png", "empty.jpg", "text.jpg", "truncated.png", "broken.png"}
    assert set(rows) == set(files) - {".hidden.png", "readme.txt"} | {"broken.png", "cmyk.jpg"}
    assert {name for name, row in rows.items() if row["error"]} == bad
    assert all(bool(row["score"]) != bool(row["error"]) for row in rows.values())
    assert len({rows[name]["raw"] for name in ("same 1.png", "same 2.jpg", "two\nlines.png")}) == 1
    assert "6 images scored, 5 failed" in result.stderr
    assert "Traceback" not in result.output
    shown = run("hostile")
    assert r"two\nlines.png" in shown.stdout and "ünï 图.png" in shown.stdout


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX only")
def test_name_that_is_no_text(run: Run, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\x1b[2J.png")
    try:
        write_image(tmp_path / name)
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    for arguments in ([], ["--json"], ["-o", "out.csv"], ["-o", "out.jsonl"]):
        result = run(".", *arguments)
        assert result.exit_code == 0
        assert "\x1b" not in result.output
    rows = json.loads(run(".", "--json").stdout)
    assert rows[0]["image"] == f"./{name}"


def test_list_on_standard_input(run: Run, photos: Path) -> None:
    listing = b"photos/b.png\nphotos/gone.png\nphotos/a.png\n"
    result = run("-", stdin=listing)
    assert result.exit_code == 1
    names = [line.split()[2].rstrip(":") for line in result.stdout.splitlines()[1:]]
    assert names == ["photos/b.png", "photos/gone.png", "photos/a.png"]
    nul = run("-", "photos/c.png", stdin=b"photos/b.png\0photos/a.png\0")
    assert nul.exit_code == 0 and len(nul.stdout.splitlines()) == 4


def test_pattern_and_missing_file(run: Run, photos: Path) -> None:
    assert len(run("photos/[ab].png").stdout.splitlines()) == 3
    result = run("photos/a.png", "gone.png")
    assert result.exit_code == 1
    assert "gone.png: cannot read: there is no such file" in result.stdout


def test_scores_do_not_depend_on_company(run: Run, photos: Path) -> None:
    together = json.loads(run("photos", "--json", "--batch-size", "7", "--workers", "2").stdout)
    for row in together:
        assert json.loads(run(row["image"], "--json").stdout) == [row]


def test_policies_and_seeds(run: Run, photos: Path) -> None:
    def raw(*options: str) -> tuple[float, str]:
        result = run("photos/a.png", "--json", *options)
        assert result.exit_code == 0, result.stderr
        (row,) = json.loads(result.stdout)
        return row["raw"], row["policy"]

    assert raw("--policy", "native")[1] == "native(max_pixels=4194304)"
    assert raw("--policy", "crops:count=2")[1] == "crops(size=32,count=2,layout=fixed)"
    drawn = raw("--policy", "crops:layout=random")
    assert drawn == raw("--policy", "crops:layout=random", "--seed", "0")
    other = raw("--policy", "crops:layout=random", "--seed", "1")
    assert other[0] != drawn[0]
    assert other[1] == "crops(size=32,count=5,layout=random,seed=1)"


def test_images_that_are_not_read_are_named(run: Run, photos: Path) -> None:
    (photos / "IMG_1.HEIC").touch()
    result = run("photos")
    assert result.exit_code == 0
    assert "3 images scored. Left out: 1 .heic file, a kind that is not read" in result.stderr
    for name in ("a.png", "b.png", "c.png"):
        (photos / name).unlink()
    result = run("photos")
    assert result.exit_code == 2 and "Left out: 1 .heic file" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.png"], "There is no file or folder 'gone.png'"),
        (["-", "-"], "once only"),
        (["empty"], "No images found in 'empty'; --recursive"),
        (["empty", "-r"], "No images found in 'empty'."),
        (["-"], "No images found"),
        (["photos", "--policy", "tiles"], "policy 'tiles' is unknown"),
        (["photos", "--policy", "crops:depth=3"], "no field 'depth=3'"),
        (["photos", "--device", "abacus"], "abacus"),
        (["photos", "--seed", "3"], "--seed has no effect"),
        (["photos", "-o", "out.txt"], "must end in .csv or .jsonl"),
        (["photos", "-o", "gone/out.csv"], "Cannot write"),
        (["photos", "--sort", "name"], "name"),
        (["photos", "--batch-size", "0"], "--batch-size"),
        (["photos", "--workers", "two"], "--workers"),
        (["photos", "--frobnicate"], "--frobnicate"),
        ([], "PATH"),
    ],
)
def test_wrong_usage(run: Run, photos: Path, arguments: list[str], message: str) -> None:
    Path("empty/inside").mkdir(parents=True)
    Path("empty/note.txt").touch()
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == "" and "Traceback" not in result.output
    assert not list(Path().glob("out*"))


@pytest.mark.parametrize("model", ["no-such-weights", "gone.safetensors", "photos/a.png"])
def test_unusable_weights(run: Run, photos: Path, model: str) -> None:
    result = run("photos", "-o", "out.csv", model=model)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and model in result.stderr
    assert not list(Path().glob("out*"))


def interrupt_after(
    count: int, monkeypatch: pytest.MonkeyPatch, error: type[BaseException] = KeyboardInterrupt
) -> None:
    receive = Scorer._receive
    calls = iter(range(100))

    def interrupted(scorer: Scorer, sent: Any) -> Any:
        if next(calls) == count:
            raise error
        return receive(scorer, sent)

    monkeypatch.setattr(Scorer, "_receive", interrupted)


@pytest.mark.parametrize("sort", ["input", "best"])
def test_interrupt_keeps_the_rows(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch, sort: str
) -> None:
    Path("out.csv").write_text("of an earlier run")
    interrupt_after(2, monkeypatch)
    result = run("photos", "-o", "out.csv", "--force", "--json", "--sort", sort)
    assert result.exit_code == 130
    assert "interrupted after 2 images; their rows are in out.csv.partial" in result.stderr
    assert Path("out.csv").read_text() == "of an earlier run"
    kept = [row["image"] for row in read_csv(Path("out.csv.partial"))]
    assert kept == ["photos/a.png", "photos/b.png"]
    assert sorted(row["image"] for row in json.loads(result.stdout)) == kept


def test_interrupt_before_the_first_row(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(0, monkeypatch)
    result = run("photos", "-o", "out.csv", "--json")
    assert result.exit_code == 130 and json.loads(result.stdout) == []
    assert not list(Path().glob("out*"))


def test_bug_is_one_line_and_a_traceback_on_request(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(1, monkeypatch, ZeroDivisionError)
    result = run("photos", "-o", "out.csv")
    assert result.exit_code == 70
    assert "unexpected ZeroDivisionError" in result.stderr.splitlines()[-1]
    assert len(read_csv(Path("out.csv.partial"))) == 1
    monkeypatch.setenv("QMAMBA_DEBUG", "1")
    interrupt_after(1, monkeypatch, ZeroDivisionError)
    assert isinstance(run("photos").exception, ZeroDivisionError)


def test_progress_goes_to_standard_error_only(run: Run, photos: Path) -> None:
    result = run("photos", "-o", "out.csv")
    assert "\r" not in result.stderr and result.stdout == ""
