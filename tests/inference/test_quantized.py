"""Networks that compute on codes, against the converted networks that define them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qmamba.assess import Scorer
from qmamba.checkpoints import load
from qmamba.checkpoints.packed_file import load_quantized, save_quantized
from qmamba.images import read_image, to_tensor
from qmamba.inference import QuantizedNetwork, prepare
from qmamba.inference.quantized.layers import Chain, NotPreparable
from qmamba.inference.quantized.networks import QuantizedSkipBlock
from qmamba.models import MambaIR, ModelMetadata, ScoreScale
from qmamba.nn import ResidualGroup, ScaledSkipBlock
from qmamba.ops.native import library
from qmamba.ops.native.memory import Buffers
from qmamba.quantization import FrozenTensor, QuantConfig, calibrate, quantize_
from tests.models.micro_mambair import recording
from tests.quantization.agreement import DECIBELS, check_blocks, decibels, definition
from tests.quantization.networks import NETWORKS, build, images

pytestmark = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)


def converted(name: str, **options: Any) -> Any:
    model = quantize_(build(name), QuantConfig(**{"step": "ptq", **options}))
    calibrate(model, [images(2)])
    return quantize_(model, QuantConfig(step="convert"))


@pytest.mark.parametrize(
    "options",
    [
        {"weight": "minmax", "activation": "minmax"},
        {"weight": "dorefa", "activation": "dorefa"},
        {"weight": "pams", "activation": "pams", "weight_bits": 3, "activation_bits": 3},
        {"weight": "lsq+", "activation": "lsq"},
        {"statistics": "frozen"},
    ],
)
def test_every_quantizer_can_be_computed(options: dict[str, Any]) -> None:
    assert check_blocks(converted("light", **options), images(1, seed=1)) == 2


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (5, 1), (2, 2), (7, 9), (16, 16)])
@pytest.mark.parametrize("name", ["classic", "quality"])
def test_borders_of_padded_convolutions_are_right(name: str, height: int, width: int) -> None:
    model = converted(name)
    kinds = (ResidualGroup,) if name == "classic" else ()
    layer: Any = next(
        (module.conv for module in model.modules() if isinstance(module, kinds)), None
    )
    if layer is None:
        layer = model.layers[0].downsample[0]
    x = 2 * torch.randn(
        2, height, width, layer.in_channels, generator=torch.Generator().manual_seed(1)
    )
    offset = layer.input_quantizer.choose_qparams(x).offset
    assert abs(float(offset)) > 1e-4
    with torch.no_grad():
        actual, expected = Chain([layer], Buffers())(x), layer(x)
    assert actual.shape == expected.shape
    wrong = (actual - expected).abs() > 1e-4 * expected.abs().max()
    assert wrong.float().mean() < 0.01, wrong.nonzero()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_prepared_network_computes_the_definition(name: str) -> None:
    model = converted(name, weight_bits=8, activation_bits=8)
    expected = definition(model, images(2, seed=1))
    network = prepare(model, "codes")
    assert isinstance(network, QuantizedNetwork)
    assert decibels(network(images(2, seed=1)), expected) >= 50
    assert torch.equal(definition(model, images(2, seed=1)), expected)


def test_an_image_does_not_depend_on_its_batch_or_on_threads() -> None:
    model = prepare(converted("light"), "codes")
    batch = images(2, side=8, seed=1)
    together = model(batch)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            # Convolutions in full precision may sum in another order.
            alone = torch.cat([model(image[None]) for image in batch])
            assert torch.allclose(alone, together, atol=2e-2)
    finally:
        torch.set_num_threads(before)


def test_statistics_of_a_batch_are_left_to_the_definition() -> None:
    model = converted("light", statistics="batch")
    expected = definition(model, images(2, seed=1))
    assert torch.equal(prepare(model, "codes")(images(2, seed=1)), expected)


@pytest.mark.parametrize(
    "options", [{"weight_bits": 32}, {"activation_bits": 32}, {"compat": True}]
)
def test_what_the_kernel_cannot_compute_runs_as_it_is(options: dict[str, Any]) -> None:
    model = converted("light", **options)
    expected = definition(model, images(1, seed=1))
    block = next(module for module in model.modules() if isinstance(module, ScaledSkipBlock))
    with pytest.raises(NotPreparable):
        QuantizedSkipBlock(block, Buffers())
    assert torch.allclose(prepare(model, "codes")(images(1, seed=1)), expected, atol=2e-2)


def test_without_a_kernel_or_codes_the_module_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    faked = quantize_(build("light"), QuantConfig())
    calibrate(faked, [images(2)])
    model = converted("light")
    x = images(1, seed=1)
    assert torch.equal(prepare(faked.eval())(x), definition(faked, x))
    monkeypatch.setattr("qmamba.inference.preparation.unavailable_reason", lambda: "none was built")
    assert torch.equal(prepare(model, "codes")(x), definition(model, x))


def test_the_model_stays_a_module_of_its_own() -> None:
    model = converted("light")
    network = prepare(model, "codes")
    x = images(1, seed=1)
    expected, before = definition(model, x), network(x)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert torch.equal(copied(x), expected)
    doubled = definition(copy.deepcopy(model).double(), x.double()).float()
    assert torch.equal(copied.double()(x.double()).float(), doubled)
    assert torch.equal(network(x), before)


def test_gradients_reach_the_pixels_of_the_module() -> None:
    model = converted("light")
    x = images(1, seed=1).requires_grad_()
    model(x).square().mean().backward()
    assert x.grad is not None and x.grad.abs().max() > 0


def test_results_are_kept_when_the_network_runs_again() -> None:
    model = prepare(converted("denoise"), "codes")
    first = model(images(1, seed=1))
    kept = first.clone()
    with torch.inference_mode():
        model(images(1, seed=2))
    model(images(1, seed=3))
    assert torch.equal(first, kept)
    assert torch.equal(model(images(1, seed=1)), kept)


def test_weights_are_held_as_codes_only() -> None:
    model = converted("light")
    network: Any = prepare(model, "codes")
    frozen = sum(m.codes.numel() for m in model.modules() if isinstance(m, FrozenTensor))
    held = tensors_of(network._network, set())
    floats = sum(tensor.numel() for tensor in held if tensor.is_floating_point())
    rest = sum(t.numel() for t in model.state_dict().values() if t.is_floating_point())
    # Sums over inputs, padded to whole panels, and what is not quantized.
    assert floats < 2 * rest + 0.5 * frozen


def tensors_of(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """All tensors that an object leads to."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_of(item, seen)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_of(item, seen)
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        yield from tensors_of(vars(value), seen)


