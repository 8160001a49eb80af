"""Ways to run a restoration network over a whole image for published figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Network: TypeAlias = Callable[[Tensor], Tensor]
"""``(1, channels, height, width)`` to the same, ``scale`` times as large."""

MODES = ("whole", "official")
"""``whole``: the image at once; ``official``: :func:`official_tiling`."""

_LARGEST_TILE = 200
_OVERLAP = 10


def official_tiling(network: Network, images: Tensor, scale: int) -> Tensor:
    """Restore in the tiles of MambaIR's and Q-MambaIR's evaluation.

    A side of n pixels is cut into ``n // 200 + 1`` parts after mirroring the image at its lower
    and right end to a multiple of them. Each part sees a tenth of its side more at inner borders;
    what it sees in addition is thrown away, and nothing is blended.

    Args:
        network: restores one tile.
        images: ``(batch, channels, height, width)``.
        scale: of the network.

    Returns:
        ``(batch, channels, scale * height, scale * width)``.
    """
    height, width = images.shape[-2:]
    counts = (height // _LARGEST_TILE + 1, width // _LARGEST_TILE + 1)
    missing = (-height % counts[0], -width % counts[1])
    padded = F.pad(images, (0, missing[1], 0, missing[0]), "reflect")
    sides = (padded.shape[-2] // counts[0], padded.shape[-1] // counts[1])
    rows = []
    for row in range(counts[0]):
        parts = []
        for column in range(counts[1]):
            top, left = (
                _Span.of(index, side, count)
                for index, side, count in zip((row, column), sides, counts, strict=True)
            )
            tile = network(padded[..., top.seen, left.seen])
            parts.append(tile[..., top.kept(scale), left.kept(scale)])
        rows.append(torch.cat(parts, dim=-1))
    return torch.cat(rows, dim=-2)[..., : height * scale, : width * scale]


class _Span:
    def __init__(self, start: int, end: int, before: int, after: int) -> None:
        self.seen = slice(start - before, end + after)
        self._before = before
        self._length = end - start

    @classmethod
    def of(cls, index: int, side: int, count: int) -> _Span:
        more = side // _OVERLAP
        return cls(
            index * side,
            (index + 1) * side,
            more if index > 0 else 0,
            more if index < count - 1 else 0,
        )

    def kept(self, scale: int) -> slice:
        return slice(self._before * scale, (self._before + self._length) * scale)
