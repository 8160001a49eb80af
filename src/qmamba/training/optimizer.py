"""AdamW with the field's exceptions from weight decay, and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qmamba.errors import ConfigError
from qmamba.training.options import TrainingOptions

_NEVER_DECAYED = (
    ".bias",
    "A_logs",
    "Ds",
    "dt_projs_bias",
    "pos_embed",
    "cls_token",
    "relative_position_bias_table",
)


def build_optimizer(
    model: nn.Module, options: TrainingOptions, factor: Callable[[str], float]
) -> torch.optim.AdamW:
    """AdamW over the parameters that require a gradient.

    Each group carries the ``factor`` by which its learning rate differs from the schedule's.

    Raises:
        ConfigError: nothing is left to train.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            vector = parameter.dim() < 2 or name.endswith(_NEVER_DECAYED)
            decay = 0.0 if vector else options.weight_decay
            groups.setdefault((factor(name), decay), []).append(parameter)
    if not groups:
        raise ConfigError("The model has no trainable parameter; unfreeze what shall be trained.")
    return torch.optim.AdamW(
        [
            {"params": parameters, "factor": speed, "weight_decay": decay}
            for (speed, decay), parameters in groups.items()
        ],
        lr=options.learning_rate,
        betas=options.betas,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the schedule's learning rate, each group at its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


class MovingAverage:
    """Exponential moving average of the trainable parameters.

    While the run is young the average forgets faster, ``(1 + step) / (10 + step)``, so that it
    does not keep the starting weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self.values = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take the weights after a step, counted from 0, into the average."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        parameters = dict(model.named_parameters())
        torch._foreach_lerp_(
            list(self.values.values()),
            [parameters[name].detach() for name in self.values],
            weight,
        )

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the average and the weights of the model; twice is nothing."""
        parameters = dict(model.named_parameters())
        for name, value in self.values.items():
            parameter = parameters[name]
            held = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(held)

    def load(self, values: dict[str, Tensor]) -> None:
        """Continue from the values of a checkpoint."""
        for name, value in self.values.items():
            value.copy_(values[name])
