"""Backbones of timm: parameters, contract, files."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.testing import assert_close

from qmamba.assess import Scorer
from qmamba.checkpoints import MismatchError, load, save_model
from qmamba.errors import CheckpointError, ConfigError, QMambaError, ShapeError
from qmamba.models import (
    IMAGE_STD,
    ModelMetadata,
    ScoreScale,
    TimmBackbone,
    TimmConfig,
    count_parameters,
    create_model,
    model_config,
)
from qmamba.models.timm.conversion import convert_timm, infer_timm_config, is_timm, refit_timm
from qmamba.models.timm.library import timm_library
from tests.assess.samples import pixels

try:
    timm_library()
except QMambaError as missing:
    pytest.skip(str(missing), allow_module_level=True)

FAMILIES = ("resnet-50", "vit-tiny", "swin-tiny")
SCALE = ScoreScale("test MOS", 0, 100, True, target_mean=50, target_std=10)


@cache
def backbone(name: str) -> TimmBackbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model(name)
    assert isinstance(model, TimmBackbone)
    return model.eval()


def images(count: int = 1, side: int = 224) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, side, side, generator=generator)


def plain_state(name: str) -> dict[str, Tensor]:
    """The tensors under timm's names, as its own files have them."""
    state = backbone(name).state_dict()
    return {key.removeprefix("network."): tensor.clone() for key, tensor in state.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_are_those_of_the_table(name: str) -> None:
    assert sum(p.numel() for p in backbone(name).parameters()) == count_parameters(
        model_config(name)
    )


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_contract(name: str) -> None:
    model, batch = backbone(name), images()
    features = model.forward_features(batch)
    assert features.shape == (1, model.config.network.features)
    output = model(batch)
    assert output.shape == (1, 1) and output.dtype == torch.float32
    assert_close(output, model.network(batch))


@pytest.mark.parametrize("name", ["vit-tiny", "swin-tiny"])
def test_a_file_alone_rebuilds_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = backbone(name)
    save_model(model, path, metadata=ModelMetadata(name), dtype=torch.float32)
    state = torch.get_rng_state()
    again = load(path)
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(again, TimmBackbone) and again.config == model.config
    assert again.metadata is not None and again.metadata.architecture == "timm"
    assert all(buffer.device.type == "cpu" for buffer in again.buffers())
    with torch.no_grad():
        assert torch.equal(again(images()), model(images()))


def test_half_precision_keeps_counters(tmp_path: Path) -> None:
    model = backbone("resnet-50")
    counters = [b for key, b in model.named_buffers() if key.endswith("num_batches_tracked")]
    counters[0].fill_(100_001)
    save_model(model, tmp_path / "model.safetensors", metadata=ModelMetadata("resnet-50"))
    again = load(tmp_path / "model.safetensors")
    kept = [b for key, b in again.named_buffers() if key.endswith("num_batches_tracked")]
    assert kept[0].item() == 100_001 and kept[0].dtype == torch.int64
    batch = images(side=64)
    with torch.no_grad():
        assert_close(again(batch), model(batch), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("name", FAMILIES)
def test_files_of_timm_are_recognized(name: str) -> None:
    state = plain_state(name)
    head = {"resnet-50": "fc", "vit-tiny": "head", "swin-tiny": "head.fc"}[name]
    shapes = {key: tensor.shape for key, tensor in backbone(name).state_dict().items()}
    assert is_timm(state)
    ours = convert_timm(state).state
    config = infer_timm_config(ours)
    assert config == TimmConfig(backbone=name)
    assert refit_timm(ours, shapes, config, config) == (set(), set())
    both = {f"network.{head}.weight", f"network.{head}.bias"}
    ours[f"network.{head}.bias"] = torch.zeros(1000)
    assert refit_timm(ours, shapes, config, config) == (both, both)
    for key in both:
        del ours[key]
    assert refit_timm(ours, shapes, config, config) == (set(), both)


def test_weights_of_timm_start_a_model(tmp_path: Path) -> None:
    state = plain_state("vit-tiny")
    state["head.weight"], state["head.bias"] = torch.zeros(1000, 192), torch.zeros(1000)
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, path)
    model = load(path)
    assert model.metadata is not None and model.metadata.name == "vit-tiny"
    report = model.load_report
    assert report is not None and report.layout == "timm"
    assert report.fresh == ("network.head.weight", "network.head.bias")
    assert isinstance(model, TimmBackbone)
    with torch.no_grad():
        expected = backbone("vit-tiny").forward_features(images())
        assert torch.equal(model.forward_features(images()), expected)


def test_official_swin_layout(tmp_path: Path) -> None:
    state = {}
    for key, tensor in plain_state("swin-tiny").items():
        for stage in (1, 2, 3):
            key = key.replace(f"layers.{stage}.downsample", f"LAYERS.{stage - 1}.downsample")
        state[key.replace("LAYERS", "layers").replace("head.fc.", "head.")] = tensor
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    torch.save({"model": state}, tmp_path / "swin_tiny_patch4_window7_224.pth")
    model = load(tmp_path / "swin_tiny_patch4_window7_224.pth")
    assert model.load_report is not None and not model.load_report.fresh
    with torch.no_grad():
        assert torch.equal(model(images()), backbone("swin-tiny")(images()))


def test_another_width_is_named(tmp_path: Path) -> None:
    state = plain_state("vit-tiny")
    state["blocks.0.attn.qkv.weight"] = torch.zeros(480, 160)
    torch.save(state, tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match="vit of width 160 and depths"):
        load(tmp_path / "vit.pth")


def test_missing_tensors_are_listed(tmp_path: Path) -> None:
    state = plain_state("vit-tiny")
    del state["pos_embed"]
    torch.save(state, tmp_path / "vit.pth")
    with pytest.raises(MismatchError, match=r"network\.pos_embed"):
        load(tmp_path / "vit.pth")


def test_other_sizes() -> None:
    with pytest.raises(ShapeError, match="vit-tiny takes images of 224 x 224"):
        backbone("vit-tiny")(images(side=192))
    with pytest.raises(ShapeError, match=r"\(batch, 3, height, width\)"):
        backbone("resnet-50")(torch.zeros(3, 64, 64))
    with torch.no_grad():
        assert backbone("resnet-50")(images(side=64)).shape == (1, 1)


def test_gradients_reach_the_image() -> None:
    batch = images(side=64).requires_grad_()
    backbone("resnet-50")(batch).sum().backward()
    assert batch.grad is not None and float(batch.grad.abs().sum()) > 0


def test_scoring() -> None:
    model, metadata = backbone("vit-tiny"), ModelMetadata("vit-tiny", score=SCALE)
    scorer = Scorer(model, metadata, policy="crops:count=2")
    score = scorer(pixels(256, 300))
    views = scorer.prepare(pixels(256, 300)).views
    assert len(views) == 2 and score.policy == "crops(size=224,count=2,layout=fixed)"
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    with torch.no_grad():
        outputs = model((views - mean) / torch.tensor(IMAGE_STD)[:, None, None])
    assert score.raw == pytest.approx(50 + 10 * float(outputs.mean()), abs=1e-4)


@pytest.mark.parametrize("policy", ["native", "crops:size=256", "resize:size=384"])
def test_policies_of_another_size_are_refused(policy: str) -> None:
    metadata = ModelMetadata("vit-tiny", score=SCALE)
    with pytest.raises(ConfigError, match="bound to views of 224 x 224"):
        Scorer(backbone("vit-tiny"), metadata, policy=policy)
    assert Scorer(backbone("vit-tiny"), metadata, policy="resize").policy.name == "resize"
