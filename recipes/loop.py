"""A training loop that can be killed at any moment: everything it needs is in one checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from qmamba.files import atomic_write

TrainedModel = TypeVar("TrainedModel", bound=nn.Module)


@dataclass(frozen=True)
class Schedule:
    steps: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 0.05
    head_factor: float = 5.0
    """How much faster than the backbone the output layers learn."""
    averaging: float = 0.998
    """Decay of the moving average of the weights, which is what is kept at the end."""
    checkpoint_every: int = 250
    log_every: int = 50

    def rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to a hundredth."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def parameter_groups(model: nn.Module, schedule: Schedule) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels; none for vectors, state decay and step bias."""
    groups: list[dict[str, object]] = []
    for name, parameter in model.named_parameters():
        head = "head." in name
        vector = parameter.dim() < 2 or name.endswith((".bias", "A_logs", "dt_projs_bias"))
        groups.append(
            {
                "params": [parameter],
                "factor": schedule.head_factor if head else 1.0,
                "weight_decay": 0.0 if vector else schedule.weight_decay,
            }
        )
    return groups


def train(
    model: TrainedModel,
    loss_of_step: Callable[[int], Tensor],
    schedule: Schedule,
    checkpoint: Path,
    after: Callable[[int, TrainedModel], None] | None = None,
) -> TrainedModel:
    """Run the schedule, from the checkpoint if there is one; returns the averaged model.

    ``loss_of_step(step)`` must depend on the step and the model alone, so that a resumed run
    repeats exactly what an uninterrupted one does. ``after(step, averaged)`` runs at each
    checkpoint.
    """
    optimizer = torch.optim.AdamW(
        parameter_groups(model, schedule), lr=schedule.learning_rate, betas=(0.9, 0.99)
    )
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(schedule.averaging))
    first = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        averaged.load_state_dict(saved["averaged"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
        print(f"resumed {checkpoint} at step {first}", flush=True)
    started, recent = time.monotonic(), 0.0
    for step in range(first, schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step) * group["factor"]
        model.train()
        loss = loss_of_step(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(model)
        recent += loss.item()
        done = step + 1
        if done % schedule.log_every == 0:
            pace = (time.monotonic() - started) / (done - first)
            left = pace * (schedule.steps - done) / 60
            mean = recent / schedule.log_every
            print(
                f"step {done}/{schedule.steps} loss {mean:.4f} {pace:.2f} s/step, {left:.0f} min",
                flush=True,
            )
            recent = 0.0
        if done % schedule.checkpoint_every == 0 or done == schedule.steps:
            state = {
                "model": model.state_dict(),
                "averaged": averaged.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": done,
            }
            with atomic_write(checkpoint, "wb") as file:
                torch.save(state, file)
            if after is not None:
                after(done, cast(TrainedModel, averaged.module))
    return cast(TrainedModel, averaged.module)
