"""What a restoration has gained, for `qmamba restore --reference` and `--score`; imports torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch

from qmamba.assess import Scorer
from qmamba.errors import DataError, QMambaError
from qmamba.evaluation.restoration.protocol import judge
from qmamba.images import ImageLayers, read_image, read_layers
from qmamba.images.samples import reduced
from qmamba.restore import RestoredRow
from qmamba.restore.degradations import enlarge

UNLIMITED = sys.maxsize
"""Largest image, in pixels, where the image is a result of our own."""


def measured(
    row: RestoredRow, original: ImageLayers | None, scorer: Scorer | None, max_pixels: int
) -> Iterator[tuple[str, bool]]:
    """Lines on a written image, each with whether it holds figures or says why there are none.

    Args:
        row: of a restored image.
        original: what it is compared with; None for no comparison.
        scorer: what scores it; None for no score.
        max_pixels: largest input that is decoded.
    """
    if original is not None:
        try:
            yield compared(row, original, max_pixels), True
        except Exception as error:
            yield f"  not compared: {_reason(error)}", False
    if scorer is not None:
        try:
            yield scored(row, scorer, max_pixels), True
        except Exception as error:
            # The image is restored, so whatever happens here must not end the work on the others.
            yield f"  no quality score: {_reason(error)}", False


def require_fitting_size(original: ImageLayers, image: ImageLayers, scale: int) -> None:
    """Refuse an original that does not have the size that an image will get.

    One that is larger by less than the scale fits, as the small image may have been made of it.

    Raises:
        DataError: it has another size.
    """
    height, width = scale * image.height, scale * image.width
    if not _fits(original, height, width, scale):
        raise DataError(
            f"The original {original.path!r} has {original.width}x{original.height} pixels and the "
            f"result will have {width}x{height}; give the original of this image."
        )


def compared(row: RestoredRow, original: ImageLayers, max_pixels: int) -> str:
    """PSNR and SSIM of a written image and of its input, in one line.

    The written file is read again, so what its format lost counts. In super-resolution the luma is
    compared without a border of as many pixels as the scale, and the input is enlarged by bicubic
    interpolation; otherwise all channels are compared. An original that is larger by less than the
    scale is cut at the bottom and the right, as the small image was made of it.

    Raises:
        DataError: the original has another size or other channels.
    """
    assert row.restored is not None, "only a restored image can be compared"
    scale = row.restored.scale
    result, before, clean = (
        _eight_bits(layers.colors)
        for layers in (
            read_layers(row.output, max_pixels=UNLIMITED),
            read_layers(row.image, max_pixels=max_pixels),
            original,
        )
    )
    height, width, channels = result.shape
    if not _fits(original, height, width, scale) or clean.shape[2] != channels:
        raise DataError(
            f"The original {original.path!r} has {clean.shape[1]}x{clean.shape[0]} pixels of "
            f"{clean.shape[2]} channels and the result {width}x{height} of {channels}; give the "
            "original of this image."
        )
    clean = clean[:height, :width]
    if row.restored.task == "sr":
        return (
            f"  {_judged(result, clean, scale)};"
            f" bicubic {_judged(enlarge(before, scale), clean, scale)}"
            f" (luma, {scale} pixels of border left out)"
        )
    return f"  {_judged(result, clean)}; input {_judged(before, clean)}"


def scored(row: RestoredRow, scorer: Scorer, max_pixels: int) -> str:
    """Quality scores of a written result and of its input, in one line.

    The input of super-resolution is enlarged by bicubic interpolation first, because the score of a
    image depends on its size.
    """
    assert row.restored is not None, "only a restored image can be compared"
    scale = row.restored.scale
    before = read_image(row.image, max_pixels=max_pixels).pixels
    if scale > 1:
        before = enlarge(_eight_bits(before), scale)
    name = "bicubic" if scale > 1 else "input"
    return f"  quality {scorer(row.output).score:.4g}; {name} {scorer(before).score:.4g}"


def _fits(original: ImageLayers, height: int, width: int, scale: int) -> bool:
    return 0 <= original.height - height < scale and 0 <= original.width - width < scale


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, QMambaError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def _judged(pixels: np.ndarray, clean: np.ndarray, border: int = 0) -> str:
    planes = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] / 255
    figure = judge(planes, clean, border=border)
    return f"PSNR {figure.psnr:.2f} dB, SSIM {figure.ssim:.4f}"


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    return reduced(pixels) if pixels.dtype == np.uint16 else pixels
