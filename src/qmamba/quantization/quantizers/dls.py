"""Dynamic activation quantization (DLS): scale and offset follow the statistics of the tensor.

``offset = o . s`` and ``scale = |w . s'|`` with the statistics ``s = (mean, deviation, least,
greatest)`` of the values and ``s' = (|mean|, deviation, least, greatest)`` of the values plus the
offset; ``w`` and ``o`` are learned, four numbers each. A last clamp keeps the results between the
least and the greatest value, so what is negative stays negative.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from qmamba.errors import ConfigError
from qmamba.nn.initialization import module_kwargs
from qmamba.ops.first_derivatives import first_derivatives_only
from qmamba.ops.native.rounding import (
    DynamicSettings,
    dynamic_round,
    dynamic_round_backward,
    dynamic_state,
    takes,
)
from qmamba.ops.quantized.rounding import (
    RowStatistics,
    add_statistics_gradient_,
    round_rows,
    round_rows_backward,
    row_statistics,
)
from qmamba.quantization.qparams import QuantParams
from qmamba.quantization.quantizers.base import Operand, Quantizer, range_by_sign
from qmamba.quantization.quantizers.initialization import Sample
from qmamba.quantization.quantizers.interval_search import search_interval

STATISTICS = ("sample", "frozen", "batch")
"""Over what the statistics are taken."""

# Quantization steps of least error for a normal distribution, in deviations (Max, 1960; 8 bits by
# search), where there are no data to search with.
_NORMAL_STEPS = {2: 0.9957, 3: 0.5860, 4: 0.3352, 8: 0.0308}
_MOMENTUM = 0.1


class DLS(Quantizer):
    """Dynamic activation quantization with the corrections.

    The qparams is signed and centered whatever the sign of the data, a constant tensor passes
    unchanged, and the initial parameters are those of least squared error for the normalized
    values.

    Args:
        bits, operand: see :class:`~qmamba.quantization.quantizers.Quantizer`.
        statistics: ``sample``: of each image, so that a result does not depend on the rest of its
            batch; ``batch``: of the whole tensor; ``frozen``: of the whole tensor in training, in
            evaluation the running averages of training or those of a calibration.

    Raises:
        ConfigError: a value is not allowed.

    Source: Q-MambaIR, dynamic-balancing learnable scalar; the corrections are our own.
    """

    normalized_initialization = True
    narrowest: ClassVar[float] = 1e-3
    """How narrow a step may become, as a share of the widest one."""
    least: ClassVar[float] = 1e-12
    """The narrowest step of all."""
    least_widest: ClassVar[float] = 1e-12
    """What the widest step is at least, where all values are equal."""
    running: Tensor

    def __init__(
        self, bits: int, operand: Operand | None = None, *, statistics: str = "sample"
    ) -> None:
        if statistics not in STATISTICS:
            raise ConfigError(
                f"The option statistics must be one of {', '.join(STATISTICS)}, got {statistics!r}."
            )
        super().__init__(bits, operand)
        self.statistics = statistics
        step = _NORMAL_STEPS[bits]
        self.step_weights = nn.Parameter(torch.tensor([0.0, step, 0.0, 0.0], **module_kwargs()))
        # Half a step, so that as many levels lie above the mean as below it.
        offset_weights = torch.tensor([-1.0, -step / 2, 0.0, 0.0], **module_kwargs())
        self.offset_weights = nn.Parameter(offset_weights)
        if statistics == "frozen":
            self.register_buffer("running", torch.zeros(4, **module_kwargs()))

    def choose_parameters(self, sample: Sample) -> None:
        low, high = search_interval(sample.values(), 2**self.bits)
        if high > low:
            step = (high - low) / (2**self.bits - 1)
            self.step_weights[1] = step
            self.offset_weights[1] = self.low * step - low
        if self.statistics == "frozen":
            self.running.copy_(sample.statistics.mean(0))

    def rows(self, x: Tensor) -> Tensor:
        split = self.statistics == "sample" and self.operand.batched and x.dim() > 1
        return x.flatten(1) if split else x.reshape(1, -1)

    def fake_quantize(self, x: Tensor) -> Tensor:
        rows = self.rows(x)
        y = _DynamicRounding.apply(
            rows, self.step_weights, self.offset_weights, self, self.gradient_scale(x)
        )
        return y.view(x.shape)

    def choose_qparams(self, x: Tensor) -> QuantParams:
        rows = self.rows(x)
        weights = self.step_weights.detach(), self.offset_weights.detach()
        settings = self.kernel_settings(rows)
        if settings is not None:
            parts = dynamic_state(rows, *weights, settings)
        else:
            moments = self.fixed_moments(rows)
            if moments is None:
                moments = self.moments(rows, self.measure(rows))
            steps = self.steps(rows, moments, *weights)
            parts = (steps.scale, steps.offset, moments[2], moments[3])
        shape = (-1,) + (1,) * (x.dim() - 1) if len(rows) > 1 else (-1,)
        scale, offset, lowest, highest = (part.reshape(shape) for part in parts)
        return QuantParams(scale, offset, self.low, self.high, (lowest, highest))

    def kernel_settings(self, x: Tensor) -> DynamicSettings | None:
        """How the kernel does all of it, or ``None`` where it cannot or the moments are frozen."""
        if not takes(x) or (self.statistics == "frozen" and not self.training):
            return None
        return DynamicSettings(self.low, self.high, self.operand.copies, self.narrowest, self.least)

    def measure(self, x: Tensor) -> RowStatistics:
        """Statistics of the rows."""
        return row_statistics(x)

    def moments(self, x: Tensor, statistics: RowStatistics) -> Tensor:
        """Mean, unbiased deviation, least and greatest of each row: ``(4, rows)``.

        As if every value occurred as often as the operand has copies.
        """
        copies = self.operand.copies
        variance = statistics.power * (copies / max(x.shape[1] * copies - 1, 1))
        return torch.stack(
            [statistics.mean, variance.sqrt(), statistics.lowest, statistics.highest]
        )

    def fixed_moments(self, x: Tensor) -> Tensor | None:
        """The frozen moments in evaluation, ``(4, 1)``, or ``None`` where they follow the data."""
        if self.statistics != "frozen" or self.training:
            return None
        return self.running.to(x.dtype)[:, None]

    def follow(self, moments: Tensor) -> None:
        """Let the frozen moments follow those of a training pass."""
        if self.statistics == "frozen" and self.training:
            self.running.lerp_(moments[:, 0].to(self.running.dtype), _MOMENTUM)

    def steps(
        self, x: Tensor, moments: Tensor, step_weights: Tensor, offset_weights: Tensor
    ) -> Steps:
        """Scale and offset for the moments of rows, with what their derivative needs."""
        mean, deviation, lowest, highest = moments
        offset = offset_weights.to(moments.dtype) @ moments
        mean = self.shifted_mean(x, mean, offset)
        shifted = torch.stack([mean.abs(), deviation, lowest + offset, highest + offset])
        signed = step_weights.to(moments.dtype) @ shifted
        least, most = self.limits(highest - lowest)
        length = signed.abs()
        return Steps(
            scale=torch.minimum(torch.maximum(length, least), most),
            offset=offset,
            shifted=shifted,
            below=length < least,
            above=length > most,
            sign=torch.sign(signed),
            sign_of_mean=torch.sign(mean),
        )

    def shifted_mean(self, x: Tensor, mean: Tensor, offset: Tensor) -> Tensor:
        """The mean of each row after its offset."""
        return mean + offset

    def limits(self, span: Tensor) -> tuple[Tensor, Tensor]:
        """The narrowest and the widest step for a range of values."""
        widest = (span / 2**self.bits).clamp_min(self.least_widest)
        return (widest * self.narrowest).clamp_min(self.least), widest

    def held(self, steps: Steps, gradient: Tensor) -> Tensor:
        """Where a limit stops the gradient of the step: not on the way back into the limits."""
        return (steps.below & (gradient > 0)) | (steps.above & (gradient < 0))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, statistics={self.statistics}"


class OfficialDLS(DLS):
    """DLS as in the official code, of the whole tensor, with its flaws.

    Constant tensors give NaN, and data that were positive at initialization lose all below their
    mean.
    """

    narrowest, least, least_widest = 0.0, 1e-6, 0.0
    signed: Tensor

    def __init__(self, bits: int, operand: Operand | None = None) -> None:
        super().__init__(bits, operand, statistics="batch")
        greatest = 2 ** (bits - 1) - 1
        with torch.no_grad():
            numbers = [1 / greatest, 3 / greatest, 0, 0]
            self.step_weights.copy_(torch.tensor(numbers, **module_kwargs()))
            self.offset_weights.copy_(torch.tensor([-1.0, 0, 0, 0], **module_kwargs()))
        self.register_buffer("signed", torch.zeros((), **module_kwargs(torch.bool)))

    def choose_parameters(self, sample: Sample) -> None:
        self.signed.copy_(sample.lowest < -1e-5)

    def held(self, steps: Steps, gradient: Tensor) -> Tensor:
        return steps.below | steps.above

    def kernel_settings(self, x: Tensor) -> DynamicSettings | None:
        return None

    def measure(self, x: Tensor) -> RowStatistics:
        # Where a value lies on the boundary of two codes, the last bit of a statistic decides.
        exact = row_statistics(x.double())
        power = x[0].std().square() * (x.shape[1] - 1)
        return RowStatistics(*(t.to(x.dtype) for t in exact))._replace(
            mean=x[0].mean()[None], power=power[None]
        )

    def shifted_mean(self, x: Tensor, mean: Tensor, offset: Tensor) -> Tensor:
        # At initialization this is nothing but rounding, whose sign enters the official gradient.
        return (x[0] + offset).mean()[None]

    def fake_quantize(self, x: Tensor) -> Tensor:
        self.low, self.high = range_by_sign(self)
        return super().fake_quantize(x)

    def choose_qparams(self, x: Tensor) -> QuantParams:
        self.low, self.high = range_by_sign(self)
        return super().choose_qparams(x)


class Steps(NamedTuple):
    """Scale and offset of each row and what their derivative needs, all ``(rows,)``."""

    scale: Tensor
    offset: Tensor
    shifted: Tensor
    """``(4, rows)``: absolute mean, deviation, least and greatest value after the offset."""
    below: Tensor
    """Whether the step would be smaller and is held by its lower limit."""
    above: Tensor
    sign: Tensor
    sign_of_mean: Tensor


class _DynamicRounding(torch.autograd.Function):
    """DLS with its derivative in one piece: one saved tensor, no full-size temporaries of autograd.

    The gradient of an extreme is shared evenly by the values that attain it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        step_weights: Tensor,
        offset_weights: Tensor,
        quantizer: DLS,
        gradient_scale: float,
    ) -> Tensor:
        settings = quantizer.kernel_settings(x)
        ctx.settings = quantizer, settings, gradient_scale
        if settings is not None:
            y, state = dynamic_round(x, step_weights, offset_weights, settings)
            quantizer.follow(state[:4])
            ctx.save_for_backward(x, step_weights, offset_weights, state)
            return y
        moments = quantizer.fixed_moments(x)
        statistics: tuple[Tensor, ...] = ()
        if moments is None:
            statistics = quantizer.measure(x)
            moments = quantizer.moments(x, RowStatistics(*statistics))
            quantizer.follow(moments)
        steps = quantizer.steps(x, moments, step_weights, offset_weights)
        ctx.codes = low, high = quantizer.low, quantizer.high
        ctx.save_for_backward(x, step_weights, offset_weights, moments, *steps, *statistics)
        bounds = (moments[2], moments[3])
        return round_rows(x, steps.scale, steps.offset, low, high, bounds)

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, step_weights, offset_weights, moments, *saved = ctx.saved_tensors
        quantizer, settings, gradient_scale = ctx.settings
        if settings is not None:
            # What is saved as moments is the state of the kernel.
            found = dynamic_round_backward(
                grads[0], x, step_weights, offset_weights, moments, settings, gradient_scale
            )
            return *found, None, None
        low, high = ctx.codes
        steps, statistics = Steps(*saved[: len(Steps._fields)]), saved[len(Steps._fields) :]
        bounds = (moments[2], moments[3])
        rounding = round_rows_backward(grads[0], x, steps.scale, steps.offset, low, high, bounds)
        held = quantizer.held(steps, rounding.scale)
        step = rounding.scale.masked_fill(held, 0) * steps.sign * gradient_scale
        on_step_weights = steps.shifted @ step
        on_shifted = step_weights.to(x.dtype)[:, None] * step
        on_shifted[0] *= steps.sign_of_mean
        offset = rounding.offset + on_shifted[0] + on_shifted[2] + on_shifted[3]
        on_offset_weights = moments @ offset
        if statistics:
            on_moments = on_shifted + offset_weights.to(x.dtype)[:, None] * offset
            on_moments[2] += rounding.lowest
            on_moments[3] += rounding.highest
            known = RowStatistics(*statistics)
            _pass_on(rounding.x, x, known, moments, on_moments, quantizer.operand.copies)
        return rounding.x, on_step_weights, on_offset_weights, None, None


def _pass_on(
    total: Tensor,
    x: Tensor,
    statistics: RowStatistics,
    moments: Tensor,
    grads: Tensor,
    copies: int,
) -> None:
    """Add the gradient of x that comes through the moments of its rows."""
    count = x.shape[1]
    spread = moments[1] * (max(count * copies - 1, 1) / copies)
    slope = torch.where(spread > 0, grads[1] / spread, 0)
    shift = grads[0] / count - slope * moments[0]
    add_statistics_gradient_(total, x, statistics, slope, shift, grads[2], grads[3])
