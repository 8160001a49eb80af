"""One block of a selective scan, forward and backward, with the state carried in and out.

A block is ``(groups, batch, steps, channels)``; groups are the routes of a 2-D scan or the channel
groups of a 1-D one, and differ in their A, B and C. The work on a block is a handful of wide tensor
operations whose scratch tensors stay in the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from qmamba.ops.recurrence import linear_recurrence_

LOG2_E = math.log2(math.e)

# Elements of one scratch tensor. On a CPU about six of them should stay in the cache; an
# accelerator wants few, large launches.
_BLOCK_ELEMENTS_CPU = 1 << 18
_BLOCK_ELEMENTS_ACCELERATOR = 1 << 24
# A block saves one state per lane for the backward pass, so short blocks would cost memory.
_LEAST_STEPS = 64


class BlockSizes(NamedTuple):
    """How much of each axis is worked on at once."""

    groups: int
    batch: int
    states: int
    steps: int


def block_sizes(
    groups: int, batch: int, steps: int, channels: int, states: int, device_type: str = "cpu"
) -> BlockSizes:
    """Largest block within the scratch budget that still has a useful number of steps."""
    on_cpu = device_type == "cpu"
    budget = _BLOCK_ELEMENTS_CPU if on_cpu else _BLOCK_ELEMENTS_ACCELERATOR
    lanes = max(1, budget // (min(steps, _LEAST_STEPS) * max(1, channels)))
    group_count = _even_share(groups, lanes)
    state_count = _even_share(states, lanes // group_count)
    batch_count = _even_share(batch, lanes // (group_count * state_count))
    width = batch_count * group_count * state_count * max(1, channels)
    step_count = min(steps, max(_LEAST_STEPS, budget // width))
    return BlockSizes(group_count, batch_count, state_count, _even_share(steps, step_count))


def _even_share(total: int, limit: int) -> int:
    """Size of the parts of ``total`` cut into the fewest nearly equal parts within ``limit``."""
    parts = -(-total // max(1, limit))
    return -(-total // max(1, parts))


def sequences(sizes: BlockSizes, groups: int, batch: int) -> Iterator[tuple[slice, slice]]:
    """Group and batch slices whose scans are independent of each other."""
    for first_batch in range(0, batch, sizes.batch):
        for first_group in range(0, groups, sizes.groups):
            yield (
                slice(first_group, min(groups, first_group + sizes.groups)),
                slice(first_batch, min(batch, first_batch + sizes.batch)),
            )


def step_slices(sizes: BlockSizes, steps: int) -> list[slice]:
    """Consecutive slices of time."""
    return [slice(first, min(steps, first + sizes.steps)) for first in range(0, steps, sizes.steps)]


def state_store(blocks: int, batch: int, A: Tensor) -> Tensor:
    """Room for the state before each block, ``(blocks, groups, batch, states, channels)``."""
    groups, states, channels = A.shape
    return A.new_empty(blocks, groups, batch, states, channels)


def softplus_(tensor: Tensor) -> Tensor:
    """In place, which the function of torch.nn.functional does not offer."""
    result: Tensor = torch.ops.aten.softplus.out(tensor, out=tensor)
    return result


class Scratch:
    """Buffers reused by all blocks of a scan.

    Memory fresh from the operating system costs more to touch first than the arithmetic done on it.
    """

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """Uninitialised contiguous tensor, valid until ``name`` is taken again."""
        elements = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < elements:
            buffer = self._buffers[name] = self._like.new_empty(elements)
        return buffer[:elements].view(shape)


def scan_block(
    inputs: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    states_at_once: int,
    scratch: Scratch,
) -> Tensor:
    """``h = exp(dt * A) * h + dt * B * inputs`` and ``y = sum_n C[n] * h[n]`` over one block.

    Args:
        inputs: ``(groups, batch, steps, channels)``.
        dt: the same shape, positive.
        A: ``(groups, states, channels)``.
        B: ``(groups, batch, steps, states)``.
        C: the shape of ``B``.
        state: ``(groups, batch, states, channels)`` before the block; overwritten by that after it.
        states_at_once: states scanned together; bounds the scratch memory.
        scratch: where intermediate tensors and the result live.

    Returns:
        ``y`` in the shape of ``inputs``, valid until the next use of ``scratch``.
    """
    drive = torch.mul(dt, inputs, out=scratch.take("drive", *dt.shape))
    y = scratch.take("y", *dt.shape)
    for part in _state_parts(A, states_at_once):
        _, hidden = _run_states(dt, drive, A, B, state, part, scratch)
        state[:, :, part] = hidden[:, :, -1]
        _weigh_states(hidden, C[..., part, None], y, first=part.start == 0)
    return y


class BlockGradients(NamedTuple):
    """Gradients of :func:`scan_block` in the shapes of its arguments, A's over the whole batch."""

    inputs: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor


