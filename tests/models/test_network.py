"""The network: recorded outputs, shapes, initial values and compilers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from qmamba.errors import ShapeError
from qmamba.models import QMamba, QMambaConfig, create_model
from qmamba.nn import SS2D, DropPath
from qmamba.ops import backends
from tests.models.micro import LOCAL_MICRO, MICRO, build, images, qmamba_config, recording

CPU_BACKENDS = [row.name for row in backends() if row.device == "cpu" and row.available]


@pytest.mark.parametrize("backend", [None, *CPU_BACKENDS])
@pytest.mark.parametrize("name", ["vmamba_micro", "lqmamba_micro"])
def test_recorded_outputs_stage_by_stage(
    shared: Path, name: str, backend: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend is not None:
        monkeypatch.setenv("QMAMBA_BACKEND", backend)
    config, content = recording(shared, name)
    model = QMamba(config).eval()
    model.load_state_dict(content["state_dict"], strict=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == content["n_params"]
    for case in content["cases"]:
        with torch.no_grad():
            assert_close(model(case["input"]), case["output"], rtol=1e-4, atol=1e-4)
            if "stem" in case:
                assert_channel_last(model.embed(case["input"]), case["stem"])
            stages = list(model.stages(case["input"]))
        assert len(stages) == len(case["blocks"]) == len(case["layers"])
        for maps, blocks, layer in zip(stages, case["blocks"], case["layers"], strict=True):
            assert_channel_last(maps.blocks, blocks)
            assert_channel_last(maps.output, layer)


def assert_channel_last(actual: Tensor, channel_first: Tensor) -> None:
    assert_close(actual, channel_first.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4)


def test_state_dict_keys_are_the_official_ones() -> None:
    with torch.device("meta"):
        keys = list(create_model("lqmamba-tiny").state_dict())
        plain = create_model("qmamba-tiny").state_dict()
    assert len(plain) == 204
    gates = [key for key in keys if key not in plain]
    assert len(gates) == 10 * 6
    assert gates[0] == "layers.0.blocks.0.op.multi_scan.attn.norm.weight"
    assert plain["layers.2.blocks.3.op.x_proj_weight"].shape == (4, 24 + 2, 768)
    assert plain["layers.2.blocks.3.op.A_logs"].shape == (4 * 768, 1)
    assert plain["patch_embed.5.weight"].shape == (96, 48, 3, 3)
    assert plain["layers.2.downsample.3.bias"].shape == (768,)
    assert plain["classifier.head.weight"].shape == (1, 768)
    assert not any(key.startswith("layers.3.downsample") for key in plain)


@torch.no_grad()
def test_cross_scan_and_neutral_gates_give_qmamba_back() -> None:
    plain = build(MICRO)
    gated = QMamba(MICRO.replace(route_gate=True)).eval()
    state = gated.state_dict()
    for key in state:
        if "channel_select" in key:
            state[key].zero_()
    gated.load_state_dict({**state, **plain.state_dict()})
    # The norm after the merge removes the common factor of one half, up to its epsilon.
    batch = images(2, 3, 75, 53)
    assert_close(gated(batch), plain(batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [MICRO, LOCAL_MICRO])
@pytest.mark.parametrize("size", [(4, 4), (5, 9), (4, 40), (33, 31), (64, 32), (1, 1)])
@torch.no_grad()
def test_any_size(config: QMambaConfig, size: tuple[int, int]) -> None:
    model = build(config)
    batch = images(2, 3, *size)
    height, width = (math.ceil(side / 4) for side in size)
    assert model.embed(batch).shape == (2, height, width, 16)
    for i, maps in enumerate(model.stages(batch)):
        assert maps.blocks.shape == (2, height, width, config.dims[i])
        if i < 3:
            height, width = math.ceil(height / 2), math.ceil(width / 2)
        assert maps.output.shape[1:3] == (height, width)
    features = model.forward_features(batch)
    assert features.shape == (2, 128)
    outputs = model(batch)
    assert outputs.shape == (2, 1)
    assert torch.isfinite(outputs).all()
    assert_close(model(batch[1:]), outputs[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (0, 3, 64, 64), (1, 3, 64, 0)])
def test_other_shapes_are_errors(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"\(batch, 3, height, width\)"):
        build(MICRO)(torch.zeros(shape))


def test_a_network_may_have_any_number_of_stages() -> None:
    config = QMambaConfig(
        dims=(16, 24), depths=(1, 2), windows=(2, 1), state_size=3, expansion=1.5, mlp_ratio=2
    )
    model = build(config)
    assert model(images(1, 3, 20, 28)).shape == (1, 1)
    assert model.state_dict()["layers.0.blocks.0.op.A_logs"].shape == (4 * 24, 3)


@pytest.mark.parametrize("config", [MICRO, LOCAL_MICRO])
def test_gradients_reach_every_parameter_and_the_image(config: QMambaConfig) -> None:
    model = build(config.replace(drop_path=0.1)).train()
    batch = images(4, 3, 40, 48).requires_grad_()
    model(batch).square().sum().backward()
    assert batch.grad is not None
    assert batch.grad.abs().sum() > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_initial_values() -> None:
    torch.manual_seed(0)
    layer = SS2D(64, state_size=4)
    assert_close(layer.A_logs[7], torch.tensor([1.0, 2.0, 3.0, 4.0]).log())
    assert_close(layer.Ds, torch.ones(4 * 128))
    step = torch.nn.functional.softplus(layer.dt_projs_bias)
    assert step.min() >= 0.99e-3
    assert step.max() <= 0.101
    assert 0.005 < step.log().mean().exp() < 0.02
    assert layer.dt_projs_weight.abs().max() <= 4**-0.5
    assert 0.018 < layer.in_proj.weight.std() < 0.022
    model = QMamba(LOCAL_MICRO)
    for name, parameter in model.named_parameters():
        if "norm" in name or name.startswith(("patch_embed.2", "patch_embed.7")):
            assert_close(parameter, torch.full_like(parameter, float(name.endswith("weight"))))
    assert model.classifier.head.bias.abs().max() == 0


def test_the_seed_decides_the_weights() -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(QMamba(MICRO).state_dict()["layers.0.blocks.0.op.in_proj.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_drop_path() -> None:
    torch.manual_seed(0)
    layer = DropPath(0.25)
    dropped = layer(torch.ones(4000, 1, 1, 2))
    assert dropped.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert dropped[:, 0, 0, 0].tolist() == dropped[:, 0, 0, 1].tolist()
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert_close(layer.eval()(torch.ones(3, 2)), torch.ones(3, 2))
    model = create_model("qmamba-nano", drop_path=0.2)
    rates = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.2)
    assert rates == sorted(rates)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_other_dtypes(dtype: torch.dtype) -> None:
    model, batch = build(LOCAL_MICRO), images(1, 3, 64, 64)
    expected = model(batch)
    actual = model.to(dtype)(batch.to(dtype))
    assert actual.dtype == dtype
    assert_close(actual.float(), expected, rtol=0.05, atol=0.05)


@torch.no_grad()
def test_autocast() -> None:
    model, batch = build(LOCAL_MICRO), images(1, 3, 64, 64)
    expected = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        actual = model(batch)
    assert_close(actual.float(), expected, rtol=0.05, atol=0.05)


SHALLOW = QMambaConfig(dims=(16, 24), depths=(1, 1), windows=(4, 2), route_gate=True)


def test_export() -> None:
    model, batch = build(SHALLOW), images(2, 3, 48, 40)
    program = torch.export.export(model, (batch,))
    assert_close(program.module()(batch), model(batch))
    # Nothing of the tracing may remain in the cached routes.
    assert_close(model(batch), program.module()(batch))


def test_compile_without_graph_breaks() -> None:
    model, batch = build(SHALLOW), images(2, 3, 48, 40)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(compiled(batch), model(batch))
    compiled(batch).sum().backward()
    assert model.patch_embed[0].weight.grad is not None


def test_names_of_the_paper() -> None:
    assert qmamba_config("qmamba-tiny").depths == (2, 2, 4, 2)
    assert qmamba_config("lqmamba-base").dims == (128, 256, 512, 1024)
