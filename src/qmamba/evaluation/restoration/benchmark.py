"""A restoration network on a test set, by the protocol of published tables.

================  =======================================  =====================================
task              input                                    compared
================  =======================================  =====================================
super-resolution  MATLAB's bicubic of the original, which  video luma in MATLAB's range, without
                  is cut to multiples of the scale         ``scale`` pixels at each side
denoising         noise of one fixed draw, neither cut     red, green and blue, all pixels
                  nor rounded
JPEG              the gray image, or the 8-bit video     that gray image, all pixels
                  luma of a color image, compressed
================  =======================================  =====================================

Results are cut and rounded to 8 bits, each image is judged, and the mean is taken over images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmamba.datasets.clean.images import image_named, read_clean
from qmamba.datasets.clean.test_sets import RestorationSet
from qmamba.errors import ConfigError
from qmamba.evaluation.restoration.modes import MODES, Network, official_tiling
from qmamba.evaluation.restoration.protocol import Fidelity, judge
from qmamba.restore.degradations import Degradation, enlarge, video_luma
from qmamba.restore.ensemble import self_ensemble
from qmamba.restore.measuring import estimate_noise


@dataclass(frozen=True)
class SetResult:
    """What a network reached on a set."""

    set_name: str
    """Of the test set."""
    names: tuple[str, ...]
    """Of its images."""
    images: tuple[Fidelity, ...]
    """Their figures, in the same order."""

    @property
    def mean(self) -> Fidelity:
        """Plain means over the images."""
        blocking = [each.psnr_b for each in self.images if each.psnr_b is not None]
        return Fidelity(
            float(np.mean([each.psnr for each in self.images])),
            float(np.mean([each.ssim for each in self.images])),
            float(np.mean(blocking)) if blocking else None,
        )


def evaluate_set(
    network: Network | None,
    test_set: RestorationSet,
    degradation: Degradation,
    *,
    mode: str = "whole",
    ensemble: bool = False,
    device: torch.device | str = "cpu",
    report: Callable[[int, int], None] | None = None,
) -> SetResult:
    """Run a network over a test set.

    Args:
        network: ``(1, channels, height, width)`` in about [0, 1] to the restored images; None
            judges the input, by bicubic interpolation where the task enlarges.
        test_set: the originals.
        degradation: what is undone; of a range, the hard end.
        mode: one of :data:`~qmamba.evaluation.restoration.modes.MODES`.
        ensemble: take the mean over eight flips and transposes.
        device: where the network is.
        report: called with the images done and their number.

    Raises:
        ConfigError: the mode is unknown.
        ImageError: an image cannot be decoded.
        ShapeError: an image is too small.
    """
    if mode not in MODES:
        raise ConfigError(f"The mode must be one of {', '.join(MODES)}, got {mode!r}.")
    figures = []
    for path in test_set.paths:
        with image_named(path):
            clean, degraded = benchmark_pair(path, degradation)
            figures.append(
                _input_figures(clean, degraded, degradation)
                if network is None
                else _figures(
                    _run(network, _batch(degraded).to(device), degradation.scale, mode, ensemble),
                    clean,
                    degradation,
                )
            )
        if report is not None:
            report(len(figures), len(test_set.paths))
    return SetResult(test_set.name, test_set.names, tuple(figures))


def benchmark_pair(
    path: Path, degradation: Degradation
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The original and the input of an image, as published results have them.

    Returns:
        uint8 ``(height, width, channels)`` and float32, about 0 to 1, ``scale`` times smaller, with
        the noise map that is measured in it where the degradation has one.
    """
    pixels = read_clean(path)
    if degradation.task == "jpeg" and degradation.channels == 1 and not _is_gray(pixels):
        pixels = video_luma(pixels)
    clean = degradation.clean(pixels)
    degraded = degradation.benchmark(clean)
    if degradation.condition_channels:
        image = degraded[..., : degradation.channels]
        measured = estimate_noise(np.round(image * np.float32(255.0)).astype(np.uint8))
        degraded = np.concatenate([image, measured.map(image)[..., None]], axis=2)
    return clean, degraded


@torch.no_grad()
def _run(network: Network, images: Tensor, scale: int, mode: str, ensemble: bool) -> Tensor:
    def once(tiles: Tensor) -> Tensor:
        return official_tiling(network, tiles, scale) if mode == "official" else network(tiles)

    return self_ensemble(once, images) if ensemble else once(images)


def _figures(
    restored: Tensor, clean: NDArray[np.uint8], degradation: Degradation, *, rounded: bool = True
) -> Fidelity:
    return judge(
        restored,
        clean,
        border=degradation.scale if degradation.task == "sr" else 0,
        rounded=rounded,
        blocking=degradation.task == "jpeg" and degradation.channels == 1,
    )


def _input_figures(
    clean: NDArray[np.uint8], degraded: NDArray[np.float32], degradation: Degradation
) -> Fidelity:
    if degradation.task == "sr":
        small = np.round(degraded * np.float32(255.0)).astype(np.uint8)
        degraded = enlarge(small, degradation.scale).astype(np.float32) / np.float32(255.0)
    degraded = degraded[..., : degradation.channels]
    rounded = degradation.task != "denoise"
    return _figures(_batch(degraded), clean, degradation, rounded=rounded)


def _is_gray(pixels: NDArray[np.uint8]) -> bool:
    return bool((pixels == pixels[..., :1]).all())


def _batch(pixels: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).unsqueeze(0)
