"""Linear layer and layer norm of channel-last maps, whose training on the CPU is the kernel's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.ops import layers


class Linear(nn.Linear):
    """``nn.Linear`` with the kernel's gradients (:func:`qmamba.ops.layers.linear`)."""

    def forward(self, x: Tensor) -> Tensor:
        return layers.linear(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` over the last axis with the kernel's gradients."""

    def forward(self, x: Tensor) -> Tensor:
        return layers.layer_norm(x, self.weight, self.bias, self.eps)


def gated(norm: nn.Module, x: Tensor, gate: Tensor) -> Tensor:
    """``norm(x) * silu(gate)``, in one pass where nothing else wants to see the parts.

    Args:
        norm: any module that keeps the shape of its input.
        x, gate: ``(..., channels)``.
    """
    if type(norm) is LayerNorm and not is_watched(norm):
        return layers.gated_norm(x, norm.weight, norm.bias, gate, norm.eps)
    return norm(x) * F.silu(gate)


def is_watched(module: nn.Module) -> bool:
    """Whether a call of the module has to be a call, because hooks wait for it."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
