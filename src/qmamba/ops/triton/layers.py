"""What stands around the scan, one pass over memory each: definitions, and launches of kernels.

The functions are for inference: they have no gradients. Each runs the kernel of
:mod:`qmamba.ops.triton.layer_kernels` where Triton runs on the tensors' device and otherwise its
definition, the function of the same name with ``_plain``. Sums are taken in float32 in both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.ops.triton.launch import on_device
from qmamba.ops.triton.operators import supports, unavailable_reason

# Values of a tile that a program of four warps keeps in registers.
_TILE = 2048
_LEAST_CHANNELS = 16
_PIXELS = 16


def residual_norm(
    x: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float = 1e-5,
    scale: Tensor | None = None,
    gate: Tensor | None = None,
    gelu: bool = False,
) -> tuple[Tensor, Tensor]:
    """``x * scale + branch``, and its norm over the channels.

    Args:
        x: ``(..., channels)``, contiguous.
        branch: of the same shape, or None for nothing added.
        weight: of the norm, ``(channels,)``.
        bias: of the norm, ``(channels,)``.
        eps: added to the variance.
        scale: ``(channels,)``, or None for one; only with a branch.
        gate: of the shape of ``x``, whose SiLU multiplies the norm; its rows may lie apart.
        gelu: put the norm through GELU.

    Returns:
        The sum, which is ``x`` itself where there is no branch, and its norm; dtype of ``x``.
    """
    if not _runs(x, branch, gate):
        return residual_norm_plain(
            x, branch, weight, bias, eps=eps, scale=scale, gate=gate, gelu=gelu
        )
    from qmamba.ops.triton.layer_kernels import norm_kernel

    channels = x.shape[-1]
    block = _power_of_two(channels)
    height = max(1, _TILE // block)
    rows = x.numel() // channels
    total = x if branch is None else torch.empty_like(x)
    y = torch.empty_like(x)
    with on_device(x):
        norm_kernel[(-(-rows // height),)](
            x,
            x if branch is None else branch.contiguous(),
            weight if scale is None else scale,
            weight,
            bias,
            x if gate is None else gate,
            total,
            y,
            rows,
            channels if gate is None else _row_stride(gate),
            eps,
            CHANNELS=channels,
            ADDED=branch is not None,
            SCALED=scale is not None,
            GATED=gate is not None,
            GELU=gelu,
            BLOCK_R=height,
            BLOCK_C=block,
            num_warps=4,
        )
    return total, y


def residual_norm_plain(
    x: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float = 1e-5,
    scale: Tensor | None = None,
    gate: Tensor | None = None,
    gelu: bool = False,
) -> tuple[Tensor, Tensor]:
    """The definition of :func:`residual_norm`."""
    total = x.float() if scale is None else x.float() * scale.float()
    if branch is not None:
        total = total + branch.float()
    y = F.layer_norm(total, x.shape[-1:], weight.float(), bias.float(), eps)
    y = F.gelu(y) if gelu else y
    y = y if gate is None else y * F.silu(gate.float())
    return x if branch is None else total.to(x.dtype), y.to(x.dtype)


def bias_gelu_(x: Tensor, bias: Tensor) -> Tensor:
    """GELU of ``x + bias``, in place.

    Args:
        x: ``(..., channels)``, contiguous.
        bias: ``(channels,)``.
    """
    if not _runs(x):
        return bias_gelu_plain_(x, bias)
    from qmamba.ops.triton.layer_kernels import bias_gelu_kernel

    block = _TILE // 2
    with on_device(x):
        bias_gelu_kernel[(-(-x.numel() // block),)](
            x, bias, x.numel(), CHANNELS=x.shape[-1], BLOCK=block, num_warps=4
        )
    return x


def bias_gelu_plain_(x: Tensor, bias: Tensor) -> Tensor:
    """The definition of :func:`bias_gelu_`."""
    return x.copy_(F.gelu(x.float() + bias.float()))


def depthwise_silu(x: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
    """SiLU of a depthwise convolution that keeps the sides of a map, zero outside of it.

    Args:
        x: ``(batch, height, width, channels)``; pixels may lie apart, channels may not.
        taps: ``(size, size, channels)`` with an odd size, contiguous.
        bias: ``(channels,)`` or None.

    Returns:
        A contiguous map of the same shape.
    """
    if not _runs(x):
        return depthwise_silu_plain(x, taps, bias)
    from qmamba.ops.triton.layer_kernels import depthwise_kernel

    batch, height, width, channels = x.shape
    block = min(64, _power_of_two(channels))
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    programs = batch * -(-height * width // _PIXELS) * -(-channels // block)
    with on_device(x):
        depthwise_kernel[(programs,)](
            x,
            taps,
            taps if bias is None else bias,
            y,
            height,
            width,
            _row_stride(x),
            CHANNELS=channels,
            SIZE=taps.shape[0],
            BIASED=bias is not None,
            BLOCK_P=_PIXELS,
            BLOCK_C=block,
            num_warps=2,
        )
    return y


def depthwise_silu_plain(x: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
    """The definition of :func:`depthwise_silu`."""
    size, _, channels = taps.shape
    kernel = taps.float().permute(2, 0, 1)[:, None]
    offset = None if bias is None else bias.float()
    maps = x.float().permute(0, 3, 1, 2)
    y = F.conv2d(maps, kernel, offset, padding=size // 2, groups=channels)
    return F.silu(y).permute(0, 2, 3, 1).to(x.dtype).contiguous()


def _runs(x: Tensor, *others: Tensor | None) -> bool:
    return unavailable_reason(x.device.type) is None and supports(x, *others)


def _power_of_two(channels: int) -> int:
    return max(_LEAST_CHANNELS, 1 << (channels - 1).bit_length())


def _row_stride(x: Tensor) -> int:
    """Entries from one row of channels to the next, the same between all rows.

    Raises:
        ValueError: the tensor is not made of such rows.
    """
    stride = x.stride(-2)
    expected = stride
    for axis in range(x.dim() - 2, -1, -1):
        if x.shape[axis] > 1 and x.stride(axis) != expected:
            raise ValueError(f"The rows of a map with strides {x.stride()} are not evenly spaced.")
        expected *= x.shape[axis]
    return stride
