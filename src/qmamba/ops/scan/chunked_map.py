"""The 2-D scan of :mod:`qmamba.ops.scan.chunked`: routes are read, scanned and merged in blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.ops.scan.arguments import check_backward, check_map_scan
from qmamba.ops.scan.naive import state_dtype
from qmamba.ops.scan.operator import register_scan
from qmamba.ops.scan.routes import PADDING, require_routes
from qmamba.ops.scan.state_space import (
    Scratch,
    block_sizes,
    scan_block,
    scan_block_backward,
    sequences,
    slices,
    softplus_,
    state_store,
)


def _forward(
    x: Tensor,
    projected: Tensor,
    routes: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    merge: bool,
    save_states: bool,
) -> tuple[Tensor, Tensor]:
    """The output in the dtype of ``x``, and the state before each block where it is to be saved."""
    with torch.autocast(x.device.type, enabled=False):
        scan = _MapScan(x, projected, routes, dt_weight, dt_bias, A, D, merge)
        states = scan.A.new_empty(_states_shape(x, routes, A, save_states))
        return scan.forward(states if save_states else None), states


def _states_shape(x: Tensor, routes: Tensor, A: Tensor, saved: bool) -> tuple[int, ...]:
    batch, _, channels = x.shape
    (count, steps), states = routes.shape[-2:], A.shape[2]
    sizes = block_sizes(states, count, batch, steps, channels, x.device.type)
    return (-(-steps // sizes.steps) if saved else 0, states, count, batch, channels)


def _empty(
    x: Tensor,
    projected: Tensor,
    routes: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    merge: bool,
    save_states: bool,
) -> tuple[Tensor, Tensor]:
    batch, pixels, channels = x.shape
    y = x.new_empty((batch, pixels, channels) if merge else (batch, A.shape[0], pixels, channels))
    shape = _states_shape(x, routes, A, save_states)
    return y, A.new_empty(shape, dtype=state_dtype(x.dtype))


def _backward(
    grad: Tensor,
    x: Tensor,
    projected: Tensor,
    routes: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    merge: bool,
    states: Tensor,
) -> list[Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        scan = _MapScan(x, projected, routes, dt_weight, dt_bias, A, D, merge)
        batch, pixels, channels = x.shape
        y = (batch, pixels, channels) if merge else (batch, A.shape[0], pixels, channels)
        check_backward(grad, y, states, _states_shape(x, routes, A, True))
        grad_x, grad_projected, *parameters = scan.backward(grad, states)
    return [grad_x, grad_projected, states.new_empty(0), *parameters]


map_scan = register_scan(
    "chunked_map_scan",
    "Tensor x, Tensor projected, Tensor routes, Tensor dt_weight, Tensor dt_bias, Tensor A, "
    "Tensor D, bool merge",
    _forward,
    _empty,
    _backward,
)
"""The output in the dtype of ``x``, and the state before each block where it is to be saved."""


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
        check_map_scan(x, projected, routes, dt_weight, dt_bias, A, D, may_be_empty=True)
        require_routes(routes, x.shape[1])
        self.arguments = (x, projected, dt_weight, dt_bias, A, D)
        self.merge = merge
        self.dtype = state_dtype(x.dtype)
        self.batch, self.pixels, self.channels = x.shape
        self.count, steps = routes.shape[-2:]
        self.rank, states = dt_weight.shape[2], A.shape[2]
        self.sizes = block_sizes(
            states, self.count, self.batch, steps, self.channels, x.device.type
        )
        self.times = slices(steps, self.sizes.steps)

        self.padded = steps != self.pixels
        self.map_rows = self.batch * self.pixels
        self.route_rows = self.map_rows * self.count
        route = torch.arange(self.count, dtype=torch.int64, device=x.device).view(-1, 1, 1)
        image = torch.arange(self.batch, dtype=torch.int64, device=x.device).view(-1, 1)
        # Routes first; one route for all images, or each image's own.
        pixel = (routes[None] if routes.dim() == 2 else routes).transpose(0, 1).long()
        self.row_of_map = image * self.pixels + pixel
        self.row_of_projection = self.row_of_map * self.count + route
        self.row_of_y = self.row_of_map
        if not merge:
            self.row_of_y = (image * self.count + route) * self.pixels + pixel
        self.y_rows = self.map_rows if merge else self.route_rows
        if self.padded:
            outside = pixel == PADDING
            self.row_of_y = self.row_of_y.masked_fill(outside, self.y_rows)
            self.row_of_map.masked_fill_(outside, self.map_rows)
            self.row_of_projection.masked_fill_(outside, self.route_rows)

        self.maps = self._source(x)
        self.projections = self._source(projected)
        self.weight = dt_weight.to(self.dtype)
        self.bias = dt_bias.to(self.dtype)[:, None]
        self.A = A.to(self.dtype).permute(2, 0, 1).contiguous()
        self.D = D.to(self.dtype)
        self.scratch = Scratch.shared(self.A)

    def forward(self, states: Tensor | None) -> Tensor:
        """The output in the dtype of ``x``; fills ``states`` where given."""
        last = state_store(1, self.batch, self.A)[0].zero_()
        y = self._target(self.y_rows, self.channels)
        for part, images in sequences(self.sizes, self.count, self.batch):
            state = last[:, part, images]
            for index, time in enumerate(self.times):
                if states is not None:
                    states[index, :, part, images] = state
                at = (part, images, time)
                u, low, B, C = self._read(at)
                dt = softplus_(self._project(low, part))
                out = scan_block(
                    u, dt, self.A[:, part], B, C, state, self.sizes.states, self.scratch
                )
                if self.merge:
                    _add_routes(y, self.row_of_y[at], out)
                else:
                    y.index_copy_(0, self.row_of_y[at].flatten(), out.flatten(0, 2))
        x = self.maps[: self.map_rows].view(self.batch, self.pixels, self.channels)
        if self.merge:
            y = y[: self.y_rows].view(x.shape).addcmul_(x, self.D.sum(0))
        else:
            y = y[: self.y_rows].view(self.batch, self.count, self.pixels, self.channels)
            y.addcmul_(x[:, None], self.D[:, None])
        return y.to(self.arguments[0].dtype)

    def backward(self, grad: Tensor, states: Tensor) -> list[Tensor]:
        """Gradients of x, projected, dt_weight, dt_bias, A and D, each in its own dtype."""
        grads = self._source(grad)
        grad_x = self._target(self.map_rows, self.channels)
        grad_projected = self._target(self.route_rows, self.projections.shape[1])
        grad_weight, grad_bias = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        grad_A, grad_D = torch.zeros_like(self.A), torch.zeros_like(self.D)
        for part, images in sequences(self.sizes, self.count, self.batch):
            carry = torch.zeros_like(states[0, :, part, images])
            for index in reversed(range(len(self.times))):
                at = (part, images, self.times[index])
                u, low, B, C = self._read(at)
                z = self._project(low, part)
                dt = softplus_(self.scratch.take("dt", *z.shape).copy_(z))
                grad_y = self._take_rows("grad y", grads, self.row_of_y[at])
                block = scan_block_backward(
                    grad_y,
                    u,
                    dt,
                    self.A[:, part],
                    B,
                    C,
                    states[index, :, part, images],
                    carry,
                    self.sizes.states,
                    self.scratch,
                )
                grad_z = block.dt.mul_(z.sigmoid_()).flatten(1, 2)
                grad_weight[part] += grad_z.mT @ low.flatten(1, 2)
                grad_bias[part] += grad_z.sum(1, keepdim=True)
                grad_A[:, part] += block.A
                grad_D[part] += torch.mul(grad_y, u, out=z).sum((1, 2))
                block.inputs.addcmul_(grad_y, self.D[part, None, None])
                _add_routes(grad_x, self.row_of_map[at], block.inputs)
                grad_low = (grad_z @ self.weight[part]).view(low.shape)
                pieces = (grad_low, block.B.movedim(0, -1), block.C.movedim(0, -1))
                rows = self.row_of_projection[at].flatten()
                grad_projected.index_copy_(0, rows, torch.cat(pieces, dim=-1).flatten(0, 2))
        gradients = (
            grad_x[: self.map_rows],
            grad_projected[: self.route_rows],
            grad_weight,
            grad_bias,
            grad_A.permute(1, 2, 0),
            grad_D,
        )
        return [
            gradient.reshape(argument.shape).to(argument.dtype).contiguous()
            for gradient, argument in zip(gradients, self.arguments, strict=True)
        ]

    def _source(self, table: Tensor) -> Tensor:
        rows = table.to(self.dtype).reshape(-1, table.shape[-1])
        return F.pad(rows, (0, 0, 0, 1)) if self.padded else rows

    def _target(self, rows: int, channels: int) -> Tensor:
        return self.A.new_zeros(rows + self.padded, channels)

    def _read(self, at: tuple[slice, slice, slice]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs and low-rank dt with the channels last, B and C with the states first."""
        u = self._take_rows("u", self.maps, self.row_of_map[at])
        projections = self._take_rows("projections", self.projections, self.row_of_projection[at])
        low, B, C = projections.tensor_split([self.rank, self.rank + self.A.shape[0]], dim=-1)
        return u, low, B.movedim(-1, 0), C.movedim(-1, 0)

    def _take_rows(self, name: str, table: Tensor, rows: Tensor) -> Tensor:
        taken = self.scratch.take(name, rows.numel(), table.shape[1])
        return torch.index_select(table, 0, rows.flatten(), out=taken).view(*rows.shape, -1)

    def _project(self, low: Tensor, part: slice) -> Tensor:
        """dt before the softplus."""
        z = self.scratch.take("z", *low.shape[:3], self.channels)
        weight = self.weight[part].mT
        torch.baddbmm(self.bias[part], low.flatten(1, 2), weight, out=z.flatten(1, 2))
        return z


def _add_routes(total: Tensor, rows: Tensor, values: Tensor) -> None:
    # One route at a time: no row occurs twice in a call, so the sum has one order everywhere.
    for route in range(rows.shape[0]):
        total.index_add_(0, rows[route].flatten(), values[route].flatten(0, 1))
