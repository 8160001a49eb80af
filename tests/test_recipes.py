"""The recipe of the default weights runs: two steps, a stop, the file that comes out."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from qmamba.assess import Reasons
from qmamba.assess.native.heads import embedded_head
from qmamba.checkpoints import load, save_model
from qmamba.extras import declare_torchvision_operators
from qmamba.models import ModelMetadata, QMamba, ScoreScale, create_model
from qmamba.nn.image_statistics import STATISTICS
from tests.conftest import REPOSITORY

RECIPES = REPOSITORY / "recipes"
EXAMPLES = REPOSITORY / "examples"
SCALE = ScoreScale("test", 0.0, 1.0, True, 0.6, 0.2)


@pytest.fixture
def damage(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.syspath_prepend(str(RECIPES))
    import damage

    return damage


def test_likeness_and_share_follow_the_damage(damage) -> None:  # type: ignore[no-untyped-def]
    image = np.array(Image.open(EXAMPLES / "coffee.jpg").convert("RGB"))[:160, :160]
    levels = [0.0, 1.0, 2.0, 3.0, 5.0]
    images = [image] + [
        damage.distort(image, "jpeg", level, np.random.default_rng(0)) for level in levels[1:]
    ]
    batch = damage.to_batch(images)
    likeness = damage.haarpsi(batch, batch[:1].expand_as(batch))
    assert likeness[0] == pytest.approx(1.0, abs=1e-4)
    assert (likeness.diff() < 0).all() and likeness[-1] < 0.6
    share = damage.share_of_the_way(damage.Ladder(images, "jpeg", levels))
    assert share[0] == 0 and (share.diff() > 0).all() and share[-1] <= 1
    flat = torch.full((1, 3, 32, 32), 0.5)
    assert damage.haarpsi(flat, flat).item() == pytest.approx(1.0, abs=1e-4)


def test_a_ladder_depends_on_its_generator_alone(damage) -> None:  # type: ignore[no-untyped-def]
    first, second = (
        damage.random_ladder(EXAMPLES / "cat.jpg", 96, np.random.default_rng(3), saved=0.5)
        for _ in range(2)
    )
    assert first.kind == second.kind and first.levels == second.levels == sorted(first.levels)
    assert len(first.images) == damage.LEVELS + 1
    for one, other in zip(first.images, second.images, strict=True):
        assert one.shape == (96, 96, 3) and np.array_equal(one, other)


def test_fine_tuning_runs_and_writes_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("qmamba-nano", dims=(8, 16, 16, 16), depths=(1, 1, 1, 1), statistics=4)
    save_model(model, tmp_path / "start.safetensors", metadata=ModelMetadata("t", score=SCALE))
    (tmp_path / "scores.csv").write_text(
        "image,mos,split\ncat.jpg,0.8,train\ncoffee.jpg,0.7,train\nnone.jpg,0.1,val\n"
    )
    (tmp_path / "images").symlink_to(EXAMPLES)
    command = [
        *(sys.executable, str(RECIPES / "robust.py"), "--rated", str(tmp_path)),
        *("--clean", str(EXAMPLES), "--out", str(tmp_path / "run"), "--steps", "2"),
        *("--batch", "2", "--weights", str(tmp_path / "start.safetensors")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    tuned = load(tmp_path / "run" / "robust.safetensors")
    assert tuned.metadata is not None and "2 steps" in tuned.metadata.training["robust"]
    before = load(tmp_path / "start.safetensors").state_dict()
    assert any(not torch.equal(before[key], value) for key, value in tuned.state_dict().items())


def test_heads_of_the_native_size_are_trained_and_collected_once(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text(
        "image,mos,split\ncat.jpg,0.8,train\ncoffee_blurred.jpg,0.2,train\n"
    )
    (tmp_path / "images").symlink_to(EXAMPLES)
    command = [
        *(sys.executable, str(RECIPES / "flaws.py"), "--rated", str(tmp_path), "--clean"),
        *(str(EXAMPLES), "--out", str(tmp_path / "run"), "--chunks", "1", "--steps", "3"),
        *("--aside", "1"),
    ]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, timeout=300) for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert "chunk 1 of 1" in first.stdout and "chunk 1 of 1" not in second.stdout
    for name, outputs in (("technical", 1), ("reasons", 7)):
        state = safetensors.torch.load_file(tmp_path / "run" / f"{name}.safetensors")
        assert state["fc2.bias"].shape == (outputs,)


def test_noise_alone_is_learned_anew_and_in_its_place(tmp_path: Path) -> None:
    rows = ("image,mos,split", "cat.jpg,0.8,train", "coffee.jpg,0.2,train")
    (tmp_path / "scores.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "images").symlink_to(EXAMPLES)
    command = [
        *(sys.executable, str(RECIPES / "saved_noise.py"), "--rated", str(tmp_path), "--clean"),
        *(str(EXAMPLES), "--out", str(tmp_path / "run"), "--chunks", "1", "--steps", "3"),
    ]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, timeout=300) for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert "chunk 1 of 224" in first.stdout and "chunk 1" not in second.stdout
    new = safetensors.torch.load_file(tmp_path / "run" / "reasons.safetensors")
    old = embedded_head("reasons").state_dict()
    assert {key: value.shape for key, value in new.items()} == {
        key: value.shape for key, value in old.items()
    }
    noise = [field.name for field in dataclasses.fields(Reasons)].index("noise")
    others = [row for row in range(len(old["fc2.weight"])) if row != noise]
    kept = (old["fc2.weight"][others] != 0).any(0)
    for key in ("fc1.weight", "fc1.bias"):
        assert torch.equal(new[key][: kept.sum()].float(), old[key][kept])
        assert not torch.equal(new[key].float(), old[key])
    assert torch.equal(new["fc2.weight"][others].float(), old["fc2.weight"][others])
    assert torch.equal(new["fc2.bias"][others].float(), old["fc2.bias"][others])
    assert not new["fc2.weight"][noise, : kept.sum()].any()


def test_a_branch_is_trained_beside_a_fixed_backbone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("qmamba-nano", dims=(8, 16, 16, 16), depths=(1, 1, 1, 1))
    save_model(model, tmp_path / "start.safetensors", metadata=ModelMetadata("t", score=SCALE))
    (tmp_path / "scores.csv").write_text(
        "image,mos,split\ncat.jpg,0.8,train\ncoffee.jpg,0.7,train\n"
        "coffee_blurred.jpg,0.1,val\ncat.jpg,0.8,val\ncoffee.jpg,0.7,val\n"
    )
    (tmp_path / "images").symlink_to(EXAMPLES)
    command = [
        *(sys.executable, str(RECIPES / "branch.py"), "--rated", str(tmp_path), "--clean"),
        *(str(EXAMPLES), "--out", str(tmp_path / "run"), "--chunks", "2", "--contents", "1"),
        *("--backbone", str(tmp_path / "start.safetensors"), "--name", "branched"),
    ]
    first, second = (
        subprocess.run(
            [*command, "--steps", steps], capture_output=True, text=True, timeout=300, cwd=tmp_path
        )
        for steps in ("1", "40")
    )
    assert first.returncode == 0, first.stderr
    assert "ladders_0001" in first.stdout and "ladders_0001" not in second.stdout
    network = load(tmp_path / "run" / "branch.safetensors")
    assert isinstance(network, QMamba) and network.classifier.statistics is not None
    assert network.config.statistics_inputs == STATISTICS
    assert network.metadata is not None and network.metadata.name == "branched"
    assert network.metadata.score is not None and network.metadata.score.name == "test"
    before = load(tmp_path / "start.safetensors").state_dict()
    kept = [key for key in before if not key.startswith("classifier.head.")]
    assert all(torch.equal(before[key], network.state_dict()[key]) for key in kept)
    figures = json.loads((tmp_path / "run" / "report.json").read_text())
    assert figures["before"]["kinds"]["jpeg"] != figures["after"]["kinds"]["jpeg"]


def test_a_backbone_learns_from_a_teacher_alone(tmp_path: Path) -> None:
    timm = timm_or_skip()
    torch.manual_seed(0)
    name = "tf_efficientnet_lite0"
    torch.save(timm.create_model(name).state_dict(), tmp_path / "teacher.pth")
    (tmp_path / "scores.csv").write_text("image,mos,split\ncat.jpg,0.8,train\n")
    (tmp_path / "images").symlink_to(EXAMPLES)
    command = [
        *(sys.executable, str(RECIPES / "robust.py"), "--rated", str(tmp_path), "--clean"),
        *(str(EXAMPLES), "--out", str(tmp_path / "run"), "--steps", "2", "--batch", "1"),
        *("--teacher", name, "--teacher-weights", str(tmp_path / "teacher.pth")),
        *("--features-only", "--model", "qmamba-nano"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    backbone = load(tmp_path / "run" / "robust.safetensors")
    assert backbone.metadata is not None and backbone.metadata.score is None
    assert "no ratings" in backbone.metadata.training["protocol"]


def timm_or_skip():  # type: ignore[no-untyped-def]
    declare_torchvision_operators()
    return pytest.importorskip("timm")
