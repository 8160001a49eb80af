"""Networks as they are traced: images in [0, 1] in, scores or images out, the scan as one node."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.interop.onnx.functions import (
    DOMAIN,
    MERGED,
    MERGED_GIVEN_DELTA,
    ROUTES,
    ROUTES_GIVEN_DELTA,
    VERSION,
)
from qmamba.interop.onnx.simulation import GraphOperands, trace_quantizers
from qmamba.models import IMAGE_MEAN, IMAGE_STD, Network, ScoreScale
from qmamba.nn import SS2D
from qmamba.nn.scale_shift import without_scale_shift
from qmamba.nn.ss2d import ROUTES as ROUTE_COUNT
from qmamba.quantization.ss2d import QuantizedSS2D


class ScoreGraph(nn.Module):
    """Images to opinion scores, normalization and scale inside."""

    def __init__(self, network: Network, scale: ScoreScale) -> None:
        super().__init__()
        self.network = network
        self.scale = scale
        self.register_buffer(
            "mean", torch.tensor(IMAGE_MEAN, dtype=torch.float32, device="cpu").view(1, 3, 1, 1)
        )
        self.register_buffer(
            "deviation", torch.tensor(IMAGE_STD, dtype=torch.float32, device="cpu").view(1, 3, 1, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, 3, height, width)`` in [0, 1] to ``(batch,)``, not clamped to the scale."""
        mean, deviation = cast(Tensor, self.mean), cast(Tensor, self.deviation)
        outputs = self.network((image - mean) / deviation)
        return self.scale.target_mean + self.scale.target_std * outputs[:, 0]


class RestorationGraph(nn.Module):
    """Images to restored images, clamped to [0, 1]."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to the same with the sides times the scale."""
        restored: Tensor = self.network(image)
        return restored.clamp(0, 1)


class ConditionedGraph(RestorationGraph):
    """Images and the noise in them to restored images, clamped to [0, 1]."""

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:  # type: ignore[override]
        """As without noise, whose map is ``(batch, 1, height, width)``."""
        return super().forward(torch.cat([image, noise], dim=1))


class ExactOperands(nn.Module):
    """What a scan in full precision computes from its map: operands of the node of the scan."""

    given_delta = False

    def __init__(self, layer: SS2D) -> None:
        super().__init__()
        routes = layer.x_proj_weight.shape[0]
        constants = {
            "projection": layer.x_proj_weight.flatten(0, 1),
            "dt_weight": layer.dt_projs_weight,
            "dt_bias": layer.dt_projs_bias,
            "A": -torch.exp(layer.A_logs.float()).unflatten(0, (routes, -1)),
            "D": layer.Ds.unflatten(0, (routes, -1)),
        }
        for name, value in constants.items():
            self.register_buffer(name, value.detach().clone())

    def forward(self, x: Tensor) -> list[Tensor]:
        """Of ``(batch, height, width, channels)``: in the order of the node, constants included."""
        names = ("dt_weight", "dt_bias", "A", "D")
        constants = [cast(Tensor, getattr(self, name)) for name in names]
        return [x, F.linear(x, cast(Tensor, self.projection)), *constants]


class GraphSS2D(nn.Module):
    """:class:`~qmamba.nn.SS2D` with its scan as one symbolic node, for tracing alone."""

    def __init__(self, layer: SS2D) -> None:
        super().__init__()
        self.window, self.z_gate, self.states = layer.window, layer.z_gate, layer.state_size
        self.in_proj, self.conv2d = layer.in_proj, layer.conv2d
        self.multi_scan = layer.multi_scan
        self.out_norm, self.out_proj = layer.out_norm, layer.out_proj
        self.operands: GraphOperands | ExactOperands
        if isinstance(layer, QuantizedSS2D):
            self.operands = GraphOperands(layer)
        else:
            self.operands = ExactOperands(layer)
        names = {
            (False, True): MERGED,
            (False, False): ROUTES,
            (True, True): MERGED_GIVEN_DELTA,
            (True, False): ROUTES_GIVEN_DELTA,
        }
        self.function = names[self.operands.given_delta, self.multi_scan is None]
        """Name of the node."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_proj(x)
        gate = None
        if self.z_gate:
            x, gate = x.chunk(2, dim=-1)
        y = self.out_norm(self._scan(F.silu(self.conv2d(x))))
        return self.out_proj(y if gate is None else y * F.silu(gate))

    def _scan(self, x: Tensor) -> Tensor:
        shape = list(x.shape)
        if self.multi_scan is not None:
            shape.insert(1, ROUTE_COUNT)
        scanned: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{self.function}",
            self.operands(x),
            {"window": self.window},
            dtype=x.dtype,
            shape=shape,
            version=VERSION,
        )
        if self.multi_scan is None:
            return scanned
        return self.multi_scan(scanned.flatten(2, 3)).unflatten(1, x.shape[1:3])


def traceable(model: Network) -> Network:
    """A copy of a network in float32 on the CPU that can be traced; scales are folded in.

    A quantized one is converted already.
    """
    network = copy.deepcopy(without_scale_shift(model)).cpu().float().eval().requires_grad_(False)
    for parent, name, layer in list(_scans(network)):
        setattr(parent, name, GraphSS2D(layer))
    trace_quantizers(network)
    return network


def scan_layers(network: nn.Module) -> list[GraphSS2D]:
    """The scans of a traceable network."""
    return [layer for layer in network.modules() if isinstance(layer, GraphSS2D)]


def _scans(network: nn.Module) -> Iterator[tuple[nn.Module, str, SS2D]]:
    for parent in network.modules():
        for name, layer in parent.named_children():
            if isinstance(layer, SS2D):
                yield parent, name, layer
