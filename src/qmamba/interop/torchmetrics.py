"""Quality as metrics of torchmetrics: the mean score of images, and what a restoration gained.

Needs the extra ``torchmetrics``. A metric holds a whole :class:`~qmamba.assess.Scorer`, which is no
submodule: its network never enters the training mode, is no part of ``state_dict`` and never
changes its precision. Moved to a device, the metric takes a copy of the scorer there, and the
caller's stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from qmamba.errors import ConfigError, ShapeError
from qmamba.extras import declare_torchvision_operators, extra
from qmamba.interop.scoring import ScorerLike, as_scorer, opinion_scores, scorer_on

with extra("torchmetrics", "A metric of torchmetrics"):
    declare_torchvision_operators()
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat

Reduction = Literal["mean", "sum", "none"]
"""What becomes of the values of all images: their mean, their sum, or one value each."""


def quality_score(
    images: Tensor, *, scorer: ScorerLike = None, reduction: Reduction = "mean"
) -> Tensor:
    """Opinion scores of a batch; the function beside :class:`QMambaScore`.

    Args:
        images: ``(N, 1 or 3, height, width)``, floating point sRGB in [0, 1] or uint8. Gradients
            flow to images that ask for them.
        scorer: a scorer, which saves loading it at each call, or an embedded name, a path or a hub
            id. It is copied to the device of the images where it is on another.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or ``(N,)`` for ``"none"``, in points of the scorer's scale, not clamped to it.

    Raises:
        ShapeError: another shape, dtype or range of values.
        ConfigError: another reduction.

    Example:
        >>> import torch
        >>> from qmamba.interop.torchmetrics import quality_score
        >>> tuple(quality_score(torch.rand(2, 3, 64, 64), reduction="none").shape)
        (2,)
    """
    _known(reduction)
    values = opinion_scores(scorer_on(as_scorer(scorer), images.device), images)
    return _reduced(values, reduction)


def quality_improvement(
    before: Tensor, after: Tensor, *, scorer: ScorerLike = None, reduction: Reduction = "mean"
) -> dict[str, Tensor]:
    """How much better a batch became; the function beside :class:`QualityImprovement`.

    Args:
        before: ``(N, 1 or 3, height, width)``, as for :func:`quality_score`.
        after: the same images after a treatment, in the same order; their size may be another.
        scorer, reduction: as for :func:`quality_score`.

    Returns:
        ``quality_improvement``, the difference of the scores in points, positive for better also
        on a scale where lower is better; ``share_improved``, 1 for an image with a positive
        difference and 0 for the others, reduced likewise.

    Raises:
        ShapeError, ConfigError: as for :func:`quality_score`, or the batches differ in length.
    """
    _known(reduction)
    judge = scorer_on(as_scorer(scorer), before.device)
    gains = _gains(judge, before, after)
    return {
        "quality_improvement": _reduced(gains, reduction),
        "share_improved": _reduced((gains > 0).to(gains.dtype), reduction),
    }


class _ScorerMetric(Metric):
    """A metric over values that a scorer finds, one for each image."""

    is_differentiable = True
    full_state_update = False
    feature_network = "scorer"

    values: list[Tensor]
    total: Tensor
    count: Tensor

    def __init__(
        self, scorer: ScorerLike = None, *, reduction: Reduction = "mean", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        _known(reduction)
        self.scorer = as_scorer(scorer)
        """Where and how the images are scored."""
        self.reduction = reduction
        """What :meth:`compute` makes of the values."""
        if reduction == "none":
            self.add_state("values", [], dist_reduce_fx="cat")
        else:
            self.add_state(
                "total", torch.zeros((), dtype=torch.float64, device="cpu"), dist_reduce_fx="sum"
            )
            self.add_state(
                "count", torch.zeros((), dtype=torch.int64, device="cpu"), dist_reduce_fx="sum"
            )
        # The scorer decides where the metric is, as its images must be there.
        self.to(self.scorer.device)

    def _apply(
        self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ""
    ) -> torch.nn.Module:
        def moved(tensor: Tensor) -> Tensor:
            try:
                return fn(tensor)
            except TypeError:
                # Apple's GPUs have no numbers of 64 bits.
                if tensor.dtype != torch.float64:
                    raise
                return fn(tensor.float())

        this = super()._apply(moved, exclude_state)
        self.scorer = scorer_on(self.scorer, self.device)
        return this

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        super()._reduce_states(incoming_state)
        # The value of a call has gradients; what is kept of it must not keep its graph.
        if self.reduction == "none":
            self.values[-1] = self.values[-1].detach()

    def _add(self, values: Tensor) -> None:
        if self.reduction == "none":
            self.values.append(values)
        else:
            self.total = self.total + values.to(self.total.dtype).sum()
            self.count = self.count + len(values)

    def _result(self) -> Tensor:
        if self.reduction == "none":
            if len(self.values):
                return dim_zero_cat(self.values)
            return torch.empty(0, dtype=torch.float32, device=self.device)
        total = self.total.float()
        return total if self.reduction == "sum" else total / self.count

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw one value or several; needs matplotlib.

        Args:
            val: what :meth:`compute` or the call gave, or a list of it; ``None`` computes.
            ax: matplotlib axes to draw on; ``None`` makes new ones.

        Returns:
            Figure and axes.
        """
        return self._plot(val, ax)


