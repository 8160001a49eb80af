"""The interval whose evenly spaced levels come nearest to given values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from qmamba.quantization.quantizers.initialization import WeightedValues

_SHRINKS = 12
_SMALLEST = 0.02
_ROUNDS = 4
_REFINEMENTS = 13


def search_interval(sample: WeightedValues, levels: int) -> tuple[Tensor, Tensor]:
    """The ends of ``levels`` evenly spaced levels with the least mean squared error.

    First both ends of the range are drawn towards the median in geometric steps, all
    combinations of them; then one end after the other is moved in ever finer steps. The two ends
    are levels, so a symmetric distribution gets levels half a step to either side of its center.

    Args:
        sample: finite values with their weights.
        levels: number of levels, at least 2.

    Returns:
        Two scalars; equal if all values are.
    """
    values = sample.values
    lowest, highest = values.aminmax()
    if lowest == highest:
        return lowest, highest
    center = values.median()
    options: dict[str, Any] = {"dtype": torch.float32, "device": values.device}
    shrink = torch.logspace(0, math.log10(_SMALLEST), _SHRINKS, **options)
    lows = (center + (lowest - center) * shrink).repeat_interleave(_SHRINKS)
    highs = (center + (highest - center) * shrink).repeat(_SHRINKS)
    low, high = _best(sample, lows, highs, levels)
    reach = (high - low) / 4
    for _ in range(_ROUNDS):
        moves = torch.linspace(-1, 1, _REFINEMENTS, **options) * reach
        low, high = _best(sample, low + moves, high.expand_as(moves), levels)
        low, high = _best(sample, low.expand_as(moves), high + moves, levels)
        reach = reach / 3
    return low, high


def _best(
    sample: WeightedValues, lows: Tensor, highs: Tensor, levels: int
) -> tuple[Tensor, Tensor]:
    values, weights = sample
    steps = ((highs - lows) / (levels - 1))[:, None]
    valid = steps[:, 0] > 0
    steps = torch.where(steps > 0, steps, 1)
    codes = (values - lows[:, None]).div_(steps).round_().clamp_(0, levels - 1)
    error = codes.mul_(steps).add_(lows[:, None]).sub_(values).square_() @ weights
    best = error.masked_fill_(~valid, torch.inf).argmin()
    return lows[best], highs[best]
