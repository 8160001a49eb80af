"""Whether two images show the same thing at all, however different their quality is."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from qmamba.evaluation.metrics.fidelity import luma

CELLS = 16
"""Cells along each side of the grid that an image is averaged on, so that noise, blur, blocks and a
small shift leave little in it."""
NEIGHBORS = 5
"""Cells along each side of a neighborhood."""
LEAST_DEVIATION = 3 / 255
"""Deviation of values from 0 to 1 below which a neighborhood counts as flat."""
LEAST_LIKENESS = 0.3
"""Two images below it are said to show different things; `benchmarks/likeness.py` says how often
that is right."""


def likeness(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """How far two images have the same coarse structure, whatever their quality and tone.

    Luma and the three channels are averaged on a grid, and each cell is taken relative to the mean
    and the deviation of its neighborhood; the largest of the four correlations counts, whatever its
    sign. So exposure, contrast and changed colors cancel out.

    Args:
        first: uint8 (height, width, 3).
        second: the same; its size may be another.

    Returns:
        1 for the same structure and near 0 for unrelated photographs; 1 also where one of them is
        flat and has no structure.
    """
    planes = [_structure(image) for image in (first, second)]
    norms = planes[0].norm(dim=1) * planes[1].norm(dim=1)
    has_structure = norms > 1e-4
    if not has_structure.any():
        return 1.0
    products = (planes[0] * planes[1]).sum(1).abs()
    return float((products[has_structure] / norms[has_structure]).max())


def _structure(image: NDArray[np.uint8]) -> Tensor:
    """Luma and channels on the grid, float32 (4, cells * cells), each with a mean of 0."""
    # One channel after the other, because images can be large.
    channels = [torch.from_numpy(image[..., index] / np.float32(255))[None] for index in range(3)]
    pooled = [functional.adaptive_avg_pool2d(channel, CELLS) for channel in channels]
    colors = torch.stack(pooled, dim=1)
    cells = torch.cat([luma(colors), colors], dim=1)
    mean = _neighborhood(cells)
    deviation = (_neighborhood(cells.square()) - mean.square()).clamp(min=0).sqrt()
    relative = ((cells - mean) / (deviation + LEAST_DEVIATION))[0].flatten(1)
    return relative - relative.mean(dim=1, keepdim=True)


def _neighborhood(cells: Tensor) -> Tensor:
    """The mean around each cell, of those that there are."""
    return functional.avg_pool2d(
        cells, NEIGHBORS, stride=1, padding=NEIGHBORS // 2, count_include_pad=False
    )