class QMambaScore(_ScorerMetric):
    """Opinion score over all images that were given, in points of the scorer's scale.

    The values are not clamped to the scale (``Score.raw``). Sums are kept in double precision, so
    one process and several give the same figure. Where the images of a call ask for gradients, its
    value has them.

    Args:
        scorer: a scorer, or an embedded name, a path or a hub id; ``None`` is the embedded default.
        reduction: ``"mean"``, ``"sum"``, or ``"none"``, which gives one value for each image in
            the order of the calls (with several processes: rank after rank).
        kwargs: what every metric of torchmetrics takes.

    Raises:
        ConfigError: another reduction.
        CheckpointError: the weights cannot be found or were not trained to score.

    Example:
        >>> import torch
        >>> from qmamba.interop.torchmetrics import QMambaScore
        >>> metric = QMambaScore()
        >>> metric.update(torch.rand(2, 3, 64, 64))
        >>> metric.compute().shape, metric.higher_is_better
        (torch.Size([]), True)
    """

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """Direction of the scorer's scale."""
        return self.scorer.scale.higher_is_better

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override]
        """Lower end of the scorer's scale; ``None`` for a sum."""
        return None if self.reduction == "sum" else self.scorer.scale.low

    @property
    def plot_upper_bound(self) -> float | None:  # type: ignore[override]
        """Upper end of the scorer's scale; ``None`` for a sum."""
        return None if self.reduction == "sum" else self.scorer.scale.high

    def update(self, images: Tensor) -> None:
        """Score a batch.

        Args:
            images: ``(N, 1 or 3, height, width)`` on the metric's device, floating point sRGB in
                [0, 1] or uint8.

        Raises:
            ShapeError: another shape, dtype, device or range of values.
        """
        self._add(opinion_scores(self.scorer, images))

    def compute(self) -> Tensor:
        """A scalar, or ``(N,)`` for the reduction ``"none"``.

        torchmetrics makes a scalar of a single value, also with ``"none"``.
        """
        return self._result()


class QualityImprovement(_ScorerMetric):
    """What a treatment gained: mean difference of the scores, and share of images that improved.

    Args:
        scorer, reduction, kwargs: as for :class:`QMambaScore`.

    Raises:
        ConfigError, CheckpointError: as for :class:`QMambaScore`.

    Example:
        >>> import torch
        >>> from qmamba.interop.torchmetrics import QualityImprovement
        >>> metric = QualityImprovement()
        >>> images = torch.rand(2, 3, 64, 64)
        >>> {key: float(value) for key, value in metric(images, images).items()}
        {'quality_improvement': 0.0, 'share_improved': 0.0}
    """

    higher_is_better = True

    improved: Tensor

    def __init__(
        self, scorer: ScorerLike = None, *, reduction: Reduction = "mean", **kwargs: Any
    ) -> None:
        super().__init__(scorer, reduction=reduction, **kwargs)
        if reduction != "none":
            zero = torch.zeros((), dtype=torch.int64, device=self.device)
            self.add_state("improved", zero, dist_reduce_fx="sum")

    def update(self, before: Tensor, after: Tensor) -> None:
        """Score a batch before and after its treatment.

        Args:
            before: ``(N, 1 or 3, height, width)``, as for :class:`QMambaScore`.
            after: the same images in the same order; their size may be another.

        Raises:
            ShapeError: another shape, dtype, device or range of values, or as many images not.
        """
        gains = _gains(self.scorer, before, after)
        self._add(gains)
        if self.reduction != "none":
            self.improved = self.improved + (gains > 0).sum()

    def compute(self) -> dict[str, Tensor]:
        """``quality_improvement`` and ``share_improved``; see :func:`quality_improvement`."""
        gains = self._result()
        if self.reduction == "none":
            share = (gains > 0).to(gains.dtype)
        else:
            share = self.improved.float()
            share = share if self.reduction == "sum" else share / self.count
        return {"quality_improvement": gains, "share_improved": share}


def _gains(scorer: Any, before: Tensor, after: Tensor) -> Tensor:
    if len(before) != len(after):
        raise ShapeError(
            f"There must be as many images after as before, got {len(before)} and {len(after)}."
        )
    sign = 1 if scorer.scale.higher_is_better else -1
    return sign * (opinion_scores(scorer, after) - opinion_scores(scorer, before))


def _known(reduction: str) -> None:
    if reduction not in get_args(Reduction):
        raise ConfigError(f"The argument reduction must be mean, sum or none, got {reduction!r}.")


def _reduced(values: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return values
    return values.sum() if reduction == "sum" else values.mean()
