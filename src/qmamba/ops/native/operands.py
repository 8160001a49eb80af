"""Operands of a quantized network on the CPU: quantization parameters from statistics, and codes.

What it trades: no gradients and no tracing. In return an operand is read once for its statistics
and once for its codes or their values, wherever it lies in a larger array, and the delta of a scan,
which is many times as large as what it is computed from, need not be stored.

The statistics are those of :class:`~qmamba.quantization.DLS` up to the order of their sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from qmamba.errors import ShapeError
from qmamba.ops.native.handover import address, described, new
from qmamba.ops.native.library import load_kernel
from qmamba.ops.native.structs import (
    CodeOutputStruct,
    ConstantStruct,
    OperandStruct,
    QParamsRuleStruct,
    QParamsStruct,
)

PARTS = 16
"""Into how many parts the kernel cuts an image for its sums, its ``kParts``."""
LARGEST = 3e38
"""A bound that cuts nothing off."""
MAX_BITS = 8


@dataclass(frozen=True)
class Constant:
    """A constant as codes: value = ``codes * scale - offset``, cut off at two bounds."""

    codes: Tensor
    """int8."""
    scale: float
    offset: float
    lowest: float = -LARGEST
    highest: float = LARGEST

    def struct(self, name: str, shape: Sequence[int]) -> ConstantStruct:
        """For the kernel; the codes have to live as long as it is used.

        Raises:
            ShapeError: the codes are not contiguous int8 of this shape on the CPU.
        """
        qparams = QParamsStruct(self.scale, self.offset, self.lowest, self.highest)
        return ConstantStruct(address(name, self.codes, shape, torch.int8), qparams)

    def dequantize(self) -> Tensor:
        """The values, float32."""
        values = self.codes.float() * self.scale - self.offset
        return values.clamp_(self.lowest, self.highest)

    def arranged(self, codes: Tensor) -> Constant:
        """The same values in another order, or a part of them."""
        return Constant(codes.contiguous(), self.scale, self.offset, self.lowest, self.highest)


class QParamsRule:
    """Where the quantization parameters of an operand come from.

    Args:
        bits: width of a code, at most 8.
        fixed: scale, offset, and two bounds or none, where they are fixed.
        weights: float32 ``(8,)``, the weights of DLS for the scale and for the offset, where they
            follow each image.
        first, last: the smallest and the largest code; by default all signed ones.
        copies: how often each value counts in the deviation.

    Raises:
        ShapeError: the codes do not fit into the bits, or not just one of ``fixed`` and ``weights``
            is given.
    """

    def __init__(
        self,
        bits: int,
        *,
        fixed: tuple[float, ...] | None = None,
        weights: Tensor | None = None,
        first: int | None = None,
        last: int | None = None,
        copies: int = 1,
    ) -> None:
        if (fixed is None) == (weights is None) or (fixed is not None and len(fixed) not in (2, 4)):
            raise ShapeError(
                "A rule needs either fixed parameters (scale and offset, or with two bounds), or "
                f"weights, got {fixed} and {weights}."
            )
        self.bits, self.copies, self._weights = bits, copies, weights
        self.first = -(2 ** (bits - 1)) if first is None else first
        self.last = 2 ** (bits - 1) - 1 if last is None else last
        if not 1 <= bits <= MAX_BITS or not 0 <= self.last - self.first < 2**bits:
            raise ShapeError(
                f"Codes of 1 to {MAX_BITS} bits are computed, from the first to the last one; got "
                f"{bits} bits for {self.first} to {self.last}."
            )
        if weights is not None:
            address("weights", weights, (8,))
        self.fixed: Tensor | None = None
        """float32 ``(1, 4)``: scale, offset and bounds where they are fixed."""
        if fixed is not None:
            numbers = fixed if len(fixed) == 4 else (*fixed, -LARGEST, LARGEST)
            self.fixed = torch.tensor([numbers], dtype=torch.float32, device="cpu")

    def qparams(self, images: int) -> Tensor:
        """float32 ``(images, 4)``: scale, offset, lowest and highest value; to be filled if they
        follow the images."""
        if self.fixed is None:
            return new(images, 4)
        return self.fixed if images == 1 else self.fixed.expand(images, 4).contiguous()

    def struct(self, qparams: Tensor, images: int, *, known: bool = False) -> QParamsRuleStruct:
        """For the kernel.

        Args:
            qparams: of :meth:`qparams`.
            images: for how many.
            known: they are filled in, so that statistics are not needed.

        Raises:
            ShapeError: the parameters are not float32 ``(images, 4)``.
        """
        found = address("qparams", qparams, (images, 4))
        weights = None if self._weights is None or known else self._weights.data_ptr()
        return QParamsRuleStruct(found, weights, self.bits, self.first, self.last, self.copies)

    def is_cut(self, qparams: Tensor) -> bool:
        """Whether a bound cuts a value off in any image, which codes cannot tell."""
        return any(
            scale * self.first - offset < lowest or scale * self.last - offset > highest
            for scale, offset, lowest, highest in qparams.tolist()
        )


class CodeGrid(NamedTuple):
    """How a layer writes the codes of the layer that reads it: ``round((value + offset) / scale)``,
    at least the first and at most the last one, stored as the distance from the first."""

    scale: float
    offset: float
    first: int
    last: int

    def struct(self, codes: Tensor, shape: Sequence[int]) -> CodeOutputStruct:
        """For the kernel.

        Raises:
            ShapeError: the codes are not contiguous uint8 of this shape on the CPU.
        """
        return CodeOutputStruct(address("codes", codes, shape, torch.uint8), shape[-1], *self)


class OperandCodes(NamedTuple):
    """An operand as codes: value = ``codes * scale - offset``, if no bound cuts a value off."""

    codes: Tensor
    """uint8 ``(images, rows, count)``, counted from the smallest code."""
    scale: Tensor
    """float32 ``(images,)``."""
    offset: Tensor
    """float32 ``(images,)``."""
    is_cut: bool
    """Whether a bound cuts a value off in any image, which codes cannot tell."""


def choose_qparams(x: Tensor, rule: QParamsRule) -> Tensor:
    """The quantization parameters of numbers, arguments as for :func:`fake_quantize_`."""
    call, qparams, scratch = _operand_call(x, rule)
    if rule.fixed is None:
        load_kernel().run("run_operand", call)
    del scratch
    return qparams


def fake_quantize_(x: Tensor, rule: QParamsRule, known: Tensor | None = None) -> Tensor:
    """Replace numbers by the values of their codes, in place.

    Args:
        x: float32 ``(images, rows, count)``, which may be part of a larger array as long as the
            last axis is dense.
        rule: where the quantization parameters come from.
        known: the parameters, if they have been found already.

    Returns:
        The parameters, float32 ``(images, 4)``: scale, offset, lowest and highest value.

    Raises:
        ShapeError: the numbers are not such an array.
        BackendError: the kernel was not built or does not load.
    """
    call, qparams, scratch = _operand_call(x, rule)
    if known is not None:
        qparams, call.rule = known, rule.struct(known, len(x), known=True)
    call.values = x.data_ptr()
    load_kernel().run("run_operand", call)
    del scratch
    return qparams


def quantize(x: Tensor, rule: QParamsRule, out: Tensor | None = None) -> OperandCodes:
    """The codes of numbers.

    Args:
        x, rule: as for :func:`fake_quantize_`.
        out: where the codes go; uint8, contiguous.

    Raises:
        ShapeError: the numbers or ``out`` are not such an array.
        BackendError: the kernel was not built or does not load.
    """
    call, qparams, scratch = _operand_call(x, rule)
    images = x.shape[0]
    codes = new(*x.shape, dtype=torch.uint8) if out is None else out
    scale, offset = new(images), new(images)
    call.codes = address("out", codes, x.shape, torch.uint8)
    call.code_scale, call.code_offset = scale.data_ptr(), offset.data_ptr()
    load_kernel().run("run_operand", call)
    del scratch
    return OperandCodes(codes, scale, offset, rule.is_cut(qparams))


def _operand_call(x: Tensor, rule: QParamsRule) -> tuple[OperandStruct, Tensor, Tensor | None]:
    """The call and what it points to beside its operand."""
    if (
        x.dtype != torch.float32
        or not x.is_cpu
        or x.dim() != 3
        or 0 in x.shape
        or (x.shape[2] > 1 and x.stride(2) != 1)
    ):
        raise ShapeError(
            "An operand must be float32 (images, rows, count) on the CPU with a dense last axis "
            f"and not empty, got {described(x)}."
        )
    images, rows, count = x.shape
    qparams = rule.qparams(images)
    call = OperandStruct(
        x=x.data_ptr(),
        rule=rule.struct(qparams, images),
        images=images,
        rows=rows,
        count=count,
        row_stride=x.stride(1),
        image_stride=x.stride(0),
    )
    if rule.fixed is not None:
        return call, qparams, None
    partial = new(images * PARTS * 4, dtype=torch.float64)
    call.partial = partial.data_ptr()
    return call, qparams, partial
