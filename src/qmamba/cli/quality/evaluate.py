"""`qmamba evaluate`: how well a model predicts what people say."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from qmamba.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    Progress,
    say,
    shown,
    take_outputs,
)
from qmamba.cli.display.evaluation import show_report
from qmamba.cli.options.shared import (
    DATA_HELP,
    DeviceOption,
    ForceOption,
    LowerIsBetterOption,
    PrecisionOption,
    RatingScaleOption,
    TunedOption,
)
from qmamba.cli.quality.rivals import judge_rivals, rival_metrics, rival_outputs, write_rivals
from qmamba.errors import ConfigError

if TYPE_CHECKING:
    from qmamba.assess import Scorer
    from qmamba.datasets import RatedDataset
    from qmamba.evaluation.quality.evaluation import Breakdown, Evaluation
    from qmamba.evaluation.quality.parts import PartName, RatedPart
    from qmamba.inference import Precision

_NO_SPLIT = "none"
_AUTO = "auto"


def evaluate(
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            metavar="DATA",
            help=DATA_HELP + " May be given several times.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Weights: an embedded name (see `qmamba models`), a file, or a hub id owner/name. "
            "Without it the embedded default.",
            show_default=False,
        ),
    ] = None,
    tuned: TunedOption = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            metavar="SPLIT",
            help="official, content, image, none, or a JSON file of splits; NAME=... for one data"
            " set of several. Without it: official where the data set has such parts, else none.",
            show_default=False,
        ),
    ] = None,
    split_seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the split.")] = 0,
    train_share: Annotated[
        float, typer.Option(metavar="X", help="Share that trains in a random split.")
    ] = 0.8,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="all|train|val|test",
            help="Images to judge: test where there is a split, else all.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            metavar="distortion|level|generator",
            help="Break the figures down; may be given several times.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="Views of an image: crops, native or resize, with fields as in crops:10 or "
            "crops:count=10,layout=random; paper: ten random crops of 224. Without it the model's "
            "own.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the report to this .json, .md or .csv file; may be given several times.",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="pyiqa:NAME",
            help="Judge a no-reference metric of pyiqa beside the model, on the same images and"
            " resamples; may be given several times.",
            show_default=False,
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write one line per image to this .csv file.", show_default=False
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw scores against predictions, with the fitted curve, as .png or .svg.",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep predictions in this file and take those that are there. Without it, with -o,"
            " in FILE.partial until the report is complete.",
            show_default=False,
        ),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out images that are missing or unreadable."),
    ] = False,
    scale: RatingScaleOption = None,
    lower_is_better: LowerIsBetterOption = None,
    resamples: Annotated[
        int, typer.Option(min=0, metavar="N", help="Draws behind each interval; 0 for none.")
    ] = 1000,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Seed of random crops and of the intervals.")
    ] = 0,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images sent to a GPU before waiting.")
    ] = 16,
    workers: Annotated[
        int, typer.Option(min=1, metavar="N", help="Threads that decode images.")
    ] = 2,
    force: ForceOption = False,
) -> None:
    """Measure how well a model predicts opinion scores.

    For one data set, a CSV file, or a mix of several: SRCC, PLCC without and with the logistic
    curves, KRCC and RMSE, each with a bootstrap interval, and the average over the data sets. An
    interrupted evaluation with -o or --cache goes on where it was when it is started again.

    Exit code: 0 measured, 1 images without a score (each is named; --skip-bad leaves them out) or
    undefined figures, 2 wrong usage or data, 130 interrupted.
    """
    from qmamba.datasets.selection import parsed_scales, read_rated_data
    from qmamba.evaluation.quality.cache import PredictionCache
    from qmamba.evaluation.quality.evaluation import evaluate as measured
    from qmamba.evaluation.quality.evaluation import learnt_policies
    from qmamba.evaluation.quality.predictions import UnscoredError

    outputs = output or []
    _check_outputs(outputs, predictions, plot)
    take_outputs(*outputs, *rival_outputs(outputs, metric or []), predictions, plot, force=force)
    rivals = rival_metrics(metric or [], device)
    datasets = read_rated_data(
        data,
        scales=parsed_scales(scale or []),
        lower_is_better=lower_is_better or [],
        skip_bad=skip_bad,
        keep_missing=True,
    )
    for note in (note for dataset in datasets for note in dataset.notes):
        say(f"note: {shown(note)}")
    parts = _parts(datasets, split or [], split_seed, train_share, part)
    scorer = _scorer(model, tuned, policy, device, precision, batch_size, seed)
    say(_legend(scorer))
    partial = outputs[0].with_name(outputs[0].name + ".partial") if outputs else None
    kept = cache or partial
    done = 0
    with ExitStack() as stack:
        progress = Progress(sum(len(each.dataset) for each in parts))
        stack.callback(progress.clear)
        store = None if kept is None else stack.enter_context(PredictionCache(kept))
        if store:
            say(f"{len(store)} predictions found in {kept}")

        def report(now: int, failed: int, total: int) -> None:
            nonlocal done
            done = now
            progress.update(now, failed)

        try:
            result = measured(
                scorer,
                parts,
                by=cast("list[Breakdown]", by or []),
                skip_bad=skip_bad,
                resamples=resamples,
                seed=seed,
                policies={} if policy else learnt_policies(scorer),
                cache=store,
                workers=workers,
                report=report,
            )
        except UnscoredError as error:
            progress.clear()
            for path, reason in error.problems:
                say(f"no score: {shown(str(path))}: {shown(reason)}")
            say(
                f"error: {len(error.problems)} of {done} images have no score; mend them, or leave"
                " them out with --skip-bad"
            )
            raise typer.Exit(EXIT_SOME_FAILED) from error
        except KeyboardInterrupt:
            progress.clear()
            where = f"; predictions are kept in {kept}" if kept and done else ""
            say(f"interrupted after {done} images{where}")
            raise typer.Exit(EXIT_INTERRUPTED) from None
    written = _write(result, outputs, predictions, plot)
    show_report(result.report)
    reports = judge_rivals(
        rivals, parts, result.report, skip_bad=skip_bad, resamples=resamples, seed=seed
    )
    written += write_rivals(outputs, reports)
    if written:
        say(f"written: {', '.join(map(str, written))}")
    if partial is not None and cache is None:
        partial.unlink(missing_ok=True)
    if any("srcc" not in row.figures for row in result.report.rows):
        raise typer.Exit(EXIT_SOME_FAILED)


def _write(
    result: Evaluation, outputs: list[Path], predictions: Path | None, plot: Path | None
) -> list[Path]:
    """Write what was asked for; returns the files."""
    from qmamba.evaluation.quality.predictions import write_predictions
    from qmamba.evaluation.quality.tables import write_report

    for path in outputs:
        write_report(path, result.report)
    if predictions is not None:
        names = [row.dataset for row in result.report.rows]
        write_predictions(predictions, zip(names, result.predictions, strict=True))
    if plot is not None:
        from qmamba.evaluation.quality.plots import plot_evaluation

        plot_evaluation(plot, result)
    return [*outputs, *([predictions] if predictions else []), *([plot] if plot else [])]


def _check_outputs(outputs: list[Path], predictions: Path | None, plot: Path | None) -> None:
    """Find unusable files and missing packages before the work, not after it."""
    from qmamba.evaluation.quality.plots import check_plot_path
    from qmamba.evaluation.quality.tables import check_report_path

    for path in outputs:
        check_report_path(path)
    if predictions is not None and predictions.suffix.lower() != ".csv":
        raise ConfigError(f"--predictions {predictions} must end in .csv.")
    if plot is not None:
        check_plot_path(plot)


def _parts(
    datasets: list[RatedDataset],
    written: list[str],
    seed: int,
    train_share: float,
    part: str | None,
) -> list[RatedPart]:
    from qmamba.datasets.selection import chosen_split, for_each
    from qmamba.evaluation.quality.parts import select_part

    rules = for_each(written, [dataset.name for dataset in datasets], _AUTO, "The split")
    parts = []
    for dataset in datasets:
        rule = rules[dataset.name]
        if rule == _AUTO:
            official = "train" in dataset.splits and {"test", "val"} & set(dataset.splits)
            rule = "official" if official else _NO_SPLIT
        division = (
            None
            if rule == _NO_SPLIT
            else chosen_split(dataset, rule, seed=seed, train_share=train_share)
        )
        parts.append(select_part(dataset, cast("PartName | None", part), division))
    return parts


def _scorer(
    model: str | None,
    tuned: Path | None,
    policy: str | None,
    device: str,
    precision: str,
    batch_size: int,
    seed: int,
) -> Scorer:
    from qmamba.assess import CropsPolicy, Scorer

    scorer = Scorer.from_pretrained(
        model,
        tuned=tuned,
        device=device,
        policy=policy,
        precision=cast("Precision", precision),
        batch_size=batch_size,
    )
    if seed and isinstance(scorer.policy, CropsPolicy) and scorer.policy.layout == "random":
        scorer.policy = replace(scorer.policy, seed=seed)
    return scorer


def _legend(scorer: Scorer) -> str:
    return (
        f"model {scorer.metadata.name} (sha256 {(scorer.metadata.sha256 or 'unknown')[:12]}),"
        f" {scorer.policy}, {scorer.precision}, {scorer.device}"
    )
