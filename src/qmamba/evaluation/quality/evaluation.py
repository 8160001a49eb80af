"""How well a model predicts what people say: one data set, a mix of several, or any CSV."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

import qmamba
from qmamba.assess import CropsPolicy, Policy, Scorer
from qmamba.datasets import RatedDataset
from qmamba.datasets.splits import fingerprint
from qmamba.errors import ConfigError, DataError, ShapeError
from qmamba.evaluation.quality.cache import PredictionCache
from qmamba.evaluation.quality.figures import (
    DEFAULT_LEVEL,
    DEFAULT_RESAMPLES,
    FIGURES,
    Measurement,
    check_scores,
    mean_figure,
    measure,
)
from qmamba.evaluation.quality.parts import RatedPart
from qmamba.evaluation.quality.predictions import Prediction, UnscoredError, predict
from qmamba.evaluation.quality.report import DatasetRow, GroupRow, QualityReport
from qmamba.models import count_flops, count_parameters

FloatArray = NDArray[np.float64]
Breakdown = Literal["distortion", "level", "generator"]

GROUP_FIGURES = ("srcc", "plcc")
"""Figures of a group of images within a data set."""

_SCALE_DEPENDENT = ("rmse",)


@dataclass(frozen=True)
class Evaluation:
    """A report and the predictions behind it."""

    report: QualityReport
    predictions: tuple[tuple[Prediction, ...], ...]
    """The predictions for each data set, in the order of the report's rows."""


def evaluate(
    scorer: Scorer,
    parts: Sequence[RatedPart | RatedDataset],
    *,
    by: Sequence[Breakdown] = (),
    skip_bad: bool = False,
    resamples: int = DEFAULT_RESAMPLES,
    level: float = DEFAULT_LEVEL,
    seed: int = 0,
    policies: Mapping[str, Policy] | None = None,
    cache: PredictionCache | None = None,
    workers: int = 2,
    report: Callable[[int, int, int], None] | None = None,
) -> Evaluation:
    """Predict every image and measure the predictions against the opinion scores.

    Scores and predictions are turned so that higher is better, so that a good model has positive
    correlations on DMOS, too. Intervals come from resampling whole contents.

    A model that learned several data sets predicts on a common scale. Where its file says how that
    becomes the scale of a data set, ``rmse`` is that of the predictions on it; otherwise ``rmse``
    is missing unless model and data set have the same scale.

    Args:
        scorer: the model with its policy.
        parts: one data set, or several with different names.
        by: break the figures down by these properties of the images.
        skip_bad: measure without the images that have no score; the report names them.
        resamples: draws behind each interval; 0 for none.
        level: share of the draws inside an interval.
        seed: seed of the draws.
        policies: views of the images of some data sets, by name, where they are not those of the
            scorer (:func:`learnt_policies`).
        cache: predictions that are there already and where new ones go at once.
        workers: number of decoding threads.
        report: called with the number of images done and failed, and their total.

    Raises:
        ConfigError: an option is not allowed, or a name occurs twice.
        DataError: a part has too few images, or scores that are all equal (found before anything
            is predicted).
        UnscoredError: images cannot be scored, unless they are skipped. All others have been by
            then, so with a cache the next call is quick.
    """
    judged = [part if isinstance(part, RatedPart) else RatedPart(part) for part in parts]
    _check(judged, by, resamples)
    total = sum(len(part.dataset) for part in judged)
    done = failed = 0

    def tell(good: bool) -> None:
        nonlocal done, failed
        done, failed = done + 1, failed + (not good)
        if report is not None:
            report(done, failed, total)

    scorers = [_with_policy(scorer, (policies or {}).get(part.dataset.name)) for part in judged]
    predictions = [
        predict(each, part.dataset, cache=cache, workers=workers, report=tell)
        for each, part in zip(scorers, judged, strict=True)
    ]
    problems = [
        (prediction.image.path, prediction.error)
        for group in predictions
        for prediction in group
        if prediction.error is not None
    ]
    if problems and not skip_bad:
        raise UnscoredError(problems)
    measured = [
        _measured(each, part, group, by, resamples, level, seed + index)
        for index, (each, part, group) in enumerate(zip(scorers, judged, predictions, strict=True))
    ]
    measurements = [measurement for _, _, measurement in measured]
    average = {
        name: mean_figure(measurements, names, level)
        for name, names in (("plcc", ["plcc"]), ("srcc", ["srcc"]), ("both", ["plcc", "srcc"]))
    }
    return Evaluation(
        QualityReport(
            model=scorer.metadata.name,
            sha256=scorer.metadata.sha256 or "",
            architecture=scorer.metadata.architecture,
            parameters=count_parameters(scorer.model),
            gflops=_gflops(scorer),
            precision=scorer.precision,
            rows=tuple(row for row, _, _ in measured),
            average={name: figure for name, figure in average.items() if figure is not None},
            resamples=resamples,
            level=level,
            seed=seed,
            version=qmamba.__version__,
        ),
        tuple(group for _, group, _ in measured),
    )