def scan_block_backward(
    grad: Tensor,
    inputs: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    carry: Tensor,
    states_at_once: int,
    scratch: Scratch,
) -> BlockGradients:
    """Gradients of one block, whose states are computed anew.

    Args:
        grad: gradient of ``y``.
        inputs, dt, A, B, C, states_at_once, scratch: as given to :func:`scan_block`.
        state: the state before the block.
        carry: gradient of the state after the block, from the blocks that follow; overwritten by
            the gradient of the state before it.

    Returns:
        The gradients, of which ``inputs`` and ``dt`` are valid until the next use of ``scratch``.
    """
    drive = torch.mul(dt, inputs, out=scratch.take("drive", *dt.shape))
    grad_drive, grad_dt = (scratch.take(name, *dt.shape) for name in ("grad drive", "grad dt"))
    grad_A, grad_B, grad_C = torch.empty_like(A), torch.empty_like(B), torch.empty_like(C)
    for part in _state_parts(A, states_at_once):
        decay, hidden = _run_states(dt, drive, A, B, state, part, scratch)
        grad_hidden = scratch.take("grad hidden", *hidden.shape)
        product = scratch.take("product", *hidden.shape)
        torch.sum(torch.mul(hidden, grad.unsqueeze(3), out=product), -1, out=grad_C[..., part])

        torch.mul(grad.unsqueeze(3), C[..., part, None], out=grad_hidden)
        grad_hidden[:, :, -1] += carry[:, :, part]
        lanes, decays = _as_lanes(grad_hidden), _as_lanes(decay)
        linear_recurrence_(decays[:, 1:], lanes[:, :-1], lanes[:, -1], reverse=True)
        torch.sum(
            torch.mul(grad_hidden, drive.unsqueeze(3), out=product), -1, out=grad_B[..., part]
        )

        # The gradient of the exponent dt * A takes the place of its exponential.
        decay *= grad_hidden
        carry[:, :, part] = decay[:, :, 0]
        decay[:, :, 0] *= state[:, :, part]
        decay[:, :, 1:] *= hidden[:, :, :-1]
        grad_A[:, part] = torch.mul(decay, dt.unsqueeze(3), out=product).sum((1, 2))
        first = part.start == 0
        _weigh_states(grad_hidden, B[..., part, None], grad_drive, first)
        _weigh_states(decay, A[:, None, None, part], grad_dt, first)
    grad_dt.addcmul_(grad_drive, inputs)
    return BlockGradients(grad_drive.mul_(dt), grad_dt, grad_A, grad_B, grad_C)


def _state_parts(A: Tensor, states_at_once: int) -> list[slice]:
    states = A.shape[1]
    return [
        slice(first, min(states, first + states_at_once))
        for first in range(0, states, states_at_once)
    ]


def _run_states(
    dt: Tensor, drive: Tensor, A: Tensor, B: Tensor, state: Tensor, part: slice, scratch: Scratch
) -> tuple[Tensor, Tensor]:
    """Decays and states of some states of a block, ``(groups, batch, steps, states, channels)``."""
    groups, batch, steps, channels = dt.shape
    shape = (groups, batch, steps, part.stop - part.start, channels)
    # exp2 because on CPUs torch routes exp through a library call several times slower.
    exponent = A[:, None, None, part] * LOG2_E
    decay = torch.mul(dt.unsqueeze(3), exponent, out=scratch.take("decay", *shape)).exp2_()
    hidden = torch.mul(drive.unsqueeze(3), B[..., part, None], out=scratch.take("hidden", *shape))
    before = state[:, :, part].flatten(0, 1).flatten(1)
    linear_recurrence_(_as_lanes(decay), _as_lanes(hidden), before)
    return decay, hidden


def _as_lanes(block: Tensor) -> Tensor:
    """``(groups, batch, steps, states, channels)`` to a view ``(rows, steps, lanes)``."""
    groups, batch, steps, states, channels = block.shape
    return block.view(groups * batch, steps, states * channels)


def _weigh_states(block: Tensor, weights: Tensor, total: Tensor, first: bool) -> None:
    """``total`` plus the weighted sum of the states of ``block``, which is used up in the process.

    ``total`` counts as zero where this is the first sum.
    """
    if block.shape[3] > 1:
        block *= weights
        if first:
            torch.sum(block, 3, out=total)
        else:
            total += block.sum(3)
    elif first:
        torch.mul(block.squeeze(3), weights.squeeze(3), out=total)
    else:
        total.addcmul_(block.squeeze(3), weights.squeeze(3))
