"""DLS and RFA in one call of the C++ kernel each way, for float32 values on the CPU.

What it trades: nothing but generality. The two quantizers are defined in
:mod:`qmamba.quantization.quantizers`, for any device and dtype; here are the same sums without the
dozens of small operations on numbers of rows, which cost more than the values in small networks.
Use these only where :func:`qmamba.ops.quantized.rounding.native` holds.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from qmamba.ops.native import library
from qmamba.ops.quantized.rounding import partial_sums, point

_STATE = 10
_SCALE, _OFFSET = 6, 7


class _Dynamic(ctypes.Structure):
    """Mirror of ``qmamba_dynamic`` in ``native/rounding.h``."""

    _fields_ = (
        [
            (name, ctypes.c_void_p)
            for name in (
                *("x", "grad", "result", "step_weights", "offset_weights"),
                *("state", "weight_grads", "partial"),
            )
        ]
        + [(name, ctypes.c_int64) for name in ("rows", "count", "copies")]
        + [
            (name, ctypes.c_float)
            for name in ("low", "high", "narrowest", "tiny", "gradient_scale")
        ]
    )


class _Thresholds(ctypes.Structure):
    """Mirror of ``qmamba_thresholds`` in ``native/rounding.h``."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("x", "grad", "result", "points", "sums")]
        + [(name, ctypes.c_int64) for name in ("count", "levels")]
        + [
            (name, ctypes.c_float)
            for name in ("step", "offset", "low", "high", "first_level", "end_slope")
        ]
    )


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
    """Step, offset, least and greatest value of each row of ``(rows, values)``: ``(rows,)``."""
    state = x.new_empty(_STATE, len(x))
    _run_dynamic(
        "dynamic_round",
        x,
        settings,
        step_weights=step_weights,
        offset_weights=offset_weights,
        state=state,
    )
    return state[_SCALE], state[_OFFSET], state[2], state[3]


def dynamic_round(
    x: Tensor, step_weights: Tensor, offset_weights: Tensor, settings: DynamicSettings
) -> tuple[Tensor, Tensor]:
    """The levels of ``(rows, values)``, and what the backward pass needs."""
    result, state = torch.empty_like(x), x.new_empty(_STATE, len(x))
    _run_dynamic(
        "dynamic_round",
        x,
        settings,
        result=result,
        step_weights=step_weights,
        offset_weights=offset_weights,
        state=state,
    )
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
    """Gradients of the values and of the two sets of weights."""
    result, weights = torch.empty_like(x), x.new_empty(2, 4)
    _run_dynamic(
        "dynamic_round_backward",
        x,
        settings,
        gradient_scale,
        grad=grad,
        result=result,
        step_weights=step_weights,
        offset_weights=offset_weights,
        state=state,
        weight_grads=weights,
    )
    return result, weights[0], weights[1]


def _run_dynamic(
    name: str,
    x: Tensor,
    settings: DynamicSettings,
    gradient_scale: float = 0.0,
    **tensors: Tensor,
) -> None:
    rows, count = x.shape
    call = _Dynamic(
        rows=rows,
        count=count,
        copies=settings.copies,
        low=settings.low,
        high=settings.high,
        narrowest=settings.narrowest,
        tiny=settings.tiny,
        gradient_scale=gradient_scale,
    )
    held = {key: tensor.contiguous() for key, tensor in tensors.items()}
    held |= {"x": x, "partial": partial_sums(rows, count)}
    point(call, held)
    library.load_kernel().run_rounding(name, call)


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
    """The levels of a row of values ``(values,)``; ``points`` are ``(levels,)`` in steps."""
    result = torch.empty_like(x)
    _run_thresholds("threshold_round", step, offset, settings, x=x, points=points, result=result)
    return result


def threshold_round_backward(
    grad: Tensor,
    x: Tensor,
    step: Tensor,
    offset: Tensor,
    points: Tensor,
    settings: ThresholdSettings,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the values, the step, the offset and the points."""
    result, sums = torch.empty_like(x), x.new_empty(2 + len(points))
    _run_thresholds(
        "threshold_round_backward",
        step,
        offset,
        settings,
        x=x,
        points=points,
        grad=grad,
        result=result,
        sums=sums,
    )
    return result, sums[:1], sums[1:2], sums[2:]


def _run_thresholds(
    name: str, step: Tensor, offset: Tensor, settings: ThresholdSettings, **tensors: Tensor
) -> None:
    held = {key: tensor.contiguous() for key, tensor in tensors.items()}
    call = _Thresholds(
        count=held["x"].numel(),
        levels=held["points"].numel(),
        step=float(step),
        offset=float(offset),
        low=settings.low,
        high=settings.high,
        first_level=settings.first_level,
        end_slope=settings.end_slope,
    )
    point(call, held)
    library.load_kernel().run_rounding(name, call)
