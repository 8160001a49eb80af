"""`qmamba compare`: two versions of the same images, which is better?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
    take_outputs,
    write,
)
from qmamba.cli.options.shared import (
    DeviceOption,
    ForceOption,
    MaxPixelsOption,
    PrecisionOption,
    TunedOption,
)

if TYPE_CHECKING:
    from qmamba.evaluation.comparison import ComparedRow, Comparison, Summary
    from qmamba.inference import Precision


def compare(
    before: Annotated[str, typer.Argument(metavar="A", help="Folder or image: the first version.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Folder or image: the second version.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write all pairs to this .csv or .jsonl file.",
            show_default=False,
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write an image (.jpg, .png, .webp) of the largest gains and losses side by side.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, metavar="N", help="Pairs in each half of the sheet.")
    ] = 8,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Weights that score: an embedded name, a file, or a hub id owner/name.",
            show_default=False,
        ),
    ] = None,
    tuned: TunedOption = None,
    policy: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help="Views of an image, as in score.", show_default=False),
    ] = None,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "auto",
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Go into the folders inside folders.")
    ] = False,
    max_pixels: MaxPixelsOption = None,
    force: ForceOption = False,
) -> None:
    """Compare two versions of the same images by their quality scores.

    Images belong together by their path inside A and B, with or without its ending. The smaller
    version of a pair is enlarged to the larger by bicubic interpolation, so that both are scored at
    one size. PSNR is that of the second version, brought back to the size of the first. Pairs that
    seem to show different things are named.

    Exit code: 0 all compared, 1 some not, 2 wrong usage, 130 interrupted.
    """
    from qmamba.assess import Scorer
    from qmamba.evaluation.comparison import (
        RULE,
        compare_pairs,
        pair_folders,
        summarize,
        write_table,
    )
    from qmamba.evaluation.comparison.folders import check_table_name
    from qmamba.images import DEFAULT_MAX_PIXELS
    from qmamba.web.sheet import check_sheet_name, side_by_side, write_sheet

    for file, check in ((output, check_table_name), (sheet, check_sheet_name)):
        if file is not None:
            check(file)
    take_outputs(output, sheet, force=force)
    pairing = pair_folders(before, after, recursive=recursive)
    scorer = Scorer.from_pretrained(
        model,
        tuned=tuned,
        device=device,
        policy=policy,
        precision=cast("Precision", precision),
    )
    scale = scorer.scale
    direction = "higher" if scale.higher_is_better else "lower"
    footer = f"{scorer.metadata.name}, {scorer.policy}"
    say(
        f"{scale.name or 'score'}: {scale.low:g} to {scale.high:g}, {direction} is better; {footer}"
    )
    say(RULE)
    for side, names in ((before, pairing.only_before), (after, pairing.only_after)):
        if names:
            alone = "have" if len(names) > 1 else "has"
            say(
                f"{counted(len(names), 'image')} of {shown(side)} {alone} no partner:"
                f" {_some(names)}"
            )
    rows: list[ComparedRow] = []
    progress = Progress(len(pairing.pairs))
    try:
        for row in compare_pairs(
            scorer, pairing.pairs, max_pixels=max_pixels or DEFAULT_MAX_PIXELS
        ):
            rows.append(row)
            progress.clear()
            write(_line(row) + "\n", sys.stdout)
            progress.update(len(rows), sum(row.error is not None for row in rows))
    except (KeyboardInterrupt, OSError) as error:
        progress.clear()
        kept = ""
        if output is not None and rows:
            partial = output.with_name(output.stem + ".partial" + output.suffix)
            write_table(partial, rows)
            kept = f"; their rows are in {shown(str(partial))}"
        say(f"interrupted after {counted(len(rows), 'pair')}{kept}")
        if isinstance(error, OSError):
            raise
        raise typer.Exit(EXIT_INTERRUPTED) from None
    progress.clear()
    failed = sum(row.error is not None for row in rows)
    _tell_doubts(rows)
    if output is not None:
        write_table(output, rows)
    if failed < len(rows):
        total = summarize(rows)
        say(
            f"{counted(total.count, 'pair')}, mean difference {total.mean:+.4f}{_spread(total)}:"
            f" {total.better} better, {total.unchanged} without clear change, {total.worse} worse"
        )
        if sheet is not None:
            write_sheet(sheet, side_by_side(rows, pairing.pairs, count), footer)
    written = [shown(str(file)) for file in (output, sheet) if file is not None]
    if written:
        say(f"written to {', '.join(written)}")
    if failed:
        say(f"{counted(failed, 'pair')} could not be compared")
        raise typer.Exit(EXIT_SOME_FAILED)


def described(comparison: Comparison) -> str:
    """One line of figures: before, after, difference, spread, verdict and fidelity."""
    gain = comparison.gain
    spread = "" if gain.standard_error is None else f" +- {gain.standard_error:.4f}"
    return (
        f"{gain.before.score:.4f} -> {gain.after.score:.4f}, {gain.difference:+.4f}{spread}: "
        f"{gain.verdict}; PSNR to the input {comparison.psnr:.2f} dB"
    )


def _line(row: ComparedRow) -> str:
    if row.comparison is None:
        return f"error: {shown(row.name)}: {shown(row.error or '')}"
    return f"{shown(row.name)}  {described(row.comparison)}"


def _spread(total: Summary) -> str:
    if total.interval is None:
        return ""
    return f", 95 % interval {total.interval[0]:+.4f} to {total.interval[1]:+.4f}"


def _tell_doubts(rows: Sequence[ComparedRow]) -> None:
    names = [row.name for row in rows if row.comparison and row.comparison.is_doubtful]
    if not names:
        return
    where = "The two images" if len(rows) == 1 else f"The two images of {_some(names)}"
    if len(names) > 1:
        where = f"In {len(names)} of {len(rows)} pairs ({_some(names)}) the two images"
    say(
        f"{where} seem to show different things; scores compare versions of one image, so check"
        " what belongs together"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(shown(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
