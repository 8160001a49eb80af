"""Rounding rows of values to uniform grids, and the gradients of it, for fake quantization.

Everything here works on a table ``(rows, values)`` in which each row has its own grid: one row for
a whole tensor, or one for each image of a batch. ``scale``, ``offset`` and bounds are ``(rows,)``.

On the CPU in float32 the C++ kernel (``native/rounding.h``) makes one pass over the values where
the operations of PyTorch make ten. Levels have the same bits either way; a sum over a row is formed
in one order there, whatever the other rows and the number of threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from qmamba.ops.native import library

Bounds = tuple[Tensor, Tensor] | None

_POINTERS = (
    *("x", "grad", "result", "scale", "offset", "lowest", "highest"),
    *("slope", "shift", "at_lowest", "at_highest", "sums", "partial"),
)
_BLOCK = 8192


class _Call(ctypes.Structure):
    """Mirror of ``qmamba_rounding`` in ``native/rounding.h``."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in _POINTERS]
        + [(name, ctypes.c_int64) for name in ("rows", "count")]
        + [(name, ctypes.c_float) for name in ("low", "high")]
    )


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
    """Gradients of :func:`round_rows`; those of the grid for each row."""

    x: Tensor
    """Passed straight through the rounding where the value is within the grid and the bounds."""
    scale: Tensor
    offset: Tensor
    lowest: Tensor
    """Of the lower bound, zero without bounds."""
    highest: Tensor


def row_statistics(x: Tensor) -> RowStatistics:
    """Mean, sum of squared deviations and extremes of each row."""
    if native(x):
        sums = x.new_empty(len(x), 6)
        _run("row_statistics", x, sums=sums)
        return RowStatistics(*sums.T.contiguous())
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
    if native(x):
        result = torch.empty_like(x)
        grid = _grid(scale, offset, bounds)
        _run("round_rows", x, low=low, high=high, result=result, **grid)
        return result
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
    if native(x):
        grad, result, sums = grad.contiguous(), torch.empty_like(x), x.new_empty(len(x), 4)
        grid = _grid(scale, offset, bounds)
        tensors = {"grad": grad, "result": result, "sums": sums, **grid}
        _run("round_rows_backward", x, low=low, high=high, **tensors)
        return RoundingGradients(result, *sums.T.contiguous())
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
    if native(x) and total.is_contiguous():
        _run(
            "add_statistics_gradient",
            x,
            result=total,
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


def native(x: Tensor) -> bool:
    """Whether the kernel can work on these values."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.is_contiguous()
        and x.numel() > 0
        # Tracing hands out tensors without memory.
        and type(x) in (Tensor, torch.nn.Parameter)
        and _available()
    )


def _available() -> bool:
    return library.unavailable_reason() is None and library.load_kernel().rounds


def _grid(scale: Tensor, offset: Tensor, bounds: Bounds) -> dict[str, Tensor]:
    grid = {"scale": scale, "offset": offset}
    if bounds is not None:
        grid["lowest"], grid["highest"] = bounds
    return grid


def _run(name: str, x: Tensor, *, low: int = 0, high: int = 0, **tensors: Tensor) -> None:
    rows, count = x.shape
    held = {"x": x, "partial": partial_sums(rows, count)}
    # Parameters of rows may come as views or in another dtype.
    held |= {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
    call = _Call(rows=rows, count=count, low=low, high=high)
    point(call, held)
    library.load_kernel().run_rounding(name, call)


def partial_sums(rows: int, count: int) -> Tensor:
    """Scratch memory for sums over blocks of each row."""
    return torch.empty(4 * rows * -(-count // _BLOCK), dtype=torch.float64)


def point(call: ctypes.Structure, tensors: Mapping[str, Tensor]) -> None:
    """Write the addresses of tensors, which must outlive the call, into its fields."""
    for key, tensor in tensors.items():
        setattr(call, key, tensor.data_ptr())
