"""Second stage of the embedded model: learn people's ratings of BIQ2021."""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from pretext import STATISTICS
from pretrain import HEAD_FACTOR, PretextModel, fresh_backbone, schedule
from torch import Tensor, nn
from trial import parse

from qmamba.evaluation.metrics.correlation import bootstrap_interval, plcc, srcc
from qmamba.evaluation.metrics.natural_scenes import brisque_features, image_statistics
from qmamba.files import atomic_write
from qmamba.images import crop_grid, normalize, resize_to
from qmamba.training import train

CROP = 224


@dataclass(frozen=True)
class Rated:
    """Images (height, width, 3) with their mean opinion scores and image statistics."""

    images: list[NDArray[np.uint8]]
    scores: NDArray[np.float32]
    contents: NDArray[np.str_]
    statistics: Tensor

    def __getitem__(self, chosen: NDArray[np.bool_]) -> Rated:
        return Rated(
            [p for p, keep in zip(self.images, chosen, strict=True) if keep],
            self.scores[chosen],
            self.contents[chosen],
            self.statistics[torch.from_numpy(chosen)],
        )


def read_rated(folder: Path, split: str, cache: Path) -> Rated:
    with open(folder / "scores.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    images = [np.asarray(Image.open(folder / "images" / r["image"]).convert("RGB")) for r in rows]
    scores = np.array([float(r["mos"]) for r in rows], np.float32)
    contents = np.array([r["content_id"] for r in rows])
    stored = cache / f"statistics_{split}.pt"
    if not stored.exists():
        measured = []
        for pixels in images:
            image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
            measured.append(torch.cat([brisque_features(image), image_statistics(image)], 1))
        with atomic_write(stored, "wb") as file_out:
            torch.save(torch.cat(measured), file_out)
    return Rated(images, scores, contents, torch.load(stored, weights_only=True))


def hold_out(data: Rated, share: float, seed: int) -> tuple[Rated, Rated]:
    """Split by content: nothing in the second part shows a scene of the first."""
    names = np.unique(data.contents)
    np.random.default_rng(seed).shuffle(names)
    held = np.isin(data.contents, names[: round(len(names) * share)])
    return data[~held], data[held]


class RatingModel(nn.Module):
    """The backbone with its rating head, and the pretext statistics as a second task."""

    def __init__(self, pretext: PretextModel) -> None:
        super().__init__()
        self.backbone = pretext.backbone
        nn.init.zeros_(self.backbone.classifier.head.weight)
        self.statistics_head = nn.Linear(self.backbone.config.dims[-1], STATISTICS)
        with torch.no_grad():
            self.statistics_head.weight.copy_(pretext.head.weight[:STATISTICS])
            self.statistics_head.bias.copy_(pretext.head.bias[:STATISTICS])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone.forward_features(images)
        return self.backbone.classifier.head(features)[:, 0], self.statistics_head(features)


def correlation_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """(1 - Pearson correlation) / 2 within the batch."""
    a, b = outputs - outputs.mean(), targets - targets.mean()
    return 0.5 * (1 - (a * b).sum() / (a.norm() * b.norm() + 1e-6))


def predict(model: RatingModel, images: list[NDArray[np.uint8]], crops: int) -> NDArray[np.float64]:
    """Mean output over the fixed crops of each image."""
    model.eval()
    outputs = []
    with torch.inference_mode():
        for image in images:
            positions = crop_grid(image.shape[0], image.shape[1], CROP, crops)
            views = np.stack([image[t : t + CROP, x : x + CROP] for t, x in positions])
            batch = torch.from_numpy(views).permute(0, 3, 1, 2).float() / 255
            with torch.autocast("cpu", torch.bfloat16):
                rating, _ = model(normalize(batch))
            outputs.append(rating.float().mean().item())
    return np.array(outputs)


class RatingTask:
    """Random crops of the rated images, as the package's loop takes them."""

    metric = None

    def __init__(
        self,
        data: Rated,
        targets: Tensor,
        statistics: Tensor,
        held: Rated | None,
        arguments: argparse.Namespace,
    ) -> None:
        self._data, self._targets, self._statistics = data, targets, statistics
        self._held, self._arguments = held, arguments

    @property
    def examples(self) -> int:
        return len(self._data.scores)

    def example(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        side = self._arguments.side
        image = self._data.images[index]
        random = torch.rand(4, generator=generator).tolist()
        scale = 1 - random[0] * (1 - self._arguments.least_scale)
        cut = min(*image.shape[:2], round(side / scale))
        top, left = (
            int(share * (length - cut + 1))
            for share, length in zip(random[1:3], image.shape[:2], strict=True)
        )
        view = image[top : top + cut, left : left + cut]
        view = view[:, ::-1] if random[3] < 0.5 else view
        pixels = torch.from_numpy(view.copy()).permute(2, 0, 1).float() / 255
        return {
            "image": resize_to(pixels, (side, side)),
            "target": self._targets[index],
            "statistics": self._statistics[index],
        }

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        rating, measured = model(normalize(batch["image"]))
        return (
            F.smooth_l1_loss(rating.float(), batch["target"])
            + self._arguments.correlation_weight * correlation_loss(rating.float(), batch["target"])
            + self._arguments.statistics_weight
            * F.smooth_l1_loss(measured.float(), batch["statistics"])
        )

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Correlations on the contents that were set aside, if any."""
        if self._held is None:
            return {}
        assert isinstance(model, RatingModel)
        outputs = predict(model, self._held.images, crops=5)
        return {
            "srcc": float(srcc(outputs, self._held.scores)),
            "plcc": float(plcc(outputs, self._held.scores)),
        }

    def learning_rate_factor(self, name: str) -> float:
        return HEAD_FACTOR if "head." in name else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of BIQ2021")
    parser.add_argument("--pretrained", type=Path, default=None, help="file that pretrain.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="qmamba-nano")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--side", type=int, default=192, help="side of a training crop")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--statistics-weight", type=float, default=0.2)
    parser.add_argument("--correlation-weight", type=float, default=0.5)
    parser.add_argument("--drop-path", type=float, default=0.1)
    parser.add_argument(
        "--least-scale",
        type=float,
        default=1.0,
        help="shrink images at random down to this scale",
    )
    parser.add_argument(
        "--hold-out", type=float, default=0.0, help="share of the training contents to choose on"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parse(parser, "--data {data}/iqa/biq2021 --out {out} --steps 2 --batch 4")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = read_rated(arguments.data, "train", arguments.out.parent)
    held: Rated | None = None
    if arguments.hold_out:
        data, held = hold_out(data, arguments.hold_out, seed=0)
    mean, deviation = float(data.scores.mean()), float(data.scores.std())
    targets = torch.from_numpy((data.scores - mean) / deviation)
    center, spread = data.statistics.mean(0), data.statistics.std(0)
    statistics = ((data.statistics - center) / (spread + 1e-6)).clamp(-4, 4)

    pretext = PretextModel(fresh_backbone(arguments.name, drop_path=arguments.drop_path))
    if arguments.pretrained is not None:
        pretext.load_state_dict(torch.load(arguments.pretrained, weights_only=True))
    model = RatingModel(pretext)

    task = RatingTask(data, targets, statistics, held, arguments)
    options = schedule(arguments.steps, arguments.learning_rate, arguments.batch, arguments.seed)
    options = replace(options, evaluate_every=max(1, arguments.steps // 5))
    finished = train(model, task, options, arguments.out / "run", resume=True, report=print)
    if finished.interrupted:
        raise SystemExit(f"stopped after step {finished.step}; the same command goes on")
    result = {
        "target_mean": mean,
        "target_std": deviation,
        "arguments": {k: str(v) for k, v in vars(arguments).items()},
    }
    with atomic_write(arguments.out / "finetuned.pt", "wb") as file:
        torch.save(model.backbone.state_dict(), file)
    if held is None:
        test = read_rated(arguments.data, "val", arguments.out.parent)
        outputs = predict(model, test.images, crops=10)
        for name, metric in (("srcc", srcc), ("plcc", plcc)):
            low, high = bootstrap_interval(outputs, test.scores, metric, seed=0)
            result[name] = [float(metric(outputs, test.scores)), float(low), float(high)]
        print(result, flush=True)
    with atomic_write(arguments.out / "result.json", "w") as file_text:
        json.dump(result, file_text, indent=1)


if __name__ == "__main__":
    main()
