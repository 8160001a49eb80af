"""The folder for a pull request to spandrel, grafted into the real spandrel."""

from __future__ import annotations

import ast
import importlib
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from tests.interop.hosts import host
from tests.models.micro_mambair import RECORDINGS, VARIANTS, build, images, recording

spandrel = host("spandrel")

FOLDER = Path(__file__).resolve().parents[2] / "integrations" / "spandrel"
SNAPSHOTS = FOLDER / "snapshots.json"
VARIANTS_OF_SNAPSHOTS = ("light-x2", "light-february", "classic-x3", "real-x4", "denoise")
ALLOWED = {"torch", "numpy", "einops", "math", "collections", "__future__", "typing_extensions"}


@pytest.fixture(scope="module")
def upstream() -> Any:
    """``spandrel.architectures.MambaIR`` as it would be after the pull request."""
    architectures: ModuleType = importlib.import_module("spandrel.architectures")
    paths = list(architectures.__path__)
    architectures.__path__.append(str(FOLDER))
    try:
        yield importlib.import_module("spandrel.architectures.MambaIR")
    finally:
        architectures.__path__[:] = paths


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_state_and_result_as_ours(upstream: Any, variant: str) -> None:
    model = build(VARIANTS[variant])
    arch = upstream.MambaIRArch()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert arch.detect(state)
    found = arch.load(dict(state)).eval()
    assert list(found.model.state_dict()) == list(state)
    assert found.scale == model.config.scale
    for size in ((1, 1), (9, 13), (40, 33)):
        x = images(2, model.config.channels, *size)
        with torch.no_grad():
            torch.testing.assert_close(found.model(x), model(x), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", RECORDINGS)
def test_official_recordings(shared: Path, upstream: Any, name: str) -> None:
    config, content = recording(shared, name)
    if config.image_range != 1:
        pytest.skip("its weights do not tell that its values range to 255")
    found = upstream.MambaIRArch().load(dict(content["state_dict"])).eval()
    with torch.no_grad():
        restored = found.model(content["input"])
    torch.testing.assert_close(restored, content["output"], atol=2e-5, rtol=1e-4)


def test_blocks_of_a_long_scan_join(upstream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    network = importlib.import_module("spandrel.architectures.MambaIR.__arch.mambair")
    model = build(VARIANTS["light-x2"])
    found = upstream.MambaIRArch().load(dict(model.state_dict())).eval()
    x = images(1, 3, 20, 21)
    with torch.no_grad():
        whole = found.model(x)
        monkeypatch.setattr(network, "BLOCK_NUMBERS", 1)
        torch.testing.assert_close(found.model(x), whole, atol=1e-5, rtol=1e-4)


def test_bfloat16(upstream: Any) -> None:
    model = build(VARIANTS["light-x2"])
    found = upstream.MambaIRArch().load(dict(model.state_dict())).eval()
    x = images(1, 3, 16, 16)
    with torch.no_grad():
        exact = found(x)
        coarse = found.to(torch.bfloat16)(x.bfloat16())
    assert float((coarse.float() - exact).abs().mean()) < 0.02
    with pytest.raises(spandrel.UnsupportedDtypeError):
        found.to(torch.float16)


def test_no_other_architecture_is_mistaken_for_it(upstream: Any) -> None:
    detect = upstream.MambaIRArch().detect
    swin = importlib.import_module("spandrel.architectures.SwinIR").SwinIR(window_size=8)
    assert not detect(swin.state_dict())


@pytest.mark.parametrize("variant", VARIANTS_OF_SNAPSHOTS)
def test_snapshots(upstream: Any, variant: str) -> None:
    """What a loaded model says about itself, and values of its result, as written down before."""
    found = upstream.MambaIRArch().load(filled(build(VARIANTS[variant]))).eval()
    expected = json.loads(SNAPSHOTS.read_text())[variant]
    values = expected.pop("values")
    assert described(found) == expected
    assert sampled(found) == pytest.approx(values, abs=2e-4)


def test_the_tests_for_spandrel(upstream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ``test_load`` with a helper that does what spandrel's own does."""
    loaded: list[Any] = []

    def assert_loads_correctly(arch: Any, *makers: Any) -> None:
        for make in makers:
            model = make()
            found = arch.load(dict(model.state_dict()))
            assert found.model.hyperparameters == {**defaults, **model.hyperparameters}
            loaded.append(found)

    defaults = upstream.MambaIR().hyperparameters
    package = ModuleType("upstream_tests")
    vars(package)["__path__"] = [str(FOLDER / "tests")]
    helper = ModuleType("upstream_tests.util")
    vars(helper).update(
        assert_loads_correctly=assert_loads_correctly, skip_if_unchanged=lambda file: None
    )
    monkeypatch.setitem(sys.modules, "upstream_tests", package)
    monkeypatch.setitem(sys.modules, "upstream_tests.util", helper)
    importlib.import_module("upstream_tests.test_MambaIR").test_load()
    assert len(loaded) == 14


def test_only_what_spandrel_allows_is_imported() -> None:
    for path in sorted((FOLDER / "MambaIR").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= ALLOWED, path
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").split(".")[0] in {*ALLOWED, "spandrel"}, path
    assert "Apache License" in (FOLDER / "MambaIR" / "__arch" / "LICENSE").read_text()


def filled(model: nn.Module) -> dict[str, torch.Tensor]:
    """A state dict whose values are a formula, so that every machine has the same."""
    state = {}
    for number, (key, value) in enumerate(model.state_dict().items()):
        steps = torch.arange(value.numel(), dtype=torch.float64) * 0.7 + number
        wave = torch.sin(steps).float().view(value.shape)
        around = 1.0 if key.endswith(("skip_scale", "skip_scale2", "Ds")) else 0.0
        state[key] = around + 0.1 * wave
    return state


def described(found: Any) -> dict[str, Any]:
    return {
        "scale": found.scale,
        "purpose": found.purpose,
        "tags": found.tags,
        "channels": [found.input_channels, found.output_channels],
        "tiling": found.tiling.name,
        "hyperparameters": json.loads(json.dumps(found.model.hyperparameters)),
    }


def sampled(found: Any) -> list[float]:
    """Nine values of the result of a wave pattern."""
    height, width = 12, 10
    steps = torch.arange(found.input_channels * height * width, dtype=torch.float64)
    x = 0.5 + 0.5 * torch.sin(steps * math.pi / 7).float()
    with torch.no_grad():
        y = found(x.view(1, found.input_channels, height, width)).flatten()
    return [round(float(value), 6) for value in y[:: max(1, y.numel() // 9)][:9]]
