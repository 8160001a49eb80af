"""The selective scan in plain PyTorch operations: any device, any float dtype, no compiled code.

Trades, against the definition in :mod:`qmamba.ops.naive`: the sequence is cut into blocks, each
block into chunks that advance together (:mod:`qmamba.ops.recurrence`), so thousands of small
operations become tens of wide ones. Scratch memory is one block, whatever the length. For training,
the tape holds the arguments and one state per block; the backward pass computes the rest anew and is
itself not differentiable.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from qmamba.errors import ShapeError
from qmamba.ops.naive import state_dtype
from qmamba.ops.routes import PADDING
from qmamba.ops.state_space import (
    Scratch,
    block_sizes,
    scan_block,
    scan_block_backward,
    sequences,
    softplus_,
    state_store,
    step_slices,
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
            A.to(dtype).unflatten(0, (groups, -1)).transpose(1, 2).contiguous(),
            _groups_first(B.to(dtype), groups),
            _groups_first(C.to(dtype), groups),
        )
        if _tracked(arguments):
            y: Tensor = _SelectiveScan.apply(*arguments)
        else:
            y, _ = _scan_sequences(*arguments, keep_states=False)
        y = y.permute(1, 0, 3, 2).reshape(batch, channels, length)
        if D is not None:
            y = torch.addcmul(y, D.to(dtype)[:, None], inputs)
    return y.to(u.dtype)


def _channels_last(sequence: Tensor, groups: int) -> Tensor:
    """``(batch, channels, length)`` to ``(groups, batch, length, channels of a group)``."""
    return sequence.unflatten(1, (groups, -1)).permute(1, 0, 3, 2).contiguous()


def _groups_first(matrix: Tensor, groups: int) -> Tensor:
    """``(batch, [groups,] states, length)`` to ``(groups, batch, length, states)``."""
    batch, length = matrix.shape[0], matrix.shape[-1]
    return matrix.reshape(batch, groups, -1, length).permute(1, 0, 3, 2)


def _scan_sequences(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, keep_states: bool
) -> tuple[Tensor, Tensor | None]:
    """The scan without its skip, on the tensors of ``scan_block`` at full length."""
    groups, batch, length, channels = u.shape
    sizes = block_sizes(groups, batch, length, channels, A.shape[1], u.device.type)
    times = step_slices(sizes, length)
    scratch = Scratch(u)
    states = state_store(len(times), batch, A) if keep_states else None
    y = torch.empty_like(u)
    for part, images in sequences(sizes, groups, batch):
        state = torch.zeros_like(state_store(1, batch, A)[0, part, images])
        for index, time in enumerate(times):
            if states is not None:
                states[index, part, images] = state
            at = (part, images, time)
            y[at] = scan_block(u[at], dt[at], A[part], B[at], C[at], state, sizes.states, scratch)
    return y, states


class _SelectiveScan(torch.autograd.Function):
    """The scan without its skip; saves its arguments and one state per block."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        y, states = _scan_sequences(u, dt, A, B, C, keep_states=True)
        ctx.save_for_backward(u, dt, A, B, C, states)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        u, dt, A, B, C, states = ctx.saved_tensors
        groups, batch, length, channels = u.shape
        sizes = block_sizes(groups, batch, length, channels, A.shape[1], u.device.type)
        times = step_slices(sizes, length)
        scratch = Scratch(u)
        grad_u, grad_dt = torch.empty_like(u), torch.empty_like(dt)
        grad_A, grad_B, grad_C = torch.zeros_like(A), torch.empty_like(B), torch.empty_like(C)
        for part, images in sequences(sizes, groups, batch):
            carry = torch.zeros_like(states[0, part, images])
            for index in reversed(range(len(times))):
                at = (part, images, times[index])
                block = scan_block_backward(
                    grad[at],
                    u[at],
                    dt[at],
                    A[part],
                    B[at],
                    C[at],
                    states[index, part, images],
                    carry,
                    sizes.states,
                    scratch,
                )
                grad_u[at], grad_dt[at] = block.inputs, block.dt
                grad_B[at], grad_C[at] = block.B, block.C
                grad_A[part] += block.A
        return grad_u, grad_dt, grad_A, grad_B, grad_C


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
    _require_steps(min(x.shape[1], routes.shape[1]), "map")
    with torch.autocast(x.device.type, enabled=False):
        if _tracked((x, projected, dt_weight, dt_bias, A, D)):
            y: Tensor = _Scan2d.apply(x, projected, routes, dt_weight, dt_bias, A, D, merge)
            return y
        scan = _MapScan(x, projected, routes, dt_weight, dt_bias, A, D, merge)
        return scan.forward(keep_states=False)


