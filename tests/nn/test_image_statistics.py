"""Statistics of an image: what they see, and that gradients pass."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from qmamba.datasets.distortions import Pixels, distort
from qmamba.errors import ConfigError, ShapeError
from qmamba.models import QMamba, QMambaConfig, create_model
from qmamba.nn.image_statistics import (
    STATISTICS,
    StatisticsBranch,
    _local_mean,
    image_statistics,
)
from tests.conftest import REPOSITORY

LUMA_BLOCKS, CHROMA_BLOCKS = 30, 32
"""Where the edges of blocks stand among the statistics."""
BRIGHTEST, BLACK, WHITE, DARK_NEARBY, PURITY = 51, 66, 68, 70, 74
"""Brightest lightness, log share of black and of white, dark places nearby, purity of color."""


def photograph() -> Pixels:
    image = np.array(Image.open(REPOSITORY / "examples" / "coffee.jpg").convert("RGB"))
    # Halved, the traces of its own compression are gone.
    return np.array(Image.fromarray(image).resize((300, 200), Image.Resampling.BOX))


def tensor(image: Pixels) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255


def compressed(image: Pixels, quality: int) -> Pixels:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream))


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (2, 3, 57, 91), (3, 3, 224, 224)])
def test_shape_and_size(shape: tuple[int, ...]) -> None:
    values = image_statistics(torch.rand(shape, generator=torch.Generator().manual_seed(0)))
    assert values.shape == (shape[0], STATISTICS) and values.dtype == torch.float32
    assert torch.isfinite(values).all() and values.abs().max() < 20


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_gradients_are_finite_where_nothing_is_to_be_seen(value: float) -> None:
    images = torch.full((1, 3, 40, 40), value, requires_grad=True)
    image_statistics(images).sum().backward()
    assert images.grad is not None and torch.isfinite(images.grad).all()


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 2),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    side=st.sampled_from([1, 3, 7]),
)
def test_local_means_are_those_of_pooling(batch: int, height: int, width: int, side: int) -> None:
    planes = torch.rand(batch, 1, height, width, dtype=torch.float64, requires_grad=True)
    expected = F.avg_pool2d(planes, side, 1, side // 2, count_include_pad=False)
    found = _local_mean(planes, side)
    assert torch.allclose(found, expected, atol=1e-12)
    weights = torch.rand_like(found)
    ours, pooled = (torch.autograd.grad(y, planes, weights)[0] for y in (found, expected))
    assert torch.allclose(ours, pooled, atol=1e-12)


@pytest.mark.parametrize("first", [(0, 0), (3, 5)])
def test_blocks_stand_out_wherever_they_begin(first: tuple[int, int]) -> None:
    def edges(image: Pixels) -> float:
        cut = np.ascontiguousarray(image[first[0] :, first[1] :])
        return float(image_statistics(tensor(cut))[0, LUMA_BLOCKS])

    clean = photograph()
    found = [edges(compressed(clean, quality)) for quality in (90, 50, 20, 8)]
    assert edges(clean) < found[1] < found[2] < found[3]


def test_noise_raises_the_floor_of_the_finest_octave() -> None:
    clean = photograph()
    noisy = [distort(clean, "white_noise", level, np.random.default_rng(0)) for level in (1, 3, 5)]
    floors = [float(image_statistics(tensor(image))[0, 15]) for image in [clean, *noisy]]
    assert floors == sorted(floors) and floors[3] - floors[0] > 0.5


def test_range_and_veil_see_what_was_done_to_the_light() -> None:
    clean = photograph()

    def found(kind: str, level: float) -> Tensor:
        damaged = distort(clean, kind, level, np.random.default_rng(0))
        return image_statistics(tensor(damaged))[0]

    before = image_statistics(tensor(clean))[0]
    hazy, dark, bright = found("haze", 2), found("underexposure", 2), found("overexposure", 2)
    assert hazy[DARK_NEARBY] > before[DARK_NEARBY] and hazy[PURITY] < before[PURITY]
    assert dark[BRIGHTEST] < before[BRIGHTEST] < bright[BRIGHTEST]
    assert dark[BLACK] > before[BLACK] > bright[BLACK] and bright[WHITE] > before[WHITE]
    assert tensor(clean).min() < 0.1, "the photograph has shadows to lose"


def test_a_branch_of_fewer_inputs_takes_the_first_statistics() -> None:
    torch.manual_seed(0)
    branch = StatisticsBranch(4, 1, inputs=50)
    branch.standardize_by(torch.randn(20, STATISTICS))
    torch.nn.init.normal_(branch.fc2.weight)
    statistics = torch.randn(3, STATISTICS)
    other = statistics.clone()
    other[:, 50:] = 9.0
    assert torch.equal(branch.from_statistics(statistics), branch.from_statistics(other))
    images = torch.rand(2, 3, 40, 40)
    assert torch.equal(image_statistics(images, 50), image_statistics(images)[:, :50])
    # What earlier files do not say about themselves.
    assert QMambaConfig.from_dict({"statistics": 4}).statistics_inputs == 50
    with pytest.raises(ConfigError, match="statistics_inputs"):
        QMambaConfig(statistics=4, statistics_inputs=STATISTICS + 1)


def test_they_do_not_depend_on_the_rest_of_the_batch() -> None:
    images = torch.rand(3, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(image_statistics(images)[1:2], image_statistics(images[1:2]))


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 31, 64)])
def test_refusals(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="Image statistics need"):
        image_statistics(torch.zeros(shape))


def test_a_fresh_branch_adds_nothing_and_autocast_spares_it() -> None:
    torch.manual_seed(0)
    branch = StatisticsBranch(8, 2)
    images = torch.rand(2, 3, 64, 64)
    assert branch(images).eq(0).all()
    torch.nn.init.ones_(branch.fc2.weight)
    plain = branch(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(branch(images), plain)


def test_a_network_with_statistics_adds_them_to_the_head() -> None:
    torch.manual_seed(0)
    network = create_model("qmamba-nano", dims=(8, 16, 16, 16), depths=(1, 1, 1, 1), statistics=4)
    assert isinstance(network, QMamba) and network.classifier.statistics is not None
    images = torch.randn(2, 3, 64, 64)
    torch.nn.init.normal_(network.classifier.statistics.fc2.weight)
    features = network.forward_features(images)
    expected = network.classifier.head(features) + network.beside(images)
    torch.testing.assert_close(network(images), expected)
    assert network.beside(images).abs().min() > 0