def learnt_policies(scorer: Scorer) -> dict[str, Policy]:
    """The policies of data sets whose images were scaled to a size of their own in training.

    A model that learned several data sets has one policy in its file; the sizes to which each set
    was scaled stand with its training. Only for the scorer's crops.
    """
    task = scorer.metadata.training.get("task")
    entries = task.get("data") if isinstance(task, Mapping) else None
    if not isinstance(entries, list) or not isinstance(scorer.policy, CropsPolicy):
        return {}
    sizes = {
        entry["name"]: entry.get("shorter")
        for entry in entries
        if isinstance(entry, Mapping) and isinstance(entry.get("name"), str)
    }
    return {
        name: replace(scorer.policy, shorter=size)
        for name, size in sizes.items()
        if size is None or isinstance(size, int)
    }


def _with_policy(scorer: Scorer, policy: Policy | None) -> Scorer:
    if policy is None or policy == scorer.policy:
        return scorer
    other = copy.copy(scorer)
    other.policy = policy
    return other


def _check(parts: Sequence[RatedPart], by: Sequence[str], resamples: int) -> None:
    if not parts:
        raise ConfigError("An evaluation needs at least one data set.")
    names = [part.dataset.name for part in parts]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"The data set {twice[0]!r} is given twice; name each differently.")
    if resamples < 0:
        raise ConfigError(f"The option resamples must be 0 or more, got {resamples}.")
    for part in parts:
        check_scores(part.dataset.scores, _named(part))
        for name in by:
            if name not in get_args(Breakdown):
                raise ConfigError(
                    f"The option by is one of {', '.join(get_args(Breakdown))}, got {name!r}."
                )
    for name in by:
        if not any(getattr(image, name) is not None for part in parts for image in part.dataset):
            raise DataError(
                f"No image of {', '.join(names)} has a {name}; leave out the breakdown by {name}."
            )


def _named(part: RatedPart) -> str:
    name = repr(part.dataset.name)
    return name if part.part == "all" else f"the part {part.part!r} of {name}"


def _measured(
    scorer: Scorer,
    part: RatedPart,
    predictions: Sequence[Prediction],
    by: Sequence[Breakdown],
    resamples: int,
    level: float,
    seed: int,
) -> tuple[DatasetRow, tuple[Prediction, ...], Measurement]:
    """The row of one data set, its predictions with mapped values, and the figures."""
    good = [prediction for prediction in predictions if prediction.raw is not None]
    skipped = tuple(
        (prediction.image.name, prediction.error or "")
        for prediction in predictions
        if prediction.raw is None
    )
    if not good:
        raise DataError(f"No image of {_named(part)} has a score.")
    left = part.dataset if not skipped else _only(part.dataset, good)
    check_scores(left.scores, f"what is left of {_named(part)}")
    quality, comparable = _qualities(scorer, left, [prediction.raw or 0.0 for prediction in good])
    contents = [image.content for image in left]
    measurement = measure(
        quality,
        left.qualities,
        names=[name for name in FIGURES if comparable or name not in _SCALE_DEPENDENT],
        groups=contents,
        resamples=resamples,
        seed=seed,
        level=level,
    )
    groups = [
        row
        for name in by
        for row in _group_rows(name, left, quality, resamples=resamples, seed=seed, level=level)
    ]
    row = dataset_row(part, left, measurement, str(scorer.policy), tuple(groups), skipped)
    return row, _with_mapped(predictions, left, quality, measurement), measurement


