"""Metrics of other packages, judged as our models are."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from qmamba.assess import Scorer
from qmamba.datasets import RatedDataset
from qmamba.evaluation.quality.evaluation import evaluate
from qmamba.evaluation.quality.parts import RatedPart
from qmamba.evaluation.quality.predictions import UnscoredError
from qmamba.evaluation.quality.report import QualityReport
from qmamba.evaluation.quality.rivals import evaluate_rival
from tests.evaluation.rated_images import rated
from tests.evaluation.rated_images import scorer as tiny_scorer

RANKS = ("srcc", "plcc", "plcc_logistic4", "krcc")


@pytest.fixture
def dataset(tmp_path: Path) -> RatedDataset:
    return rated(tmp_path)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return tiny_scorer()


def judged(dataset: RatedDataset, **options: object) -> QualityReport:
    return evaluate_rival("other:it", parts=[RatedPart(dataset)], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_scorer_as_a_rival_gets_its_own_figures(
    scorer: Scorer, dataset: RatedDataset, higher_is_better: bool
) -> None:
    sign = 1 if higher_is_better else -1
    own = evaluate(scorer, [dataset], resamples=50).report.rows[0]
    report = judged(
        dataset,
        score=lambda path: sign * scorer(path).raw,
        higher_is_better=higher_is_better,
        resamples=50,
        parameters=7,
    )
    (row,) = report.rows
    assert (report.model, report.architecture, report.parameters) == ("other:it", "other", 7)
    assert (row.images, row.fingerprint, row.scale) == (own.images, own.fingerprint, own.scale)
    for name in RANKS:
        found, expected = row.figures[name], own.figures[name]
        assert found.value == pytest.approx(expected.value, abs=1e-6)
        assert found.low == pytest.approx(expected.low, abs=1e-5)
    assert "rmse" not in row.figures
    assert QualityReport.from_dict(report.to_dict()) == report


def test_images_without_a_number(scorer: Scorer, dataset: RatedDataset) -> None:
    bad: dict[Path, Exception | float] = {
        dataset[2].path: RuntimeError("cannot\nread it"),
        dataset[5].path: math.nan,
    }

    def score(path: Path) -> float:
        found = bad.get(path, 0.0)
        if isinstance(found, Exception):
            raise found
        return scorer(path).raw if path not in bad else found

    with pytest.raises(UnscoredError) as caught:
        judged(dataset, score=score)
    assert [reason for _, reason in caught.value.problems] == ["cannot", "the number is not finite"]
    told: list[bool] = []
    (row,) = judged(dataset, score=score, skip_bad=True, resamples=0, report=told.append).rows
    assert row.images == len(dataset) - 2 and told.count(False) == 2
    assert [name for name, _ in row.skipped] == [dataset[2].name, dataset[5].name]
