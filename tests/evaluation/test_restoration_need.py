"""Which restoration an image needs, from severities that are known."""

from __future__ import annotations

import pytest

from qmamba.assess.native.reasons import Reasons
from qmamba.evaluation.restoration.need import RestorationNeed


def need(sigma: float, blocks: float) -> RestorationNeed:
    return RestorationNeed(Reasons(*(0.0,) * 7), sigma, blocks)


@pytest.mark.parametrize(
    ("sigma", "blocks", "task"),
    [
        (3.9, 0.03, None),  # texture that looks like noise, never compressed
        (3.9, 0.09, None),  # the same, saved with quality 90
        (1.5, 0.15, None),  # a smooth photograph, saved with quality 95
        (5.9, 0.0, None),
        (6.0, 0.0, "denoise"),
        (0.0, 0.45, "jpeg"),
        (5.1, 0.29, "jpeg"),  # noise of 10 under texture, saved with quality 60
        (12.0, 0.5, "denoise"),
        (6.0, 1.1, "jpeg"),
    ],
)
def test_what_is_done(sigma: float, blocks: float, task: str | None) -> None:
    assert need(sigma, blocks).task == task
