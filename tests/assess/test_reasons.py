"""Why an image scores as it does: kinds of flaw, sentences, columns."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qmamba.assess import REASON_COLUMNS, Reasons, TableFile, find_reasons
from qmamba.assess.folder import ImageRow
from qmamba.assess.score import Score
from qmamba.datasets.distortions import Pixels, distort
from tests.conftest import REPOSITORY

NONE = Reasons(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def photograph(name: str) -> Pixels:
    return np.array(Image.open(REPOSITORY / "examples" / name).convert("RGB"))


def reasons_of(image: Pixels) -> Reasons:
    pixels = torch.from_numpy(image[:224, :448].copy()).permute(2, 0, 1).float() / 255
    return find_reasons(torch.stack(pixels.split(224, dim=2)))


@pytest.mark.parametrize("name", ["cat.jpg", "coffee.jpg"])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("gaussian_blur", "blur"),
        ("white_noise", "noise"),
        ("sensor_noise", "noise"),
        ("jpeg", "compression"),
        ("overexposure", "overexposure"),
        ("underexposure", "underexposure"),
        ("haze", "contrast"),
    ],
)
def test_severe_damage_is_named_and_grows(name: str, kind: str, reason: str) -> None:
    image = photograph(name)
    levels = [distort(image, kind, level, np.random.default_rng(0)) for level in (2, 5)]
    weak, severe = (getattr(reasons_of(level), reason) for level in levels)
    assert weak < severe and severe > 0.4


def saved(image: Pixels, quality: int) -> Pixels:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    return np.array(Image.open(stream))


@pytest.mark.parametrize("quality", [50, 75, 90])
@pytest.mark.parametrize("name", ["cat.jpg", "coffee.jpg"])
def test_noise_is_named_after_saving_as_jpeg_and_none_where_there_was_none(
    name: str, quality: int
) -> None:
    image = photograph(name)
    noise = 20 * np.random.default_rng(0).standard_normal(image.shape)
    noisy = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    found, clean = (reasons_of(saved(each, quality)) for each in (noisy, image))
    assert found.noise > 0.5 and found.sentence.startswith("Noisy")
    assert clean.noise < 0.2 and "noisy" not in clean.sentence.lower()


@pytest.mark.parametrize("name", ["cat.jpg", "coffee.jpg"])
def test_good_photographs_have_no_clearly_visible_flaw(name: str) -> None:
    values = reasons_of(photograph(name)).to_dict()
    assert max(float(values[key]) for key in REASON_COLUMNS[1:]) < 0.5


def test_the_blurred_example_is_soft() -> None:
    assert reasons_of(photograph("coffee_blurred.jpg")).blur > 0.5


def test_a_soft_background_is_no_flaw() -> None:
    sharp = photograph("coffee.jpg")[:224, :224]
    soft = distort(sharp, "gaussian_blur", 5, np.random.default_rng(0))
    crops = torch.from_numpy(np.stack([sharp, soft, soft])).permute(0, 3, 1, 2).float() / 255
    assert find_reasons(crops).blur < 0.3 < find_reasons(crops[1:]).blur


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "No technical flaw stands out."),
        ({"noise": 0.29}, "No technical flaw stands out."),
        ({"noise": 0.6}, "Noisy."),
        ({"noise": 0.6, "blur": 0.3}, "Noisy and slightly soft."),
        (
            {"compression": 0.9, "noise": 0.6, "contrast": 0.5},
            "Very compressed, noisy and low in contrast.",
        ),
    ],
)
def test_sentences(values: dict[str, float], sentence: str) -> None:
    assert Reasons(**{**vars(NONE), **values}).sentence == sentence


def score(reasons: Reasons | None) -> Score:
    return Score(0.5, 0.5, (0, 1), True, None, "native", "m", "", 9, 9, image="a", reasons=reasons)


def test_they_survive_the_tables(tmp_path: Path) -> None:
    flawed = Reasons(0.35, 0.7, 0.0, 0.0, 0.1, 0.0, 0.0)
    rows = [ImageRow("a", score=score(flawed)), ImageRow("b", error="gone")]
    for row in rows:
        assert ImageRow.from_dict(json.loads(json.dumps(row.to_dict()))) == row
    with TableFile(tmp_path / "t.csv", reasons=True) as table:
        for row in rows:
            table.write(row)
    header, first, second = (tmp_path / "t.csv").read_text().splitlines()
    assert header.endswith(",".join(REASON_COLUMNS))
    assert first.endswith("Noisy and slightly soft.,0.35,0.7,0.0,0.0,0.1,0.0,0.0")
    assert second.endswith(7 * ",")
    assert not set(REASON_COLUMNS) & set(score(None).to_dict())
