"""From an image in any accepted form to the views of it that a policy asks for."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qmamba.assess.native.heads import NATIVE_CROPS, NATIVE_SIDE
from qmamba.assess.policies import CropsPolicy, Policy, ViewPlan
from qmamba.images import (
    DEFAULT_MAX_PIXELS,
    pad_to,
    read_draft,
    read_image,
    resize_to,
    scaled_tensor,
    to_tensor,
)

ImageFile: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO
ImageInput: TypeAlias = ImageFile | Image.Image | np.ndarray | Tensor
"""One image: a path, a file's bytes or stream, a Pillow image, an array (height, width[,
channels]) of uint8, uint16 or float in [0, 1], or a tensor (channels, height, width) of uint8 or
float in [0, 1]."""

_NATIVE = CropsPolicy(size=NATIVE_SIDE, count=NATIVE_CROPS)


@dataclass(frozen=True, eq=False)
class ImageViews:
    """The views of one image, ready for a network."""

    views: Tensor
    """float32 ``(views, 3, height, width)`` in [0, 1]."""
    width: int
    """Width of the upright image in pixels."""
    height: int
    """Height of the upright image in pixels."""
    notes: tuple[str, ...]
    """What was done to the image, from decoding to padding."""
    name: str | None
    """The image's path, None where it has none."""
    native: Tensor | None = None
    """float32 ``(crops, 3, side, side)`` at the image's own size, where they were asked for."""
    shrunk: float = 1.0
    """Shorter side of the scaled image over that of the image, where the policy looks at the native
    size, too; else 1."""

    def without_pixels(self) -> ImageViews:
        """What there is to say about the image, in little memory."""
        views = torch.empty(0, dtype=self.views.dtype, device=self.views.device)
        return replace(self, views=views, native=None)


def read_views(
    image: ImageInput,
    policy: Policy,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    reasons: bool = False,
) -> ImageViews:
    """Decode an image and take its views. Safe to call from many threads at once.

    Args:
        image: see :data:`ImageInput`.
        policy: which views to take.
        max_pixels: largest image that is decoded, in pixels.
        reasons: cut crops at native size, whatever the policy says.

    Raises:
        ImageError: the image cannot be decoded or is not in an accepted form.
    """
    if isinstance(image, (Image.Image, np.ndarray, Tensor)):
        views = tensor_views(to_tensor(image), policy, reasons=reasons)
        name = getattr(image, "filename", None)
        return replace(views, name=name if isinstance(name, str) else None)
    if policy.draft_side is None or reasons:
        decoded = read_image(image, max_pixels=max_pixels)
        height, width = decoded.pixels.shape[:2]
    else:
        decoded, (height, width) = read_draft(image, policy.draft_side, max_pixels=max_pixels)
    plan = policy.plan(height, width)
    cut = (
        _cut_pixels(decoded.pixels, plan)
        if plan.scaled is None
        else cut_views(
            scaled_tensor(decoded.pixels, plan.scaled).clamp_(0, 1), replace(plan, scaled=None)
        )
    )
    shrunk = _shrunk(policy, plan, height, width)
    native = _NATIVE.plan(height, width) if reasons or shrunk < 1 else None
    return ImageViews(
        cut,
        width,
        height,
        decoded.notes + plan.notes,
        decoded.path,
        None if native is None else _cut_pixels(decoded.pixels, native),
        shrunk,
    )


def tensor_views(image: Tensor, policy: Policy, *, reasons: bool = False) -> ImageViews:
    """The views of an image ``(3, height, width)`` of floats in [0, 1]; differentiable."""
    height, width = image.shape[-2:]
    plan = policy.plan(height, width)
    shrunk = _shrunk(policy, plan, height, width)
    native = _NATIVE.plan(height, width) if reasons or shrunk < 1 else None
    return ImageViews(
        cut_views(image, plan),
        width,
        height,
        plan.notes,
        None,
        None if native is None else cut_views(image, native),
        shrunk,
    )


def cut_views(image: Tensor, plan: ViewPlan) -> Tensor:
    """The views of an image ``(3, height, width)`` of floats: ``(views, 3, *plan.view)``.

    Differentiable. Values that the scaling filter pushes out of [0, 1] are clamped.
    """
    if plan.scaled is not None:
        image = resize_to(image, plan.scaled).clamp(0, 1)
    height, width = plan.view
    return torch.stack(
        [
            _padded(image[:, top : top + height, left : left + width], plan)
            for top, left in plan.corners
        ]
    )


def _shrunk(policy: Policy, plan: ViewPlan, height: int, width: int) -> float:
    looks = isinstance(policy, CropsPolicy) and policy.native and plan.scaled is not None
    return min(plan.scaled) / min(height, width) if looks and plan.scaled else 1.0


def _cut_pixels(pixels: np.ndarray, plan: ViewPlan) -> Tensor:
    """As :func:`cut_views` without scaling, of pixels as they were decoded.

    A large image as floats is four times its size, so only the views are converted.
    """
    height, width = plan.view
    cuts = [pixels[top : top + height, left : left + width] for top, left in plan.corners]
    return torch.stack([_padded(to_tensor(cut), plan) for cut in cuts])


def _padded(cut: Tensor, plan: ViewPlan) -> Tensor:
    return pad_to(cut, plan.view)[0]
