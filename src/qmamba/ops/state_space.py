"""One block of a selective scan, forward and backward, with the state carried in and out.

A block is ``(batch, groups, steps, channels)``; groups are the routes of a 2-D scan or the channel
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

# Elements of one scratch tensor. On a CPU about six of them should stay in the cache; an accelerator
# wants few, large launches.
_BLOCK_ELEMENTS_CPU = 1 << 18
_BLOCK_ELEMENTS_ACCELERATOR = 1 << 24
# A block saves one state per lane for the backward pass, so short blocks would cost memory.
_LEAST_STEPS = 64


class BlockSizes(NamedTuple):
    """How much of each axis is worked on at once."""

    batch: int
    groups: int
    states: int
    steps: int


class Block(NamedTuple):
    """One piece of the scan; ``index`` counts the blocks of a sequence."""

    batch: slice
    groups: slice
    steps: slice
    index: int


def block_sizes(
    batch: int, groups: int, steps: int, channels: int, states: int, device_type: str = "cpu"
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
    return BlockSizes(batch_count, group_count, state_count, _even_share(steps, step_count))


def _even_share(total: int, limit: int) -> int:
    """Size of the parts when ``total`` is cut into the fewest nearly equal parts within ``limit``."""
    parts = -(-total // max(1, limit))
    return -(-total // max(1, parts))


def sequences(sizes: BlockSizes, batch: int, groups: int) -> Iterator[tuple[slice, slice]]:
    """Batch and group slices whose scans are independent of each other."""
    for first_batch in range(0, batch, sizes.batch):
        for first_group in range(0, groups, sizes.groups):
            yield (
                slice(first_batch, min(batch, first_batch + sizes.batch)),
                slice(first_group, min(groups, first_group + sizes.groups)),
            )


def step_slices(sizes: BlockSizes, steps: int) -> list[slice]:
    """Consecutive slices of time."""
    return [slice(first, min(steps, first + sizes.steps)) for first in range(0, steps, sizes.steps)]


def scan_block(
    inputs: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, states_at_once: int
) -> Tensor:
    """``h = exp(dt * A) * h + dt * B * inputs`` and ``y = sum_n C[n] * h[n]`` over one block.

    Args:
        inputs: ``(batch, groups, steps, channels)``, contiguous like all of these.
        dt: the same shape, positive.
        A: ``(groups, states, channels)``.
        B: ``(batch, groups, steps, states)``.
        C: the shape of ``B``.
        state: ``(batch, groups, states, channels)`` before the block; overwritten by that after it.
        states_at_once: states scanned together; bounds the scratch memory.

    Returns:
        ``y`` in the shape of ``inputs``.
    """
    drive = dt * inputs
    parts = []
    for part in _state_parts(A, states_at_once):
        _, hidden = _run_states(dt, drive, A, B, state, part)
        state[:, :, part] = hidden[:, :, -1]
        parts.append(_sum_states(hidden.mul_(C[..., part, None])))
    return _add_all(parts)


class BlockGradients(NamedTuple):
    """Gradients of :func:`scan_block` in the shapes of its arguments; ``A`` summed over the batch."""

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
) -> BlockGradients:
    """Gradients of one block, whose states are computed anew.

    Args:
        grad: gradient of ``y``.
        inputs, dt, A, B, C, states_at_once: as given to :func:`scan_block`.
        state: the state before the block.
        carry: gradient of the state after the block, from the blocks that follow; overwritten by the
            gradient of the state before it.
    """
    drive = dt * inputs
    grad_drive, grad_dt = [], []
    grad_A, grad_B, grad_C = torch.empty_like(A), torch.empty_like(B), torch.empty_like(C)
    for part in _state_parts(A, states_at_once):
        decay, hidden = _run_states(dt, drive, A, B, state, part)
        grad_C[..., part] = (hidden * grad.unsqueeze(3)).sum(-1)

        grad_hidden = grad.unsqueeze(3) * C[..., part, None]
        grad_hidden[:, :, -1] += carry[:, :, part]
        lanes, decays = _as_lanes(grad_hidden), _as_lanes(decay)
        linear_recurrence_(decays[:, 1:], lanes[:, :-1], lanes[:, -1], reverse=True)
        grad_B[..., part] = (grad_hidden * drive.unsqueeze(3)).sum(-1)
        torch.mul(decay[:, :, 0], grad_hidden[:, :, 0], out=decay[:, :, 0])
        carry[:, :, part] = decay[:, :, 0]

        # From here on ``decay`` is the gradient of the exponent dt * A.
        decay[:, :, 0] *= state[:, :, part]
        decay[:, :, 1:] *= grad_hidden[:, :, 1:]
        decay[:, :, 1:] *= hidden[:, :, :-1]
        grad_drive.append(_sum_states(grad_hidden.mul_(B[..., part, None])))
        grad_A[:, part] = (decay * dt.unsqueeze(3)).sum((0, 2))
        grad_dt.append(_sum_states(decay.mul_(A[:, None, part])))
    total_drive = _add_all(grad_drive)
    return BlockGradients(
        inputs=total_drive * dt,
        dt=_add_all(grad_dt).addcmul_(total_drive, inputs),
        A=grad_A,
        B=grad_B,
        C=grad_C,
    )


def _state_parts(A: Tensor, states_at_once: int) -> list[slice]:
    states = A.shape[1]
    return [
        slice(first, min(states, first + states_at_once))
        for first in range(0, states, states_at_once)
    ]


def _run_states(
    dt: Tensor, drive: Tensor, A: Tensor, B: Tensor, state: Tensor, part: slice
) -> tuple[Tensor, Tensor]:
    """Decays and states of some states of a block, ``(batch, groups, steps, states, channels)``."""
    # exp2 because on CPUs torch routes exp through a library call several times slower.
    decay = (dt.unsqueeze(3) * (A[:, None, part] * LOG2_E)).exp2_()
    hidden = drive.unsqueeze(3) * B[..., part, None]
    before = state[:, :, part].flatten(0, 1).flatten(1)
    linear_recurrence_(_as_lanes(decay), _as_lanes(hidden), before)
    return decay, hidden


def _as_lanes(block: Tensor) -> Tensor:
    """``(batch, groups, steps, states, channels)`` to a view ``(rows, steps, lanes)``."""
    batch, groups, steps, states, channels = block.shape
    return block.view(batch * groups, steps, states * channels)


def _sum_states(block: Tensor) -> Tensor:
    return block.squeeze(3) if block.shape[3] == 1 else block.sum(3)


def _add_all(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total
