"""What can be asked of the default weights on the photographs inside the repository."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from qmamba.assess import Scorer
from qmamba.datasets.distortions import Pixels, distort
from tests.conftest import REPOSITORY

EXAMPLES = ("cat.jpg", "coffee.jpg")
SIDE = 256


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer.from_pretrained(policy="crops:count=2")


@pytest.fixture(scope="module")
def photographs() -> dict[str, Pixels]:
    return {
        name: _middle(np.array(Image.open(REPOSITORY / "examples" / name))) for name in EXAMPLES
    }


def _middle(image: Pixels) -> Pixels:
    top, left = (image.shape[0] - SIDE) // 2, (image.shape[1] - SIDE) // 2
    return np.ascontiguousarray(image[top : top + SIDE, left : left + SIDE])


@pytest.mark.parametrize("kind", ["gaussian_blur", "white_noise", "downscale"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_level_of_damage_scores_lower(
    scorer: Scorer, photographs: dict[str, Pixels], name: str, kind: str
) -> None:
    image = photographs[name]
    levels = [distort(image, kind, level, np.random.default_rng(0)) for level in (2, 3, 4, 5)]
    scores = np.array([score.raw for score in scorer([image, *levels])])
    assert (np.diff(scores) < 0).all(), scores


@pytest.mark.parametrize("kind", ["jpeg", "underexposure", "impulse_noise"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_severe_damage_scores_lower_than_weak_damage(
    scorer: Scorer, photographs: dict[str, Pixels], name: str, kind: str
) -> None:
    image = photographs[name]
    weak, severe = (distort(image, kind, level, np.random.default_rng(0)) for level in (2, 5))
    undamaged, little, much = (score.raw for score in scorer([image, weak, severe]))
    assert min(undamaged, little) - much > 0.05


def test_what_shows_nothing_scores_below_photographs(
    scorer: Scorer, photographs: dict[str, Pixels]
) -> None:
    generator = np.random.default_rng(0)
    shape = (SIDE, SIDE, 3)
    ramp = np.linspace(0, 255, SIDE)[:, None, None]
    empty = [
        generator.integers(0, 256, shape, dtype=np.uint8),
        np.full(shape, (255, 0, 0), dtype=np.uint8),
        np.full(shape, 128, dtype=np.uint8),
        np.broadcast_to(ramp, shape).astype(np.uint8),
    ]
    best = max(score.raw for score in scorer(empty))
    assert best < min(score.raw for score in scorer(list(photographs.values()))) - 0.1
