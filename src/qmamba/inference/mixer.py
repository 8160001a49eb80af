"""SS2D prepared for inference, up to its last linear layer."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor

from qmamba.inference.bands import Bands, margin_of
from qmamba.inference.layers import Convolution, Layer, LayerNorm
from qmamba.nn import SS2D
from qmamba.ops import scan_routes
from qmamba.ops.native.memory import Buffers
from qmamba.ops.native.prepared_scan import inference_scan


class Mixer:
    """Linear layer, convolution, projection, scan and norm of an SS2D.

    Each map is given up as soon as the next one exists, because they decide the peak of memory.

    Args:
        convolution: the first linear layer and the convolution, to maps ``(batch, height, width,
            inner)``.
        project: pixels to the parameters of the scan, ``(batch, length, routes * parameters)``.
        scan: of the routes.
        routes: number of routes.
        window: side of the local windows of the routes in pixels.
    """

    def __init__(
        self,
        convolution: Layer,
        project: Layer,
        scan: _PlainScan,
        *,
        routes: int,
        window: int,
    ) -> None:
        self._convolution, self._project = convolution, project
        self._scan = scan
        self._routes, self._window = routes, window

    def __call__(self, x: Tensor) -> Tensor:
        """Scan a map.

        Args:
            x: ``(batch, height, width, channels)``, which may be part of the channels of a map.
        """
        height, width = x.shape[1:3]
        pixels = self._convolution(x).flatten(1, 2)
        del x
        projected = self._project(pixels).unflatten(-1, (self._routes, -1))
        routes = scan_routes(height, width, self._window)
        return self._scan(pixels, projected, routes).unflatten(1, (height, width))


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

    def __call__(self, pixels: Tensor, projected: Tensor, routes: Tensor) -> Tensor:
        y = self._scan(pixels, projected, routes, self._out)
        if self._route_gate is not None:
            y = self._norm(self._route_gate(y.float()).to(pixels.dtype))
        return y


def _in_float(project: Layer) -> Layer:
    return lambda pixels: project(pixels).float()