def test_a_scorer_takes_a_packed_file(tmp_path: Path) -> None:
    config = QuantConfig(step="ptq", weight_bits=8, activation_bits=8)
    model: Any = quantize_(build("quality"), config)
    calibrate(model, [images(2, 32)])
    score = ScoreScale("MOS", 0, 100, True, 50, 12)
    metadata = ModelMetadata(name="q", score=score, policy={"name": "native"})
    save_quantized(model, tmp_path / "q.safetensors", metadata)
    scorer = Scorer(load(tmp_path / "q.safetensors"))
    image = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    plain = Scorer(build("quality"), metadata)
    assert abs(scorer(image).raw - plain(image).raw) < 3


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_rule_on_photographs(bits: int, shared: Path, tmp_path: Path) -> None:
    """The file computes what the network did; the kernel's blocks are within the rule of them."""
    config, content = recording(shared, "light_x2")
    model = MambaIR(config)
    model.load_state_dict(content["state_dict"])
    folder = shared / "data" / "sr" / "Set5_LR_bicubic" / "X2"
    images = [to_tensor(read_image(path).pixels) for path in sorted(folder.glob("*.png"))[:2]]
    crops = [image[:, 40:72, 40:80][None] for image in images]
    quantize_(model.eval(), QuantConfig(step="ptq", weight_bits=bits, activation_bits=bits))
    calibrate(model, crops)
    path = tmp_path / "m.safetensors"
    save_quantized(model, path, ModelMetadata(name="m", architecture="mambair"), rest="fp32")
    loaded = load_quantized(path)
    for crop in crops:
        expected = definition(model, crop)
        assert decibels(definition(loaded, crop), expected) >= DECIBELS
        assert check_blocks(loaded, crop) == sum(config.depths)
    if bits == 8:
        # With fewer bits a value between two levels makes a difference that the network amplifies.
        assert decibels(prepare(loaded, "codes")(crops[0]), definition(model, crops[0])) >= 50
