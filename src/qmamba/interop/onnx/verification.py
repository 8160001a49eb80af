"""Whether a file computes in ONNX Runtime what its network computes here, and how fast."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.evaluation.metrics.fidelity import psnr
from qmamba.interop.onnx.libraries import library

TOLERANCE = 1e-4
"""Greatest deviation of a file that is kept: as a share of the score scale's range, or in the
values of a restored image, which are in [0, 1]."""

LEAST_PSNR = 35.0
"""Of the images of a simulation against those of its packed network, in dB."""
MOST_SCORE_DEVIATION = 0.02
"""Of the scores of a simulation, as a share of their scale's range."""

_ROUNDS = 5
_SEED = 20251016
_MOST_NOISE = 50 / 255

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Comparison:
    """One input through both implementations."""

    shape: tuple[int, int, int, int]
    """Of the input."""
    deviation: float
    """Greatest difference, in the units of :data:`TOLERANCE`."""
    psnr: float | None
    """Of the file's images against ours, in dB; None for scores."""
    milliseconds: float
    """Median time of ONNX Runtime."""
    own_milliseconds: float
    """Median time of this package."""
    unrounded: float | None = None
    """Of a simulation: what the network would give without rounding of its activations, against the
    packed one; PSNR in dB for images, and for scores the greatest difference."""


@dataclass(frozen=True)
class ExportReport:
    """A file that was written and what was found out about it."""

    path: Path
    size: int
    """Bytes."""
    sha256: str
    """Of the file, in hexadecimal."""
    opset: int
    comparisons: tuple[Comparison, ...]
    metadata: dict[str, str]
    """What the file says about itself."""
    changes: tuple[float, ...] | None = None
    """With weights of few bits: the greatest difference between the file and the network in full
    precision for each input, in the units of :data:`TOLERANCE`. The comparisons are then with a
    file in float32 that has the rounded weights."""

    @property
    def deviation(self) -> float:
        """The greatest of all."""
        return max(comparison.deviation for comparison in self.comparisons)

    @property
    def is_simulation(self) -> bool:
        """Whether the file simulates a quantized network."""
        return self.comparisons[0].unrounded is not None


def open_session(
    content: bytes | str | Path, *, threads: int | None = None, operators: Path | None = None
) -> Any:
    """An inference session on the CPU.

    Args:
        content: a file or what is in it.
        threads: how many compute; those of torch by default.
        operators: a library of operators that is registered.
    """
    runtime = library("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    if operators is not None:
        options.register_custom_ops_library(str(operators))
    source = content if isinstance(content, bytes) else str(content)
    return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def session_runner(session: Any) -> Run:
    """A function from images to the only output of a session.

    Where the session has several inputs, the images have the channels of all, one after the other.
    """
    inputs = session.get_inputs()

    def run(images: Tensor) -> Tensor:
        parts = [images]
        if len(inputs) > 1:
            parts = list(images.split([each.shape[1] for each in inputs], dim=1))
        given = {
            each.name: part.contiguous().numpy() for each, part in zip(inputs, parts, strict=True)
        }
        return torch.from_numpy(session.run(None, given)[0])

    return run


def compare(
    file: Run,
    ours: Run,
    shapes: Iterable[tuple[int, int, int, int]],
    unit: float,
    *,
    images: bool,
    conditions: int = 0,
    unrounded: Run | None = None,
) -> tuple[Comparison, ...]:
    """Both implementations on one random image or batch of each shape; times are interleaved.

    Args:
        file, ours: images ``(batch, channels, height, width)`` in [0, 1] to results of one shape.
        shapes: of the inputs.
        unit: what deviations are divided by.
        images: whether the results are images.
        conditions: how many channels are a noise map.
        unrounded: of a quantized network, without rounding of its activations.
    """
    found = []
    for shape in shapes:
        image = sample_image(shape, conditions)
        results: dict[str, Tensor] = {}
        times: dict[str, list[float]] = {"file": [], "ours": []}
        for _ in range(_ROUNDS):
            for name, run in (("file", file), ("ours", ours)):
                start = time.perf_counter()
                results[name] = run(image)
                times[name].append(time.perf_counter() - start)
        deviation = greatest_difference(results["file"], results["ours"]) / unit
        if unrounded is None:
            without = None
        elif images:
            without = _psnr(unrounded(image), results["ours"])
        else:
            without = greatest_difference(unrounded(image), results["ours"]) / unit
        found.append(
            Comparison(
                shape=shape,
                deviation=deviation,
                psnr=_psnr(results["file"], results["ours"]) if images else None,
                milliseconds=1e3 * statistics.median(times["file"]),
                own_milliseconds=1e3 * statistics.median(times["ours"]),
                unrounded=without,
            )
        )
    return tuple(found)


def fault(comparisons: Iterable[Comparison]) -> str | None:
    """Why a file may not be kept, or ``None``.

    A file in full precision must be within :data:`TOLERANCE` everywhere. A simulation cannot: two
    programs that add in another order round a value between two levels to different ones, and what
    follows moves with it. It must be within :data:`LEAST_PSNR` or :data:`MOST_SCORE_DEVIATION` for
    every input and, where images are compared, nearer to the packed network in the mean than the
    network without rounding is.
    """
    found = list(comparisons)
    worst = max(found, key=lambda each: each.deviation)
    if worst.unrounded is None:
        if worst.deviation <= TOLERANCE:
            return None
        return (
            f"deviates by {worst.deviation:.2g} from the network at an input of {worst.shape}, and "
            f"{TOLERANCE:g} is the most"
        )
    if worst.psnr is None:
        if worst.deviation <= MOST_SCORE_DEVIATION:
            return None
        return (
            f"deviates by {worst.deviation:.2g} of the range from the packed network at an input "
            f"of {worst.shape}, and {MOST_SCORE_DEVIATION:g} is the most"
        )
    ratios = [-math.inf if each.psnr is None else each.psnr for each in found]
    least = min(ratios)
    if not least >= LEAST_PSNR:
        return f"is at {least:.1f} dB from the packed network, and {LEAST_PSNR:g} is the least"
    without = [math.inf if each.unrounded is None else each.unrounded for each in found]
    if not statistics.fmean(ratios) > statistics.fmean(without):
        return (
            f"is at {statistics.fmean(ratios):.1f} dB from the packed network, no nearer than "
            f"without rounding of activations ({statistics.fmean(without):.1f} dB)"
        )
    return None


def sample_image(shape: tuple[int, int, int, int], conditions: int = 0) -> Tensor:
    """Smooth structures with noise on top, in [0, 1], the same for the same shape.

    The last channels are noise maps, as many as there are conditions, with deviations that a
    denoiser knows.
    """
    generator = torch.Generator().manual_seed(_SEED)
    batch, channels, height, width = shape
    options: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    coarse = torch.rand(
        batch, channels, max(2, height // 16), max(2, width // 16), generator=generator, **options
    )
    smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    image = (smooth + 0.05 * torch.randn(shape, generator=generator, **options)).clamp(0, 1)
    image[:, channels - conditions :] *= _MOST_NOISE
    return image


def greatest_difference(first: Tensor, second: Tensor) -> float:
    """Between two tensors; infinite where shapes differ or a value is not a number."""
    if first.shape != second.shape:
        return math.inf
    largest = float(np.abs(first.double().numpy() - second.double().numpy()).max())
    return largest if math.isfinite(largest) else math.inf


def _psnr(first: Tensor, second: Tensor) -> float:
    """Of the worst image of a batch."""
    if first.shape != second.shape:
        return -math.inf
    return float(psnr(first.double(), second.double()).min())
