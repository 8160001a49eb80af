"""Every command that writes files, with inputs so small that it takes a moment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

import qmamba
from tests.assess.samples import pixels, save_tiny, write_image
from tests.datasets.images import textured_image
from tests.datasets.trees import build
from tests.restore.stand_ins import save_networks
from tests.training.samples import write_rated

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(qmamba.__file__).parent.parent),
    "OMP_NUM_THREADS": "1",
}
"""Of a process that runs a command of this checkout."""

_STEPS = ("--steps", "2", "--batch-size", "2")
_CROPS = ("--crop-size", "32", "--test-crops", "1")
_TINY = ("--model", "IN/tiny.safetensors")


@dataclass(frozen=True)
class Writer:
    """A command; IN/ stands for its inputs and OUT/ for where its output goes."""

    name: str
    arguments: tuple[str, ...]
    output: str
    """What it writes, below OUT/."""
    is_folder: bool = False
    """Whether that is a folder."""
    needs: tuple[str, ...] = ()
    """Modules that it needs beside the core."""
    result: str = ""
    """A file that is there when it has finished; without it the output."""

    def line(self, inputs: Path, outputs: Path) -> list[str]:
        """The arguments of a call."""
        return [
            each.replace("IN/", f"{inputs}/").replace("OUT/", f"{outputs}/")
            for each in self.arguments
        ]

    def command(self, inputs: Path, outputs: Path) -> list[str]:
        """The call as a process of its own."""
        return [sys.executable, "-m", "qmamba", *self.line(inputs, outputs)]


def _writer(line: str, output: str, *options: str, **more: object) -> Writer:
    words = tuple(line.split()) + options
    names = [word for word in words[1:] if word.startswith("-") and "OUT/" not in word]
    place = next((i for i, word in enumerate(words) if word.startswith("OUT/")), 0)
    option = words[place - 1] if words[place - 1] in names else ""
    name = f"{words[0]} {option}".strip()
    return Writer(str(more.pop("name", name)), words, output, **more)  # type: ignore[arg-type]


WRITERS = (
    _writer("score IN/images -o OUT/t.csv", "t.csv", *_TINY),
    _writer("score IN/images/0.png --map OUT/m.png", "m.png", *_TINY),
    _writer(
        "score IN/images --maps OUT/maps", "maps", *_TINY, is_folder=True, result="maps/0.png.png"
    ),
    _writer("score-video IN/clip.gif -o OUT/v.csv", "v.csv", *_TINY),
    _writer("score-video IN/clip.gif --plot OUT/v.png", "v.png", *_TINY, needs=("matplotlib",)),
    _writer("compare IN/images IN/other -o OUT/c.csv", "c.csv", *_TINY),
    _writer("compare IN/images IN/other --sheet OUT/c.jpg", "c.jpg", *_TINY),
    _writer("report IN/table.csv -o OUT/r.html --regions 0", "r.html"),
    _writer("report IN/table.csv --sheet OUT/r.jpg", "r.jpg"),
    _writer("evaluate --data IN/rated/ratings.csv -o OUT/e.json", "e.json", *_TINY),
    _writer("evaluate --data IN/rated/ratings.csv --predictions OUT/p.csv", "p.csv", *_TINY),
    _writer(
        "evaluate --data IN/rated/ratings.csv --plot OUT/p.png",
        "p.png",
        *_TINY,
        needs=("matplotlib",),
    ),
    _writer("evaluate --data IN/rated/ratings.csv --cache OUT/cache", "cache", *_TINY),
    _writer("aggregate IN/report.json IN/again.json -o OUT/a.json", "a.json"),
    _writer("evaluate-restoration --task sr --sets Set5 --data IN/sets -o OUT/e.csv", "e.csv"),
    _writer("export IN/tiny.safetensors -o OUT/m.onnx", "m.onnx", needs=("onnx", "onnxruntime")),
    _writer("quantize IN/tiny-sr.safetensors -o OUT/q.safetensors --no-measure", "q.safetensors"),
    _writer(
        "restore IN/images/0.png -o OUT/0.png --model IN/tiny-sr.safetensors",
        "0.png",
        name="restore FILE",
    ),
    _writer(
        "restore IN/images -o OUT/better --model IN/tiny-sr.safetensors",
        "better",
        name="restore FOLDER",
        is_folder=True,
        result="better/0.png",
    ),
    _writer(
        "train --data IN/rated/ratings.csv --out OUT/run --model qmamba-nano",
        "run",
        *_STEPS,
        *_CROPS,
        is_folder=True,
        result="run/model.safetensors",
    ),
    _writer(
        "tune --data IN/rated/ratings.csv --out OUT/run --base IN/tiny.safetensors",
        "run",
        *(*_STEPS, *_CROPS, "--width", "4", "--prompts", "2"),
        is_folder=True,
        result="run/tuned.safetensors",
    ),
    _writer(
        "train-restoration --task sr --scale 2 --data IN/sets --out OUT/run --crop 8",
        "run",
        *_STEPS,
        is_folder=True,
        result="run/model.safetensors",
    ),
    _writer(
        "reproduce table5 --data IN/rated-sets --quick --fresh --rows QMamba-T --out OUT/tables",
        "tables",
        is_folder=True,
        result="tables/table5.md",
    ),
    _writer("select IN/scores --top 2 -o OUT/keys.txt", "keys.txt", needs=("pyarrow",)),
    _writer(
        "select IN/scores --top 2 -o OUT/tars",
        "tars",
        name="select FOLDER",
        is_folder=True,
        needs=("pyarrow",),
        result="tars/00000.tar",
    ),
)
"""The commands that write, each into an output of its own."""

SHARDS = _writer(
    "score IN/images -o OUT/shards --shards",
    "shards",
    *_TINY,
    name="score --shards",
    is_folder=True,
    needs=("pyarrow",),
    result="shards/00000.parquet",
)
"""The command whose output several processes may share."""


def named(*names: str) -> list[Writer]:
    """Some of them."""
    found = [writer for writer in WRITERS if writer.name in names]
    assert len(found) == len(names), set(names) - {writer.name for writer in found}
    return found


def parametrized(writers: tuple[Writer, ...] | list[Writer]) -> Callable[..., object]:
    """A test for each, skipped where a package is missing."""
    cases = []
    for writer in writers:
        marks = [
            pytest.mark.skipif(not is_there(module), reason=f"needs {module}")
            for module in writer.needs
        ]
        cases.append(pytest.param(writer, marks=marks, id=writer.name.replace(" ", "_")))
    return pytest.mark.parametrize("writer", cases)


def is_there(module: str) -> bool:
    """Whether a module can be imported."""
    import importlib.util

    return importlib.util.find_spec(module) is not None


def make_inputs(folder: Path) -> Path:
    """Everything that the commands read."""
    save_tiny(folder)
    save_networks(folder)
    for name, seeds in (("images", (0, 1, 2)), ("other", (3, 4, 5))):
        (folder / name).mkdir()
        for number, seed in enumerate(seeds):
            write_image(folder / name / f"{number}.png", 40, 48, seed)
    frames = [Image.fromarray(pixels(40, 48, seed)) for seed in range(3)]
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    write_rated(folder / "rated")
    write_rated(folder / "again", 10)
    (folder / "sets" / "Set5").mkdir(parents=True)
    for seed in range(2):
        Image.fromarray(textured_image(seed, 40, 44)).save(folder / "sets" / "Set5" / f"{seed}.png")
    build("agiqa3k", folder / "rated-sets" / "agiqa3k")
    from typer.testing import CliRunner

    from qmamba.cli import app

    model = ("--model", str(folder / "tiny.safetensors"))
    for line in (
        ("score", str(folder / "images"), "-o", str(folder / "table.csv"), *model),
        ("score", str(folder / "images"), "-o", str(folder / "scores"), "--shards", *model),
        *(
            (
                *("evaluate", "--data", str(folder / rated / "ratings.csv"), *model),
                *("-o", str(folder / report), "--resamples", "10"),
            )
            for rated, report in (("rated", "report.json"), ("again", "again.json"))
        ),
    ):
        if "--shards" in line and not is_there("pyarrow"):
            continue
        result = CliRunner().invoke(app, line)
        assert result.exit_code == 0, result.output
    return folder
