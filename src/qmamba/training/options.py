"""How long, how fast and how a model is trained; nothing about what it learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from qmamba.errors import ConfigError

SCHEDULES = ("steps", "cosine", "constant")
"""Courses of the learning rate after the warm-up."""
PRECISIONS = ("fp32", "bf16")
"""Number formats of the forward pass."""
KEEPS = ("last", "best")
"""Which weights a run keeps at its end."""

_LAST_COSINE_FACTOR = 0.01


@dataclass(frozen=True)
class TrainingOptions:
    """The schedule of a run, its optimizer and what is written on the way.

    The defaults are the published ones of QMamba; the learning rate, the weight decay and the
    clipping, which its paper does not give, are those of the code that it builds on.

    Raises:
        ConfigError: a value is outside its range, or not exactly one of `steps` and `epochs` is
            given.

    Source: QMamba paper, section 4.1.
    """

    epochs: float | None = 9.0
    """Passes over the training examples; None where `steps` is given."""
    steps: int | None = None
    """Updates of the weights; None where `epochs` is given."""
    batch_size: int = 32
    """Examples of one step, over all ranks together."""
    learning_rate: float = 2e-4
    """Highest learning rate of AdamW."""
    schedule: str = "steps"
    """Course of the rate: ``steps`` multiplies it at milestones, ``cosine`` lowers it along half a
    cosine to a hundredth, ``constant`` leaves it."""
    milestones: tuple[float, ...] = (1 / 3, 2 / 3)
    """Where ``steps`` multiplies the rate, as rising fractions of the run."""
    milestone_factor: float = 0.1
    """By how much ``steps`` multiplies the rate at each milestone."""
    warmup: float = 0.0
    """Fraction of the run in which the rate rises linearly."""
    weight_decay: float = 0.05
    """Decay of matrices and kernels; vectors, biases, what stands for positions and the
    state's decay rates have none."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Memory of the optimizer's two moments."""
    clip_norm: float | None = 5.0
    """Longest gradient; longer ones are shortened to it. None: never."""
    ema_decay: float | None = None
    """Decay of a moving average of the weights, which is then what is kept. None: no average."""
    precision: str = "fp32"
    """``bf16`` runs the forward pass in mixed precision; the weights stay fp32."""
    seed: int = 0
    """Seed of the order of the examples, of their augmentation and of drop path."""
    workers: int = 0
    """Processes per rank that prepare examples; 0 prepares them between the steps. The result does
    not depend on it."""
    checkpoint_every: int = 200
    """Steps between two checkpoints."""
    evaluate_every: int | None = None
    """Steps between two evaluations on the validation part; None: at the end."""
    log_every: int = 20
    """Steps between two lines of the log."""
    keep: str = "last"
    """``last`` weights, or those with the ``best`` validation figure."""
    tensorboard: bool = False
    """Write the log for TensorBoard too, which must be installed."""

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError("Give exactly one of epochs and steps, and None for the other.")
        if self.epochs is not None and not 0 < self.epochs <= 1e6:
            raise ConfigError(f"The option epochs must be positive, got {self.epochs!r}.")
        _at_least(self, 1, "batch_size", "checkpoint_every", "log_every")
        _at_least(self, 0, "workers", "seed")
        for name in ("steps", "evaluate_every"):
            if getattr(self, name) is not None:
                _at_least(self, 1, name)
        _chosen(self, "schedule", SCHEDULES)
        _chosen(self, "precision", PRECISIONS)
        _chosen(self, "keep", KEEPS)
        _between(self, "learning_rate", 0.0, 10.0, open_below=True)
        _between(self, "milestone_factor", 0.0, 1.0, open_below=True)
        _between(self, "warmup", 0.0, 1.0)
        _between(self, "weight_decay", 0.0, 10.0)
        if self.clip_norm is not None:
            _between(self, "clip_norm", 0.0, 1e6, open_below=True)
        if self.ema_decay is not None:
            _between(self, "ema_decay", 0.0, 0.999999)
        for name in ("milestones", "betas"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        if not rising or not all(0 < value < 1 for value in self.milestones):
            raise ConfigError(
                f"The option milestones must be rising fractions between 0 and 1, got "
                f"{self.milestones}."
            )
        if len(self.betas) != 2 or not all(0 <= value < 1 for value in self.betas):
            raise ConfigError(f"The option betas must be two numbers in [0, 1), got {self.betas}.")

    def total_steps(self, examples: int) -> int:
        """Steps of the whole run over a set of this many examples."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * examples / self.batch_size))

    def rate(self, step: int, total: int) -> float:
        """The learning rate of a step, counted from 0, of a run of `total` steps."""
        warm = round(self.warmup * total)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        if self.schedule == "cosine":
            progress = (step - warm) / max(1, total - warm)
            share = 0.5 * (1 + math.cos(math.pi * progress))
            return self.learning_rate * (_LAST_COSINE_FACTOR + (1 - _LAST_COSINE_FACTOR) * share)
        if self.schedule == "steps":
            passed = sum(step >= round(milestone * total) for milestone in self.milestones)
            return self.learning_rate * self.milestone_factor**passed
        return self.learning_rate

    def to_dict(self) -> dict[str, Any]:
        """JSON values; :meth:`from_dict` is the inverse."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingOptions:
        """The options that :meth:`to_dict` described.

        Raises:
            ConfigError: a field is unknown or not allowed.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigError(f"Training has no option {', '.join(unknown)}.")
        return cls(**values)


def _at_least(options: TrainingOptions, least: int, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}.")


def _chosen(options: TrainingOptions, name: str, allowed: tuple[str, ...]) -> None:
    value = getattr(options, name)
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")


def _between(
    options: TrainingOptions, name: str, low: float, high: float, *, open_below: bool = False
) -> None:
    value = getattr(options, name)
    inside = isinstance(value, int | float) and low <= value <= high
    if not inside or (open_below and value == low):
        bound = "above" if open_below else "at least"
        raise ConfigError(
            f"{name} must be a number {bound} {low:g} and at most {high:g}, got {value!r}."
        )
