"""Images that activation quantizers are calibrated on: given ones, or random ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qmamba.errors import DataError, ImageError
from qmamba.images import IMAGE_SUFFIXES, normalize, random_crops, read_image, to_tensor
from qmamba.models.network import Network
from qmamba.models.registry import architecture_of

_FLOATS: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
_LUMA = (0.299, 0.587, 0.114)


def calibration_inputs(
    model: Network,
    folder: Path | None = None,
    *,
    count: int = 16,
    side: int | None = None,
    seed: int = 0,
) -> list[Tensor]:
    """Inputs of a network, one crop each, as :func:`~qmamba.quantization.calibrate` takes them.

    Args:
        model: decides the channels, and whether images are normalized.
        folder: images as the network will be given them, for a restoration network degraded ones;
            folders inside are entered. ``None`` for random ones.
        count: number of crops; one of each image, or several where there are fewer images.
        side: of the crops, in pixels; by default 224 for a quality model and 64 for a restoration
            model, or that of a smaller image.
        seed: of the choice of crops, or of the random images.

    Returns:
        float32 ``(1, channels, height, width)`` each.

    Raises:
        DataError: there is no such folder, or it holds no readable image.
    """
    rates = architecture_of(model).rates
    side = side or (224 if rates else 64)
    channels = 3 if rates else int(getattr(model.config, "channels", 3))
    generator = torch.Generator().manual_seed(seed)
    if folder is None:
        crops = [natural_spectrum(3, side, generator) for _ in range(count)]
    else:
        crops = _crops(folder, count, side, generator)
    if channels == 1:
        luma = torch.tensor(_LUMA, dtype=torch.float32, device="cpu").view(3, 1, 1)
        crops = [(crop * luma).sum(0, keepdim=True) for crop in crops]
    return [(normalize(crop) if rates else crop)[None] for crop in crops]


def natural_spectrum(channels: int, side: int, generator: torch.Generator) -> Tensor:
    """An image of random phases whose amplitudes fall with the frequency, as in photographs.

    Returns:
        float32 ``(channels, side, side)`` in [0, 1]; the channels are alike, but not equal.
    """
    noise = torch.randn(channels + 1, side, side, generator=generator, **_FLOATS)
    # The channels of a photograph have most of their content in common.
    noise = noise[:1] + 0.3 * noise[1:]
    rows, columns = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None]
    frequency = (rows.square() + columns.square()).sqrt().clamp_min(1 / side)
    image = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(side, side))
    mean, deviation = image.mean((1, 2), keepdim=True), image.std((1, 2), keepdim=True)
    middle = 0.3 + 0.4 * torch.rand(1, generator=generator, **_FLOATS)
    return ((image - mean) / deviation.clamp_min(1e-6) * 0.2 + middle).clamp(0, 1)


def _crops(folder: Path, count: int, side: int, generator: torch.Generator) -> list[Tensor]:
    if not folder.is_dir():
        raise DataError(f"There is no folder {str(folder)!r}; check the spelling.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    crops: list[Tensor] = []
    while paths and len(crops) < count:
        path = paths[len(crops) % len(paths)]
        try:
            image = to_tensor(read_image(path).pixels)
        except ImageError:
            paths.remove(path)
            continue
        height, width = image.shape[1:]
        size = min(side, height, width)
        top, left = random_crops(height, width, size, 1, generator)[0]
        crops.append(image[:, top : top + size, left : left + size])
    if not crops:
        raise DataError(f"The folder {str(folder)!r} holds no image that can be read.")
    return crops
