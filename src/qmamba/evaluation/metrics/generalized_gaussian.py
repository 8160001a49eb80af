"""Generalized Gaussians, symmetric and not, fitted to samples by matching moments.

Both fits invert G(2/a)^2 / (G(1/a) G(3/a)), G the gamma function and a the shape, which has no
closed form; it grows with a, so one interpolated table does it for all samples at once.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

_SHAPE_RANGE = (0.2, 10.0)


def fit_generalized_gaussian(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and variance of a zero-mean generalized Gaussian, by matching moments.

    `samples` is `(..., n)`; both results are `(...)`. The shape solves
    E|x|^2 / E[x^2] = G(2/a)^2 / (G(1/a) G(3/a)) (Sharifi and Leon-Garcia 1995; Mittal et al. 2012,
    equations 4 to 6) and is limited to [0.2, 10]. No samples count as one zero.
    """
    samples = _not_empty(samples)
    variance = samples.square().mean(dim=-1)
    ratio = quotient_or_zero(samples.abs().mean(dim=-1).square(), variance)
    return _shape_of(ratio), variance


def fit_asymmetric_gaussian(samples: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shape, mean, left variance and right variance of an asymmetric generalized Gaussian.

    `samples` is `(..., n)`; all results are `(...)`. Moments are matched as in Lasmar, Stitou and
    Berthoumieu 2009 (Mittal et al. 2012, equations 8 to 13): each variance is the mean square of
    the samples on its side, 0 where that side is empty. The shape is limited to [0.2, 10].
    """
    samples = _not_empty(samples)
    count = samples.shape[-1]
    left_count = (samples < 0).sum(dim=-1)
    right_count = (samples > 0).sum(dim=-1)
    negative = samples.clamp(max=0)
    positive = samples.clamp(min=0)
    left_energy = negative.square().sum(dim=-1)
    right_energy = positive.square().sum(dim=-1)
    left_variance = left_energy / left_count.clamp(min=1)
    right_variance = right_energy / right_count.clamp(min=1)
    magnitude = (positive.sum(dim=-1) - negative.sum(dim=-1)) / count
    ratio = quotient_or_zero(magnitude.square(), (left_energy + right_energy) / count)

    left, right = left_variance.sqrt(), right_variance.sqrt()
    # The paper's factor in g = left / right, written so that neither side may be a zero divisor.
    asymmetry = quotient_or_zero(
        (left.pow(3) + right.pow(3)) * (left + right), (left_variance + right_variance).square()
    )
    shape = _shape_of(ratio * asymmetry)
    inverse = 1.0 / shape.double()
    log_one, log_two, log_three = (torch.lgamma(order * inverse) for order in (1.0, 2.0, 3.0))
    deviation_to_mean = torch.exp(log_two - 0.5 * (log_one + log_three)).to(samples.dtype)
    return shape, (right - left) * deviation_to_mean, left_variance, right_variance


def quotient_or_zero(numerator: Tensor, denominator: Tensor, floor: float = 1e-12) -> Tensor:
    """Quotient, 0 where the denominator is below the floor."""
    quotient = numerator / denominator.clamp(min=floor)
    return torch.where(denominator > floor, quotient, torch.zeros_like(quotient))


def _not_empty(samples: Tensor) -> Tensor:
    return samples if samples.shape[-1] else samples.new_zeros(*samples.shape[:-1], 1)


@lru_cache(maxsize=8)
def _shape_table(device: torch.device) -> tuple[Tensor, Tensor]:
    low, high = _SHAPE_RANGE
    shapes = torch.logspace(
        math.log10(low), math.log10(high), 4096, dtype=torch.float64, device=device
    )
    inverse = 1.0 / shapes
    log_ratio = (
        2.0 * torch.lgamma(2.0 * inverse) - torch.lgamma(inverse) - torch.lgamma(3.0 * inverse)
    )
    return log_ratio.exp(), shapes


def _shape_of(ratio: Tensor) -> Tensor:
    """Inverts G(2/a)^2 / (G(1/a) G(3/a)), which grows with a, by interpolation in a table."""
    ratios, shapes = _shape_table(ratio.device)
    wanted = ratio.double().clamp(float(ratios[0]), float(ratios[-1]))
    upper = torch.searchsorted(ratios, wanted).clamp(1, ratios.numel() - 1)
    lower = upper - 1
    position = (wanted - ratios[lower]) / (ratios[upper] - ratios[lower])
    return torch.lerp(shapes[lower], shapes[upper], position).to(ratio.dtype)
