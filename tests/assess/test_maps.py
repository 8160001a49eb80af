"""Quality maps: their mean is the score, they lie where the views lie, and their files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmamba.assess import (
    CropsPolicy,
    ImageRow,
    MapFolder,
    Scorer,
    colorize,
    map_paths,
    overlay,
    parse_policy,
    score_paths,
)
from qmamba.assess.maps import QualityMap, assemble
from qmamba.errors import ConfigError, DataError, ImageError
from tests.assess.samples import SCALE, pixels, save_tiny, write_image

POLICIES = [
    "crops:size=32,count=5",
    "crops:size=64,count=4,layout=random,seed=3",
    "crops:size=40,count=3,shorter=48",
    "crops:size=128,count=2",
    "native",
    "native:max_pixels=2000",
    "resize:size=96",
]
SIZES = [(80, 96), (37, 131), (20, 25), (1, 300)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", SIZES)
def test_the_mean_is_the_score(scorer: Scorer, policy: str, size: tuple[int, int]) -> None:
    scorer.policy = parse_policy(policy)
    image = pixels(*size, seed=2)
    for max_side in (None, 17):
        quality = scorer.map(image, max_side=max_side)
        assert quality.score == scorer(image)
        assert quality.mean() == pytest.approx(quality.score.raw, abs=1e-4)
        assert np.mean(quality.score.opinions) == pytest.approx(quality.score.raw)
        seen = quality.coverage > 0
        assert np.isfinite(quality.values[seen]).all() and np.isnan(quality.values[~seen]).all()
        longest = max(size) if max_side is None else max_side
        assert max(quality.values.shape) == longest
        if max_side is None:
            assert quality.values.shape == size


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_precision(weights: Path, precision: str) -> None:
    scorer = Scorer.from_pretrained(weights, precision=precision)  # type: ignore[arg-type]
    quality = scorer.map(pixels())
    assert quality.score == scorer(pixels())
    assert quality.mean() == pytest.approx(quality.score.raw, abs=1e-3)


@pytest.mark.parametrize("size", [(50, 70), (20, 70), (9, 25)])
def test_against_a_loop_over_pixels(scorer: Scorer, size: tuple[int, int]) -> None:
    height, width = size
    policy = CropsPolicy(size=32, count=4)
    plan = policy.plan(height, width)
    rng = np.random.default_rng(0)
    views = rng.random((len(plan.corners), 4, 4)).astype(np.float32)
    sums, counts = np.zeros(size), np.zeros(size)
    for positions, (top, left) in zip(views, plan.corners, strict=True):
        cut = np.arange(height * width).reshape(size)[top : top + 32, left : left + 32]
        missing = [max(0, 32 - side) for side in size]
        padded = np.pad(cut, [(part // 2, part - part // 2) for part in missing], "reflect")
        for row in range(32):
            for column in range(32):
                place = np.unravel_index(padded[row, column], size)
                sums[place] += positions[row // 8, column // 8]
                counts[place] += 1
    score = dataclasses.replace(scorer(pixels()), height=height, width=width)
    quality = assemble(views, plan, score)
    np.testing.assert_allclose(quality.coverage, counts, rtol=1e-5)
    expected = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
    np.testing.assert_allclose(quality.values, expected, rtol=1e-5)
    assert quality.cell == (8, 8)


def made_map(scorer: Scorer, values: np.ndarray, *, higher_is_better: bool = True) -> QualityMap:
    score = dataclasses.replace(
        scorer(pixels()),
        height=values.shape[0],
        width=values.shape[1],
        higher_is_better=higher_is_better,
    )
    coverage = np.where(np.isnan(values), 0, 1).astype(np.float32)
    return QualityMap(values.astype(np.float32), coverage, score, (8, 8))


def test_worst_regions_are_the_bad_places(scorer: Scorer) -> None:
    values = np.full((60, 300), 80.0)
    values[20:30, 100:110] = 5
    values[40:50, 250:260] = 30
    values[:, :50] = np.nan
    first, second = made_map(scorer, values).worst(2)
    assert (first.width, first.height) == pytest.approx((10, 10), abs=4)
    assert abs(first.left - 100) <= 4 and abs(first.top - 20) <= 4
    assert abs(second.left - 250) <= 4 and abs(second.top - 40) <= 4
    assert first.value < second.value < 80
    best = made_map(scorer, values, higher_is_better=False).worst(1)[0]
    assert best.value == pytest.approx(80)
    assert made_map(scorer, values).worst(0) == ()
    with pytest.raises(ConfigError, match="0 or more"):
        made_map(scorer, values).worst(-1)


def test_regions_lie_inside_the_image_and_apart(scorer: Scorer) -> None:
    for size in SIZES:
        quality = scorer.map(pixels(*size, seed=1))
        regions = quality.worst(4)
        assert regions
        taken = np.zeros(size, int)
        for region in regions:
            rows = slice(region.top, region.top + region.height)
            columns = slice(region.left, region.left + region.width)
            assert region.left + region.width <= size[1]
            assert region.top + region.height <= size[0]
            taken[rows, columns] += 1
        # Rounding to pixels may let neighbors share a border.
        assert (taken > 1).mean() < 0.2


def test_colors_rise_with_quality(scorer: Scorer) -> None:
    ramp = np.linspace(SCALE.low - 20, SCALE.high + 20, 41)[None]
    ramp = np.concatenate([ramp, [[np.nan] * 41]])
    colors = colorize(made_map(scorer, ramp)).astype(int)
    light = colors[0] @ [299, 587, 114]
    assert (np.diff(light) >= 0).all() and light[-1] > 4 * light[0]
    assert not colors[1].any()
    turned = colorize(made_map(scorer, ramp, higher_is_better=False))
    np.testing.assert_array_equal(turned[0], colorize(made_map(scorer, ramp))[0, ::-1])


def test_overlay(scorer: Scorer, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", 90, 120)
    quality = scorer.map(path)
    clear = np.asarray(overlay(path, quality, opacity=0, regions=0))
    gray = np.asarray(Image.open(path).convert("L"))
    seen = ~np.isnan(quality.values)
    np.testing.assert_array_equal(clear[:90, :120, 0][seen], gray[seen])
    full = np.asarray(overlay(path, quality, opacity=1, regions=0))
    np.testing.assert_array_equal(full[:90, :120][seen], colorize(quality)[seen])
    assert full.shape[0] > 90
    with pytest.raises(ConfigError, match="opacity"):
        overlay(path, quality, opacity=2)


def test_map_files(scorer: Scorer, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "inner").mkdir(parents=True)
    names = [str(write_image(photos / name)) for name in ("a.png", "inner/a.png")]
    (photos / "bad.png").write_bytes(b"no image")
    names += [str(photos / "bad.png"), str(write_image(tmp_path / "a.png", seed=3))]
    known = ImageRow("gone", error="gone")
    target = MapFolder(tmp_path / "maps", [str(photos)], "npy")
    rows = list(map_paths(scorer, [*names, known], target, "npy"))
    assert rows == list(score_paths(scorer, [*names, known]))
    written = sorted(
        str(path.relative_to(tmp_path / "maps")) for path in (tmp_path / "maps").rglob("*.npy")
    )
    assert written == ["a.png-2.npy", "a.png.npy", "inner/a.png.npy"]
    values = np.load(tmp_path / "maps" / "a.png.npy")
    assert values.shape == (80, 96) and values.dtype == np.float32
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError):
        list(map_paths(scorer, names[:1], MapFolder(tmp_path / "file")))
    with pytest.raises(ConfigError, match="unknown"):
        MapFolder(tmp_path, map_format="gif")  # type: ignore[arg-type]


def test_refusals(scorer: Scorer) -> None:
    with pytest.raises(ConfigError, match="max_side"):
        scorer.map(pixels(), max_side=0)
    with pytest.raises(ImageError):
        scorer.map(b"no image")


def test_the_score_of_a_map_has_its_reasons(tmp_path: Path) -> None:
    scorer = Scorer.from_pretrained(save_tiny(tmp_path), reasons=True)
    image = pixels(seed=4)
    score = scorer.map(image).score
    assert score == scorer(image) and score.reasons is not None
