"""What a restoration has gained, for `qmamba restore --reference` and `--score`; imports torch."""

from __future__ import annotations

import numpy as np
import torch

from qmamba.assess import Scorer
from qmamba.errors import DataError
from qmamba.evaluation.restoration import judge
from qmamba.images import PictureLayers, read_image, read_layers
from qmamba.images.samples import reduced
from qmamba.restore import RestoredRow
from qmamba.restore.degradations import enlarge


def compared(row: RestoredRow, original: PictureLayers) -> str:
    """PSNR and SSIM of a written picture and of its input, in one line.

    The written file is read again, so what its format lost counts. In super-resolution the luma is
    compared without a border of as many pixels as the scale, and the input is enlarged by bicubic
    interpolation; otherwise all channels are compared. An original that is larger by less than the
    scale is cut at the bottom and the right, as the small picture was made of it.

    Raises:
        DataError: the original has another size or other channels.
    """
    assert row.restored is not None, "only a restored picture can be compared"
    scale = row.restored.scale
    result, before, clean = (
        _eight_bits(layers.colours)
        for layers in (read_layers(row.output), read_layers(row.image), original)
    )
    height, width, channels = result.shape
    fits = all(
        0 <= there - here < scale
        for there, here in zip(clean.shape[:2], (height, width), strict=True)
    )
    if not fits or clean.shape[2] != channels:
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


def scored(row: RestoredRow, scorer: Scorer) -> str:
    """Quality scores of a written result and of its input, in one line.

    The input of super-resolution is enlarged by bicubic interpolation first, because the score of a
    picture depends on its size.
    """
    assert row.restored is not None, "only a restored picture can be compared"
    scale = row.restored.scale
    before = read_image(row.image).pixels
    if scale > 1:
        before = enlarge(_eight_bits(before), scale)
    name = "bicubic" if scale > 1 else "input"
    return f"  quality {scorer(row.output).score:.4g}; {name} {scorer(before).score:.4g}"


def _judged(pixels: np.ndarray, clean: np.ndarray, border: int = 0) -> str:
    planes = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] / 255
    figure = judge(planes, clean, border=border)
    return f"PSNR {figure.psnr:.2f} dB, SSIM {figure.ssim:.4f}"


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    return reduced(pixels) if pixels.dtype == np.uint16 else pixels
