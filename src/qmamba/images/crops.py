"""Where to cut crops, and how to pad and resize; everything here is differentiable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as functional

from qmamba.errors import ConfigError, ShapeError

_INDICES: dict[str, Any] = {"dtype": torch.int64, "device": "cpu"}


class Padding(NamedTuple):
    """Pixels added on each side."""

    top: int
    bottom: int
    left: int
    right: int


def crop_grid(height: int, width: int, size: int = 224, count: int = 10) -> list[tuple[int, int]]:
    """A fixed layout of square crops: the same image size always gives the same crops.

    The crops stand in rows (columns for an image higher than wide) from border to border, the
    number in each row chosen so that they lie as far apart as possible: 1 is the center, 5 the
    corners and the center, 10 on 512 x 512 rows of 3, 4 and 3.

    Args:
        height, width: Size of the image, each at least `size` (see `pad_to`).
        size: Side of a crop.
        count: Number of crops wanted.

    Returns:
        (top, left) of each crop in reading order, all different.  Where fewer than `count`
        different positions exist all of them are returned; an image of exactly the crop's size
        gives the single position (0, 0).

    Raises:
        ConfigError: `size` or `count` is below 1.
        ShapeError: the image is smaller than the crop.
    """
    _check_crop(height, width, size, count)
    if height > width:
        return sorted((top, left) for left, top in _landscape(width - size, height - size, count))
    return list(_landscape(height - size, width - size, count))


def random_crops(
    height: int, width: int, size: int, count: int, generator: torch.Generator
) -> list[tuple[int, int]]:
    """(top, left) of `count` independent square crops, every position equally likely.

    Args:
        height, width: Size of the image, each at least `size`.
        size: Side of a crop.
        count: Number of crops; positions may repeat.
        generator: Source of the random numbers, on the CPU.

    Raises:
        ConfigError: `size` or `count` is below 1.
        ShapeError: the image is smaller than the crop.
    """
    _check_crop(height, width, size, count)
    tops = torch.randint(height - size + 1, (count,), generator=generator, **_INDICES).tolist()
    lefts = torch.randint(width - size + 1, (count,), generator=generator, **_INDICES).tolist()
    return list(zip(tops, lefts, strict=True))


def take_crops(
    image: torch.Tensor, positions: Sequence[tuple[int, int]], size: int
) -> torch.Tensor:
    """The square crops of `image` (channels, height, width) at (top, left) positions.

    Returns:
        (len(positions), channels, size, size), a copy; differentiable.

    Raises:
        ShapeError: `image` is not three-dimensional, there is no position, or a crop reaches
            outside the image.
    """
    if image.ndim != 3 or not positions:
        raise ShapeError(
            "take_crops needs an image (channels, height, width) and at least one position, got "
            f"{tuple(image.shape)} and {len(positions)} positions"
        )
    height, width = image.shape[1:]
    for top, left in positions:
        if not (0 <= top <= height - size and 0 <= left <= width - size):
            raise ShapeError(
                f"a crop of {size} at ({top}, {left}) reaches outside an image of "
                f"{height} x {width}"
            )
    return torch.stack([image[:, top : top + size, left : left + size] for top, left in positions])


def padding_for(height: int, width: int, size: int | tuple[int, int]) -> Padding:
    """What `pad_to` adds to an image of height x width: half before and half after.

    Args:
        height, width: Size of the image in pixels.
        size: Least side, or least (height, width), of the padded image.
    """
    least_height, least_width = (size, size) if isinstance(size, int) else size
    rows = max(0, least_height - height)
    columns = max(0, least_width - width)
    return Padding(rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)


def pad_to(image: torch.Tensor, size: int | tuple[int, int]) -> tuple[torch.Tensor, bool]:
    """Pad to at least `size` by reflection about the border pixels.

    The reflection is repeated where a side is shorter than its padding, and a side of one pixel is
    copied.  This equals `numpy.pad(mode="reflect")`.

    Args:
        image: (..., height, width), any dtype.
        size: Least side, or least (height, width), of the result.

    Returns:
        The padded image (`image` itself where it is large enough) and whether it was padded;
        `padding_for` says by how much.  Differentiable.

    Raises:
        ShapeError: fewer than two dimensions, or an empty image.
    """
    if image.ndim < 2 or 0 in image.shape[-2:]:
        raise ShapeError(f"pad_to needs an image (..., height, width), got {tuple(image.shape)}")
    height, width = image.shape[-2:]
    padding = padding_for(height, width, size)
    if not any(padding):
        return image, False
    rows = _reflected(height, padding.top, padding.bottom, image.device)
    columns = _reflected(width, padding.left, padding.right, image.device)
    return image.index_select(-2, rows).index_select(-1, columns), True


def resize_to(
    image: torch.Tensor,
    size: tuple[int, int],
    mode: Literal["bilinear", "bicubic"] = "bicubic",
) -> torch.Tensor:
    """Resize with antialiasing, as Pillow does.

    Args:
        image: (channels, height, width) or (batch, channels, height, width), floating point.
        size: (height, width) of the result.
        mode: Filter; "bicubic" may overshoot the range of the input by a few percent.

    Returns:
        The resized image, `image` itself where the size is right already.  Differentiable.

    Raises:
        ShapeError: another number of dimensions, not floating point, or an empty result.
    """
    if image.ndim not in (3, 4) or not image.is_floating_point() or min(size) < 1:
        raise ShapeError(
            "resize_to needs a floating-point image ([batch,] channels, height, width) and a "
            f"positive size, got {tuple(image.shape)} of {image.dtype} and {tuple(size)}"
        )
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    batch = image if image.ndim == 4 else image[None]
    resized = functional.interpolate(
        batch, size=tuple(size), mode=mode, align_corners=False, antialias=True
    )
    return resized if image.ndim == 4 else resized[0]


def resize_shorter(
    image: torch.Tensor, size: int, mode: Literal["bilinear", "bicubic"] = "bicubic"
) -> torch.Tensor:
    """Resize so that the shorter side is `size`, the aspect ratio kept to the nearest pixel.

    Arguments, result and errors are those of `resize_to`.
    """
    height, width = image.shape[-2:]
    shorter = min(height, width)
    longer_to = max(size, (2 * max(height, width) * size + shorter) // (2 * max(shorter, 1)))
    return resize_to(image, (size, longer_to) if height <= width else (longer_to, size), mode)


def _check_crop(height: int, width: int, size: int, count: int) -> None:
    if size < 1 or count < 1:
        raise ConfigError(f"crop size and count must be at least 1, got {size} and {count}")
    if min(height, width) < size:
        raise ShapeError(
            f"an image of {height} x {width} is smaller than a crop of {size}, pad it first"
        )


@lru_cache(maxsize=4096)
def _landscape(down: int, across: int, count: int) -> tuple[tuple[int, int], ...]:
    """Positions for a crop that can move `down` <= `across` pixels."""
    if count >= (down + 1) * (across + 1):
        return tuple((top, left) for top in range(down + 1) for left in range(across + 1))
    fewest = -(-count // (across + 1))
    most = min(count, down + 1)
    square = round((count * down / across) ** 0.5)
    candidates = range(min(max(fewest, square - 3), most), min(most, max(fewest, square) + 3) + 1)
    layouts = [_rows_of_crops(down, across, count, rows) for rows in candidates]
    return tuple(max(layouts, key=_separation))


def _rows_of_crops(down: int, across: int, count: int, rows: int) -> list[tuple[int, int]]:
    columns = [count // rows] * rows
    for row in _spare_rows(rows, count % rows):
        columns[row] += 1
    return [
        (top, left)
        for top, row_columns in zip(_spread(down, rows), columns, strict=True)
        for left in _spread(across, row_columns)
    ]


def _spare_rows(rows: int, spare: int) -> list[int]:
    """The rows that take one crop more, the same from above and from below where possible."""
    chosen = [rows // 2] if spare % 2 else []
    outer = [row for first in range(rows) for row in (first, rows - 1 - first)]
    for row in outer:
        if len(chosen) < spare and row not in chosen:
            chosen.append(row)
    return chosen


def _spread(travel: int, count: int) -> list[int]:
    """`count` positions from 0 to `travel` at equal steps, one alone in the middle."""
    if count == 1:
        return [travel // 2]
    steps = count - 1
    return [(2 * index * travel + steps) // (2 * steps) for index in range(count)]


def _separation(positions: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Least and summed squared distance of a crop to its nearest neighbor.

    Whole numbers, so that equally good layouts are told apart alike on every machine.
    """
    points = np.array(list(positions), dtype=np.int64)
    if len(points) == 1:
        return 0, 0
    distances = ((points[:, None] - points[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(distances, np.iinfo(np.int64).max)
    nearest = distances.min(axis=1)
    return int(nearest.min()), int(nearest.sum())


def _reflected(length: int, before: int, after: int, device: torch.device) -> torch.Tensor:
    """Source index of every padded pixel: 0 1 2 3 2 1 0 1 ... about both borders."""
    positions = torch.arange(-before, length + after, dtype=torch.int64, device=device)
    if length == 1:
        return torch.zeros_like(positions)
    period = 2 * (length - 1)
    folded = positions.remainder(period)
    return torch.minimum(folded, period - folded)
