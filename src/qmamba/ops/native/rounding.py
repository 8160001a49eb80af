"""Fake quantization of rows in training, and DLS and RFA in one call each, by the C++ kernel.

What it trades: nothing but generality. The definitions are in :mod:`qmamba.ops.quantized.rounding`
and :mod:`qmamba.quantization.quantizers`, for any device and dtype; here one pass over float32
values on the CPU makes the same sums where the operations of PyTorch make ten, and dozens of small
ones on numbers of rows, which cost more than the values in small networks. Use these only where
:func:`takes` holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qmamba.errors import ShapeError
from qmamba.ops.native import library
from qmamba.ops.native.handover import address, new
from qmamba.ops.native.structs import DynamicStruct, RoundingStruct, ThresholdsStruct

_BLOCK = 8192
"""Values whose sums are formed together, ``kRoundingBlock`` in the kernel."""
_STATISTICS = 6
_STATE = 10
_SCALE, _OFFSET = 6, 7
_DLS_WEIGHTS = 4


def takes(x: Tensor) -> bool:
    """Whether the kernel can work on these values."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.is_contiguous()
        and x.numel() > 0
        # Tracing hands out tensors without memory.
        and type(x) in (Tensor, nn.Parameter)
        and available()
    )


def available() -> bool:
    """Whether there is a kernel."""
    return library.unavailable_reason() is None


def row_statistics(x: Tensor) -> Tensor:
    """Mean, sum of squared deviations, least and greatest value of each row of ``(rows, values)``,
    and how often these two are attained: ``(6, rows)``."""
    rows = len(x)
    sums = new(rows, _STATISTICS)
    call = _rounding_call(x)
    call.sums = sums.data_ptr()
    _run("row_statistics", x, call)
    return sums.T.contiguous()


