"""sRGB to and from linear light, CIE Lab (D65) and YCbCr, on float32 arrays of shape (H, W, 3)."""

from __future__ import annotations

import numpy as np

from qmamba.datasets.distortions.arrays import Floats, Pixels, unit_ramp

# IEC 61966-2-1 (sRGB) primaries and white point.
_RGB_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_RGB_TO_WHITE_SCALED_XYZ = _RGB_TO_XYZ / _RGB_TO_XYZ.sum(axis=1, keepdims=True)
# L = 116 f(Y) - 16, a = 500 (f(X) - f(Y)), b = 200 (f(Y) - f(Z)).
_F_TO_LAB = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])
_RGB_TO_YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168735892, -0.331264108, 0.5],
        [0.5, -0.418687589, -0.081312411],
    ]
)
_LINEAR_TO_XYZ_T = _RGB_TO_WHITE_SCALED_XYZ.T.astype(np.float32)
_XYZ_TO_LINEAR_T = np.linalg.inv(_RGB_TO_WHITE_SCALED_XYZ).T.astype(np.float32)
_F_TO_LAB_T = _F_TO_LAB.T.astype(np.float32)
_LAB_TO_F_T = np.linalg.inv(_F_TO_LAB).T.astype(np.float32)
_RGB_TO_YCBCR_T = _RGB_TO_YCBCR.T.astype(np.float32)
_YCBCR_TO_RGB_T = np.linalg.inv(_RGB_TO_YCBCR).T.astype(np.float32)
_LUMA = _RGB_TO_YCBCR[0].astype(np.float32)

_LAB_BREAK = 6.0 / 29.0


def decode_srgb(intensity: Floats) -> Floats:
    """Linear light 0..1 of sRGB intensities 0..1."""
    low = intensity / np.float32(12.92)
    high = ((intensity + np.float32(0.055)) / np.float32(1.055)) ** np.float32(2.4)
    return np.where(intensity <= 0.04045, low, high).astype(np.float32, copy=False)


def encode_srgb(light: Floats) -> Floats:
    """sRGB intensities of linear light; negative light gives 0, light above 1 goes above 1."""
    light = np.maximum(light, np.float32(0.0))
    intensity = light ** np.float32(1.0 / 2.4)
    intensity *= np.float32(1.055)
    intensity -= np.float32(0.055)
    np.multiply(light, np.float32(12.92), out=intensity, where=light <= np.float32(0.0031308))
    return intensity


_LIGHT_OF_PIXEL = decode_srgb(unit_ramp())


def pixels_to_light(image: Pixels) -> Floats:
    """Linear light 0..1 of an image."""
    return np.take(_LIGHT_OF_PIXEL, image)


def pixels_to_lab(image: Pixels) -> Floats:
    """CIE Lab of an image: L 0..100, a and b about -110..110."""
    xyz = pixels_to_light(image) @ _LINEAR_TO_XYZ_T
    linear_part = xyz * np.float32(1.0 / (3.0 * _LAB_BREAK**2)) + np.float32(4.0 / 29.0)
    f = np.where(xyz > _LAB_BREAK**3, np.cbrt(xyz), linear_part)
    lab = f @ _F_TO_LAB_T
    lab[..., 0] -= 16.0
    return lab


def lab_to_srgb(lab: Floats) -> Floats:
    """sRGB intensities on the 0..1 scale (not clipped above) of CIE Lab values."""
    shifted = lab.copy()
    shifted[..., 0] += 16.0
    f = shifted @ _LAB_TO_F_T
    linear_part = (f - np.float32(4.0 / 29.0)) * np.float32(3.0 * _LAB_BREAK**2)
    xyz = np.where(f > _LAB_BREAK, f * f * f, linear_part)
    return encode_srgb(xyz @ _XYZ_TO_LINEAR_T)


def rgb_to_ycbcr(rgb: Floats) -> Floats:
    """Full-range BT.601 Y, Cb, Cr (chroma centered on 0) on the scale of the input."""
    return rgb @ _RGB_TO_YCBCR_T


def ycbcr_to_rgb(ycbcr: Floats) -> Floats:
    """Inverse of ``rgb_to_ycbcr``; not clipped."""
    return ycbcr @ _YCBCR_TO_RGB_T


def luma(rgb: Floats) -> Floats:
    """Full-range BT.601 luma of shape (H, W) on the scale of the input."""
    return rgb @ _LUMA
