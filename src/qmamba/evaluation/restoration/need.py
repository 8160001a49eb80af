"""Which restoration an image needs, from the flaws that are found and measured in it.

The heads of :mod:`qmamba.assess.native.reasons` hold weak noise under strong JPEG for texture. What
is measured without a network counts beside them.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from qmamba.assess.native.heads import NATIVE_CROPS, NATIVE_SIDE
from qmamba.assess.native.reasons import SLIGHT, VISIBLE, Reasons, find_reasons
from qmamba.assess.policies import CropsPolicy
from qmamba.assess.views import read_views
from qmamba.images import DEFAULT_MAX_PIXELS
from qmamba.restore.degradations import TaskName
from qmamba.restore.inputs import as_layers
from qmamba.restore.measuring import block_strength, estimate_noise
from qmamba.restore.measuring.blocks import CLEAR_BLOCKS

SEVERE_SIGMA = 20.0
"""Deviation of measured noise, on the scale 0 to 255, that counts as a severity of 1."""

SEVERE_BLOCKS = 1.5
"""Block strength (:func:`~qmamba.restore.measuring.block_strength`) that counts as one of 1: JPEG
of a quality of about 30."""

_NATIVE = CropsPolicy(size=NATIVE_SIDE, count=NATIVE_CROPS)


@dataclass(frozen=True)
class RestorationNeed:
    """What is wrong with an image that a network can undo at its size."""

    reasons: Reasons
    """All flaws, each with its severity."""
    sigma: float
    """Deviation of the measured noise at middle gray, on the scale 0 to 255."""
    blocks: float
    """Block strength; 0 for an image too small to tell."""

    @property
    def noise(self) -> float:
        """Severity of the noise, 0 to 1: the higher of what was found and what was measured."""
        return max(self.reasons.noise, min(1.0, self.sigma / SEVERE_SIGMA))

    @property
    def compression(self) -> float:
        """The same for compression."""
        return max(self.reasons.compression, min(1.0, self.blocks / SEVERE_BLOCKS))

    @property
    def tasks(self) -> tuple[TaskName, ...]:
        """``denoise`` and ``jpeg``, those whose flaw is at least slight
        (:data:`~qmamba.assess.native.reasons.SLIGHT`), in this order.

        Texture hides blocks, and JPEG hides noise. So where blocks are found for certain, noise and
        compression that reach :data:`SLIGHT` together (the root of the sum of squares) are
        ``jpeg``.
        """
        found: tuple[tuple[TaskName, float], ...]
        found = (("denoise", self.noise), ("jpeg", self.compression))
        tasks = tuple(task for task, severity in found if severity >= SLIGHT)
        together = math.hypot(self.noise, self.compression)
        if not tasks and together >= SLIGHT and self.blocks >= CLEAR_BLOCKS:
            return ("jpeg",)
        return tasks

    @property
    def sentence(self) -> str:
        """What was found and what is done about it, in one sentence.

        Example:
            >>> RestorationNeed(Reasons(0.1, 0.72, 0.2, 0.0, 0.0, 0.0, 0.0), 8.0, 0.0).sentence
            'Noise 0.72 (clearly visible), compression 0.20, blur 0.10: noise is removed.'
        """
        parts = [
            f"{name} {value:.2f}{_degree(value)}"
            for name, value in (
                ("noise", self.noise),
                ("compression", self.compression),
                ("blur", self.reasons.blur),
            )
        ]
        done = {
            ("denoise",): "noise is removed",
            ("jpeg",): "JPEG artifacts are removed",
            ("denoise", "jpeg"): "noise is removed, then JPEG artifacts are",
            (): "left as it was",
        }[self.tasks]
        text = ", ".join(parts)
        return f"{text[0].upper()}{text[1:]}: {done}."


def restoration_need(
    image: str | os.PathLike[str], *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> RestorationNeed:
    """Look for noise and compression in an image, in crops at its own size.

    Args:
        image: path of a file.
        max_pixels: largest image that is decoded, in pixels.

    Raises:
        ImageError: the image cannot be decoded or is not in an accepted form.

    Example:
        >>> restoration_need("examples/coffee_small.png").tasks
        ()
    """
    layers = as_layers(image, max_pixels)
    views = read_views(image, _NATIVE, max_pixels=max_pixels).views
    return RestorationNeed(
        find_reasons(views),
        estimate_noise(layers.colors, jpeg=layers.format == "JPEG").sigma(0.5),
        block_strength(layers.colors) or 0.0,
    )


def _degree(severity: float) -> str:
    if severity < SLIGHT:
        return ""
    return " (slight)" if severity < VISIBLE else " (clearly visible)"
