"""SS2D prepared for inference, up to its last linear layer."""

from __future__ import annotations

import copy
from functools import partial
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.inference.bands import Bands, margin_of
from qmamba.inference.layers import Convolution, Layer, LayerNorm
from qmamba.nn import SS2D
from qmamba.ops import scan_routes
from qmamba.ops.native.memory import Buffers
from qmamba.ops.native.prepared_scan import inference_scan


class Mixed(NamedTuple):
    """What a mixer gives to the last linear layer of its SS2D."""

    map: Tensor
    """``(batch, height, width, inner)``."""
    qparams: Tensor | None
    """Quantization parameters of each image's map where the scan has measured them, else None."""


class Scan(Protocol):
    """The scan of a mixer."""

    def __call__(
        self, pixels: Tensor, projected: Tensor, routes: Tensor, gate: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Pixels ``(batch, length, inner)``, projected ones ``(batch, length, routes, parameters)``
        and the gate to the merged pixels and their quantization parameters, if they are known."""


class Mixer:
    """Linear layer, convolution, projection, scan, norm and gate of an SS2D.

    Each map is given up as soon as the next one exists, because they decide the peak of memory.

    Args:
        enter: the first linear layer, or None where the caller has applied it.
        convolution: on maps ``(batch, height, width, inner)``.
        project: pixels to the parameters of the scan, ``(batch, length, routes * parameters)``.
        scan: of the routes.
        routes: number of routes.
        window: side of the local windows of the routes in pixels.
    """

    def __init__(
        self,
        enter: Layer | None,
        convolution: Layer,
        project: Layer,
        scan: Scan,
        *,
        routes: int,
        window: int,
    ) -> None:
        self._enter, self._convolution, self._project = enter, convolution, project
        self._scan = scan
        self._routes, self._window = routes, window

    def __call__(self, x: Tensor, gate: Tensor | None = None) -> Mixed:
        """Scan a map.

        Args:
            x: ``(batch, height, width, channels)``, which may be part of the channels of a map.
            gate: ``(batch, height, width, inner)``, whose SiLU multiplies the result, or None.
        """
        height, width = x.shape[1:3]
        entered = x if self._enter is None else self._enter(x)
        del x
        pixels = self._convolution(entered).flatten(1, 2)
        del entered
        projected = self._project(pixels).unflatten(-1, (self._routes, -1))
        routes = scan_routes(height, width, self._window)
        flat_gate = None if gate is None else gate.flatten(1, 2)
        y, qparams = self._scan(pixels, projected, routes, flat_gate)
        return Mixed(y.unflatten(1, (height, width)), qparams)


def plain_mixer(
    layer: SS2D,
    dtype: torch.dtype,
    enter: Layer,
    project: Layer,
    size: tuple[int, int],
    buffers: Buffers | None = None,
) -> Mixer:
    """The mixer of an SS2D in full precision.

    Args:
        layer: where the weights come from.
        dtype: of the maps inside.
        enter: the first linear layer, from the map to the inner channels.
        project: pixels to the parameters of the scan.
        size: height and width that maps usually have.
        buffers: where results go, if layers shall run in bands: in the places "pixels",
            "projected" and "scanned".
    """
    convolution = Convolution(layer.conv2d, dtype, size, "silu")

    def entered(x: Tensor) -> Tensor:
        return convolution(enter(x)).contiguous()

    convolved: Layer = entered
    projected: Layer = _in_float(project)
    if buffers is not None:
        convolved = Bands(entered, buffers, "pixels", margin=margin_of(layer.conv2d))
        projected = Bands(projected, buffers, "projected")
    return Mixer(
        None,
        convolved,
        projected,
        _PlainScan(layer, dtype, buffers),
        routes=layer.x_proj_weight.shape[0],
        window=layer.window,
    )


class _PlainScan:
    """The scan in full precision, with the norm fused in where the routes are merged by a sum."""

    def __init__(self, layer: SS2D, dtype: torch.dtype, buffers: Buffers | None) -> None:
        self._out = None if buffers is None else partial(buffers, "scanned")
        self._route_gate = copy.deepcopy(layer.multi_scan)
        self._norm = LayerNorm(layer.out_norm, dtype)
        routes = layer.x_proj_weight.shape[0]
        merged = self._route_gate is None
        self._scan = inference_scan(
            layer.dt_projs_weight,
            layer.dt_projs_bias,
            -torch.exp(layer.A_logs.float()).unflatten(0, (routes, -1)),
            layer.Ds.unflatten(0, (routes, -1)),
            norm=layer.out_norm if merged else None,
            merge=merged,
        )

    def __call__(
        self, pixels: Tensor, projected: Tensor, routes: Tensor, gate: Tensor | None
    ) -> tuple[Tensor, None]:
        y = self._scan(pixels, projected, routes, self._out)
        if self._route_gate is not None:
            y = self._norm(self._route_gate(y.float()).to(pixels.dtype))
        return (y if gate is None else y.mul_(F.silu(gate))), None


def _in_float(project: Layer) -> Layer:
    return lambda pixels: project(pixels).float()
