"""Small networks for export, and one node of the scan as a model of its own."""

from __future__ import annotations

from typing import Any, TypeVar

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from qmamba.interop.onnx.functions import (
    DOMAIN,
    MERGED,
    MERGED_GIVEN_DELTA,
    ROUTES_GIVEN_DELTA,
    VERSION,
    scan_functions,
)
from qmamba.models import MambaIR, MambaIRConfig, ModelMetadata, QMamba, QMambaConfig, ScoreScale
from qmamba.nn import SS2D
from tests.models import micro, micro_mambair

Network = TypeVar("Network", bound=nn.Module)

GIVEN_DELTA = (MERGED_GIVEN_DELTA, ROUTES_GIVEN_DELTA)

SCALE = ScoreScale("test MOS", 1.0, 5.0, True, target_mean=3.0, target_std=0.7)
SCORER = QMambaConfig(dims=(8, 16), depths=(1, 1), windows=(1, 1))
LOCAL_SCORER = SCORER.replace(windows=(3, 2), route_gate=True)


def scorer(config: QMambaConfig = SCORER) -> QMamba:
    model = _with_loud_scans(micro.build(config))
    model.metadata = ModelMetadata(
        "sample",
        "qmamba",
        score=SCALE,
        policy={"name": "crops", "crop_size": 32, "crop_count": 4},
        training={"data": "noise", "terms": "no terms"},
        sha256="0" * 64,
        source="/somewhere/secret.safetensors",
    )
    return model


def restorer(config: MambaIRConfig) -> MambaIR:
    return _with_loud_scans(micro_mambair.build(config.replace(depths=(1,))))


def _with_loud_scans(model: Network) -> Network:
    """A network whose result tells a wrong scan: fresh weights hardly let it through."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, SS2D):
                layer.x_proj_weight.mul_(8)
                layer.dt_projs_bias.sub_(2)
    return model


def scan_model(name: str, *, states: int, window: int, opset: int) -> onnx.ModelProto:
    """A model of one scan with all operands as inputs."""
    shapes: dict[str, list[int | str]] = {
        "x": ["batch", "height", "width", "channels"],
        "projected": ["batch", "height", "width", "parameters"],
        "dt_weight": [4, "channels", "rank"],
        "dt_bias": [4, "channels"],
        "A": [4, "channels", states],
        "D": [4, "channels"],
    }
    if name in GIVEN_DELTA:
        del shapes["dt_weight"]
        delta: list[int | str] = ["batch", "height", "width", "deltas"]
        shapes = {"x": shapes.pop("x"), "delta": delta} | shapes
    inputs = [
        helper.make_tensor_value_info(key, TensorProto.FLOAT, shape)
        for key, shape in shapes.items()
    ]
    result: list[int | str] = [*shapes["x"]]
    if name not in (MERGED, MERGED_GIVEN_DELTA):
        result.insert(1, 4)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, result)
    node = helper.make_node(name, list(shapes), ["y"], domain=DOMAIN, window=window)
    model = helper.make_model(
        helper.make_graph([node], "scan", inputs, [output]),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=10 if opset > 19 else 9,
    )
    model.functions.extend(scan_functions(opset, states=states, windows=window > 1, names={name}))
    return model


def scan_operands(
    batch: int, height: int, width: int, channels: int, rank: int, states: int, seed: int = 0
) -> dict[str, Tensor]:
    """Operands of one scan, by the names of the model's inputs."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "x": normal(batch, height, width, channels),
        "projected": normal(batch, height, width, 4 * (rank + 2 * states)),
        "dt_weight": normal(4, channels, rank),
        "dt_bias": normal(4, channels) - 2,
        "A": -torch.rand(4, channels, states, generator=generator) - 0.05,
        "D": normal(4, channels),
    }


def with_given_delta(operands: dict[str, Tensor], states: int) -> dict[str, Tensor]:
    """The same scan by operands whose time steps are computed."""
    projected = operands["projected"].unflatten(-1, (4, -1))
    low, rest = projected[..., : -2 * states], projected[..., -2 * states :]
    delta = torch.einsum("bhwkr,kdr->bhwkd", low, operands["dt_weight"])
    given = operands | {"delta": delta.flatten(3), "projected": rest.flatten(3).contiguous()}
    del given["dt_weight"]
    return given


def run_session(session: Any, **inputs: Tensor) -> Tensor:
    (result,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return torch.from_numpy(result)


def operator_counts(model: onnx.ModelProto) -> dict[str, int]:
    """How often each operator stands in the graph itself."""
    counts: dict[str, int] = {}
    for node in model.graph.node:
        name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        counts[name] = counts.get(name, 0) + 1
    return counts


require_torch = pytest.mark.skipif(
    not hasattr(torch.onnx, "ops"), reason="exporting needs torch 2.8 or newer"
)
