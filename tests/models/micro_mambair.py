"""Small restoration networks that the tests of MambaIR share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qmamba.models import MambaIR, MambaIRConfig

RECORDINGS = ("light_x2", "classic_x3", "classic_x4", "dn", "car")
"""Names of the recorded parity files."""

MICRO = MambaIRConfig(dim=16, depths=(2, 1), state_size=3, expansion=1.25, attention_reduction=4)
VARIANTS = {
    "light-x2": MICRO,
    "light-x3-gray": MICRO.replace(scale=3, channels=1),
    "light-march": MICRO.replace(cab="convolution", cab_reduction=8),
    "light-february": MICRO.replace(cab="depthwise", cab_reduction=1),
    "classic-x3": MICRO.replace(
        task="sr-classic", scale=3, depths=(1,), cab="convolution", cab_reduction=4
    ),
    "classic-x4": MICRO.replace(task="sr-classic", scale=4, depths=(1,)),
    "real-x4": MICRO.replace(task="sr-real", scale=4, depths=(1,)),
    "denoise": MICRO.replace(task="denoise", scale=1, group_convolution="3conv"),
    "jpeg-gray": MICRO.replace(task="jpeg", scale=1, channels=1),
}
"""Every task, every kind of block, gray and color."""


def build(config: MambaIRConfig, seed: int = 0) -> MambaIR:
    """A network in evaluation mode in which every parameter matters."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = MambaIR(config)
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def recording(shared: Path, name: str) -> tuple[MambaIRConfig, dict[str, Any]]:
    """The config and content of one recorded parity file."""
    content = torch.load(shared / "parity" / f"mambair_tiny_{name}.pt", weights_only=False)
    original = content["config"]
    upsampler = original["upsampler"]
    light = upsampler == "pixelshuffledirect"
    restored = "denoise" if original["in_chans"] == 3 else "jpeg"
    tasks = {"pixelshuffledirect": "sr-light", "pixelshuffle": "sr-classic", "": restored}
    config = MambaIRConfig(
        task=tasks[upsampler],
        scale=original["upscale"],
        channels=original["in_chans"],
        dim=original["embed_dim"],
        depths=original["depths"],
        state_size=original["d_state"],
        expansion=original["mlp_ratio"],
        cab="separable" if light else "convolution",
        cab_reduction=2 if light else 3,
        group_convolution=original.get("resi_connection", "1conv"),
        image_range=original.get("img_range", 1.0),
        drop_path=original["drop_path_rate"],
    )
    return config, content


def images(*shape: int, seed: int = 0) -> Tensor:
    """Random images in [0, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
