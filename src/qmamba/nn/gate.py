"""The route gate of LQMamba: how much of each scan route every channel keeps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.nn.initialization import linear


class RouteGate(nn.Module):
    """Channel weights in (0, 1) from the average of a normalized map.

    ``sigmoid(W2 gelu(W1 mean(LayerNorm(y)) + b1) + b2)`` with the mean over all pixels. One gate is
    shared by the four routes and applied to each of them on its own. At the start every weight is
    close to 1/2.

    Args:
        channels: width of the map, at least ``reduction``.
        reduction: the hidden layer has ``channels // reduction`` units.

    Source: ``BiAttn`` of LocalMamba; the parameter and FLOP counts of LQMamba contain exactly one
    per block.
    """

    def __init__(self, channels: int, *, reduction: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.global_reduce = linear(channels, channels // reduction)
        self.channel_select = linear(channels // reduction, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """``(..., pixels, channels)`` to weights ``(..., channels)``, each leading index alone."""
        pooled = mean_of_layer_norm(maps, self.norm).to(maps.dtype)
        return torch.sigmoid(self.channel_select(F.gelu(self.global_reduce(pooled))))


class GatedMerge(nn.Module):
    """Weigh the scanned routes by a :class:`RouteGate` and add them up.

    The gate is called ``attn`` because that is its name in LocalMamba's state dict.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attn = RouteGate(channels)

    def forward(self, routes: Tensor) -> Tensor:
        """``(batch, routes, pixels, channels)`` to ``(batch, pixels, channels)``."""
        weights = self.attn(routes).to(routes.dtype)
        merged = routes[:, 0] * weights[:, 0, None]
        for k in range(1, routes.shape[1]):
            merged = torch.addcmul(merged, routes[:, k], weights[:, k, None])
        return merged


def mean_of_layer_norm(maps: Tensor, norm: nn.LayerNorm) -> Tensor:
    """``norm(maps).mean(-2)`` without the normalized maps.

    Only the mean and the reciprocal deviation of each pixel are formed; with them, the average over
    pixels is one weighted sum, and the affine part commutes with it. In float32 the rounding grows
    with the ratio of a pixel's mean to its deviation over channels: about 3e-6 at 1, 1e-5 at 5.

    Args:
        maps: ``(..., pixels, channels)``. Half precision is widened to float32.

    Returns:
        ``(..., channels)``, float32, or float64 if the maps are.
    """
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    channels, pixels = maps.shape[-1], maps.shape[-2]
    mean = maps.mean(-1)
    # torch.var is an order of magnitude slower than a norm on CPU; rounding may leave a variance
    # slightly below zero.
    power = torch.linalg.vector_norm(maps, dim=-1).square() / channels
    scale = torch.rsqrt((power - mean.square()).clamp_min(0) + norm.eps)
    weighted = (scale.unsqueeze(-2) @ maps).squeeze(-2)
    pooled = (weighted - (scale * mean).sum(-1, keepdim=True)) / pixels
    return pooled * norm.weight + norm.bias
