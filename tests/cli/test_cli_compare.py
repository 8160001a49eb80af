"""`qmamba compare`, and the maps of `qmamba score`, within this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from qmamba.assess import Scorer
from qmamba.cli import app
from tests.assess.samples import pixels, write_image
from tests.conftest import REPOSITORY

Run = Callable[..., Result]
EXAMPLES = REPOSITORY / "examples"


@pytest.fixture
def run(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str | Path) -> Result:
        return CliRunner().invoke(app, [*map(str, arguments), "--model", str(weights)])

    return command


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for seed, name in enumerate(["x.png", "y.png"], start=1):
            write_image(tmp_path / folder / name, seed=seed + 3 * (folder == "b"))
    return tmp_path


def test_compare(run: Run, photos: Path) -> None:
    write_image(photos / "a" / "alone.png")
    result = run("compare", "a", "b", "-o", "t.csv", "--sheet", "s.jpg")
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["x.png", "y.png"]
    assert "2 pairs, mean difference" in result.stderr and "95 % interval" in result.stderr
    assert "1 image of a has no partner: alone.png" in result.stderr
    assert "A change counts if it is larger than 2 standard errors" in result.stderr
    assert len((photos / "t.csv").read_text().splitlines()) == 3
    assert Image.open(photos / "s.jpg").width > 500


def test_pairs_that_show_different_things_are_named(run: Run, tmp_path: Path) -> None:
    doubt = "to show different things; scores compare versions of one image"
    coffee, blurred, cat = (
        EXAMPLES / f"{name}.jpg" for name in ("coffee", "coffee_blurred", "cat")
    )
    result = run("compare", coffee, blurred)
    assert result.exit_code == 0 and "different things" not in result.stderr
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    for name, second in (("x.jpg", cat), ("y.jpg", blurred), ("z.jpg", cat)):
        with Image.open(second) as image:
            image.resize((600, 400)).save(tmp_path / "b" / name)
        (tmp_path / "a" / name).write_bytes(coffee.read_bytes())
    result = run("compare", "a/x.jpg", "b/x.jpg")
    assert result.exit_code == 0 and f"The two images seem {doubt}" in result.stderr
    result = run("compare", "a", "b", "-o", "t.jsonl")
    assert result.exit_code == 0, result.output
    assert f"In 2 of 3 pairs (x.jpg, z.jpg) the two images seem {doubt}" in result.stderr
    notes = [json.loads(line)["note"] for line in Path("t.jsonl").read_text().splitlines()]
    assert notes == ["the two seem to show different things", None, notes[0]]


def test_compare_goes_on_past_a_bad_pair(run: Run, photos: Path) -> None:
    (photos / "b" / "x.png").write_bytes(b"no image")
    result = run("compare", "a", "b")
    assert result.exit_code == 1
    assert result.stdout.startswith("error: x.png: ")
    assert "1 pair, mean difference" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "gone"), "There is no file or folder 'gone'"),
        (("a", "a/x.png"), "two folders or two files"),
        (("a", "b", "-o", "t.txt"), "must end in .csv or .jsonl"),
        (("a", "b", "--sheet", "s.gif"), "must end in .jpg, .png or .webp"),
        (("a", "b", "-o", "gone/t.csv"), "does not exist"),
    ],
)
def test_wrong_usage(run: Run, photos: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run("compare", *arguments)
    assert result.exit_code == 2 and message in result.stderr


def test_maps(run: Run, photos: Path, weights: Path) -> None:
    (photos / "a" / "bad.png").write_bytes(b"no image")
    plain = run("score", "a")
    result = run("score", "a", "--maps", "maps")
    assert result.stdout == plain.stdout and result.exit_code == 1
    assert "maps in maps" in result.stderr
    assert sorted(path.name for path in (photos / "maps").iterdir()) == [
        "x.png.png",
        "y.png.png",
    ]
    assert run("score", "a/x.png", "--map", "m.npy").exit_code == 0
    values = np.load(photos / "m.npy")
    expected = Scorer.from_pretrained(weights).map(pixels(seed=1))
    np.testing.assert_array_equal(values, expected.values)
    assert run("score", "a", "--maps", "npy", "--map-format", "npy").exit_code == 1
    assert (photos / "npy" / "x.png.npy").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "--map", "m.png"), "--maps FOLDER takes many"),
        (("a/x.png", "--map", "m.gif"), "must end in .png or .npy"),
        (("a/x.png", "--map", "a"), "it is a folder"),
        (("a/x.png", "--map", "a/x.png"), "the image itself"),
        (("a/x.png", "--map", "m.png", "--map-format", "npy"), "contradicts"),
        (("a/x.png", "--map", "m.png", "--maps", "m"), "choose one"),
        (("a", "--map-format", "npy"), "needs --maps"),
    ],
)
def test_wrong_usage_of_maps(
    run: Run, photos: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = run("score", *arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert Image.open(photos / "a" / "x.png").size == (96, 80)
