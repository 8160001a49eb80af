"""What the outputs of a quality network are judged by, and weighted sums of it.

Predictions and targets are normalized scores (mean 0, deviation 1 over the training part). Losses
of single rows compare each with its own target. Losses that couple rows look at pairs or at the
whole batch; they compare rows of the same group only, because scores of different data sets have
no order among each other, and on several ranks they see the rows of all ranks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.errors import ConfigError
from qmamba.training.distributed import gather_rows

RANK_MARGIN = 1.0
"""Largest difference of targets, in deviations, that the rank loss asks of the predictions."""

_VARIANCE_FLOOR = 1e-6
_PROBABILITY_FLOOR = 1e-6


def plcc_loss(prediction: Tensor, target: Tensor, group: Tensor) -> Tensor:
    """``(1 - r) / 2`` with Pearson's correlation r within each group, mean over the rows.

    A group of one row, or of equal targets, counts as uncorrelated and has no gradient.

    Args:
        prediction: (n,) floating point.
        target: (n,) of the same dtype.
        group: (n,) integers.

    Returns:
        A scalar in [0, 1].
    """
    return 0.5 * (1 - _correlation(prediction, target, group).mean())


def r2_loss(prediction: Tensor, target: Tensor, group: Tensor) -> Tensor:
    """``1 - r^2`` with Pearson's correlation r within each group, mean over the rows.

    The share of the targets' variance that the best line through the predictions leaves. Arguments
    as for :func:`plcc_loss`; a scalar in [0, 1].

    Source: the second term of the loss of LoDa (Xu et al., CVPR 2024), four times.
    """
    return 1 - _correlation(prediction, target, group).square().mean()


def rank_loss(prediction: Tensor, target: Tensor, group: Tensor) -> Tensor:
    """Hinge over pairs: the better row must lead by the targets' difference, at most a margin.

    ``max(0, min(RANK_MARGIN, t_i - t_j) - (p_i - p_j))``, mean over the pairs with ``t_i > t_j``
    of the same group; 0 where there is none. Arguments as for :func:`plcc_loss`.
    """
    wanted, found, counted = _pairs(prediction, target, group)
    hinge = F.relu(wanted.clamp(max=RANK_MARGIN) - found) * counted
    return hinge.sum() / counted.sum().clamp(min=1)


def fidelity_loss(prediction: Tensor, target: Tensor, group: Tensor) -> Tensor:
    """Fidelity between the probabilities that one row is better than the other.

    With ``P = Phi((t_i - t_j) / sqrt 2)`` of the targets (Thurstone's model with unit deviations)
    and Q of the predictions: ``1 - sqrt(P Q) - sqrt((1 - P)(1 - Q))``, mean over the pairs with
    ``t_i > t_j`` of the same group; 0 where there is none. Arguments as for :func:`plcc_loss`.

    Source: Tsai et al., "FRank", SIGIR 2007; Zhang et al., "Uncertainty-aware blind image quality
    assessment in the laboratory and wild", IEEE Transactions on Image Processing 30, 2021.
    """
    wanted, found, counted = _pairs(prediction, target, group)
    truth = _better(wanted)
    guess = _better(found).clamp(_PROBABILITY_FLOOR, 1 - _PROBABILITY_FLOOR)
    # Roots of single factors, because that of a product has no finite gradient where one is 0.
    infidelity = 1 - truth.sqrt() * guess.sqrt() - (1 - truth).sqrt() * (1 - guess).sqrt()
    return (infidelity * counted).sum() / counted.sum().clamp(min=1)


_ROW_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "smooth_l1": F.smooth_l1_loss,
    "l1": F.l1_loss,
    "mse": F.mse_loss,
}
_COUPLED_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "plcc": plcc_loss,
    "r2": r2_loss,
    "rank": rank_loss,
    "fidelity": fidelity_loss,
}
LOSSES = (*_ROW_LOSSES, *_COUPLED_LOSSES)
"""Names of the losses that a sum can have."""


@dataclass(frozen=True)
class Loss:
    """A weighted sum of losses; ``smooth_l1`` with beta 1 is the default.
    Raises:
        ConfigError: no terms, an unknown name, a name twice, or a weight that is not positive.
    """

    terms: tuple[tuple[float, str], ...] = ((1.0, "smooth_l1"),)
    """(weight, name) of each, positive weights, names from :data:`LOSSES`."""

    def __post_init__(self) -> None:
        names = [name for _, name in self.terms]
        for weight, name in self.terms:
            if name not in LOSSES:
                raise ConfigError(f"Unknown loss {name!r}; choose from {', '.join(LOSSES)}.")
            if not 0 < weight < 1e6 or names.count(name) > 1:
                raise ConfigError(
                    f"The loss {name!r} must occur once and with a positive weight, got {self}."
                )
        if not names:
            raise ConfigError(f"A loss needs at least one of {', '.join(LOSSES)}.")

    def __call__(self, prediction: Tensor, target: Tensor, group: Tensor) -> Tensor:
        """The loss of a batch; on several ranks of this rank's rows, the mean over ranks counts.

        It is computed in fp32 at least, also inside of autocast.

        Args:
            prediction: (n,) floating point.
            target: (n,) floating point.
            group: (n,) integers: rows of different groups are not compared with each other.
        """
        dtype = torch.promote_types(prediction.dtype, torch.float32)
        prediction, target = prediction.to(dtype), target.to(dtype)
        with torch.autocast(prediction.device.type, enabled=False):
            total = prediction.new_zeros(())
            whole: tuple[Tensor, Tensor, Tensor] | None = None
            for weight, name in self.terms:
                if name in _ROW_LOSSES:
                    value = _ROW_LOSSES[name](prediction, target)
                else:
                    if whole is None:
                        whole = gather_rows(prediction), gather_rows(target), gather_rows(group)
                    value = _COUPLED_LOSSES[name](*whole)
                total = total + weight * value
        return total

    def __str__(self) -> str:
        return "+".join(
            name if weight == 1 else f"{weight:g}*{name}" for weight, name in self.terms
        )


def parse_loss(text: str) -> Loss:
    """The sum that a text such as ``"smooth_l1 + 0.5*plcc"`` names; ``str(loss)`` is its inverse.

    Raises:
        ConfigError: the text is no such sum.
    """
    terms = []
    for part in text.split("+"):
        match = re.fullmatch(r"\s*(?:(?P<weight>[\d.]+(?:e-?\d+)?)\s*\*\s*)?(?P<name>\w+)\s*", part)
        try:
            if match is None:
                raise ValueError(part)
            terms.append((float(match["weight"] or 1.0), match["name"]))
        except ValueError:
            raise ConfigError(
                f"The loss {text!r} cannot be read; write a sum such as smooth_l1+0.5*plcc of"
                f" {', '.join(LOSSES)}."
            ) from None
    return Loss(tuple(terms))


def _correlation(prediction: Tensor, target: Tensor, group: Tensor) -> Tensor:
    """For each row Pearson's correlation within its group, (n,)."""
    same = (group[:, None] == group[None]).to(prediction.dtype)
    share = same / same.sum(1, keepdim=True)
    first, second = prediction - share @ prediction, target - share @ target
    covariance = share @ (first * second)
    # Outputs that are all equal, as at the start of a run, have a finite gradient this way.
    variances = (share @ first.square() + _VARIANCE_FLOOR) * (
        share @ second.square() + _VARIANCE_FLOOR
    )
    return covariance / variances.sqrt()


def _pairs(prediction: Tensor, target: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Differences of targets and predictions (n, n), and 1 where the pair counts."""
    wanted = target[:, None] - target[None]
    found = prediction[:, None] - prediction[None]
    counted = (wanted > 0) & (group[:, None] == group[None])
    return wanted, found, counted.to(prediction.dtype)


def _better(difference: Tensor) -> Tensor:
    """``Phi(difference / sqrt 2)``: Thurstone's probability with two unit deviations."""
    return 0.5 * (1 + torch.erf(difference / 2))
