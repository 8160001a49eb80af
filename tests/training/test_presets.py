"""Published schedules as presets: their values, and that what is given stays."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from qmamba.checkpoints import save_model
from qmamba.cli import app
from qmamba.errors import ConfigError
from qmamba.models import ModelMetadata, build_model, create_model
from qmamba.models.deiqt.config import DEIQTConfig
from qmamba.models.loda.config import LoDaConfig
from qmamba.models.loda.network import LoDa
from qmamba.training import TrainingOptions
from qmamba.training.optimizer import build_optimizer
from qmamba.training.quality.initial_network import starting_model
from qmamba.training.quality.losses import parse_loss
from qmamba.training.quality.presets import PRESETS, with_preset
from qmamba.training.quality.request import RatingRequest
from qmamba.training.quality.task import QualityPart, QualityTask
from tests.reproduce.samples import tiny_dataset
from tests.training.samples import write_rated

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is not installed"
)
REQUEST = RatingRequest(data=["a.csv"])


def test_presets_name_real_options() -> None:
    names = [{field.name for field in fields(kind)} for kind in (TrainingOptions, RatingRequest)]
    for preset in PRESETS.values():
        assert set(preset.training) <= names[0] and set(preset.request) <= names[1]
        assert preset.source
    assert with_preset("qmamba", REQUEST, TrainingOptions()) == (REQUEST, TrainingOptions())


def test_the_rate_of_deiqt_reaches_its_height_and_drops_at_once() -> None:
    request, options = with_preset("deiqt", REQUEST, TrainingOptions())
    assert request == REQUEST and options.batch_size == 64
    rates = [options.rate(step, 900) for step in range(900)]
    assert rates[0] == pytest.approx(2e-4 / 300) and max(rates) == rates[299] == 2e-4
    assert rates[300:600] == pytest.approx([2e-5] * 300)
    assert rates[600:] == pytest.approx([2e-6] * 300)


def test_loda_is_trained_its_own_way() -> None:
    request, options = with_preset("loda", REQUEST, TrainingOptions())
    assert (options.epochs, options.batch_size, options.schedule) == (10, 128, "cosine")
    assert options.learning_rate == 3e-4 and options.weight_decay == 0.01
    assert request.flips == "both" and request.test_crops == 15
    assert request.usual_crops["koniq10k"] == 3 and request.usual_shorter is not None
    assert request.usual_shorter["livec"] == 384
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(64, generator=generator)
    targets = outputs + torch.randn(64, generator=generator)
    same = torch.zeros(64, dtype=torch.int64)
    first, second = ((t - t.mean()) / t.std(correction=0) for t in (outputs, targets))
    rho = (first * second).mean()
    published = ((first - second).square().mean() + (rho * first - second).square().mean()) / 8
    found = parse_loss(request.loss)(outputs, targets, same)
    torch.testing.assert_close(found, published, atol=1e-5, rtol=1e-5)


def test_what_is_given_stays() -> None:
    options = TrainingOptions(epochs=None, steps=7, batch_size=4)
    request = RatingRequest(data=["a.csv"], crops=2, flips="none")
    given = {"steps", "batch_size", "crops", "flips"}
    chosen, scheduled = with_preset("loda", request, options, given)
    assert (scheduled.steps, scheduled.epochs, scheduled.batch_size) == (7, None, 4)
    assert (chosen.crops, chosen.flips, chosen.usual_crops) == (2, "none", {})
    assert scheduled.learning_rate == 3e-4 and chosen.test_crops == 15
    with pytest.raises(ConfigError, match="preset"):
        with_preset("vgg", REQUEST, TrainingOptions())


def test_positions_and_class_tokens_do_not_decay() -> None:
    model = build_model(DEIQTConfig(dim=64, depth=1, heads=1, side=32))
    optimizer = build_optimizer(model, TrainingOptions(), lambda _: 1.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    free = {
        names[id(parameter)]
        for group in optimizer.param_groups
        if group["weight_decay"] == 0
        for parameter in group["params"]
    }
    assert {"pos_embed", "cls_token", "norm.weight", "blocks.0.gamma_1"} <= free
    assert not {"head.bunch_embedding", "head.heads.weight", "patch_embed.proj.weight"} & free


def test_crops_of_each_data_set(tmp_path: Path) -> None:
    first, second = (tiny_dataset(name, tmp_path / name) for name in ("koniq10k", "live"))
    parts = [
        QualityPart(first, tuple(range(6)), crops=3),
        QualityPart(second, tuple(range(4)), crops=1),
    ]
    task = QualityTask(parts, crop_size=32, crops=2)
    assert task.examples == 6 * 3 + 4
    generator = torch.Generator()
    drawn = [task._place(index, generator) for index in range(task.examples)]
    assert drawn[:10] == [(0, i) for i in range(6)] + [(1, i) for i in range(4)]
    assert drawn[10:] == [(0, i) for i in range(6)] * 2
    assert task._place(task.examples + 3, generator) == (0, 3)
    same = QualityTask([QualityPart(first, tuple(range(6)))], crop_size=32, crops=2)
    assert [same._place(i, generator)[1] for i in range(12)] == [*range(6), *range(6)]
    with pytest.raises(ConfigError, match="crops of 'live' must be at least 1"):
        QualityTask([QualityPart(second, (0, 1), crops=0)], crop_size=32)


@pytest.mark.parametrize("flips", ["horizontal", "both", "none"])
def test_mirror_images(flips: str, tmp_path: Path) -> None:
    dataset = tiny_dataset("live", tmp_path)
    task = QualityTask([QualityPart(dataset, (0, 1))], crop_size=48, flips=flips)
    seen = {
        tuple(task.example(0, torch.Generator().manual_seed(seed))["image"].flatten().tolist())
        for seed in range(24)
    }
    assert len(seen) == {"horizontal": 2, "both": 4, "none": 1}[flips]
    with pytest.raises(ConfigError, match="flips"):
        QualityTask([QualityPart(dataset, (0, 1))], flips="diagonal")


def test_a_preset_of_the_command_line(tmp_path: Path) -> None:
    table = write_rated(tmp_path / "rated")
    model = create_model("qmamba-nano", dims=(8, 16, 16, 16), depths=(1, 1, 1, 1))
    save_model(model, tmp_path / "m.safetensors", metadata=ModelMetadata("m", "qmamba"))
    arguments = ("train", "--data", table, "--from", tmp_path / "m.safetensors", "--steps", "2")
    small = ("--batch-size", "2", "--crop-size", "32", "--test-crops", "1", "--preset", "loda")
    result = CliRunner().invoke(app, [*map(str, arguments), *small, "-o", str(tmp_path / "run")])
    assert result.exit_code == 0, result.stderr
    record = json.loads((tmp_path / "run" / "options.json").read_text())
    assert record["task"]["loss"] == "0.5*plcc+0.125*r2" and record["task"]["flips"] == "both"
    assert record["training"]["learning_rate"] == 3e-4 and record["training"]["steps"] == 2
    assert record["training"]["batch_size"] == 2
    wrong = CliRunner().invoke(
        app, [*map(str, arguments), "--preset", "vgg", "-o", str(tmp_path / "other")]
    )
    assert wrong.exit_code == 2 and "preset" in wrong.stderr


@needs_timm
def test_loda_starts_from_two_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    loda = LoDa(LoDaConfig(transformer="vit-tiny", width=16))
    torch.save(loda.vit.state_dict(), tmp_path / "vit.pth")
    torch.save(loda.cnn.state_dict(), tmp_path / "resnet.pth")
    files = [tmp_path / "vit.pth", tmp_path / "resnet.pth"]
    model = starting_model("loda", files, seed=1, transformer="vit-tiny", width=16)
    assert isinstance(model, LoDa) and model.load_report is not None
    assert torch.equal(model.vit.blocks[0].attn.qkv.weight, loda.vit.blocks[0].attn.qkv.weight)
    assert torch.equal(model.cnn.conv1.weight, loda.cnn.conv1.weight)
    assert {key.split(".")[0] for key in model.load_report.fresh} == {
        "learner",
        "output_scale",
        "output_shift",
        "moments",
    }
    assert "vit.pth + " in model.load_report.source
    with pytest.raises(ConfigError, match="holds nothing that"):
        starting_model("loda", files[:1] * 2, transformer="vit-tiny", width=16)
