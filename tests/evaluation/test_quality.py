"""Evaluation of a model on rated images."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmamba.assess import CropsPolicy
from qmamba.datasets import RatedDataset, Split, split_by_content
from qmamba.errors import ConfigError, DataError
from qmamba.evaluation.metrics.correlation import krcc, plcc, rmse, srcc
from qmamba.evaluation.quality.cache import PredictionCache, run_digest
from qmamba.evaluation.quality.evaluation import evaluate, learnt_policies
from qmamba.evaluation.quality.parts import RatedPart, select_part
from qmamba.evaluation.quality.predictions import COLUMNS, UnscoredError, write_predictions
from qmamba.evaluation.quality.report import QualityReport, read_report
from qmamba.evaluation.quality.tables import csv_table, markdown, write_report
from tests.evaluation.rated_images import SCALE, predicted, rated, scorer


@pytest.fixture
def data(tmp_path: Path) -> RatedDataset:
    return rated(tmp_path / "images")


RAW = [3.0, 1.0, 9.0, 20.0, 31.0, 28.0, 50.0, 47.0, 66.0, 60.0, 90.0, 88.0]


def test_scores_are_those_of_the_scorer(data: RatedDataset) -> None:
    model = scorer()
    result = evaluate(model, [data], resamples=0)
    assert [p.raw for p in result.predictions[0]] == [model(image.path).raw for image in data]
    (row,) = result.report.rows
    assert (row.images, row.contents, row.part, row.skipped) == (12, 6, "all", ())
    assert row.policy == "crops(size=32,count=2,layout=fixed)"
    assert row.figures["srcc"].low is None


def test_figures(data: RatedDataset, tmp_path: Path) -> None:
    model = scorer()
    cache = predicted(tmp_path / "cache", model, data, RAW)
    (row,) = evaluate(model, [data], cache=cache, resamples=40).report.rows
    for name, metric in {"srcc": srcc, "plcc": plcc, "krcc": krcc, "rmse": rmse}.items():
        assert row.figures[name].value == metric(RAW, data.scores)
    assert row.figures["plcc_logistic4"].value >= row.figures["plcc"].value - 1e-6
    assert row.figures["rmse_logistic4"].value < row.figures["rmse"].value
    for figure in row.figures.values():
        assert figure.low is not None and figure.high is not None
        assert figure.low < figure.high


def test_intervals_are_over_contents(data: RatedDataset, tmp_path: Path) -> None:
    model = scorer()
    alone = dataclasses.replace(
        data, images=tuple(dataclasses.replace(image, content=image.name) for image in data)
    )
    cache = predicted(tmp_path / "cache", model, data, RAW)
    pairs, singles = (
        evaluate(model, [each], cache=cache, resamples=200).report.rows[0] for each in (data, alone)
    )
    assert pairs.figures["plcc"].value == singles.figures["plcc"].value
    assert pairs.figures["plcc"].low != singles.figures["plcc"].low


def test_dmos_is_turned(data: RatedDataset, tmp_path: Path) -> None:
    model = scorer()
    damage = dataclasses.replace(data, higher_is_better=False)
    cache = predicted(tmp_path / "cache", model, data, [100 - value for value in RAW])
    result = evaluate(model, [damage], cache=cache, resamples=0)
    (row,) = result.report.rows
    assert row.figures["srcc"].value == pytest.approx(srcc(RAW, data.scores))
    assert row.figures["srcc"].value > 0.9
    assert not row.higher_is_better
    mapped = [p.mapped for p in result.predictions[0]]
    # Back in the direction of the data set: near the DMOS, and so falling with the predictions.
    assert rmse(mapped, damage.scores) == pytest.approx(  # type: ignore[arg-type]
        row.figures["rmse_logistic4"].value
    )


def test_a_model_of_dmos_is_turned(data: RatedDataset, tmp_path: Path) -> None:
    model = scorer(dataclasses.replace(SCALE, higher_is_better=False))
    damage = dataclasses.replace(data, higher_is_better=False)
    cache = predicted(tmp_path / "cache", model, data, RAW)
    (row,) = evaluate(model, [damage], cache=cache, resamples=0).report.rows
    assert row.figures["srcc"].value == pytest.approx(srcc(RAW, data.scores))
    assert row.figures["rmse"].value == pytest.approx(rmse(RAW, data.scores))


def test_rmse_needs_the_same_scale(data: RatedDataset, tmp_path: Path) -> None:
    model = scorer(dataclasses.replace(SCALE, name="other MOS", high=10))
    cache = predicted(tmp_path / "cache", model, data, RAW)
    (row,) = evaluate(model, [data], cache=cache, resamples=0).report.rows
    assert "rmse" not in row.figures and "rmse_logistic4" in row.figures


def test_models_of_several_sets_come_back_to_each_scale(data: RatedDataset, tmp_path: Path) -> None:
    entry = {"name": "test MOS", "scale": [0, 100], "higher_is_better": False}
    model = scorer(
        dataclasses.replace(SCALE, name="common quality"),
        maps=[{**entry, "offset": 100.0, "factor": -2.0}],
    )
    damage = dataclasses.replace(data, higher_is_better=False)
    cache = predicted(tmp_path / "cache", model, data, [50 - value / 2 for value in RAW])
    (row,) = evaluate(model, [damage], cache=cache, resamples=0).report.rows
    # 100 - 2 (50 - x / 2) = x in points of DMOS.
    assert row.figures["rmse"].value == pytest.approx(rmse(RAW, damage.scores))
    assert row.figures["srcc"].value == pytest.approx(srcc(RAW, damage.scores))


def test_several_sets_and_their_average(tmp_path: Path) -> None:
    first, second = (rated(tmp_path / name, name=name) for name in ("first", "second"))
    model = scorer()
    cache = predicted(tmp_path / "cache", model, first, RAW)
    for image, value in zip(second, RAW[::2] + RAW[1::2], strict=True):
        cache.put(run_digest(model), image.path, value)
    report = evaluate(model, [first, second], cache=cache, resamples=50).report
    values = [row.figures for row in report.rows]
    for name in ("plcc", "srcc"):
        mean = np.mean([figures[name].value for figures in values])
        assert report.average[name].value == pytest.approx(mean)
    both = report.average["both"]
    assert both.value == pytest.approx(
        (report.average["plcc"].value + report.average["srcc"].value) / 2
    )
    assert both.low is not None and both.low < both.value
    lines = markdown(report).splitlines()
    paper = lines[lines.index("## As in the paper's tables") + 2]
    assert paper.count("SRCC") == 3 and "average PLCC" in paper


def test_breakdown(data: RatedDataset, tmp_path: Path) -> None:
    model = scorer()
    cache = predicted(tmp_path / "cache", model, data, RAW)
    report = evaluate(model, [data], by=["distortion", "level"], cache=cache, resamples=0).report
    groups = {(group.by, group.group): group for group in report.rows[0].groups}
    assert [key[1] for key in groups] == ["blur", "noise", "1", "2", "3"]
    blur = groups["distortion", "blur"]
    assert blur.images == 6
    assert blur.figures["srcc"].value == srcc(RAW[::2], data.scores[::2])
    # Four images of a level are too few.
    assert groups["level", "1"].figures == {} and "at least 5" in groups["level", "1"].notes[0]
    text = markdown(report)
    assert "## By distortion" in text and "| test | noise | 6 |" in text
    with pytest.raises(DataError, match="No image of test has a generator"):
        evaluate(model, [data], by=["generator"])


def test_report_files(data: RatedDataset, tmp_path: Path) -> None:
    result = evaluate(scorer(), [data], by=["distortion"], resamples=20)
    path = tmp_path / "report.json"
    write_report(path, result.report)
    assert read_report(path) == QualityReport.from_dict(json.loads(path.read_text()))
    assert read_report(path).rows == result.report.rows
    write_report(tmp_path / "report.md", result.report)
    assert "(" in (tmp_path / "report.md").read_text()
    lines = csv_table(result.report).splitlines()
    assert len(lines) == 4 and lines[1].startswith("tiny,test,all,,,12,")
    with pytest.raises(ConfigError, match=r"\.json or \.md or \.csv"):
        write_report(tmp_path / "report.txt", result.report)
    values = result.report.to_dict()
    damaged = [copy.deepcopy(values) for _ in range(6)]
    damaged[0]["rows"][0]["figures"]["srcc"]["value"] = "0.9"
    damaged[1]["rows"][0]["figures"]["srcc"]["value"] = math.nan
    damaged[2]["average"]["plcc"]["low"] = "low"
    damaged[3]["model"] = 7
    damaged[4]["rows"][0]["dataset"] = ["a"]
    damaged[5]["rows"][0]["groups"][0]["images"] = "many"
    for content, message in (
        ("[1]", "no report"),
        ("{}", "no report"),
        ("x", "not JSON"),
        ("[" * 100_000, "no report"),
        *((json.dumps(each), "no report") for each in damaged),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            read_report(path)


def test_prediction_table(data: RatedDataset, tmp_path: Path) -> None:
    result = evaluate(scorer(), [data], resamples=0)
    write_predictions(tmp_path / "p.csv", [("test", result.predictions[0])])
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS) and len(lines) == 13
    cells = lines[3].split(",")
    assert cells[:2] == ["test", "2.png"] and cells[3] == "scene 1"
    assert float(cells[9]) == result.predictions[0][2].raw
    assert float(cells[10]) == result.predictions[0][2].mapped


def test_bad_images_are_all_named(data: RatedDataset, tmp_path: Path) -> None:
    for number in (3, 7):
        data[number].path.write_bytes(b"no image")
    model = scorer()
    seen: list[tuple[int, int, int]] = []
    with PredictionCache(tmp_path / "cache") as cache:
        with pytest.raises(UnscoredError) as caught:
            evaluate(model, [data], cache=cache, report=lambda *now: seen.append(now))
        assert len(cache) == 10 and seen[-1] == (12, 2, 12)
    assert [path.name for path, _ in caught.value.problems] == ["3.png", "7.png"]
    assert all(name in str(caught.value) for name in ("3.png", "7.png", "--skip-bad"))
    result = evaluate(model, [data], skip_bad=True, resamples=0)
    (row,) = result.report.rows
    assert row.images == 10 and [name for name, _ in row.skipped] == ["3.png", "7.png"]
    assert result.predictions[0][3].raw is None and result.predictions[0][3].mapped is None
    kept = [image.mos for number, image in enumerate(data) if number not in (3, 7)]
    raw = [p.raw for p in result.predictions[0] if p.raw is not None]
    assert row.figures["srcc"].value == srcc(raw, kept)


def test_unusable_scores_are_found_before_the_work(data: RatedDataset) -> None:
    constant = dataclasses.replace(
        data, images=tuple(dataclasses.replace(image, mos=5.0) for image in data)
    )
    calls: list[Any] = []
    with pytest.raises(DataError, match="Every score of 'test' is 5"):
        evaluate(scorer(), [constant], report=lambda *now: calls.append(now))
    with pytest.raises(DataError, match="'test' has 4 images and an evaluation needs at least 5"):
        evaluate(scorer(), [data.take(range(4))], report=lambda *now: calls.append(now))
    with pytest.raises(ConfigError, match="'test' is given twice"):
        evaluate(scorer(), [data, data])
    with pytest.raises(ConfigError, match="at least one data set"):
        evaluate(scorer(), [])
    assert not calls


def test_equal_predictions_leave_correlations_out(data: RatedDataset, tmp_path: Path) -> None:
    model = scorer()
    cache = predicted(tmp_path / "cache", model, data, [50.0] * 12)
    report = evaluate(model, [data], cache=cache, resamples=20).report
    assert list(report.rows[0].figures) == ["rmse"] and not report.average
    assert "every prediction is 50" in report.rows[0].notes[0]
    assert "every prediction is 50" in markdown(report)


def test_parts(data: RatedDataset) -> None:
    split = split_by_content(data, seed=3, train_share=0.5)
    assert select_part(data).part == "all"
    test = select_part(data, None, split)
    assert test.part == "test" and test.dataset.names == data.take(split.test).names
    assert select_part(data, "train", split).dataset.names == data.take(split.train).names
    row = evaluate(scorer(), [test], resamples=0).report.rows[0]
    assert (row.part, row.split, row.split_seed, row.images) == ("test", "content", 3, 6)
    with pytest.raises(DataError, match="no part 'val'"):
        select_part(data, "val", split)
    with pytest.raises(ConfigError, match="needs a split"):
        select_part(data, "test")
    with pytest.raises(ConfigError, match="The option part is one of"):
        select_part(data, "dev", split)  # type: ignore[arg-type]


def test_an_official_val_part_is_called_so(data: RatedDataset) -> None:
    marked = dataclasses.replace(
        data,
        images=tuple(
            dataclasses.replace(image, split="val" if number < 6 else "train")
            for number, image in enumerate(data)
        ),
    )
    split = Split("official", train=tuple(range(6, 12)), test=tuple(range(6)))
    for part in (None, "test", "val"):
        chosen = select_part(marked, part, split)
        assert (chosen.part, len(chosen.dataset)) == ("val", 6)
    assert isinstance(chosen, RatedPart)


def test_sizes_of_training_are_used_again(data: RatedDataset) -> None:
    sizes = [{"name": "test", "shorter": 33}, {"name": "other", "shorter": None}]
    model = scorer(task={"data": sizes})
    policies = learnt_policies(model)
    assert policies["test"] == CropsPolicy(size=32, count=2, shorter=33)
    result = evaluate(model, [data], policies=policies, resamples=0)
    assert result.report.rows[0].policy.endswith("shorter=33)")
    model.policy = policies["test"]
    assert result.predictions[0][4].raw == model(data[4].path).raw
    assert learnt_policies(scorer()) == {}
