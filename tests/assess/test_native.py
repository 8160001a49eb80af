"""Large photographs: what only the native size shows lowers the score, by a rule that is stated."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qmamba.assess import (
    CropsPolicy,
    Scorer,
    TableFile,
    parse_policy,
    policy_from_metadata,
    policy_to_metadata,
)
from qmamba.assess.folder import ImageRow
from qmamba.assess.native import technical_severity
from qmamba.assess.native.technical import largest_fall
from qmamba.datasets.distortions import Pixels, distort
from qmamba.errors import ConfigError
from qmamba.images import resize_to, scaled_tensor, to_tensor
from qmamba.interop.scoring import opinion_scores
from qmamba.models import ModelMetadata, ScoreScale
from tests.assess.samples import SCALE, pixels, tiny_model
from tests.conftest import REPOSITORY

LOOKS = CropsPolicy(size=32, count=3, shorter=64, native=True)
PLAIN = replace(LOOKS, native=False)
SAME = {"score", "raw", "policy", "native", "opinions"}


def scorers(scale: ScoreScale = SCALE, **options: Any) -> tuple[Scorer, Scorer]:
    """One that looks at the native size and one that does not."""
    model = tiny_model()
    metadata = ModelMetadata("tiny", score=scale)
    looks = Scorer(model, metadata, policy=LOOKS, **options)
    return looks, Scorer(model, metadata, policy=PLAIN, **options)


def test_the_policy_says_so_and_only_where_it_is_so() -> None:
    text = "crops(size=224,count=10,layout=fixed,shorter=512,native=yes)"
    policy = parse_policy(text)
    assert isinstance(policy, CropsPolicy) and policy.native and str(policy) == text
    assert policy_from_metadata(policy_to_metadata(policy)) == policy
    assert "native" not in policy_to_metadata(CropsPolicy())
    assert str(replace(policy, shorter=None)) == str(CropsPolicy())
    for preset in ("fast", "paper"):
        chosen = parse_policy(preset, policy)
        assert isinstance(chosen, CropsPolicy) and not chosen.native
    with pytest.raises(ConfigError, match="add native=no"):
        parse_policy("crops:draft=yes", policy)
    with pytest.raises(ConfigError, match="takes yes or no, got 'maybe'"):
        parse_policy("crops:native=maybe")


@pytest.mark.parametrize("size", [(64, 64), (64, 200), (40, 90), (20, 20)])
def test_an_image_that_is_not_scaled_is_scored_as_ever(size: tuple[int, int]) -> None:
    looks, plain = (scorer(pixels(*size)) for scorer in scorers())
    assert replace(looks, policy=plain.policy) == plain
    assert looks.native is None and looks.whole == looks.raw


@pytest.mark.parametrize("higher", [True, False])
def test_the_rule(higher: bool) -> None:
    scale = replace(SCALE, higher_is_better=higher)
    image = pixels(300, 400, seed=3)
    looks, plain = (scorer(image) for scorer in scorers(scale))
    assert looks.whole == plain.raw and looks.native is not None
    fall = 0.25 * 100 * (1 - 64 / 300) * (1 - looks.native)
    worse = -fall if higher else fall
    assert fall > 1 and looks.raw == pytest.approx(plain.raw + worse, rel=1e-6)
    assert looks.crop_spread == pytest.approx(plain.crop_spread)
    for name in set(vars(plain)) - SAME:
        if name != "crop_spread":
            assert getattr(looks, name) == getattr(plain, name), name


def test_what_it_costs_begins_at_nothing() -> None:
    scale = ScoreScale("MOS", 1, 5, True, 3, 1)
    assert largest_fall(1.0, scale) == 0 and largest_fall(0.999, scale) < 0.002
    assert 0.9 < largest_fall(0.05, scale) < 1


def test_every_way_to_score_agrees(tmp_path: Path) -> None:
    scorer, _ = scorers()
    image = pixels(150, 220, seed=2)
    Image.fromarray(image).save(tmp_path / "large.png")
    score = scorer(tmp_path / "large.png")
    tensor = to_tensor(image)[None]
    assert scorer(image).raw == score.raw
    assert scorer.score_tensor(tensor).item() == pytest.approx(score.raw, rel=1e-4)
    assert opinion_scores(scorer, tensor).item() == pytest.approx(score.raw, rel=1e-6)
    assert scorer.map(image).score == replace(score, image=None)
    assert scorer.map(image).mean() == pytest.approx(score.raw, rel=1e-4)
    tensor.requires_grad_(True)
    scorer.score_tensor(tensor).sum().backward()
    assert tensor.grad is not None and tensor.grad.abs().max() > 0


def test_columns(tmp_path: Path) -> None:
    scorer, _ = scorers()
    rows = [ImageRow(str(side), score=scorer(pixels(side, side, seed=2))) for side in (64, 128)]
    with TableFile(tmp_path / "t.csv") as table:
        for row in rows:
            table.write(row)
    header, small, large = (tmp_path / "t.csv").read_text().splitlines()
    column = header.split(",").index("native")
    assert header.split(",")[column - 1] == "whole"
    assert small.split(",")[column] == "" and float(large.split(",")[column]) < 1
    for row in rows:
        assert row.score is not None
        kept = ImageRow.from_dict(row.to_dict())
        assert kept.score == replace(row.score, opinions=(), image=row.image)
    older = {k: v for k, v in rows[0].to_dict().items() if k not in ("whole", "native")}
    assert ImageRow.from_dict(older).score is not None


def test_reasons_see_the_native_size_of_a_draft() -> None:
    stream = io.BytesIO()
    Image.fromarray(pixels(900, 1200, seed=3)).save(stream, "JPEG", quality=90)
    scorer = Scorer(tiny_model(), scorers()[1].metadata, policy="fast", reasons=True)
    assert isinstance(scorer.policy, CropsPolicy)
    full = replace(scorer.policy, draft=False)
    expected = Scorer(scorer.model, scorer.metadata, policy=full, reasons=True)(stream.getvalue())
    assert scorer(stream.getvalue()).reasons == expected.reasons


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_one_channel_after_the_other_gives_the_same_bits(dtype: type) -> None:
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (90, 130, 3), dtype)
    assert torch.equal(scaled_tensor(image, (32, 46)), resize_to(to_tensor(image), (32, 46)))


def mosaic(side: int = 2100) -> Pixels:
    """Both photographs of the repository side by side and on top of each other, at their size."""
    names = ("cat.jpg", "coffee.jpg")
    tiles = [np.array(Image.open(REPOSITORY / "examples" / name).convert("RGB")) for name in names]
    height, width = (min(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    row = np.concatenate([tile[:height, :width] for tile in tiles], axis=1)
    repeats = (-(-side // row.shape[0]), -(-side // row.shape[1]), 1)
    return np.ascontiguousarray(np.tile(row, repeats)[:side, :side])


@pytest.fixture(scope="module")
def large() -> Pixels:
    return mosaic()


@pytest.fixture(scope="module")
def default() -> Scorer:
    return Scorer.from_pretrained(policy="crops:count=2")


def test_the_default_policy_looks_at_the_native_size() -> None:
    assert "native=yes" in str(Scorer.from_pretrained().policy)


@pytest.fixture(scope="module")
def photograph() -> Pixels:
    """One large photograph: in the mosaic a model sees many small ones."""
    image = Image.open(REPOSITORY / "examples" / "coffee.jpg").convert("RGB")
    return np.asarray(image.resize((4 * image.width, 4 * image.height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("kind", ["white_noise", "sensor_noise", "jpeg", "gaussian_blur"])
def test_damage_at_native_size_lowers_the_score(
    default: Scorer, photograph: Pixels, kind: str
) -> None:
    levels = [distort(photograph, kind, level, np.random.default_rng(0)) for level in (2, 3, 5)]
    scores = [default(image) for image in (photograph, *levels)]
    raw = [score.raw for score in scores]
    assert raw == sorted(raw, reverse=True) and raw[0] - raw[-1] > 0.15
    # Scaled down to 512, the middle level hardly shows.
    lost, shown = scores[0].raw - scores[2].raw, (scores[0].whole or 0) - (scores[2].whole or 0)
    assert lost > shown


def test_a_clean_photograph_loses_little(default: Scorer, large: Pixels) -> None:
    score = default(large)
    assert score.whole is not None and 0 <= score.whole - score.raw < 0.02


def test_half_of_the_image_may_be_soft() -> None:
    sharp = mosaic(448)[:224, :224]
    soft = distort(sharp, "gaussian_blur", 5, np.random.default_rng(0))
    crops = torch.from_numpy(np.stack([sharp, soft])).permute(0, 3, 1, 2).float() / 255
    assert technical_severity(crops) < 0.2 < technical_severity(crops[1:])
