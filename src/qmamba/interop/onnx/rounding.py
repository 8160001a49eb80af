"""Fake quantization as model-local ONNX functions of standard operators.

A file calls ``qmamba::FakeQuantize`` for parameters that are fixed and
``qmamba::DynamicFakeQuantize`` for those of DLS, which follow the statistics of each image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmamba.interop.onnx.functions import parsed

if TYPE_CHECKING:
    from onnx import FunctionProto

FIXED = "FakeQuantize"
"""Operands: values, scale ``(1,)`` and offset ``(1,)``; attributes ``low`` and ``high``, the
smallest and the largest code."""
DYNAMIC = "DynamicFakeQuantize"
"""Operands: values ``(batch, ...)``, then the weights of the step and of the offset, ``(4, 1)``
each; see :class:`~qmamba.quantization.DLS`.

Attributes: ``axis``, 1 for statistics of each image and 0 for those of the whole batch; ``low`` and
``high``; ``copies``, how often each value counts; ``levels``; ``narrowest``, ``least_widest`` and
``least``, which bound the step.
"""

_LEVELS = """
  lowest_code = Constant <value_float: float = @low> ()
  highest_code = Constant <value_float: float = @high> ()
  moved = Add ({values}, offset)
  steps = Div (moved, scale)
  inside = Clip (steps, lowest_code, highest_code)
  codes = Round (inside)
  scaled = Mul (codes, scale)
  level = Sub (scaled, offset)"""

_FIXED = f"""
{FIXED} <low, high> (x, scale, offset) => (y)
{{{_LEVELS.format(values="x")}
  y = Identity (level)
}}"""

_DYNAMIC = f"""
{DYNAMIC} <axis, low, high, copies, levels, narrowest, least_widest, least>
  (x, step_weights, offset_weights) => (y)
{{
  row = Constant <value_ints = [1]> ()
  one = Constant <value = float {{1}}> ()
  count_copies = Constant <value_float: float = @copies> ()
  count_levels = Constant <value_float: float = @levels> ()
  narrowest_share = Constant <value_float: float = @narrowest> ()
  widest_floor = Constant <value_float: float = @least_widest> ()
  floor = Constant <value_float: float = @least> ()
  rows = Flatten <axis: int = @axis> (x)
  mean = ReduceMean <keepdims = 1> (rows, row)
  lowest = ReduceMin <keepdims = 1> (rows, row)
  highest = ReduceMax <keepdims = 1> (rows, row)
  centered = Sub (rows, mean)
  squares = Mul (centered, centered)
  power = ReduceSum <keepdims = 1> (squares, row)
  length = Shape <start = 1, end = 2> (rows)
  values = Cast <to = 1> (length)
  counted = Mul (values, count_copies)
  others = Sub (counted, one)
  divisor = Max (others, one)
  weighted = Mul (power, count_copies)
  variance = Div (weighted, divisor)
  deviation = Sqrt (variance)
  moments = Concat <axis = 1> (mean, deviation, lowest, highest)
  offset = MatMul (moments, offset_weights)
  mean_moved = Add (mean, offset)
  magnitude = Abs (mean_moved)
  lowest_moved = Add (lowest, offset)
  highest_moved = Add (highest, offset)
  shifted = Concat <axis = 1> (magnitude, deviation, lowest_moved, highest_moved)
  signed = MatMul (shifted, step_weights)
  wanted = Abs (signed)
  span = Sub (highest, lowest)
  share = Div (span, count_levels)
  widest = Max (share, widest_floor)
  narrow = Mul (widest, narrowest_share)
  narrowest_step = Max (narrow, floor)
  wide_enough = Max (wanted, narrowest_step)
  scale = Min (wide_enough, widest)
{_LEVELS.format(values="rows").lstrip(chr(10))}
  above = Max (level, lowest)
  within = Min (above, highest)
  shape = Shape (x)
  y = Reshape (within, shape)
}}"""


def rounding_functions(opset: int, names: set[str]) -> list[FunctionProto]:
    """The functions of a file.

    Args:
        opset: of the standard operators, at least 18.
        names: which of :data:`FIXED` and :data:`DYNAMIC` the file calls.
    """
    texts = {FIXED: _FIXED, DYNAMIC: _DYNAMIC}
    return parsed([texts[name] for name in sorted(names)], opset)
