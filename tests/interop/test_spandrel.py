"""MambaIR through the real spandrel, against the network itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qmamba.checkpoints import load, save_model
from qmamba.errors import CheckpointError
from qmamba.models import MambaIR, ModelMetadata
from tests.interop.hosts import host
from tests.models.micro_mambair import RECORDINGS, VARIANTS, build, images, recording
from tests.models.test_mambairv2 import MICRO as MICRO_V2
from tests.models.test_mambairv2 import network as network_v2
from tests.owners import ENVIRONMENT

spandrel = host("spandrel")

from spandrel import ArchRegistry, ArchSupport, ImageModelDescriptor, ModelLoader

from qmamba.interop.spandrel import MAMBAIR_ARCH, MAMBAIRV2_ARCH, register


@pytest.fixture
def loader() -> ModelLoader:
    """A loader whose registry has all that spandrel knows, and MambaIR after it."""
    registry: ArchRegistry = spandrel.MAIN_REGISTRY.copy()
    register(registry)
    return ModelLoader(registry=registry)


def spandrels_own() -> list[ArchSupport[Any]]:
    """What spandrel knows by itself, whether or not another test of this process registered us."""
    ours = {"MambaIR", "MambaIRv2", "MambaIR-packed"}
    return [support for support in spandrel.MAIN_REGISTRY if support.architecture.id not in ours]


def official(model: MambaIR, path: Path, prefix: str = "") -> Path:
    """A checkpoint as the authors' training writes it."""
    state = {prefix + key: value for key, value in model.state_dict().items()}
    torch.save({"params": state}, path)
    return path


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(1, 1), (9, 13)])
def test_equal_bits(
    loader: ModelLoader, tmp_path: Path, variant: str, size: tuple[int, int]
) -> None:
    model = build(VARIANTS[variant])
    found = loader.load_from_file(official(model, tmp_path / "x.pth", "module."))
    assert isinstance(found, ImageModelDescriptor)
    config = model.config
    assert (found.architecture.id, found.scale) == ("MambaIR", config.scale)
    assert (found.input_channels, found.output_channels) == (config.channels, config.channels)
    assert found.purpose == ("SR" if config.scale > 1 else "Restoration")
    x = images(1, config.channels, *size)
    with torch.no_grad():
        assert found(x).equal(model(x).clamp(0, 1))


