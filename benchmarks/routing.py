"""What the two routings of a MambaIRv2 cost in PSNR: the seeded draw, by seed, and the arg-max.

Give the weights of a trained network; those of the authors, or of ours from

    qmamba train-restoration --model mambairv2-nano-x2 --data CLEAN --exclude TESTS --steps 5000 \\
        --schedule cosine --warmup 0.02 --learning-rate 1e-3 --clip-norm 1 --batch-size 8 \\
        --crop 32 -o run

    python -m benchmarks.routing run/model.safetensors --data TESTS -o routing.json

The JSON has, for each set, the PSNR of every seed and of the arg-max, the spread over the seeds and
the difference of the arg-max from their mean. Neither is chosen by these images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.measure import machine
from qmamba.checkpoints import load, save_model
from qmamba.datasets.clean.test_sets import find_restoration_set
from qmamba.evaluation.restoration.benchmark import evaluate_set
from qmamba.models import MambaIRv2, MambaIRv2Config, ModelMetadata, create_model
from qmamba.training.restoration.initial_network import degradation_for


def mean_psnr(weights: Path, sets: list[Any], **routing: Any) -> dict[str, float]:
    """PSNR on each set by name."""
    model = load(weights, **routing)
    if not isinstance(model, MambaIRv2):
        raise SystemExit(f"{weights} is no MambaIRv2; only that has a routing.")
    degradation = degradation_for(model)
    return {each.name: evaluate_set(model, each, degradation).mean.psnr for each in sets}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, nargs="?")
    parser.add_argument("--data", type=Path, help="folder with the test sets")
    parser.add_argument("--quick", action="store_true", help="a fresh network and a random image")
    parser.add_argument("--sets", nargs="+", default=["Set5", "Set14"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            measure(arguments, *trial(Path(folder)), ["tiny"])
        return
    if arguments.weights is None or arguments.data is None:
        parser.error("give weights and --data, or --quick")
    measure(arguments, arguments.weights, arguments.data, arguments.sets)


def trial(folder: Path) -> tuple[Path, Path]:
    """Weights of a fresh network, and a folder with a set of one random image."""
    torch.manual_seed(0)
    weights = folder / "fresh.safetensors"
    save_model(create_model("mambairv2-nano-x2"), weights, metadata=ModelMetadata("fresh"))
    (folder / "tiny").mkdir()
    noise = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8).numpy()
    Image.fromarray(noise).save(folder / "tiny" / "noise.png")
    return weights, folder


def measure(arguments: argparse.Namespace, weights: Path, data: Path, names: list[str]) -> None:
    """Measure on sets of a folder and write the report."""
    sets = [find_restoration_set(name, data) for name in names]
    if None in sets:
        raise SystemExit(f"{data} lacks one of {', '.join(names)}.")
    config = load(weights).config
    assert isinstance(config, MambaIRv2Config)
    argmax = mean_psnr(weights, sets, routing="argmax")
    # Blocks have seeds of their own, one after the other, so that draws of neighbors would overlap.
    step = sum(config.depths)
    by_seed = [
        mean_psnr(weights, sets, routing="sampled", routing_seed=step * seed)
        for seed in range(arguments.seeds)
    ]
    report: dict[str, Any] = {"machine": machine(), "weights": weights.name, "sets": {}}
    for name, value in argmax.items():
        drawn = [figures[name] for figures in by_seed]
        report["sets"][name] = {
            "sampled": drawn,
            "sampled_mean": statistics.fmean(drawn),
            "sampled_spread": max(drawn) - min(drawn),
            "argmax": value,
            "argmax_less_sampled": value - statistics.fmean(drawn),
        }
        print(name, json.dumps(report["sets"][name]))
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
