"""The loop: one for every model and every task here.

A run is a function of the model it starts from, the task and the options. It can be killed between
any two instructions and resumed: the weights that come out are those of the uninterrupted run.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from qmamba.errors import ConfigError, DataError, TrainingError
from qmamba.files import make_folder, remove_temporaries
from qmamba.training.checkpoints import (
    CHECKPOINT_NAME,
    TrainingState,
    load_values,
    read_checkpoint,
    trained_values,
    write_checkpoint,
)
from qmamba.training.distributed import (
    any_rank,
    barrier,
    is_main,
    local_device,
    mean_over_ranks,
    rank,
    world_size,
)
from qmamba.training.log import TrainingLog
from qmamba.training.optimizer import MovingAverage, build_optimizer, set_rate
from qmamba.training.options import TrainingOptions
from qmamba.training.stream import batches, derived_seed
from qmamba.training.task import Task


@dataclass(frozen=True)
class TrainingProgress:
    """What a run tells while it runs."""

    step: int
    """Steps done."""
    steps: int
    """Steps of the whole run."""
    loss: float
    """Mean loss since the last log interval; not a number before the first."""
    learning_rate: float
    """Rate of the last step."""
    seconds_left: float
    """Estimated time to the end."""
    figures: dict[str, float] | None = None
    """Validation figures, where the report is of an evaluation."""


@dataclass(frozen=True)
class TrainingResult:
    """What a run ends with."""

    model: nn.Module
    """The model, with the weights that the options keep."""
    step: int
    """Steps done."""
    figures: dict[str, float]
    """Validation figures of those weights; empty where none were measured."""
    interrupted: bool
    """Whether a signal ended the run before its last step."""
    signal: int | None = None
    """The number of the signal that this process received, also of one that came too late to
    interrupt the run."""


def train(
    model: nn.Module,
    task: Task,
    options: TrainingOptions,
    folder: Path,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    report: Callable[[TrainingProgress], None] | None = None,
) -> TrainingResult:
    """Train a model in place.

    Only parameters that require a gradient change. SIGTERM, SIGINT and SIGHUP end the run after the
    step in hand, with a checkpoint; a second SIGINT ends it at once.

    Args:
        model: what is trained; moved to the device.
        task: examples, loss and judgement.
        options: schedule and optimizer.
        folder: where the checkpoint and the log go; created if missing.
        resume: go on from the checkpoint in the folder, if there is one.
        device: where to train; on several ranks ``cuda`` means each rank's own card.
        report: called on the main rank after each log interval and each evaluation.

    Raises:
        ConfigError: nothing is trainable, or the batch does not divide by the number of ranks.
        DataError: the folder holds a checkpoint and `resume` is off, the checkpoint belongs to
            another run, or a file cannot be written (the last checkpoint is kept).
        TrainingError: the loss is not finite.
    """
    run = _Run(model, task, options, Path(folder), local_device(device), report)
    run.prepare(resume)
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices), _stop_requests() as received, warnings.catch_warnings():
        # Gradients of depthwise kernels have another stride along their axis of length 1, which
        # DistributedDataParallel takes for another layout although no element lies elsewhere.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        stopped = run.steps(lambda: bool(received))
        return run.finish(received, interrupted=stopped)


class _Run:
    def __init__(
        self,
        model: nn.Module,
        task: Task,
        options: TrainingOptions,
        folder: Path,
        device: torch.device,
        report: Callable[[TrainingProgress], None] | None,
    ) -> None:
        if options.batch_size % world_size():
            raise ConfigError(
                f"A batch of {options.batch_size} cannot be shared by {world_size()} processes; "
                "choose a batch_size that divides."
            )
        if options.keep == "best" and task.metric is None:
            raise ConfigError(
                "The option keep='best' needs a validation part; give one or keep the last."
            )
        self.model = model.to(device)
        self.task = task
        self.options = options
        self.folder = folder
        self.device = device
        self.total = options.total_steps(task.examples)
        self.report = report if is_main() else None
        self.optimizer = build_optimizer(model, options, task.learning_rate_factor)
        self.average = (
            None if options.ema_decay is None else MovingAverage(model, options.ema_decay)
        )
        self.step = 0
        self.recent = (0.0, 0)
        self.loss = math.nan
        self.figures: dict[str, float] = {}
        self.best: dict[str, Tensor] | None = None
        self.best_figures: dict[str, float] = {}
        self.saved_step = -1
        self.log: TrainingLog | None = None

    def prepare(self, resume: bool) -> None:
        make_folder(self.folder)
        if not resume and os.path.lexists(self.folder / CHECKPOINT_NAME):
            raise DataError(
                f"The folder {str(self.folder)!r} holds the checkpoint of a run; resume it "
                "(--resume) or give another folder."
            )
        state = read_checkpoint(
            self.folder, self.model, self.optimizer, self.options, self.task.examples
        )
        if state is not None:
            load_values(self.model, state.weights)
            self.optimizer.load_state_dict(state.optimizer)
            if self.average is not None and state.average is not None:
                self.average.load(state.average)
            self.step, self.recent, self.figures = state.step, state.recent, state.figures
            self.best, self.best_figures = state.best, state.best_figures
            self.saved_step = state.step
        barrier()
        if is_main():
            remove_temporaries(self.folder / CHECKPOINT_NAME)
            self.log = TrainingLog(self.folder, self.step, self.options.tensorboard)

    def steps(self, stop: Callable[[], bool]) -> bool:
        """Run to the end or until asked to stop; whether it was stopped."""
        first, started = self.step, time.monotonic()
        wrapped = self._wrapped()
        stream = batches(
            self.task,
            first=self.step,
            last=self.total,
            batch_size=self.options.batch_size,
            seed=self.options.seed,
            workers=self.options.workers,
            rank=rank(),
            world_size=world_size(),
            pin_memory=self.device.type == "cuda",
        )
        for batch in stream:
            self._update(wrapped, batch)
            pace = (time.monotonic() - started) / (self.step - first)
            last = self.step == self.total
            if last or self.step % self.options.log_every == 0:
                self._tell(pace)
            every = self.options.evaluate_every
            if last or (every is not None and self.step % every == 0):
                self._evaluate(pace)
            stopped = any_rank(stop(), self.device)
            if last or stopped or self.step % self.options.checkpoint_every == 0:
                self._save()
            if stopped and not last:
                return True
        return False

    def finish(self, received: list[int], *, interrupted: bool) -> TrainingResult:
        figures = self.figures
        if self.average is not None:
            self.average.swap(self.model)
        if self.options.keep == "best" and self.best is not None:
            load_values(self.model, self.best)
            figures = self.best_figures
        if self.log is not None:
            self.log.close()
        self.model.eval()
        number = received[0] if received else None
        return TrainingResult(self.model, self.step, figures, interrupted, number)

    def _wrapped(self) -> nn.Module:
        if world_size() == 1:
            return self.model
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.model, device_ids=ids)

    def _update(self, wrapped: nn.Module, batch: dict[str, Tensor]) -> None:
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        rate = self.options.rate(self.step, self.total)
        set_rate(self.optimizer, rate)
        torch.manual_seed(derived_seed(self.options.seed, "step", self.step, rank()))
        wrapped.train()
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.options.precision == "bf16"
        ):
            loss = self.task.loss(wrapped, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.options.clip_norm is not None:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            nn.utils.clip_grad_norm_(trained, self.options.clip_norm)
        value = mean_over_ranks(loss.detach().float()).item()
        if not math.isfinite(value):
            kept = f"step {self.saved_step}" if self.saved_step >= 0 else "none"
            raise TrainingError(
                f"The loss became {value} at step {self.step + 1}; lower the learning rate or "
                f"check the scores (last checkpoint: {kept})."
            )
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, self.step)
        self.step += 1
        self.recent = (self.recent[0] + value, self.recent[1] + 1)

    def _tell(self, pace: float, figures: dict[str, float] | None = None) -> None:
        rate = self.options.rate(self.step - 1, self.total)
        if self.recent[1]:
            self.loss = self.recent[0] / self.recent[1]
        if self.log is not None:
            values = {"loss": self.loss, "learning_rate": rate} if figures is None else figures
            self.log.write(self.step, {**values, "seconds_per_step": round(pace, 5)})
        if self.report is not None:
            left = pace * (self.total - self.step)
            self.report(TrainingProgress(self.step, self.total, self.loss, rate, left, figures))
        if figures is None:
            self.recent = (0.0, 0)

    def _evaluate(self, pace: float) -> None:
        if is_main():
            if self.average is not None:
                self.average.swap(self.model)
            self.model.eval()
            with torch.no_grad():
                self.figures = self.task.evaluate(self.model)
            self._keep_best()
            if self.average is not None:
                self.average.swap(self.model)
            if self.figures:
                self._tell(pace, self.figures)
        barrier()

    def _keep_best(self) -> None:
        metric = self.task.metric
        if self.options.keep != "best" or metric is None:
            return
        if self.best is None or self.figures[metric] > self.best_figures[metric]:
            self.best = {
                name: value.detach().cpu().clone()
                for name, value in trained_values(self.model).items()
            }
            self.best_figures = self.figures

    def _save(self) -> None:
        if is_main():
            values = {name: value.detach() for name, value in trained_values(self.model).items()}
            state = TrainingState(
                step=self.step,
                weights=values,
                optimizer=self.optimizer.state_dict(),
                average=None if self.average is None else self.average.values,
                best=self.best,
                best_figures=self.best_figures,
                figures=self.figures,
                recent=self.recent,
            )
            write_checkpoint(self.folder, state, self.options, self.task.examples)
        self.saved_step = self.step
        barrier()


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Notice signals instead of dying of them, where they can be received; those that came.

    SIGHUP is left alone where it is ignored, as under nohup.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and received:
            raise KeyboardInterrupt
        received.append(number)

    numbers = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
