"""The restoration network: recorded outputs and gradients, tasks, sizes and compilers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from qmamba.errors import ShapeError
from qmamba.models import RGB_MEAN, MambaIR, MambaIRConfig, create_model
from qmamba.nn import SS2D, ChannelAttentionBlock, DropPath
from qmamba.ops import backends
from tests.models.micro_mambair import MICRO, RECORDINGS, VARIANTS, build, images, recording

CPU_BACKENDS = [row.name for row in backends() if row.device == "cpu" and row.available]


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", RECORDINGS)
def test_recorded_outputs_and_gradients(
    shared: Path, name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QMAMBA_BACKEND", backend)
    config, content = recording(shared, name)
    model = MambaIR(config).eval()
    assert list(model.state_dict()) == list(content["state_dict"])
    model.load_state_dict(content["state_dict"], strict=True)
    seen = watched(model)
    image = content["input"].clone().requires_grad_()
    output = model(image)
    assert_close(output, content["output"], rtol=1e-4, atol=1e-4)
    for part, expected in content["intermediates"].items():
        if part in ("conv_first", "cab0"):
            expected = expected.permute(0, 2, 3, 1)
        assert_close(seen[part].reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)

    (output * content["loss_weight"]).sum().backward()
    assert image.grad is not None
    assert_gradient("input", image.grad, content["grad_input"])
    assert {key for key, _ in model.named_parameters()} == set(content["grads"])
    for key, parameter in model.named_parameters():
        assert_gradient(key, parameter.grad, content["grads"][key])


def watched(model: MambaIR) -> dict[str, Tensor]:
    """Outputs of the parts that were recorded, filled by the next call."""
    seen: dict[str, Tensor] = {}
    group: Any = model.layers[0]
    block = group.residual_group.blocks[0]
    parts: dict[str, nn.Module] = {
        "conv_first": model.conv_first,
        "ss2d0": block.self_attention,
        "cab0": block.conv_blk,
        "block0": block,
        "group0": group,
    }
    for name, module in parts.items():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: seen.__setitem__(name, output)
        )
    return seen


def assert_gradient(key: str, actual: Tensor | None, expected: Tensor) -> None:
    assert actual is not None, key
    # Sums over all pixels; compared with the largest entry, because small ones are differences.
    tolerance = 1e-4 * expected.abs().max().clamp_min(1e-3)
    assert (actual - expected).abs().max() <= tolerance, key


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (16, 17)])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_any_size(variant: str, size: tuple[int, int]) -> None:
    config = VARIANTS[variant]
    model = build(config)
    batch = images(2, config.channels, *size)
    output = model(batch)
    assert output.shape == (2, config.channels, config.scale * size[0], config.scale * size[1])
    assert torch.isfinite(output).all()
    assert_close(model(batch[1:]), output[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (0, 3, 8, 8), (1, 3, 8, 0)])
def test_other_shapes_are_errors(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"\(batch, 3, height, width\)"):
        build(MICRO)(torch.zeros(shape))


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_every_parameter_and_the_image(variant: str) -> None:
    config = VARIANTS[variant].replace(drop_path=0.1)
    model = build(config).train()
    batch = images(2, config.channels, 9, 12).requires_grad_()
    torch.manual_seed(1)
    model(batch).square().sum().backward()
    assert batch.grad is not None
    assert batch.grad.abs().sum() > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@torch.no_grad()
def test_without_a_correction_the_image_stays() -> None:
    for variant in ("denoise", "jpeg-gray"):
        model = build(VARIANTS[variant])
        for parameter in model.conv_last.parameters():
            nn.init.zeros_(parameter)
        batch = images(1, model.config.channels, 6, 5)
        assert_close(model(batch), batch)


@torch.no_grad()
def test_the_mean_of_each_channel_comes_back() -> None:
    model = build(MICRO.replace(image_range=255.0))
    for parameter in model.upsample.parameters():
        nn.init.zeros_(parameter)
    expected = torch.tensor(RGB_MEAN).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert_close(model(images(1, 3, 4, 4)), expected)


@torch.no_grad()
def test_the_z_gate_multiplies_the_normalized_scan() -> None:
    torch.manual_seed(0)
    plain, gated = SS2D(8, state_size=2), SS2D(8, state_size=2, z_gate=True)
    state = plain.state_dict()
    # SiLU of a large number is that number, so that a constant gate is a factor.
    row = torch.zeros(16, 8)
    row[:, 0] = 50.0
    gated.load_state_dict({**state, "in_proj.weight": torch.cat([state["in_proj.weight"], row])})
    x = torch.randn(1, 5, 6, 8)
    x[..., 0] = 1.0
    assert_close(gated(x), 50 * plain(x), rtol=1e-4, atol=1e-4)


def test_initial_values() -> None:
    torch.manual_seed(0)
    model = MambaIR(MICRO.replace(drop_path=0.2))
    state = model.state_dict()
    first = "layers.0.residual_group.blocks.0."
    assert_close(state[first + "skip_scale"], torch.ones(16))
    assert_close(state[first + "self_attention.Ds"], torch.ones(4 * 20))
    assert_close(state[first + "self_attention.A_logs"][5], torch.tensor([1.0, 2.0, 3.0]).log())
    rates = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_kinds_of_channel_attention_blocks() -> None:
    with torch.device("meta"):
        shapes = {
            kind: {
                key: tuple(tensor.shape)
                for key, tensor in ChannelAttentionBlock(60, kind=kind, reduction=reduction)
                .state_dict()
                .items()
                if key.endswith("weight")
            }
            for kind, reduction in (("convolution", 6), ("separable", 2), ("depthwise", 1))
        }
    assert shapes["convolution"] == {
        "cab.0.weight": (10, 60, 3, 3),
        "cab.2.weight": (60, 10, 3, 3),
        "cab.3.attention.1.weight": (2, 60, 1, 1),
        "cab.3.attention.3.weight": (60, 2, 1, 1),
    }
    assert shapes["separable"] == {
        "cab.0.weight": (30, 60, 1, 1),
        "cab.1.weight": (30, 1, 3, 3),
        "cab.3.weight": (60, 30, 1, 1),
        "cab.4.weight": (60, 1, 3, 3),
        "cab.5.attention.1.weight": (2, 60, 1, 1),
        "cab.5.attention.3.weight": (60, 2, 1, 1),
    }
    assert list(shapes["depthwise"]) == [
        "cab.0.weight",
        "cab.1.attention.1.weight",
        "cab.1.attention.3.weight",
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_other_dtypes(dtype: torch.dtype) -> None:
    model, batch = build(MICRO), images(1, 3, 12, 12)
    expected = model(batch)
    actual = model.to(dtype)(batch.to(dtype))
    assert actual.dtype == dtype
    assert_close(actual.float(), expected, rtol=0.05, atol=0.1)


@torch.no_grad()
def test_autocast() -> None:
    model, batch = build(MICRO), images(1, 3, 12, 12)
    expected = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        actual = model(batch)
    assert_close(actual.float(), expected, rtol=0.05, atol=0.1)


SHALLOW = MICRO.replace(depths=(1,))


def test_export() -> None:
    model, batch = build(SHALLOW), images(1, 3, 10, 8)
    program = torch.export.export(model, (batch,))
    assert_close(program.module()(batch), model(batch))


def test_compile_without_graph_breaks() -> None:
    model, batch = build(SHALLOW), images(1, 3, 10, 8)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(compiled(batch), model(batch))


def test_the_seed_decides_the_weights() -> None:
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(MambaIR(MICRO).state_dict()["conv_first.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_names() -> None:
    with torch.device("meta"):
        model = create_model("mambair-light-x2", scale=4, drop_path=0.1)
    assert isinstance(model, MambaIR)
    assert model.config == MambaIRConfig(scale=4, drop_path=0.1)
    assert model.state_dict()["upsample.0.weight"].shape == (48, 60, 3, 3)