class _Scan2d(torch.autograd.Function):
    """Saves its arguments, in their own dtype, and one state per block."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        projected: Tensor,
        routes: Tensor,
        dt_weight: Tensor,
        dt_bias: Tensor,
        A: Tensor,
        D: Tensor,
        merge: bool,
    ) -> Tensor:
        scan = _MapScan(x, projected, routes, dt_weight, dt_bias, A, D, merge)
        y = scan.forward(keep_states=True)
        ctx.save_for_backward(x, projected, routes, dt_weight, dt_bias, A, D, scan.states)
        ctx.merge = merge
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, projected, routes, dt_weight, dt_bias, A, D, states = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            scan = _MapScan(x, projected, routes, dt_weight, dt_bias, A, D, ctx.merge)
            gradients = iter(scan.backward(grad, states))
        # One gradient for each argument but the routes, which come third, and the flag at the end.
        return (next(gradients), next(gradients), None, *gradients, None)


class _MapScan:
    """The 2-D scan on prepared arguments, block by block.

    The maps of the batch are rows of one table, and each step of a route touches one row. Padding
    steps touch a surplus row at the end: zero when read, discarded when written. That needs neither
    a mask nor a look at the values of the routes.
    """

    def __init__(
        self,
        x: Tensor,
        projected: Tensor,
        routes: Tensor,
        dt_weight: Tensor,
        dt_bias: Tensor,
        A: Tensor,
        D: Tensor,
        merge: bool,
    ) -> None:
        self.arguments = (x, projected, dt_weight, dt_bias, A, D)
        self.merge = merge
        self.dtype = state_dtype(x.dtype)
        self.batch, self.pixels, self.channels = x.shape
        self.count, steps = routes.shape
        self.rank, self.state_size = dt_weight.shape[2], A.shape[2]
        self.states: Tensor | None = None
        self.sizes = block_sizes(
            self.count, self.batch, steps, self.channels, self.state_size, x.device.type
        )
        self.times = step_slices(self.sizes, steps)

        self.padded = steps != self.pixels
        self.map_rows = self.batch * self.pixels
        route = torch.arange(self.count, device=x.device).view(-1, 1, 1)
        image = torch.arange(self.batch, device=x.device).view(-1, 1)
        pixel = routes[:, None].long()
        self.row_of_map = image * self.pixels + pixel
        self.row_of_route = self.row_of_map * self.count + route
        self.row_of_output = (image * self.count + route) * self.pixels + pixel
        if self.padded:
            outside = pixel == PADDING
            self.row_of_map.masked_fill_(outside, self.map_rows)
            self.row_of_route.masked_fill_(outside, self.map_rows * self.count)
            self.row_of_output.masked_fill_(outside, self.map_rows * self.count)

        self.maps = self._source(x)
        self.projections = self._source(projected)
        self.weight = dt_weight.to(self.dtype)
        self.bias = dt_bias.to(self.dtype)[:, None]
        self.A = A.to(self.dtype).transpose(1, 2).contiguous()
        self.D = D.to(self.dtype)
        self.scratch = Scratch(self.A)

    def forward(self, keep_states: bool) -> Tensor:
        """The output in the dtype of ``x``; fills ``states`` where they are to be kept."""
        states = state_store(len(self.times) if keep_states else 1, self.batch, self.A)
        y = self._target(self.map_rows if self.merge else self.map_rows * self.count, self.channels)
        for part, images in sequences(self.sizes, self.count, self.batch):
            state = torch.zeros_like(states[0, part, images])
            for index, time in enumerate(self.times):
                if keep_states:
                    states[index, part, images] = state
                at = (part, images, time)
                u, low, B, C = self._read(at)
                dt = softplus_(self._project(low, part))
                out = scan_block(u, dt, self.A[part], B, C, state, self.sizes.states, self.scratch)
                if self.merge:
                    self._add_routes(y, self.row_of_map[at], out)
                else:
                    y.index_copy_(0, self.row_of_output[at].flatten(), out.flatten(0, 2))
        self.states = states if keep_states else None
        x = self.maps[: self.map_rows]
        if self.merge:
            y = y[: self.map_rows].addcmul_(x, self.D.sum(0))
            y = y.view(self.batch, self.pixels, self.channels)
        else:
            y = y[: self.map_rows * self.count]
            y = y.view(self.batch, self.count, self.pixels, self.channels)
            y.addcmul_(x.view(self.batch, 1, self.pixels, self.channels), self.D[:, None])
        return y.to(self.arguments[0].dtype)

    def backward(self, grad: Tensor, states: Tensor) -> list[Tensor]:
        """Gradients of x, projected, dt_weight, dt_bias, A and D, each in its own dtype."""
        grads = self._source(grad)
        rows_of_grad = self.row_of_map if self.merge else self.row_of_output
        grad_x = self._target(self.map_rows, self.channels)
        grad_projected = self._target(self.map_rows * self.count, self.rank + 2 * self.state_size)
        grad_weight, grad_bias = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        grad_A, grad_D = torch.zeros_like(self.A), torch.zeros_like(self.D)
        for part, images in sequences(self.sizes, self.count, self.batch):
            carry = torch.zeros_like(states[0, part, images])
            for index in reversed(range(len(self.times))):
                at = (part, images, self.times[index])
                u, low, B, C = self._read(at)
                z = self._project(low, part)
                dt = softplus_(self.scratch.take("dt", *z.shape).copy_(z))
                grad_y = self._take_rows("grad y", grads, rows_of_grad[at])
                block = scan_block_backward(
                    grad_y,
                    u,
                    dt,
                    self.A[part],
                    B,
                    C,
                    states[index, part, images],
                    carry,
                    self.sizes.states,
                    self.scratch,
                )
                grad_z = block.dt.mul_(z.sigmoid_()).flatten(1, 2)
                grad_low = (grad_z @ self.weight[part]).view_as(low)
                grad_weight[part] += grad_z.mT @ low.flatten(1, 2)
                grad_bias[part] += grad_z.sum(1, keepdim=True)
                grad_A[part] += block.A
                grad_D[part] += torch.mul(grad_y, u, out=z).sum((1, 2))
                block.inputs.addcmul_(grad_y, self.D[part, None, None])
                self._add_routes(grad_x, self.row_of_map[at], block.inputs)
                grad_projected.index_copy_(
                    0,
                    self.row_of_route[at].flatten(),
                    torch.cat([grad_low, block.B, block.C], dim=-1).flatten(0, 2),
                )
        gradients = (
            grad_x[: self.map_rows],
            grad_projected[: self.map_rows * self.count],
            grad_weight,
            grad_bias,
            grad_A.mT,
            grad_D,
        )
        return [
            gradient.reshape(argument.shape).to(argument.dtype)
            for gradient, argument in zip(gradients, self.arguments, strict=True)
        ]

    def _source(self, table: Tensor) -> Tensor:
        rows = table.to(self.dtype).reshape(-1, table.shape[-1])
        return F.pad(rows, (0, 0, 0, 1)) if self.padded else rows

    def _target(self, rows: int, channels: int) -> Tensor:
        return self.A.new_zeros(rows + self.padded, channels)

    def _read(self, at: tuple[slice, slice, slice]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs, low-rank dt, B and C of a block, each ``(routes, batch, steps, ...)``."""
        u = self._take_rows("u", self.maps, self.row_of_map[at])
        projections = self._take_rows("projections", self.projections, self.row_of_route[at])
        low, B, C = projections.split([self.rank, self.state_size, self.state_size], dim=-1)
        return u, low, B, C

    def _take_rows(self, name: str, table: Tensor, rows: Tensor) -> Tensor:
        taken = self.scratch.take(name, rows.numel(), table.shape[1])
        return torch.index_select(table, 0, rows.flatten(), out=taken).view(*rows.shape, -1)

    def _project(self, low: Tensor, part: slice) -> Tensor:
        """dt before the softplus."""
        z = self.scratch.take("z", *low.shape[:3], self.channels)
        torch.baddbmm(self.bias[part], low.flatten(1, 2), self.weight[part].mT, out=z.flatten(1, 2))
        return z

    def _add_routes(self, total: Tensor, rows: Tensor, values: Tensor) -> None:
        # One route at a time: no row occurs twice in a call, so the sum has one order everywhere.
        for route in range(rows.shape[0]):
            total.index_add_(0, rows[route].flatten(), values[route].flatten(0, 1))


def _tracked(tensors: tuple[Tensor, ...]) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _require_steps(steps: int, what: str) -> None:
    if steps < 1:
        raise ShapeError(
            f"A scan needs at least 1 step, but the {what} is empty; give a larger one."
        )
