"""Time per image of no-reference quality models, ours and pyiqa's, at 224 x 224 and 1080 x 800.

pyiqa's networks get random weights, because only the time matters here; those of its models that
cannot be built without a download are left out. QMamba sees the whole image, like most of them.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.competitors import allow_torchvision
from benchmarks.measure import take_turns, write
from qmamba.inference import Precision, prepare
from qmamba.models import create_model

PYIQA: dict[str, tuple[str, str, dict[str, Any]]] = {
    "MUSIQ": ("musiq", "MUSIQ", {"pretrained": False}),
    "NIMA": ("nima", "NIMA", {"pretrained": False}),
    "HyperIQA": ("hypernet", "HyperNet", {"pretrained": False}),
    "TOPIQ-NR": ("topiq", "CFANet", {"pretrained": False, "use_ref": False}),
    "WaDIQaM-NR": ("wadiqam", "WaDIQaM", {"pretrained": False, "metric_type": "NR"}),
    "CNNIQA": ("cnniqa", "CNNIQA", {"pretrained": None}),
}
"""Label: module, class and arguments."""

SIZES = ((224, 224), (800, 1080))


@contextmanager
def without_downloads() -> Iterator[None]:
    """Backbones inside of other models get random weights too."""
    timm: Any = importlib.import_module("timm")
    create = timm.create_model
    timm.create_model = lambda *args, **options: create(*args, **{**options, "pretrained": False})
    try:
        yield
    finally:
        timm.create_model = create


def others() -> dict[str, torch.nn.Module]:
    found = {}
    allow_torchvision()
    try:
        with without_downloads():
            importlib.import_module("pyiqa")
            for label, (module, name, options) in PYIQA.items():
                try:
                    kind = getattr(importlib.import_module(f"pyiqa.archs.{module}_arch"), name)
                    found[label] = kind(**options).eval()
                except Exception as error:  # any of them may want to download or to compile
                    print(f"without {label} ({type(error).__name__}: {error})")
    except ImportError as error:
        print(f"without pyiqa ({error})")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument(
        "--quick", action="store_true", help="one round of the small size: does it run?"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models = others()
    rows: list[dict[str, Any]] = []
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    for height, width in SIZES[:1] if arguments.quick else SIZES:
        images = torch.rand(1, 3, height, width)
        runs: dict[str, Callable[[], object]] = {
            f"{name} {precision}": partial(prepare(create_model(name), precision), images)
            for name in ("qmamba-nano", "qmamba-tiny")
            for precision in precisions
        }
        with torch.no_grad():
            for label, model in models.items():
                run = partial(model, images)
                try:
                    run()
                except Exception as error:  # some take one size only
                    print(f"without {label} at {width} x {height} ({error})")
                    continue
                runs[label] = run
            repeats = 1 if arguments.quick else arguments.repeats
            found = take_turns(runs, repeats, 25, fewest=min(3, repeats))
        for name, times in found.items():
            rows.append({"model": name, "height": height, "width": width, **times})
            print(f"{name:20} {width} x {height}: {times['median_ms']:.1f} ms", flush=True)
    write(arguments.out, {"rows": rows})


if __name__ == "__main__":
    main()
