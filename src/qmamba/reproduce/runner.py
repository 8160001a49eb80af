"""Running what a plan asks for; whatever is finished is not done again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qmamba import __version__
from qmamba.assess import CropsPolicy, Scorer
from qmamba.checkpoints import load, load_tuned
from qmamba.errors import DataError, QMambaError
from qmamba.evaluation.metrics.correlation import plcc, srcc
from qmamba.evaluation.quality.predictions import predict
from qmamba.files import atomic_write
from qmamba.models import Network
from qmamba.reproduce.plan import FIGURE_SET, Measurement, Training
from qmamba.reproduce.protocol import Protocol
from qmamba.reproduce.sources import Sources, parts
from qmamba.training.checkpoints import CHECKPOINT_NAME
from qmamba.training.loop import TrainingProgress, TrainingResult
from qmamba.training.quality.initial_network import starting_model
from qmamba.training.quality.run import train_quality
from qmamba.training.quality.task import QualityPart, QualityTask
from qmamba.training.quality.tuning import TuningResult, facing, tune
from qmamba.training.run import MODEL_NAME, TUNED_NAME

_PROTOCOL_NAME = "protocol.json"


class InterruptedRunError(QMambaError):
    """A signal stopped a training after a checkpoint, or came at its end; the same command goes on.

    Args:
        signal: its number, where it is known.
    """

    def __init__(self, signal: int | None = None) -> None:
        super().__init__("Stopped after a checkpoint; the same command goes on.")
        self.signal = signal


@dataclass(frozen=True)
class Conditions:
    """Where and how the work is done."""

    out: Path
    """Folder of runs and results."""
    device: str = "cpu"
    """Where models are trained and tested."""
    precision: str = "fp32"
    """Number format of the forward pass in training."""
    workers: int = 0
    """Processes that prepare examples."""
    memory: int = 8 << 30
    """Bytes of decoded images that are kept."""
    keep_weights: bool = False
    """Keep the weights of every training, also of those that nothing else needs."""
    report: Callable[[TrainingProgress], None] | None = None
    """Progress of a training."""


class Laboratory:
    """Trains and measures.

    Args:
        sources: data sets and starting weights.
        protocol: the conditions of the experiments; a folder has results of one protocol alone.
        conditions: where and how.

    Raises:
        DataError: the folder has results of another protocol, or cannot be written.
    """

    def __init__(self, sources: Sources, protocol: Protocol, conditions: Conditions) -> None:
        self.sources = sources
        self.protocol = protocol
        self.conditions = conditions
        self._runs = conditions.out / "runs"
        self._results = conditions.out / "results"
        for folder in (self._runs, self._results):
            folder.mkdir(parents=True, exist_ok=True)
        _claim(conditions.out / _PROTOCOL_NAME, protocol)

    def result(self, measurement: Measurement) -> dict[str, Any] | None:
        """The finished measurement, None where there is none.

        Raises:
            DataError: its file is damaged.
        """
        path = self._results / f"{measurement.key}.json"
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return {**found, "plcc": float(found["plcc"]), "srcc": float(found["srcc"])}
        except (ValueError, LookupError, TypeError) as error:
            raise DataError(
                f"{str(path)!r} is not a result ({error}); remove it to measure again"
            ) from error

    def is_done(self, training: Training, tests: tuple[str, ...]) -> bool:
        """Whether a training and all its tests are finished."""
        if tests:
            return all(self.result(Measurement(training, test)) is not None for test in tests)
        name = MODEL_NAME if training.base is None else TUNED_NAME
        return (self._runs / training.key / name).exists()

    def run(self, training: Training, tests: tuple[str, ...]) -> None:
        """Train, unless that is done, and measure what has not been measured yet.

        Raises:
            InterruptedRunError: a signal stopped the training; it can go on later.
            QMambaError: the training or a test failed.
        """
        if self.is_done(training, tests):
            return
        model = self.trained(training)
        for test in tests:
            if self.result(Measurement(training, test)) is None:
                self._measure(training, model, test)
        if not (self.conditions.keep_weights or _is_needed_again(training)):
            for name in (MODEL_NAME, TUNED_NAME):
                (self._runs / training.key / name).unlink(missing_ok=True)

    def trained(self, training: Training) -> Network:
        """The result of a training, which is run if need be.

        Raises:
            InterruptedRunError: a signal stopped the training.
            QMambaError: the training failed.
        """
        folder = self._runs / training.key
        device = self.conditions.device
        if training.base is not None:
            base = self.trained(training.base)
            if not (folder / TUNED_NAME).exists():
                self._tune(training, base, folder)
            return load_tuned(base, folder / TUNED_NAME)
        if not (folder / MODEL_NAME).exists():
            self._train(training, folder)
        return load(folder / MODEL_NAME, device=device)

    def test_part(self, name: str, seed: int) -> list[int]:
        """Positions that a data set is tested on."""
        return list(parts(self.sources.datasets[name], seed, self.protocol).test)

    def _train(self, training: Training, folder: Path) -> None:
        start = self.sources.start(training.model)
        model = starting_model(training.model, start or None, seed=training.seed)
        task = self._task(self._parts(training), training.model)
        result = train_quality(
            model,
            task,
            self._options(task, training),
            folder,
            name=training.key,
            resume=True,
            device=self.conditions.device,
            report=self.conditions.report,
        )
        _finish(folder, result)

    def _tune(self, training: Training, base: Network, folder: Path) -> None:
        assert training.tuning is not None
        used = facing(self._parts(training), base, training.tuning)
        task = self._task(used, training.model)
        result = tune(
            base,
            task,
            training.tuning,
            self._options(task, training),
            folder,
            name=training.key,
            resume=True,
            device=self.conditions.device,
            dtype=torch.float32,
            report=self.conditions.report,
        )
        _finish(folder, result)

    def _parts(self, training: Training) -> list[QualityPart]:
        found = []
        for name in training.sets:
            dataset = self.sources.datasets[name]
            split = parts(dataset, training.seed, self.protocol)
            shorter = self.protocol.shorter(training.model, name)
            crops = self.protocol.training_crops(training.model, name)
            # A number that all sets share belongs to the task.
            own = crops if self.protocol.preset(training.model) else None
            found.append(QualityPart(dataset, split.train, (), shorter, own))
        return found

    def _task(self, used: list[QualityPart], model: str) -> QualityTask:
        return QualityTask(
            used,
            loss=self.protocol.loss(model),
            policy=CropsPolicy(count=self.protocol.crops_used(model)),
            crops=self.protocol.crops,
            flips=self.protocol.flips(model),
            memory=self.conditions.memory,
        )

    def _options(self, task: QualityTask, training: Training) -> Any:
        images = sum(len(part.train) for part in task.parts)
        return self.protocol.options(
            training.model,
            images,
            training.seed,
            precision=self.conditions.precision,
            workers=self.conditions.workers,
        )

    def _measure(self, training: Training, model: Network, test: str) -> None:
        dataset = self.sources.datasets[test]
        judged = dataset.take(self.test_part(test, training.seed))
        policy = CropsPolicy(
            count=self.protocol.crops_used(training.model),
            shorter=self.protocol.shorter(training.model, test),
        )
        scorer = Scorer(model, policy=policy)
        predictions = predict(scorer, judged)
        bad = [str(found.error) for found in predictions if found.raw is None]
        if bad:
            raise DataError(f"{len(bad)} test images of {test!r} have no score: {bad[0]}")
        sign = 1.0 if scorer.scale.higher_is_better else -1.0
        quality = sign * np.array([found.raw for found in predictions], dtype=np.float64)
        constant = quality.min() == quality.max()
        content = {
            "training": training.to_dict(),
            "test": test,
            "plcc": 0.0 if constant else plcc(quality, judged.qualities),
            "srcc": 0.0 if constant else srcc(quality, judged.qualities),
            "images": len(judged),
            "policy": str(policy),
            "device": self.conditions.device,
            "precision": self.conditions.precision,
            "qmamba": __version__,
            "torch": torch.__version__,
        }
        path = self._results / f"{Measurement(training, test).key}.json"
        with atomic_write(path, "w") as stream:
            json.dump(content, stream, indent=1)
            stream.write("\n")


def _is_needed_again(training: Training) -> bool:
    """Whether something is tuned on its result, or drawn from it."""
    if training.base is not None:
        return False
    return len(training.sets) > 1 or training.sets == (FIGURE_SET,)


def _finish(folder: Path, result: TrainingResult | TuningResult) -> None:
    if result.interrupted:
        raise InterruptedRunError(result.signal)
    (folder / CHECKPOINT_NAME).unlink(missing_ok=True)
    if result.signal is not None:
        # It came in the last step, which was not to be stopped; the next training is.
        raise InterruptedRunError(result.signal)


def _claim(path: Path, protocol: Protocol) -> None:
    """Keep the results of one protocol apart from those of another."""
    content: Mapping[str, Any] = protocol.to_dict()
    if path.exists():
        try:
            written = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{str(path)!r} is not readable; give another folder") from error
        if written != content:
            raise DataError(
                f"{str(path.parent)!r} has results with {written} and this run has {content}; give"
                " another folder"
            )
        return
    with atomic_write(path, "w") as stream:
        json.dump(content, stream)
