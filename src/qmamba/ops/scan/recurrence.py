"""The linear recurrence ``h[t] = a[t] * h[t-1] + b[t]`` in few wide tensor operations.

A step-by-step loop over a long, narrow sequence pays one operation per step. Here the sequence is
cut into chunks that advance together: one pass finds what each chunk adds to its last step, a
recurrence over the chunks (this same function, shorter) carries those ends along, and a second pass
fills in the steps. Only products of decays occur, never their logarithms or quotients, so decays in
[0, 1] cannot overflow and a decay of zero is exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Lanes from which one operation per step is cheaper than a second pass over the data: about where
# the arithmetic of an operation outweighs the cost of issuing it.
_WIDE_LANES_CPU = 4096
_WIDE_LANES_ACCELERATOR = 1 << 20
_SHORT_STEPS = 8
# Torch hands larger operations on a CPU to several threads, which would have to meet at each step.
_SERIAL_ELEMENTS = 32767


def linear_recurrence_(
    decay: Tensor, value: Tensor, initial: Tensor | None = None, reverse: bool = False
) -> Tensor:
    """Replace ``value`` by the states of the recurrence; keeps nothing for a backward pass.

    Args:
        decay: ``(rows, steps, lanes)``; only read.
        value: the same shape and dtype, not tracked by autograd; overwritten.
        initial: state before the first step, ``(rows, lanes)``; zero where absent.
        reverse: run from the last step to the first, ``h[t] = decay[t] * h[t+1] + value[t]``, with
            ``initial`` the state after the last step.

    Returns:
        ``value``.
    """
    rows, steps, lanes = value.shape
    if steps == 0:
        return value
    length = chunk_length(steps, rows * lanes, value.device.type)
    chunks = steps // length
    if chunks == 1:
        _walk(decay.unbind(1), value.unbind(1), initial, reverse)
        return value

    # Steps that do not fill a chunk are walked last, whichever way time runs.
    rest = steps - chunks * length
    main, tail = (
        (slice(rest, steps), slice(0, rest))
        if reverse
        else (
            slice(0, steps - rest),
            slice(steps - rest, steps),
        )
    )
    chunked_decay = decay[:, main].unflatten(1, (chunks, length))
    chunked_value = value[:, main].unflatten(1, (chunks, length))
    decays, values = chunked_decay.unbind(2), chunked_value.unbind(2)
    ends = _advance(decays, values, reverse)
    linear_recurrence_(chunked_decay.prod(2), ends, initial, reverse)

    entry = -1 if reverse else 0
    first_decay, first_value = decays[entry], values[entry]
    if reverse:
        first_value[:, :-1].addcmul_(first_decay[:, :-1], ends[:, 1:])
    else:
        first_value[:, 1:].addcmul_(first_decay[:, 1:], ends[:, :-1])
    if initial is not None:
        first_value[:, entry].addcmul_(first_decay[:, entry], initial)
    _walk(decays, values, None, reverse)
    if rest:
        _walk(decay[:, tail].unbind(1), value[:, tail].unbind(1), ends[:, -1 - entry], reverse)
    return value


def chunk_length(steps: int, lanes: int, device_type: str = "cpu") -> int:
    """Steps per chunk: ``steps`` itself where chunks would not pay."""
    on_cpu = device_type == "cpu"
    wide = _WIDE_LANES_CPU if on_cpu else _WIDE_LANES_ACCELERATOR
    if steps < _SHORT_STEPS or lanes >= wide:
        return steps
    # Two passes over ``length`` steps and one over the chunks: least 2 * length + steps / length.
    fewest = round(math.sqrt(steps / 2))
    serial = math.ceil(steps * lanes / _SERIAL_ELEMENTS) if on_cpu else 1
    return max(2, fewest, serial)


def _walk(
    decays: tuple[Tensor, ...], values: tuple[Tensor, ...], initial: Tensor | None, reverse: bool
) -> None:
    """One operation per step, in place."""
    if reverse:
        decays, values = decays[::-1], values[::-1]
    if initial is not None:
        values[0].addcmul_(decays[0], initial)
    for decay, value, previous in zip(decays[1:], values[1:], values, strict=False):
        value.addcmul_(decay, previous)


def _advance(decays: tuple[Tensor, ...], values: tuple[Tensor, ...], reverse: bool) -> Tensor:
    """The last state of each chunk when it starts from zero; the steps are only read."""
    if reverse:
        decays, values = decays[::-1], values[::-1]
    state = torch.addcmul(values[1], decays[1], values[0])
    for decay, value in zip(decays[2:], values[2:], strict=True):
        torch.addcmul(value, decay, state, out=state)
    return state
