"""Weight quantization with learned rounding thresholds (RFA).

The levels stay evenly spaced; learned points ``a`` decide which value takes which level: the
boundary between two neighboring levels lies half-way between their points. In the backward pass
the rounding is the piecewise linear curve through the points ``(a_i, level_i)``, with slope 0.1
beyond the two ends, so the gradient reaches the points, too.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.nn.initialization import module_kwargs
from qmamba.ops.first_derivatives import first_derivatives_only
from qmamba.ops.native.rounding import (
    ThresholdSettings,
    takes,
    threshold_round,
    threshold_round_backward,
)
from qmamba.quantization.qparams import QuantParams
from qmamba.quantization.quantizers.base import Operand, range_by_sign
from qmamba.quantization.quantizers.initialization import Sample
from qmamba.quantization.quantizers.interval_search import search_interval
from qmamba.quantization.quantizers.learned_step import LearnedStep

_NARROWEST_GAP = 0.01
_END_SLOPE = 0.1


class RFA(LearnedStep):
    """Learned step, offset and thresholds that stay in order.

    The points are a first one and the sums of gaps, each gap a softplus and never below 0.01
    steps. The step and offset are initialized for the least squared error.

    Source: Q-MambaIR, range-floating flexible allocator; the ordering and the initialization are
    our own.
    """

    def __init__(self, bits: int, operand: Operand | None = None) -> None:
        super().__init__(bits, operand)
        self.first = nn.Parameter(torch.tensor([float(self.low)], **module_kwargs()))
        even = math.log(math.expm1(1 - _NARROWEST_GAP))
        self.gaps = nn.Parameter(torch.full((2**bits - 1,), even, **module_kwargs()))

    def points(self) -> Tensor:
        """The points in units of steps, in ascending order: ``(2 ** bits,)``."""
        gaps = F.softplus(self.gaps) + _NARROWEST_GAP
        return torch.cat([self.first, self.first + gaps.cumsum(0)])

    def choose_parameters(self, sample: Sample) -> None:
        self.set_interval(*search_interval(sample.values(), 2**self.bits))

    def fake_quantize(self, x: Tensor) -> Tensor:
        y = _ThresholdRounding.apply(
            self.rows(x)[0],
            self.step(x.dtype),
            self.offset(x.dtype),
            self.points().to(x.dtype),
            *self.code_range(),
            self.low,
            self.gradient_scale(x),
        )
        return y.view(x.shape)

    def _quantize(self, x: Tensor) -> Tensor:
        steps = _in_steps(x, self.step(x.dtype), self.offset(x.dtype), *self.code_range())
        index = torch.bucketize(steps.contiguous(), _boundaries(self.points().to(x.dtype)))
        return (index + self.low).to(torch.int8)


class OfficialRFA(RFA):
    """RFA as in the official code: free points, levels that stay signed whatever the data."""

    signed: Tensor

    def __init__(self, bits: int, operand: Operand | None = None) -> None:
        super().__init__(bits, operand)
        del self.first, self.gaps
        self.a = nn.Parameter(torch.arange(2**bits, **module_kwargs(torch.float32)) + self.low)
        self.register_buffer("signed", torch.zeros((), **module_kwargs(torch.bool)))

    def points(self) -> Tensor:
        return self.a

    def choose_parameters(self, sample: Sample) -> None:
        self.signed.copy_(sample.lowest < -1e-5)
        low, high = self.code_range()
        self.alpha.copy_(2 * sample.mean_magnitude() / math.sqrt(high))
        self.a.copy_(torch.arange(low, high + 1, dtype=self.a.dtype, device=self.a.device))

    def step(self, dtype: torch.dtype) -> Tensor:
        return self.alpha.to(dtype)

    def code_range(self) -> tuple[int, int]:
        return range_by_sign(self)

    def choose_qparams(self, x: Tensor) -> QuantParams:
        # The clamp follows the sign of the first data, the levels do not.
        return QuantParams(
            self.step(x.dtype).detach(), self.offset(x.dtype).detach(), self.low, self.high
        )

    def gradient_scale(self, x: Tensor) -> float:
        return 1 / math.sqrt(x.numel() * self.code_range()[1])


def _in_steps(x: Tensor, step: Tensor, offset: Tensor, low: int, high: int) -> Tensor:
    return (x + offset).div_(step).clamp_(low, high)


def _boundaries(points: Tensor) -> Tensor:
    """Where the codes change. Of points out of order, the last boundary below a value counts."""
    middles = (points[:-1] + points[1:]) / 2
    return middles.flip(0).cummin(0).values.flip(0)


class _Segments(NamedTuple):
    """The pieces of the surrogate curve: below the first point, between points, above the last."""

    slope: Tensor
    """``(points + 1,)``."""
    gap: Tensor
    """Distances of neighboring points, ``(points - 1,)``."""

    @classmethod
    def between(cls, points: Tensor) -> _Segments:
        gap = points.diff()
        end = points.new_full((1,), _END_SLOPE)
        return cls(torch.cat([end, 1 / gap, end]), gap)


class _ThresholdRounding(torch.autograd.Function):
    """RFA on a flat tensor: codes by one search, the gradient by sums over the segments."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        step: Tensor,
        offset: Tensor,
        points: Tensor,
        low: int,
        high: int,
        first_level: int,
        gradient: float,
    ) -> Tensor:
        ctx.settings = ThresholdSettings(low, high, first_level, _END_SLOPE), gradient
        ctx.save_for_backward(x, step, offset, points)
        if takes(x):
            return threshold_round(x, step, offset, points, ctx.settings[0])
        steps = _in_steps(x, step, offset, low, high)
        index = torch.bucketize(steps.contiguous(), _boundaries(points))
        return (index + first_level).to(x.dtype).mul_(step).sub_(offset)

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, step, offset, points) = grads, ctx.saved_tensors
        settings, gradient = ctx.settings
        backward = threshold_round_backward if takes(x) else _threshold_backward
        on_x, on_step, *others = backward(grad, x, step, offset, points, settings)
        return on_x, on_step * gradient, *others, None, None, None, None


