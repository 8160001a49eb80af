"""Whole models at 224 x 224: plain modules, the prepared network, and well-known backbones.

Swin-T and ResNet-50 come from timm where it is installed (`pip install --no-deps timm`); without it
their rows are left out. All weights are random.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from measure import take_turns, write

from qmamba.models import QMamba, create_model
from qmamba.models.inference import InferenceModel, Precision


def known_backbones() -> dict[str, torch.nn.Module]:
    try:
        # timm imports torchvision, whose wheels need the operators of a CUDA build of torch.
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        import timm
    except (ImportError, RuntimeError) as error:
        print(f"without timm's models ({error})")
        return {}
    names = {"Swin-T": "swin_tiny_patch4_window7_224", "ResNet-50": "resnet50"}
    return {label: timm.create_model(name).eval() for label, name in names.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--models", nargs="+", default=["qmamba-tiny", "qmamba-nano"])
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    others = known_backbones()
    rows = []
    for batch in arguments.batches:
        runs = competitors(arguments.models, others, torch.randn(batch, 3, 224, 224))
        with torch.no_grad():
            found = take_turns(runs, arguments.repeats, seconds=60)
        for name, values in found.items():
            rows.append({"model": name, "batch": batch, **values})
            print(f"{name:24} batch {batch}: {values['median_ms']:.1f} ms", flush=True)
    write(arguments.out, {"rows": rows})


def competitors(
    names: list[str], others: dict[str, torch.nn.Module], images: torch.Tensor
) -> dict[str, Callable[[], object]]:
    runs: dict[str, Callable[[], object]] = {}
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for name in names:
        model = create_model(name).eval()
        assert isinstance(model, QMamba)
        runs[f"{name} module"] = partial(model, images)
        for precision in precisions:
            runs[f"{name} {precision}"] = partial(InferenceModel(model, precision), images)
    for name, module in others.items():
        runs[name] = partial(module, images)
    return runs


if __name__ == "__main__":
    main()
