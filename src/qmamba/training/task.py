"""What the loop asks of anything that can be learned."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class Task(Protocol):
    """Examples to learn from, a loss, and a judgement on the validation part."""

    @property
    def examples(self) -> int:
        """Examples of one epoch, at least 1."""
        ...

    @property
    def metric(self) -> str | None:
        """The figure of :meth:`evaluate` that decides what is best (higher is better), if any."""
        ...

    def example(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        """One example as CPU tensors of the same shapes for every index.

        All randomness must come from `generator`. Runs in worker processes where there are any.
        """
        ...

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Mean loss, a scalar.

        Args:
            model: what is trained, in training mode.
            batch: examples stacked along a first axis, on the model's device. On several ranks
                each has its rows; the mean over them needs no care, a loss that couples rows must
                first collect them with :func:`~qmamba.training.distributed.gather_rows`.
        """
        ...

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Figures on the validation part; none where there is no such part.

        Args:
            model: in evaluation mode, the moving average where one is kept.
        """
        ...

    def learning_rate_factor(self, name: str) -> float:
        """Factor on the learning rate of the parameter with this name, normally 1."""
        ...
