"""How a restored image is judged in published tables."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmamba.errors import ShapeError
from qmamba.evaluation.metrics.fidelity import Channels, psnr, ssim

_BLOCK = 8


@dataclass(frozen=True)
class Fidelity:
    """How near a restored image is to the original."""

    psnr: float
    """In decibels, infinite for equal images."""
    ssim: float
    """Up to 1."""
    psnr_b: float | None = None
    """PSNR that counts the edges of 8x8 blocks as errors, in decibels; None where it was not asked
    for."""


def judge(
    restored: Tensor,
    clean: NDArray[np.uint8],
    *,
    border: int = 0,
    rounded: bool = True,
    blocking: bool = False,
) -> Fidelity:
    """PSNR and SSIM of one image.

    Args:
        restored: ``(1, channels, height, width)``, about [0, 1].
        clean: uint8 ``(height, width, channels)``.
        border: for super-resolution, the scale: as many rows and columns are left out at each side
            and color images are compared by their video luma. 0 compares all samples.
        rounded: cut and round the restored image to 8 bits first, as published results do; noisy
            input is judged as it is.
        blocking: measure PSNR-B too, for gray images.

    Raises:
        ShapeError: the images differ in shape, or a side is below 11 pixels.
    """
    target = torch.from_numpy(np.ascontiguousarray(clean)).permute(2, 0, 1).unsqueeze(0)
    target = target.to(restored.device).double() / 255.0
    if restored.shape != target.shape:
        raise ShapeError(
            f"The restored image is {tuple(restored.shape)} and its original {tuple(target.shape)}."
        )
    result = round_to_8_bits(restored) if rounded else restored.detach().double()
    if border:
        inner = (..., slice(border, -border), slice(border, -border))
        result, target = result[inner], target[inner]
    channels: Channels = "video_luma" if border else "rgb"
    return Fidelity(
        psnr(result, target, channels=channels).item(),
        ssim(result, target, channels=channels).item(),
        psnr_b(result, target).item() if blocking else None,
    )


def round_to_8_bits(values: Tensor) -> Tensor:
    """Values cut to [0, 1] and rounded to multiples of 1/255, in float64.

    Half-way values go to the even level, as in the evaluation code of the literature.
    """
    return (values.detach().double().clamp(0.0, 1.0) * 255.0).round() / 255.0


def psnr_b(images: Tensor, reference: Tensor) -> Tensor:
    """PSNR with the blocking effect of the image added to its error, in decibels ``(B,)``.

    Args:
        images: gray images ``(B, 1, height, width)`` in [0, 1], whose 8x8 blocks begin at the
            upper left corner; sides of at least 16.
        reference: the originals, of the same shape.

    Raises:
        ShapeError: another shape.

    Source: Yim and Bovik, "Quality assessment of deblocked images", 2011.
    """
    if images.shape != reference.shape or images.dim() != 4 or images.shape[1] != 1:
        raise ShapeError(
            f"PSNR-B needs two gray images of one shape, got {tuple(images.shape)} and "
            f"{tuple(reference.shape)}."
        )
    height, width = images.shape[-2:]
    if min(height, width) < 2 * _BLOCK:
        raise ShapeError(f"PSNR-B needs sides of at least {2 * _BLOCK}, got {height} x {width}.")
    error = (images - reference).square().mean(dim=(1, 2, 3))
    return -10.0 * torch.log10(error + _blocking_effect(images))


def _blocking_effect(images: Tensor) -> Tensor:
    """By how much steps between blocks exceed those within; 0 where they do not."""
    height, width = images.shape[-2:]
    across = (images[..., 1:] - images[..., :-1]).square()
    down = (images[..., 1:, :] - images[..., :-1, :]).square()
    edges_across = across[..., _BLOCK - 1 :: _BLOCK].sum(dim=(1, 2, 3))
    edges_down = down[..., _BLOCK - 1 :: _BLOCK, :].sum(dim=(1, 2, 3))
    # The count of edges leaves out the one at the end of a side that is a multiple of the block,
    # and is taken for all sides.
    count = height * (width // _BLOCK - 1) + width * (height // _BLOCK - 1)
    others = height * (width - 1) + width * (height - 1) - count
    at_edges = edges_across + edges_down
    elsewhere = across.sum(dim=(1, 2, 3)) + down.sum(dim=(1, 2, 3)) - at_edges
    excess = at_edges / count - elsewhere / others
    weight = math.log2(_BLOCK) / math.log2(min(height, width))
    return weight * excess.clamp(min=0.0)
