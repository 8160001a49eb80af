"""Layers that take a large map band by band.

A layer of few channels waits for memory, and each map that it makes is a pass more. In bands, what
lies between its input and its result stays in the cache, and only the result has the size of the
map: that decides the peak of memory, too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qmamba.ops.native.handover import new
from qmamba.ops.native.memory import Buffers

_VALUES = 1 << 18
"""Of the input of a band, about: one MiB."""
_LEAST_MARGINS = 6
"""Rows of a band by margins on both sides, which are computed twice."""


class Bands:
    """A layer over bands of rows.

    Args:
        layer: from maps ``(batch, rows, ..., channels)`` of one size to a map of ``scale`` times as
            many rows; it may write to its inputs where it has no margin.
        buffers: where the result of more than one band goes.
        name: of its place there, or ``None`` for a fresh tensor.
        margin: rows of the input on each side that a result depends on.
        scale: rows of the result by rows of the input.
    """

    def __init__(
        self,
        layer: Callable[..., Tensor],
        buffers: Buffers,
        name: str | None,
        *,
        margin: int = 0,
        scale: int = 1,
    ) -> None:
        self._layer, self._buffers, self._name = layer, buffers, name
        self._margin, self._scale = margin, scale

    def __call__(self, *maps: Tensor) -> Tensor:
        """The result, which is overwritten by the next one in its place."""
        x, margin, scale = maps[0], self._margin, self._scale
        batch, rows = x.shape[:2]
        height = max(_VALUES // x[0, 0].numel(), 2 * _LEAST_MARGINS * margin, 1)
        if batch * rows <= height:
            return self._layer(*maps)
        out: Tensor | None = None
        for image in range(batch):
            for first in range(0, rows, height):
                last = min(first + height, rows)
                begin, end = max(0, first - margin), min(rows, last + margin)
                band = self._layer(*(each[image : image + 1, begin:end] for each in maps))
                if out is None:
                    out = self._room((batch, scale * rows, *band.shape[2:]), band.dtype)
                kept = band[0, scale * (first - begin) : scale * (last - begin)]
                out[image, scale * first : scale * last] = kept
        assert out is not None
        return out

    def _room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self._name is None:
            return new(*shape, dtype=dtype)
        return self._buffers(self._name, shape, dtype)


def margin_of(*modules: nn.Module) -> int:
    """Rows on each side that convolutions of stride 1, one after the other, look at."""
    convolutions = (c for module in modules for c in module.modules() if isinstance(c, nn.Conv2d))
    return sum(int(c.dilation[0]) * (c.kernel_size[0] // 2) for c in convolutions)
