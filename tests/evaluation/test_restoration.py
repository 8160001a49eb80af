from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from qmamba.datasets.clean.test_sets import RestorationSet, find_restoration_set
from qmamba.errors import ConfigError, ShapeError
from qmamba.evaluation.restoration.benchmark import benchmark_pair, evaluate_set
from qmamba.evaluation.restoration.cost import network_cost
from qmamba.evaluation.restoration.modes import official_tiling
from qmamba.evaluation.restoration.protocol import judge, psnr_b, round_to_8_bits
from qmamba.models import count_flops, create_model, model_config
from qmamba.models.mambair.config import MambaIRConfig
from qmamba.quantization import QuantConfig
from qmamba.restore.degradations import Degradation, jpeg, video_luma
from qmamba.restore.ensemble import self_ensemble
from tests.datasets.images import textured_image


def batch(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).unsqueeze(0) / 255.0


def test_luma_without_a_border_is_compared() -> None:
    clean = textured_image(0, 40, 44)
    damaged = clean.copy()
    damaged[2:-2, 2:-2, 1] += 5
    found = judge(batch(damaged), clean, border=2)
    error = 128.553 / 255 * 5
    assert found.psnr == pytest.approx(20 * math.log10(255 / error), abs=1e-6)
    damaged[:2] = 0
    assert judge(batch(damaged), clean, border=2) == found
    assert judge(batch(damaged), clean).psnr < found.psnr
    assert judge(batch(clean), clean).psnr == math.inf
    with pytest.raises(ShapeError, match="original"):
        judge(batch(clean), clean[:-1])


def test_results_are_rounded_to_even_and_cut() -> None:
    values = torch.tensor([-0.2, 0.5 / 255, 1.5 / 255, 1.4999 / 255, 1.7], dtype=torch.float64)
    assert (round_to_8_bits(values) * 255).tolist() == [0, 0, 2, 1, 255]
    clean = np.full((20, 20, 1), 100, np.uint8)
    noisy = batch(clean) + 0.4 / 255
    assert judge(noisy, clean).psnr == math.inf
    assert judge(noisy, clean, rounded=False).psnr == pytest.approx(
        20 * math.log10(255 / 0.4), 1e-4
    )


