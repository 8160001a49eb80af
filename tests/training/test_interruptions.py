"""Killed, stopped, out of space: what is lost, and whether the run comes out the same."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qmamba.errors import DataError
from qmamba.models import QMamba
from qmamba.training import QualityTask, train
from tests.training.processes import finish, lines, needs_fork, start, wait_for
from tests.training.samples import equal, quality_task, rated, small_network, small_options, weights

STEPS = 20
EVERY = 4
OPTIONS = small_options(
    steps=STEPS, checkpoint_every=EVERY, ema_decay=0.9, evaluate_every=7, keep="best", log_every=1
)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> QualityTask:
    return quality_task(rated(tmp_path_factory.mktemp("rated")), crop_size=16)


@dataclass(frozen=True)
class Whole:
    """A run that nothing interrupted."""

    folder: Path
    weights: dict[str, Tensor]
    figures: dict[str, float]


@pytest.fixture(scope="module")
def whole(task: QualityTask, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder, model = tmp_path_factory.mktemp("whole"), network()
    result = train(model, task, OPTIONS, folder)
    return Whole(folder, weights(model), result.figures)


def network() -> QMamba:
    return small_network(drop_path=0.2)


def reached(folder: Path, count: int) -> bool:
    return lines(folder / "log.jsonl") >= count


def saved_step(folder: Path) -> int:
    path = folder / "checkpoint.pt"
    return torch.load(path, weights_only=True)["step"] if path.exists() else 0


def without_pace(folder: Path) -> list[dict[str, float]]:
    """The log, without how long the steps took."""
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in found:
        line.pop("seconds_per_step")
    return found


def slow_run(task: QualityTask, folder: Path) -> None:
    train(
        network(),
        task,
        OPTIONS,
        folder,
        resume=True,
        report=lambda progress: time.sleep(0.01),
    )


@needs_fork
def test_a_killed_run_comes_out_the_same(task: QualityTask, whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    moments = random.Random(0)
    kills = 0
    for _ in range(4):
        goal = lines(folder / "log.jsonl") + moments.randint(1, 8)
        process = start(slow_run, task, folder)
        wait_for(partial(reached, folder, goal), process)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        logged = without_pace(folder)[-1]["step"] if lines(folder / "log.jsonl") else 0
        # A line is written before the checkpoint of its step.
        assert saved_step(folder) >= logged - EVERY
    assert kills >= 1
    (folder / ".checkpoint.pt.0123456789ab.tmp").touch()
    model = network()
    result = train(model, task, OPTIONS, folder, resume=True)
    assert equal(weights(model), whole.weights) and result.figures == whole.figures
    assert without_pace(folder) == without_pace(whole.folder)
    assert not list(folder.glob("*.tmp"))


@needs_fork
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_a_checkpoint(
    number: signal.Signals, task: QualityTask, tmp_path: Path
) -> None:
    process = start(stopped_run, task, tmp_path)
    wait_for(partial(reached, tmp_path, 2), process)
    os.kill(process.pid, number)
    assert finish([process]) == [0]
    told = json.loads((tmp_path / "result.json").read_text())
    assert told["signal"] == number and 2 <= told["step"] < 10_000
    assert saved_step(tmp_path) == told["step"]


def stopped_run(task: QualityTask, folder: Path) -> None:
    options = small_options(steps=10_000, checkpoint_every=10_000)
    result = train(small_network(), task, options, folder)
    told = {"signal": result.signal, "step": result.step}
    (folder / "result.json").write_text(json.dumps(told))


def test_a_signal_in_the_last_step_is_told(task: QualityTask, tmp_path: Path) -> None:
    def stop(progress: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    options = small_options(steps=1, checkpoint_every=1)
    result = train(small_network(), task, options, tmp_path, report=stop)
    assert not result.interrupted and result.signal == signal.SIGTERM and result.step == 1


def test_a_stopped_run_goes_on(task: QualityTask, whole: Whole, tmp_path: Path) -> None:
    model = network()

    def stop(progress: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    for _ in range(3):
        result = train(model, task, OPTIONS, tmp_path / "cut", resume=True, report=stop)
        assert result.interrupted
    assert result.step == 3 and signal.getsignal(signal.SIGTERM) is before
    train(model, task, OPTIONS, tmp_path / "cut", resume=True)
    assert equal(weights(model), whole.weights)


def test_a_full_disk_keeps_the_last_checkpoint(
    task: QualityTask, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, calls = tmp_path / "full", []
    synchronise = os.fsync

    def full(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        calls.append("checkpoint.pt" in name)
        if sum(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        synchronise(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"checkpoint\.pt.*no space left"):
            train(network(), task, OPTIONS, folder)
    assert saved_step(folder) == 2 * EVERY and not list(folder.glob(".*.tmp"))
    model = network()
    train(model, task, OPTIONS, folder, resume=True)
    assert equal(weights(model), whole.weights)


@needs_fork
def test_a_file_that_may_not_grow(task: QualityTask, whole: Whole, tmp_path: Path) -> None:
    size = (whole.folder / "checkpoint.pt").stat().st_size
    process = start(limited_run, task, tmp_path / "limited", size // 2)
    assert finish([process]) == [0]
    message = (tmp_path / "limited" / "error.txt").read_text()
    assert "checkpoint.pt" in message and "space" in message
    assert saved_step(tmp_path / "limited") == 0


def limited_run(task: QualityTask, folder: Path, size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        train(network(), task, OPTIONS, folder)
    except DataError as error:
        (folder / "error.txt").write_text(str(error))
