"""What a weights file says about itself, and what happened when it was loaded."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qmamba.errors import ConfigError

FORMAT = 1
"""Version of the layout that :func:`encode` writes."""
TUNED = "qmamba-tuned"
"""Architecture of a file that holds only what a tuning trained; :mod:`qmamba.prompts` reads it."""

_LARGEST = 1e30


@dataclass(frozen=True)
class ScoreScale:
    """How a raw output ``o`` becomes a rating: ``target_mean + target_std * o``.

    Raises:
        ConfigError: a value has the wrong type or is not finite, or the range is empty.
    """

    name: str
    """Whose ratings these are, for example ``"BIQ2021 MOS"``."""
    low: float
    """Lower end of the rating scale."""
    high: float
    """Upper end of the rating scale."""
    higher_is_better: bool
    """Direction of the scale."""
    target_mean: float
    """Mean rating of the training set."""
    target_std: float
    """Deviation of the ratings of the training set, positive."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ConfigError(f"A score scale's name must be text, got {reprlib.repr(self.name)}.")
        if not isinstance(self.higher_is_better, bool):
            raise ConfigError(
                f"A score scale's higher_is_better must be true or false, "
                f"got {self.higher_is_better!r}."
            )
        for name in ("low", "high", "target_mean", "target_std"):
            object.__setattr__(self, name, _finite(name, getattr(self, name)))
        if not self.low < self.high:
            raise ConfigError(
                f"A score scale must rise from low to high, got {self.low:g} to {self.high:g}."
            )
        if self.target_std <= 0:
            raise ConfigError(
                f"A score scale's target_std must be positive, got {self.target_std:g}."
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON values; :meth:`from_dict` is the inverse."""
        return {
            "name": self.name,
            "scale": [self.low, self.high],
            "higher_is_better": self.higher_is_better,
            "target_mean": self.target_mean,
            "target_std": self.target_std,
        }

    @classmethod
    def from_dict(cls, values: Any) -> ScoreScale:
        """The scale that :meth:`to_dict` described.

        Raises:
            ConfigError: a field is missing, unknown or not allowed.
        """
        names = ("name", "scale", "higher_is_better", "target_mean", "target_std")
        values = _exact_fields("A score scale", values, names)
        ends = values["scale"]
        if not isinstance(ends, list) or len(ends) != 2:
            raise ConfigError(
                f"A score scale's scale must be [low, high], got {reprlib.repr(ends)}."
            )
        return cls(
            name=values["name"],
            low=ends[0],
            high=ends[1],
            higher_is_better=values["higher_is_better"],
            target_mean=values["target_mean"],
            target_std=values["target_std"],
        )


@dataclass(frozen=True)
class ModelMetadata:
    """What a model is for and where its weights come from.

    Raises:
        ConfigError: a value has the wrong type.
    """

    name: str
    """Name of the model, for example ``"qmamba-nano"``."""
    architecture: str = "qmamba"
    """Which network class the weights belong to."""
    score: ScoreScale | None = None
    """The rating scale of the output; ``None`` for weights that were not trained to score."""
    policy: Mapping[str, Any] | None = None
    """How images are fed to the model; JSON values with at least a ``name``."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Data, terms of use and protocol; JSON values."""
    sha256: str | None = None
    """Digest of the file, in hexadecimal; known for models that were loaded or saved."""
    source: str | None = None
    """Where the file came from: a path, a hub id or an embedded name."""

    def __post_init__(self) -> None:
        for name in ("name", "architecture"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ConfigError(
                    f"A model's {name} must be text, got {reprlib.repr(getattr(self, name))}."
                )
        if self.score is not None and not isinstance(self.score, ScoreScale):
            raise ConfigError(
                f"A model's score must be a ScoreScale or None, got {reprlib.repr(self.score)}."
            )
        if self.policy is not None and not (
            isinstance(self.policy, Mapping) and isinstance(self.policy.get("name"), str)
        ):
            raise ConfigError(
                "A model's policy must be a mapping with a name or None, got "
                f"{reprlib.repr(self.policy)}."
            )
        if not isinstance(self.training, Mapping):
            raise ConfigError(
                f"A model's training must be a mapping, got {reprlib.repr(self.training)}."
            )


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors of a weights file."""

    source: str
    """Where the file came from."""
    layout: str
    """``"qmamba"`` for our safetensors, ``"packed"`` for packed ones, ``"tuned"`` for those of a
    tuning; ``"vmamba"``, ``"mambair"``, ``"q-mambair"`` or ``"timm"`` for others."""
    dropped: tuple[str, ...] = ()
    """Tensors of the file that the model has no place for (head of another size, surplus block,
    enlargement by another scale)."""
    fresh: tuple[str, ...] = ()
    """Tensors of the model that the file does not have and that kept their initial values."""
    converted: tuple[str, ...] = ()
    """Tensors that were renamed or reshaped, as ``"old -> new"``."""
    file_bytes: int = 0
    """Size of the file."""

    def __str__(self) -> str:
        parts = [f"{self.source} ({self.layout} layout)"]
        for verb, keys in (
            ("dropped", self.dropped),
            ("left fresh", self.fresh),
            ("converted", self.converted),
        ):
            if keys:
                parts.append(f"{verb} {shortened(keys)}")
        return "; ".join(parts)


def encode(config: Mapping[str, Any], metadata: ModelMetadata) -> str:
    """The JSON text that a weights file carries under the key ``qmamba``.

    Raises:
        ConfigError: policy or training hold something that is not JSON.
    """
    content = {
        "format": FORMAT,
        "architecture": metadata.architecture,
        "name": metadata.name,
        "config": config,
        "score": None if metadata.score is None else metadata.score.to_dict(),
        "policy": None if metadata.policy is None else dict(metadata.policy),
        "training": dict(metadata.training),
    }
    try:
        return json.dumps(content, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The metadata of a model must be plain JSON values: {error}.") from error


def decode(text: str) -> tuple[dict[str, Any], ModelMetadata]:
    """The model's config, not yet checked, and its metadata from what :func:`encode` wrote.

    Raises:
        ConfigError: the text is not JSON, or a field is missing, unknown or not allowed.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"The metadata of the model is not readable JSON: {error}.") from error
    if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
        raise ConfigError(
            f"The metadata has format {reprlib.repr(content['format'])} while this version of "
            f"qmamba reads format {FORMAT}; install a newer qmamba."
        )
    names = ("format", "architecture", "name", "config", "score", "policy", "training")
    content = _exact_fields("The metadata of a model", content, names)
    score = content["score"]
    metadata = ModelMetadata(
        name=content["name"],
        architecture=content["architecture"],
        score=None if score is None else ScoreScale.from_dict(score),
        policy=content["policy"],
        training=content["training"],
    )
    return content["config"], metadata


def shortened(keys: tuple[str, ...], limit: int = 6) -> str:
    """``"3 (a, b, c)"``, with the middle of a long list left out."""
    half = limit // 2
    shown = keys if len(keys) <= limit else (*keys[:half], "...", *keys[-half:])
    # Keys come from files of unknown origin and end up on a terminal.
    safe = [key if key.isprintable() and len(key) < 200 else reprlib.repr(key) for key in shown]
    return f"{len(keys)} ({', '.join(safe)})"


def _exact_fields(what: str, values: Any, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(values, dict) or set(values) != set(names):
        found = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise ConfigError(
            f"{what} must have exactly the fields {list(names)}, got {reprlib.repr(found)}."
        )
    return values


def _finite(name: str, value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST:
        return float(value)
    raise ConfigError(f"A score scale's {name} must be a finite number, got {reprlib.repr(value)}.")
