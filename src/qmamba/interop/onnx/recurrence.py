"""The recurrence of the scan, both ways along a route, as texts of ONNX functions.

``Scan`` costs some microseconds for each step and operator, so the steps have to be few and wide.
A route of ``height * width`` steps is cut into its ``height`` rows (or columns), which all advance
together from a state of zero; a second short ``Scan`` over the rows carries the states from one row
to the next, and what a carried state still adds is put on top: ``h = h_local + decay * carried``.
Nothing is divided, so a decay of zero does no harm. Time is the first axis everywhere.
"""

from __future__ import annotations

# softplus(z) = max(z, 0) + log1p(u) with u = exp(-|z|), log1p(u) = 2 artanh(s), s = u / (u + 2),
# and artanh(s) / s is a polynomial in s^2 (largest relative error on [0, 1/9]: 1.7e-7). The
# standard operator takes five times as long in ONNX Runtime.
SOFTPLUS = """
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


def linear_recurrence() -> str:
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


def selective_scan() -> str:
    """The scan with several states, of which only those of one step exist at a time.

    ``h[n, t] = exp(delta[t] A[n]) h[n, t-1] + input[t] B[n, t]``, ``y[t] = sum_n C[n, t] h[n, t]``,
    in the order of :func:`linear_recurrence`. ``delta`` and ``input`` are ``(inner steps, outer
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
