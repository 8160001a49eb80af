"""The selective scan in plain PyTorch operations: any device, any float dtype, no compiled code.

Trades, against the definition in :mod:`qmamba.ops.scan.naive`: the sequence is cut into blocks,
each block into chunks that advance together (:mod:`qmamba.ops.scan.recurrence`), so thousands of
small operations become tens of wide ones. Scratch memory is one block, whatever the length. For
training, the tape holds the arguments and one state per block; the backward pass computes the rest
anew and is itself not differentiable. ``torch.compile`` and ``torch.export`` see single operators,
not the many operations inside.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.errors import ShapeError
from qmamba.ops.scan.arguments import check_backward
from qmamba.ops.scan.chunked_map import map_scan
from qmamba.ops.scan.naive import state_dtype
from qmamba.ops.scan.operator import needs_gradient, register_scan
from qmamba.ops.scan.state_space import (
    Scratch,
    block_sizes,
    scan_block,
    scan_block_backward,
    sequences,
    slices,
    state_store,
)


def selective_scan_chunked(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """Selective scan along the last axis; see :func:`qmamba.ops.selective_scan` for the arguments.

    Raises:
        ShapeError: the sequence has no step.
    """
    batch, channels, length = u.shape
    _require_steps(length, "sequence")
    dtype = state_dtype(u.dtype)
    groups = 1 if B.dim() == 3 else B.shape[1]
    with torch.autocast(u.device.type, enabled=False):
        inputs, dt = u.to(dtype), delta.to(dtype)
        if delta_bias is not None:
            dt = dt + delta_bias.to(dtype)[:, None]
        if delta_softplus:
            dt = F.softplus(dt)
        arguments = (
            _channels_last(inputs, groups),
            _channels_last(dt, groups),
            A.to(dtype).unflatten(0, (groups, -1)).permute(2, 0, 1),
            _states_first(B.to(dtype), groups),
            _states_first(C.to(dtype), groups),
        )
        y, _ = _scan(*arguments, needs_gradient(*arguments))
        y = y.permute(1, 0, 3, 2).reshape(batch, channels, length)
        if D is not None:
            y = torch.addcmul(y, D.to(dtype)[:, None], inputs)
    return y.to(u.dtype)


def _channels_last(sequence: Tensor, groups: int) -> Tensor:
    """``(batch, channels, length)`` to ``(groups, batch, length, channels of a group)``."""
    return sequence.unflatten(1, (groups, -1)).permute(1, 0, 3, 2).contiguous()


def _states_first(matrix: Tensor, groups: int) -> Tensor:
    """``(batch, [groups,] states, length)`` to ``(states, groups, batch, length)``."""
    batch, length = matrix.shape[0], matrix.shape[-1]
    return matrix.reshape(batch, groups, -1, length).permute(2, 1, 0, 3)


def _forward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, save_states: bool
) -> tuple[Tensor, Tensor]:
    """The scan without its skip on the tensors of ``scan_block`` at full length, and its states."""
    _check_grouped(u, dt, A, B, C)
    groups, batch, length, channels = u.shape
    sizes = block_sizes(A.shape[0], groups, batch, length, channels, u.device.type)
    scratch = Scratch.shared(u)
    states = state_store(_blocks_kept(u, A, save_states), batch, A)
    last = state_store(1, batch, A)[0].zero_()
    y = torch.empty_like(u)
    for part, images in sequences(sizes, groups, batch):
        state = last[:, part, images]
        for index, time in enumerate(slices(length, sizes.steps)):
            if save_states:
                states[index, :, part, images] = state
            at = (part, images, time)
            each = (slice(None), *at)
            y[at] = scan_block(
                u[at], dt[at], A[:, part], B[each], C[each], state, sizes.states, scratch
            )
    return y, states


def _check_grouped(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
    """Refuse tensors that are not those of ``scan_block`` at full length."""
    groups, batch, length, channels = u.shape if u.dim() == 4 else (0, 0, 0, 0)
    states = A.shape[0] if A.dim() == 3 else 0
    wanted = {
        "dt": (dt, (groups, batch, length, channels)),
        "A": (A, (states, groups, channels)),
        "B": (B, (states, groups, batch, length)),
        "C": (C, (states, groups, batch, length)),
    }
    for name, (tensor, shape) in wanted.items():
        if states < 1 or length < 1 or tensor.shape != shape or tensor.dtype != u.dtype:
            raise ShapeError(
                f"{name} must be {shape} in the dtype of u and not empty, for u of shape "
                f"{tuple(u.shape)} and {u.dtype}, got {tuple(tensor.shape)} and {tensor.dtype}."
            )


def _blocks_kept(u: Tensor, A: Tensor, save_states: bool) -> int:
    groups, batch, length, channels = u.shape
    sizes = block_sizes(A.shape[0], groups, batch, length, channels, u.device.type)
    return -(-length // sizes.steps) if save_states else 0


def _empty(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, save_states: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(u), state_store(_blocks_kept(u, A, save_states), u.shape[1], A)


def _backward(
    grad: Tensor, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, states: Tensor
) -> list[Tensor]:
    """Gradients of u, dt, A, B and C."""
    _check_grouped(u, dt, A, B, C)
    groups, batch, length, channels = u.shape
    sizes = block_sizes(A.shape[0], groups, batch, length, channels, u.device.type)
    saved = (_blocks_kept(u, A, True), A.shape[0], groups, batch, channels)
    check_backward(grad, u.shape, states, saved)
    times = slices(length, sizes.steps)
    scratch = Scratch.shared(u)
    gradients = [tensor.new_zeros(tensor.shape) for tensor in (u, dt, A, B, C)]
    grad_u, grad_dt, grad_A, grad_B, grad_C = gradients
    for part, images in sequences(sizes, groups, batch):
        carry = torch.zeros_like(states[0, :, part, images])
        for index in reversed(range(len(times))):
            at = (part, images, times[index])
            each = (slice(None), *at)
            state = states[index, :, part, images]
            block = scan_block_backward(
                grad[at],
                u[at],
                dt[at],
                A[:, part],
                B[each],
                C[each],
                state,
                carry,
                sizes.states,
                scratch,
            )
            grad_u[at], grad_dt[at] = block.inputs, block.dt
            grad_B[each], grad_C[each] = block.B, block.C
            grad_A[:, part] += block.A
    return gradients


_scan = register_scan(
    "chunked_scan",
    "Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C",
    _forward,
    _empty,
    _backward,
)


def ss2d_chunked(
    x: Tensor,
    projected: Tensor,
    routes: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    merge: bool = True,
) -> Tensor:
    """The 2-D scan; see :func:`qmamba.ops.ss2d` for the arguments.

    Every pixel must occur exactly once in each route, as in those of
    :func:`qmamba.ops.scan_routes`.

    Raises:
        ShapeError: the map has no pixel or the routes have no step.
    """
    _require_steps(min(x.shape[1], routes.shape[-1]), "map")
    tensors = (x, projected, dt_weight, dt_bias, A, D)
    y, _ = map_scan(x, projected, routes, dt_weight, dt_bias, A, D, merge, needs_gradient(*tensors))
    return y


def _require_steps(steps: int, what: str) -> None:
    if steps < 1:
        raise ShapeError(
            f"A scan needs at least 1 step but the {what} is empty; give a larger one."
        )
