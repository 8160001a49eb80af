"""Did it help: one size, the rule of the verdict, pairs of folders, and the table."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmamba.assess import Score, Scorer
from qmamba.errors import ConfigError, DataError, ImageError
from qmamba.evaluation.comparison import (
    ComparedRow,
    at_one_size,
    compare_images,
    compare_pairs,
    gain,
    pair_folders,
    returned,
    summarize,
    write_table,
)
from qmamba.evaluation.comparison.folders import COLUMNS
from qmamba.restore.degradations.resize import enlarge, shrink
from tests.assess.samples import pixels, save_tiny, write_image


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return Scorer.from_pretrained(save_tiny(tmp_path_factory.mktemp("weights")))


def made_score(*opinions: float, higher_is_better: bool = True) -> Score:
    raw = sum(opinions) / len(opinions)
    return Score(
        score=raw,
        raw=raw,
        scale=(0, 100),
        higher_is_better=higher_is_better,
        crop_spread=None,
        policy="crops",
        model="made",
        sha256="",
        width=10,
        height=10,
        opinions=opinions,
    )


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ((50, 52, 54), (60, 62, 64), "better"),
        ((60, 62, 64), (50, 52, 54), "worse"),
        # The mean rises by 10, but not everywhere.
        ((50, 50, 50), (90, 60, 30), "no clear change"),
        # Equal everywhere, and too small to be seen.
        ((50, 52, 54), (50.9, 52.9, 54.9), "no clear change"),
        ((50, 52, 54), (51.1, 53.1, 55.1), "better"),
        ((50,), (51.9,), "no clear change"),
        ((50,), (52.1,), "better"),
    ],
)
def test_the_rule(before: tuple[float, ...], after: tuple[float, ...], verdict: str) -> None:
    found = gain(made_score(*before), made_score(*after))
    assert found.verdict == verdict
    turned = [made_score(*values, higher_is_better=False) for values in (before, after)]
    opposite = {"better": "worse", "worse": "better"}
    assert gain(*turned).verdict == opposite.get(verdict, verdict)
    assert gain(*turned).improvement == -found.improvement


def test_the_spread_is_that_of_paired_views() -> None:
    found = gain(made_score(10, 50, 90), made_score(13, 54, 95))
    assert found.difference == pytest.approx(4)
    assert found.standard_error == pytest.approx(1 / math.sqrt(3))
    assert found.threshold == pytest.approx(2 / math.sqrt(3))


def test_scores_of_different_kinds_are_refused() -> None:
    score = made_score(50, 60)
    for change in ({"policy": "native"}, {"model": "other"}, {"width": 20}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            gain(score, dataclasses.replace(score, **change))


def test_versions_of_different_size_are_enlarged() -> None:
    small, large = pixels(20, 30), pixels(40, 60)
    first, second, note = at_one_size(small, large)
    np.testing.assert_array_equal(first, enlarge(small, 2))
    assert second is large and note is not None and note.startswith("first enlarged to 60x40")
    first, second, note = at_one_size(large, small)
    np.testing.assert_array_equal(second, enlarge(small, 2))
    assert first is large and note is not None and note.startswith("second")
    assert at_one_size(large, large)[2] is None
    assert at_one_size(pixels(20, 30), pixels(41, 61))[0].shape == (41, 61, 3)
    for other in (pixels(60, 40), pixels(40, 70), pixels(10, 40)):
        with pytest.raises(DataError, match="no two sizes"):
            at_one_size(small, other)


def test_fidelity_is_measured_at_the_size_of_the_input() -> None:
    image = pixels(40, 60, seed=1)
    assert returned(image, image) == math.inf
    small = shrink(image, 2)
    assert returned(enlarge(small, 2), small) > 30
    noisy = np.clip(image.astype(int) + 10, 0, 255).astype(np.uint8)
    error = ((noisy.astype(float) - image) ** 2).mean() / 255**2
    assert returned(noisy, image) == pytest.approx(-10 * math.log10(error))


def test_an_enlarged_input_is_no_better_than_itself(scorer: Scorer, tmp_path: Path) -> None:
    small = write_image(tmp_path / "small.png", 40, 60)
    Image.fromarray(enlarge(pixels(40, 60), 2)).save(tmp_path / "large.png")
    found = compare_images(scorer, small, tmp_path / "large.png")
    assert found.gain.difference == 0 and found.gain.verdict == "no clear change"
    with pytest.raises(ImageError):
        compare_images(scorer, small, tmp_path / "gone.png")


def folders(tmp_path: Path) -> tuple[Path, Path]:
    a, b = tmp_path / "a", tmp_path / "b"
    (a / "inner").mkdir(parents=True)
    (b / "inner").mkdir(parents=True)
    for seed, name in enumerate(["x.png", "y.png", "inner/z.png", "alone.png"]):
        write_image(a / name, seed=seed)
    write_image(b / "x.png", seed=5)
    Image.fromarray(pixels(seed=6)).save(b / "y.jpg")
    (b / "inner" / "z.png").write_bytes(b"no image")
    write_image(b / "other.png")
    return a, b


def test_pairs(tmp_path: Path) -> None:
    a, b = folders(tmp_path)
    found = pair_folders(a, b, recursive=True)
    assert [pair.name for pair in found.pairs] == ["inner/z.png", "x.png", "y.png"]
    assert found.pairs[2].after == str(b / "y.jpg")
    assert (found.only_before, found.only_after) == (("alone.png",), ("other.png",))
    assert len(pair_folders(a, b).pairs) == 2
    write_image(b / "y.png")
    assert pair_folders(a, b).pairs[1].after == str(b / "y.png")
    (tmp_path / "c").mkdir()
    for wrong in (tmp_path / "c", tmp_path / "gone", a / "x.png"):
        with pytest.raises(DataError):
            pair_folders(a, wrong)
    single = pair_folders(a / "x.png", b / "x.png").pairs
    assert len(single) == 1 and single[0].name == "x.png"


def test_rows_and_table(scorer: Scorer, tmp_path: Path) -> None:
    rows = list(compare_pairs(scorer, pair_folders(*folders(tmp_path), recursive=True).pairs))
    assert [row.error is None for row in rows] == [False, True, True]
    write_table(tmp_path / "t.csv", rows)
    with open(tmp_path / "t.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert tuple(table[0]) == COLUMNS
    assert table[0]["error"] and not table[0]["difference"]
    comparison = rows[1].comparison
    assert comparison is not None
    assert float(table[1]["difference"]) == comparison.gain.difference
    assert table[1]["verdict"] == comparison.gain.verdict
    write_table(tmp_path / "t.jsonl", rows)
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == 3
    with pytest.raises(ConfigError, match="must end in"):
        write_table(tmp_path / "t.txt", rows)


def test_summary(scorer: Scorer) -> None:
    def row(difference: float) -> ComparedRow:
        before, after = made_score(50, 52), made_score(50 + difference, 52 + difference)
        comparison = dataclasses.replace(
            compare_images(scorer, pixels_file, pixels_file), gain=gain(before, after)
        )
        return ComparedRow("x", comparison)

    stream = io.BytesIO()
    Image.fromarray(pixels()).save(stream, "PNG")
    pixels_file = stream.getvalue()
    rows = [row(value) for value in (5, 6, 7, -3, 0)]
    total = summarize([*rows, ComparedRow("bad", error="bad")])
    assert (total.count, total.better, total.unchanged, total.worse) == (5, 3, 1, 1)
    assert total.mean == pytest.approx(3)
    assert total.interval is not None and total.interval[0] < 3 < total.interval[1]
    assert summarize(rows) == summarize(rows) and summarize(rows[:1]).interval is None
    with pytest.raises(DataError):
        summarize([ComparedRow("bad", error="bad")])
