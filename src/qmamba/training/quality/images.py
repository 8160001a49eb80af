"""The images of a run: decoded once, checked, scaled, and kept as far as memory allows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qmamba.errors import DataError, ImageError
from qmamba.images import DEFAULT_MAX_PIXELS, read_image, resize_shorter, to_tensor
from qmamba.images.samples import eight_bits

DEFAULT_MEMORY = 8 << 30
"""Bytes of decoded images that are kept at most."""

_MOST_THREADS = 8


@dataclass(frozen=True)
class ImageFile:
    """One image of a run."""

    path: Path
    """Its file."""
    shorter: int | None = None
    """Pixels to which its shorter side is scaled down where it is longer; None leaves it."""

    def decode(self, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.uint8]:
        """The image as (height, width, 3), sRGB with 8 bits.

        Raises:
            ImageError: it cannot be decoded.
        """
        image = read_image(self.path, max_pixels=max_pixels)
        pixels = image.pixels
        if self.shorter is not None and min(pixels.shape[:2]) > self.shorter:
            scaled = resize_shorter(to_tensor(image), self.shorter).clamp(0, 1)
            pixels = scaled.mul(255).round().byte().permute(1, 2, 0).contiguous().numpy()
        return eight_bits(pixels)


class UnreadableError(DataError):
    """Images of a run cannot be read; the message names every one of them."""

    def __init__(self, problems: Sequence[tuple[Path, str]]) -> None:
        self.problems = tuple(problems)
        """(file, reason) of each."""
        names = ", ".join(repr(str(path)) for path, _ in problems)
        super().__init__(
            f"{len(problems)} images cannot be read: {names}; mend them, or leave them out with"
            " skip_bad=True (--skip-bad)"
        )


class Images:
    """Decoded images by position. Nothing changes once they are read, so forked workers share.

    Args:
        files: the images.
    """

    def __init__(self, files: Iterable[ImageFile]) -> None:
        self._files = list(files)
        self._kept: dict[ImageFile, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Image (height, width, 3)."""
        file = self._files[index]
        return self._kept[file] if file in self._kept else file.decode()

    @property
    def memory(self) -> int:
        """Bytes of the decoded images that are kept."""
        return sum(pixels.nbytes for pixels in self._kept.values())

    def read(self, memory: int, report: Callable[[bool], None]) -> dict[int, str]:
        """Decode every image once, in threads, and drop those that cannot be read.

        Args:
            memory: bytes of decoded images to keep; the others are decoded whenever asked for.
            report: called after each image with whether it could be read.

        Returns:
            Why an image cannot be read, by its position before the dropping.
        """
        free, bad = memory, {}
        with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
            for index, result in enumerate(pool.map(_decoded, self._files)):
                if isinstance(result, str):
                    bad[index] = result
                elif result.nbytes <= free:
                    self._kept[self._files[index]] = result
                    free -= result.nbytes
                report(not isinstance(result, str))
        self._files = [file for index, file in enumerate(self._files) if index not in bad]
        return bad


def _decoded(file: ImageFile) -> NDArray[np.uint8] | str:
    try:
        return file.decode()
    except ImageError as error:
        return str(error)
