"""The scan as model-local ONNX functions: standard operators in a file that carries them itself.

A file calls ``qmamba::SS2D`` once for each layer. A runtime that knows no such operator takes the
body of that name in the file, whose recurrence is again a function, ``qmamba::LinearRecurrence``
for one state and ``qmamba::SelectiveScan`` for several, around standard ``Scan`` nodes. A runtime
in which our operator library is registered runs the kernel instead.

``Scan`` costs some microseconds for each step and operator, so the steps have to be few and wide.
A route of ``height * width`` steps is cut into its ``height`` rows (or columns), which all advance
together from a state of zero; a second short ``Scan`` over the rows carries the states from one row
to the next, and what a carried state still adds is put on top: ``h = h_local + decay * carried``.
Nothing is divided, so a decay of zero does no harm. Time is the first axis everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import FunctionProto

DOMAIN = "qmamba"
VERSION = 1
MERGED = "SS2D"
"""The scan of a map with its routes summed."""
ROUTES = "SS2DRoutes"
"""The scan of a map with its routes kept apart, for a gate on each."""

# softplus(z) = max(z, 0) + log1p(u) with u = exp(-|z|), log1p(u) = 2 artanh(s), s = u / (u + 2),
# and artanh(s) / s is a polynomial in s^2 (largest relative error on [0, 1/9]: 1.7e-7). The
# standard operator takes five times as long in ONNX Runtime.
_SOFTPLUS = """
Softplus (z) => (y)
{
  two = Constant <value = float {2}> ()
  c0 = Constant <value = float {0.99999984}> ()
  c1 = Constant <value = float {0.33337989}> ()
  c2 = Constant <value = float {0.1979503}> ()
  c3 = Constant <value = float {0.17111227}> ()
  size = Abs (z)
  negative = Neg (size)
  u = Exp (negative)
  below = Add (u, two)
  s = Div (u, below)
  q = Mul (s, s)
  p3 = Mul (q, c3)
  p2 = Add (p3, c2)
  p2q = Mul (p2, q)
  p1 = Add (p2q, c1)
  p1q = Mul (p1, q)
  p0 = Add (p1q, c0)
  s2 = Add (s, s)
  log = Mul (s2, p0)
  positive = Relu (z)
  y = Add (positive, log)
}"""
_COUNT = 4


def scan_functions(
    opset: int, *, states: int, windows: bool, names: set[str]
) -> list[FunctionProto]:
    """The functions of a file.

    Args:
        opset: of the standard operators, at least 18.
        states: states per channel and route of all layers.
        windows: whether a layer walks through local windows.
        names: which of :data:`MERGED` and :data:`ROUTES` the file calls.
    """
    from onnx.parser import parse_function

    texts = [_SOFTPLUS, _linear_recurrence() if states == 1 else _selective_scan()]
    texts += [_scan(name, states, windows) for name in sorted(names)]
    header = f'<domain: "{DOMAIN}", opset_import: ["": {opset}, "{DOMAIN}": {VERSION}]>\n'
    return [parse_function(header + text) for text in texts]


# Both ways along a route are one node, because a step of Scan costs more than the operators in it.
_BOTH_WAYS = ("forward", "backward")


def _directions(inputs: int, outputs: int) -> str:
    """Attributes of a Scan with so many inputs and outputs each way."""
    return (
        f"num_scan_inputs = {2 * inputs}, "
        f"scan_input_directions = {[0] * inputs + [1] * inputs}, "
        f"scan_output_directions = {[0] * outputs + [1] * outputs}"
    )


def _both(*names: str, kind: str = "") -> str:
    """The names once for each way, as a list of arguments."""
    return ", ".join(f"{kind} {name}_{way}".strip() for way in _BOTH_WAYS for name in names)


def _twice(text: str) -> str:
    """Lines once for each way; ``~`` stands for its suffix."""
    return "\n".join(text.strip("\n").replace("~", f"_{way}") for way in _BOTH_WAYS)


_ADVANCE_ONE = """
      kept~ = Mul (a~, h_before~)
      h_after~ = Add (kept~, v~)
      decay_after~ = Mul (a~, decay_before~)
      h_out~ = Identity (h_after~)
      decay_out~ = Identity (decay_after~)
"""
_ADD_CARRIED = """
  brought~ = Mul (decays~, carried~)
  h~ = Add (h_local~, brought~)
