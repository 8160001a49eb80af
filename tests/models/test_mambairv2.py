"""MambaIRv2 against a second, slow implementation, its published sizes, and its checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qmamba.errors import CheckpointError, ConfigError, ShapeError
from qmamba.models.mambairv2.architecture import MAMBAIRV2
from qmamba.models.mambairv2.config import MambaIRv2Config
from qmamba.models.mambairv2.conversion import (
    convert_mambairv2,
    infer_mambairv2_config,
    is_mambairv2,
)
from qmamba.models.mambairv2.network import MambaIRv2
from qmamba.nn import AttentiveBlock
from qmamba.nn.attentive_scan import gumbel_noise
from tests.models import mambairv2_oracle

MICRO = MambaIRv2Config(
    dim=12, depths=(2, 2), heads=2, window=4, state_size=3, classes=5, prompt_rank=4
)
SIZES = {
    # Ours: small enough to train on a CPU.
    "mambairv2-nano-x2": 125_460,
    "mambairv2-light-x2": 774_092,
    "mambairv2-light-x3": 780_587,
    "mambairv2-light-x4": 789_680,
    "mambairv2-small-x2": 9_621_935,
    "mambairv2-small-x3": 9_806_575,
    "mambairv2-small-x4": 9_769_647,
    "mambairv2-base-x2": 22_903_001,
    "mambairv2-base-x3": 23_087_641,
    "mambairv2-base-x4": 23_050_713,
    "mambairv2-large-x2": 34_090_523,
    "mambairv2-large-x3": 34_275_163,
    "mambairv2-large-x4": 34_238_235,
    "mambairv2-denoise-color": 22_657_971,
    "mambairv2-jpeg": 22_651_705,
}


def network(config: MambaIRv2Config, seed: int = 0) -> MambaIRv2:
    """In evaluation mode, with weights in which every parameter matters."""
    torch.manual_seed(seed)
    model = MambaIRv2(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter) * parameter.abs().mean().clamp_min(0.1))
    for module in model.modules():
        # Fresh prompts are too small to be missed.
        if isinstance(module, nn.Embedding):
            module.weight.normal_()
    return model


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("feed_forward", ["gated", "convolutional"])
def test_the_network_is_the_described_one(feed_forward: str) -> None:
    config = MICRO.replace(feed_forward=feed_forward, expansion=1.5, routing="argmax")
    model = network(config)
    inputs = images(2, 3, 9, 6)
    outputs = model(inputs)
    assert outputs.shape == (2, 3, 18, 12)
    for image, output in zip(inputs, outputs, strict=True):
        expected = mambairv2_oracle.restore(
            model.state_dict(), image, config.depths, config.heads, config.window, config.scale
        )
        torch.testing.assert_close(output, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("name", "parameters"), SIZES.items())
def test_published_sizes(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = MAMBAIRV2.build(MAMBAIRV2.models[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_sampled_classes_are_the_same_in_every_run_batch_and_place() -> None:
    model = network(MICRO)
    inputs = images(3, 3, 8, 12)
    together = model(inputs)
    torch.manual_seed(1)
    torch.testing.assert_close(model(inputs), together, atol=0, rtol=0)
    torch.testing.assert_close(model(inputs[1:2]), together[1:2], atol=1e-6, rtol=1e-6)


def test_the_routing_changes_the_result() -> None:
    inputs = images(1, 3, 8, 8)
    results = []
    for config in (MICRO, MICRO.replace(routing_seed=7), MICRO.replace(routing="argmax")):
        model = MambaIRv2(config).eval()
        model.load_state_dict(network(MICRO).state_dict())
        results.append(model(inputs))
    first, second, third = results
    assert not torch.allclose(first, second, atol=1e-4)
    assert not torch.allclose(first, third, atol=1e-4)


def test_the_noise_is_gumbel_and_knows_its_place() -> None:
    noise = gumbel_noise(0, 4000, 16, seed=3)
    # Mean and variance of the standard Gumbel distribution.
    assert abs(noise.mean().item() - 0.57722) < 0.02
    assert abs(noise.var().item() - 1.64493) < 0.05
    ordered = torch.exp(-torch.exp(-noise)).flatten().sort().values
    even = torch.linspace(0, 1, len(ordered))
    assert (ordered - even).abs().max() < 0.01
    neighbors = torch.corrcoef(torch.stack([noise[:-1].flatten(), noise[1:].flatten()]))
    assert abs(neighbors[0, 1].item()) < 0.02
    assert torch.equal(gumbel_noise(1500, 100, 16, seed=3), noise[1500:1600])
    assert (
        torch.corrcoef(torch.stack([noise.flatten(), gumbel_noise(0, 4000, 16, seed=4).flatten()]))[
            0, 1
        ].abs()
        < 0.02
    )


def test_classes_are_drawn_with_the_probabilities_of_the_router() -> None:
    model = network(MICRO)
    block = next(m for m in model.modules() if isinstance(m, AttentiveBlock))
    pixels = images(1, 1, 12).expand(1, 20000, 12)
    expected = block.assm.route(pixels[0, 0]).exp()
    drawn = torch.bincount(block.assm.classes(pixels)[0], minlength=5) / 20000
    torch.testing.assert_close(drawn, expected, atol=0.015, rtol=0)


def test_every_parameter_gets_a_gradient_in_training() -> None:
    model = MambaIRv2(MICRO)
    model(images(2, 3, 8, 8)).square().mean().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without


def test_any_size_and_a_mirrored_border() -> None:
    model = network(MICRO)
    for height, width in ((1, 1), (3, 17), (16, 5)):
        assert model(images(1, 3, height, width)).shape == (1, 3, 2 * height, 2 * width)
    inputs = images(1, 3, 6, 8)
    mirrored = torch.cat([inputs, inputs.flip(2)], 2)[:, :, :8]
    torch.testing.assert_close(model(inputs), model(mirrored)[:, :, :12], atol=0, rtol=0)
    with pytest.raises(ShapeError, match="MambaIRv2 needs images"):
        model(images(1, 1, 8, 8))


CONFIGS = [
    *(MAMBAIRV2.models[name] for name in SIZES),
    MICRO.replace(group_convolution="3conv"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_an_official_checkpoint_tells_its_configuration(config: MambaIRv2Config) -> None:
    with torch.device("meta"):
        state = MambaIRv2(config).state_dict()
        official = {f"module.{key}": tensor for key, tensor in state.items()}
        official["module.relative_position_index_SA"] = torch.empty(256, 256, dtype=torch.int64)
    assert is_mambairv2(official)
    conversion = convert_mambairv2(official)
    assert conversion.dropped == ("module.relative_position_index_SA",)
    assert set(conversion.state) == set(state)
    assert infer_mambairv2_config(conversion.state) == config


def test_official_key_layout() -> None:
    with torch.device("meta"):
        keys = MambaIRv2(MambaIRv2Config(depths=(2,))).state_dict().keys()
    layer = "layers.0.residual_group.layers.1."
    scan = layer + "assm."
    pairs = [
        *(f"{layer}norm{i}" for i in range(1, 5)),
        *(f"{layer}{name}" for name in ("wqkv", "win_mhsa.proj")),
        *(
            f"{layer}convffn{i}.{name}"
            for i in (1, 2)
            for name in ("fc1", "sg.norm", "sg.conv", "fc2")
        ),
        *(
            f"{scan}{name}"
            for name in ("out_norm", "out_proj", "in_proj.0", "CPE.0", "route.0", "route.2")
        ),
    ]
    single = [
        *(f"{layer}scale{i}" for i in (1, 2)),
        f"{layer}win_mhsa.relative_position_bias_table",
        f"{layer}embeddingA.weight",
        f"{scan}embeddingB.weight",
        *(
            f"{scan}selectiveScan.{name}"
            for name in ("x_proj_weight", "dt_projs_weight", "dt_projs_bias", "A_logs", "Ds")
        ),
    ]
    expected = {*single, *(f"{name}.{part}" for name in pairs for part in ("weight", "bias"))}
    assert {key for key in keys if key.startswith(layer)} == expected


def test_what_is_no_mambairv2_is_refused() -> None:
    with torch.device("meta"):
        state = MambaIRv2(MICRO).state_dict()
    state = {key: tensor for key, tensor in state.items() if "embeddingA" not in key}
    with pytest.raises(CheckpointError, match=r"not a MambaIRv2 of a known kind: .*embeddingA"):
        infer_mambairv2_config(state)
    for values in ({"dim": 13}, {"window": 5}, {"routing": "random"}, {"expansion": 1.1}):
        with pytest.raises(ConfigError):
            MICRO.replace(**values)


def test_compile_without_graph_breaks() -> None:
    model, inputs = network(MICRO.replace(depths=(2,))), images(1, 3, 8, 8)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(inputs), model(inputs), atol=1e-6, rtol=1e-6)
