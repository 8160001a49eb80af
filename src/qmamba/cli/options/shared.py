"""Options that several commands have, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

DeviceOption: TypeAlias = Annotated[
    str, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:0, mps, ...")
]
"""Where a network runs without being trained."""

PrecisionOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="auto|fp32|bf16|int8|codes",
        help="Numbers that the network computes with; bf16 and int8 are faster on recent "
        "processors and change results slightly. auto is fp32, and of a network with quantized "
        "activations its codes, as it was trained.",
    ),
]
"""The one switch of every command that runs a network without training it."""

TunedOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--tuned",
        metavar="FILE",
        help="A file that `qmamba tune` wrote, for the weights that it was tuned on.",
        show_default=False,
    ),
]
"""A prompt on top of the weights of a quality model."""

MaxPixelsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        min=1,
        metavar="N",
        help="Largest image that is decoded, width x height (100 million).",
        show_default=False,
    ),
]
"""The limit that keeps a hostile file from filling the memory."""

MemoryOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--memory",
        min=0.001,
        metavar="GIB",
        help="Memory for images that are being decoded: large ones wait for each other (4).",
        show_default=False,
    ),
]
"""The budget of all decoding threads together."""


RatingScaleOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--scale",
        metavar="LOW,HIGH",
        help="Ends of the scores of a CSV file, NAME=LOW,HIGH for one of several (its lowest"
        " and highest score).",
        show_default=False,
    ),
]
"""What the file of a rated data set does not say: its scale."""

LowerIsBetterOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--lower-is-better",
        metavar="NAME",
        help="A CSV file whose low scores are good.",
        show_default=False,
    ),
]
"""What the file of a rated data set does not say: its direction."""

ForceOption: TypeAlias = Annotated[
    bool, typer.Option("--force", "-f", help="Replace output files that are there.")
]
"""Without it no command replaces a file."""

RunFolderOption: TypeAlias = Annotated[
    Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the run leaves its files.")
]
"""Folder of a training run."""

RunNameOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--name", metavar="NAME", help="Name of the weights (that of --out).", show_default=False
    ),
]
"""What a training run writes into its weights."""

ResumeOption: TypeAlias = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out; give the same options.")
]
"""Whether a training run goes on with its checkpoint."""

TrainingDeviceOption: TypeAlias = Annotated[
    str, typer.Option("--device", help="Where to train, such as cpu, cuda or cuda:1.")
]
"""Where a network is trained."""

DATA_HELP = (
    "A data set as NAME=FOLDER (`qmamba datasets list` has the names), or a CSV file with the"
    " columns path and mos, as FILE or NAME=FILE."
)
SPLIT_HELP = (
    "official, content, image, or a JSON file of splits; NAME=... for one data set of several."
    " auto: official where the data set has such parts, otherwise by content."
)


def limit_memory(gibibytes: float | None) -> None:
    """Carry out ``--memory``."""
    from qmamba.images import limit_decoding_memory

    if gibibytes is not None:
        limit_decoding_memory(round(gibibytes * (1 << 30)))
