"""What can be measured of an image without learning: light, color, noise, sharpness, block edges.

A backbone that has learned what things look like hardly sees how they were compressed: the same cat
at JPEG quality 75 and 25 gives nearly the same features. These statistics see little else. They are
functions of the pixels through which gradients pass, of operations that an exported graph has too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from qmamba.errors import ShapeError
from qmamba.nn.initialization import module_kwargs

STATISTICS = 76
"""Number of statistics of one image. New ones are only ever appended: a trained branch takes the
first ones, as many as it was trained with."""

SMALLEST_SIDE = 32
"""Smaller images have too few blocks of 8 pixels."""

_TINY = 1e-6
_BLOCK = 8
_FAR = 6.0
_ENDS = (1.5, 10.0)
_LEVELS = (0.06, 0.12, 0.18, 0.35, 0.5, 0.65, 0.85, 0.94)


def image_statistics(images: Tensor, count: int = STATISTICS) -> Tensor:
    """The statistics of each image; float32, each of the order of 1, differentiable.

    Light (mean, spread, shadows, highlights), color (saturation, casts), energy of three octaves
    and its spread over the image, noise floor (harmonic mean over blocks), edges with the period of
    the blocks of JPEG in lightness and color, flatness, direction of edges, the moments of locally
    normalized lightness at two scales, the range and distribution of lightness with what is lost at
    its ends, and what haze takes: dark places nearby, local range, purity of color.

    Args:
        images: ``(batch, 3, height, width)`` sRGB in [0, 1], both sides at least
            :data:`SMALLEST_SIDE`.
        count: how many are wanted, the first ones.

    Returns:
        ``(batch, count)``.

    Raises:
        ShapeError: another shape, or smaller sides.

    Source: blocks after Wang, Sheikh and Bovik, "No-reference perceptual quality assessment of
    JPEG compressed images" (ICIP 2002); normalized lightness after Mittal, Moorthy and Bovik,
    "No-reference image quality assessment in the spatial domain" (TIP 2012); dark places nearby
    after He, Sun and Tang, "Single image haze removal using dark channel prior" (CVPR 2009).

    Example::

        >>> image_statistics(torch.rand(2, 3, 64, 48)).shape
        torch.Size([2, 76])
    """
    if images.dim() != 4 or images.shape[1] != 3 or min(images.shape[2:]) < SMALLEST_SIDE:
        raise ShapeError(
            f"Image statistics need images (batch, 3, height, width) with sides of at least "
            f"{SMALLEST_SIDE}, got {tuple(images.shape)}."
        )
    images = images.float()
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    blueness, redness = blue - light, red - light
    found = [
        *_tone(images, light),
        *_color(images, blueness, redness),
        *_octaves(light),
        *_directions(light),
        *_blocks(light, _BLOCK),
        *_blocks(blueness + redness, 2 * _BLOCK),
        *_flatness(light),
        *_normalized_moments(light),
        *_normalized_moments(functional.avg_pool2d(light, 2)),
    ]
    if count > len(found):
        found += [*_range(images, light), *_veil(images)]
    return torch.stack(found[:count], dim=1)


class StatisticsBranch(nn.Module):
    """Two linear layers from the statistics of an image to something that is added to the outputs.

    Args:
        hidden: width between the layers.
        outputs: number of outputs; they start at zero.
        inputs: how many of the statistics it takes, the first ones.
    """

    mean: Tensor
    """What is subtracted from the statistics, ``(inputs,)``; see :meth:`standardize_by`."""
    deviation: Tensor
    """What they are divided by."""

    def __init__(self, hidden: int, outputs: int, inputs: int = STATISTICS) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, outputs)
        self.register_buffer("mean", torch.zeros(inputs, **module_kwargs()))
        self.register_buffer("deviation", torch.ones(inputs, **module_kwargs()))
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    @torch.no_grad()
    def standardize_by(self, statistics: Tensor) -> None:
        """Take mean and deviation from the statistics ``(images, STATISTICS)`` of usual images."""
        taken = statistics[:, : len(self.mean)]
        self.mean.copy_(taken.mean(0))
        self.deviation.copy_(taken.std(0) + 1e-3)

    def forward(self, images: Tensor) -> Tensor:
        """sRGB in [0, 1] ``(batch, 3, height, width)`` to ``(batch, outputs)``."""
        # The statistics reach 14 and matter to hundredths, which bfloat16 does not have.
        with torch.autocast(images.device.type, enabled=False):
            return self.from_statistics(image_statistics(images, len(self.mean)))

    def from_statistics(self, statistics: Tensor) -> Tensor:
        """As a call, from what :func:`image_statistics` gives: ``(..., STATISTICS)``."""
        usual = (statistics[..., : len(self.mean)] - self.mean) / self.deviation
        # A flat image is so far from all others that it would leave the range of training.
        outputs: Tensor = self.fc2(functional.gelu(self.fc1(usual.clamp(-_FAR, _FAR))))
        return outputs


def _mean(values: Tensor) -> Tensor:
    return values.mean((1, 2, 3))


def _log(values: Tensor) -> Tensor:
    # Differences of 8-bit values below one step say nothing.
    return torch.log(values + _TINY)


def _tone(images: Tensor, light: Tensor) -> list[Tensor]:
    mean = _mean(light)
    spread = (_mean(light * light) - mean * mean).clamp_min(0).add(_TINY).sqrt()
    brightest = images.amax(1, keepdim=True)
    coarse = functional.avg_pool2d(light, _BLOCK)
    return [
        2 * mean,
        4 * spread,
        2 * _mean(torch.sigmoid((0.03 - light) / 0.01)),
        2 * _mean(torch.sigmoid((brightest - 0.985) / 0.004)),
        2 * _mean(torch.sigmoid((0.25 - light) / 0.03)),
        2 * _mean(torch.sigmoid((light - 0.75) / 0.03)),
        2 * coarse.amax((1, 2, 3)),
        2 * coarse.amin((1, 2, 3)),
    ]


def _range(images: Tensor, light: Tensor) -> list[Tensor]:
    """How far the lightness reaches, and how it is spread in between."""
    brightest, darkest = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    mean = _mean(light)
    spread = (_mean(light * light) - mean * mean).clamp_min(0).add(_TINY).sqrt()
    # Every other pixel of every other row is enough to know a distribution.
    some = light[:, :, ::2, ::2]
    return [
        4 * _soft_maximum(light, 3),
        4 * _soft_maximum(light, 6),
        4 * _soft_maximum(brightest, 6),
        4 * _soft_maximum(1 - light, 3),
        4 * _soft_maximum(1 - light, 6),
        4 * _soft_maximum(1 - darkest, 6),
        torch.log(mean + 0.02),
        torch.log(spread + 0.01),
        *(2 * _mean(torch.sigmoid((level - some) / 0.02)) for level in _LEVELS),
        *(_log_share(light, steps) for steps in _ENDS),
        *(_log_share(1 - brightest, steps) for steps in _ENDS),
    ]


def _veil(images: Tensor) -> list[Tensor]:
    """What haze and lowered contrast take: dark places nearby, local range, pure color."""
    brightest, darkest = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    local_low = -functional.max_pool2d(-darkest, _BLOCK)
    local_high = functional.max_pool2d(brightest, _BLOCK)
    reach = local_high - local_low
    purity = (brightest - darkest) / (brightest + 0.05)
    return [
        4 * _mean(local_low),
        4 * _mean(local_low * local_low).add(_TINY).sqrt(),
        4 * _mean(local_high),
        torch.log(_mean(reach) + 0.01),
        4 * _mean(purity),
        4 * _soft_maximum(purity, 4),
    ]


def _log_share(values: Tensor, steps: float) -> Tensor:
    """Share of the values below so many of 255 steps, on a scale that tells 1 % from 2 %."""
    return torch.log(_mean(torch.sigmoid(2 * (steps - 255 * values))) + 1e-4) / 2


def _soft_maximum(values: Tensor, doublings: int) -> Tensor:
    """Between the mean and the maximum of values in [0, 1]: the power mean of 2 ** doublings."""
    values = values.clamp_min(0)
    for _ in range(doublings):
        values = values * values
    # ONNX Runtime leaves out the addition of a number as small as this.
    return _mean(values).clamp_min(1e-12) ** (0.5**doublings)


def _color(images: Tensor, blueness: Tensor, redness: Tensor) -> list[Tensor]:
    saturation = images.amax(1, keepdim=True) - images.amin(1, keepdim=True)
    return [
        4 * _mean(saturation),
        4 * _mean(saturation * saturation).add(_TINY).sqrt(),
        8 * _mean(blueness),
        8 * _mean(redness),
        _log(_mean((blueness - _window_sums(blueness, 3) / 9).abs())) / 3,
    ]


def _octaves(light: Tensor) -> list[Tensor]:
    """Energy of detail at 1, 2 and 4 pixels: its mean, its floor and its peak over blocks."""
    found = []
    for _ in range(3):
        diagonal = (
            light[:, :, 1:, 1:]
            - light[:, :, 1:, :-1]
            - light[:, :, :-1, 1:]
            + light[:, :, :-1, :-1]
        )
        detail = light - _local_mean(light, 3)
        blocks = functional.avg_pool2d(diagonal * diagonal, 4) + _TINY
        peaks = functional.avg_pool2d(detail * detail, 4)
        found += [
            _log(_mean(diagonal * diagonal)) / 3,
            _log(_mean(blocks.sqrt()) ** 2) / 3,
            _log(1 / _mean(1 / blocks)) / 3,
            _log(_mean(peaks)) / 3,
            _log(_mean(peaks * peaks)) / 6,
        ]
        light = functional.avg_pool2d(light, 2)
    return found


def _directions(light: Tensor) -> list[Tensor]:
    across = _mean((light[:, :, :, 1:] - light[:, :, :, :-1]) ** 2)
    down = _mean((light[:, :, 1:] - light[:, :, :-1]) ** 2)
    falling = _mean((light[:, :, 1:, 1:] - light[:, :, :-1, :-1]) ** 2)
    rising = _mean((light[:, :, 1:, :-1] - light[:, :, :-1, 1:]) ** 2)
    return [(_log(across) - _log(down)).abs(), (_log(falling) - _log(rising)).abs()]


def _blocks(plane: Tensor, period: int) -> list[Tensor]:
    """How much steps at every ``period``-th pixel stand out, wherever the first one is."""
    found = []
    for turned in (plane, plane.transpose(2, 3)):
        step = (turned[:, :, :, 1:] - turned[:, :, :, :-1]).abs()
        beside = 0.5 * (step[:, :, :, :-2] + step[:, :, :, 2:])
        excess = functional.relu(step[:, :, :, 1:-1] - beside)
        columns = excess.mean((1, 2))
        whole = columns.shape[1] // period * period
        phases = columns[:, :whole].unflatten(1, (-1, period)).mean(1)
        found.append(_log(phases.amax(1)) - _log(phases.mean(1)))
    return [found[0] + found[1], torch.maximum(found[0], found[1])]


def _flatness(light: Tensor) -> list[Tensor]:
    """Share of pixels that continue their neighbors nearly exactly, as quantization leaves them."""
    found = []
    for turned in (light, light.transpose(2, 3)):
        step = turned[:, :, :, 1:] - turned[:, :, :, :-1]
        bend = (step[:, :, :, 1:] - step[:, :, :, :-1]).abs()
        found.append(_mean(torch.exp(-bend * 255)))
        found.append(_mean(torch.exp(-step.abs() * 255)))
    return [found[0] + found[2], found[1] + found[3]]


def _normalized_moments(light: Tensor) -> list[Tensor]:
    mean, power = _local_mean(light, 7), _local_mean(light * light, 7)
    deviation = (power - mean * mean).clamp_min(0).add(_TINY).sqrt()
    normal = (light - mean) / (deviation + 0.01)
    squares = normal * normal
    square = _mean(squares) + 1e-3
    return [
        2 * square.sqrt(),
        2 * _mean(normal.abs()) / square.sqrt(),
        _log(_mean(squares * squares) / square**2),
        2 * _mean(normal[:, :, :, 1:] * normal[:, :, :, :-1]) / square,
        2 * _mean(normal[:, :, 1:] * normal[:, :, :-1]) / square,
        2 * _mean(normal[:, :, 1:, 1:] * normal[:, :, :-1, :-1]) / square,
        2 * _mean(normal[:, :, :, 2:] * normal[:, :, :, :-2]) / square,
    ]


def _local_mean(planes: Tensor, side: int) -> Tensor:
    """The mean of the square window around each pixel, as far as it lies inside the image."""
    inside = torch.ones_like(planes[:1, :1])
    return _window_sums(planes, side) / _window_sums(inside, side)


def _window_sums(planes: Tensor, side: int) -> Tensor:
    """Sums over a square window around each pixel, zero outside: ten times as fast as pooling."""
    reach = side // 2
    for axis, margins in ((2, (0, 0, reach, reach)), (3, (reach, reach))):
        length = planes.shape[axis]
        padded = functional.pad(planes, margins)
        planes = padded.narrow(axis, 0, length)
        for start in range(1, side):
            planes = planes + padded.narrow(axis, start, length)
    return planes
