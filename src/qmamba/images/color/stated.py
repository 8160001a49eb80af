"""Colors that a file states without an ICC profile: chunks of PNG (gAMA, cHRM, cICP), tags of TIFF.

They are carried into files of the same format.  For another one they become an ICC profile, where
primaries, white and a tone curve say everything.

Source: PNG specification, third edition (W3C, 2025); ITU-T H.273; ICC.1:2022.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

TRANSFER_TAG, WHITE_TAG, PRIMARIES_TAG = 301, 318, 319

_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D65 = (0.3127, 0.3290)
_BT709 = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES = {
    1: (*_D65, *_BT709),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
"""White and red, green, blue by the color primaries of H.273."""
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_VIDEO_CURVE = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
_CURVES: dict[int, tuple[float, ...]] = {
    **dict.fromkeys((1, 6, 14, 15), _VIDEO_CURVE),
    4: (2.2,),
    5: (2.8,),
    8: (1.0,),
    13: _SRGB_CURVE,
}
"""Parametric curves of ICC by the transfer characteristics of H.273."""
_SRGB_GAMMA = 1 / 2.2
_CLOSE = 0.01


class _Space(NamedTuple):
    """White and primaries (x and y of each) and a parametric curve."""

    chromaticities: tuple[float, ...]
    curve: tuple[float, ...]


@dataclass(frozen=True)
class StatedColors:
    """What a file says about its colors beside an ICC profile."""

    chunks: tuple[tuple[str, bytes], ...] = ()
    """Kinds and data of PNG chunks."""
    tags: tuple[tuple[int, object], ...] = ()
    """Numbers and values of TIFF tags."""

    @property
    def names(self) -> str:
        """What is stated, for a note."""
        titles = {
            TRANSFER_TAG: "TransferFunction",
            WHITE_TAG: "WhitePoint",
            PRIMARIES_TAG: "PrimaryChromaticities",
        }
        return ", ".join(
            [*(kind for kind, _ in self.chunks), *(titles[tag] for tag, _ in self.tags)]
        )

    @property
    def is_srgb(self) -> bool:
        """Whether the colors are sRGB as far as is stated."""
        if any(tag == TRANSFER_TAG for tag, _ in self.tags):
            return False
        space = self._space()
        return space is not None and _is_srgb(space)

    def profile(self, gray: bool) -> bytes | None:
        """An ICC profile of these colors; None where they are sRGB or a profile cannot say them."""
        space = self._space()
        if space is None or _is_srgb(space) or any(tag == TRANSFER_TAG for tag, _ in self.tags):
            return None
        try:
            return _icc_profile(space, gray)
        except (np.linalg.LinAlgError, ZeroDivisionError, OverflowError, struct.error):
            return None

    def _space(self) -> _Space | None:
        """The color space, None where it is none of primaries and a simple curve."""
        chunks = dict(self.chunks)
        if "cICP" in chunks:
            primaries, transfer, matrix, full = chunks["cICP"]
            known = primaries in _PRIMARIES and transfer in _CURVES
            if not known or matrix or not full:
                return None
            return _Space(_PRIMARIES[primaries], _CURVES[transfer])
        chromaticities: tuple[float, ...] = (*_D65, *_BT709)
        curve: tuple[float, ...] = _SRGB_CURVE
        if "sRGB" in chunks:
            return _Space(chromaticities, curve)
        if "cHRM" in chunks:
            chromaticities = tuple(v / 100_000 for v in struct.unpack(">8I", chunks["cHRM"]))
        if "gAMA" in chunks:
            gamma = struct.unpack(">I", chunks["gAMA"])[0] / 100_000
            if gamma <= 0:
                return None
            # 1 / 2.2 is how programs write sRGB.
            plain = abs(gamma - _SRGB_GAMMA) < _CLOSE and _close_to_bt709(chromaticities)
            curve = _SRGB_CURVE if plain else (1 / gamma,)
        if self.tags:
            tags = dict(self.tags)
            stored = (tags.get(WHITE_TAG, _D65), tags.get(PRIMARIES_TAG, _BT709))
            try:
                chromaticities = tuple(float(v) for values in stored for v in values)  # type: ignore[attr-defined]
            except (TypeError, ValueError, ZeroDivisionError):
                return None
        return _Space(chromaticities, curve) if len(chromaticities) == 8 else None


def read_stated_colors(image: Image.Image) -> StatedColors:
    """What an opened PNG or TIFF file states."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        wanted = (TRANSFER_TAG, WHITE_TAG, PRIMARIES_TAG)
        return StatedColors(
            tags=tuple((tag, image.tag_v2[tag]) for tag in wanted if tag in image.tag_v2)
        )
    return StatedColors(chunks=getattr(image, "color_chunks", ()))


def _is_srgb(space: _Space) -> bool:
    return space.curve == _SRGB_CURVE and _close_to_bt709(space.chromaticities)


def _close_to_bt709(chromaticities: tuple[float, ...]) -> bool:
    wanted = (*_D65, *_BT709)
    return all(abs(a - b) < _CLOSE for a, b in zip(chromaticities, wanted, strict=True))


def _xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _icc_profile(space: _Space, gray: bool) -> bytes:
    white = _xyz(*space.chromaticities[:2])
    cone = np.diag(_BRADFORD @ _D50 / (_BRADFORD @ white))
    adaptation = np.linalg.inv(_BRADFORD) @ cone @ _BRADFORD
    kind = {1: 0, 5: 3}[len(space.curve)]
    curve = b"para" + struct.pack(">IHH", 0, kind, 0) + _fixed(*space.curve)
    tags = {
        b"desc": _text("stated colors"),
        b"cprt": _text("no copyright"),
        b"wtpt": b"XYZ \0\0\0\0" + _fixed(*_D50),
        b"chad": b"sf32\0\0\0\0" + _fixed(*adaptation.ravel()),
    }
    if gray:
        tags[b"kTRC"] = curve
    else:
        columns = np.stack(
            [_xyz(*space.chromaticities[start : start + 2]) for start in (2, 4, 6)], axis=1
        )
        columns = adaptation @ (columns * np.linalg.solve(columns, white))
        for index, name in enumerate((b"r", b"g", b"b")):
            tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(*columns[:, index])
            tags[name + b"TRC"] = curve
    return _assembled(tags, b"GRAY" if gray else b"RGB ")


def _assembled(tags: dict[bytes, bytes], space: bytes) -> bytes:
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    header = struct.pack(">I4xI4s4s4s", start + len(body), 0x04300000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H4s", 2025, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += _fixed(*_D50) + bytes(48)
    return header + table + body


def _text(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">IIIHHII", 0, 1, 12, 0x656E, 0x5553, len(data), 28) + data


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
