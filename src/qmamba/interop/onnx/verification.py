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

from qmamba.interop.onnx.libraries import library

TOLERANCE = 1e-4
"""Greatest deviation of a file that is kept: as a share of the score scale's range, or in the
values of a restored image, which are in [0, 1]."""

_ROUNDS = 5
_SEED = 20251016

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
    """A function from images to the only output of a session."""
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: images.numpy()})[0])

    return run


def compare(
    file: Run, ours: Run, shapes: Iterable[tuple[int, int, int, int]], unit: float, *, images: bool
) -> tuple[Comparison, ...]:
    """Both implementations on one random image or batch of each shape; times are interleaved.

    Args:
        file, ours: images ``(batch, channels, height, width)`` in [0, 1] to results of one shape.
        shapes: of the inputs.
        unit: what deviations are divided by.
        images: whether the results are images.
    """
    found = []
    for shape in shapes:
        image = sample_image(shape)
        results: dict[str, Tensor] = {}
        times: dict[str, list[float]] = {"file": [], "ours": []}
        for _ in range(_ROUNDS):
            for name, run in (("file", file), ("ours", ours)):
                start = time.perf_counter()
                results[name] = run(image)
                times[name].append(time.perf_counter() - start)
        deviation = greatest_difference(results["file"], results["ours"]) / unit
        found.append(
            Comparison(
                shape=shape,
                deviation=deviation,
                psnr=_psnr(results["file"], results["ours"]) if images else None,
                milliseconds=1e3 * statistics.median(times["file"]),
                own_milliseconds=1e3 * statistics.median(times["ours"]),
            )
        )
    return tuple(found)


def sample_image(shape: tuple[int, int, int, int]) -> Tensor:
    """Smooth structures with noise on top, in [0, 1], the same for the same shape."""
    generator = torch.Generator().manual_seed(_SEED)
    batch, channels, height, width = shape
    options: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    coarse = torch.rand(
        batch, channels, max(2, height // 16), max(2, width // 16), generator=generator, **options
    )
    smooth = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return (smooth + 0.05 * torch.randn(shape, generator=generator, **options)).clamp(0, 1)


def greatest_difference(first: Tensor, second: Tensor) -> float:
    """Between two tensors; infinite where shapes differ or a value is not a number."""
    if first.shape != second.shape:
        return math.inf
    largest = float(np.abs(first.double().numpy() - second.double().numpy()).max())
    return largest if math.isfinite(largest) else math.inf


def _psnr(first: Tensor, second: Tensor) -> float:
    if first.shape != second.shape:
        return -math.inf
    error = float((first.double() - second.double()).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)
