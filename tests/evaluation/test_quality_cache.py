"""Predictions that outlive an interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmamba.assess import Scorer
from qmamba.errors import DataError
from qmamba.evaluation.quality.cache import PredictionCache, run_digest
from qmamba.evaluation.quality.evaluation import evaluate
from qmamba.evaluation.quality.predictions import predict
from tests.assess.samples import write_image
from tests.evaluation.rated_images import rated, scorer


def test_an_interruption_keeps_what_was_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, model = rated(tmp_path / "images"), scorer()
    done = 0

    def stop(good: bool) -> None:
        nonlocal done
        done += 1
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), PredictionCache(tmp_path / "cache") as cache:
        predict(model, data, cache=cache, report=stop)
    prepared: list[object] = []
    original = Scorer.prepare

    def counted(self: Scorer, image: object) -> object:
        prepared.append(image)
        return original(self, image)  # type: ignore[arg-type]

    monkeypatch.setattr(Scorer, "prepare", counted)
    with PredictionCache(tmp_path / "cache") as cache:
        resumed = evaluate(model, [data], cache=cache, resamples=0)
    assert len(prepared) == 12 - 5
    fresh = evaluate(model, [data], resamples=0)
    assert resumed.report == fresh.report and resumed.predictions == fresh.predictions


def test_a_line_that_was_cut_off_is_predicted_again(tmp_path: Path) -> None:
    data, model = rated(tmp_path / "images"), scorer()
    path = tmp_path / "cache"
    with PredictionCache(path) as cache:
        whole = predict(model, data, cache=cache)
    path.write_bytes(path.read_bytes()[:-9])
    with PredictionCache(path) as cache:
        assert len(cache) == 11
        assert predict(model, data, cache=cache) == whole
    lines = path.read_bytes().splitlines()
    assert len(lines) == 13 and json.loads(lines[-1])["file"].endswith("11.png")
    with PredictionCache(path) as cache:
        assert len(cache) == 12


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[tuple[PredictionCache, str, Path]]:
    image = write_image(tmp_path / "a.png", 34, 34)
    with PredictionCache(tmp_path / "cache") as cache:
        cache.put("run", image, 0.1 + 0.2)
        yield cache, "run", image


def test_predictions_come_back_bit_for_bit(
    filled: tuple[PredictionCache, str, Path], tmp_path: Path
) -> None:
    cache, run, image = filled
    with pytest.raises(DataError, match="this process"), PredictionCache(tmp_path / "cache"):
        pass
    cache.close()
    with PredictionCache(tmp_path / "cache") as again:
        assert again.get(run, image) == 0.1 + 0.2


def test_another_model_or_image_is_told_apart(
    filled: tuple[PredictionCache, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, run, image = filled
    assert cache.get("other", image) is None
    monkeypatch.chdir(image.parent)
    assert cache.get(run, Path("a.png")) is not None
    os.utime(image, ns=(0, 0))
    assert cache.get(run, image) is None
    assert cache.get(run, image.with_name("absent.png")) is None


def test_digest_follows_everything_that_counts() -> None:
    model = scorer()
    first = run_digest(model)
    assert first == run_digest(scorer())
    model.policy = scorer().policy.__class__(size=32, count=3)  # type: ignore[call-arg]
    second = run_digest(model)
    model.model.classifier.head.bias.data += 1  # type: ignore[union-attr, operator]
    assert len({first, second, run_digest(model)}) == 3


def test_another_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary\nsecond line\n")
    with pytest.raises(DataError, match="no file of predictions"):
        PredictionCache(path)
    assert path.read_text() == "dear diary\nsecond line\n"
    for text in ("dear diary", '{"model": 1}'):
        path.write_text(text)
        with pytest.raises(DataError, match="no file of predictions"):
            PredictionCache(path)
        assert path.read_text() == text
    for text in ("", '{"ru', '{"run": "ab", "fi'):
        path.write_text(text)
        with PredictionCache(path) as cache:
            assert len(cache) == 0
    with pytest.raises(DataError, match="create it first"):
        PredictionCache(tmp_path / "absent" / "cache")
