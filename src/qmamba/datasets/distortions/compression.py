"""Compression: JPEG and WebP by the codecs of Pillow, JPEG2000 by its transform and quantizer."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from qmamba.datasets.distortions.arrays import Pixels, to_pixels
from qmamba.datasets.distortions.color_spaces import rgb_to_ycbcr, ycbcr_to_rgb
from qmamba.datasets.distortions.wavelet import compose, decompose

# Squared length in RGB of a unit step in Y, Cb and Cr: what an error in each costs.
_YCBCR_NORMS = np.sqrt((ycbcr_to_rgb(np.eye(3, dtype=np.float32)) ** 2).sum(axis=1))

# Fitted so that the error equals OpenJPEG's at equal ratio on photographs.
_BITS_PER_COEFFICIENT = 6.5


def jpeg(image: Pixels, quality: float, generator: np.random.Generator) -> Pixels:
    """Baseline JPEG at ``quality`` (rounded), chroma at half resolution."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=round(quality))
    return np.array(Image.open(stream).convert("RGB"))


def webp(image: Pixels, quality: float, generator: np.random.Generator) -> Pixels:
    """Lossy WebP at ``quality`` (rounded), chroma at half resolution."""
    stream = io.BytesIO()
    # method=0 is the encoder's fastest search; the quantizer, which one sees, is the same.
    Image.fromarray(image).save(stream, "WEBP", quality=round(quality), method=0)
    return np.array(Image.open(stream).convert("RGB"))


def jpeg2000(image: Pixels, ratio: float, generator: np.random.Generator) -> Pixels:
    """JPEG2000 artifacts at about ``ratio`` times fewer bytes than the raw image.

    YCbCr, five levels of the 9/7 wavelet and a dead-zone quantizer, as in the standard. The entropy
    coder, lossless and nearly all of a codec's time, is not run: its bytes are taken as
    proportional to the number of coefficients that stay nonzero (He and Mitra, "A linear source
    model and a unified rate control algorithm for DCT video coding", 2002).
    """
    planes = rgb_to_ycbcr(image.astype(np.float32) - np.float32(128.0)) * _YCBCR_NORMS
    bands = decompose(np.ascontiguousarray(planes.transpose(2, 0, 1)))
    magnitudes = np.abs(np.concatenate([band.ravel() for band in bands]))
    kept = min(max(1, round(8.0 * image.size / ratio / _BITS_PER_COEFFICIENT)), image.size)
    step = max(np.partition(magnitudes, -kept)[-kept], np.float32(0.5))
    coded = []
    for band in bands:
        index = np.trunc(band / step)
        coded.append((index + np.float32(0.5) * np.sign(index)) * step)
    decoded = compose(coded).transpose(1, 2, 0) / _YCBCR_NORMS
    return to_pixels(ycbcr_to_rgb(decoded) + np.float32(128.0))
