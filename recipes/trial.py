"""What `--quick` is in every recipe: a short trial on the images of examples/, without other data.

A recipe states its trial as a command line. `{data}`, `{out}` and what other recipes have to make
first are folders that go away with the process; an option that is given besides `--quick` counts
more than that of the trial.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import string
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

RECIPES = Path(__file__).resolve().parent
EXAMPLES = RECIPES.parent / "examples"
SIDE = 232
"""Of the crops that stand for photographs: a crop of a quality network has 224."""
COUNT = 32
"""Images of a data set; two of a content."""
_kept: list[tempfile.TemporaryDirectory[str]] = []


def parse(parser: argparse.ArgumentParser, trial: str) -> argparse.Namespace:
    """The arguments of the process; with `--quick` those of the trial in front of them."""
    parser.add_argument(
        "--quick", action="store_true", help="a short trial on the images of examples/"
    )
    given = sys.argv[1:]
    if "--quick" not in given or {"-h", "--help"} & set(given):
        return parser.parse_args()
    _kept.append(tempfile.TemporaryDirectory())
    folder = Path(_kept[-1].name)
    names = {name for _, name, *_ in string.Formatter().parse(trial) if name}
    places = {name: str(PLACES[name](folder)) for name in sorted(names)}
    return parser.parse_args([*(word.format(**places) for word in shlex.split(trial)), *given])


def data(folder: Path) -> Path:
    """Crops of the examples in the layout that recipes/README.md describes; ratings are made up."""
    root = folder / "data"
    for name in ("clean/photographs", "sets/Set5", "sets/Set14", "sets/Classic5"):
        (root / name).mkdir(parents=True)
    for index, crop in enumerate(_crops(4)):
        crop.save(root / "clean" / "photographs" / f"{index}.png")
        for name in ("Set5", "Set14", "Classic5") if index == 3 else ():
            small = crop.crop((0, 0, 96, 96))
            small.transpose(Image.Transpose.ROTATE_90).save(root / "sets" / name / f"{name}.png")
    for name in ("biq2021", "hecd", "live"):
        images = root / "iqa" / name / "images"
        images.mkdir(parents=True)
        with open(images.parent / "scores.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("image", "mos", "content_id", "split"))
            for index, crop in enumerate(_crops(COUNT)):
                crop.save(images / f"{index}.jpg", quality=20 + 2 * index)
                content = f"{index // 2}"
                rows.writerow((f"{index}.jpg", 0.2 + 0.02 * index, content, SPLITS[index % 4 // 2]))
    return root


SPLITS = ("train", "val")


def _crops(count: int) -> list[Image.Image]:
    crops = []
    for index in range(count):
        with Image.open(EXAMPLES / ("cat.jpg", "coffee.jpg")[index % 2]) as file:
            image = file.convert("RGB")
        left = (image.width - SIDE) * index // count
        top = (image.height - SIDE) * index // count
        crops.append(image.crop((left, top, left + SIDE, top + SIDE)))
    return crops


def made_by(recipe: str, result: str = "") -> Callable[[Path], Path]:
    """What the trial of another recipe leaves."""

    def make(folder: Path) -> Path:
        out = folder / recipe
        command = [sys.executable, str(RECIPES / f"{recipe}.py"), "--quick", "--out", str(out)]
        subprocess.run(command, check=True)
        return out / result

    return make


def networks(folder: Path) -> Path:
    """Full-precision restoration networks of random weights, as if they had been trained."""
    from qmamba.checkpoints import save_model
    from qmamba.models import ModelMetadata, create_model

    path = folder / "full" / "x2" / "model.safetensors"
    path.parent.mkdir(parents=True)
    save_model(create_model("mambair-nano-x2"), path, metadata=ModelMetadata("trial"))
    return folder / "full"


PLACES: dict[str, Callable[[Path], Path]] = {
    "data": data,
    "out": lambda folder: folder / "out",
    "examples": lambda folder: EXAMPLES,
    "chunks": made_by("pretext"),
    "pretrained": made_by("pretrain", "pretrained.pt"),
    "finetuned": made_by("finetune"),
    "networks": networks,
}
