"""Small networks that the tests of quantization share."""

from __future__ import annotations

import torch
from torch import Tensor

from qmamba.models import MambaIR, MambaIRConfig, QMamba, QMambaConfig

RESTORATION = MambaIRConfig(dim=16, depths=(1, 1), state_size=2, attention_reduction=4)
NETWORKS: dict[str, MambaIRConfig | QMambaConfig] = {
    "light": RESTORATION,
    "denoise": RESTORATION.replace(task="denoise", scale=1, group_convolution="3conv"),
    "classic": RESTORATION.replace(
        task="sr-classic", scale=3, depths=(1,), cab="convolution", cab_reduction=4
    ),
    "quality": QMambaConfig(dims=(16, 32), depths=(1, 1), windows=(1, 1)),
    "local quality": QMambaConfig(
        dims=(16, 32), depths=(1, 1), windows=(4, 2), route_gate=True, state_size=2
    ),
}


def build(name: str, seed: int = 0) -> MambaIR | QMamba:
    """A network in evaluation mode in which every parameter matters."""
    config = NETWORKS[name]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = MambaIR(config) if isinstance(config, MambaIRConfig) else QMamba(config)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def images(count: int, side: int = 12, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side + 2, generator=torch.Generator().manual_seed(seed))
