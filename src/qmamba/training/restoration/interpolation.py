"""A network's first weights such that it begins as an interpolation, or as the identity.

A fresh MambaIR paints noise and spends its first thousands of steps on learning to copy its input.
Here its last layers start such that it gives what is known without learning: the bicubic image of
its input where it enlarges, the input itself where it does not. Nothing else about the network
changes, and the layers stay trainable.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qmamba.models import MambaIR

_SHIFTS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
_SHARPNESS = -0.5


@torch.no_grad()
def start_from_interpolation(model: MambaIR) -> bool:
    """Set the first and last layers of a fresh network in place.

    The first convolution copies the colors of the four diagonal neighbors of a pixel into its
    first channels. The last one, 3x3 on those, then reaches 5x5 pixels, which is all that bicubic
    interpolation needs. What the body adds starts at zero.

    Returns:
        Whether it was done: not for the networks with convolutions between their pixel shuffles,
        nor where the features have fewer channels than the copies need.
    """
    config = model.config
    if config.task in ("denoise", "jpeg"):
        _zero(model.conv_last)
        return True
    copies = len(_SHIFTS) * config.channels
    body_end = model.conv_after_body
    if config.task != "sr-light" or config.dim < copies or not isinstance(body_end, nn.Conv2d):
        return False
    _zero(body_end)
    assert isinstance(model.upsample, nn.Sequential)
    first, last = model.conv_first, model.upsample[0]
    assert isinstance(last, nn.Conv2d) and first.bias is not None
    first.weight[:copies] = 0.0
    first.bias[:copies] = 0.0
    _zero(last)
    kernels = _bicubic(config.scale)
    for index, (down, right) in enumerate(_SHIFTS):
        for channel in range(config.channels):
            source = index * config.channels + channel
            first.weight[source, channel, 1 + down, 1 + right] = 1.0
            phases = slice(channel * config.scale**2, (channel + 1) * config.scale**2)
            last.weight[phases, source] = kernels[:, 1 + down : 4 + down, 1 + right : 4 + right].to(
                last.weight
            )
    return True


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        parameter.zero_()


def _bicubic(scale: int) -> Tensor:
    """``(scale * scale, 5, 5)``: for each pixel of the output, what it takes from the input.

    A neighbor that k of the four copies reach is divided by k.
    """
    offset = (torch.arange(scale, dtype=torch.float64, device="cpu") + 0.5) / scale - 0.5
    x = (offset[:, None] - torch.arange(-2, 3, dtype=torch.int64, device="cpu")).abs()
    a = _SHARPNESS
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    taps = torch.where(x <= 1, near, torch.where(x <= 2, far, torch.zeros_like(x)))
    taps = taps / torch.tensor([1.0, 1.0, 2.0, 1.0, 1.0], dtype=torch.float32, device="cpu")
    return torch.einsum("iy,jx->ijyx", taps, taps).flatten(0, 1)
