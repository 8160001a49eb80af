"""`qmamba scores` and `qmamba select`: what to do with a folder of scores."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from qmamba.cli.common import EXIT_SOME_FAILED, counted, handled, require_new, say, shown, write
from qmamba.cli.display.command_list import CommandList
from qmamba.cli.options.shared import ForceOption
from qmamba.errors import ConfigError

EXIT_INCOMPLETE = 3

scores = typer.Typer(
    name="scores",
    cls=CommandList,
    help="Folders of scores that `qmamba score --shards` writes.",
    no_args_is_help=True,
)

FolderArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="A folder of scores.", show_default=False)
]


@scores.command()
@handled
def status(
    folder: FolderArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """How far a folder of scores is: shards, rows, errors by kind, speed and time left.

    Exit code: 0 complete, 3 not complete yet, 2 wrong usage.
    """
    import sys

    from qmamba.cli.scale.score_shards import status_lines
    from qmamba.scale import read_status

    found = read_status(folder)
    if as_json:
        write(json.dumps({**asdict(found), "complete": found.complete}) + "\n", sys.stdout)
    else:
        write("".join(line + "\n" for line in status_lines(found)), sys.stdout)
    if not found.complete:
        raise typer.Exit(EXIT_INCOMPLETE)


def select(
    folder: FolderArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A list of keys (.txt, .jsonl, .parquet), an array of DataComp identifiers (.npy),"
            " or a folder for new tar files.",
            show_default=False,
        ),
    ],
    least: Annotated[
        float | None,
        typer.Option("--min", metavar="X", help="Lowest score to keep.", show_default=False),
    ] = None,
    most: Annotated[
        float | None,
        typer.Option("--max", metavar="X", help="Highest score to keep.", show_default=False),
    ] = None,
    top: Annotated[
        str | None,
        typer.Option(
            metavar="N|N%",
            help="Keep this many of the images, or this share of those with a score; the best.",
            show_default=False,
        ),
    ] = None,
    per_key: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="--top holds within each group of keys: a regular expression such as '^[^/]+',"
            " whose match names the group.",
            show_default=False,
        ),
    ] = None,
    shard_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Samples in a new tar file.")
    ] = 10_000,
    partial: Annotated[
        bool, typer.Option("--partial", help="Select from the shards that are done so far.")
    ] = False,
    force: ForceOption = False,
) -> None:
    """Keep the good images: lists of keys, or new tar files with the samples unchanged.

    Exit code: 0 done, 1 no image is kept, 3 the folder is not complete yet (see --partial), 2 wrong
    usage.
    """
    from qmamba.scale import read_status
    from qmamba.scale.choice.select import Wanted, parse_top
    from qmamba.scale.choice.select import select as chosen
    from qmamba.scale.choice.subsets import LIST_SUFFIXES, write_list, write_tars

    if output.suffix.lower() in LIST_SUFFIXES and not force:
        require_new(output)
    share, count = (None, None) if top is None else parse_top(top)
    wanted = Wanted(least=least, most=most, share=share, count=count, per_key=per_key)
    found = read_status(folder)
    if found.damaged:
        raise ConfigError(f"{found.damaged[0]!r} is damaged; delete it and score again.")
    if not found.complete and not partial:
        say(
            f"error: only {found.done} of {found.shards} shards are done; wait, or take those with"
            " --partial"
        )
        raise typer.Exit(EXIT_INCOMPLETE)
    selections = chosen(folder, wanted)
    if output.suffix.lower() in LIST_SUFFIXES:
        kept = write_list(selections, output)
    elif output.suffix:
        raise ConfigError(
            f"The output {str(output)!r} must end in {', '.join(LIST_SUFFIXES)}, or have no ending"
            " and be a folder for tar files."
        )
    else:
        kept = write_tars(selections, folder, output, samples=shard_size)
    scored = found.rows - sum(found.errors.values())
    if not kept:
        # Of a list there is a file, and it is empty; of tar files there is none.
        say(f"error: none of {counted(scored, 'image')} with a score is kept")
        raise typer.Exit(EXIT_SOME_FAILED)
    say(f"{kept} of {counted(scored, 'image')} with a score, written to {shown(str(output))}")
