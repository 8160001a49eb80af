"""What every host of a scorer needs: a batch in, one opinion score per image out, on any device."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from qmamba.assess import Score, Scorer
from qmamba.assess.scorer import DEFAULT_WEIGHTS
from qmamba.assess.views import tensor_views
from qmamba.errors import QMambaError, ShapeError

ScorerLike: TypeAlias = Scorer | str | Path | None
"""A scorer, or what :meth:`Scorer.from_pretrained` takes: an embedded name, a path, a hub id, or
``None`` for the embedded default."""

OVERSHOOT = 0.5
"""How far values may lie outside [0, 1], because the outputs of a network in training do."""


def as_scorer(scorer: ScorerLike) -> Scorer:
    """The scorer itself, or the one of these weights; the embedded default is made only once."""
    if isinstance(scorer, Scorer):
        return scorer
    return _default() if scorer is None else Scorer.from_pretrained(scorer)


def scorer_on(scorer: Scorer, device: torch.device | str) -> Scorer:
    """A scorer on a device: the same one where it is there already, a copy otherwise.

    Raises:
        ConfigError: the scorer's precision is not available there.
    """
    target = torch.empty(0, dtype=torch.uint8, device=device).device
    if scorer.device == target:
        return scorer
    return Scorer(
        copy.deepcopy(scorer.model).to(target),
        scorer.metadata,
        policy=scorer.policy,
        precision=scorer.precision,
        batch_size=scorer.batch_size,
        max_pixels=scorer.max_pixels,
    )


def opinion_scores(scorer: Scorer, images: Tensor) -> Tensor:
    """The raw opinion score of every image of a batch, in points of the scorer's scale.

    Where gradients are enabled and the images ask for them this is :meth:`Scorer.score_tensor`.
    Otherwise the prepared network takes one image after the other, and a value is the ``Score.raw``
    that the image gets from the scorer, rounded to float32, however it is batched.

    Args:
        scorer: where and how to score.
        images: ``(batch, 1 or 3, height, width)`` on the scorer's device: floating point in [0, 1],
            with an overshoot of up to 0.5, or uint8. Gray is copied to three channels.

    Returns:
        float32 ``(batch,)``, not clamped to the scale.

    Raises:
        ShapeError: another shape, dtype, device or range of values.
        ImageError: the score of an image is not finite, or the memory is too small for its views.
    """
    images = _checked(images, scorer)
    if torch.is_grad_enabled() and images.requires_grad:
        return scorer.score_tensor(images).float()
    with torch.no_grad():
        views = (tensor_views(image, scorer.policy) for image in images)
        values = [_raw(result) for result in scorer.score_prepared(views)]
    return torch.tensor(values, dtype=torch.float32, device=images.device)


@cache
def _default() -> Scorer:
    return Scorer.from_pretrained(DEFAULT_WEIGHTS)


def _raw(result: Score | QMambaError) -> float:
    if isinstance(result, QMambaError):
        raise result
    return result.raw


def _checked(images: Tensor, scorer: Scorer) -> Tensor:
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
        raise ShapeError(f"The images must be (batch, 1 or 3, height, width), got {shape}.")
    if images.device != scorer.device:
        raise ShapeError(
            f"The images are on {images.device} and the scorer is on {scorer.device}; move one of "
            "them."
        )
    if images.dtype == torch.uint8:
        images = images.float() / 255
    if not images.is_floating_point():
        raise ShapeError(
            f"The images must be floating point in [0, 1] or uint8, got {images.dtype}."
        )
    low, high = (float(bound) for bound in images.detach().aminmax())
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
        raise ShapeError(
            f"The images must have values in [0, 1], got {low:g} to {high:g}; divide 8-bit values "
            "by 255."
        )
    images = images if images.requires_grad else images.float()
    return images.expand(-1, 3, -1, -1)