"""
_CARRY = """
      kept~ = Mul (a~, before~)
      after~ = Add (kept~, v~)
      out~ = Identity (before~)
"""


def _linear_recurrence() -> str:
    """``h[t] = decay[t] h[t-1] + input[t]`` over axis 1 and, within each of its steps, axis 0.

    Operands and results are ``(inner steps, outer steps, batch, channels)``; backward, both axes
    are walked from their ends.
    """
    state, row = "float[?, ?, ?]", "float[?, ?]"
    return f"""
LinearRecurrence ({_both("decay", "input")}) => ({_both("h")})
{{
  outer_shape = Shape <start = 1> (decay_forward)
  carried_shape = Shape <start = 2> (decay_forward)
  zero = Constant <value = float {{0}}> ()
  one = Constant <value = float {{1}}> ()
  h_start = Expand (zero, outer_shape)
  decay_start = Expand (one, outer_shape)
  carried_start = Expand (zero, carried_shape)
  {_both("h_last", "decay_last")}, {_both("h_local", "decays")} = Scan <
    {_directions(2, 2)}, body = advance
    ({_both("h_before", "decay_before", kind=state)}, {_both("a", "v", kind=state)}) =>
    ({_both("h_after", "decay_after", kind=state)}, {_both("h_out", "decay_out", kind=state)})
    {{
{_twice(_ADVANCE_ONE)}
    }}> (h_start, decay_start, h_start, decay_start, {_both("decay", "input")})
  {_both("carried_last")}, {_both("carried")} = Scan <
    {_directions(2, 1)}, body = carry
    ({_both("before", kind=row)}, {_both("a", "v", kind=row)}) =>
    ({_both("after", kind=row)}, {_both("out", kind=row)})
    {{
{_twice(_CARRY)}
    }}> (carried_start, carried_start, {_both("decay_last", "h_last")})
{_twice(_ADD_CARRIED)}
}}"""


_ADVANCE_STATES = """
      exponent~ = Mul (dt~, A~)
      a~ = Exp (exponent~)
      kept~ = Mul (a~, h_before~)
      new~ = Mul (v~, b~)
      h_after~ = Add (kept~, new~)
      seen~ = Mul (h_after~, c~)
      y_out~ = ReduceSum <keepdims = 0> (seen~, first)
      elapsed_after~ = Add (elapsed_before~, dt~)
      elapsed_out~ = Identity (elapsed_after~)
"""
_DECAY_LAST = """
  exponent_last~ = Mul (elapsed_last~, A~)
  decay_last~ = Exp (exponent_last~)
"""
_BRING_STATES = """
      exponent~ = Mul (s~, A~)
      a~ = Exp (exponent~)
      h~ = Mul (a~, carried~)
      seen~ = Mul (h~, c~)
      y_out~ = ReduceSum <keepdims = 0> (seen~, first)
"""


def _selective_scan() -> str:
    """The scan with several states, of which only those of one step exist at a time.

    ``h[n, t] = exp(delta[t] A[n]) h[n, t-1] + input[t] B[n, t]``, ``y[t] = sum_n C[n, t] h[n, t]``,
    in the order of :func:`_linear_recurrence`. ``delta`` and ``input`` are ``(inner steps, outer
    steps, batch, channels)``, ``B`` and ``C`` ``(inner steps, states, outer steps, batch, 1)``,
    ``A`` ``(states, 1, 1, channels)``.
    """
    state, row, scalar = "float[?, ?, ?, ?]", "float[?, ?, ?]", "float[?, ?, ?, 1]"
    steps = ", ".join(
        f"{row} dt_{way}, {row} v_{way}, {scalar} b_{way}, {scalar} c_{way}" for way in _BOTH_WAYS
    )
    before = ", ".join(f"{state} h_before_{way}, {row} elapsed_before_{way}" for way in _BOTH_WAYS)
    after = ", ".join(f"{state} h_after_{way}, {row} elapsed_after_{way}" for way in _BOTH_WAYS)
    return f"""
