"""The paper's parameter counts, as integers."""

from __future__ import annotations

import pytest
import torch

from qmamba.models import QMamba
from qmamba.prompts import TuningConfig, attach, count_tuned
from tests.models.micro import qmamba_config


@pytest.fixture(scope="module")
def base() -> QMamba:
    """LQMamba-B without memory."""
    with torch.device("meta"):
        return QMamba(qmamba_config("lqmamba-base"))


def count(base: QMamba, tuning: TuningConfig) -> int:
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in attach(base, tuning).trained_state().values())


@pytest.mark.parametrize(
    ("tuning", "parameters"),
    [
        (TuningConfig("style"), 3_830_808),
        (TuningConfig("style", convolution_bias=False), 3_829_784),
        (TuningConfig("style", regressor=True), 3_831_833),
        (TuningConfig("convolution"), 28_334_616),
        (TuningConfig("cross-attention"), 12_172_056),
        (TuningConfig("probe"), 1_025),
        (TuningConfig("full"), 93_792_577),
        (TuningConfig("none"), 0),
        # Two per channel of every operation, from the widths: 28 per block channel and the rest.
        (
            TuningConfig("ssf"),
            2
            * (
                14 * (2 * 128 + 2 * 256 + 15 * 512 + 2 * 1024)
                + 2 * (64 + 128)
                + 2 * (256 + 512 + 1024)
                + 1024
            ),
        ),
    ],
    ids=str,
)
def test_lqmamba_base(base: QMamba, tuning: TuningConfig, parameters: int) -> None:
    assert count(base, tuning) == parameters


def test_other_widths() -> None:
    assert count_tuned(qmamba_config("lqmamba-tiny"), TuningConfig()) == 3_464_728
    assert count_tuned(qmamba_config("qmamba-small"), TuningConfig()) == 3_464_728
    assert count_tuned(qmamba_config("qmamba-nano"), TuningConfig(width=32)) == 88_472


@pytest.mark.parametrize("components", [1, 2, 10])
def test_components_cost_prompts_and_weights(base: QMamba, components: int) -> None:
    widths = (256, 512, 1024, 1024)
    per_component = 4 * 256 + sum(width + 1 for width in widths)
    tuning = TuningConfig(prompts=components)
    assert count(base, tuning) == 3_830_808 + (components - 6) * per_component


@pytest.mark.parametrize(
    ("size", "pixels"),
    [
        ((7, 7), 4 * 49),
        ((14, 14), 4 * 196),
        ((28, 28), 4 * 784),
        ("layer", 28 * 28 + 14 * 14 + 7 * 7 + 7 * 7),
    ],
    ids=str,
)
def test_sizes_cost_prompts_alone(base: QMamba, size: tuple[int, int], pixels: int) -> None:
    assert count(base, TuningConfig(size=size)) == 3_830_808 + 6 * 256 * (pixels - 4)
