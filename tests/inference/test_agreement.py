"""What a network on codes has in common with the fake-quantized one, on photographs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qmamba.checkpoints import load, save_quantized
from qmamba.images import normalize, read_image, to_tensor
from qmamba.inference import prepare
from qmamba.models import MambaIR, ModelMetadata
from qmamba.ops.native import library
from qmamba.quantization import QuantConfig, calibrate, quantize_
from tests.conftest import REPOSITORY
from tests.quantization.agreement import DECIBELS, check_blocks, decibels, definition
from tests.quantization.networks import build

pytestmark = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)

NETWORKS = ("light", "denoise", "classic", "quality", "local quality")
SIZES = ((24, 32), (19, 27))
"""Height and width of the crops, one of them odd."""


def crops(size: tuple[int, int], *, normalized: bool = False) -> Tensor:
    """Crops of two photographs with edges in them, ``(2, 3, height, width)``."""
    height, width = size
    images = [
        to_tensor(read_image(REPOSITORY / "examples" / name).pixels)
        for name in ("cat.jpg", "coffee_small.png")
    ]
    found = [image[:, 90 : 90 + height, 120 : 120 + width] for image in images]
    return torch.stack([normalize(crop) if normalized else crop for crop in found])


def twins(name: str, bits: int, path: Path) -> tuple[Any, Any]:
    """The fake-quantized network, and the one that is read from its file."""
    scores = "quality" in name
    model: Any = quantize_(build(name), QuantConfig(bits, bits, step="ptq"))
    calibrate(model, [crops(size, normalized=scores) for size in SIZES])
    save_quantized(model, path, ModelMetadata(name=name), rest="fp32")
    return model, load(path)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_is_exact_and_every_block_within_the_rule(
    name: str, bits: int, tmp_path: Path
) -> None:
    model, loaded = twins(name, bits, tmp_path / "m.safetensors")
    for size in SIZES:
        x = crops(size, normalized="quality" in name)
        assert torch.equal(definition(loaded, x), definition(model, x))
        assert check_blocks(loaded, x) == sum(model.config.depths)


def embedded() -> Any:
    """A trained network."""
    return load("mambair-nano-x2-w4a4")


def test_a_trained_network_at_8_bits_is_within_the_rule_as_a_whole(tmp_path: Path) -> None:
    trained = embedded()
    full = MambaIR(trained.config)
    full.load_state_dict(values_of(trained))
    model: Any = quantize_(full.eval(), QuantConfig(8, 8, step="ptq"))
    calibrate(model, [crops(size) for size in SIZES])
    save_quantized(model, tmp_path / "m.safetensors", ModelMetadata(name="m"), rest="fp32")
    loaded = load(tmp_path / "m.safetensors")
    for size in SIZES:
        assert (
            decibels(prepare(loaded, "codes")(crops(size)), definition(model, crops(size)))
            >= DECIBELS
        )


def values_of(model: MambaIR) -> dict[str, Tensor]:
    """The weights of a converted network, in full precision."""
    state = {}
    own = model.state_dict()
    for key in MambaIR(model.config).state_dict():
        owner, _, name = key.rpartition(".")
        module: Any = model.get_submodule(owner)
        frozen = getattr(module, f"frozen_{name}", None)
        value = own[key] if frozen is None else frozen()
        state[key] = torch.log(-value) if frozen is not None and name == "A_logs" else value
    return state


def test_a_trained_network_of_few_bits_is_within_the_rule_block_by_block() -> None:
    """As a whole it is not: a value that falls on the other side of a threshold moves others."""
    trained = embedded()
    network = prepare(trained, "codes")
    for size in SIZES:
        x = crops(size)
        assert check_blocks(trained, x) == sum(trained.config.depths)
        assert decibels(network(x), definition(trained, x)) > 35


@pytest.mark.parametrize("name", ["light", "quality"])
def test_a_prepared_network_runs_with_its_quantizers_and_not_in_full_precision(
    name: str,
) -> None:
    x = crops(SIZES[1], normalized=name == "quality")
    full = build(name)
    model: Any = quantize_(copy.deepcopy(full), QuantConfig(2, 2))
    calibrate(model, [x])
    found = prepare(model.eval())(x)
    assert torch.equal(found, definition(model, x))
    assert decibels(found, definition(full, x)) < 40
