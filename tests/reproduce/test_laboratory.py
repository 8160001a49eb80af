"""Trainings, tunings and measurements, and what remains of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qmamba.errors import DataError
from qmamba.prompts import TuningConfig
from qmamba.reproduce import (
    Conditions,
    InterruptedRunError,
    Laboratory,
    Measurement,
    Protocol,
    Training,
    protocol,
)
from qmamba.reproduce import runner as work_module
from qmamba.training.run import TUNED_NAME
from tests.reproduce.samples import tiny_sources

QUICK = Protocol(seeds=1, quick=True)
BASE = Training("qmamba-nano", ("koniq10k", "livec"), 0)
TUNED = Training("qmamba-nano", ("live",), 0, TuningConfig(width=8), BASE)
ALONE = Training("qmamba-nano", ("live",), 0)


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch_module: pytest.MonkeyPatch
) -> Laboratory:
    """A laboratory in which one of each kind of training has been run."""
    folder = tmp_path_factory.mktemp("laboratory")
    monkeypatch_module.setattr(protocol, "_QUICK_STEPS", 1)
    sources = tiny_sources(folder / "data", "koniq10k", "livec", "live")
    laboratory = Laboratory(sources, QUICK, Conditions(folder / "out"))
    laboratory.run(BASE, ("live",))
    laboratory.run(TUNED, ("live",))
    laboratory.run(ALONE, ("live",))
    return laboratory


def test_results(finished: Laboratory) -> None:
    for training in (BASE, TUNED, ALONE):
        result = finished.result(Measurement(training, "live"))
        assert result is not None and finished.is_done(training, ("live",))
        assert -1 <= result["plcc"] <= 1 and -1 <= result["srcc"] <= 1
        assert result["images"] == 4
        assert result["training"] == training.to_dict() and result["test"] == "live"
    assert not finished.is_done(BASE, ("live", "livec"))


def test_weights_are_kept_where_something_is_made_of_them(finished: Laboratory) -> None:
    runs = finished.conditions.out / "runs"
    assert (runs / BASE.key / "model.safetensors").exists()
    assert not (runs / ALONE.key / "model.safetensors").exists()
    assert not (runs / TUNED.key / TUNED_NAME).exists()
    assert not list(runs.glob("*/checkpoint.pt"))


def test_nothing_is_done_twice(finished: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("trained again")

    for name in ("train_quality", "tune", "predict"):
        monkeypatch.setattr(work_module, name, refuse)
    for training in (BASE, TUNED, ALONE):
        finished.run(training, ("live",))


def test_an_interrupted_training_goes_on(
    finished: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laboratory = Laboratory(finished.sources, QUICK, Conditions(tmp_path))
    shutil.copytree(finished.conditions.out / "runs" / BASE.key, tmp_path / "runs" / BASE.key)
    real = work_module.tune

    def stopped(*arguments: Any, **options: Any) -> Any:
        result = real(*arguments, **options)
        (tmp_path / "runs" / TUNED.key / TUNED_NAME).unlink()
        return type(result)(**{**vars(result), "interrupted": True})

    monkeypatch.setattr(work_module, "tune", stopped)
    with pytest.raises(InterruptedRunError):
        laboratory.run(TUNED, ("live",))
    monkeypatch.undo()
    laboratory.run(TUNED, ("live",))
    key = Measurement(TUNED, "live")
    assert laboratory.result(key) == finished.result(key)


def test_a_signal_in_the_last_step_stops_the_work(
    finished: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laboratory = Laboratory(finished.sources, QUICK, Conditions(tmp_path))
    shutil.copytree(finished.conditions.out / "runs" / BASE.key, tmp_path / "runs" / BASE.key)
    real = work_module.tune

    def late(*arguments: Any, **options: Any) -> Any:
        return replace(real(*arguments, **options), signal=2)

    monkeypatch.setattr(work_module, "tune", late)
    with pytest.raises(InterruptedRunError) as stopped:
        laboratory.run(TUNED, ("live",))
    assert stopped.value.signal == 2
    # What it had finished is not done again.
    monkeypatch.setattr(work_module, "tune", None)
    laboratory.run(TUNED, ("live",))
    key = Measurement(TUNED, "live")
    assert laboratory.result(key) == finished.result(key)


def test_results_of_two_protocols_stay_apart(finished: Laboratory) -> None:
    with pytest.raises(DataError, match="give another folder"):
        Laboratory(finished.sources, Protocol(), finished.conditions)
    again = Laboratory(finished.sources, Protocol(seeds=5, quick=True), finished.conditions)
    assert again.is_done(BASE, ("live",))


def test_a_damaged_result_is_named(finished: Laboratory, tmp_path: Path) -> None:
    laboratory = Laboratory(finished.sources, QUICK, Conditions(tmp_path))
    for content in ("{", "[]", json.dumps({"plcc": None, "srcc": 1})):
        (tmp_path / "results" / f"{Measurement(BASE, 'live').key}.json").write_text(content)
        with pytest.raises(DataError, match="remove it to measure again"):
            laboratory.is_done(BASE, ("live",))
    (tmp_path / "protocol.json").write_text("?")
    with pytest.raises(DataError, match="not readable"):
        Laboratory(finished.sources, QUICK, Conditions(tmp_path))


def test_what_is_missing(tmp_path: Path) -> None:
    sources = tiny_sources(tmp_path, "livec")
    lacking = sources.missing(TUNED, ("kadid10k",))
    assert lacking == ["live is not there", "kadid10k is not there", "koniq10k is not there"]
    cold = type(sources)(sources.datasets, {"live": "live is torn"}, tmp_path)
    assert cold.missing(ALONE) == ["live is torn", "no weights to start qmamba-nano from"]
    (tmp_path / "qmamba-nano.pth").touch()
    assert cold.missing(ALONE) == ["live is torn"]
    assert cold.start("qmamba-nano") == (tmp_path / "qmamba-nano.pth",)
