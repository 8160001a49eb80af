"""The self-ensemble: the mean over the eight flips and transposes of an image."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def self_ensemble(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Restore an image in its eight orientations, each turned back: the "+" of published tables.

    Args:
        network: restores images of any shape.
        images: ``(batch, channels, height, width)``.

    Returns:
        What the network gives, averaged, in float32.
    """
    total: Tensor | None = None
    for transposed in (False, True):
        for axes in ((), (2,), (3,), (2, 3)):
            turned = images.transpose(2, 3) if transposed else images
            output = network(turned.flip(axes).contiguous()).float().flip(axes)
            output = output.transpose(2, 3) if transposed else output
            total = output.contiguous() if total is None else total.add_(output)
    assert total is not None
    return total / 8
