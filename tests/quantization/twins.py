"""The quantizers once more, element by element as their papers write them, for autograd."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def straight_through(exact: Tensor, rounded: Tensor) -> Tensor:
    return exact + (rounded - exact).detach()


def scaled_gradient(value: Tensor, factor: float) -> Tensor:
    return (value - value * factor).detach() + value * factor


def learned_step(x: Tensor, alpha: Tensor, beta: Tensor, low: int, high: int) -> Tensor:
    alpha = scaled_gradient(alpha.abs(), 1 / math.sqrt(x.numel() * high))
    ratio = torch.clamp((x + beta) / alpha, low, high)
    return straight_through(ratio, ratio.round()) * alpha - beta


def tanh_step(x: Tensor, alpha: Tensor, beta: Tensor, low: int, high: int) -> Tensor:
    alpha = scaled_gradient(alpha.abs(), 1 / math.sqrt(x.numel() * high))
    ratio = torch.clamp((x + beta) / alpha, low, high)
    whole = ratio.floor().detach()
    soft = whole + (torch.tanh(ratio - whole - 0.5) / math.tanh(0.5) + 1) / 2
    return straight_through(soft, ratio.round()) * alpha - beta


def dynamic(
    x: Tensor, step_weights: Tensor, offset_weights: Tensor, bits: int, count: int, copies: int = 1
) -> Tensor:
    """DLS of one row; ``count`` is the number of values of the whole tensor."""
    high = 2 ** (bits - 1) - 1
    repeated = x.flatten().repeat(copies)
    lowest, highest = x.min(), x.max()
    mean, deviation = repeated.mean(), repeated.std()
    offset = (offset_weights * torch.stack([mean, deviation, lowest, highest])).sum()
    v = repeated + offset
    parts = torch.stack([v.mean().abs(), v.std(), v.min(), v.max()])
    step = scaled_gradient((step_weights * parts).sum().abs(), 1 / math.sqrt(count * copies * high))
    most = ((highest - lowest) / 2**bits).detach()
    step = torch.minimum(torch.maximum(step, most * 1e-3), most)
    ratio = torch.clamp((x + offset) / step, -high - 1, high)
    y = straight_through(ratio, ratio.round()) * step - offset
    return torch.clamp(y, lowest, highest)


def thresholds(w: Tensor, alpha: Tensor, beta: Tensor, points: Tensor, low: int) -> Tensor:
    """RFA with the surrogate of the rounding written out piece by piece."""
    last = low + len(points) - 1
    alpha = scaled_gradient(alpha.abs(), 1 / math.sqrt(w.numel() * last))
    v = torch.clamp((w + beta) / alpha, low, last)
    code = torch.full_like(v, low)
    for i in range(1, len(points)):
        code = torch.where(v > (points[i - 1] + points[i]) / 2, low + i, code)
    soft = torch.where(v <= points[0], low + 0.1 * (v - points[0]), 0)
    soft = soft + torch.where(v > points[-1], last + 0.1 * (v - points[-1]), 0)
    for i in range(len(points) - 1):
        piece = low + i + (v - points[i]) / (points[i + 1] - points[i])
        soft = soft + torch.where((points[i] < v) & (v <= points[i + 1]), piece, 0)
    return straight_through(soft, code.detach()) * alpha - beta
