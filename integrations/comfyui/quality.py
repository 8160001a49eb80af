"""What the nodes do, without ComfyUI: images are (batch, height, width, channels) in [0, 1]."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmamba import Score, Scorer
from qmamba.assess import DEFAULT_WEIGHTS, colorize
from qmamba.checkpoints import describe, list_weights
from qmamba.evaluation.comparison.gain import gain
from qmamba.evaluation.comparison.images import at_one_size

DEFAULT = DEFAULT_WEIGHTS


@lru_cache(maxsize=1)
def weights() -> list[str]:
    """The embedded quality weights, the default one first."""
    names = [name for name in list_weights() if describe(name).score is not None]
    return sorted(names, key=lambda name: (name != DEFAULT_WEIGHTS, name))


def quality_score(image: Tensor, model: str, with_map: bool) -> tuple[float, str, Tensor]:
    """Mean score of a batch, one line for each image, and the map of each image as colors.

    Without the map the last result is a batch of single black pixels.
    """
    scorer = _scorer(model)
    scores, maps = [], []
    for pixels in _each(image):
        if with_map:
            quality = scorer.map(pixels)
            maps.append(torch.from_numpy(colorize(quality).astype(np.float32) / 255))
            scores.append(quality.score)
        else:
            maps.append(torch.zeros(1, 1, 3))
            scores.append(scorer(pixels))
    mean = sum(score.score for score in scores) / len(scores)
    return mean, _lines(scores), torch.stack(maps)


def pick_best(images: Tensor, count: int, model: str) -> tuple[Tensor, float, str]:
    """The best images of a batch, the best one first; its score; one line for every image."""
    scores = [_scorer(model)(pixels) for pixels in _each(images)]
    sign = -1 if scores[0].higher_is_better else 1
    order = sorted(range(len(scores)), key=lambda index: sign * scores[index].raw)
    return images[order[:count]], scores[order[0]].score, _lines(scores)


def keep_if_better(
    before: Tensor, after: Tensor, margin: float, model: str
) -> tuple[Tensor, float, str]:
    """For every image the version after, where it gained more than the margin, else the one before.

    The two versions are compared at the larger of their sizes, and the result has that size. A
    single image before stands against every one after.

    Returns:
        The kept images, the mean gain in points (positive is better), one line for each image.

    Raises:
        ValueError: the batches differ in length.
    """
    if len(before) == 1:
        before = before.expand(len(after), -1, -1, -1)
    if len(before) != len(after):
        raise ValueError(
            f"There must be as many images before as after, got {len(before)} and {len(after)}."
        )
    scorer = _scorer(model)
    kept, points, lines = [], [], []
    pairs = zip(before, after, _each(before), _each(after), strict=True)
    for number, (old, new, old_pixels, new_pixels) in enumerate(pairs, start=1):
        first, second, note = at_one_size(old_pixels, new_pixels)
        found = gain(scorer(first), scorer(second))
        better = found.improvement > margin
        points.append(found.improvement)
        chosen, pixels = (new, second) if better else (old, first)
        # What has the common size already keeps its full precision.
        same = chosen.shape[:2] == pixels.shape[:2]
        kept.append(chosen[..., :3].cpu() if same else _tensor(pixels))
        verdict = "after" if better else "before"
        remark = "" if note is None else f"; {note}"
        lines.append(
            f"{number}: {verdict} kept, gain {found.improvement:+.4g} ({found.verdict}{remark})"
        )
    return torch.stack(kept), sum(points) / len(points), "\n".join(lines)


def _scorer(model: str) -> Scorer:
    return _loaded(model.strip() or DEFAULT_WEIGHTS, str(_device()))


@lru_cache(maxsize=2)
def _loaded(model: str, device: str) -> Scorer:
    return Scorer.from_pretrained(_path_or_name(model), device=device)


def _path_or_name(model: str) -> str | Path:
    path = Path(model).expanduser()
    return path if path.is_file() else model


def _device() -> torch.device:
    """Where ComfyUI computes."""
    try:
        from comfy.model_management import get_torch_device
    except ImportError:
        return torch.device("cpu")
    device: torch.device = get_torch_device()
    return device


def _each(images: Tensor) -> Iterator[NDArray[np.uint8]]:
    """The images as 8-bit sRGB; transparency is left out."""
    for image in images:
        yield (image[..., :3].detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()


def _tensor(pixels: NDArray[Any]) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def _lines(scores: Iterable[Score]) -> str:
    return "\n".join(
        f"{number}: {score.score:.4g} of {score.scale[0]:g} to {score.scale[1]:g}"
        for number, score in enumerate(scores, start=1)
    )
