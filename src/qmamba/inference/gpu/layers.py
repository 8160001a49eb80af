"""The parts of blocks as they run on a GPU: weights in one dtype, passes over memory fused."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.nn import SS2D
from qmamba.ops import scan_routes, ss2d
from qmamba.ops.triton.layers import depthwise_silu, residual_norm


class Norm:
    """A layer norm, with the sum before it and what may follow.

    Args:
        norm: the layer.
        scale: factor of each channel of the skip connection, None for one.
        gelu: put the result through GELU.
    """

    def __init__(
        self, norm: nn.LayerNorm, *, scale: Tensor | None = None, gelu: bool = False
    ) -> None:
        self._weight, self._bias = copied(norm.weight), copied(norm.bias)
        self._eps, self._gelu = norm.eps, gelu
        self._scale = None if scale is None else copied(scale)

    def __call__(
        self, x: Tensor, branch: Tensor | None = None, *, gate: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The sum and its norm, as :func:`~qmamba.ops.triton.layers.residual_norm`."""
        scale = None if branch is None else self._scale
        return residual_norm(
            x.contiguous(),
            branch,
            self._weight,
            self._bias,
            eps=self._eps,
            scale=scale,
            gate=gate,
            gelu=self._gelu,
        )


@dataclass(frozen=True)
class Linear:
    """Weights of a linear map."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, layer: nn.Module, dtype: torch.dtype) -> Linear:
        """The weights of a layer in a dtype."""
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, Tensor)
        return cls(copied(weight, dtype), copied(bias, dtype) if isinstance(bias, Tensor) else None)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Mixer:
    """What :class:`~qmamba.nn.SS2D` computes.

    Args:
        layer: the layer; its weights are copied as they are now.
        dtype: of maps and of the weights that are multiplied with them.
    """

    def __init__(self, layer: SS2D, dtype: torch.dtype) -> None:
        self._enter, self._leave = (Linear.of(m, dtype) for m in (layer.in_proj, layer.out_proj))
        convolution = layer.conv2d
        self._taps = copied(convolution.weight)[:, 0].permute(1, 2, 0).contiguous()
        bias = convolution.bias
        self._bias = None if bias is None else copied(bias)
        self._project = copied(layer.x_proj_weight.flatten(0, 1), dtype)
        self._routes, self._window, self._gated = layer.routes, layer.window, layer.z_gate
        decay = -torch.exp(layer.A_logs.detach().float())
        self._scan = (
            copied(layer.dt_projs_weight),
            copied(layer.dt_projs_bias),
            decay.unflatten(0, (layer.routes, -1)),
            copied(layer.Ds).unflatten(0, (layer.routes, -1)),
        )
        self._merge = None if layer.multi_scan is None else moved(layer.multi_scan, dtype)
        self._norm = Norm(layer.out_norm)

    def __call__(self, x: Tensor) -> Tensor:
        """``(batch, height, width, dim)`` to the same shape."""
        height, width = x.shape[1:3]
        entered, *gate = self._enter(x).chunk(2 if self._gated else 1, dim=-1)
        pixels = depthwise_silu(entered, self._taps, self._bias).flatten(1, 2)
        projected = F.linear(pixels, self._project).unflatten(-1, (self._routes, -1))
        routes = scan_routes(height, width, self._window, x.device)
        merged = self._merge is None
        scanned = ss2d(pixels, projected, routes, *self._scan, merge=merged)
        if self._merge is not None:
            scanned = self._merge(scanned)
        scanned = scanned.unflatten(1, (height, width))
        _, normed = self._norm(scanned, gate=gate[0] if gate else None)
        return self._leave(normed)


def copied(values: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The values of this moment in a dtype, without a gradient."""
    return values.detach().to(dtype, copy=True)


def moved(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in another dtype, convolutions laid out for channel-last maps."""
    own = copy.deepcopy(module).to(dtype).eval()
    for layer in own.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return own
