"""One block of a selective scan, forward and backward, with the state carried in and out.

Tensors are ordered states, groups, batch, steps, channels, each with the axes that it has. Groups
are the routes of a 2-D scan or the channel groups of a 1-D one; they differ in A, B and C. The work
on a block is a handful of wide tensor operations whose scratch tensors stay in the processor's
cache.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from qmamba.ops.scan.recurrence import linear_recurrence_

LOG2_E = math.log2(math.e)

# Elements of one scratch tensor. On a CPU about six of them should stay in the cache, yet each
# operation should be worth handing to several threads; an accelerator wants few, large launches.
_BLOCK_ELEMENTS_CPU = 1 << 20
_BLOCK_ELEMENTS_ACCELERATOR = 1 << 24
# Training keeps the state before each block, so short blocks would cost memory.
_LEAST_STEPS = 64


class BlockSizes(NamedTuple):
    """How much of each axis is worked on at once."""

    states: int
    groups: int
    batch: int
    steps: int


def block_sizes(
    states: int, groups: int, batch: int, steps: int, channels: int, device_type: str = "cpu"
) -> BlockSizes:
    """Largest block within the scratch budget that still has a useful number of steps."""
    budget = _BLOCK_ELEMENTS_CPU if device_type == "cpu" else _BLOCK_ELEMENTS_ACCELERATOR
    channels = max(1, channels)
    lanes = max(1, budget // (min(steps, _LEAST_STEPS) * channels))
    group_count = _even_share(groups, lanes)
    state_count = _even_share(states, lanes // group_count)
    batch_count = _even_share(batch, lanes // (group_count * state_count))
    width = state_count * group_count * batch_count * channels
    step_count = _even_share(steps, max(_LEAST_STEPS, budget // width))
    return BlockSizes(state_count, group_count, batch_count, step_count)


def _even_share(total: int, limit: int) -> int:
    """Size of the parts of ``total`` cut into the fewest nearly equal parts within ``limit``."""
    parts = max(1, -(-total // max(1, limit)))
    return max(1, -(-total // parts))


def slices(total: int, size: int) -> list[slice]:
    """Consecutive slices that cover ``total`` entries."""
    return [slice(first, min(total, first + size)) for first in range(0, total, size)]


def sequences(sizes: BlockSizes, groups: int, batch: int) -> Iterator[tuple[slice, slice]]:
    """Group and batch slices whose scans are independent of each other."""
    for images in slices(batch, sizes.batch):
        for part in slices(groups, sizes.groups):
            yield part, images


def state_store(blocks: int, batch: int, A: Tensor) -> Tensor:
    """Room for the state before each block, ``(blocks, states, groups, batch, channels)``."""
    states, groups, channels = A.shape
    return A.new_empty(blocks, states, groups, batch, channels)


def softplus_(tensor: Tensor) -> Tensor:
    """In place, which the function of torch.nn.functional does not offer."""
    result: Tensor = torch.ops.aten.softplus.out(tensor, out=tensor)
    return result


class Scratch:
    """Buffers reused by all blocks of a scan.

    Memory fresh from the operating system costs more to touch first than the arithmetic done on it.
    """

    def __init__(self, like: Tensor) -> None:
        self._like = like.new_empty(0)
        self._buffers: dict[str, Tensor] = {}

    @classmethod
    def shared(cls, like: Tensor) -> Scratch:
        """The buffers of this thread for the dtype of ``like``, kept from scan to scan.

        Only on a CPU: elsewhere torch's own allocator keeps memory, and scans on two streams must
        not share theirs.
        """
        if like.device.type != "cpu" or type(like) is not Tensor or torch.compiler.is_compiling():
            return cls(like)
        if like.dtype not in _kept.by_dtype:
            _kept.by_dtype[like.dtype] = cls(like)
        return _kept.by_dtype[like.dtype]

    def take(self, name: str, *shape: int) -> Tensor:
        """Uninitialized contiguous tensor, valid until ``name`` is taken again."""
        elements = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < elements:
            # A buffer made in inference mode could not be written to outside it.
            with torch.inference_mode(False):
                buffer = self._buffers[name] = self._like.new_empty(elements)
        return buffer[:elements].view(shape)


class _Kept(threading.local):
    def __init__(self) -> None:
        self.by_dtype: dict[torch.dtype, Scratch] = {}


_kept = _Kept()


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
        A: ``(states, groups, channels)``.
        B: ``(states, groups, batch, steps)``.
        C: the shape of ``B``.
        state: ``(states, groups, batch, channels)`` before the block; overwritten by that after it.
        states_at_once: states scanned together; bounds the scratch memory.
        scratch: where intermediate tensors and the result live.

    Returns:
        ``y`` in the shape of ``inputs``, valid until the next use of ``scratch``.
    """
    drive = torch.mul(dt, inputs, out=scratch.take("drive", *dt.shape))
    y = scratch.take("y", *dt.shape)
    for part in slices(A.shape[0], states_at_once):
        _, hidden = _run_states(dt, drive, A[part], B[part], state[part], scratch)
        state[part] = hidden[..., -1, :]
        _weighted_sum(hidden, C[part, ..., None], y, fresh=part.start == 0)
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
    grad_A, grad_B, grad_C = (torch.empty_like(tensor) for tensor in (A, B, C))
    for part in slices(A.shape[0], states_at_once):
        decay, hidden = _run_states(dt, drive, A[part], B[part], state[part], scratch)
        product = scratch.take("product", *hidden.shape)
        grad_C[part] = torch.mul(hidden, grad, out=product).sum(-1)

        grad_hidden = torch.mul(
            grad, C[part, ..., None], out=scratch.take("grad hidden", *hidden.shape)
        )
        grad_hidden[..., -1, :] += carry[part]
        decays, grads = decay.flatten(0, 2), grad_hidden.flatten(0, 2)
        linear_recurrence_(decays[:, 1:], grads[:, :-1], grads[:, -1], reverse=True)
        grad_B[part] = torch.mul(grad_hidden, drive, out=product).sum(-1)

        # The gradient of the exponent dt * A takes the place of its exponential.
        decay *= grad_hidden
        carry[part] = decay[..., 0, :]
        decay[..., 0, :] *= state[part]
        decay[..., 1:, :] *= hidden[..., :-1, :]
        grad_A[part] = torch.mul(decay, dt, out=product).sum((2, 3))
        fresh = part.start == 0
        _weighted_sum(grad_hidden, B[part, ..., None], grad_drive, fresh)
        _weighted_sum(decay, A[part, :, None, None], grad_dt, fresh)
    grad_dt.addcmul_(grad_drive, inputs)
    return BlockGradients(grad_drive.mul_(dt), grad_dt, grad_A, grad_B, grad_C)


def _run_states(
    dt: Tensor, drive: Tensor, A: Tensor, B: Tensor, state: Tensor, scratch: Scratch
) -> tuple[Tensor, Tensor]:
    """Decays and states over a block, ``(states, groups, batch, steps, channels)`` each."""
    shape = (A.shape[0], *dt.shape)
    # exp2 because on CPUs torch routes exp through a library call several times slower.
    rate = A[:, :, None, None] * LOG2_E
    decay = torch.mul(dt, rate, out=scratch.take("decay", *shape)).exp2_()
    hidden = torch.mul(drive, B[..., None], out=scratch.take("hidden", *shape))
    linear_recurrence_(decay.flatten(0, 2), hidden.flatten(0, 2), state.flatten(0, 2))
    return decay, hidden


def _weighted_sum(block: Tensor, weights: Tensor, total: Tensor, fresh: bool) -> None:
    """Add the weighted sum over states to ``total``, or start it anew."""
    for index, (states, weight) in enumerate(zip(block, weights, strict=True)):
        if fresh and index == 0:
            torch.mul(states, weight, out=total)
        else:
            total.addcmul_(states, weight)