def test_a_network_that_needs_a_noise_map_is_refused(loader: ModelLoader, tmp_path: Path) -> None:
    model = build(VARIANTS["denoise"].replace(condition_channels=1))
    with pytest.raises(CheckpointError, match=r"noise map.*use `qmamba restore --model FILE`"):
        loader.load_from_file(official(model, tmp_path / "blind.pth"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_our_own_files(loader: ModelLoader, tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "own.safetensors"
    save_model(build(VARIANTS["denoise"]), path, metadata=ModelMetadata("own"), dtype=dtype)
    found, model = loader.load_from_file(path), load(path)
    assert isinstance(found, ImageModelDescriptor)
    x = images(1, 3, 24, 17)
    with torch.no_grad():
        assert found(x).equal(model(x).clamp(0, 1))


@pytest.mark.parametrize("name", RECORDINGS)
def test_official_recordings(shared: Path, loader: ModelLoader, name: str) -> None:
    config, content = recording(shared, name)
    if config.image_range != 1:
        pytest.skip("its weights do not tell that its values range to 255")
    found = loader.load_from_state_dict({"params": dict(content["state_dict"])})
    assert isinstance(found, ImageModelDescriptor)
    with torch.no_grad():
        restored = found.model(content["input"])
    torch.testing.assert_close(restored, content["output"], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("task", ["sr-light", "denoise"])
@pytest.mark.parametrize("size", [(1, 1), (9, 13)])
def test_mambairv2(loader: ModelLoader, tmp_path: Path, task: str, size: tuple[int, int]) -> None:
    config = MICRO_V2.replace(task=task, scale=2 if task == "sr-light" else 1)
    model = network_v2(config)
    state = dict(model.state_dict())
    state["relative_position_index_SA"] = torch.zeros(256, 256, dtype=torch.int64)
    torch.save({"params_ema": state}, tmp_path / "v2.pth")
    found = loader.load_from_file(tmp_path / "v2.pth")
    assert isinstance(found, ImageModelDescriptor)
    assert (found.architecture.id, found.scale) == ("MambaIRv2", config.scale)
    x = images(1, 3, *size)
    with torch.no_grad():
        assert found(x).equal(model(x).clamp(0, 1))
    with pytest.raises(spandrel.UnsupportedDtypeError):
        found.to(torch.bfloat16)
    for support in spandrels_own():
        assert not support.detect(dict(state)), support.architecture.id
    assert MAMBAIRV2_ARCH.detect(dict(state)) and not MAMBAIR_ARCH.detect(dict(state))


def test_bfloat16_and_half(loader: ModelLoader, tmp_path: Path) -> None:
    model = build(VARIANTS["light-x2"])
    found = loader.load_from_file(official(model, tmp_path / "x.pth"))
    assert isinstance(found, ImageModelDescriptor)
    x = images(1, 3, 24, 24)
    with torch.no_grad():
        exact = found(x)
        coarse = found.to(torch.bfloat16)(x.bfloat16())
    assert coarse.dtype == torch.bfloat16
    assert float((coarse.float() - exact).abs().mean()) < 0.02
    with pytest.raises(spandrel.UnsupportedDtypeError):
        found.to(torch.float16)


def test_tiles_of_a_host(loader: ModelLoader, tmp_path: Path) -> None:
    """Overlapping tiles, each through the descriptor and pasted, as hosts do it."""
    model = build(VARIANTS["classic-x3"])
    found = loader.load_from_file(official(model, tmp_path / "x.pth"))
    assert isinstance(found, ImageModelDescriptor)
    assert found.tiling == spandrel.ModelTiling.DISCOURAGED
    x = images(1, 3, 23, 31)
    pasted = torch.full((1, 3, 69, 93), torch.nan)
    with torch.no_grad():
        for top in (0, 7):
            for left in (0, 15):
                tile = x[:, :, top : top + 16, left : left + 16]
                result = found(tile)
                assert result.equal(model(tile).clamp(0, 1))
                pasted[:, :, 3 * top : 3 * top + 48, 3 * left : 3 * left + 48] = result
    assert bool(pasted.isfinite().all())


def test_registering_twice_changes_nothing() -> None:
    registry = ArchRegistry()
    assert register(registry) == ["MambaIR", "MambaIRv2", "MambaIR-packed"]
    assert register(registry) == [] and len(registry) == 3


def test_import_alone_registers_nothing() -> None:
    code = (
        "from qmamba.interop.spandrel import MAIN_REGISTRY, register\n"
        "assert 'MambaIR' not in MAIN_REGISTRY\n"
        "register()\n"
        "assert 'MambaIR' in MAIN_REGISTRY\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, env=ENVIRONMENT)


def test_no_other_architecture_claims_a_mambair(tmp_path: Path) -> None:
    for variant in VARIANTS.values():
        state = build(variant).state_dict()
        for support in spandrels_own():
            assert not support.detect(dict(state)), support.architecture.id
        assert MAMBAIR_ARCH.detect(dict(state))


def test_what_spandrel_cannot_run_is_told(loader: ModelLoader, tmp_path: Path) -> None:
    from importlib import resources

    packed = resources.files("qmamba") / "weights" / "mambair-nano-x2-w4a4.safetensors"
    with pytest.raises(CheckpointError, match=r"packed file of qmamba.*qmamba restore --model"):
        loader.load_from_file(str(packed))
    state = build(VARIANTS["light-x2"]).state_dict()
    del state["conv_after_body.weight"]
    with pytest.raises(RuntimeError, match="conv_after_body"):
        loader.load_from_state_dict(dict(state))
    state = build(VARIANTS["light-x2"]).state_dict()
    del state["upsample.0.weight"]
    with pytest.raises(CheckpointError, match=r"not a MambaIR of a known kind|upsample"):
        loader.load_from_state_dict(dict(state))


def test_quantized_checkpoints_are_told(shared: Path, loader: ModelLoader) -> None:
    content = torch.load(shared / "parity" / "qmambair_tiny_dn_4b.pt", weights_only=False)
    with pytest.raises(CheckpointError, match="quantized checkpoint of Q-MambaIR"):
        loader.load_from_state_dict(dict(content["state_after_init"]))
