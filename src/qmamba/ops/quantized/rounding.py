"""Fake quantization of rows of values, and its gradients.

Everything here works on a table ``(rows, values)`` in which each row has its own parameters: one
row for a whole tensor, or one for each image of a batch. ``scale``, ``offset`` and bounds are
``(rows,)``.

On the CPU in float32 the C++ kernel (:mod:`qmamba.ops.native.rounding`) makes one pass over the
values where the operations of PyTorch make ten. Levels have the same bits either way; a sum over a
row is formed in one order there, whatever the other rows and the number of threads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qmamba.ops.native import rounding as kernel

Bounds = tuple[Tensor, Tensor] | None


class RowStatistics(NamedTuple):
    """Statistics of each row, ``(rows,)``."""

    mean: Tensor
    power: Tensor
    """Sum of the squared differences from the mean."""
    lowest: Tensor
    highest: Tensor
    lowest_count: Tensor
    """How many values attain the lowest, as a float."""
    highest_count: Tensor


class RoundingGradients(NamedTuple):
    """Gradients of :func:`round_rows`; those of scale and offset for each row."""

    x: Tensor
    """Passed straight through the rounding where the value is within the codes and the bounds."""
    scale: Tensor
    offset: Tensor
    lowest: Tensor
    """Of the lower bound, zero without bounds."""
    highest: Tensor


def row_statistics(x: Tensor) -> RowStatistics:
    """Mean, sum of squared deviations and extremes of each row."""
    if kernel.takes(x):
        return RowStatistics(*kernel.row_statistics(x))
    mean = x.mean(1)
    power = torch.linalg.vector_norm(x - mean[:, None], dim=1).square()
    lowest, highest = x.aminmax(dim=1)
    counts = [(x == extreme[:, None]).sum(1).to(x.dtype) for extreme in (lowest, highest)]
    return RowStatistics(mean, power, lowest, highest, *counts)


def round_rows(
    x: Tensor, scale: Tensor, offset: Tensor, low: int, high: int, bounds: Bounds = None
) -> Tensor:
    """``clamp(round(clamp((x + offset) / scale, low, high)) * scale - offset, *bounds)``.

    Halves are rounded to even codes. Not differentiable by autograd where the kernel runs.
    """
    if kernel.takes(x):
        return kernel.round_rows(x, scale, offset, low, high, bounds)
    scale, offset = scale[:, None], offset[:, None]
    y = (x + offset).div_(scale).clamp_(low, high).round_().mul_(scale).sub_(offset)
    if bounds is not None:
        y.clamp_(bounds[0][:, None], bounds[1][:, None])
    return y


def round_rows_backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    offset: Tensor,
    low: int,
    high: int,
    bounds: Bounds = None,
) -> RoundingGradients:
    """Gradients of :func:`round_rows` with the straight-through rule for the rounding."""
    if kernel.takes(x):
        result, sums = kernel.round_rows_backward(grad, x, scale, offset, low, high, bounds)
        return RoundingGradients(result, *sums)
    wide_scale, wide_offset = scale[:, None], offset[:, None]
    ratio = (x + wide_offset).div_(wide_scale)
    codes = ratio.clamp(low, high)
    inside = codes == ratio
    codes.round_()
    lowest = highest = torch.zeros_like(scale)
    if bounds is not None:
        y = (codes * wide_scale).sub_(wide_offset)
        below, above = y < bounds[0][:, None], y > bounds[1][:, None]
        lowest, highest = (grad * below).sum(1), (grad * above).sum(1)
        grad = grad.masked_fill(below.logical_or_(above), 0)
    passed = grad * inside
    step = torch.linalg.vecdot(grad, codes) - torch.linalg.vecdot(passed, ratio)
    return RoundingGradients(passed, step, passed.sum(1) - grad.sum(1), lowest, highest)


def add_statistics_gradient_(
    total: Tensor,
    x: Tensor,
    statistics: RowStatistics,
    slope: Tensor,
    shift: Tensor,
    lowest: Tensor,
    highest: Tensor,
) -> None:
    """Add to ``total`` the gradient of statistics: ``slope x + shift``, and at the extremes.

    The gradients ``lowest`` and ``highest`` of the extremes are shared evenly by the values that
    attain them.
    """
    shares = (lowest / statistics.lowest_count, highest / statistics.highest_count)
    if kernel.takes(x) and total.is_contiguous():
        kernel.add_statistics_gradient_(
            total,
            x,
            slope=slope,
            shift=shift,
            lowest=statistics.lowest,
            highest=statistics.highest,
            at_lowest=shares[0],
            at_highest=shares[1],
        )
        return
    total.addcmul_(x, slope[:, None]).add_(shift[:, None])
    for extreme, share in zip(statistics[2:4], shares, strict=True):
        total.add_((x == extreme[:, None]) * share[:, None])
