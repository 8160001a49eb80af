"""Two versions of one image, brought to one size, scored and laid beside each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from qmamba.assess import Scorer
from qmamba.assess.views import ImageFile
from qmamba.errors import DataError
from qmamba.evaluation.comparison.gain import Gain, gain
from qmamba.evaluation.comparison.likeness import LEAST_LIKENESS, likeness
from qmamba.evaluation.metrics.fidelity import psnr
from qmamba.images import DEFAULT_MAX_PIXELS, read_image
from qmamba.images.samples import eight_bits
from qmamba.restore.degradations.resize import resize_bicubic

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Comparison:
    """A version of an image against the one that it was made from."""

    gain: Gain
    """The scores of both at the larger of the two sizes."""
    psnr: float
    """PSNR in decibels of the second version, brought back to the size of the first, against the
    first. Infinite where nothing changed; detail that was made up lowers it."""
    note: str | None
    """Which version was enlarged for the comparison, and whether the two show different things;
    ``None`` where there is nothing to say."""
    likeness: float = 1.0
    """See :func:`~qmamba.evaluation.comparison.likeness.likeness`."""

    @property
    def is_doubtful(self) -> bool:
        """Whether the two seem to be no versions of one image."""
        return self.likeness < LEAST_LIKENESS


def compare_images(
    scorer: Scorer,
    before: ImageFile,
    after: ImageFile,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Comparison:
    """Score two versions of an image at one size.

    A score depends on the size of an image, because the network was trained on photographs as they
    are. So the smaller version is enlarged to the larger by bicubic interpolation, and the question
    is what the second has over that.

    Args:
        scorer: what scores both.
        before: the first version, a file.
        after: the second, a file; its size may be another, its shape not.
        max_pixels: largest image that is decoded, in pixels.

    Raises:
        ImageError: a file cannot be decoded.
        DataError: the two have different shapes.
    """
    first, second = (_pixels(image, max_pixels) for image in (before, after))
    shown, other, note = at_one_size(first, second)
    alike = likeness(first, second)
    notes = [] if note is None else [note]
    if alike < LEAST_LIKENESS:
        notes.append("the two seem to show different things")
    return Comparison(
        gain(scorer(shown), scorer(other)), returned(second, first), "; ".join(notes) or None, alike
    )


def at_one_size(first: Pixels, second: Pixels) -> tuple[Pixels, Pixels, str | None]:
    """Two versions of an image with the smaller enlarged to the larger, and a note on which.

    Args:
        first: uint8 (height, width, channels).
        second: the same; its sides may be longer or shorter by a common factor, to within one
            pixel of the smaller.

    Raises:
        DataError: the sides have no common factor.
    """
    if first.shape == second.shape:
        return first, second, None
    second_is_larger = second.shape[0] * second.shape[1] >= first.shape[0] * first.shape[1]
    small, large = (first, second) if second_is_larger else (second, first)
    down, across = (large.shape[axis] / small.shape[axis] for axis in (0, 1))
    if min(down, across) < 1 or abs(small.shape[0] * across - large.shape[0]) > max(down, across):
        raise DataError(
            f"Images of {first.shape[1]}x{first.shape[0]} and {second.shape[1]}x{second.shape[0]} "
            "pixels are no two sizes of one image; compare an image with a version of itself."
        )
    enlarged = resize_bicubic(small, *large.shape[:2])
    note = f"{'first' if second_is_larger else 'second'} enlarged to {large.shape[1]}x"
    note += f"{large.shape[0]} by bicubic interpolation"
    return (enlarged, large, note) if second_is_larger else (large, enlarged, note)


def returned(result: Pixels, source: Pixels) -> float:
    """PSNR in decibels of a result, brought back to the size of its source, against the source.

    Args:
        result: uint8 (height, width, 3).
        source: uint8 (height, width, 3), of any size.
    """
    if result.shape != source.shape:
        result = resize_bicubic(result, *source.shape[:2])
    planes = [
        torch.from_numpy(pixels.astype(np.float64)).permute(2, 0, 1)[None] / 255
        for pixels in (result, source)
    ]
    return float(psnr(*planes))


def _pixels(image: ImageFile, max_pixels: int) -> Pixels:
    return eight_bits(read_image(image, max_pixels=max_pixels).pixels)
