"""Restorer: options, what is kept of an image, tiles and memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from qmamba import Restorer
from qmamba.checkpoints.packed_file import save_quantized
from qmamba.errors import CheckpointError, ConfigError, ImageError, ShapeError
from qmamba.images import ImageLayers, ImageMetadata, read_layers, write_layers
from qmamba.models import ModelMetadata, create_model
from qmamba.quantization import QuantConfig, calibrate, quantize_
from qmamba.restore import Canceled
from tests.images.image_files import srgb_profile
from tests.images.test_encode import exif_block
from tests.images.test_image_layers import noise
from tests.models.micro_mambair import VARIANTS, build
from tests.restore.stand_ins import DEGRADATIONS, StandIn, identity, smooth


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("network", [1, 3])
@pytest.mark.parametrize("tile", ["whole", 16])
def test_nothing_is_lost_by_a_network_that_does_nothing(
    dtype: type, channels: int, network: int, tile: Any
) -> None:
    samples = noise(19, 40, channels, dtype=dtype)
    samples[0, 0, -1] = np.iinfo(dtype).max
    result = Restorer(identity(network), tile=tile).restore(samples)
    with_alpha = channels in (2, 4)
    assert result.pixels.dtype == dtype
    visible = samples[..., -1:] > 0 if with_alpha else np.ones((19, 40, 1), bool)
    colors = samples[..., :-1] if with_alpha else samples
    assert np.array_equal(result.pixels * visible, colors * visible)
    if with_alpha:
        assert result.alpha is not None and np.array_equal(result.alpha, samples[..., -1])
        assert "alpha kept" in result.notes
    else:
        assert result.alpha is None


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (37, 1), (5, 3)])
@pytest.mark.parametrize("name", ["light-x2", "denoise", "jpeg-gray", "light-x3-gray"])
def test_odd_sizes(size: tuple[int, int], name: str) -> None:
    model = build(VARIANTS[name])
    restorer = Restorer(model, tile=16)
    scale = model.config.scale
    result = restorer.restore(noise(*size, 3))
    assert result.pixels.shape == (scale * size[0], scale * size[1], 3)
    assert result.scale == scale and result.task == restorer.task


def test_whole_tiled_and_tensors_agree() -> None:
    samples = smooth(50, 70)
    whole = Restorer(StandIn(), tile="whole").restore(samples)
    tiled = Restorer(StandIn(), tile=32, overlap=8).restore(samples)
    assert whole.tiling == "whole" and whole.notes == ()
    assert tiled.tiling == "6 tiles of 29x29" and tiled.notes == ("6 tiles of 29x29",)
    assert np.abs(whole.pixels.astype(int) - tiled.pixels).max() <= 2
    images = torch.from_numpy(samples).permute(2, 0, 1)[None] / 255
    found = Restorer(StandIn()).restore_tensor(images.repeat(2, 1, 1, 1))
    assert found.shape == (2, 3, 100, 140) and torch.equal(found[0], found[1])
    expected = (found[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(expected, whole.pixels)


def test_file_with_everything_is_kept(tmp_path: Path) -> None:
    metadata = ImageMetadata(exif_block(), b"<x/>", (72, 72), (("Title", "t"),))
    profile = srgb_profile()
    layers = ImageLayers(
        noise(6, 9, 3, dtype=np.uint16), noise(6, 9, dtype=np.uint16, seed=1), profile, metadata
    )
    write_layers(tmp_path / "a.png", layers)
    result = Restorer(StandIn()).restore(tmp_path / "a.png")
    assert result.notes == ("alpha enlarged by bicubic interpolation",)
    assert result.save(tmp_path / "b.png") == ()
    again = read_layers(tmp_path / "b.png")
    assert again.colors.shape == (12, 18, 3) and again.bits == 16
    assert again.alpha is not None and again.profile == profile
    assert again.metadata.xmp == b"<x/>" and again.metadata.texts == (("Title", "t"),)
    exif = Image.Exif()
    exif.load(again.metadata.exif or b"")
    assert exif.get_ifd(0x8769)[0xA002] == 18
    with pytest.raises(ConfigError, match="exists already"):
        result.save(tmp_path / "b.png")
    result.save(tmp_path / "b.png", overwrite=True)


def test_luma_note() -> None:
    assert Restorer(identity(1)).restore(smooth(9, 9)).notes == ("luma restored, chroma kept",)
    notes = Restorer(StandIn(channels=1)).restore(smooth(9, 9)).notes
    assert notes == ("luma restored, chroma enlarged by bicubic interpolation",)


def out_of_memory_above(pixels: int, error: BaseException) -> Callable[[Tensor], Tensor]:
    def check(image: Tensor) -> Tensor:
        if image.shape[2] * image.shape[3] > pixels:
            raise error
        return image

    return check


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried"),
    ],
)
def test_tiles_are_halved_where_memory_runs_out(error: BaseException) -> None:
    model = StandIn()
    model.change = out_of_memory_above(1000, error)
    samples = smooth(64, 64)
    seen: list[tuple[int, int]] = []
    result = Restorer(model, tile="auto").restore(samples, progress=lambda *at: seen.append(at))
    expected = Restorer(StandIn(), tile="whole").restore(samples)
    assert np.abs(result.pixels.astype(int) - expected.pixels).max() <= 2
    assert result.tiling == "9 tiles of 27x27"
    assert result.notes == ("memory ran out, so tiles were made smaller: 9 tiles of 27x27",)
    assert seen == [(done, 9) for done in range(1, 10)]


def test_no_tile_of_a_failed_attempt_is_left() -> None:
    """Memory runs out in the middle of a plan; every pixel comes from the plan that succeeded."""
    model = identity()
    calls = 0

    def late(image: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError
        return torch.zeros_like(image) if calls < 3 else image

    model.change = late
    samples = smooth(70, 70)
    result = Restorer(model, tile=40).restore(samples)
    assert np.array_equal(result.pixels, samples)
    assert "memory ran out" in result.notes[0]


def test_smallest_tile_and_whole_fail_clearly() -> None:
    model = StandIn()
    model.change = out_of_memory_above(0, MemoryError())
    with pytest.raises(ImageError, match=r"too small for 16 x 16 pixels at once$"):
        Restorer(model).restore(smooth(64, 64))
    with pytest.raises(ImageError, match="64 x 64 pixels at once; let the image be divided"):
        Restorer(model, tile="whole").restore(smooth(64, 64))


def test_other_errors_are_not_taken_for_memory() -> None:
    model = StandIn()
    model.change = out_of_memory_above(0, RuntimeError("mat1 and mat2 shapes"))
    with pytest.raises(RuntimeError, match="mat1"):
        Restorer(model).restore(smooth(64, 64))
    assert len(model.calls) == 1


def test_tiles_follow_the_memory_budget() -> None:
    model = StandIn()
    restorer = Restorer(model, memory_budget=50_000_000)
    assert restorer.restore(smooth(60, 60)).tiling == "whole"
    model.calls.clear()
    restorer.memory_budget = 8_000_000
    restorer.restore(smooth(60, 200))
    areas = [height * width for _, _, height, width in model.calls]
    assert len(areas) > 1 and max(areas) < 2000


def test_not_finite_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    model = StandIn()
    model.change = lambda image: image / 0
    with pytest.raises(ImageError, match="not finite"):
        Restorer(model).restore(smooth(9, 9))


def test_progress_and_cancel() -> None:
    model = identity()
    restorer = Restorer(model, tile=16, overlap=4)
    with pytest.raises(Canceled):
        restorer.restore(smooth(50, 50), cancel=lambda: len(model.calls) == 3)
    assert len(model.calls) == 3
    with pytest.raises(Canceled):
        restorer.restore_tensor(torch.zeros(1, 3, 4, 4), cancel=lambda: True)


def test_same_bits_each_time_and_independent_of_the_batch() -> None:
    restorer = Restorer(build(VARIANTS["light-x2"]))
    images = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    first = restorer.restore_tensor(images)
    assert torch.equal(first, restorer.restore_tensor(images))
    assert torch.equal(first[1:], restorer.restore_tensor(images[1:]))


def test_bfloat16_is_near() -> None:
    model = build(VARIANTS["denoise"])
    samples = smooth(24, 24)
    full = Restorer(model).restore(samples).pixels.astype(int)
    half = Restorer(model, precision="bf16").restore(samples).pixels.astype(int)
    assert 0 < np.abs(full - half).max() < 12


def test_quantized_networks_run_as_they_are() -> None:
    config = QuantConfig(weight_bits=4, activation_bits=4, step="ptq")
    model = quantize_(build(VARIANTS["denoise"]), config)
    calibrate(model, [torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))])
    samples = smooth(18, 17)
    result = Restorer(model).restore(samples).pixels
    images = torch.from_numpy(samples).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = (model(images)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(result, expected)
    full = Restorer(build(VARIANTS["denoise"])).restore(samples).pixels
    assert not np.array_equal(result, full)
    weights_alone = Restorer(model, precision="fp32").restore(samples).pixels
    assert not np.array_equal(weights_alone, result) and not np.array_equal(weights_alone, full)


def test_packed_files(tmp_path: Path) -> None:
    model = quantize_(build(VARIANTS["denoise"]), QuantConfig(8, 8, step="ptq"))
    calibrate(model, [torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))])
    degradation = DEGRADATIONS["denoise"]
    metadata = ModelMetadata("packed", training={"degradation": degradation.to_dict()})
    save_quantized(model, tmp_path / "packed.safetensors", metadata)
    restorer = Restorer.from_pretrained(tmp_path / "packed.safetensors", sigma=50)
    assert restorer.purpose == degradation
    samples = smooth(18, 14)
    result, expected = restorer.restore(samples), Restorer(model).restore(samples)
    assert result.model == "packed" and len(result.sha256) == 64
    assert np.abs(result.pixels.astype(int) - expected.pixels).mean() < 2


def test_noise_may_overshoot() -> None:
    images = torch.tensor([-0.3, 0.5, 1.4]).view(1, 1, 1, 3).expand(1, 3, 2, 3)
    found = Restorer(identity()).restore_tensor(images)
    assert torch.equal(found, images.clamp(0, 1))


def test_every_kind_of_image(tmp_path: Path) -> None:
    samples = smooth(6, 8)
    Image.fromarray(samples).save(tmp_path / "a.png")
    restorer = Restorer(StandIn())
    expected = restorer.restore(samples).pixels
    content = (tmp_path / "a.png").read_bytes()
    with open(tmp_path / "a.png", "rb") as stream:
        for image in (
            tmp_path / "a.png",
            str(tmp_path / "a.png"),
            content,
            stream,
            Image.fromarray(samples),
            torch.from_numpy(samples).permute(2, 0, 1),
            ImageLayers(samples),
        ):
            assert np.array_equal(restorer.restore(image).pixels, expected)
    with pytest.raises(ImageError, match="raise max_pixels"):
        Restorer(StandIn(), max_pixels=10).restore(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": "large"}, "tile must be"),
        ({"tile": 8}, "tile must be"),
        ({"overlap": -1}, "overlap"),
        ({"overlap": 1.5}, "overlap"),
        ({"alpha": "drop"}, "alpha"),
        ({"precision": "fp16"}, "precision"),
        ({"memory_budget": 0}, "memory_budget"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Restorer(StandIn(), **options)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 4, 4), "restore_tensor needs images"),
        (torch.zeros(1, 2, 4, 4), "restore_tensor needs images"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "floating-point"),
        (torch.full((1, 3, 4, 4), 255.0), "got 255 to 255; divide"),
        (torch.full((1, 3, 4, 4), torch.nan), "not finite"),
        (np.zeros((1, 3, 4, 4), np.float32), "a torch tensor, got ndarray"),
    ],
)
def test_wrong_tensors(images: Tensor, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Restorer(StandIn()).restore_tensor(images)


def test_quality_models_restore_nothing() -> None:
    with torch.device("meta"):
        model = create_model("qmamba-nano")
    with pytest.raises(CheckpointError, match="QMamba network, which restores nothing"):
        Restorer(model)
    with torch.device("meta"):
        model = create_model("mambair-nano-x2")
    with pytest.raises(ConfigError, match="meta"):
        Restorer(model)
