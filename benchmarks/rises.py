"""Where a little damage raises the score: in which photographs, and which part of the network does.

For each kind of damage at its weakest level the change of the score is divided into what the
backbone says and what the branch of image statistics says, beside how light the photograph is and
how much of it is white before and after. Photographs without white are counted apart: in them a
little overexposure loses nothing, and grains of salt look like the range of light they lack.

Figures of `benchmarks.trust` say how often; these say why. Nothing is trained or chosen here.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.examples import EXAMPLES
from benchmarks.measure import write
from benchmarks.trust import DAMAGES, damaged, read_photographs
from qmamba.assess import Scorer
from qmamba.assess.views import read_views
from qmamba.datasets.distortions import Pixels
from qmamba.images import normalize
from qmamba.inference import PreparedQMamba, prepare
from qmamba.models import QMamba

WHITE = 250
"""Value from which a channel is nearly white."""
WITHOUT_WHITE = 0.001
"""Share of white pixels below which a photograph is without white."""


class Opinion(NamedTuple):
    """What the parts of a network add to an image's score, in units of the scale."""

    backbone: float
    branch: float

    @property
    def total(self) -> float:
        return self.backbone + self.branch


class Parts:
    """Backbone and branch of a scorer's network apart."""

    def __init__(self, scorer: Scorer) -> None:
        if not isinstance(scorer.model, QMamba):
            raise SystemExit("Only a QMamba has a backbone and a branch of image statistics.")
        network = prepare(scorer.model, "fp32")
        assert isinstance(network, PreparedQMamba)
        self._scorer, self._network, self._model = scorer, network, scorer.model

    @torch.no_grad()
    def __call__(self, image: Pixels) -> Opinion:
        images = normalize(read_views(image, self._scorer.policy).views)
        backbone = self._model.classifier.head(self._network.forward_features(images))
        return Opinion(self._mean(backbone), self._mean(self._model.beside(images)))

    def _mean(self, outputs: Tensor) -> float:
        return float(outputs[:, 0].float().mean()) * self._scorer.scale.target_std


def lightness(image: Pixels) -> float:
    """Mean of the gray image, 0 to 1."""
    return float((image @ np.array([0.299, 0.587, 0.114])).mean() / 255)


def white(image: Pixels) -> float:
    """Share of pixels of which a channel is nearly white."""
    return float((image.max(2) >= WHITE).mean())


def rises(
    parts: Parts, photographs: list[Pixels], opinions: list[Opinion], kind: str
) -> dict[str, Any]:
    """How the weakest level of a kind of damage changes the opinion of each photograph."""
    rows = []
    for seed, (photograph, before) in enumerate(zip(photographs, opinions, strict=True)):
        image = damaged(photograph, kind, 1, seed)
        after = parts(image)
        rows.append(
            {
                "change": after.total - before.total,
                "backbone": after.backbone - before.backbone,
                "branch": after.branch - before.branch,
                "lightness": lightness(photograph),
                "white": white(photograph),
                "white_after": white(image),
            }
        )
    without = [row["white"] < WITHOUT_WHITE for row in rows]
    up = [row["change"] > 0 for row in rows]
    return {
        "photographs": len(rows),
        "rises": sum(up),
        "without_white": sum(without),
        "without_white_rises": sum(a and b for a, b in zip(without, up, strict=True)),
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, help="folder of clean photographs")
    parser.add_argument("--count", type=int, default=50, help="photographs taken of that folder")
    parser.add_argument(
        "--kinds", nargs="+", default=("overexposure", "impulse_noise"), choices=DAMAGES
    )
    parser.add_argument("--model", help="weights; without it the default")
    parser.add_argument("-o", "--out", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="one example: does it run?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.photographs, arguments.count = EXAMPLES, 1
    if arguments.photographs is None:
        parser.error("--photographs is needed")
    scorer = Scorer.from_pretrained(arguments.model)
    photographs = read_photographs(arguments.photographs, arguments.count)
    parts = Parts(scorer)
    opinions = [parts(photograph) for photograph in photographs]
    report: dict[str, Any] = {"model": scorer.metadata.name, "sha256": scorer.metadata.sha256}
    report["kinds"] = {}
    for kind in arguments.kinds:
        found = report["kinds"][kind] = rises(parts, photographs, opinions, kind)
        without, among = found["without_white"], found["without_white_rises"]
        print(
            f"{kind}: rises in {found['rises']} of {found['photographs']} photographs: in {among} "
            f"of {without} without white, in {found['rises'] - among} of the other "
            f"{found['photographs'] - without}"
        )
        for row in sorted(found["rows"], key=lambda row: -row["change"])[: found["rises"]]:
            print("   ", ", ".join(f"{key} {value:+.3f}" for key, value in row.items()), flush=True)
    if arguments.out is not None:
        write(arguments.out, report)


if __name__ == "__main__":
    main()
