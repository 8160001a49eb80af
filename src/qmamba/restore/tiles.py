"""Cutting an image into overlapping tiles and blending the restored tiles without seams.

Along each axis tiles of one size stand evenly from border to border. Where two of them overlap, one
fades out as the other fades in, along half a period of a squared sine; so the weights of a pixel
sum to one, and a tile counts least at its own border, where it knows least of its surroundings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from qmamba.errors import ConfigError

_FLOATS: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}

MIN_TILE = 16
"""Smallest side of a tile, in pixels of the input."""

RestoreTile = Callable[[slice, slice], Tensor]
"""Rows and columns of the input to the restored tile, ``(channels, scale * rows, scale *
columns)``, float32 on the CPU."""


@dataclass(frozen=True)
class TilePlan:
    """Where the tiles of an image lie: every row of tiles with every column, row by row."""

    rows: tuple[slice, ...]
    """Input rows of each row of tiles."""
    columns: tuple[slice, ...]
    """Input columns of each column of tiles."""

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of a tile."""
        return self.rows[0].stop, self.columns[0].stop

    def __str__(self) -> str:
        if len(self) == 1:
            return "whole"
        return f"{len(self)} tiles of {self.tile[1]}x{self.tile[0]}"


def plan_tiles(height: int, width: int, tile: int | None, overlap: int) -> TilePlan:
    """Tiles of at most ``tile`` x ``tile`` pixels that overlap by ``overlap`` or a little more.

    Args:
        height, width: size of the input in pixels.
        tile: largest side of a tile, at least :data:`MIN_TILE`; ``None`` takes the whole image.
        overlap: pixels of the input that neighbors share; at most a quarter of ``tile`` is used.

    Raises:
        ConfigError: ``tile`` is too small or ``overlap`` negative.
    """
    if tile is None:
        return TilePlan((slice(0, height),), (slice(0, width),))
    if tile < MIN_TILE:
        raise ConfigError(f"A tile must have at least {MIN_TILE} pixels a side, got {tile}.")
    if overlap < 0:
        raise ConfigError(f"The overlap of tiles must be 0 or more pixels, got {overlap}.")
    # Up to a quarter never more than two tiles meet along an axis.
    overlap = min(overlap, tile // 4)
    return TilePlan(_spans(height, tile, overlap), _spans(width, tile, overlap))


def plan_within(height: int, width: int, pixels: int, overlap: int) -> TilePlan:
    """The fewest tiles of at most as many pixels as memory allows.

    Args:
        height, width: size of the input in pixels.
        pixels: of the largest tile.
        overlap: see :func:`plan_tiles`.
    """
    if height * width <= pixels:
        return plan_tiles(height, width, None, 0)
    side = math.isqrt(pixels)
    shorter = min(height, width)
    side = max(MIN_TILE, side if shorter > side else pixels // shorter)
    return plan_tiles(height, width, side, overlap)


def tiling_notes(planned: TilePlan, used: TilePlan) -> list[str]:
    """What is to be said about the tiles that were used instead of those planned, one phrase."""
    if used != planned:
        return [f"memory ran out, so tiles were made smaller: {used}"]
    return [str(used)] if len(used) > 1 else []


def blended(restore_tile: RestoreTile, plan: TilePlan, scale: int) -> Iterator[tuple[int, Tensor]]:
    """Restore all tiles and blend them, row of tiles by row of tiles.

    Memory holds one row of tiles of the result, whatever the height of the image.

    Args:
        restore_tile: called once for each tile, in the order of the plan.
        plan: the tiles.
        scale: output pixels per input pixel along each axis.

    Yields:
        The first output row of a finished band and the band, ``(channels, rows, scale * width)``.
        The bands follow each other without gaps. A band is not valid after the next is drawn.
    """
    if len(plan) == 1:
        yield 0, restore_tile(plan.rows[0], plan.columns[0])
        return
    across = _weights(plan.columns, scale)
    down = _weights(plan.rows, scale)
    carried: Tensor | None = None
    for index, rows in enumerate(plan.rows):
        band: Tensor | None = None
        for columns, weight in zip(plan.columns, across, strict=True):
            tile = restore_tile(rows, columns)
            if band is None:
                width = scale * plan.columns[-1].stop
                band = tile.new_zeros(tile.shape[0], tile.shape[1], width)
            place = slice(scale * columns.start, scale * columns.stop)
            band[:, :, place].addcmul_(tile, weight)
        assert band is not None, "every plan has columns"
        band *= down[index][:, None]
        if carried is not None:
            band[:, : carried.shape[1]] += carried
        last = index + 1 == len(plan.rows)
        finished = rows.stop if last else plan.rows[index + 1].start
        count = scale * (finished - rows.start)
        yield scale * rows.start, band[:, :count]
        carried = band[:, count:]


def _spans(length: int, tile: int, overlap: int) -> tuple[slice, ...]:
    if length <= tile:
        return (slice(0, length),)
    count = math.ceil((length - overlap) / (tile - overlap))
    # The smallest tiles that so many need, instead of a larger overlap.
    size = math.ceil((length + (count - 1) * overlap) / count)
    starts = [index * (length - size) // (count - 1) for index in range(count)]
    return tuple(slice(start, start + size) for start in starts)


def _weights(spans: tuple[slice, ...], scale: int) -> list[Tensor]:
    """Weights of the output pixels of each span."""
    weights = [torch.ones(scale * (span.stop - span.start), **_FLOATS) for span in spans]
    for index, (before, after) in enumerate(pairwise(spans)):
        count = scale * (before.stop - after.start)
        if count > 0:
            middles = torch.arange(count, **_FLOATS) + 0.5
            rising = torch.sin(math.pi / 2 * middles / count).square()
            weights[index + 1][:count] = rising
            weights[index][-count:] = 1 - rising
    return weights
