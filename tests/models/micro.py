"""Small networks and recorded cases that the tests of the models share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qmamba.checkpoints import load
from qmamba.models import QMamba, QMambaConfig, model_config

MICRO = QMambaConfig(dims=(16, 32, 64, 128), depths=(1, 1, 2, 1))
LOCAL_MICRO = MICRO.replace(windows=(8, 4, 2, 2), route_gate=True)


def build(config: QMambaConfig, seed: int = 0) -> QMamba:
    """A network in evaluation mode in which every parameter matters."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = QMamba(config)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def load_qmamba(path: Path, **options: Any) -> QMamba:
    """What :func:`qmamba.checkpoints.load` makes of a file that holds a QMamba."""
    model = load(path, **options)
    assert isinstance(model, QMamba)
    return model


def qmamba_config(name: str, **overrides: Any) -> QMambaConfig:
    """The configuration of a named QMamba."""
    config = model_config(name, **overrides)
    assert isinstance(config, QMambaConfig)
    return config


def recording(shared: Path, name: str) -> tuple[QMambaConfig, dict[str, Any]]:
    """The config and content of one recorded parity file."""
    content = torch.load(shared / "parity" / f"{name}.pt", weights_only=False)
    config = (LOCAL_MICRO if "windows" in content else MICRO).replace(num_outputs=3)
    assert tuple(content.get("windows", (1, 1, 1, 1))) == config.windows
    return config, content


def images(*shape: int, seed: int = 0) -> Tensor:
    """Normally distributed images."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