def round_rows(
    x: Tensor,
    scale: Tensor,
    offset: Tensor,
    low: int,
    high: int,
    bounds: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Arguments and result as for :func:`qmamba.ops.quantized.rounding.round_rows`."""
    result = new(*x.shape)
    call = _rounding_call(x, low=low, high=high)
    held = _point_rows(call, _grid(scale, offset, bounds))
    call.result = result.data_ptr()
    _run("round_rows", x, call)
    del held
    return result


def round_rows_backward(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    offset: Tensor,
    low: int,
    high: int,
    bounds: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """The gradient of the values, and those of scale, offset and the two bounds: ``(4, rows)``."""
    result, sums = new(*x.shape), new(len(x), 4)
    grad = grad.contiguous()
    call = _rounding_call(x, low=low, high=high)
    held = _point_rows(call, _grid(scale, offset, bounds))
    call.grad = address("grad", grad, x.shape)
    call.result, call.sums = result.data_ptr(), sums.data_ptr()
    _run("round_rows_backward", x, call)
    del held
    return result, sums.T.contiguous()


def add_statistics_gradient_(total: Tensor, x: Tensor, **numbers: Tensor) -> None:
    """Add ``slope x + shift`` to ``total``, and ``at_lowest`` and ``at_highest`` where values are
    ``lowest`` and ``highest``; all ``(rows,)``."""
    call = _rounding_call(x)
    held = _point_rows(call, numbers)
    call.result = address("total", total, x.shape)
    _run("add_statistics_gradient", x, call)
    del held


def _rounding_call(x: Tensor, *, low: int = 0, high: int = 0) -> RoundingStruct:
    rows, count = _require_rows(x)
    return RoundingStruct(
        x=address("x", x, (rows, count)), rows=rows, count=count, low=low, high=high
    )


def _require_rows(x: Tensor) -> tuple[int, int]:
    if x.dim() != 2 or 0 in x.shape:
        raise ShapeError(
            f"The argument x must be (rows, values) and not empty, got {tuple(x.shape)}."
        )
    return x.shape[0], x.shape[1]


def _grid(scale: Tensor, offset: Tensor, bounds: tuple[Tensor, Tensor] | None) -> dict[str, Tensor]:
    qparams = {"scale": scale, "offset": offset}
    if bounds is not None:
        qparams["lowest"], qparams["highest"] = bounds
    return qparams


def _point_rows(call: RoundingStruct, numbers: dict[str, Tensor]) -> list[Tensor]:
    """Write the addresses of numbers of rows into a call; what is returned has to outlive it."""
    held = []
    for name, tensor in numbers.items():
        # Parameters of rows may come as views or in another dtype.
        tensor = tensor.detach().float().contiguous()
        setattr(call, name, address(name, tensor, (call.rows,)))
        held.append(tensor)
    return held


def _run(name: str, x: Tensor, call: RoundingStruct | DynamicStruct) -> None:
    rows, count = x.shape
    partial = new(4 * rows * -(-count // _BLOCK), dtype=torch.float64)
    call.partial = partial.data_ptr()
    library.load_kernel().run(name, call)


@dataclass(frozen=True)
class DynamicSettings:
    """What is fixed about a DLS quantizer."""

    low: int
    high: int
    copies: int
    """How often every value counts in the deviation."""
    narrowest: float
    """The least step as a part of the widest."""
    tiny: float
    """The least value of both."""


def dynamic_state(
    x: Tensor, step_weights: Tensor, offset_weights: Tensor, settings: DynamicSettings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scale, offset, least and greatest value of each row of ``(rows, values)``: ``(rows,)``."""
    state = new(_STATE, len(x))
    call = _dynamic_call(x, settings, state)
    held = _point_weights(call, step_weights, offset_weights)
    _run("dynamic_round", x, call)
    del held
    return state[_SCALE], state[_OFFSET], state[2], state[3]


def dynamic_round(
    x: Tensor, step_weights: Tensor, offset_weights: Tensor, settings: DynamicSettings
) -> tuple[Tensor, Tensor]:
    """``(rows, values)`` fake-quantized, and what the backward pass needs."""
    result, state = new(*x.shape), new(_STATE, len(x))
    call = _dynamic_call(x, settings, state)
    held = _point_weights(call, step_weights, offset_weights)
    call.result = result.data_ptr()
    _run("dynamic_round", x, call)
    del held
    return result, state


def dynamic_round_backward(
    grad: Tensor,
    x: Tensor,
    step_weights: Tensor,
    offset_weights: Tensor,
    state: Tensor,
    settings: DynamicSettings,
    gradient_scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the values and of the two sets of weights, in the dtype of these."""
    result, weights = new(*x.shape), new(2, _DLS_WEIGHTS)
    grad = grad.contiguous()
    call = _dynamic_call(x, settings, state, gradient_scale)
    held = _point_weights(call, step_weights, offset_weights)
    call.grad = address("grad", grad, x.shape)
    call.result, call.weight_grads = result.data_ptr(), weights.data_ptr()
    _run("dynamic_round_backward", x, call)
    del held
    return result, weights[0].to(step_weights.dtype), weights[1].to(offset_weights.dtype)


def _dynamic_call(
    x: Tensor, settings: DynamicSettings, state: Tensor, gradient_scale: float = 0.0
) -> DynamicStruct:
    rows, count = _require_rows(x)
    return DynamicStruct(
        x=address("x", x, (rows, count)),
        state=address("state", state, (_STATE, rows)),
        rows=rows,
        count=count,
        copies=settings.copies,
        low=settings.low,
        high=settings.high,
        narrowest=settings.narrowest,
        tiny=settings.tiny,
        gradient_scale=gradient_scale,
    )


def _point_weights(
    call: DynamicStruct, step_weights: Tensor, offset_weights: Tensor
) -> list[Tensor]:
    """Write the addresses of the weights, as float32, into a call that must not outlive them."""
    # A network in half precision has its weights in it; the kernel reads float32.
    held = [t.detach().float().contiguous() for t in (step_weights, offset_weights)]
    for name, tensor in zip(("step_weights", "offset_weights"), held, strict=True):
        setattr(call, name, address(name, tensor, (_DLS_WEIGHTS,)))
    return held


@dataclass(frozen=True)
class ThresholdSettings:
    """What is fixed about an RFA quantizer."""

    low: int
    """Where values are cut below, in steps."""
    high: int
    first_level: int
    """The lowest code."""
    end_slope: float
    """Of the surrogate curve beyond its first and last point."""


def threshold_round(
    x: Tensor, step: Tensor, offset: Tensor, points: Tensor, settings: ThresholdSettings
) -> Tensor:
    """A row of values ``(values,)`` fake-quantized; ``points`` are ``(levels,)`` in steps."""
    result = new(*x.shape)
    call, held = _thresholds_call(x, step, offset, points, settings)
    call.result = result.data_ptr()
    library.load_kernel().run("threshold_round", call)
    del held
    return result


def threshold_round_backward(
    grad: Tensor,
    x: Tensor,
    step: Tensor,
    offset: Tensor,
    points: Tensor,
    settings: ThresholdSettings,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the values, the step, the offset and the points, in the dtypes of these."""
    result, sums = new(*x.shape), new(2 + len(points))
    grad = grad.contiguous()
    call, held = _thresholds_call(x, step, offset, points, settings)
    call.grad = address("grad", grad, x.shape)
    call.result, call.sums = result.data_ptr(), sums.data_ptr()
    library.load_kernel().run("threshold_round_backward", call)
    del held
    return (
        result,
        sums[:1].to(step.dtype),
        sums[1:2].to(offset.dtype),
        sums[2:].to(points.dtype),
    )


def _thresholds_call(
    x: Tensor, step: Tensor, offset: Tensor, points: Tensor, settings: ThresholdSettings
) -> tuple[ThresholdsStruct, Tensor]:
    """The call, and the points that have to outlive it."""
    if x.dim() != 1 or points.dim() != 1 or len(points) < 2 or 0 in x.shape:
        raise ShapeError(
            "The argument x must be (values,) and points (levels,) with at least 2 levels, got "
            f"{tuple(x.shape)} and {tuple(points.shape)}."
        )
    points = points.detach().float().contiguous()
    call = ThresholdsStruct(
        x=address("x", x, x.shape),
        points=address("points", points, points.shape),
        count=x.numel(),
        levels=points.numel(),
        step=float(step),
        offset=float(offset),
        low=settings.low,
        high=settings.high,
        first_level=settings.first_level,
        end_slope=settings.end_slope,
    )
    return call, points
