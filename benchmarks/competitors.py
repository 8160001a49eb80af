"""The models of others, with random weights, each left out with a word where it is not installed.

pip install timm onnx onnxruntime onnxscript mambapy transformers
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qmamba.ops import scan_routes
from qmamba.ops.scan.dispatch import BACKEND_VARIABLE
from qmamba.ops.scan.routes import gather_routes, scatter_routes

BACKBONES = {
    "Swin-T": "swin_tiny_patch4_window7_224",
    "ViT-S": "vit_small_patch16_224",
    "ResNet-50": "resnet50",
}
"""Label and timm's name."""


def allow_torchvision() -> None:
    """Let torchvision be imported: its wheels need operators of a CUDA build of torch."""
    try:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        _kept.append(library)
    except RuntimeError:
        return


_kept: list[Any] = []


def backbones(*labels: str) -> dict[str, nn.Module]:
    """timm's models in evaluation mode: those of the labels, or all."""
    allow_torchvision()
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        print(f"without timm's models ({error})")
        return {}
    return {label: timm.create_model(BACKBONES[label]).eval() for label in labels or BACKBONES}


def onnx_runtime(module: nn.Module, images: Tensor, threads: int) -> Callable[[], object] | None:
    """A run of a module exported to ONNX Runtime, checked against the module."""
    try:
        import onnxruntime
    except ImportError as error:
        print(f"without ONNX Runtime ({error})")
        return None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(module, (images,), path, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: images.numpy()}
    with torch.no_grad():
        difference = torch.from_numpy(session.run(None, inputs)[0]) - module(images)
    assert difference.abs().max() < 1e-3, difference.abs().max()
    return lambda: session.run(None, inputs)


def on_backend(backend: str, run: Callable[[], object]) -> Callable[[], object]:
    """A run with the scan of one backend."""

    def forced() -> object:
        os.environ[BACKEND_VARIABLE] = backend
        try:
            with torch.no_grad():
                return run()
        finally:
            del os.environ[BACKEND_VARIABLE]

    return forced


def parallel_scan(
    x: Tensor,
    projected: Tensor,
    side: int,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
) -> Callable[[], Tensor] | None:
    """The 2-D scan around mambapy's parallel scan: routes copied, scanned and put back."""
    try:
        from mambapy.pscan import pscan
    except ImportError as error:
        print(f"without mambapy ({error})")
        return None
    routes = scan_routes(side, side)
    rank, states = dt_weight.shape[2], A.shape[2]

    @torch.no_grad()
    def run() -> Tensor:
        u = gather_routes(x, routes)
        along = torch.stack(
            [gather_routes(projected[:, :, k], routes[k : k + 1])[:, 0] for k in range(4)], 1
        )
        low, B, C = along.split([rank, states, states], dim=-1)
        dt = nn.functional.softplus(low @ dt_weight.transpose(1, 2) + dt_bias[:, None])
        decay = torch.exp(dt.unsqueeze(-1) * A[:, None]).flatten(0, 1)
        inputs = ((dt * u).unsqueeze(-1) * B.unsqueeze(3)).flatten(0, 1)
        states_ = pscan(decay, inputs).unflatten(0, u.shape[:2])
        y = (states_ @ C.unsqueeze(-1)).squeeze(-1) + D[:, None] * u
        return scatter_routes(y, routes, side * side).sum(1)

    return run


def transformers_mixer(
    channels: int, states: int, rank: int, steps: int
) -> Callable[[], Any] | None:
    """transformers' Mamba mixer on the CPU: one layer, its own projections and convolution
    included, on four sequences of the length of a route."""
    allow_torchvision()
    try:
        from transformers import MambaConfig
        from transformers.models.mamba.modeling_mamba import MambaMixer
    except (ImportError, RuntimeError) as error:
        print(f"without transformers' Mamba ({error})")
        return None
    logging.getLogger("transformers").setLevel(logging.ERROR)
    config = MambaConfig(
        hidden_size=channels, expand=1, state_size=states, time_step_rank=rank, num_hidden_layers=1
    )
    mixer = MambaMixer(config, 0).eval()
    sequences = torch.randn(4, steps, channels)
    slow = getattr(mixer, "slow_forward", None) or mixer._slow_forward

    def run() -> object:
        with torch.no_grad():
            return slow(sequences)

    return run
