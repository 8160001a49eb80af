"""Learning to restore: random crops, degraded on the fly, and two simple losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qmamba.datasets.clean.images import CleanImage, image_named, read_clean
from qmamba.errors import ConfigError, DataError
from qmamba.evaluation.restoration.protocol import judge
from qmamba.restore.degradations import Degradation

LOSSES = ("l1", "charbonnier")

CHARBONNIER_EPSILON = 1e-3
DEFAULT_CACHE_BYTES = 4_000_000_000

_INDICES: dict[str, Any] = {"dtype": torch.int64, "device": "cpu"}
_VALIDATION_SIDE = 192


@dataclass(frozen=True)
class CropOptions:
    """How examples are cut from images.

    Raises:
        ConfigError: a value is outside its range.
    """

    side: int = 64
    """Side of a crop of the degraded image, in pixels, 8 to 1024."""
    loss: str = "l1"
    """``l1`` (super-resolution) or ``charbonnier`` (officially for denoising and JPEG)."""
    flips: bool = True
    """Mirror and turn crops at random, by the eight symmetries of a square."""
    cache_bytes: int = DEFAULT_CACHE_BYTES
    """Memory for decoded images; those beyond it are decoded anew for each crop."""

    def __post_init__(self) -> None:
        if not isinstance(self.side, int) or not 8 <= self.side <= 1024:
            raise ConfigError(f"The side of a crop must be 8 to 1024 pixels, got {self.side!r}.")
        if self.loss not in LOSSES:
            raise ConfigError(f"The loss must be one of {', '.join(LOSSES)}, got {self.loss!r}.")
        if self.cache_bytes < 0:
            raise ConfigError(
                f"The option cache_bytes must not be negative, got {self.cache_bytes!r}."
            )


class RestorationTask:
    """What :func:`qmamba.training.train` needs to teach a network to undo a degradation.

    An example is one crop of one image: ``degraded`` float32 ``(channels and conditions, side,
    side)`` and
    ``clean`` ``(channels, scale * side, scale * side)``, both about [0, 1]. An epoch has one crop
    of every image. Images smaller than a crop are mirrored at their borders.

    Args:
        degradation: what is undone.
        training: clean images to learn from.
        validation: clean images to judge with, by the central 192 x 192 pixels of the degraded
            image at the hard end of the degradation's range; may be empty.
        options: crops and loss.

    Raises:
        DataError: there is nothing to learn from.
        ImageError: an image cannot be decoded.
        ShapeError: an image is too small.

    Source: the training of MambaIR and SwinIR, with the schedule of Q-MambaIR.
    """

    def __init__(
        self,
        degradation: Degradation,
        training: Sequence[CleanImage],
        validation: Sequence[CleanImage] = (),
        options: CropOptions | None = None,
    ) -> None:
        if not training:
            raise DataError("There are no images to learn from.")
        self.degradation = degradation
        self.options = options or CropOptions()
        self._training = tuple(training)
        self._judged = tuple(validation)
        self._validation = [self._central(image) for image in validation]
        self._decoded: list[NDArray[np.uint8] | None] = [None] * len(training)
        room = self.options.cache_bytes
        # Decoded before any worker process starts, so that all of them share the memory.
        for index, image in enumerate(self._training):
            if room <= 0:
                break
            pixels = self._clean(image)
            if pixels.nbytes <= room:
                self._decoded[index] = pixels
            room -= pixels.nbytes

    @property
    def examples(self) -> int:
        """Crops of one epoch: the number of images."""
        return len(self._training)

    @property
    def metric(self) -> str | None:
        """``psnr`` where there is a validation part."""
        return "psnr" if self._validation else None

    def example(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        """A random crop of an image, degraded: see the class."""
        pixels = self._decoded[index]
        if pixels is None:
            pixels = self._clean(self._training[index])
        side = (self.options.side + 2 * self.degradation.margin) * self.degradation.scale
        region = _random_region(pixels, side, generator)
        if self.options.flips:
            region = _turned(region, int(torch.randint(8, (), generator=generator, **_INDICES)))
        degraded, clean = self.degradation.crop(region, generator)
        return {
            "degraded": _planes(degraded.astype(np.float32)),
            "clean": _planes(clean).float() / 255.0,
        }

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Mean difference between the restored and the clean crops."""
        difference = model(batch["degraded"]).float() - batch["clean"]
        if self.options.loss == "l1":
            return difference.abs().mean()
        return (difference.square() + CHARBONNIER_EPSILON**2).sqrt().mean()

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Mean ``psnr`` and ``ssim`` of the validation part, as published tables compute them."""
        if not self._validation:
            return {}
        device = next(model.parameters()).device
        found = [
            judge(model(degraded.to(device)), clean, border=self._border)
            for degraded, clean in self._validation
        ]
        return {
            "psnr": sum(figure.psnr for figure in found) / len(found),
            "ssim": sum(figure.ssim for figure in found) / len(found),
        }

    def learning_rate_factor(self, name: str) -> float:
        """1 for every parameter."""
        return 1.0

    @property
    def _border(self) -> int:
        return self.degradation.scale if self.degradation.task == "sr" else 0

    @property
    def validation_contents(self) -> list[str]:
        """What the validation images show, sorted."""
        return sorted({image.content for image in self._judged})

    def describe(self) -> dict[str, Any]:
        """JSON values: what is learned, from how many images, judged by which."""
        return {
            "degradation": self.degradation.to_dict(),
            "training_images": len(self._training),
            "validation_images": len(self._validation),
            "crop": self.options.side,
            "loss": self.options.loss,
        }

    def _central(self, image: CleanImage) -> tuple[Tensor, NDArray[np.uint8]]:
        clean = self._clean(image)
        degraded = self.degradation.benchmark(clean)
        height, width = (min(side, _VALIDATION_SIDE) for side in degraded.shape[:2])
        top, left = (degraded.shape[0] - height) // 2, (degraded.shape[1] - width) // 2
        scale = self.degradation.scale
        clean = clean[top * scale : (top + height) * scale, left * scale : (left + width) * scale]
        with image_named(image.path):
            # One that is too small to be judged is found now and not after the first steps.
            judge(_planes(clean).unsqueeze(0).float() / 255.0, clean, border=self._border)
        return _planes(degraded[top : top + height, left : left + width]).unsqueeze(0), clean

    def _clean(self, image: CleanImage) -> NDArray[np.uint8]:
        with image_named(image.path):
            return self.degradation.clean(read_clean(image.path))


def _random_region(
    pixels: NDArray[np.uint8], side: int, generator: torch.Generator
) -> NDArray[np.uint8]:
    missing = [max(0, side - length) for length in pixels.shape[:2]]
    if any(missing):
        margin = [(count // 2, count - count // 2) for count in missing]
        pixels = np.pad(pixels, (*margin, (0, 0)), mode="symmetric")
    top, left = (
        int(torch.randint(length - side + 1, (), generator=generator, **_INDICES))
        for length in pixels.shape[:2]
    )
    return pixels[top : top + side, left : left + side]


def _turned(region: NDArray[np.uint8], symmetry: int) -> NDArray[np.uint8]:
    if symmetry & 1:
        region = region[:, ::-1]
    if symmetry & 2:
        region = region[::-1]
    return region.transpose(1, 0, 2) if symmetry & 4 else region


def _planes(pixels: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
