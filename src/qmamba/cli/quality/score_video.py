"""`qmamba score-video`: quality over time of videos and animated images."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from qmamba.cli.common import EXIT_SOME_FAILED, counted, say, shown, take_outputs, write
from qmamba.cli.options.shared import (
    DeviceOption,
    ForceOption,
    MaxPixelsOption,
    PrecisionOption,
    TunedOption,
)
from qmamba.errors import ConfigError, DataError, ImageError

if TYPE_CHECKING:
    from qmamba.assess.video import VideoScore


_SHARED = ("output", "model", "tuned", "policy", "device", "precision", "max_pixels", "force")
"""Options that the two commands have in common."""


def or_videos(score: Callable[..., None]) -> Callable[..., None]:
    """Hand a command that scores images over to :func:`score_video_command` where it gets videos.

    What of its options videos do not have must be left out.
    """

    @functools.wraps(score)
    def run(**given: Any) -> None:
        paths: list[str] = given["paths"] or []
        if not any(map(_is_video, paths)):
            return score(**given)
        if not all(map(_is_video, paths)):
            raise ConfigError("Score videos apart from images, or with `qmamba score-video`.")
        defaults = inspect.signature(score).parameters
        taken = {name: given[name] for name in _SHARED}
        others = given.keys() - taken.keys() - {"paths"}
        if changed := sorted(name for name in others if given[name] != defaults[name].default):
            raise ConfigError(
                f"For videos `qmamba score` has no --{changed[0].replace('_', '-')}; "
                "`qmamba score-video --help` lists what there is."
            )
        return score_video_command([Path(path) for path in paths], **taken)

    return run


def _is_video(path: str) -> bool:
    from qmamba.assess.video.frames import VIDEO_SUFFIXES

    return Path(path).suffix.lower() in VIDEO_SUFFIXES and Path(path).is_file()


def score_video_command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="Videos, or animated GIF, WebP, PNG and AVIF images.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the rows to this .csv or .jsonl file.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Frames, evenly over the whole time (32).",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="Time between two frames instead.", show_default=False
        ),
    ] = None,
    frames: Annotated[
        bool, typer.Option("--frames", help="A row for each frame instead of each video.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw the scores over time, .png or .svg.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Weights as for `qmamba score`.", show_default=False),
    ] = None,
    tuned: TunedOption = None,
    policy: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help="Views of a frame.", show_default=False),
    ] = None,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    max_pixels: MaxPixelsOption = None,
    force: ForceOption = False,
) -> None:
    """Score the quality of videos over time.

    The score of a video is the mean of the scores of its frames: no ratings of videos trained it,
    and it knows nothing of motion, stutter or sound. Beside it stand the mean of the worst five
    percent of the frames, their times, and the spread over time.

    Exit code: 0 all videos scored, 1 some failed, 2 wrong usage.
    """
    from qmamba.assess import Scorer
    from qmamba.assess.video import score_video
    from qmamba.assess.video.frames import DEFAULT_COUNT
    from qmamba.assess.video.table import (
        PLOT_SUFFIXES,
        TABLE_SUFFIXES,
        check_suffix,
        plot_scores,
        rows_of,
        write_table,
    )
    from qmamba.images import DEFAULT_MAX_PIXELS
    from qmamba.inference import Precision

    for what, path, suffixes in (
        ("table", output, TABLE_SUFFIXES),
        ("plot", plot, PLOT_SUFFIXES),
    ):
        if path is not None:
            check_suffix(what, path, suffixes)
    take_outputs(output, plot, force=force)
    if every is not None and not every > 0:
        raise ConfigError(f"--every must be a positive number of seconds, got {every:g}.")
    if every is not None and count is not None:
        raise ConfigError("Give --count or --every, not both.")
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise DataError(f"The video {str(absent[0])!r} is not a file; check the name.")
    scorer = Scorer.from_pretrained(
        model,
        tuned=tuned,
        device=device,
        policy=policy,
        precision=cast(Precision, precision),
        max_pixels=max_pixels or DEFAULT_MAX_PIXELS,
    )
    found: list[VideoScore] = []
    failed = 0
    try:
        for path in paths:
            try:
                score = score_video(scorer, path, count=count or DEFAULT_COUNT, every=every)
            except ImageError as error:
                failed += 1
                say(f"{shown(str(path))}: {shown(str(error))}")
                continue
            found.append(score)
            _print(score, frames)
            for note in score.notes:
                say(f"{shown(str(path))}: {shown(note)}")
    finally:
        # Also when a signal ends it: what was scored is not lost.
        if output is not None and found:
            write_table(output, rows_of(found, frames=frames))
    if plot is not None and found:
        plot_scores(plot, found)
    say(
        f"{counted(len(found), 'video')} scored"
        + (f", {failed} failed" if failed else "")
        + (f", written to {output}" if output and found else "")
        + (f", plot in {plot}" if plot and found else "")
        + "; frame scores pooled over time, trained on no video ratings"
    )
    if failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _print(score: VideoScore, frames: bool) -> None:
    if frames:
        lines = [f"{frame.time:9.2f} s  {frame.score:6.2f}" for frame in score.frames]
        write("".join(f"{line}  {shown(score.video)}\n" for line in lines), sys.stdout)
        return
    times = ", ".join(f"{time:.2f}" for time in score.worst_times)
    write(
        f"{score.score:6.2f}  worst 5 % {score.worst:6.2f} at {times} s  spread "
        f"{score.temporal_spread:5.2f}  {len(score.frames)} frames  {shown(score.video)}\n",
        sys.stdout,
    )
