"""Why an image scores as it does: seven kinds of technical flaw, each with its severity.

Small heads on the image statistics (:mod:`qmamba.nn.image_statistics`) were trained on photographs
with synthetic damage of known kind and strength. They look at pixels at their native size, where
noise, slight blur and compression are; they do not know what a photographer wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from qmamba.assess.native.heads import embedded_head

VISIBLE = 0.5
"""Severity from which a flaw is clearly visible."""
SLIGHT = 0.3
"""From here on a flaw has a word in the sentence."""

_SHARPEST_SHARE = 3
_STRONG = 0.8
_WORDS = {
    "blur": "soft",
    "noise": "noisy",
    "compression": "compressed",
    "overexposure": "overexposed",
    "underexposure": "underexposed",
    "contrast": "low in contrast",
    "color": "off in color",
}


@dataclass(frozen=True)
class Reasons:
    """Severity of each flaw, 0 for none, 0.5 for clearly visible, 1 for severe."""

    blur: float
    """Softness of the sharpest third of the crops, so that a soft background is no flaw."""
    noise: float
    """Noise of all kinds."""
    compression: float
    """Artifacts of JPEG, WebP and JPEG 2000."""
    overexposure: float
    """Too bright, highlights lost."""
    underexposure: float
    """Too dark, shadows lost."""
    contrast: float
    """Contrast too low: haze, a faded print."""
    color: float
    """Colors shifted or too strong."""

    @property
    def sentence(self) -> str:
        """All flaws from slight to strong in one plain sentence, the strongest first.

        Example::

            >>> Reasons(0.35, 0.7, 0.0, 0.0, 0.1, 0.0, 0.0).sentence
            'Noisy and slightly soft.'
        """
        found = sorted(
            ((value, name) for name, value in asdict(self).items() if value >= SLIGHT),
            reverse=True,
        )
        words = [_word(name, value) for value, name in found]
        if not words:
            return "No technical flaw stands out."
        text = ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else words[0]
        return text[0].upper() + text[1:] + "."

    def to_dict(self) -> dict[str, float | str]:
        """``reasons`` with the sentence and ``reason_blur`` and so on with the severities."""
        severities = {f"reason_{name}": value for name, value in asdict(self).items()}
        return {"reasons": self.sentence, **severities}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Reasons:
        """The reasons that :meth:`to_dict` made these values of; other keys do not count."""
        return cls(**{field.name: float(values[f"reason_{field.name}"]) for field in fields(cls)})


REASON_COLUMNS = ("reasons", *(f"reason_{field.name}" for field in fields(Reasons)))
"""The keys of :meth:`Reasons.to_dict`, in the order of a table's columns."""


@torch.no_grad()
def find_reasons(crops: Tensor) -> Reasons:
    """The flaws of one image from its crops at native size.

    Blur is the mean over the sharpest third of the crops, everything else the mean over all.

    Args:
        crops: floating point ``(crops, 3, height, width)`` sRGB in [0, 1], sides of at least 32.

    Raises:
        ShapeError: the crops have another shape.

    Example::

        >>> find_reasons(torch.rand(2, 3, 224, 224)).noise > 0.5
        True
    """
    severities = torch.sigmoid(embedded_head("reasons")(crops.float().cpu()))
    sharpest = severities[:, 0].sort().values[: max(1, len(crops) // _SHARPEST_SHARE)]
    means = severities.mean(0).tolist()
    means[0] = float(sharpest.mean())
    return Reasons(*(round(value, 4) for value in means))


def _word(name: str, severity: float) -> str:
    degree = "slightly " if severity < VISIBLE else "very " if severity >= _STRONG else ""
    return degree + _WORDS[name]
