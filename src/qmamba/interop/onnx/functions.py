"""The scan as model-local ONNX functions: standard operators in a file that carries them itself.

A file calls ``qmamba::SS2D`` once for each layer. A runtime that knows no such operator takes the
body of that name in the file, whose recurrence is again a function, ``qmamba::LinearRecurrence``
for one state and ``qmamba::SelectiveScan`` for several, around standard ``Scan`` nodes. A runtime
in which our operator library is registered runs the kernel instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from qmamba.interop.onnx.recurrence import SOFTPLUS, linear_recurrence, selective_scan

if TYPE_CHECKING:
    from onnx import FunctionProto

DOMAIN = "qmamba"
VERSION = 1
MERGED = "SS2D"
"""The scan of a map with its routes summed."""
ROUTES = "SS2DRoutes"
"""The scan of a map with its routes kept apart, for a gate on each."""
MERGED_GIVEN_DELTA = "SS2DGivenDelta"
"""As :data:`MERGED`, of time steps that are given, before their bias and softplus."""
ROUTES_GIVEN_DELTA = "SS2DRoutesGivenDelta"
_KEPT_APART = {ROUTES, ROUTES_GIVEN_DELTA}
_GIVEN_DELTA = {MERGED_GIVEN_DELTA, ROUTES_GIVEN_DELTA}

_COUNT = 4


def scan_functions(
    opset: int, *, states: int, windows: bool, names: set[str]
) -> list[FunctionProto]:
    """The functions of a file.

    Args:
        opset: of the standard operators, at least 18.
        states: states per channel and route of all layers.
        windows: whether a layer walks through local windows.
        names: which of the four names of a scan the file calls.
    """
    texts = [SOFTPLUS, linear_recurrence() if states == 1 else selective_scan()]
    texts += [_scan(name, states, windows) for name in sorted(names)]
    return parsed(texts, opset)


def parsed(texts: Iterable[str], opset: int) -> list[FunctionProto]:
    """Functions from their texts, without the header that all have in common."""
    from onnx.parser import parse_function

    header = f'<domain: "{DOMAIN}", opset_import: ["": {opset}, "{DOMAIN}": {VERSION}]>\n'
    return [parse_function(header + text) for text in texts]


def _scan(name: str, states: int, windows: bool) -> str:
    """``qmamba::SS2D``; operands as in :func:`qmamba.ops.ss2d`, maps with their two sides.

    ``x`` is ``(batch, height, width, channels)``, ``projected`` the same with ``4 * (rank + 2 *
    states)`` channels. The result is a map like ``x``, or ``(batch, 4, height, width, channels)``.
    A given ``delta`` has ``4 * channels`` channels, and ``projected`` then ``4 * 2 * states``.
    """
    given = name in _GIVEN_DELTA
    parts = ("B", "C") if given else ("low", "B", "C")
    sizes = ["sizes_rank" if part == "low" else "sizes_states" for part in parts] * _COUNT
    lines = _entering(windows, given)
    lines.append(f"sizes_states = Constant <value_ints = [{states}]> ()")
    if not given:
        lines += [
            "sizes_rank = Shape <start = 2, end = 3> (dt_weight)",
            "turned_weight = Transpose <perm = [0, 2, 1]> (dt_weight)",
        ]
    lines.append(f"parts = Concat <axis = 0> ({', '.join(sizes)})")
    for order in ("row", "column"):
        names = ", ".join(f"{part}_{order}{k}" for k in range(_COUNT) for part in parts)
        lines.append(f"{names} = Split <axis = 3> (p_{order}, parts)")
        if given:
            names = ", ".join(f"d_{order}{k}" for k in range(_COUNT))
            lines.append(f"{names} = Split <axis = 3, num_outputs = {_COUNT}> (d_{order})")
    for k in range(_COUNT):
        lines += _route(k, states, given)
    for k, order in enumerate(("row", "column")):
        lines += _pair(k, k + 2, order, states)
    lines += _leaving(windows, merged=name not in _KEPT_APART)
    body = "\n  ".join(lines)
    operands = "x, delta, projected" if given else "x, projected, dt_weight"
    return f"""
{name} <window> ({operands}, dt_bias, A, D) => (y)
{{
  {body}
}}"""


def _route(k: int, states: int, given: bool) -> list[str]:
    order = ("row", "column")[k % 2]
    B, C = (f"{part}_{order}{k}" for part in "BC")
    lines = [f"index{k} = Constant <value_int = {k}> ()"]
    lines += [
        f"{operand}{k} = Gather <axis = 0> ({source}, index{k})"
        for operand, source in (("bias", "dt_bias"), ("A", "A"))
    ]
    raw = f"d_{order}{k}"
    if not given:
        raw = f"product{k}"
        lines += [
            f"W{k} = Gather <axis = 0> (turned_weight, index{k})",
            f"{raw} = MatMul (low_{order}{k}, W{k})",
        ]
    lines += [
        f"biased{k} = Add ({raw}, bias{k})",
        f"delta{k} = {DOMAIN}.Softplus (biased{k})",
        f"scaled{k} = Mul (delta{k}, x_{order})",
    ]
    if states == 1:
        return [
            *lines,
            f"flat{k} = Squeeze (A{k}, last_axis)",
            f"exponent{k} = Mul (delta{k}, flat{k})",
            f"decay{k} = Exp (exponent{k})",
            f"input{k} = Mul (scaled{k}, {B})",
        ]
    return [
        *lines,
        f"turned{k} = Transpose <perm = [1, 0]> (A{k})",
        f"rows{k} = Unsqueeze (turned{k}, middle_axes)",
        # (inner, outer, batch, states) to (inner, states, outer, batch, 1)
        *(
            line
            for operand, source in (("b", B), ("c", C))
            for line in (
                f"{operand}_moved{k} = Transpose <perm = [0, 3, 1, 2]> ({source})",
                f"{operand}{k} = Unsqueeze ({operand}_moved{k}, last_axis)",
            )
        ),
    ]


def _pair(forward: int, backward: int, order: str, states: int) -> list[str]:
    """The recurrence along one order, both ways."""
    if states == 1:
        operands = ", ".join(f"decay{k}, input{k}" for k in (forward, backward))
        return [
            f"h{forward}, h{backward} = {DOMAIN}.LinearRecurrence ({operands})",
            *(f"y{k} = Mul (h{k}, C_{order}{k})" for k in (forward, backward)),
        ]
    operands = ", ".join(f"delta{k}, scaled{k}, rows{k}, b{k}, c{k}" for k in (forward, backward))
    return [f"y{forward}, y{backward} = {DOMAIN}.SelectiveScan ({operands})"]


def _entering(windows: bool, given: bool) -> list[str]:
    """Maps to ``(inner steps, outer steps, batch, channels)`` in the order of rows and columns."""
    lines = [
        "last_axis = Constant <value_ints = [-1]> ()",
        "middle_axes = Constant <value_ints = [1, 2]> ()",
    ]
    maps = [("x", "x"), ("p", "projected"), *([("d", "delta")] if given else [])]
    if not windows:
        for short, source in maps:
            lines += [
                f"{short}_row = Transpose <perm = [2, 1, 0, 3]> ({source})",
                f"{short}_column = Transpose <perm = [1, 2, 0, 3]> ({source})",
            ]
        return lines
    lines += [
        "one = Constant <value_ints = [1]> ()",
        "any = Constant <value_ints = [-1]> ()",
        "nothing = Constant <value_ints = [0]> ()",
        "sides = Shape <start = 1, end = 3> (x)",
        "batch = Shape <start = 0, end = 1> (x)",
        "window_number = Constant <value_int: int = @window> ()",
        "side = Reshape (window_number, one)",
        # What is missing to whole windows: the remainder of minus the side.
        "turned_sides = Neg (sides)",
        "missing = Mod (turned_sides, side)",
        "none4 = Constant <value_ints = [0, 0, 0, 0, 0]> ()",
        "pads = Concat <axis = 0> (none4, missing, nothing)",
        "padded_sides = Add (sides, missing)",
        "counts = Div (padded_sides, side)",
        "two = Constant <value_ints = [1, 1]> ()",
        "down, across = Split <axis = 0> (counts, two)",
        "window_shape = Concat <axis = 0> (batch, down, side, across, side, any)",
        "row_steps = Concat <axis = 0> (across, side, side, down, batch, any)",
        "column_steps = Concat <axis = 0> (down, side, side, across, batch, any)",
        "row_flat = Concat <axis = 0> (any, down, batch)",
        "column_flat = Concat <axis = 0> (any, across, batch)",
    ]
    for short, source in maps:
        lines += [
            f"{short}_channels = Shape <start = 3, end = 4> ({source})",
            f"{short}_padded = Pad ({source}, pads)",
            f"{short}_windows = Reshape ({short}_padded, window_shape)",
        ]
        for order, perm in (("row", [3, 2, 4, 1, 0, 5]), ("column", [1, 4, 2, 3, 0, 5])):
            lines += [
                f"{short}_{order}_steps = Transpose <perm = {perm}> ({short}_windows)",
                f"{short}_{order}_shape = Concat <axis = 0> ({order}_flat, {short}_channels)",
                f"{short}_{order} = Reshape ({short}_{order}_steps, {short}_{order}_shape)",
            ]
    return lines


def _leaving(windows: bool, *, merged: bool) -> list[str]:
    """Results of the four routes back to maps, with the skip terms."""
    lines = []
    if merged:
        lines += ["row_sum = Add (y0, y2)", "column_sum = Add (y1, y3)"]
        lines += _to_map(windows, "row_sum", "row") + _to_map(windows, "column_sum", "column")
        lines += [
            "scanned = Add (row_sum_map, column_sum_map)",
            "skip_axis = Constant <value_ints = [0]> ()",
            "skips = ReduceSum <keepdims = 0> (D, skip_axis)",
            "skipped = Mul (x, skips)",
            "y = Add (scanned, skipped)",
        ]
        return lines
    lines.append("route_axis = Constant <value_ints = [1]> ()")
    for k in range(_COUNT):
        lines += _to_map(windows, f"y{k}", ("row", "column")[k % 2])
        lines += [
            f"skip{k} = Gather <axis = 0> (D, index{k})",
            f"skipped{k} = Mul (x, skip{k})",
            f"route{k} = Add (y{k}_map, skipped{k})",
            f"stacked{k} = Unsqueeze (route{k}, route_axis)",
        ]
    stacked = ", ".join(f"stacked{k}" for k in range(_COUNT))
    return [*lines, f"y = Concat <axis = 1> ({stacked})"]


def _to_map(windows: bool, name: str, order: str) -> list[str]:
    if not windows:
        perm = {"row": [2, 1, 0, 3], "column": [2, 0, 1, 3]}[order]
        return [f"{name}_map = Transpose <perm = {perm}> ({name})"]
    perm = {"row": [4, 3, 1, 0, 2, 5], "column": [4, 0, 2, 3, 1, 5]}[order]
    return [
        f"{name}_steps = Reshape ({name}, {order}_steps)",
        f"{name}_windows = Transpose <perm = {perm}> ({name}_steps)",
        f"{name}_sides = Concat <axis = 0> (batch, padded_sides, any)",
        f"{name}_padded = Reshape ({name}_windows, {name}_sides)",
        f"{name}_begin = Constant <value_ints = [0, 0]> ()",
        f"{name}_axes = Constant <value_ints = [1, 2]> ()",
        f"{name}_map = Slice ({name}_padded, {name}_begin, sides, {name}_axes)",
    ]
