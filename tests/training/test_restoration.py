from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from qmamba.checkpoints import load
from qmamba.datasets.clean.images import CleanImage, find_clean_images
from qmamba.errors import ConfigError, DataError
from qmamba.models import MambaIR, create_model
from qmamba.quantization import quantization_of, quantizers
from qmamba.restore.degradations import Degradation, enlarge
from qmamba.training import TrainingOptions, train
from qmamba.training.restoration.initial_network import (
    degradation_for,
    prepare_quantized,
    published_crop,
    recorded_degradation,
    restoration_network,
)
from qmamba.training.restoration.interpolation import start_from_interpolation
from qmamba.training.restoration.run import train_restoration
from qmamba.training.restoration.task import CropOptions, RestorationTask
from tests.datasets.images import textured_image

TINY: dict[str, Any] = {"dim": 12, "depths": (1,), "attention_reduction": 4}
OPTIONS = TrainingOptions(
    epochs=None, steps=4, batch_size=2, learning_rate=1e-3, checkpoint_every=2, log_every=2
)
SUPER = Degradation("sr", scale=2)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[CleanImage, ...]:
    folder = tmp_path_factory.mktemp("clean")
    for seed in range(4):
        pixels = textured_image(seed, 40 + 8 * seed, 48)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return find_clean_images([folder])


def lesson(
    images: tuple[CleanImage, ...], degradation: Degradation = SUPER, **options: object
) -> RestorationTask:
    crops = CropOptions(side=12, **options)  # type: ignore[arg-type]
    return RestorationTask(degradation, images[:3], images[3:], crops)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "degradation",
    [
        SUPER,
        Degradation("denoise", sigma=(0, 50)),
        Degradation("jpeg", quality=(10, 50), channels=1),
    ],
    ids=str,
)
def test_examples(images: tuple[CleanImage, ...], degradation: Degradation) -> None:
    task = lesson(images, degradation)
    first, again, other = (task.example(1, seeded(seed)) for seed in (3, 3, 4))
    channels, scale = degradation.channels, degradation.scale
    assert first["degraded"].shape == (channels, 12, 12)
    assert first["clean"].shape == (channels, 12 * scale, 12 * scale)
    assert first["degraded"].dtype == first["clean"].dtype == torch.float32
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["clean"], other["clean"])
    without_memory = lesson(images, degradation, cache_bytes=0).example(1, seeded(3))
    assert all(torch.equal(first[name], without_memory[name]) for name in first)


def test_crops_are_turned_and_small_images_mirrored(tmp_path: Path) -> None:
    Image.fromarray(textured_image(0, 9, 11)).save(tmp_path / "small.png")
    options = CropOptions(side=9)
    task = RestorationTask(
        Degradation("denoise", sigma=(0, 0)), find_clean_images([tmp_path]), (), options
    )
    image = torch.from_numpy(textured_image(0, 9, 11)).permute(2, 0, 1) / 255.0
    turned = [torch.rot90(each, turns, (1, 2)) for each in (image, image.mT) for turns in range(4)]
    windows = [
        each[:, top : top + 9, left : left + 9]
        for each in turned
        for top in range(each.shape[1] - 8)
        for left in range(each.shape[2] - 8)
    ]
    found = {
        place
        for seed in range(120)
        for place, window in enumerate(windows)
        if torch.equal(task.example(0, seeded(seed))["clean"], window)
    }
    assert found == set(range(24))
    large = RestorationTask(
        Degradation("sr", scale=4), find_clean_images([tmp_path]), (), CropOptions(side=16)
    )
    assert large.example(0, seeded(0))["clean"].shape == (3, 64, 64)
    assert large.metric is None and large.evaluate(torch.nn.Identity()) == {}


def test_losses(images: tuple[CleanImage, ...]) -> None:
    batch = {"degraded": torch.zeros(1, 3, 4, 4), "clean": torch.full((1, 3, 4, 4), 0.25)}
    model = torch.nn.Identity()
    assert lesson(images).loss(model, batch).item() == 0.25
    charbonnier = lesson(images, loss="charbonnier").loss(model, batch).item()
    assert charbonnier == pytest.approx((0.25**2 + 1e-6) ** 0.5)
    with pytest.raises(ConfigError, match="loss"):
        CropOptions(loss="l2")
    with pytest.raises(ConfigError, match="side"):
        CropOptions(side=4)
    with pytest.raises(DataError, match="learn from"):
        RestorationTask(SUPER, ())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_interpolating_start_is_bicubic(scale: int) -> None:
    model = create_model("mambair-nano-x2", scale=scale, **TINY)
    assert isinstance(model, MambaIR) and start_from_interpolation(model)
    small = textured_image(7, 16, 18)
    with torch.no_grad():
        restored = model(torch.from_numpy(small).permute(2, 0, 1)[None] / 255.0).clamp(0, 1)
    large = torch.from_numpy(enlarge(small, scale)).permute(2, 0, 1)[None]
    inner = (..., slice(4 * scale, -4 * scale), slice(4 * scale, -4 * scale))
    # Half a level for each of the two roundings of the 8-bit image, more after the second kernel.
    assert (restored * 255 - large)[inner].abs().max() < 1.2
    assert (restored * 255 - large)[inner].mean().abs() < 0.05


