"""The network that a run starts from: named and fresh, or with the weights of a file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qmamba.checkpoints import load
from qmamba.errors import ConfigError
from qmamba.models import Network, QMamba, create_model
from qmamba.training.stream import derived_seed

_OUTPUT = re.compile(
    r"(^|\.)(classifier\.(head|statistics\.fc2)|network\.(head|fc|head\.fc|classifier))\.(weight|bias)$"
)


def starting_model(
    name: str | None,
    weights: str | Path | Sequence[str | Path] | None = None,
    *,
    seed: int = 0,
    **config_overrides: Any,
) -> Network:
    """Build the network to train.

    Without weights it is drawn from the seed, a QMamba with :func:`spread_out`. Tensors that a
    weights file lacks (the output layer after ImageNet, the gates of an LQMamba) are drawn from the
    same seed. A fresh output layer starts at zero: the first outputs are the mean score.

    Args:
        name: one of :func:`qmamba.models.list_models`; None takes the model of the file.
        weights: embedded name, path or hub id, as for :func:`qmamba.checkpoints.load`; or several
            that hold different parts of one network, such as the two that a LoDa stands on.
        seed: seed of whatever is drawn. The global random state is left as it was.
        config_overrides: fields of the model's configuration, such as ``drop_path=0.1``.

    Raises:
        ConfigError: neither name nor weights are given, or one of them is not allowed.
        CheckpointError: the weights cannot be found or do not fit.
    """
    files = _listed(weights)
    if name is None and not files:
        raise ConfigError(
            "Give the name of a model (--model), weights to start from (--from), or both."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "weights"))
        if not files:
            assert name is not None
            model = create_model(name, **config_overrides)
            if isinstance(model, QMamba):
                spread_out(model)
            clear_output(model)
        else:
            model = load(files[0], name=name, **config_overrides)
            for file in files[1:]:
                _add(model, load(file, name=name, **config_overrides))
            if model.load_report is not None:
                clear_output(model, model.load_report.fresh)
    return model


def _listed(weights: str | Path | Sequence[str | Path] | None) -> Sequence[str | Path]:
    if weights is None:
        return []
    return [weights] if isinstance(weights, str | Path) else list(weights)


def _add(model: Network, other: Network) -> None:
    """Take over what another file of the same network holds and the model has fresh."""
    first, second = model.load_report, other.load_report
    assert first is not None and second is not None
    held = [key for key in first.fresh if key not in second.fresh]
    if model.config != other.config or not held:
        raise ConfigError(
            f"The file {second.source} holds nothing that {first.source} lacks; give several files"
            " only where they hold different parts of one network."
        )
    state = other.state_dict()
    model.load_state_dict({key: state[key] for key in held}, strict=False)
    model.load_report = replace(
        first,
        source=f"{first.source} + {second.source}",
        fresh=tuple(key for key in first.fresh if key in second.fresh),
        dropped=first.dropped + second.dropped,
        converted=first.converted + second.converted,
        file_bytes=first.file_bytes + second.file_bytes,
    )
    if model.metadata is not None and other.metadata is not None:
        digests = f"{model.metadata.sha256} {other.metadata.sha256}"
        digest = hashlib.sha256(digests.encode()).hexdigest()
        model.metadata = replace(model.metadata, sha256=digest, source=model.load_report.source)


def spread_out(model: nn.Module) -> None:
    """Draw the linear weights with the deviation that keeps the scale of a layer's input.

    With the 0.02 of wide pre-trained networks, narrow ones start so weak that the features of all
    images fall together within the first few hundred steps.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)


def clear_output(model: nn.Module, among: Container[str] | None = None) -> None:
    """Set the output layer to zero, so that training starts at the mean score.

    Args:
        model: the network.
        among: names of parameters; others keep their values. None is all.
    """
    for name, parameter in model.named_parameters():
        if is_output(name) and (among is None or name in among):
            nn.init.zeros_(parameter)


def is_output(name: str) -> bool:
    """Whether a parameter belongs to the output layer of a quality model."""
    return _OUTPUT.search(name) is not None