def _threshold_backward(
    grad: Tensor,
    x: Tensor,
    step: Tensor,
    offset: Tensor,
    points: Tensor,
    settings: ThresholdSettings,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the values, the step, the offset and the points."""
    ratio = (x + offset).div_(step)
    steps = ratio.clamp(settings.low, settings.high)
    inside = steps == ratio
    segment = torch.bucketize(steps, points)
    segments = _Segments.between(points)
    passed = segments.slope[segment] * grad * inside
    levels = (torch.bucketize(steps, _boundaries(points)) + settings.first_level).to(x.dtype)
    on_step = torch.dot(grad, levels) - torch.dot(passed, ratio)
    on_points = _points_gradient(grad * step, steps, segment, points, segments)
    return passed, on_step[None], (passed.sum() - grad.sum())[None], on_points


def _points_gradient(
    grad: Tensor, steps: Tensor, segment: Tensor, points: Tensor, segments: _Segments
) -> Tensor:
    """Gradient of the surrogate curve with respect to its points."""
    count = len(points) + 1
    # Sums in double, because the share of the upper point is a small difference.
    total = torch.bincount(segment, grad.double(), count)
    moment = torch.bincount(segment, (grad * steps).double(), count)
    gap, lower = segments.gap.double(), points[:-1].double()
    upper_share = (moment[1:-1] - lower * total[1:-1]) / gap
    result = torch.zeros(len(points), dtype=torch.float64, device=points.device)
    result[1:] -= upper_share / gap
    result[:-1] -= (total[1:-1] - upper_share) / gap
    result[0] -= _END_SLOPE * total[0]
    result[-1] -= _END_SLOPE * total[-1]
    return result.to(points.dtype)
