"""The selective scan over a feature map as a layer, and SS2D with what stands around it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from qmamba.nn.gate import GatedMerge
from qmamba.nn.initialization import linear, module_kwargs, state_decay, step_bias, uniform
from qmamba.nn.layers import ChannelLastConv2d, LayerNorm, convolved_silu, gated
from qmamba.ops import layers, scan_routes, ss2d

ROUTES = 4


class SelectiveScan(nn.Module):
    """The parameters of a scan along a number of routes, and the scan itself.

    Parameter names and shapes are those of the official checkpoints.

    Args:
        inner: channels of the map.
        state_size: states per channel and route.
        dt_rank: rank of the step-size projection; ``None`` is ``ceil(inner / 16)``.
        routes: how many there are.

    Source: ``Selective_Scan`` of MambaIRv2 for one route; VMamba for four.
    """

    def __init__(
        self, inner: int, *, state_size: int, dt_rank: int | None = None, routes: int = 1
    ) -> None:
        super().__init__()
        rank = math.ceil(inner / 16) if dt_rank is None else dt_rank
        self._add_parameters(inner, state_size, rank, routes)

    def _add_parameters(self, inner: int, state_size: int, rank: int, routes: int) -> None:
        self.state_size, self.routes = state_size, routes
        self.x_proj_weight = uniform(routes, rank + 2 * state_size, inner, bound=inner**-0.5)
        self.dt_projs_weight = uniform(routes, inner, rank, bound=rank**-0.5)
        self.dt_projs_bias = step_bias(routes, inner)
        self.A_logs = state_decay(routes * inner, state_size)
        self.Ds = nn.Parameter(torch.ones(routes * inner, **module_kwargs()))

    def scan_along(
        self, pixels: Tensor, routes: Tensor, *, prompts: Tensor | None = None, merge: bool = True
    ) -> Tensor:
        """Scan a map along routes.

        Args:
            pixels: ``(batch, pixels, inner)`` in raster order.
            routes: as for :func:`qmamba.ops.ss2d`.
            prompts: ``(batch, pixels, routes, states)``, added to what the state of a pixel is read
                by (C of the scan); ``None`` for nothing.
            merge: sum the routes; otherwise keep them apart.

        Returns:
            ``(batch, pixels, inner)``, or ``(batch, routes, pixels, inner)`` unmerged.
        """
        # The projections work on one pixel at a time, so they need no permuted copies of the map.
        projected = layers.linear(pixels, self.x_proj_weight.flatten(0, 1))
        projected = projected.unflatten(-1, (self.routes, -1))
        if prompts is not None:
            low_and_B, C = projected[..., : -self.state_size], projected[..., -self.state_size :]
            projected = torch.cat([low_and_B, C + prompts.to(C.dtype)], dim=-1)
        return ss2d(
            pixels,
            projected,
            routes,
            self.dt_projs_weight,
            self.dt_projs_bias,
            -torch.exp(_at_least_float32(self.A_logs)).unflatten(0, (self.routes, -1)),
            _at_least_float32(self.Ds).unflatten(0, (self.routes, -1)),
            merge=merge,
        )


class SS2D(SelectiveScan):
    """Linear, depthwise convolution, SiLU, scan along four routes, norm, linear.

    Parameter names and shapes are those of the official checkpoints, VMamba's (``layers.*.op``) or,
    with ``z_gate`` and ``conv_bias``, MambaIR's (``*.self_attention``).

    Args:
        dim: channels of the input and output.
        state_size: states per channel and route.
        expansion: inner channels as a multiple of ``dim``.
        dt_rank: rank of the step-size projection; ``None`` is ``ceil(dim / 16)``.
        window: side of the local windows that the routes walk through; 1 is the plain cross scan.
        route_gate: weigh each route by a channel gate before the sum (LQMamba).
        conv_size: side of the depthwise convolution, odd.
        conv_bias: give the depthwise convolution a bias.
        z_gate: multiply the normalized scan by the SiLU of a second linear map of the input.

    Source: VMamba, forward type ``v05_noz``; QMamba paper, section on the scan mechanism; MambaIR.
    """

    def __init__(
        self,
        dim: int,
        *,
        state_size: int = 1,
        expansion: float = 2.0,
        dt_rank: int | None = None,
        window: int = 1,
        route_gate: bool = False,
        conv_size: int = 3,
        conv_bias: bool = False,
        z_gate: bool = False,
    ) -> None:
        # Layers in front of the scan draw their weights first, so that a seed keeps its meaning.
        nn.Module.__init__(self)
        inner = int(expansion * dim)
        rank = math.ceil(dim / 16) if dt_rank is None else dt_rank
        self.window = window
        self.z_gate = z_gate
        self.in_proj = linear(dim, 2 * inner if z_gate else inner, bias=False)
        self.conv2d = ChannelLastConv2d(
            inner, inner, conv_size, padding=conv_size // 2, groups=inner, bias=conv_bias
        )
        self._add_parameters(inner, state_size, rank, ROUTES)
        self.multi_scan = GatedMerge(inner) if route_gate else None
        self.out_norm = LayerNorm(inner)
        self.out_proj = linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scan a map.

        Args:
            x: ``(batch, height, width, dim)``.

        Returns:
            ``(batch, height, width, dim)``.
        """
        height, width = x.shape[1:3]
        x, *gate = self.in_proj(x).chunk(2 if self.z_gate else 1, dim=-1)
        scanned = self.scan(convolved_silu(self.conv2d, x)).unflatten(1, (height, width))
        return self.out_proj(
            gated(self.out_norm, scanned, gate[0]) if gate else self.out_norm(scanned)
        )

    def scan(self, x: Tensor) -> Tensor:
        """The scan alone: ``(batch, height, width, inner)`` to ``(batch, pixels, inner)``."""
        height, width = x.shape[1:3]
        routes = scan_routes(height, width, self.window, x.device)
        scanned = self.scan_along(x.flatten(1, 2), routes, merge=self.multi_scan is None)
        return scanned if self.multi_scan is None else self.multi_scan(scanned)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
