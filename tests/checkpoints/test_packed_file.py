"""Packed files: the round trip, their sizes, and what becomes of altered ones."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from qmamba.checkpoints import load
from qmamba.checkpoints.packed_file import (
    load_quantized,
    packed_parts,
    save_quantized,
)
from qmamba.checkpoints.packed_layout import PackedLayout
from qmamba.checkpoints.packed_structure import frozen_structure
from qmamba.errors import CheckpointError, ConfigError
from qmamba.models import MambaIR, ModelMetadata, QMamba, ScoreScale, build_model, model_config
from qmamba.quantization import (
    FrozenTensor,
    QuantConfig,
    QuantizedSS2D,
    calibrate,
    quantize_,
    quantizers,
)
from tests.quantization.networks import NETWORKS, build, images

METADATA = ModelMetadata(name="small", architecture="mambair", training={"data": "none"})


def quantized(name: str = "light", **options: Any) -> Any:
    model = quantize_(build(name), QuantConfig(**{"step": "ptq", **options}))
    return calibrate(model, [images(2)])


def definition(model: nn.Module, x: Tensor) -> Tensor:
    """What the modules compute, without the kernel."""
    with torch.no_grad():
        return type(model).forward(model, x)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "model.safetensors"
    save_quantized(quantized(), path, METADATA)
    return path


@pytest.mark.parametrize(
    ("name", "bits"), [*((name, 4) for name in NETWORKS), ("light", 2), ("light", 3), ("light", 8)]
)
def test_a_packed_network_computes_what_it_computed_before(
    name: str, bits: int, tmp_path: Path
) -> None:
    model = quantized(name, weight_bits=bits, activation_bits=bits)
    expected = definition(model, images(2, seed=1))
    save_quantized(model, tmp_path / "m.safetensors", METADATA, rest="fp32")
    loaded = load_quantized(tmp_path / "m.safetensors")
    assert torch.equal(definition(loaded, images(2, seed=1)), expected)
    assert loaded.config == model.config
    assert not loaded.training


@pytest.mark.parametrize(
    "options",
    [
        {"weight": "minmax", "activation": "minmax"},
        {"weight": "dorefa", "activation": "dorefa"},
        {"weight": "pams", "activation": "pams"},
        {"weight": "lsq+", "activation": "lsq+"},
        {"weight": "quantsr", "activation": "quantsr", "weight_bits": 8},
        {"statistics": "frozen"},
        {"statistics": "batch"},
        {"weight_bits": 32},
        {"activation_bits": 32},
        {"overrides": {"layers.0.*": {"weight_bits": 8, "activation_bits": 3}}},
        {"compat": True, "step": "prepare"},
    ],
)
def test_every_configuration_packs(options: dict[str, Any], tmp_path: Path) -> None:
    model = quantized(**options)
    expected = definition(model.eval(), images(2, seed=1))
    save_quantized(model, tmp_path / "m.safetensors", METADATA, rest="fp32")
    loaded = load_quantized(tmp_path / "m.safetensors")
    assert torch.equal(definition(loaded, images(2, seed=1)), expected)
    assert getattr(loaded, "quantization", None) == model.quantization


def test_layers_that_were_left_out_stay_out(tmp_path: Path) -> None:
    left_out = ("layers.1.conv", "self_attention.x_proj", "self_attention.scan")
    model = quantize_(
        build("light"), QuantConfig(step="ptq"), lambda _, name: not name.endswith(left_out)
    )
    calibrate(model, [images(2)])
    expected = definition(model, images(1, seed=1))
    save_quantized(model, tmp_path / "m.safetensors", METADATA, rest="fp32")
    loaded = load_quantized(tmp_path / "m.safetensors")
    assert torch.equal(definition(loaded, images(1, seed=1)), expected)


def test_half_precision_of_the_rest_changes_only_the_rest(packed: Path) -> None:
    original = quantize_(quantized(), QuantConfig(step="convert")).state_dict()
    loaded = load_quantized(packed).state_dict()
    assert loaded.keys() == original.keys()
    for key, tensor in loaded.items():
        expected = original[key]
        frozen = key.rpartition(".")[2] in ("codes", "scale", "offset", "lowest", "highest")
        if not frozen and "quantizer" not in key:
            assert tensor.dtype == torch.float32
            expected = expected.half().float()
        assert torch.equal(tensor, expected), key


def test_constants_stay_codes_in_memory(packed: Path) -> None:
    loaded = load_quantized(packed)
    frozen = [module for module in loaded.modules() if isinstance(module, FrozenTensor)]
    assert len(frozen) == 2 * (5 + 3 + 4) + 2
    assert all(module.codes.dtype == torch.int8 for module in frozen)
    for module in loaded.modules():
        if isinstance(module, QuantizedSS2D):
            assert module.A_logs is None and module.x_proj_weight is None
            assert module.in_proj.weight is None
    codes = sum(module.codes.numel() for module in frozen)
    floats = sum(t.numel() for t in loaded.state_dict().values() if t.is_floating_point())
    assert floats < 0.9 * codes


def test_metadata_score_and_digest_are_kept(tmp_path: Path) -> None:
    score = ScoreScale("MOS", 0, 100, True, 50, 12)
    metadata = ModelMetadata(
        name="q", score=score, policy={"name": "crops"}, training={"data": "x"}
    )
    path = tmp_path / "m.safetensors"
    written = save_quantized(quantized("quality"), path, metadata)
    loaded = load_quantized(path)
    assert loaded.metadata == dataclasses.replace(written, source=str(path))
    assert loaded.metadata is not None and loaded.metadata.score == score
    assert loaded.load_report is not None and loaded.load_report.layout == "packed"


def test_the_same_model_gives_the_same_bytes_even_after_loading(
    packed: Path, tmp_path: Path
) -> None:
    save_quantized(quantized(), tmp_path / "a", METADATA)
    assert (tmp_path / "a").read_bytes() == packed.read_bytes()
    save_quantized(load_quantized(packed), tmp_path / "b", METADATA)
    assert (tmp_path / "b").read_bytes() == packed.read_bytes()


def test_load_takes_packed_files_too(packed: Path) -> None:
    loaded = load(packed)
    assert isinstance(loaded, MambaIR)
    assert torch.equal(definition(loaded, images(1)), definition(load_quantized(packed), images(1)))
    with pytest.raises(ConfigError, match="packed file"):
        load(packed, scale=3)


def test_unusable_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(ConfigError, match="not quantized"):
        save_quantized(build("light"), path, METADATA)
    waiting: Any = quantize_(build("light"), QuantConfig())
    with pytest.raises(ConfigError, match="seen no data"):
        save_quantized(waiting, path, METADATA)
    with pytest.raises(ConfigError, match="rest must be"):
        save_quantized(quantized(), path, METADATA, rest="int8")
    with pytest.raises(ConfigError, match="metadata"):
        save_quantized(quantized(), path)
    huge = quantized()
    with torch.no_grad():
        huge.norm.weight.fill_(1e9)
    with pytest.raises(CheckpointError, match="rest are not finite in fp16"):
        save_quantized(huge, path, METADATA)
    assert not path.exists()


Content = tuple[dict[str, Tensor], dict[str, str]]


def described(**changes: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        description = json.loads(content[1]["quantization"])
        description.update(changes)
        content[1]["quantization"] = json.dumps(description)

    return change


def configured(**changes: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        model = json.loads(content[1]["qmamba"])
        model["config"].update(changes)
        content[1]["qmamba"] = json.dumps(model)

    return change


def tensor(name: str, change: Callable[[Tensor], Tensor | None]) -> Callable[[Content], None]:
    def apply(content: Content) -> None:
        changed = change(content[0].pop(name))
        if changed is not None:
            content[0][name] = changed

    return apply


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (tensor("codes", lambda t: t[:-1]), "codes must be torch.uint8"),
        (tensor("codes", lambda t: torch.cat([t, t])), "codes must be torch.uint8"),
        (tensor("codes", lambda t: t.view(torch.int8)), "codes must be torch.uint8"),
        (tensor("codes", lambda _: None), "must hold codes, numbers, rest"),
        (tensor("numbers", lambda t: t.half()), "numbers must be torch.float32"),
        (tensor("numbers", lambda t: t * torch.inf), "numbers are not all finite"),
        (tensor("numbers", lambda t: -t.abs()), "not positive"),
        (tensor("rest", lambda t: t.double()), "rest must be"),
        (tensor("rest", lambda t: t.view(1, -1)), "rest must be"),
        (tensor("rest", lambda t: t.fill_(torch.nan)), "rest are not all finite"),
        (lambda content: content[0].update(more=torch.zeros(1)), "must hold codes"),
        (lambda content: content[1].pop("quantization"), "describes no model of ours"),
        (lambda content: content[1].pop("qmamba"), "not a packed file"),
        (described(layout="0" * 64), "layout is not the one"),
        (described(format=7), "format '7'"),
        (described(excluded="all"), "list of names"),
        (described(unsigned=["nowhere"]), "does not have"),
        (described(excluded=["layers.0.conv"]), "layout is not the one"),
        (described(config={"weight_bits": 5}), "2, 3, 4 or 8"),
        (described(config={"color": "red"}), "unknown settings"),
        (described(config=[1]), "must be a mapping"),
        (described(surplus=1), "must have the fields"),
        (lambda content: content[1].update(quantization="{"), "not readable JSON"),
        (lambda content: content[1].update(quantization="[" * 100_000), "not readable JSON"),
        (configured(dim=32), "layout is not the one"),
        (configured(depths=[256] * 60), "more blocks than"),
        (configured(dim=10**9), "dim"),
    ],
)
def test_altered_files_are_refused(
    alter: Callable[[Content], None], message: str, packed: Path, tmp_path: Path
) -> None:
    content = packed.read_bytes()
    length = int.from_bytes(content[:8], "little")
    texts = json.loads(content[8 : 8 + length])["__metadata__"]
    altered: Content = (safetensors.torch.load(content), texts)
    alter(altered)
    path = tmp_path / "altered.safetensors"
    path.write_bytes(safetensors.torch.save(altered[0], metadata=altered[1]))
    with pytest.raises(CheckpointError, match=message):
        load(path)


@pytest.mark.parametrize("size", [0, 7, 100, 2000, -1])
def test_a_cut_file_is_refused(size: int, packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(packed.read_bytes()[:size])
    with pytest.raises(CheckpointError):
        load(path)
    with pytest.raises(CheckpointError):
        load_quantized(path)


def test_a_header_that_promises_more_than_there_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b'{"__metadata__": {}}')
    with pytest.raises(CheckpointError):
        load(path)


def test_trailing_bits_of_codes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    # Three bits of a number of codes that is no multiple of eight leave bits over.
    save_quantized(quantized(weight_bits=3, activation_bits=3), path, METADATA)
    content = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    first, last = header["codes"]["data_offsets"]
    content[begin + first : begin + last] = b"\xff" * (last - first)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="after the last packed code"):
        load(path)


@pytest.mark.parametrize(("name", "bits", "rest"), [("light", 3, "fp16"), ("quality", 8, "fp32")])
def test_the_size_of_a_file_is_known_before_it_is_written(
    name: str, bits: int, rest: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    model = quantized(name, weight_bits=bits, activation_bits=bits)
    save_quantized(model, path, METADATA, rest=rest)
    parts = PackedLayout.of(frozen_structure(model.config, model.quantization, [])).nbytes(rest)
    assert packed_parts(path) == parts
    assert 0 < path.stat().st_size - sum(parts.values()) < 3000


TABLE = [
    ("mambair-light-x4", {4: 579, 2: 374}, "fp16"),
    ("mambair-light-x2", {8: 1080, 2: 466}, "fp32"),
    ("mambair-classic-x4", {4: 11321}, "fp16"),
    ("mambair-denoise-color", {4: 8378}, "fp16"),
]
"""Sizes in KiB to which all tensors of the published networks add up."""


@pytest.mark.parametrize(("name", "sizes", "rest"), TABLE)
def test_published_networks_are_as_small_as_their_codes(
    name: str, sizes: dict[int, float], rest: str
) -> None:
    for bits, expected in sizes.items():
        config = QuantConfig(weight_bits=bits, activation_bits=bits)
        parts = PackedLayout.of(frozen_structure(model_config(name), config, [])).nbytes(rest)
        assert sum(parts.values()) / 1024 + 2 == pytest.approx(expected, rel=0.03)


def test_a_published_network_is_written_at_that_size_and_read(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = build_model(model_config("mambair-light-x4"))
    quantize_(model, QuantConfig(weight_bits=2, activation_bits=2, step="ptq", weight="minmax"))
    for _, quantizer in quantizers(model):
        # Any start has the same size.
        quantizer.initialized.fill_(True)
    save_quantized(model, tmp_path / "m.safetensors", METADATA)
    assert (tmp_path / "m.safetensors").stat().st_size / 1024 == pytest.approx(374, rel=0.03)
    loaded = load(tmp_path / "m.safetensors")
    codes = sum(m.codes.numel() for m in loaded.modules() if isinstance(m, FrozenTensor))
    floats = sum(t.numel() for t in loaded.state_dict().values() if t.is_floating_point())
    assert codes == 755_568 + 82_944 and floats < 90_000


def test_a_quality_network_becomes_a_quality_network(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_quantized(quantized("quality"), path, ModelMetadata(name="q"))
    assert isinstance(load(path), QMamba)
