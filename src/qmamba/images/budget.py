"""How much memory the images that are being decoded may take together, in this process.

Every decode claims what its header says that it will need, before memory is taken, and waits until
that much is free; so large images go one at a time however many threads decode.  One that needs
more than the whole budget is refused.  The budget belongs to the process, as its memory does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from qmamba.errors import ConfigError, ImageError

DEFAULT_DECODING_BYTES = 4 << 30
"""Enough for any image of `DEFAULT_MAX_PIXELS`."""

_BYTES_PER_PIXEL = {"1": 5, "L": 5, "P": 12, "RGB": 7, "RGBA": 16, "CMYK": 14, "LAB": 14}
_DEEP_BYTES = {"RGB": 20, "RGBA": 27, "LA": 27}
_OTHER_BYTES = 20


class _Budget:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.limit = DEFAULT_DECODING_BYTES
        self.claimed = 0


_budget = _Budget()


def limit_decoding_memory(limit: int) -> None:
    """Set the bytes that images may take together while they are decoded.

    Args:
        limit: bytes, for this process.

    Raises:
        ConfigError: it is not a positive integer.
    """
    if not isinstance(limit, int) or limit < 1:
        raise ConfigError(f"The memory for decoding must be a positive number, got {limit!r}.")
    with _budget.changed:
        _budget.limit = limit
        _budget.changed.notify_all()


def decoding_bytes(image: Image.Image, *, deep: bool) -> int:
    """Memory that an image takes at most while it is decoded, by its header.

    Args:
        image: The opened image.
        deep: Whether it is read with 16 bits per color channel.
    """
    per_pixel = (_DEEP_BYTES if deep else _BYTES_PER_PIXEL).get(image.mode, _OTHER_BYTES)
    return image.width * image.height * per_pixel


@contextmanager
def claimed(needed: int) -> Iterator[None]:
    """Wait until the bytes are free, and keep them for the block.

    Raises:
        ImageError: the budget is smaller.
    """
    with _budget.changed:
        _budget.changed.wait_for(
            lambda: needed > _budget.limit or _budget.claimed + needed <= _budget.limit
        )
        if needed > _budget.limit:
            raise ImageError(
                f"decoding it takes up to {needed / (1 << 30):.2f} GiB and the budget is "
                f"{_budget.limit / (1 << 30):.2f}, raise it (--memory) to decode the image"
            )
        _budget.claimed += needed
    try:
        yield
    finally:
        with _budget.changed:
            _budget.claimed -= needed
            _budget.changed.notify_all()
