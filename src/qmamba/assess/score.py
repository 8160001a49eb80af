"""What a score is: a number on a declared scale, and everything needed to obtain it again."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qmamba.assess.native import Reasons


@dataclass(frozen=True)
class Score:
    """The quality of one image and how it was found. ``float(score)`` is the score.

    Example:
        >>> from qmamba import Scorer
        >>> score = Scorer.from_pretrained()("examples/coffee.jpg")
        >>> score.scale, score.higher_is_better, (score.width, score.height)
        ((0.0, 1.0), True, (600, 400))
    """

    score: float
    """Quality on ``scale``, clamped to it."""
    raw: float
    """The same value before clamping: the mean over the views, in opinion-score points, less what
    flaws at native size cost."""
    scale: tuple[float, float]
    """Lowest and highest possible score."""
    higher_is_better: bool
    """True if a larger score means a better image."""
    crop_spread: float | None
    """Sample standard deviation of the opinion score over the crops, in the points of ``scale``:
    how much the parts of the image disagree. A sign of uncertainty, not a confidence interval.
    None where the policy looks at one view only."""
    policy: str
    """Which views of the image were scored, e.g. "crops(size=224,count=10,layout=fixed)"."""
    model: str
    """Name of the weights."""
    sha256: str
    """SHA-256 of the weights file, hexadecimal; empty for a model that never was a file."""
    width: int
    """Width in pixels of the upright image, before any padding or scaling."""
    height: int
    """Height in pixels of the upright image, before any padding or scaling."""
    notes: tuple[str, ...] = ()
    """What was done to the image on the way, e.g. "padded from 100x80 by reflection"."""
    image: str | None = None
    """Name of the source: the path, or None for an image given as an array."""
    whole: float | None = None
    """``raw`` as it would be without a look at the native size; None where it was not recorded."""
    native: float | None = None
    """Technical quality at native size, where the policy asks for it and the image is scaled down:
    1 without noise, compression and blur, 0.5 where they are clearly visible, 0 where severe."""
    reasons: Reasons | None = None
    """Which technical flaws it has, where they were asked for."""
    opinions: tuple[float, ...] = field(default=(), repr=False)
    """The opinion score of each view, in the order of the policy; ``raw`` is their mean. Not part
    of a table; empty for a score that was read from one."""

    def __float__(self) -> float:
        return self.score

    def to_dict(self) -> dict[str, Any]:
        """A flat dictionary of plain values, as JSON has them; the keys are a table's columns."""
        return {
            "image": self.image,
            "score": self.score,
            "raw": self.raw,
            "scale_low": self.scale[0],
            "scale_high": self.scale[1],
            "higher_is_better": self.higher_is_better,
            "crop_spread": self.crop_spread,
            "whole": self.whole,
            "native": self.native,
            "width": self.width,
            "height": self.height,
            "policy": self.policy,
            "model": self.model,
            "sha256": self.sha256,
            "notes": list(self.notes),
            **({} if self.reasons is None else self.reasons.to_dict()),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Score:
        """The score that :meth:`to_dict` made these values of; other keys do not count.

        Raises:
            KeyError, TypeError, ValueError: a value is missing or of another kind.
        """
        return cls(
            score=float(values["score"]),
            raw=float(values["raw"]),
            scale=(float(values["scale_low"]), float(values["scale_high"])),
            higher_is_better=bool(values["higher_is_better"]),
            crop_spread=_number(values["crop_spread"]),
            whole=_number(values.get("whole")),
            native=_number(values.get("native")),
            policy=str(values["policy"]),
            model=str(values["model"]),
            sha256=str(values["sha256"] or ""),
            width=int(values["width"]),
            height=int(values["height"]),
            notes=tuple(values["notes"] or ()),
            image=values["image"],
            reasons=Reasons.from_dict(values) if values.get("reasons") else None,
        )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def pool_views(opinions: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation of the opinion scores of one image's views.

    The sums are exact (:func:`math.fsum`), so the order of the views does not matter. The deviation
    of a single view is None.
    """
    mean = math.fsum(opinions) / len(opinions)
    return mean, statistics.stdev(opinions) if len(opinions) > 1 else None
