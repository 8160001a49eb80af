"""What a restoration has gained, for `qmamba restore --reference` and `--score`; imports torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from qmamba.assess import Scorer
from qmamba.cli.quality.compare import described
from qmamba.errors import DataError, QMambaError
from qmamba.evaluation.comparison import compare_images
from qmamba.evaluation.restoration.protocol import judge
from qmamba.images import ImageLayers, read_layers
from qmamba.images.samples import eight_bits
from qmamba.restore import Job, RestoredRow
from qmamba.restore.degradations import enlarge

UNLIMITED = sys.maxsize
"""Largest image, in pixels, where the image is a result of our own."""


class Gains:
    """The comparison of results with their inputs, by the quality score.

    Args:
        scorer: what scores both.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._known: dict[str, tuple[str, bool]] = {}

    def accept(self, job: Job, result: Path) -> bool:
        """Whether a result is clearly better than its input; one that cannot be scored is not."""
        line, has_figures, verdict = self._compared(job.source, result)
        self._known[job.source] = line, has_figures
        return verdict == "better"

    def line(self, row: RestoredRow) -> tuple[str, bool]:
        """What is to be said about a result, and whether it holds figures."""
        return self._known.pop(row.image, None) or self._compared(row.image, row.output)[:2]

    def _compared(self, image: str, result: str | Path) -> tuple[str, bool, str]:
        try:
            # The restorer has read the input within its limit, and the result is our own.
            found = compare_images(self._scorer, image, result, max_pixels=UNLIMITED)
        except Exception as error:
            # The image is restored, so whatever happens here must not end the work on the others.
            return f"  no quality score: {_reason(error)}", False, ""
        return f"  quality {described(found)}", True, found.gain.verdict


def measured(
    row: RestoredRow,
    original: ImageLayers | None,
    decoded: ImageLayers | None,
    gains: Gains | None,
) -> Iterator[tuple[str, bool]]:
    """Lines on a written image, each with whether it holds figures or says why there are none.

    Args:
        row: of a restored image, or one whose result was refused.
        original: what it is compared with; None for no comparison.
        decoded: the input of the restoration; needed with an original.
        gains: what compares the scores; None for no score.
    """
    if original is not None and decoded is not None and row.restored is not None:
        try:
            yield compared(row, original, decoded), True
        except Exception as error:
            yield f"  not compared: {_reason(error)}", False
    if gains is not None:
        yield gains.line(row)


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


def compared(row: RestoredRow, original: ImageLayers, decoded: ImageLayers) -> str:
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
        eight_bits(layers.colors)
        for layers in (
            read_layers(row.output, max_pixels=UNLIMITED),
            decoded,
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


def _fits(original: ImageLayers, height: int, width: int, scale: int) -> bool:
    return 0 <= original.height - height < scale and 0 <= original.width - width < scale


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, QMambaError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def _judged(pixels: np.ndarray, clean: np.ndarray, border: int = 0) -> str:
    planes = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] / 255
    figure = judge(planes, clean, border=border)
    return f"PSNR {figure.psnr:.2f} dB, SSIM {figure.ssim:.4f}"
