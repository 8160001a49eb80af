"""Which model is for what, and which embedded weights are taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qmamba import Restorer
from qmamba.checkpoints import describe
from qmamba.errors import CheckpointError, ConfigError
from qmamba.models import ModelMetadata
from qmamba.restore import RestorationRequest, catalog, find_weights
from qmamba.restore.degradations import Degradation
from tests.models.micro_mambair import MICRO, VARIANTS, build
from tests.restore.stand_ins import DEGRADATIONS, save_networks, smooth

EMBEDDED = {
    "quality-model": None,
    "sr-x4": Degradation("sr", 4),
    "sr-x2": Degradation("sr", 2),
    "noise-25": Degradation("denoise", sigma=(25, 25)),
    "noise-any": Degradation("denoise", sigma=(0, 50)),
    "jpeg-low": Degradation("jpeg", quality=(10, 40), channels=1),
}


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    purposes = {name: purpose for name, purpose in EMBEDDED.items() if purpose is not None}
    monkeypatch.setattr(catalog, "embedded_purposes", lambda: purposes)


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ({}, "sr-x2"),
        ({"task": "sr"}, "sr-x2"),
        ({"scale": 4}, "sr-x4"),
        ({"task": "denoise"}, "noise-any"),
        ({"sigma": 25}, "noise-25"),
        ({"sigma": 24.5}, "noise-any"),
        ({"task": "jpeg"}, "jpeg-low"),
        ({"task": "jpeg", "quality": 40}, "jpeg-low"),
    ],
)
def test_embedded_weights(embedded: None, wanted: dict[str, Any], name: str) -> None:
    assert find_weights(RestorationRequest(**wanted)) == name


@pytest.mark.parametrize(
    ("wanted", "asked"),
    [
        ({"scale": 3}, "sr scale 3"),
        ({"scale": 5}, "sr scale 5"),
        ({"sigma": 51}, "denoise sigma 51"),
        ({"quality": 90}, "jpeg quality 90"),
    ],
)
def test_no_embedded_weights(embedded: None, wanted: dict[str, Any], asked: str) -> None:
    with pytest.raises(CheckpointError, match=f"no embedded weights for {asked}") as raised:
        find_weights(RestorationRequest(**wanted))
    named = {p.task for name, p in EMBEDDED.items() if p is not None and name in str(raised.value)}
    assert named == {asked.split()[0]}
    assert ("sr-x4 (super-resolution x4)" in str(raised.value)) == ("scale" in wanted)
    assert ("leave the strength out" in str(raised.value)) == ("scale" not in wanted)


def test_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "list_weights", list)
    with pytest.raises(CheckpointError, match="there are none for this task: give"):
        Restorer.from_pretrained(task="jpeg")


@pytest.mark.parametrize(
    "wanted",
    [{"task": "sr", "sigma": 3}, {"task": "denoise", "scale": 2}, {"task": "jpeg", "sigma": 5}],
)
def test_contradictions(wanted: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="belongs to the task"):
        RestorationRequest(**wanted)
    with pytest.raises(ConfigError, match="belongs to the task"):
        Restorer.from_pretrained(**wanted)


@pytest.mark.parametrize(
    "wanted", [{"scale": "2"}, {"sigma": "a"}, {"sigma": np.nan}, {"quality": 1.5}]
)
def test_values_that_are_no_numbers(wanted: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"The {next(iter(wanted))} must be"):
        Restorer.from_pretrained(**wanted)


def test_embedded_files_are_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = save_networks(tmp_path)
    (tmp_path / "other.safetensors").write_bytes(b"no safetensors file at all")
    names = {path.stem: path for path in tmp_path.glob("*.safetensors")}
    monkeypatch.setattr(catalog, "list_weights", lambda: list(names))
    monkeypatch.setattr(catalog, "describe", lambda name: describe(names[name]))
    assert catalog.embedded_purposes() == {
        paths[task].stem: degradation for task, degradation in DEGRADATIONS.items()
    }
    assert find_weights(RestorationRequest(sigma=10)) == "tiny-denoise"


def test_real_embedded_weights_can_be_described() -> None:
    assert "qmamba-nano-biq2021" not in catalog.embedded_purposes()


def test_named_weights_must_fit_the_wish(tmp_path: Path) -> None:
    paths = save_networks(tmp_path)
    restorer = Restorer.from_pretrained(paths["denoise"], sigma=30)
    assert restorer.purpose == DEGRADATIONS["denoise"]
    assert (restorer.task, restorer.scale) == ("denoise", 1)
    assert Restorer.from_pretrained(paths["sr"], task="sr", scale=2).scale == 2
    assert not any(p.requires_grad for p in restorer.model.parameters())
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("denoise", {"task": "jpeg"}, "is for denoising, sigma 0 to 50, not for jpeg"),
        ("denoise", {"sigma": 60}, "is for denoising, sigma 0 to 50; leave"),
        ("sr", {"scale": 4}, "enlarges by 2, not by 4"),
        ("jpeg", {"quality": 95}, "quality 10 to 40; leave"),
    ]
    for task, wanted, message in refused:
        with pytest.raises(ConfigError, match=message):
            Restorer.from_pretrained(paths[task], **wanted)


def test_official_checkpoints(tmp_path: Path) -> None:
    model = build(VARIANTS["classic-x3"])
    torch.save({"params": model.state_dict()}, tmp_path / "official.pth")
    restorer = Restorer.from_pretrained(tmp_path / "official.pth", scale=3)
    assert (restorer.task, restorer.scale, restorer.purpose) == ("sr", 3, None)
    samples = smooth(12, 10)
    result = restorer.restore(samples)
    assert np.array_equal(result.pixels, Restorer(model).restore(samples).pixels)
    assert result.model == "official" and len(result.sha256) == 64


def test_purposes_that_are_not_stated() -> None:
    assert catalog.purpose_of(None) is None
    assert catalog.purpose_of(ModelMetadata("m")) is None
    for stored in ({"task": "sr"}, "sr", {**DEGRADATIONS["sr"].to_dict(), "scale": "2"}):
        assert catalog.purpose_of(ModelMetadata("m", training={"degradation": stored})) is None


def test_tasks_of_networks() -> None:
    tasks = [VARIANTS[name].task_name for name in ("real-x4", "denoise", "jpeg-gray")]
    assert tasks == ["sr", "denoise", "jpeg"]
    catalog.check_request(RestorationRequest(quality=3), VARIANTS["jpeg-gray"], None)
    with pytest.raises(ConfigError, match="The model is for sr, not for denoise"):
        catalog.check_request(RestorationRequest(sigma=3), MICRO, None)
