"""What quantization costs: how near the results of a network are to those in full precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qmamba.models import Network, architecture_of


@dataclass(frozen=True)
class Agreement:
    """Results of a quantized network beside those of the same network in full precision."""

    inputs: int
    """Number of inputs that both were given."""
    rank_correlation: float | None = None
    """Spearman correlation of the outputs of a quality network; None for a restoration network and
    where all outputs are equal."""
    largest_change: float | None = None
    """Largest change of an output of a quality network, in deviations of the training scores."""
    psnr: float | None = None
    """Mean peak signal-to-noise ratio between the images of a restoration network, in dB, each at
    most 100."""

    def __str__(self) -> str:
        if self.psnr is not None:
            return f"{self.psnr:.1f} dB from full precision on {self.inputs} crops"
        rank = "undefined" if self.rank_correlation is None else f"{self.rank_correlation:.3f}"
        return (
            f"rank correlation with full precision {rank}, largest change "
            f"{self.largest_change:.2f} deviations of the scores, on {self.inputs} crops"
        )


@torch.no_grad()
def agreement(
    full: Network,
    quantized: Callable[[Tensor], Tensor],
    inputs: Sequence[Tensor],
) -> Agreement:
    """Compare two networks on the same inputs.

    Args:
        full: in full precision and evaluation mode.
        quantized: the same network after quantization.
        inputs: as for :func:`~qmamba.quantization.calibrate`, at least one.
    """
    pairs = [(full(x).double(), quantized(x).double()) for x in inputs]
    if not architecture_of(full).rates:
        ratios = []
        for exact, rounded in pairs:
            error = (exact.clamp(0, 1) - rounded.clamp(0, 1)).square().mean().clamp_min(1e-10)
            ratios.append(-10 * torch.log10(error).item())
        return Agreement(len(inputs), psnr=sum(ratios) / len(ratios))
    exact, rounded = (
        torch.cat([each.flatten() for each in side]) for side in zip(*pairs, strict=True)
    )
    return Agreement(
        len(inputs),
        rank_correlation=_rank_correlation(exact, rounded),
        largest_change=(exact - rounded).abs().max().item(),
    )


def _rank_correlation(first: Tensor, second: Tensor) -> float | None:
    ranks = [values.argsort().argsort().double() for values in (first, second)]
    constant = any(bool((values == values[0]).all()) for values in (first, second))
    return None if constant else torch.corrcoef(torch.stack(ranks))[0, 1].item()