SelectiveScan ({_both("delta", "input", "A", "B", "C")}) => ({_both("y")})
{{
  zero = Constant <value = float {{0}}> ()
  outer_shape = Shape <start = 1> (delta_forward)
  batch_shape = Shape <start = 2> (delta_forward)
  states = Shape <start = 0, end = 1> (A_forward)
  state_shape = Concat <axis = 0> (states, outer_shape)
  carried_shape = Concat <axis = 0> (states, batch_shape)
  h_start = Expand (zero, state_shape)
  elapsed_start = Expand (zero, outer_shape)
  carried_start = Expand (zero, carried_shape)
  {_both("h_last", "elapsed_last")}, {_both("y_local", "elapsed")} = Scan <
    {_directions(4, 2)}, body = advance
    ({before}, {steps}) =>
    ({after}, {_both("y_out", "elapsed_out", kind=row)})
    {{
      first = Constant <value_ints = [0]> ()
{_twice(_ADVANCE_STATES)}
    }}> (h_start, elapsed_start, h_start, elapsed_start, {_both("delta", "input", "B", "C")})
{_twice(_DECAY_LAST)}
  {_both("carried_last")}, {_both("carried")} = Scan <
    {_directions(2, 1)}, scan_input_axes = [1, 1, 1, 1], scan_output_axes = [1, 1], body = carry
    ({_both("before", kind=row)}, {_both("a", "v", kind=row)}) =>
    ({_both("after", kind=row)}, {_both("out", kind=row)})
    {{
{_twice(_CARRY)}
    }}> (carried_start, carried_start, {_both("decay_last", "h_last")})
  {_both("y_brought")} = Scan <num_scan_inputs = 4, body = bring
    ({row} s_forward, {scalar} c_forward, {row} s_backward, {scalar} c_backward) =>
    ({_both("y_out", kind=row)})
    {{
      first = Constant <value_ints = [0]> ()
{_twice(_BRING_STATES)}
    }}> ({_both("elapsed", "C")})
{_twice("  y~ = Add (y_local~, y_brought~)")}
}}"""


def _scan(name: str, states: int, windows: bool) -> str:
    """``qmamba::SS2D``; operands as in :func:`qmamba.ops.ss2d`, maps with their two sides.

    ``x`` is ``(batch, height, width, channels)``, ``projected`` the same with ``4 * (rank + 2 *
    states)`` channels. The result is a map like ``x``, or ``(batch, 4, height, width, channels)``.
    """
    lines = _entering(windows)
    lines += [
        "zero_index = Constant <value_int = 0> ()",
        "sizes_rank = Shape <start = 2, end = 3> (dt_weight)",
        f"sizes_states = Constant <value_ints = [{states}]> ()",
        "parts = Concat <axis = 0> ("
        + ", ".join(["sizes_rank, sizes_states, sizes_states"] * 4)
        + ")",
        "turned_weight = Transpose <perm = [0, 2, 1]> (dt_weight)",
    ]
    for order in ("row", "column"):
        names = ", ".join(f"{part}_{order}{k}" for k in range(_COUNT) for part in ("low", "B", "C"))
        lines.append(f"{names} = Split <axis = 3> (p_{order}, parts)")
    for k in range(_COUNT):
        lines += _route(k, states)
    for k, order in enumerate(("row", "column")):
        lines += _pair(k, k + 2, order, states)
    lines += _leaving(windows, merged=name == MERGED)
    body = "\n  ".join(lines)
    return f"""
{name} <window> (x, projected, dt_weight, dt_bias, A, D) => (y)
{{
  {body}
}}"""


def _route(k: int, states: int) -> list[str]:
    order = ("row", "column")[k % 2]
    low, B, C = (f"{part}_{order}{k}" for part in ("low", "B", "C"))
    lines = [f"index{k} = Constant <value_int = {k}> ()"]
    lines += [
        f"{operand}{k} = Gather <axis = 0> ({source}, index{k})"
        for operand, source in (("W", "turned_weight"), ("bias", "dt_bias"), ("A", "A"))
    ]
    lines += [
        f"product{k} = MatMul ({low}, W{k})",
        f"biased{k} = Add (product{k}, bias{k})",
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


def _entering(windows: bool) -> list[str]:
    """Maps to ``(inner steps, outer steps, batch, channels)`` in the order of rows and columns."""
    lines = [
        "last_axis = Constant <value_ints = [-1]> ()",
        "middle_axes = Constant <value_ints = [1, 2]> ()",
    ]
    maps = (("x", "x"), ("p", "projected"))
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