def blocking_effect_by_loops(image: NDArray[np.float64]) -> float:
    height, width = image.shape
    at, within = 0.0, 0.0
    for y in range(height):
        for x in range(width - 1):
            step = (image[y, x] - image[y, x + 1]) ** 2
            at, within = (at + step, within) if x % 8 == 7 else (at, within + step)
    for y in range(height - 1):
        for x in range(width):
            step = (image[y, x] - image[y + 1, x]) ** 2
            at, within = (at + step, within) if y % 8 == 7 else (at, within + step)
    edges = height * (width // 8 - 1) + width * (height // 8 - 1)
    others = height * (width - 1) + width * (height - 1) - edges
    if at / edges <= within / others:
        return 0.0
    return math.log2(8) / math.log2(min(height, width)) * (at / edges - within / others)


@pytest.mark.parametrize("shape", [(32, 40), (29, 19)])
def test_blocks_count_as_errors(shape: tuple[int, int]) -> None:
    clean = textured_image(1, *shape)[..., 0]
    blocky = jpeg(clean, 5)
    first, second = (torch.from_numpy(each / 255.0)[None, None] for each in (blocky, clean))
    error = ((blocky / 255.0 - clean / 255.0) ** 2).mean() + blocking_effect_by_loops(blocky / 255)
    assert blocking_effect_by_loops(blocky / 255) > 0
    assert psnr_b(first, second).item() == pytest.approx(-10 * math.log10(error), abs=1e-9)
    with pytest.raises(ShapeError, match="gray"):
        psnr_b(first.expand(1, 3, -1, -1), second.expand(1, 3, -1, -1))


def enlarging(scale: int, seen: list[tuple[int, int]] | None = None) -> object:
    def network(images: Tensor) -> Tensor:
        if seen is not None:
            seen.append((images.shape[2], images.shape[3]))
        return F.interpolate(images, scale_factor=scale, mode="nearest")

    return network


def test_official_tiles() -> None:
    images = torch.rand(1, 2, 401, 230)
    seen: list[tuple[int, int]] = []
    restored = official_tiling(enlarging(2, seen), images, 2)  # type: ignore[arg-type]
    assert (restored == F.interpolate(images, scale_factor=2, mode="nearest")).all()
    # Three tiles of 134 rows and two of 115 columns, and a tenth more at inner borders.
    rows, columns = (134 + 13, 134 + 26, 134 + 13), (115 + 11, 115 + 11)
    assert seen == [(height, width) for height in rows for width in columns]
    seen.clear()
    official_tiling(enlarging(2, seen), images[..., :199, :199], 2)  # type: ignore[arg-type]
    assert seen == [(199, 199)]


def test_ensemble_turns_everything_back() -> None:
    images = torch.rand(1, 1, 5, 7)
    assert torch.allclose(
        self_ensemble(enlarging(2), images),  # type: ignore[arg-type]
        F.interpolate(images, scale_factor=2, mode="nearest"),
    )
    kernel = torch.rand(1, 1, 3, 3)
    mean = self_ensemble(lambda x: F.conv2d(x, kernel, padding=1), images)
    turned = [
        torch.rot90(each, turns, (2, 3)) for each in (kernel, kernel.mT) for turns in range(4)
    ]
    symmetric = torch.stack(turned).mean(0)
    assert torch.allclose(mean, F.conv2d(images, symmetric, padding=1), atol=1e-6)


@pytest.fixture
def images(tmp_path: Path) -> RestorationSet:
    for seed in range(2):
        Image.fromarray(textured_image(seed, 33, 38)).save(tmp_path / f"{seed}.png")
    Image.fromarray(textured_image(2, 33, 38)[..., 0]).save(tmp_path / "gray.png")
    return RestorationSet("ours", tuple(sorted(tmp_path.iterdir())))


def test_a_set_with_a_network(images: RestorationSet) -> None:
    degradation = Degradation("sr", scale=2)
    seen: list[int] = []
    nearest = evaluate_set(
        enlarging(2),  # type: ignore[arg-type]
        images,
        degradation,
        report=lambda done, total: seen.append(done),
    )
    bicubic = evaluate_set(None, images, degradation)
    assert bicubic.names == ("0", "1", "gray") and seen == [1, 2, 3]
    assert bicubic.mean.psnr > nearest.mean.psnr > 15
    assert nearest.mean.psnr == pytest.approx(sum(each.psnr for each in nearest.images) / 3)
    whole = evaluate_set(create_model("mambair-nano-x2"), images, degradation, mode="official")
    assert len(whole.images) == 3
    with pytest.raises(ConfigError, match="mode"):
        evaluate_set(None, images, degradation, mode="tiles")


def test_jpeg_is_judged_on_luma_and_with_blocks(images: RestorationSet) -> None:
    degradation = Degradation("jpeg", quality=(10, 10), channels=1)
    clean, degraded = benchmark_pair(images.paths[0], degradation)
    luma = video_luma(textured_image(0, 33, 38))
    assert (clean[..., 0] == luma).all()
    assert (degraded[..., 0] * 255 == jpeg(luma, 10)).all()
    gray, _ = benchmark_pair(images.paths[2], degradation)
    assert (gray[..., 0] == textured_image(2, 33, 38)[..., 0]).all()
    mean = evaluate_set(None, images, degradation).mean
    assert mean.psnr_b is not None and mean.psnr_b < mean.psnr


PUBLISHED_INPUTS = (
    ("Set5", Degradation("sr", scale=2), 33.67, 0.9303),
    ("Set5", Degradation("sr", scale=3), 30.40, 0.8689),
    ("Set5", Degradation("sr", scale=4), 28.43, 0.8111),
    ("Classic5", Degradation("jpeg", quality=(10, 10), channels=1), 27.82, 0.7595),
    ("Classic5", Degradation("jpeg", quality=(20, 20), channels=1), 30.12, 0.8344),
    ("Classic5", Degradation("jpeg", quality=(30, 30), channels=1), 31.48, 0.8666),
    ("Classic5", Degradation("jpeg", quality=(40, 40), channels=1), 32.43, 0.8849),
)


@pytest.mark.parametrize(("name", "degradation", "psnr", "ssim"), PUBLISHED_INPUTS)
def test_published_inputs(
    shared: Path, name: str, degradation: Degradation, psnr: float, ssim: float
) -> None:
    found = find_restoration_set(name, shared / "data" / "sr")
    assert found is not None
    mean = evaluate_set(None, found, degradation).mean
    assert mean.psnr == pytest.approx(psnr, abs=0.005)
    assert mean.ssim == pytest.approx(ssim, abs=5e-5)


@pytest.mark.parametrize(("sigma", "psnr"), [(15.0, 24.613), (25.0, 20.176), (50.0, 14.155)])
def test_published_noise(shared: Path, sigma: float, psnr: float) -> None:
    # McMaster, for which these are published, has images of the same size and so the same noise.
    found = find_restoration_set("Kodak24", shared / "data" / "sr")
    assert found is not None
    first = RestorationSet("one", found.paths[:1])
    mean = evaluate_set(None, first, Degradation("denoise", sigma=(sigma, sigma))).mean
    assert mean.psnr == pytest.approx(psnr, abs=5e-4)


def test_cost_in_full_precision_and_at_few_bits() -> None:
    config = model_config("mambair-light-x4")
    assert isinstance(config, MambaIRConfig)
    full = network_cost(config)
    macs = count_flops(config, 180, 320).total
    assert (full.parameters, full.weight_bits, full.macs) == (924_492, 32, macs)
    assert full.bops == macs * 1024
    few = network_cost(config, QuantConfig(weight_bits=4, activation_bits=4), file_bytes=7)
    # The quantized weights of this network are known: each meets every pixel once.
    assert few.bops == (macs - 755_568 * 180 * 320) * 1024 + 755_568 * 180 * 320 * 16
    assert (few.weight_bits, few.bytes, few.macs) == (4, 7, macs)
    mixed = QuantConfig(overrides={"*.x_proj": {"weight_bits": 8, "activation_bits": 8}})
    assert few.bops < network_cost(config, mixed).bops < full.bops
