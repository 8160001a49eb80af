"""DEIQT and LoDa: sizes, parts that rest, key layouts, and the networks that they start from."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.assess import CropsPolicy
from qmamba.checkpoints import load, save_model
from qmamba.errors import CheckpointError, ConfigError, ShapeError
from qmamba.models import (
    ModelMetadata,
    build_model,
    count_flops,
    count_parameters,
    create_model,
    model_config,
)
from qmamba.models.deiqt.config import DEIQTConfig
from qmamba.models.deiqt.network import DEIQT
from qmamba.models.loda.config import LoDaConfig
from qmamba.models.loda.network import LoDa
from qmamba.training.quality.task import QualityPart, QualityTask
from tests.reproduce.samples import tiny_dataset

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is not installed"
)
MICRO = DEIQTConfig(dim=128, depth=2, heads=2, queries=3, side=32)
SMALL_LODA = LoDaConfig(transformer="vit-tiny", width=16)


def images(side: int, count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def loda() -> LoDa:
    torch.manual_seed(0)
    return LoDa(SMALL_LODA)


def test_published_sizes() -> None:
    config = model_config("deiqt")
    assert count_parameters(config) == 24_043_776
    assert count_flops(config).paper / 1e9 == pytest.approx(4.679, abs=1e-3)
    config = model_config("loda")
    assert isinstance(config, LoDaConfig)
    assert config.trainable_parameters == 8_927_488
    assert count_parameters(config) == 118_234_176
    assert count_flops(config).paper / 1e9 == pytest.approx(23.676, abs=1e-3)


@needs_timm
def test_only_the_learner_of_loda_learns() -> None:
    with torch.device("meta"):
        model = build_model(model_config("loda"))
    sizes = {True: 0, False: 0}
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.startswith("learner.")
        sizes[parameter.requires_grad] += parameter.numel()
    assert sizes == {True: 8_927_488, False: 118_234_176 - 8_927_488}


@pytest.mark.parametrize(
    ("name", "parameters", "gflops"),
    [
        ("qmamba-tiny-s1", 29_480_833, 4.9048),
        ("qmamba-small-s1", 48_244_609, 8.6114),
        ("qmamba-base-s1", 85_590_529, 15.2198),
    ],
)
def test_vmamba_with_a_narrow_scan(name: str, parameters: int, gflops: float) -> None:
    config = model_config(name)
    # With 1000 classes these are VMamba's 30, 49 and 87 million, and its 4.9, 8.6 and 15.2 GFLOPs.
    assert count_parameters(config) == parameters
    assert count_flops(config).paper / 1e9 == pytest.approx(gflops, abs=1e-4)


def test_a_vmamba_checkpoint_with_a_narrow_scan_is_recognized(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("qmamba-nano", expansion=1.0, depths=(1, 1, 2, 1), num_outputs=10)
    torch.save({"model": model.state_dict()}, tmp_path / "vssm1.pth")
    loaded = load(tmp_path / "vssm1.pth")
    assert loaded.config == model.config.replace(num_outputs=1)


# DEIQT


def test_deiqt_is_the_described_one() -> None:
    torch.manual_seed(0)
    model = DEIQT(MICRO).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    state, x = model.state_dict(), images(32)

    def norm(name: str, tokens: Tensor, epsilon: float) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.layer_norm(tokens, tokens.shape[-1:], weight, bias, epsilon)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = [t.unflatten(-1, (MICRO.heads, -1)).transpose(1, 2) for t in (q, k, v)]
        scores = heads[0] @ heads[1].mT / heads[0].shape[-1] ** 0.5
        return (scores.softmax(-1) @ heads[2]).transpose(1, 2).flatten(2)

    def linear(name: str, tokens: Tensor) -> Tensor:
        return F.linear(tokens, state[f"{name}.weight"], state.get(f"{name}.bias"))

    patches = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], 16)
    tokens = patches.flatten(2).mT + state["pos_embed"]
    tokens = torch.cat([state["cls_token"].expand(2, 1, -1), tokens], 1)
    for i in range(MICRO.depth):
        block = f"blocks.{i}."
        q, k, v = linear(block + "attn.qkv", norm(block + "norm1", tokens, 1e-6)).chunk(3, -1)
        mixed = linear(block + "attn.proj", attention(q, k, v))
        tokens = tokens + state[block + "gamma_1"] * mixed
        hidden = F.gelu(linear(block + "mlp.fc1", norm(block + "norm2", tokens, 1e-6)))
        tokens = tokens + state[block + "gamma_2"] * linear(block + "mlp.fc2", hidden)
    tokens = norm("norm", tokens, 1e-6)
    queries, memory = tokens[:, :1] + state["head.bunch_embedding"], tokens[:, 1:]
    layer = "head.bunch_decoder.layers.0."
    for part, normed, values in (
        ("self_attn", "norm1", None),
        ("multihead_attn", "norm2", memory),
    ):
        q = norm(layer + normed, queries, 1e-5)
        weights = state[f"{layer}{part}.in_proj_weight"].chunk(3)
        biases = state[f"{layer}{part}.in_proj_bias"].chunk(3)
        source = q if values is None else values
        q, k, v = (
            F.linear(t, w, b) for t, w, b in zip((q, source, source), weights, biases, strict=True)
        )
        queries = queries + linear(f"{layer}{part}.out_proj", attention(q, k, v))
    hidden = F.gelu(linear(layer + "linear1", norm(layer + "norm3", queries, 1e-5)))
    queries = queries + linear(layer + "linear2", hidden)
    scores = linear("head.heads", queries)
    torch.testing.assert_close(model(x), scores.mean(1), atol=1e-5, rtol=1e-5)
    with pytest.raises(ShapeError, match="DEIQT takes images"):
        model(images(48))


def test_deiqt_keys_are_the_official_ones() -> None:
    with torch.device("meta"):
        shapes = {key: tuple(t.shape) for key, t in DEIQT().state_dict().items()}
    assert len(shapes) == 2 + 2 + 12 * 14 + 2 + 1 + 18 + 1
    assert shapes["cls_token"] == (1, 1, 384) and shapes["pos_embed"] == (1, 196, 384)
    assert shapes["blocks.11.gamma_2"] == (384,)
    assert shapes["head.bunch_embedding"] == (1, 6, 384)
    assert shapes["head.bunch_decoder.layers.0.multihead_attn.in_proj_weight"] == (1152, 384)
    assert shapes["head.heads.weight"] == (1, 384)


def test_an_official_deiqt_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DEIQT(MICRO).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "deiqt.pth")
    loaded = load(tmp_path / "deiqt.pth")
    assert loaded.config == MICRO
    torch.testing.assert_close(loaded(images(32)), model(images(32)), atol=0, rtol=0)


@needs_timm
def test_deiqt_starts_from_deit3_of_timm(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    encoder: Any = timm.create_model("deit3_small_patch16_224", pretrained=False).eval()
    for parameter in encoder.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    torch.save(encoder.state_dict(), tmp_path / "deit3.pth")
    model = load(tmp_path / "deit3.pth", name="deiqt")
    assert isinstance(model, DEIQT) and model.load_report is not None
    assert set(model.load_report.dropped) == {"head.weight", "head.bias"}
    assert all(key.startswith("head.") for key in model.load_report.fresh)
    seen: list[Tensor] = []
    model.norm.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    with torch.no_grad():
        model(images(224, 1))
        expected = encoder.forward_features(images(224, 1))
    torch.testing.assert_close(seen[0], expected, atol=2e-5, rtol=2e-5)


# LoDa


@needs_timm
def test_loda_without_an_injection_is_its_transformer(loda: LoDa) -> None:
    loda.eval()
    x = images(224, 1)
    with torch.no_grad():
        changed = loda.forward_features(x)
        kept = loda.learner.scale_factor.clone()
        loda.learner.scale_factor.zero_()
        token = loda.forward_features(x)
        expected = loda.vit.forward_features(x)[:, 0]
        loda.learner.scale_factor.copy_(kept)
    torch.testing.assert_close(token, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(changed, expected, atol=1e-3)
    with torch.no_grad():
        cosine = loda.cosine(x)
        direction = loda.learner.head.weight[:, 0]
    expected = F.cosine_similarity(changed, direction[None])
    torch.testing.assert_close(cosine[:, 0], expected, atol=1e-6, rtol=1e-6)


@needs_timm
def test_statistics_of_the_frozen_resnet_drift_in_training_only(loda: LoDa) -> None:
    def statistics() -> Tensor:
        return loda.cnn.bn1.running_mean.clone()

    loda.eval()
    before = statistics()
    loda(images(224))
    assert torch.equal(statistics(), before)
    loda.train()
    loda(images(224)).sum().backward()
    assert not torch.equal(statistics(), before)
    frozen = [p for n, p in loda.named_parameters() if not n.startswith("learner.")]
    assert all(parameter.grad is None for parameter in frozen)
    assert all(p.grad is not None for p in loda.learner.parameters())
    loda.zero_grad()


@needs_timm
def test_the_map_finds_the_scale_of_the_scores(loda: LoDa) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        cosine = torch.randn(32, generator=generator) * 0.1 + 0.3
        outputs = cosine * loda.output_scale + loda.output_shift
        loda.observe(outputs, 5 * cosine - 2 + 0.1 * torch.randn(32, generator=generator))
    assert loda.output_scale.item() == pytest.approx(5, rel=0.05)
    assert loda.output_shift.item() == pytest.approx(-2, rel=0.1)
    loda.observe(torch.zeros(4), torch.zeros(4))
    assert torch.isfinite(loda.output_scale)
    for buffer, value in (("output_scale", 1.0), ("output_shift", 0.0), ("moments", 0.0)):
        getattr(loda, buffer).fill_(value)


@needs_timm
def test_files_of_loda(loda: LoDa, tmp_path: Path) -> None:
    loda.eval()
    metadata = ModelMetadata(name="rival", architecture="loda")
    save_model(loda, tmp_path / "ours.safetensors", metadata=metadata, dtype=torch.float32)
    with torch.no_grad():
        loaded = load(tmp_path / "ours.safetensors")
        torch.testing.assert_close(loaded(images(224)), loda(images(224)), atol=1e-6, rtol=1e-6)
    frozen = {p for n, p in loaded.named_parameters() if not n.startswith("learner.")}
    assert not any(parameter.requires_grad for parameter in frozen)

    state = loda.state_dict()
    learner = {k.removeprefix("learner."): v for k, v in state.items() if k.startswith("learner.")}
    buffers = {
        k.removeprefix("cnn."): v
        for k, v in state.items()
        if k.startswith("cnn.") and ("running_" in k or k.endswith("num_batches_tracked"))
    }
    assert {"scale_factor", "head.weight", "conv.3.2.weight", "cross_attn.11.kv.weight"} <= set(
        learner
    )
    torch.save({"learner": learner, "bn_buffer": buffers}, tmp_path / "official.pth")
    official = load(tmp_path / "official.pth")
    assert isinstance(official, LoDa) and official.load_report is not None
    assert {key.split(".")[0] for key in official.load_report.fresh} >= {"vit", "cnn"}
    assert torch.equal(official.learner.scale_factor, loda.learner.scale_factor)
    assert torch.equal(official.cnn.bn1.running_mean, loda.cnn.bn1.running_mean)

    torch.save(loda.vit.state_dict(), tmp_path / "vit.pth")
    started = load(tmp_path / "vit.pth", name="loda", transformer="vit-tiny", width=16)
    assert isinstance(started, LoDa)
    assert torch.equal(started.vit.blocks[0].attn.qkv.weight, loda.vit.blocks[0].attn.qkv.weight)


def test_wrong_values_are_refused() -> None:
    for config, values in (
        (MICRO, {"dim": 127}),
        (MICRO, {"side": 40}),
        (MICRO, {"num_outputs": 2}),
        (SMALL_LODA, {"transformer": "resnet-50"}),
        (SMALL_LODA, {"width": 18}),
    ):
        with pytest.raises(ConfigError):
            config.replace(**values)
    with pytest.raises(CheckpointError):
        load("nowhere.pth", name="deiqt")


@needs_timm
def test_loda_learns_through_the_loop(tmp_path: Path) -> None:
    parts = [QualityPart(tiny_dataset("live", tmp_path), tuple(range(8)))]
    task = QualityTask(parts, policy=CropsPolicy(size=224, count=1))
    torch.manual_seed(0)
    model = LoDa(SMALL_LODA).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for step in range(3):
        examples = [task.example(4 * step + i, torch.Generator().manual_seed(i)) for i in range(4)]
        batch = {key: torch.stack([each[key] for each in examples]) for key in examples[0]}
        loss = task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)
    assert model.moments[4] > 0
    # The second step already had a slope to follow or was left alone; both leave a whole map.
    assert torch.isfinite(model.output_scale) and model.output_scale > 0
