"""Our metrics in pyiqa, and pyiqa's beside ours.

Needs pyiqa, which is no dependency of this package: its license (PolyForm Noncommercial) forbids
commercial use. ``python -m qmamba.interop.pyiqa`` is pyiqa's own command with ours registered.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qmamba.assess import Scorer
from qmamba.checkpoints import describe, list_weights
from qmamba.errors import CheckpointError, ConfigError, QMambaError
from qmamba.extras import declare_torchvision_operators, extra
from qmamba.interop.scoring import opinion_scores

with extra("pyiqa", "A metric of pyiqa", install="pyiqa"):
    declare_torchvision_operators()
    from pyiqa.api_helpers import create_metric
    from pyiqa.default_model_configs import DEFAULT_CONFIGS
    from pyiqa.utils.registry import ARCH_REGISTRY

ARCHITECTURE = "QMambaScore"
"""Name of our network in pyiqa's registry."""


class QMambaScore(nn.Module):
    """A scorer as pyiqa wants its networks.

    Args:
        weights: an embedded name, a path or a hub id.
        policy: which views of an image are scored; ``None`` takes the model's own.

    Raises:
        CheckpointError: the weights cannot be found or were not trained to score.
    """

    def __init__(self, weights: str, policy: str | None = None) -> None:
        super().__init__()
        self._scorer = Scorer.from_pretrained(weights, policy=policy)
        self.model = self._scorer.model

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QMambaScore:
        super()._apply(fn, recurse)
        # The prepared network has the device of the moment it was made.
        if next(self.model.parameters()).device != self._scorer.device:
            scorer = self._scorer
            self._scorer = Scorer(self.model, scorer.metadata, policy=scorer.policy)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Score a batch.

        Args:
            x: ``(batch, 1 or 3, height, width)`` in [0, 1].

        Returns:
            ``(batch, 1)`` opinion scores in points of the model's scale, not clamped to it.
        """
        return opinion_scores(self._scorer, x)[:, None]


def register(weights: Mapping[str, str | Path] | None = None) -> list[str]:
    """Add metrics to pyiqa; a second call changes nothing.

    Args:
        weights: names of metrics with the path or hub id of each; ``None`` registers the embedded
            quality weights under their own names.

    Returns:
        The names that ``pyiqa.create_metric`` takes now.

    Raises:
        CheckpointError: weights cannot be found or were not trained to score.
        ConfigError: pyiqa has another metric of that name.

    Example:
        >>> register()  # doctest: +SKIP
        >>> import pyiqa  # doctest: +SKIP
        >>> pyiqa.create_metric("qmamba-nano-biq2021")("examples/coffee.jpg")  # doctest: +SKIP
    """
    if weights is None:
        weights = {name: name for name in list_weights() if describe(name).score is not None}
    ARCH_REGISTRY.register(QMambaScore, name=ARCHITECTURE, override=True)
    for name, source in weights.items():
        present = DEFAULT_CONFIGS.get(name)
        if present is not None and present["metric_opts"]["type"] != ARCHITECTURE:
            raise ConfigError(f"pyiqa has a metric {name!r} of its own; choose another name.")
        scale = describe(source).score
        if scale is None:
            raise CheckpointError(f"The weights {str(source)!r} were not trained to score.")
        DEFAULT_CONFIGS[name] = {
            "metric_opts": {"type": ARCHITECTURE, "weights": str(source)},
            "metric_mode": "NR",
            "lower_better": not scale.higher_is_better,
            "score_range": f"{scale.low:g}, {scale.high:g}",
        }
    return list(weights)


@dataclass(frozen=True)
class RivalMetric:
    """A no-reference metric of pyiqa."""

    name: str
    score: Callable[[Path], float]
    """From an image file, which pyiqa itself reads, to the metric's number."""
    higher_is_better: bool
    parameters: int


def rival_metric(name: str, device: torch.device | str = "cpu") -> RivalMetric:
    """A metric of pyiqa, by its name there; its weights are downloaded on first use.

    Raises:
        ConfigError: pyiqa has no such metric, or it needs a reference image.
        QMambaError: pyiqa cannot make it, for example because its weights cannot be downloaded.
    """
    config = DEFAULT_CONFIGS.get(name)
    if config is None:
        raise ConfigError(f"pyiqa has no metric {name!r}; `pyiqa -ls` lists what there is.")
    if config["metric_mode"] != "NR":
        raise ConfigError(f"The metric {name!r} of pyiqa needs a reference image; take another.")
    try:
        metric = create_metric(name, device=torch.device(device))
    except Exception as error:  # Whatever their code and their downloads raise.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise QMambaError(
            f"pyiqa cannot make the metric {name!r} ({reason}); check the connection, or whether "
            "it needs more packages."
        ) from error

    def score(path: Path) -> float:
        with torch.no_grad():
            return float(_first(metric(str(path))))

    parameters = sum(parameter.numel() for parameter in metric.parameters())
    return RivalMetric(name, score, not metric.lower_better, parameters)


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def main() -> None:
    """pyiqa's command, with our metrics registered."""
    from pyiqa.pyiqa_cmd import main as command

    register()
    sys.argv[0] = "python -m qmamba.interop.pyiqa"
    command()


if __name__ == "__main__":
    main()
