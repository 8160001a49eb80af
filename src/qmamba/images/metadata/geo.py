"""Where the pixels of a GeoTIFF lie on the globe, for an image of another size.

Source: OGC GeoTIFF Standard 1.1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from PIL import Image, TiffImagePlugin

_SCALE, _TIEPOINTS, _MATRIX = 33550, 33922, 34264
_KEYS, _NUMBERS, _TEXTS = 34735, 34736, 34737
GEO_TAGS = (_SCALE, _TIEPOINTS, _MATRIX, _KEYS, _NUMBERS, _TEXTS)
"""Pixel scale, tie points, transformation, keys, numbers and texts."""
_RASTER_TYPE, _PIXEL_IS_POINT = 1025, 2


@dataclass(frozen=True)
class GeoPosition:
    """The GeoTIFF tags of an image of a certain size."""

    width: int
    height: int
    tags: tuple[tuple[int, object], ...]
    """Numbers and values."""

    def resized(self, width: int, height: int) -> GeoPosition:
        """The position of the same area in an image of another size."""
        across, down = width / self.width, height / self.height
        tags = dict(self.tags)
        # Coordinates count from the corner of a pixel, or from its center.
        shift = 0.5 if self._pixel_is_point else 0.0
        scale, points, matrix = (_numbers(tags.get(tag)) for tag in (_SCALE, _TIEPOINTS, _MATRIX))
        if len(scale) >= 2:
            tags[_SCALE] = (scale[0] / across, scale[1] / down, *scale[2:])
        if points:
            moved = list(points)
            for place in range(0, len(points) - 5, 6):
                moved[place] = (points[place] + shift) * across - shift
                moved[place + 1] = (points[place + 1] + shift) * down - shift
            tags[_TIEPOINTS] = tuple(moved)
        if len(matrix) == 16:
            rows = [list(matrix[start : start + 4]) for start in range(0, 16, 4)]
            for row in rows:
                row[3] += row[0] * (shift / across - shift) + row[1] * (shift / down - shift)
                row[0] /= across
                row[1] /= down
            rows[3] = list(matrix[12:])
            tags[_MATRIX] = tuple(value for row in rows for value in row)
        return replace(self, width=width, height=height, tags=tuple(tags.items()))

    @property
    def _pixel_is_point(self) -> bool:
        keys = _numbers(dict(self.tags).get(_KEYS))
        entries = [keys[start : start + 4] for start in range(4, len(keys) - 3, 4)]
        return any(entry[0] == _RASTER_TYPE and entry[3] == _PIXEL_IS_POINT for entry in entries)


def read_geo(image: Image.Image, width: int, height: int) -> GeoPosition | None:
    """The position of a TIFF file, None where it has none."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    tags = tuple((tag, image.tag_v2[tag]) for tag in GEO_TAGS if tag in image.tag_v2)
    return GeoPosition(width, height, tags) if tags else None


def _numbers(value: object) -> tuple[float, ...]:
    values = value if isinstance(value, tuple) else (value,)
    return tuple(float(part) for part in values if isinstance(part, (int, float)))
