"""Whether one score is really better than another: the difference against its spread."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Literal, TypeAlias

from qmamba.assess import Score
from qmamba.errors import ConfigError

Verdict: TypeAlias = Literal["better", "no clear change", "worse"]

ERRORS = 2.0
"""A difference counts where it exceeds this many of its standard errors over the views."""
LEAST_SHARE = 0.01
"""And this share of the scale; a smaller one hardly anybody would see."""
LEAST_SHARE_OF_ONE_VIEW = 0.02
"""The share of the scale where a policy with a single view gives no spread."""

RULE = (
    f"A change counts if it is larger than {ERRORS:g} standard errors over the views and than "
    f"{100 * LEAST_SHARE:g} % of the scale ({100 * LEAST_SHARE_OF_ONE_VIEW:g} % where there is one "
    "view)."
)
"""The rule of the verdict in one sentence. Views overlap and are no independent sample, so it
guards against noise but is no test of significance."""


@dataclass(frozen=True)
class Gain:
    """What an image has gained from one version to another of the same size."""

    before: Score
    """Of the first version."""
    after: Score
    """Of the second."""
    difference: float
    """After minus before, not clamped, in the points of the scale and its direction."""
    standard_error: float | None
    """Of the difference, over the views, which are the same in both versions; ``None`` where there
    is one view."""
    threshold: float
    """What the difference must exceed to count."""

    @property
    def improvement(self) -> float:
        """The difference, positive where the second version is better."""
        return self.difference if self.after.higher_is_better else -self.difference

    @property
    def verdict(self) -> Verdict:
        """By :data:`RULE`."""
        if abs(self.difference) <= self.threshold:
            return "no clear change"
        return "better" if self.improvement > 0 else "worse"


def gain(before: Score, after: Score) -> Gain:
    """Compare the scores of two versions of an image.

    Raises:
        ConfigError: the two were not scored in the same way or at the same size, so that the
            difference would say nothing.

    >>> from qmamba import Scorer
    >>> scorer = Scorer.from_pretrained()  # doctest: +SKIP
    >>> sharp, blurred = map(scorer, ["examples/coffee.jpg", "examples/coffee_blurred.jpg"])
    ... # doctest: +SKIP
    >>> gain(sharp, blurred).verdict  # doctest: +SKIP
    'worse'
    """
    for name in ("model", "sha256", "policy", "width", "height"):
        values = getattr(before, name), getattr(after, name)
        if values[0] != values[1]:
            raise ConfigError(
                f"Scores can be compared only where the {name} is the same, got {values[0]!r} and "
                f"{values[1]!r}."
            )
    low, high = after.scale
    error = None
    threshold = LEAST_SHARE_OF_ONE_VIEW * (high - low)
    if len(before.opinions) == len(after.opinions) > 1:
        differences = [
            second - first for first, second in zip(before.opinions, after.opinions, strict=True)
        ]
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        threshold = max(ERRORS * error, LEAST_SHARE * (high - low))
    return Gain(before, after, after.raw - before.raw, error, threshold)
