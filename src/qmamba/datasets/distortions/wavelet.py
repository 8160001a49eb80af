"""The 9/7 wavelet of JPEG2000 by lifting, scaled to be nearly orthonormal.

Source: Daubechies and Sweldens, "Factoring wavelet transforms into lifting steps", 1998, section
7.7; ITU-T T.800 annex F for the mirrored borders.
"""

from __future__ import annotations

import numpy as np

from qmamba.datasets.distortions.arrays import Floats

_STEPS = (-1.586134342, -0.05298011854, 0.8829110762, 0.4435068522)
_SCALE = np.float32(1.149604398)


def _lift_odd(even: Floats, odd: Floats, weight: float) -> None:
    """Add to each odd row ``weight`` times its two even neighbors, mirrored at the end."""
    shared = even.shape[-2] - 1
    odd += np.float32(weight) * even[..., : odd.shape[-2], :]
    odd[..., :shared, :] += np.float32(weight) * even[..., 1:, :]
    odd[..., shared:, :] += np.float32(weight) * even[..., shared : odd.shape[-2], :]


def _lift_even(even: Floats, odd: Floats, weight: float) -> None:
    """Add to each even row ``weight`` times its two odd neighbors, mirrored at both ends."""
    rows, count = even.shape[-2], odd.shape[-2]
    weighted = np.float32(weight) * odd
    even[..., :count, :] += weighted
    even[..., count:, :] += weighted[..., -1:, :]
    even[..., 1:, :] += weighted[..., : rows - 1, :]
    even[..., :1, :] += weighted[..., :1, :]


def _split_rows(values: Floats) -> tuple[Floats, Floats]:
    """Low and high band of (C, H, W) along H >= 2: ceil(H / 2) and floor(H / 2) rows."""
    even = np.ascontiguousarray(values[..., 0::2, :])
    odd = np.ascontiguousarray(values[..., 1::2, :])
    for index, weight in enumerate(_STEPS):
        (_lift_even if index % 2 else _lift_odd)(even, odd, weight)
    even *= _SCALE
    odd /= _SCALE
    return even, odd


def _merge_rows(low: Floats, high: Floats) -> Floats:
    """Inverse of ``_split_rows``."""
    even, odd = low / _SCALE, high * _SCALE
    for index, weight in reversed(tuple(enumerate(_STEPS))):
        (_lift_even if index % 2 else _lift_odd)(even, odd, -weight)
    shape = (*low.shape[:-2], low.shape[-2] + high.shape[-2], low.shape[-1])
    values = np.empty(shape, dtype=np.float32)
    values[..., 0::2, :] = even
    values[..., 1::2, :] = odd
    return values


def decompose(planes: Floats, depth: int = 5) -> list[Floats]:
    """Subbands of (C, H, W): the lowest first, then three per level from coarse to fine.

    The depth is cut where a side gets shorter than 2.
    """
    details: list[Floats] = []
    low = planes
    for _ in range(depth):
        if min(low.shape[-2:]) < 2:
            break
        # Rows are contiguous, so both directions run along rows with a transpose in between.
        bands: list[Floats] = []
        for half in _split_rows(low):
            across = np.ascontiguousarray(half.swapaxes(-1, -2))
            bands.extend(
                np.ascontiguousarray(band.swapaxes(-1, -2)) for band in _split_rows(across)
            )
        low = bands[0]
        details = [*bands[1:], *details]
    return [low, *details]


def compose(bands: list[Floats]) -> Floats:
    """Inverse of ``decompose``."""
    low = bands[0]
    for index in range(1, len(bands), 3):
        halves = []
        for left, right in ((low, bands[index]), (bands[index + 1], bands[index + 2])):
            across = _merge_rows(
                np.ascontiguousarray(left.swapaxes(-1, -2)),
                np.ascontiguousarray(right.swapaxes(-1, -2)),
            )
            halves.append(np.ascontiguousarray(across.swapaxes(-1, -2)))
        low = _merge_rows(halves[0], halves[1])
    return low
