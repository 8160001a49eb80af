"""Figure 3: deep features of damaged images on a plane, colored by the kind of damage.

Every backbone is trained on KADID-10k; the features are those of the test images, the mean over
their views. t-SNE lays them out; how well the kinds of damage keep apart is also one number, the
silhouette of the features themselves, from -1 to 1.

Source: QMamba paper, figure 3 and section 4.2.3 (t-SNE, seven kinds of distortion of KADID-10k).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qmamba.assess import CropsPolicy, Scorer
from qmamba.datasets import RatedDataset
from qmamba.errors import DataError, QMambaError
from qmamba.files import atomic_write
from qmamba.images import normalize
from qmamba.models import RatingNetwork

KINDS = {
    "blur": range(1, 4),
    "color": range(4, 9),
    "compression": range(9, 11),
    "noise": range(11, 16),
    "brightness": range(16, 19),
    "spatial": range(19, 24),
    "sharpness and contrast": range(24, 26),
}
"""The seven kinds of damage of KADID-10k and the numbers of their distortions."""

SUFFIXES = (".png", ".svg", ".json", ".csv")
_COLORS = ("#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#b07aa1", "#9c755f")
_MOST_PERPLEXITY = 30.0
_PANEL_INCHES = 4.0


@dataclass(frozen=True)
class FeatureMap:
    """One panel of the figure."""

    model: str
    """The backbone."""
    positions: NDArray[np.float64]
    """(images, 2), where t-SNE puts the features."""
    kinds: tuple[str, ...]
    """Kind of damage of every image."""
    silhouette: float
    """Mean silhouette of the features by kind, in [-1, 1]."""


def damage_kind(distortion: str | None) -> str:
    """The kind of damage of a distortion of KADID-10k, by its number ``"01"`` to ``"25"``.

    Raises:
        DataError: it is no such number.
    """
    for kind, numbers in KINDS.items():
        if distortion is not None and distortion.isdecimal() and int(distortion) in numbers:
            return kind
    raise DataError(f"{distortion!r} is not the number of a distortion of KADID-10k (01 to 25)")


def deep_features(
    model: RatingNetwork, dataset: RatedDataset, positions: Sequence[int], crops: int
) -> NDArray[np.float64]:
    """What the head sees of some images, (images, channels): the mean over their crops."""
    scorer = Scorer(model, policy=CropsPolicy(count=crops))
    rows = []
    with torch.no_grad():
        for position in positions:
            views = scorer.prepare(dataset[position].path).views.to(scorer.device)
            features = model.forward_features(normalize(views))
            rows.append(features.float().mean(0).cpu().numpy())
    return np.stack(rows).astype(np.float64)


def feature_map(
    model: str, features: NDArray[np.float64], kinds: Sequence[str], *, seed: int = 0
) -> FeatureMap:
    """Lay features out on a plane.

    Args:
        model: name of the backbone.
        features: (images, channels), finite.
        kinds: kind of damage of every image, at least two different ones.
        seed: seed of t-SNE.

    Raises:
        DataError: fewer than four images, or a single kind.
        QMambaError: scikit-learn is not installed.
    """
    if len(features) < 4 or len(set(kinds)) < 2 or len(set(kinds)) >= len(features):
        raise DataError(
            f"Figure 3 needs at least four images, of two or more kinds of which one occurs"
            f" twice, got {len(features)} of {len(set(kinds))}."
        )
    try:
        from sklearn.manifold import TSNE
        from sklearn.metrics import silhouette_score
    except ImportError as error:
        raise QMambaError(
            'Figure 3 needs scikit-learn; run pip install "qmamba[figures]".'
        ) from error
    perplexity = min(_MOST_PERPLEXITY, (len(features) - 1) / 3)
    layout = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)
    return FeatureMap(
        model,
        np.asarray(layout, dtype=np.float64),
        tuple(kinds),
        float(silhouette_score(features, list(kinds))),
    )


def write_figure(
    maps: Sequence[FeatureMap], folder: Path, *, notes: Sequence[str] = ()
) -> list[Path]:
    """Write the panels as PNG and SVG, the silhouettes as JSON and the points as CSV.

    Raises:
        DataError: a file cannot be written.
        QMambaError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise QMambaError(
            'Figure 3 needs matplotlib; run pip install "qmamba[figures]".'
        ) from error
    settings: dict[Any, Any] = {"svg.hashsalt": "qmamba", "svg.fonttype": "none"}
    figure = Figure(figsize=(_PANEL_INCHES * len(maps), _PANEL_INCHES + 0.6), layout="constrained")
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for panel, found in zip(panels, maps, strict=True):
        for kind, color in zip(KINDS, _COLORS, strict=True):
            chosen = np.array([each == kind for each in found.kinds])
            panel.scatter(*found.positions[chosen].T, s=8, color=color, label=kind, linewidths=0)
        panel.set_title(f"{found.model}\nsilhouette {found.silhouette:.3f}")
        panel.set_xticks([])
        panel.set_yticks([])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(KINDS), frameon=False)
    paths = [folder / f"figure3{suffix}" for suffix in SUFFIXES]
    # Without dates and random names the same maps give the same files.
    for path, stamp in zip(paths[:2], ({"Software": None}, {"Date": None}), strict=True):
        kind = path.suffix.removeprefix(".")
        with rc_context(settings), atomic_write(path) as image:
            figure.savefig(image, format=kind, dpi=150, metadata=stamp)
    with atomic_write(paths[2], "w") as stream:
        content: Mapping[str, Any] = {
            "silhouette": {found.model: found.silhouette for found in maps},
            "images": len(maps[0].kinds),
            "notes": list(notes),
        }
        json.dump(content, stream, indent=1)
        stream.write("\n")
    with atomic_write(paths[3], "w", newline="") as stream:
        stream.write("model,kind,x,y\n")
        for found in maps:
            for kind, (x, y) in zip(found.kinds, found.positions, strict=True):
                stream.write(f"{found.model},{kind},{x:.4f},{y:.4f}\n")
    return paths