def test_other_starts() -> None:
    jpeg = restoration_network("jpeg", seed=1, **TINY)
    gray = torch.rand(1, 1, 9, 9)
    with torch.no_grad():
        assert torch.allclose(jpeg(gray), gray, atol=1e-6)
        random = restoration_network("jpeg", start="random", seed=1, **TINY)
        assert not torch.allclose(random(gray), gray, atol=1e-3)
    narrow = create_model("mambair-nano-x2", **{**TINY, "dim": 11})
    assert isinstance(narrow, MambaIR) and not start_from_interpolation(narrow)
    classic = create_model("mambair-classic-x2", dim=12, depths=(1,), attention_reduction=4)
    assert isinstance(classic, MambaIR) and not start_from_interpolation(classic)


def test_networks_by_task() -> None:
    assert restoration_network("sr").config.scale == 2
    assert restoration_network("sr", 3).config.scale == 3
    assert restoration_network("sr", 5).config.scale == 5
    assert restoration_network(None, name="mambair-nano-x4").config.scale == 4
    assert restoration_network("jpeg").config.channels == 1
    assert restoration_network("denoise", channels=1).config.channels == 1
    for arguments, problem in (
        ((None,), "Say what"),
        (("denoise", 2), "no scale"),
        (("blur",), "task must be"),
    ):
        with pytest.raises(ConfigError, match=problem):
            restoration_network(*arguments)
    with pytest.raises(ConfigError, match="for sr and not for jpeg"):
        restoration_network("jpeg", name="mambair-nano-x2")
    with pytest.raises(ConfigError, match="restores no images"):
        restoration_network(None, name="qmamba-nano")


def test_degradations_and_methods_by_name() -> None:
    denoise, jpeg = restoration_network("denoise"), restoration_network("jpeg")
    assert degradation_for(denoise).sigma == (25, 25)
    assert degradation_for(denoise, sigma="0-50").sigma == (0, 50)
    assert degradation_for(jpeg).quality == (10, 50)
    assert degradation_for(jpeg, quality="40").quality == (40, 40)
    assert [published_crop(Degradation("sr", scale=n)) for n in (2, 3, 4)] == [64, 64, 48]
    for arguments, problem in (
        ((denoise, None, "40"), "no quality"),
        ((jpeg, None, "good"), "reads like"),
        ((jpeg, None, "1-2-3"), "reads like"),
    ):
        with pytest.raises(ConfigError, match=problem):
            degradation_for(*arguments)
    config = quantization_of("w2a4", "rfa")
    assert (config.weight_bits, config.activation_bits) == (2, 4)
    assert (config.weight, config.activation) == ("rfa", "static")
    assert (quantization_of("W8A8").weight, quantization_of("w8a8").activation) == ("rfa", "dls")
    for bits, method, problem in (("4", "dls", "w4a4"), ("w4a4", "best", "method")):
        with pytest.raises(ConfigError, match=problem):
            quantization_of(bits, method)


def test_a_run_and_its_files(images: tuple[CleanImage, ...], tmp_path: Path) -> None:
    task = lesson(images)
    model = restoration_network("sr", seed=0, **TINY)
    result = train_restoration(model, task, OPTIONS, tmp_path, name="tiny", card={"data": "ours"})
    assert result.figures["psnr"] > 15 and not result.interrupted
    record = json.loads((tmp_path / "options.json").read_text())
    assert record["validation"] == ["3"] and record["quantization"] is None
    loaded = load(tmp_path / "model.safetensors")
    assert isinstance(loaded, MambaIR) and loaded.metadata is not None
    assert recorded_degradation(loaded) == SUPER
    assert loaded.metadata.training["data"] == "ours"
    assert loaded.metadata.training["figures"] == result.figures
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))

    with pytest.raises(DataError, match="--resume"):
        train_restoration(model, task, OPTIONS, tmp_path, name="tiny")
    with pytest.raises(DataError, match="another task"):
        other = lesson(images, loss="charbonnier")
        train_restoration(model, other, OPTIONS, tmp_path, name="tiny", resume=True)
    with pytest.raises(ConfigError, match="choose another model"):
        train_restoration(restoration_network("jpeg"), task, OPTIONS, tmp_path / "new", name="tiny")


def test_a_resumed_run_ends_alike(images: tuple[CleanImage, ...], tmp_path: Path) -> None:
    task = lesson(images)
    config = quantization_of("w4a4")

    def network() -> MambaIR:
        model = restoration_network("sr", seed=0, **TINY)
        return prepare_quantized(model, config, task, examples=2)

    whole = train(network(), task, OPTIONS, tmp_path / "whole").model
    checkpoint = tmp_path / "parts" / "checkpoint.pt"

    class KilledError(Exception):
        pass

    def kill(progress: object) -> None:
        if checkpoint.exists():
            raise KilledError

    with pytest.raises(KilledError):
        train(network(), task, replace(OPTIONS, log_every=1), checkpoint.parent, report=kill)
    resumed = train(network(), task, OPTIONS, checkpoint.parent, resume=True).model
    expected, found = whole.state_dict(), resumed.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_quantizers_start_from_examples(images: tuple[CleanImage, ...]) -> None:
    task = lesson(images)
    models = [
        prepare_quantized(
            restoration_network("sr", seed=0, **TINY), quantization_of("w8a8"), task, examples=2
        )
        for _ in range(2)
    ]
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert sum(1 for _ in quantizers(models[0])) > 10
    figures = task.evaluate(models[0].eval())
    plain = task.evaluate(restoration_network("sr", seed=0, **TINY).eval())
    assert abs(figures["psnr"] - plain["psnr"]) < 0.5
    assert np.isfinite(figures["ssim"])
