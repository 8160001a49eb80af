"""Quality maps: the score of an image as the mean of a value at each of its pixels.

The head of a QMamba is linear and comes after a mean over the last feature map, so its output at
each position of that map averages exactly to the score of the view. A map is therefore no guess at
what the network attends to but the score itself, not yet averaged. What it shows is the quality
that the network sees at a position together with what its routes have carried there from elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qmamba.assess.policies import ViewPlan
from qmamba.assess.score import Score
from qmamba.errors import ConfigError
from qmamba.images.crops import padding_for

Floats = NDArray[np.float32]

_SEARCH_SIDE = 128
_REGION_SHARE = 6


class Region(NamedTuple):
    """A rectangle of an image, in pixels of the upright image, and the mean of the map in it."""

    left: int
    top: int
    width: int
    height: int
    value: float
    """In opinion-score points, not clamped to the scale."""


@dataclass(frozen=True, eq=False)
class QualityMap:
    """Where in an image its score comes from."""

    values: Floats
    """(rows, columns) in opinion-score points, not clamped: the image cut evenly into as many rows
    and columns, one per pixel unless a smaller map was asked for. The mean over all views that
    look at a place, NaN where none does."""
    coverage: Floats
    """(rows, columns): how many views look at a place; a view that was padded by reflection looks
    at its border repeatedly. The mean of ``values`` weighted by it is ``score.raw``."""
    score: Score = field(repr=False)
    """The score of the image, the very one that the scorer gives without a map."""
    cell: tuple[float, float]
    """Height and width, in pixels of the image, of what one position of a view stands for."""

    def mean(self) -> float:
        """The mean over the pixels, weighted by ``coverage``: ``score.raw`` to rounding."""
        weights = self.coverage.astype(np.float64)
        return float((np.nan_to_num(self.values) * weights).sum() / weights.sum())

    def worst(self, count: int = 3) -> tuple[Region, ...]:
        """The regions of lowest quality, worst first; they do not overlap.

        A region is a square of a sixth of the shorter side or one ``cell``, whichever is larger,
        cut at the border of a narrow image. There are fewer than ``count`` in a small image.

        Raises:
            ConfigError: ``count`` is negative.
        """
        if count < 0:
            raise ConfigError(f"The count of regions must be 0 or more, got {count}.")
        weights = self.coverage.astype(np.float64)
        sums = np.nan_to_num(self.values) * weights
        height, width = self.score.height, self.score.width
        rows, columns = min(sums.shape[0], _SEARCH_SIDE), min(sums.shape[1], _SEARCH_SIDE)
        row_edges = np.arange(rows) * sums.shape[0] // rows
        column_edges = np.arange(columns) * sums.shape[1] // columns
        sums, weights = (
            np.add.reduceat(np.add.reduceat(part, row_edges, 0), column_edges, 1)
            for part in (sums, weights)
        )
        side = max(min(height, width) / _REGION_SHARE, *self.cell)
        tall = min(rows, max(1, round(side * rows / height)))
        wide = min(columns, max(1, round(side * columns / width)))
        covered = _window_sums(weights, tall, wide)
        means = np.full(covered.shape, np.nan)
        enough = covered > 0.5 * weights[weights > 0].mean() * tall * wide
        np.divide(_window_sums(sums, tall, wide), covered, out=means, where=enough)
        order = means if self.score.higher_is_better else -means
        found: list[Region] = []
        while len(found) < count and not np.isnan(order).all():
            top, left = np.unravel_index(np.nanargmin(order), order.shape)
            y, x = int(top * height // rows), int(left * width // columns)
            found.append(
                Region(
                    x,
                    y,
                    max(1, min(width, math.ceil((left + wide) * width / columns)) - x),
                    max(1, min(height, math.ceil((top + tall) * height / rows)) - y),
                    float(means[top, left]),
                )
            )
            order[max(0, top - tall + 1) : top + tall, max(0, left - wide + 1) : left + wide] = (
                np.nan
            )
        return tuple(found)


def assemble(
    views: NDArray[np.floating],
    plan: ViewPlan,
    score: Score,
    max_side: int | None = None,
) -> QualityMap:
    """Lay the maps of an image's views over the image.

    Every position of a view stands for an equal part of its area, so that the weighted mean of the
    result is the mean over the views whatever the sizes are. A place that reflection has copied
    into the padding counts where it came from.

    Args:
        views: (views, rows, columns) in opinion-score points, in the order of ``plan.corners``.
        plan: the geometry of the views.
        score: of the same image.
        max_side: longest side of the result; ``None`` gives every pixel a value.

    Raises:
        ConfigError: ``max_side`` is below 1.
    """
    if max_side is not None and (not isinstance(max_side, int) or max_side < 1):
        raise ConfigError(
            f"The argument max_side must be a whole number of 1 or more, got {max_side!r}."
        )
    height, width = score.height, score.width
    factor = min(1.0, (max_side or max(height, width)) / max(height, width))
    shape = max(1, round(height * factor)), max(1, round(width * factor))
    scaled = plan.scaled or (height, width)
    sums, coverage = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for positions, (top, left) in zip(views, plan.corners, strict=True):
        vertical = _overlaps(shape[0], scaled[0], top, plan.view[0], positions.shape[0])
        horizontal = _overlaps(shape[1], scaled[1], left, plan.view[1], positions.shape[1])
        rows, columns = _nonzero(vertical), _nonzero(horizontal)
        down, across = vertical[rows], horizontal[columns]
        sums[rows, columns] += down @ positions @ across.T
        coverage[rows, columns] += np.outer(down.sum(1), across.sum(1))
    coverage[coverage < 1e-6 * coverage.max()] = 0
    values = np.full(shape, np.nan, np.float32)
    np.divide(sums, coverage, out=values, where=coverage > 0)
    # From areas in pixels of the view to the number of views.
    coverage *= shape[0] * shape[1] / (scaled[0] * scaled[1])
    stretch = height / scaled[0], width / scaled[1]
    return QualityMap(
        values,
        coverage,
        score,
        (
            stretch[0] * plan.view[0] / views.shape[1],
            stretch[1] * plan.view[1] / views.shape[2],
        ),
    )


def _overlaps(cells: int, length: int, start: int, view: int, positions: int) -> Floats:
    """Along one axis, the length that each cell of the map shares with each position of a view.

    Args:
        cells: number of equal parts of the image.
        length: of the scaled image, in pixels.
        start: where the view begins in it.
        view: length of the view in pixels, beyond that of the image by what is padded.
        positions: number of equal parts of the view.
    """
    edges = np.linspace(0, length, cells + 1)
    if view <= length:
        return _shared(edges, start + np.linspace(0, view, positions + 1)).astype(np.float32)
    before = padding_for(length, view, view).top
    source = np.pad(np.arange(length), (before, view - length - before), mode="reflect")
    pixels = np.zeros((length, positions))
    np.add.at(pixels, source, _shared(np.arange(view + 1.0), np.linspace(0, view, positions + 1)))
    return (_shared(edges, np.arange(length + 1.0)) @ pixels).astype(np.float32)


def _shared(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Lengths that the intervals between one list of edges share with those of another."""
    ends = np.minimum.outer(first[1:], second[1:])
    starts = np.maximum.outer(first[:-1], second[:-1])
    return np.clip(ends - starts, 0, None)


def _nonzero(overlaps: Floats) -> slice:
    touched = np.flatnonzero(overlaps.any(1))
    return slice(int(touched[0]), int(touched[-1]) + 1)


def _window_sums(values: NDArray[np.float64], tall: int, wide: int) -> NDArray[np.float64]:
    """Sums over every window of tall x wide, by its upper left corner."""
    total = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return total[tall:, wide:] - total[:-tall, wide:] - total[tall:, :-wide] + total[:-tall, :-wide]
