"""Operands of a quantized network on the CPU: grids from statistics, codes, and levels.

What it trades: no gradients and no tracing. In return an operand is read once for its statistics
and once for its codes or levels, wherever it lies in a larger array, and the time steps of a scan,
which are many times as large as what they are computed from, need not be stored.

The statistics are those of :class:`~qmamba.quantization.DLS` up to the order of their sums.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from qmamba.ops.native.library import load_kernel

PARTS = 16
"""Into how many parts the kernel cuts an image for its sums, its ``kParts``."""
LARGEST = 3e38
"""A bound that cuts nothing off."""


class GridStruct(ctypes.Structure):
    """Mirror of ``qmamba_grid`` in ``native/quantized.h``."""

    _fields_ = [(name, ctypes.c_float) for name in ("scale", "offset", "lowest", "highest")]


class ConstantStruct(ctypes.Structure):
    """Mirror of ``qmamba_constant``."""

    _fields_ = [("codes", ctypes.c_void_p), ("grid", GridStruct)]


class RuleStruct(ctypes.Structure):
    """Mirror of ``qmamba_grid_rule``."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("grids", "weights")),
        *((name, ctypes.c_int64) for name in ("bits", "first", "last", "copies")),
    ]


class _OperandStruct(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in ("x", "values", "codes", "code_scale", "code_offset", "partial")
        ),
        ("rule", RuleStruct),
        *(
            (name, ctypes.c_int64)
            for name in ("images", "rows", "count", "row_stride", "image_stride")
        ),
    ]


@dataclass(frozen=True)
class Constant:
    """A constant as codes: value = ``codes * scale - offset``, cut off at two bounds."""

    codes: Tensor
    """int8, contiguous."""
    scale: float
    offset: float
    lowest: float = -LARGEST
    highest: float = LARGEST

    def struct(self) -> ConstantStruct:
        """For the kernel; the codes have to live as long as it is used."""
        grid = GridStruct(self.scale, self.offset, self.lowest, self.highest)
        return ConstantStruct(self.codes.data_ptr(), grid)

    def values(self) -> Tensor:
        """The values, float32."""
        values = self.codes.float() * self.scale - self.offset
        return values.clamp_(self.lowest, self.highest)

    def arranged(self, codes: Tensor) -> Constant:
        """The same values in another order, or a part of them."""
        return Constant(codes.contiguous(), self.scale, self.offset, self.lowest, self.highest)


class GridRule:
    """Where the grid of an operand comes from.

    Args:
        bits: width of a code.
        grid: scale, offset, and two bounds or none, where the grid is fixed.
        weights: float32 ``(8,)``, the weights of DLS for the step and for the offset, where it
            follows each image.
        first, last: the smallest and the largest code; by default all signed ones.
        copies: how often each value counts in the deviation.
    """

    def __init__(
        self,
        bits: int,
        *,
        grid: tuple[float, ...] | None = None,
        weights: Tensor | None = None,
        first: int | None = None,
        last: int | None = None,
        copies: int = 1,
    ) -> None:
        assert (grid is None) != (weights is None)
        self.bits, self.copies, self._weights = bits, copies, weights
        self.first = -(2 ** (bits - 1)) if first is None else first
        self.last = 2 ** (bits - 1) - 1 if last is None else last
        self.grid: Tensor | None = None
        """float32 ``(1, 4)``: scale, offset and bounds of a fixed grid."""
        if grid is not None:
            self.grid = torch.tensor([grid if len(grid) == 4 else (*grid, -LARGEST, LARGEST)])
            assert self.grid.shape == (1, 4)

    def grids(self, images: int) -> Tensor:
        """float32 ``(images, 4)``: scale, offset, lowest and highest value; to be filled if they
        follow the images."""
        if self.grid is None:
            return torch.empty(images, 4)
        return self.grid if images == 1 else self.grid.expand(images, 4).contiguous()

    def struct(self, grids: Tensor, *, known: bool = False) -> RuleStruct:
        """For the kernel.

        Args:
            grids: of :meth:`grids`.
            known: the grids are filled in, so that statistics are not needed.
        """
        weights = None if self._weights is None or known else self._weights.data_ptr()
        return RuleStruct(grids.data_ptr(), weights, self.bits, self.first, self.last, self.copies)

    def is_cut(self, grids: Tensor) -> bool:
        """Whether a bound cuts a level off in any image, which codes cannot tell."""
        return any(
            step * self.first - shift < lowest or step * self.last - shift > highest
            for step, shift, lowest, highest in grids.tolist()
        )


class OperandCodes(NamedTuple):
    """An operand as codes: value = ``codes * scale - offset``, if no bound cuts a level off."""

    codes: Tensor
    """uint8 ``(images, rows, count)``, counted from the smallest code."""
    scale: Tensor
    """float32 ``(images,)``."""
    offset: Tensor
    """float32 ``(images,)``."""
    is_cut: bool
    """Whether a bound cuts a level off in any image, which codes cannot tell."""


def operand_grids(x: Tensor, rule: GridRule) -> Tensor:
    """The grids of numbers, arguments and result as for :func:`place_operand`."""
    call, grids, scratch = _operand_call(x, rule)
    if rule.grid is None:
        load_kernel().run_quantized("operand", call)
    del scratch
    return grids


def place_operand(x: Tensor, rule: GridRule, known: Tensor | None = None) -> Tensor:
    """Replace numbers by their levels, in place.

    Args:
        x: float32 ``(images, rows, count)``, which may be part of a larger array as long as the
            last axis is dense.
        rule: where the grids come from.
        known: the grids, if they have been found already.

    Returns:
        The grids, float32 ``(images, 4)``: scale, offset, lowest and highest value.
    """
    call, grids, scratch = _operand_call(x, rule)
    if known is not None:
        grids, call.rule = known, rule.struct(known, known=True)
    call.values = x.data_ptr()
    load_kernel().run_quantized("operand", call)
    del scratch
    return grids


def operand_codes(x: Tensor, rule: GridRule, out: Tensor | None = None) -> OperandCodes:
    """The codes of numbers.

    Args:
        x, rule: as for :func:`place_operand`.
        out: where the codes go; contiguous.
    """
    call, grids, scratch = _operand_call(x, rule)
    images = x.shape[0]
    codes = torch.empty(x.shape, dtype=torch.uint8) if out is None else out
    assert codes.shape == x.shape and codes.dtype == torch.uint8 and codes.is_contiguous()
    scale, offset = torch.empty(images), torch.empty(images)
    call.codes = codes.data_ptr()
    call.code_scale, call.code_offset = scale.data_ptr(), offset.data_ptr()
    load_kernel().run_quantized("operand", call)
    del scratch
    return OperandCodes(codes, scale, offset, rule.is_cut(grids))


def _operand_call(x: Tensor, rule: GridRule) -> tuple[_OperandStruct, Tensor, Tensor | None]:
    """The call and what it points to beside its operand."""
    images, rows, count = x.shape
    assert x.dtype == torch.float32 and (count == 1 or x.stride(2) == 1), (x.dtype, x.stride())
    grids = rule.grids(images)
    call = _OperandStruct(
        x=x.data_ptr(),
        rule=rule.struct(grids),
        images=images,
        rows=rows,
        count=count,
        row_stride=x.stride(1),
        image_stride=x.stride(0),
    )
    if rule.grid is not None:
        return call, grids, None
    partial = torch.empty(images * PARTS * 4, dtype=torch.float64)
    call.partial = partial.data_ptr()
    return call, grids, partial
