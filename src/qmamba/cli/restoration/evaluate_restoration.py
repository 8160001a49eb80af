"""`qmamba evaluate-restoration`: PSNR and SSIM on the published test sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from qmamba.cli.common import (
    EXIT_INTERRUPTED,
    Progress,
    answer,
    say,
    shown,
    table_lines,
    take_outputs,
)
from qmamba.cli.options.shared import DeviceOption, ForceOption, PrecisionOption
from qmamba.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from qmamba.datasets.clean.test_sets import RestorationSet
    from qmamba.evaluation.restoration.cost import NetworkCost
    from qmamba.evaluation.restoration.table import TableRow
    from qmamba.inference import Precision
    from qmamba.restore.degradations import Degradation


def evaluate_restoration(
    data: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Where the test sets lie, up to three levels deep.",
            show_default=False,
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WEIGHTS",
            help="Embedded name, file or hub id; may be given several times. Without it, only the"
            " degraded input is measured.",
            show_default=False,
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Set5, Set14, BSD100, Urban100, Manga109, CBSD68, Kodak24, McMaster, Classic5,"
            " LIVE1, or a folder; may be given several times. Without it, those of the task that"
            " are there.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="sr|denoise|jpeg", help="Without --model: the task.", show_default=False
        ),
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(metavar="N", help="Without --model: the scale of sr.", show_default=False),
    ] = None,
    sigma: Annotated[
        list[float] | None,
        typer.Option(
            metavar="X",
            help="Deviations of the noise (of 15, 25 and 50 those that the model is for).",
            show_default=False,
        ),
    ] = None,
    quality: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            help="Qualities of JPEG (of 10, 20, 30 and 40 those that the model is for).",
            show_default=False,
        ),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            metavar="whole|official",
            help="Images at once, or in the tiles of MambaIR's published evaluation.",
        ),
    ] = "whole",
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Mean over eight flips and transposes.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the table to this .md, .csv or .json file.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    force: ForceOption = False,
) -> None:
    """Measure restoration by the protocol of published tables.

    Originals are degraded here: MATLAB's bicubic, noise of the fixed draw, or JPEG of the luma.
    Super-resolution is compared on video luma without a border of as many pixels as the scale, the
    rest on all samples. The first row is the degraded input. With --precision auto each network is
    the one that was trained: a quantized one runs on its codes.

    Exit code: 0 measured, 2 wrong usage or data, 130 interrupted; what was measured is shown, and
    written to NAME.partial.csv or .json.
    """
    from qmamba.evaluation.restoration.benchmark import evaluate_set
    from qmamba.evaluation.restoration.modes import MODES
    from qmamba.evaluation.restoration.table import TableRow, check_suffix, table_cells, write_table

    if mode not in MODES:
        raise ConfigError(f"--mode must be one of {', '.join(MODES)}, got {mode!r}.")
    if output is not None:
        check_suffix(output)
    take_outputs(output, force=force)
    networks = [_Network(source, device, precision) for source in model or ()]
    settings = {
        "models": {network.name: network.source for network in networks},
        "mode": mode,
        "ensemble": ensemble,
        "precision": precision,
    }
    rows: list[TableRow] = []
    done: set[Degradation] = set()
    interrupted = False
    try:
        for degradation, network in _plan(networks, task, scale, sigma, quality):
            found = _test_sets(sets, data, degradation)
            for method, run, cost in _methods(degradation, network):
                if run is None and degradation in done:
                    continue
                done.add(degradation)
                figures = tuple(
                    evaluate_set(
                        run,
                        each,
                        degradation,
                        mode=mode,
                        ensemble=ensemble,
                        device=device,
                        report=_reporter(method, each.name),
                    )
                    for each in found
                )
                rows.append(TableRow(method, _strength(degradation), cost, figures))
    except KeyboardInterrupt:
        interrupted = True
    if output is not None and rows:
        if interrupted:
            output = output.with_name(f"{output.stem}.partial{output.suffix}")
        write_table(output, rows, settings)
    if rows:
        header, cells = table_cells(rows)
        answer("\n".join(table_lines(header, cells)))
    if output is not None and rows:
        say(f"written to {output}")
    if interrupted:
        say(f"interrupted after {len(rows)} rows")
        raise typer.Exit(EXIT_INTERRUPTED)


def _methods(
    degradation: Degradation, network: _Network | None
) -> Iterable[tuple[str, Callable[[Tensor], Tensor] | None, NetworkCost | None]]:
    """The degraded input, which nothing restores, and the network."""
    yield _input_name(degradation), None, None
    if network is not None:
        yield network.name, network.run, network.cost


class _Network:
    """A loaded network with its name and its cost."""

    def __init__(self, source: str, device: str, precision: str) -> None:
        from qmamba.checkpoints import load
        from qmamba.evaluation.restoration.cost import network_cost
        from qmamba.inference import chosen_precision, prepare
        from qmamba.models import MambaIR
        from qmamba.restore.catalog import purpose_of

        network = load(source, device=device)
        if not isinstance(network, MambaIR):
            raise ConfigError(f"{source} restores no images; give weights of a mambair-* model.")
        quantization = getattr(network, "quantization", None)
        self.source = source
        self.name = shown(network.metadata.name if network.metadata else source)
        trained: Precision = "fp32" if quantization is None else "codes"
        chosen = chosen_precision(network, cast("Precision", precision))
        # What is evaluated is the network that was trained, wherever another form is faster.
        chosen = trained if precision == "auto" else chosen
        if chosen != trained:
            self.name += f" {chosen}"
        self.config = network.config
        self.degradation = purpose_of(network.metadata)
        assert network.load_report is not None
        self.cost = network_cost(
            network.config, quantization, file_bytes=network.load_report.file_bytes
        )
        self.run: Callable[[Tensor], Tensor] = prepare(network, chosen)


def _plan(
    networks: list[_Network],
    task: str | None,
    scale: int | None,
    sigma: list[float] | None,
    quality: list[int] | None,
) -> Iterable[tuple[Degradation, _Network | None]]:
    """What is measured with which network, strengths of one task side by side."""
    if not networks:
        if task is None:
            raise ConfigError("Give weights with --model, or the task whose input is measured.")
        _require_owner({task}, sigma, quality)
        if scale is None:
            scale = 2 if task == "sr" else 1
        channels = 1 if task == "jpeg" else 3
        return [(each, None) for each in _strengths(task, scale, channels, sigma, quality, None)]
    if task is not None or scale is not None:
        raise ConfigError("--task and --scale are those of the model; leave them out.")
    tasks: set[str] = {network.config.task_name for network in networks}
    _require_owner(tasks, sigma, quality)
    plan = [
        (each, network)
        for network in networks
        for each in _strengths(
            network.config.task_name,
            network.config.scale,
            network.config.channels,
            sigma,
            quality,
            network.degradation,
        )
    ]
    return sorted(plan, key=lambda pair: (str(pair[0].task), pair[0].scale, str(pair[0])))


def _require_owner(tasks: set[str], sigma: list[float] | None, quality: list[int] | None) -> None:
    """Refuse strengths of a task that is not measured."""
    for option, owner, values in (("--sigma", "denoise", sigma), ("--quality", "jpeg", quality)):
        if values and owner not in tasks:
            raise ConfigError(
                f"{option} belongs to the task {owner}, not to {' and '.join(sorted(tasks))}; "
                "leave one of them out."
            )


def _strengths(
    task: str,
    scale: int,
    channels: int,
    sigma: list[float] | None,
    quality: list[int] | None,
    trained: Degradation | None,
) -> list[Degradation]:
    from qmamba.restore.degradations import Degradation

    real = trained is not None and trained.real
    values: dict[str, Any] = {"task": task, "scale": scale, "channels": channels, "real": real}
    if task == "denoise":
        ends = trained.sigma if trained is not None and trained.sigma else (0.0, 255.0)
        chosen = sigma or [each for each in (15.0, 25.0, 50.0) if ends[0] <= each <= ends[1]]
        return [Degradation(**values, sigma=(each, each)) for each in chosen or [ends[1]]]
    if task == "jpeg":
        limits = trained.quality if trained is not None and trained.quality else (1, 100)
        picked = quality or [each for each in (10, 20, 30, 40) if limits[0] <= each <= limits[1]]
        return [Degradation(**values, quality=(each, each)) for each in picked or [limits[0]]]
    return [Degradation(**values)]


def _test_sets(
    names: list[str] | None, data: Path, degradation: Degradation
) -> list[RestorationSet]:
    from qmamba.datasets.clean.test_sets import CUSTOMARY_SETS, find_restoration_set

    found = []
    for name in names or CUSTOMARY_SETS[degradation.task]:
        each = find_restoration_set(name, data)
        if each is None and names:
            raise DataError(f"There is no folder of {name!r} below {str(data)!r}.")
        if each is not None:
            if not each.complete:
                say(f"note: {shown(each.name)} has only {len(each.paths)} of its images here")
            found.append(each)
    if not found:
        raise DataError(
            f"None of {', '.join(CUSTOMARY_SETS[degradation.task])} lies below {str(data)!r}."
        )
    return found


def _input_name(degradation: Degradation) -> str:
    return {"sr": "bicubic", "denoise": "noisy input", "jpeg": "JPEG input"}[degradation.task]


def _strength(degradation: Degradation) -> str:
    if degradation.task == "sr":
        return f"x{degradation.scale}"
    if degradation.task == "denoise":
        assert degradation.sigma is not None
        return f"sigma {degradation.sigma[1]:g}"
    assert degradation.quality is not None
    return f"quality {degradation.quality[0]}"


def _reporter(method: str, name: str) -> Callable[[int, int], None]:
    progress: list[Progress] = []

    def report(done: int, total: int) -> None:
        if not progress:
            progress.append(Progress(total))
        progress[0].update(done, 0)
        if done == total:
            progress[0].clear()

    return report
