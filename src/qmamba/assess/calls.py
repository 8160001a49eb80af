"""Calls of the network: which images share one, and how many views one takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from qmamba.assess.views import ImageViews
from qmamba.errors import ImageError, QMambaError
from qmamba.images import normalize
from qmamba.ops.out_of_memory import is_out_of_memory

PIXELS_PER_CALL = 4_194_304
"""Pixels that one call of the network takes at most (83 crops of 224), unless one view has more.

The views of an image with more of them take several calls."""

_Output = TypeVar("_Output")


def grouped(
    images: Iterable[ImageViews | QMambaError], number: int
) -> Iterator[list[ImageViews | QMambaError]]:
    """Neighbors that share a call: up to `number` images whose views have one size, errors along.

    A group depends on the images before it and on nothing else, so that scores can be repeated.
    """
    group: list[ImageViews | QMambaError] = []
    size: torch.Size | None = None
    held = 0
    for image in images:
        if not isinstance(image, QMambaError):
            if size is not None and image.views.shape[-2:] != size:
                yield group
                group, held = [], 0
            size = image.views.shape[-2:]
            held += 1
        group.append(image)
        if held == number or (held == 0 and len(group) == 1):
            yield group
            group, held, size = [], 0, None
    if group:
        yield group


@torch.no_grad()
def through(
    network: Callable[[Tensor], _Output], views: Tensor, parameter: Tensor
) -> list[_Output]:
    """What a network makes of views of one size, in as many calls as its memory asks for.

    Args:
        network: takes normalized images.
        views: ``(views, 3, height, width)`` in [0, 1].
        parameter: one of the network's, for the device and the dtype.

    Raises:
        ImageError: memory does not suffice.
    """
    count, _, height, width = views.shape
    chunk = max(1, PIXELS_PER_CALL // (height * width))
    try:
        return [network(normalize(part.to(parameter))) for part in views.split(chunk)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ImageError(
            f"The memory of {parameter.device} is too small for {min(chunk, count)} views of "
            f"{width} x {height} pixels; choose a policy with smaller views."
        ) from error
