"""Values that a quantizer is initialized with."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LIMIT = 4096
"""Values that are kept of a tensor, and in all, besides the outermost ones."""
OUTERMOST = 64
"""Values that are kept at each end of a tensor."""

# Its multiples, taken modulo the size of a tensor, are spread evenly and follow no axis of it.
_STRIDE = 2654435761
_ROUNDING = 1e-6


class WeightedValues(NamedTuple):
    """Values that stand for more of their kind, both ``(count,)``, float32."""

    values: Tensor
    weights: Tensor


class Sample:
    """A part of the values that a tensor takes, with exact extremes and statistics.

    The outermost values of each tensor are all kept, because a few of them can make up most of the
    quantization error; of the others as many as are enough, with a weight that makes up for the
    rest.

    Args:
        batched: the first axis of the tensors counts images, whose statistics are kept apart.
        normalize: keep values less the mean of their row and divided by its deviation.
    """

    def __init__(self, batched: bool, *, normalize: bool = False) -> None:
        self.batched, self.normalize = batched, normalize
        self.lowest = torch.tensor(torch.inf, dtype=torch.float32, device="cpu")
        self.highest = torch.tensor(-torch.inf, dtype=torch.float32, device="cpu")
        self._inner: list[WeightedValues] = []
        self._outer: list[Tensor] = []
        self._statistics: list[Tensor] = []
        self._magnitudes: list[Tensor] = []

    @classmethod
    def of(cls, x: Tensor, batched: bool, *, normalize: bool = False) -> Sample:
        """The sample of one tensor."""
        sample = cls(batched, normalize=normalize)
        sample.add(x)
        return sample

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Take more values, ``(images, ...)`` if batched."""
        rows = (x.flatten(1) if self.batched and x.dim() > 1 else x.reshape(1, -1)).float()
        lowest, highest = torch.aminmax(rows, dim=1)
        self._magnitudes.append(rows.abs().mean())
        mean = rows.mean(1)
        deviation = rows.std(1) if rows.shape[1] > 1 else torch.zeros_like(mean)
        self._statistics.append(torch.stack([mean, deviation, lowest, highest], 1))
        self.lowest = torch.minimum(self.lowest.to(rows.device), lowest.min())
        self.highest = torch.maximum(self.highest.to(rows.device), highest.max())
        if self.normalize:
            # Below this, the deviation is that of rounding errors around a constant.
            varies = deviation > _ROUNDING * torch.maximum(lowest.abs(), highest.abs())
            rows = (rows - mean[:, None]) * (varies / deviation.where(varies, 1))[:, None]
        values = rows.flatten()
        if values.numel() <= LIMIT + 2 * OUTERMOST:
            self._inner.append(WeightedValues(values, torch.ones_like(values)))
            return
        low, high = (values.topk(OUTERMOST, largest=end).values for end in (False, True))
        inner = _spread(values)
        inner = inner[(inner > low[-1]) & (inner < high[-1])]
        weight = (values.numel() - 2 * OUTERMOST) / max(len(inner), 1)
        self._inner.append(WeightedValues(inner, torch.full_like(inner, weight)))
        self._outer += [low, high]

    def values(self) -> WeightedValues:
        """Some of the values, and how many each of them stands for."""
        inner, weights = (torch.cat(parts) for parts in zip(*self._inner, strict=True))
        kept, kept_weights = _spread(inner), _spread(weights)
        kept_weights = kept_weights * (weights.sum() / kept_weights.sum())
        outer = torch.cat([inner[:0], *self._outer])
        return WeightedValues(
            torch.cat([kept, outer]), torch.cat([kept_weights, torch.ones_like(outer)])
        )

    def mean_magnitude(self) -> Tensor:
        """The mean of the absolute values of all that were given."""
        return torch.stack(self._magnitudes).mean()

    @property
    def statistics(self) -> Tensor:
        """Mean, deviation, smallest and largest value of each row: ``(rows, 4)``."""
        return torch.cat(self._statistics)


def _spread(x: Tensor) -> Tensor:
    """At most :data:`LIMIT` values from all over a row."""
    if len(x) <= LIMIT:
        return x
    kept = torch.arange(LIMIT, dtype=torch.int64, device=x.device) * _STRIDE % len(x)
    return x[kept]
