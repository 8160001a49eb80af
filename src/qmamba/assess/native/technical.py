"""How flaws at native size lower the score of an image that is scaled down to be scored.

Scaling a photograph of 24 megapixels down to 512 pixels hides its noise, its compression and slight
blur. The rule, of which no part was fitted to ratings:

    score = whole - 1/4 of the scale x (1 - scaled side / side) x severity at native size

``whole`` is the score of the image scaled down. The severity, 0 to 1, comes from crops at native
size, 0.5 being clearly visible. What the scaled image shows itself is in its score already: an
image that is not scaled loses nothing, one that is scaled to a quarter at most 3/16 of the scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qmamba.assess.native.heads import embedded_head
from qmamba.models import ScoreScale

_MOST = 0.25


def technical_severity(crops: Tensor) -> Tensor:
    """Severity of noise, compression and blur together, 0 to 1; differentiable.

    The mean over the better half of the crops, so that a soft background is no flaw.

    Args:
        crops: floating point ``(crops, 3, height, width)`` sRGB in [0, 1], sides of at least 32.

    Returns:
        A scalar.

    Raises:
        ShapeError: the crops have another shape.

    Example::

        >>> float(technical_severity(torch.rand(2, 3, 224, 224))) > 0.5
        True
    """
    crops = crops.float()
    severities = torch.sigmoid(embedded_head("technical", crops.device)(crops)[:, 0])
    return severities.sort().values[: (len(crops) + 1) // 2].mean()


def largest_fall(shrunk: float, scale: ScoreScale) -> float:
    """What the severest flaws take off an image's opinion score, negative where low is good.

    Args:
        shrunk: the scaled side over the side of the image, in (0, 1].
        scale: of the scores.

    >>> largest_fall(0.25, ScoreScale("MOS", 0.0, 1.0, True, 0.5, 0.2))
    0.1875
    """
    fall = _MOST * (1 - shrunk) * (scale.high - scale.low)
    return fall if scale.higher_is_better else -fall
