"""`qmamba score`: quality scores of files, folders, patterns and lists."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from qmamba.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    Progress,
    counted,
    say,
    shown,
)
from qmamba.cli.display.scores import JsonScreen, Order, Report, Screen, TextScreen
from qmamba.cli.options.shards import ShardArguments, with_shard_options
from qmamba.cli.options.shared import (
    DeviceOption,
    MaxPixelsOption,
    MemoryOption,
    PrecisionOption,
    TunedOption,
    limit_memory,
)
from qmamba.cli.quality.score_maps import MapFileFormat, chosen_maps, without_maps
from qmamba.cli.quality.score_video import or_videos
from qmamba.cli.scale.score_shards import score_shards
from qmamba.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qmamba.assess import ImageRow, Scorer, TableFile
    from qmamba.images import LeftOut, UnreadableInput
    from qmamba.inference import Precision


@or_videos
@with_shard_options
def score(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH",
            help="Image files, folders, quoted patterns such as 'photos/**/*.jpg', or - for a list "
            "on standard input (one per line, or NUL-separated). With --shards tar and Parquet "
            "files as well, and nothing to go on with a folder of scores.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write all rows to this .csv or .jsonl file, or to this folder with --shards.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the rows that a stopped run left for -o FILE; with --shards every"
            " run does.",
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            "-f",
            help="Replace output files that are there, and begin anew where a stopped run has left"
            " rows for -o FILE.",
        ),
    ] = False,
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
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="Views of an image: crops, native or resize, with fields as in "
            "crops:count=5,layout=random. Without it the model's own.",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Images sent to a GPU before waiting; neither scores nor the CPU depend on it.",
        ),
    ] = 16,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Go into the folders inside folders.")
    ] = False,
    batch_images: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Images that share a call of the network; more than 1 is faster with few views"
            " and changes the last digits.",
        ),
    ] = 1,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Threads that decode images (2; with --shards one per process).",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON array of all rows instead of a table.")
    ] = False,
    reasons: Annotated[
        bool,
        typer.Option(
            "--reasons", help="Say which technical flaws each image has, from blur to color."
        ),
    ] = False,
    sort: Annotated[
        Order,
        typer.Option(help="Rows in input order as they come, or the best or worst score first."),
    ] = Order.input,
    max_pixels: MaxPixelsOption = None,
    memory: MemoryOption = None,
    map_file: Annotated[
        Path | None,
        typer.Option(
            "--map",
            metavar="FILE",
            help="Write the quality map of one image: .png over the image, .npy the values.",
            show_default=False,
        ),
    ] = None,
    map_folder: Annotated[
        Path | None,
        typer.Option(
            "--maps",
            metavar="FOLDER",
            help="Write the quality map of every image into this folder.",
            show_default=False,
        ),
    ] = None,
    map_format: Annotated[
        MapFileFormat | None,
        typer.Option(help="Format of the maps in --maps (png).", show_default=False),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Seed of random crops, with --policy crops:layout=random (0).",
            show_default=False,
        ),
    ] = None,
    *,
    sharded: ShardArguments,
) -> None:
    """Score the quality of images.

    One row per image: its score, or why it has none. Without -o a table goes to standard output,
    everything else to standard error. With -o the rows are in FILE.partial until the file is
    complete, and stay there after Ctrl-C; --resume goes on with them.

    Exit code: 0 all images scored, 1 some failed, 2 wrong usage, 130 interrupted.
    """
    from qmamba.assess import TableFile, map_paths, score_paths

    limit_memory(memory)
    sharded.check()
    paths = paths or []
    given = (model, tuned, policy, device, precision, batch_size, batch_images, max_pixels, seed)
    load = partial(_scorer, *given)
    if sharded.shards or sharded.ray is not None:
        _require_none_of_a_table(
            (as_json, reasons, sort is not Order.input, map_file, map_folder, map_format, force)
        )
        scorer = load()
        say(_legend(scorer))
        score_shards(
            paths,
            output,
            sharded,
            scorer,
            model=model,
            tuned=tuned,
            recursive=recursive,
            decoders=workers,
            resume=resume,
        )
        return
    _require_inputs(paths)
    _require_files(resume and not output, force and not (output or map_file or map_folder))
    maps = chosen_maps(paths, map_file, map_folder, map_format, force=force)
    found, left_out = _found(paths, recursive)
    done = failed = 0
    try:
        with ExitStack() as stack:
            scorer = load()
            scorer.reasons = reasons
            table = None
            if output is not None:
                shared = {"resume": resume, "force": force, "reasons": reasons}
                table = stack.enter_context(TableFile(output, settings=_settings(scorer), **shared))
            say(_legend(scorer))
            screen = _screen(scorer, as_json=as_json, quiet=table is not None)
            report = stack.enter_context(Report(table, screen, sort))
            for row in [] if table is None else _kept(table, found, resume):
                report.show(row)
                done += 1
                failed += row.score is None
            if maps is not None and map_folder is not None and not (force or done):
                # Maps of images without a row may be there where a run was stopped.
                found = without_maps(found, map_folder, paths, maps[1])
            rows = stack.enter_context(
                closing(
                    score_paths(scorer, found, workers=workers or 2)
                    if maps is None
                    else map_paths(scorer, found, *maps)
                )
            )
            progress = None
            if screen is None or sort is not Order.input or not sys.stdout.isatty():
                progress = Progress(_total(paths, recursive))
                stack.callback(progress.clear)
            for row in rows:
                report.add(row)
                done += 1
                failed += row.score is None
                if progress is not None:
                    progress.update(done, failed)
    except KeyboardInterrupt:
        kept = f"; their rows are in {output}.partial, --resume goes on" if output and done else ""
        say(f"interrupted after {counted(done, 'image')}{kept}")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    written = {"written to": output}
    if done > failed:
        written |= {"map in": map_file, "maps in": map_folder}
    say(
        f"{counted(done - failed, 'image')} scored"
        + (f", {failed} failed" if failed else "")
        + "".join(f", {how} {path}" for how, path in written.items() if path)
        + (f". {left_out.sentence}" if left_out.endings else "")
    )
    if failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _require_inputs(paths: list[str]) -> None:
    from qmamba.images import require_existing

    if not paths:
        raise ConfigError("Give a PATH: images, folders or patterns to score.")
    if paths.count("-") > 1:
        raise ConfigError("The list on standard input (-) can be read once only.")
    require_existing(paths)


def _require_files(lacks_rows: bool, lacks_files: bool) -> None:
    if lacks_rows:
        raise ConfigError("--resume goes on with the rows of -o FILE; add it.")
    if lacks_files:
        raise ConfigError("--force replaces the files of -o, --map and --maps; add one of them.")


def _require_none_of_a_table(given: Iterable[object]) -> None:
    if any(given):
        raise ConfigError(
            "--json, --reasons, --sort, --map, --maps, --map-format and --force have no effect on a"
            " folder of scores; leave them out (--force-plan begins a new folder)."
        )


def _found(paths: list[str], recursive: bool) -> tuple[Iterator[str | UnreadableInput], LeftOut]:
    """The images that the paths stand for, one at least, and what is left out on the way."""
    from qmamba.images import LeftOut, find_images

    left_out = LeftOut()
    found = find_images(paths, recursive=recursive, stdin=sys.stdin.buffer, left_out=left_out)
    first = next(found, None)
    if first is None:
        hint = "" if recursive or paths == ["-"] else "; --recursive looks into folders inside"
        text = f"No images found in {', '.join(map(repr, paths))}{hint}. {left_out.sentence}"
        raise DataError(text.rstrip())
    return chain([first], found), left_out


def _settings(scorer: Scorer) -> dict[str, str | int]:
    """What scores depend on beside the images, as a stopped run leaves it for a later one."""
    return {
        "model": scorer.metadata.name,
        "sha256": scorer.metadata.sha256 or "",
        "policy": str(scorer.policy),
        "precision": scorer.precision,
        "max_pixels": scorer.max_pixels,
        "batch_images": scorer.batch_images,
        "reasons": scorer.reasons,
    }


def _kept(table: TableFile, found: Iterator[str | UnreadableInput], resume: bool) -> list[ImageRow]:
    """The rows of an earlier run, whose images are taken off the front of what was found."""
    for number, row in enumerate(table.kept, 1):
        entry = next(found, None)
        name = entry if entry is None or isinstance(entry, str) else entry.image
        if name is None or not table.is_of(row, name):
            now = "nothing" if name is None else repr(name)
            raise DataError(
                f"{str(table.partial)!r} cannot be resumed: image {number} was {row.image!r} and is"
                f" {now} now; give the same inputs, or --force."
            )
    if table.kept:
        say(f"going on after {counted(len(table.kept), 'image')} of an earlier run")
    elif resume:
        say(f"nothing to go on from: {shown(str(table.partial))} holds no rows")
    return table.kept


def _scorer(
    model: str | None,
    tuned: Path | None,
    policy: str | None,
    device: str,
    precision: str,
    batch_size: int,
    batch_images: int,
    max_pixels: int | None,
    seed: int | None,
) -> Scorer:
    from qmamba.assess import CropsPolicy, Scorer
    from qmamba.images import DEFAULT_MAX_PIXELS

    scorer = Scorer.from_pretrained(
        model,
        tuned=tuned,
        device=device,
        policy=policy,
        precision=cast("Precision", precision),
        batch_size=batch_size,
        batch_images=batch_images,
        max_pixels=max_pixels or DEFAULT_MAX_PIXELS,
    )
    if seed is not None:
        if not (isinstance(scorer.policy, CropsPolicy) and scorer.policy.layout == "random"):
            raise ConfigError(
                f"--seed has no effect on the policy {scorer.policy}; add"
                " --policy crops:layout=random or leave it out."
            )
        scorer.policy = replace(scorer.policy, seed=seed)
    return scorer


def _legend(scorer: Scorer) -> str:
    scale = scorer.scale
    better = "higher" if scale.higher_is_better else "lower"
    return (
        f"{scale.name or 'score'}: {scale.low:g} to {scale.high:g}, {better} is better;"
        f" model {scorer.metadata.name} (sha256 {(scorer.metadata.sha256 or 'unknown')[:12]}),"
        f" {scorer.policy}, {scorer.device}"
    )


def _screen(scorer: Scorer, *, as_json: bool, quiet: bool) -> Screen | None:
    if as_json:
        return JsonScreen()
    return None if quiet else TextScreen(scorer.scale)


def _total(paths: list[str], recursive: bool) -> int | None:
    """Number of images to come, looked up only where a bar on a terminal shows it."""
    from qmamba.images import find_images

    if "-" in paths or not sys.stderr.isatty():
        return None
    return sum(1 for _ in find_images(paths, recursive=recursive))
