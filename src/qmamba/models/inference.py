"""A QMamba network prepared for inference on the CPU.

What it trades: the weights are those of the moment of preparation, there are no gradients and no
tracing; use the plain module for those. In return linear layers run on packed weights with GELU and
residual fused, the scan is one call from the projection to the norm, and nothing changes layout.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.errors import ConfigError
from qmamba.models.qmamba import QMamba, Stage
from qmamba.nn import SS2D, VSSBlock
from qmamba.nn.packed import PackedConv2d, PackedLinear
from qmamba.ops import backends, scan_routes
from qmamba.ops.packed import PackedScan

Precision = Literal["fp32", "bf16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_USUAL_ROWS = 10 * 56 * 56


class InferenceModel:
    """What :class:`~qmamba.models.QMamba` computes, faster, on the CPU.

    Args:
        model: the network; its weights are copied as they are now.
        precision: ``"fp32"``, or ``"bf16"`` for bfloat16 weights and activations with the state of
            the scan in float32.

    Raises:
        BackendError: the C++ kernel is not available.
        ConfigError: the model is not on the CPU.
    """

    def __init__(self, model: QMamba, precision: Precision = "fp32") -> None:
        if next(model.parameters()).device.type != "cpu":
            raise ConfigError("Only a model on the CPU can be prepared; move it there first.")
        self._dtype = _DTYPES[precision]
        self._stem = [self._layer(layer) for layer in model.patch_embed]
        self._stages = []
        rows = _USUAL_ROWS
        for stage in model.layers:
            assert isinstance(stage, Stage)
            blocks = [_Block(cast(VSSBlock, block), self._dtype, rows) for block in stage.blocks]
            between = stage.downsample
            layers = list(between) if isinstance(between, nn.Sequential) else []
            self._stages.append((blocks, [self._layer(layer) for layer in layers]))
            rows = max(1, rows // 4)
        self._norm = _LayerNorm(model.classifier.norm, torch.float32)
        self._head = copy.deepcopy(model.classifier.head).float()

    def _layer(self, layer: nn.Module) -> PackedConv2d | _LayerNorm | nn.GELU:
        if isinstance(layer, nn.Conv2d):
            return PackedConv2d(layer, self._dtype)
        if isinstance(layer, nn.LayerNorm):
            return _LayerNorm(layer, self._dtype)
        assert isinstance(layer, nn.GELU)
        return layer

    @torch.no_grad()
    def forward_features(self, images: Tensor) -> Tensor:
        """The last map, normalised and averaged: float32 ``(batch, dims[-1])``."""
        x = images.to(self._dtype).permute(0, 2, 3, 1)
        for layer in self._stem:
            x = layer(x)
        for blocks, downsampling in self._stages:
            for block in blocks:
                x = block(x)
            for layer in downsampling:
                x = layer(x)
        return self._norm(x.float()).mean((1, 2))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Normalised images ``(batch, 3, height, width)`` to float32 ``(batch, outputs)``."""
        return self._head(self.forward_features(images))


def inference_network(model: QMamba, precision: Precision = "fp32") -> Callable[[Tensor], Tensor]:
    """The fastest way to run a model where it is: normalised images to float32 outputs.

    On the CPU with the C++ kernel live that is an :class:`InferenceModel`, elsewhere the module
    itself, under autocast for ``"bf16"``. Weights are those of this moment; no gradients.

    Raises:
        ConfigError: the precision is unknown.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"precision={precision!r} is unknown; choose fp32 or bf16.")
    device = next(model.parameters()).device.type
    live = {row.device: row.name for row in backends() if row.live}
    if device == "cpu" and live["cpu"] == "native":
        return InferenceModel(model, precision)

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return model(images).float()

    return run


class _LayerNorm:
    def __init__(self, layer: nn.LayerNorm, dtype: torch.dtype) -> None:
        self._weight = layer.weight.detach().to(dtype, copy=True)
        self._bias = layer.bias.detach().to(dtype, copy=True)
        self._epsilon = layer.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self._weight.shape, self._weight, self._bias, self._epsilon)


class _Block:
    """A block on ``(batch, height, width, dim)``."""

    def __init__(self, block: VSSBlock, dtype: torch.dtype, rows: int) -> None:
        assert isinstance(block.op, SS2D)
        self._scan = _Scan(block.op, dtype, rows)
        self._norm, self._norm2 = _LayerNorm(block.norm, dtype), _LayerNorm(block.norm2, dtype)
        fc1, fc2 = block.mlp.fc1, block.mlp.fc2
        self._fc1 = PackedLinear(fc1.weight.to(dtype), fc1.bias, rows)
        self._fc2 = PackedLinear(fc2.weight.to(dtype), fc2.bias, rows)

    def __call__(self, x: Tensor) -> Tensor:
        x = self._scan(self._norm(x), residual=x)
        return self._fc2(self._fc1(self._norm2(x), gelu=True), residual=x)


class _Scan:
    """SS2D with the residual added to its result."""

    def __init__(self, layer: SS2D, dtype: torch.dtype, rows: int) -> None:
        self._in = PackedLinear(layer.in_proj.weight.to(dtype), None, rows)
        self._out = PackedLinear(layer.out_proj.weight.to(dtype), None, rows)
        self._project = PackedLinear(layer.x_proj_weight.flatten(0, 1).to(dtype), None, rows)
        self._conv = PackedConv2d(layer.conv2d, dtype)
        self._gate = copy.deepcopy(layer.multi_scan)
        self._window = layer.window
        self._norm = _LayerNorm(layer.out_norm, dtype)
        routes = layer.x_proj_weight.shape[0]
        self._routes = routes
        merged = self._gate is None
        self._scan = PackedScan(
            layer.dt_projs_weight,
            layer.dt_projs_bias,
            -torch.exp(layer.A_logs.float()).unflatten(0, (routes, -1)),
            layer.Ds.unflatten(0, (routes, -1)),
            norm=layer.out_norm if merged else None,
            merge=merged,
        )

    def __call__(self, x: Tensor, residual: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        pixels = self._conv(self._in(x), silu=True).flatten(1, 2).contiguous()
        projected = self._project(pixels).float().unflatten(-1, (self._routes, -1))
        y = self._scan(pixels, projected, scan_routes(height, width, self._window))
        if self._gate is not None:
            y = self._norm(self._gate(y.float()).to(x.dtype))
        return self._out(y.unflatten(1, (height, width)), residual=residual)