def dataset_row(
    part: RatedPart,
    left: RatedDataset,
    measurement: Measurement,
    policy: str,
    groups: tuple[GroupRow, ...],
    skipped: tuple[tuple[str, str], ...],
) -> DatasetRow:
    """The figures of one data set with what they are of.

    Args:
        part: what was to be judged.
        left: the images of it that have predictions.
        measurement: the figures of these.
        policy: how the images were looked at.
        groups: the figures of groups among them.
        skipped: names of the others, with the reasons.
    """
    return DatasetRow(
        dataset=part.dataset.name,
        part=part.part,
        split=None if part.split is None or part.part == "all" else part.split.rule,
        split_seed=None if part.split is None or part.part == "all" else part.split.seed,
        score_name=left.score_name,
        scale=left.scale,
        higher_is_better=left.higher_is_better,
        images=len(left),
        contents=len(left.contents),
        fingerprint=fingerprint(part.dataset),
        policy=policy,
        figures=measurement.figures,
        curves=measurement.curves,
        groups=groups,
        skipped=skipped,
        notes=left.notes + measurement.notes,
    )


def _only(dataset: RatedDataset, good: Sequence[Prediction]) -> RatedDataset:
    return dataset.take([dataset.index(prediction.image.name) for prediction in good])


def _qualities(
    scorer: Scorer, dataset: RatedDataset, raw: Sequence[float]
) -> tuple[FloatArray, bool]:
    """Predictions turned so that higher is better, and whether they are on the set's own scale."""
    values = np.array(raw, dtype=np.float64)
    scale = scorer.scale
    own = _own_map(scorer.metadata.training, dataset)
    if own is not None:
        values = own["offset"] + own["factor"] * values
        (low, high), higher = own["scale"], own["higher_is_better"]
    else:
        low, high, higher = scale.low, scale.high, scale.higher_is_better
    if not higher:
        values = low + high - values
    same_name = scale.name.casefold() == dataset.score_name.casefold()
    return values, own is not None or same_name or (low, high) == dataset.scale


def _own_map(training: Mapping[str, Any], dataset: RatedDataset) -> Mapping[str, Any] | None:
    """How a model of several data sets comes from their common scale to that of this one."""
    entries = training.get("maps")
    if not isinstance(entries, list):
        return None
    wanted = {"name", "scale", "higher_is_better", "offset", "factor"}
    return next(
        (
            entry
            for entry in entries
            if isinstance(entry, Mapping)
            and wanted <= set(entry)
            and entry["name"] == dataset.score_name
        ),
        None,
    )


def _group_rows(
    by: Breakdown,
    dataset: RatedDataset,
    quality: FloatArray,
    **options: Any,
) -> list[GroupRow]:
    members: dict[Any, list[int]] = {}
    for position, image in enumerate(dataset):
        key = getattr(image, by)
        if key is not None:
            members.setdefault(key, []).append(position)
    rows = []
    for key in sorted(members):
        chosen = members[key]
        contents = [dataset[position].content for position in chosen]
        try:
            measurement = measure(
                quality[chosen],
                dataset.qualities[chosen],
                names=GROUP_FIGURES,
                groups=contents,
                **options,
            )
        except DataError as error:
            rows.append(GroupRow(by, str(key), len(chosen), {}, (str(error),)))
        else:
            rows.append(GroupRow(by, str(key), len(chosen), measurement.figures, measurement.notes))
    return rows


def _with_mapped(
    predictions: Sequence[Prediction],
    left: RatedDataset,
    quality: FloatArray,
    measurement: Measurement,
) -> tuple[Prediction, ...]:
    mapped = measurement.mapped(quality)
    if mapped is None:
        return tuple(predictions)
    if not left.higher_is_better:
        mapped = left.scale[0] + left.scale[1] - mapped
    values = iter(mapped.tolist())
    return tuple(
        prediction if prediction.raw is None else replace(prediction, mapped=next(values))
        for prediction in predictions
    )


def _gflops(scorer: Scorer) -> float | None:
    try:
        return count_flops(scorer.model).paper / 1e9
    except ShapeError:
        return None
