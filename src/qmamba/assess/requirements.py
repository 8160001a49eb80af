"""What a scorer asks of its model and of its options."""

from __future__ import annotations

from qmamba.assess.policies import Policy
from qmamba.errors import CheckpointError, ConfigError
from qmamba.models import ModelMetadata, Network, ScoreScale, architecture_of


def require_rating(
    model: Network, metadata: ModelMetadata | None
) -> tuple[ModelMetadata, ScoreScale]:
    """The description of a model that was trained to score, and the scale of its scores.

    Raises:
        CheckpointError: it is no quality model, has no score scale, or several outputs.
    """
    if not architecture_of(model).rates:
        raise CheckpointError(
            f"{named(metadata)} is a {type(model).__name__} network, which gives no score; "
            "give weights of a quality model."
        )
    if metadata is None or metadata.score is None:
        raise CheckpointError(
            f"{named(metadata)} has no score scale, so its output is no quality score; train "
            "it on rated images or give weights that were."
        )
    if model.config.outputs != 1:
        raise CheckpointError(
            f"{named(metadata)} has {model.config.outputs} outputs and a quality model "
            "has one; give weights that were trained to score."
        )
    return metadata, metadata.score


def require_views(policy: Policy, side: int | None, name: str) -> None:
    """Refuse a policy whose views a model of fixed size cannot take.

    Raises:
        ConfigError: that is so, or it is no policy.
    """
    if not isinstance(policy, Policy):
        raise ConfigError(
            f"A policy is a text such as crops:count=5 or a CropsPolicy, NativePolicy or"
            f" ResizePolicy, got {policy!r:.80}."
        )
    if side is not None and getattr(policy, "size", None) != side:
        raise ConfigError(
            f"{name} is bound to views of {side} x {side} pixels, which the policy {policy} does "
            f"not give; use crops:size={side} or resize:size={side}."
        )


def named(metadata: ModelMetadata | None) -> str:
    """The beginning of a sentence about a model."""
    return "The model" if metadata is None else f"The model {metadata.name!r}"


def positive(name: str, value: int) -> int:
    """The value of an option that counts something.

    Raises:
        ConfigError: it is no whole number of 1 or more.
    """
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a whole number of 1 or more, got {value!r}.")
    return value
