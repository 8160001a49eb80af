"""Two processes, joined by gloo, that score uneven shares of three images; run by the tests."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

REPOSITORY = Path(__file__).resolve().parents[2]


def work(rank: int, weights: str, folder: str) -> None:
    sys.path.insert(0, str(REPOSITORY))
    torch.set_num_threads(1)
    from qmamba.assess import Scorer
    from qmamba.interop.torchmetrics import QMambaScore, QualityImprovement
    from tests.interop.test_torchmetrics import batch

    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    scorer = Scorer.from_pretrained(weights)
    mean, none = QMambaScore(scorer), QMambaScore(scorer, reduction="none")
    gain = QualityImprovement(scorer)
    for images in ([batch(1, 2)], [batch(3)])[rank]:
        mean.update(images)
        none.update(images)
        gain.update(images, images)
    alone = QMambaScore(scorer, reduction="none")
    if rank == 0:
        alone.update(batch(1))
    found = {
        "mean": mean.compute(),
        "none": none.compute(),
        "share": gain.compute()["share_improved"],
        "alone": alone.compute(),
    }
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(work, args=(sys.argv[1], sys.argv[2]), nprocs=2)
