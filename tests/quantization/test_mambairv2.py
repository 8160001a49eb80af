"""MambaIRv2 through preparation, quantization, packed files and restoration."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qmamba.checkpoints import load, save_model
from qmamba.checkpoints.packed_file import save_quantized
from qmamba.evaluation.restoration.cost import network_cost
from qmamba.inference import QuantizedNetwork, prepare
from qmamba.inference.quantized.attentive import QuantizedAttentiveBlock
from qmamba.inference.restoration import PreparedMambaIR
from qmamba.models import MambaIRv2, MambaIRv2Config, ModelMetadata
from qmamba.nn import AttentiveBlock
from qmamba.ops.native import library
from qmamba.ops.native.memory import Buffers
from qmamba.quantization import QuantConfig, calibrate, quantize_, quantized_names
from qmamba.restore import Restorer

needs_kernel = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason="the C++ kernel was not built"
)
METADATA = ModelMetadata(
    name="small", architecture="mambairv2", training={"degradation": {"task": "sr", "scale": 2}}
)
CONFIG = MambaIRv2Config(
    dim=24, depths=(2,), heads=2, window=4, state_size=8, classes=5, prompt_rank=4
)
KINDS = {
    "light": CONFIG,
    "convolutional": CONFIG.replace(
        task="denoise", scale=1, feed_forward="convolutional", expansion=1.5, state_size=3
    ),
}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> MambaIRv2:
    torch.manual_seed(0)
    return MambaIRv2(KINDS[request.param]).eval().requires_grad_(False)


def images(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, 10, 13, generator=torch.Generator().manual_seed(seed))


def converted(model: MambaIRv2, bits: int = 4, **options: Any) -> MambaIRv2:
    config = QuantConfig(step="ptq", weight_bits=bits, activation_bits=bits, **options)
    quantized = calibrate(quantize_(copy.deepcopy(model), config), [images(1)])
    return quantize_(quantized, QuantConfig(step="convert"))


def test_prepared_is_the_same_network(model: MambaIRv2) -> None:
    prepared = prepare(model)
    assert isinstance(prepared, PreparedMambaIR)
    torch.testing.assert_close(prepared(images()), model(images()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("precision", "error"), [("bf16", 0.02), pytest.param("int8", 0.02, marks=needs_kernel)]
)
def test_prepared_in_fewer_bits(model: MambaIRv2, precision: Any, error: float) -> None:
    expected = model(images())
    difference = prepare(model, precision)(images()) - expected
    # A pixel whose two best classes are close may change its class, so not every pixel is close.
    assert difference.abs().median() < error * expected.std()


def test_placement() -> None:
    names = quantized_names(MambaIRv2(CONFIG))
    layer = "layers.0.residual_group.layers.1."
    assert sorted(name[len(layer) :] for name in names if name.startswith(layer)) == [
        "assm.CPE.0",
        "assm.in_proj.0",
        "assm.out_proj",
        "assm.selectiveScan",
        "convffn1.fc1",
        "convffn1.fc2",
        "convffn1.sg.conv",
        "convffn2.fc1",
        "convffn2.fc2",
        "convffn2.sg.conv",
        "win_mhsa.proj",
        "wqkv",
    ]
    assert [name for name in names if "residual_group" not in name] == ["layers.0.conv"]


def test_eight_bits_are_close_and_two_are_not_exact(model: MambaIRv2) -> None:
    exact = model(images())
    errors = [
        (converted(model, bits)(images()) - exact).abs().mean() / exact.std() for bits in (8, 2)
    ]
    assert errors[0] < 0.02 < errors[1]


def test_training_with_fake_quantization_reaches_every_parameter(model: MambaIRv2) -> None:
    quantized = quantize_(copy.deepcopy(model).requires_grad_(True), QuantConfig()).train()
    quantized(images()).square().mean().backward()
    without = [name for name, p in quantized.named_parameters() if p.grad is None]
    assert not without


@needs_kernel
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_blocks_on_codes_are_their_definition(model: MambaIRv2, bits: int) -> None:
    quantized = converted(model, bits)
    assert isinstance(prepare(quantized, "codes"), QuantizedNetwork)
    x = torch.randn(2, 8, 12, CONFIG.dim, generator=torch.Generator().manual_seed(3))
    blocks = [m for m in quantized.modules() if isinstance(m, AttentiveBlock)]
    assert len(blocks) == 2
    for block in blocks:
        expected = block(x)
        error = (QuantizedAttentiveBlock(block, Buffers())(x) - expected).abs()
        # A value between two codes may take the other one, and moves what follows it in the scan.
        assert error.median() < 1e-4 * expected.std()
        assert error.square().mean().sqrt() < 1e-2 * expected.std()


@torch.no_grad()
def test_packed_file_round_trip(model: MambaIRv2, tmp_path: Path) -> None:
    quantized = converted(model)
    written = save_quantized(quantized, tmp_path / "packed.safetensors", METADATA, rest="fp32")
    loaded = load(tmp_path / "packed.safetensors")
    assert loaded.metadata is not None and loaded.metadata.sha256 == written.sha256
    assert torch.equal(loaded(images()), quantized(images()))
    full, packed = tmp_path / "full.safetensors", tmp_path / "packed.safetensors"
    save_model(model, full, metadata=METADATA, dtype=torch.float32)
    assert packed.stat().st_size < 0.5 * full.stat().st_size


@torch.no_grad()
def test_weights_file_and_official_file(model: MambaIRv2, tmp_path: Path) -> None:
    save_model(model, tmp_path / "ours.safetensors", metadata=METADATA, dtype=torch.float32)
    assert torch.equal(load(tmp_path / "ours.safetensors")(images()), model(images()))
    index = torch.zeros(16, 16, dtype=torch.int64)
    official = {**model.state_dict(), "relative_position_index_SA": index}
    torch.save({"params": official}, tmp_path / "official.pth")
    loaded = load(tmp_path / "official.pth")
    assert isinstance(loaded, MambaIRv2) and loaded.config == model.config
    assert loaded.load_report is not None and loaded.load_report.layout == "mambairv2"
    assert torch.equal(loaded(images()), model(images()))
    other = load(tmp_path / "official.pth", routing="argmax")
    assert not torch.equal(other(images()), model(images()))


def test_it_restores_images_whole_and_in_tiles(model: MambaIRv2) -> None:
    # Smaller images get a margin before the network sees them.
    x = torch.rand(2, 3, 17, 21, generator=torch.Generator().manual_seed(0))
    whole = Restorer(model, metadata=METADATA, tile="whole").restore_tensor(x)
    torch.testing.assert_close(whole, model(x).clamp(0, 1), atol=1e-5, rtol=1e-5)
    large = torch.rand(1, 3, 40, 70, generator=torch.Generator().manual_seed(5))
    tiled = Restorer(model, metadata=METADATA, tile=32, overlap=8).restore_tensor(large)
    scale = model.config.scale
    assert tiled.shape == (1, 3, 40 * scale, 70 * scale)


def test_cost_counts_every_quantized_layer() -> None:
    full = network_cost(CONFIG)
    quantized = network_cost(CONFIG, QuantConfig(weight_bits=2, activation_bits=2))
    assert quantized.macs == full.macs
    assert 0 < quantized.bops < 0.7 * full.bops
