"""Statistics of natural scenes: what can be told of an image's quality without learning a network.

`brisque_features` follows Mittal, Moorthy and Bovik, "No-Reference Image Quality Assessment in the
Spatial Domain", IEEE Transactions on Image Processing 21(12), 2012, sections III-A and III-B.
`image_statistics` gathers older one-number measures of sharpness, color, exposure and artifacts.
Both take images as `(batch, 3, height, width)` tensors in [0, 1] and work in gray levels of
0..255, where the constants of the papers are meant.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from qmamba.errors import ImageError, ShapeError
from qmamba.evaluation.metrics.generalized_gaussian import (
    fit_asymmetric_gaussian,
    fit_generalized_gaussian,
    quotient_or_zero,
)

_PRODUCT_NAMES = tuple(
    f"{direction}_{parameter}"
    for direction in ("horizontal", "vertical", "diagonal", "antidiagonal")
    for parameter in ("shape", "mean", "left_variance", "right_variance")
)

BRISQUE_NAMES: tuple[str, ...] = tuple(
    f"scale{scale}_{name}" for scale in (1, 2) for name in ("shape", "variance", *_PRODUCT_NAMES)
)
"""Names of the 36 columns of `brisque_features`, in the order of the paper's tables I and II."""

STATISTIC_NAMES: tuple[str, ...] = (
    "log_laplacian_1",
    "log_laplacian_2",
    "log_laplacian_3",
    "gradient_mean",
    "gradient_deviation",
    "gradient_skew",
    "gradient_kurtosis",
    "colorfulness",
    "luma_mean",
    "luma_contrast",
    "luma_entropy",
    "luma_skew",
    "saturation_mean",
    "saturation_deviation",
    "dark_share",
    "bright_share",
    "local_contrast_mean",
    "local_contrast_spread",
    "spectral_slope",
    "blockiness",
    "noise",
)
"""Names of the columns of `image_statistics`."""

_GRAY_LEVELS = 255.0
_WINDOW_RADIUS = 3
_WINDOW_DEVIATION = 7.0 / 6.0
_RANGE_TOLERANCE = 1e-3
_ROUNDING = 1e-4
_DARK_LEVEL = 8.0
_BRIGHT_LEVEL = 247.0
_BLOCK = 8


@torch.no_grad()
def brisque_features(images: Tensor, *, antialias: bool = True) -> Tensor:
    """The 36 BRISQUE features of each image (Mittal et al. 2012, section III).

    `images` is `(batch, 3, height, width)`, floating, sRGB in [0, 1], any size from 1x1 on. The
    result is `(batch, 36)`, float64 for float64 images and float32 for all others; columns are
    `BRISQUE_NAMES`: on the full size and on the half size, shape and variance of the generalized
    Gaussian of the normalized luma, then shape, mean and both variances of the asymmetric one for
    the products of the horizontal, vertical, diagonal and antidiagonal neighbors.

    `antialias` chooses how the image is halved: True low-passes it first, as the paper says
    (bicubic, stretched to the step); False is plain bicubic interpolation, as in OpenCV's version,
    which keeps more of the finest detail in the second scale.

    Shapes lie in [0.2, 10]; a flat image, whose maps are all zero, has shape 0.2 and variance 0.
    Raises ShapeError for another form and ImageError for values outside [0, 1] or not finite.
    """
    luma = _luma(_checked(images))
    columns: list[Tensor] = []
    for scale_luma in (luma, _halved(luma, antialias)):
        normalized = _normalized(scale_luma)
        columns += fit_generalized_gaussian(normalized.flatten(1))
        for product in _neighbor_products(normalized):
            columns += fit_asymmetric_gaussian(product.flatten(1))
    return torch.stack(columns, dim=1)


@torch.no_grad()
def image_statistics(images: Tensor) -> Tensor:
    """Low-level statistics of each image, one column per entry of `STATISTIC_NAMES`.

    `images` and the dtype of the result are as for `brisque_features`; the result is `(batch, 21)`.
    Luma is in gray levels 0..255.

    - `log_laplacian_k`: natural logarithm of the mean squared 4-neighbor Laplacian, floor 1e-3, of
      the luma halved k - 1 times.
    - `gradient_*`: mean, deviation, skew and excess kurtosis of the length of the
      central-difference gradient.
    - `colorfulness`: Hasler and Suesstrunk, "Measuring colorfulness in natural images", 2003.
    - `luma_*`: mean, deviation, entropy in bits of the 256-bin histogram, skew.
    - `saturation_*`: mean and deviation of (max - min) / max over the channels, 0..1.
    - `dark_share`, `bright_share`: share of pixels with luma below 8 or above 247, 0..1.
    - `local_contrast_*`: mean of the deviation in the 7x7 Gaussian window, and that map's deviation
      over its mean (0 on a flat image).
    - `spectral_slope`: slope of log power over log frequency (about -2 on natural scenes); 0 for
      images with a side below 4 pixels.
    - `blockiness`: logarithm of the mean step across the 8-pixel grid that starts at the top left
      corner, over the mean step elsewhere; 0 where no grid line lies in the image.
    - `noise`: deviation of the noise after Immerkaer, "Fast noise variance estimation", 1996.

    Raises ShapeError for another form and ImageError for values outside [0, 1] or not finite.
    """
    images = _checked(images)
    luma = _luma(images)
    half = _halved(luma)
    gradient = _gradient_length(luma).flatten(1)
    gradient_mean, gradient_deviation, gradient_skew, gradient_kurtosis = _moments(gradient)
    luma_mean, luma_contrast, luma_skew, _ = _moments(luma.flatten(1))
    saturation_mean, saturation_deviation = _saturation(images)
    local_contrast = _local_moments(luma)[1].to(luma.dtype).flatten(1)
    local_mean = local_contrast.mean(dim=1)
    local_deviation = local_contrast.std(dim=1, correction=0)
    columns = (
        _log_laplacian(luma),
        _log_laplacian(half),
        _log_laplacian(_halved(half)),
        gradient_mean,
        gradient_deviation,
        gradient_skew,
        gradient_kurtosis,
        _colorfulness(images),
        luma_mean,
        luma_contrast,
        _entropy(luma),
        luma_skew,
        saturation_mean,
        saturation_deviation,
        (luma < _DARK_LEVEL).to(luma.dtype).mean(dim=(1, 2)),
        (luma > _BRIGHT_LEVEL).to(luma.dtype).mean(dim=(1, 2)),
        local_mean,
        quotient_or_zero(local_deviation, local_mean, floor=1e-2),
        _spectral_slope(luma),
        _blockiness(luma),
        _noise(luma),
    )
    return torch.stack(columns, dim=1)


def _checked(images: Tensor) -> Tensor:
    if images.ndim != 4 or images.shape[1] != 3 or images.numel() == 0:
        raise ShapeError(
            f"image statistics need a non-empty tensor (batch, 3, height, width), got "
            f"{tuple(images.shape)}; repeat a gray channel three times and drop an alpha channel"
        )
    if not images.is_floating_point():
        raise ShapeError(
            f"image statistics need floating-point images in [0, 1], got {images.dtype}; "
            "convert with images.float() / 255"
        )
    low, high = (float(value) for value in torch.aminmax(images))
    if not (low >= -_RANGE_TOLERANCE and high <= 1.0 + _RANGE_TOLERANCE):
        raise ImageError(
            f"image statistics need finite pixel values in [0, 1], got {low:g} to {high:g}; "
            "scale the images first"
        )
    return images if images.dtype == torch.float64 else images.float()


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(dim=1)
    return (0.299 * red + 0.587 * green + 0.114 * blue) * _GRAY_LEVELS


def _halved(luma: Tensor, antialias: bool = True) -> Tensor:
    height, width = luma.shape[-2:]
    return functional.interpolate(
        luma.unsqueeze(1),
        size=((height + 1) // 2, (width + 1) // 2),
        mode="bicubic",
        antialias=antialias,
        align_corners=False,
    ).squeeze(1)


def _padded(luma: Tensor, radius: int) -> Tensor:
    return functional.pad(luma.unsqueeze(1), (radius,) * 4, mode="replicate").squeeze(1)


def _local_moments(luma: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation in the 7x7 Gaussian window, borders replicated; both float64."""
    # In float32 the difference of squares would see a contrast of 0.05 gray levels on flat sky.
    padded = _padded(luma.double(), _WINDOW_RADIUS)
    mean = _smoothed(padded)
    return mean, (_smoothed(padded.square()) - mean.square()).clamp(min=0).sqrt()


def _smoothed(padded: Tensor) -> Tensor:
    """Separable Gaussian window as sums of shifted views, far faster than a 1-channel conv."""
    offsets = range(-_WINDOW_RADIUS, _WINDOW_RADIUS + 1)
    weights = [math.exp(-0.5 * (offset / _WINDOW_DEVIATION) ** 2) for offset in offsets]
    total = sum(weights)
    result = padded
    for dimension in (1, 2):
        length = result.shape[dimension] - 2 * _WINDOW_RADIUS
        views = [result.narrow(dimension, start, length) for start in range(len(weights))]
        result = views[_WINDOW_RADIUS] * (weights[_WINDOW_RADIUS] / total)
        for start in range(_WINDOW_RADIUS):
            result.add_(views[start] + views[-1 - start], alpha=weights[start] / total)
    return result


def _normalized(luma: Tensor) -> Tensor:
    """Mean-subtracted, contrast-normalized coefficients (Mittal et al. 2012, equations 1 to 3)."""
    mean, deviation = _local_moments(luma)
    # The paper's C = 1, in gray levels, keeps flat regions finite.
    normalized = ((luma - mean) / (deviation + 1.0)).to(luma.dtype)
    # One gray level in the corner of the window gives 1.6e-4: what is smaller is rounding, and its
    # signs would count as samples of either side in the asymmetric fits.
    return torch.where(normalized.abs() < _ROUNDING, torch.zeros_like(normalized), normalized)


def _neighbor_products(normalized: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        normalized[:, :, :-1] * normalized[:, :, 1:],
        normalized[:, :-1] * normalized[:, 1:],
        normalized[:, :-1, :-1] * normalized[:, 1:, 1:],
        normalized[:, :-1, 1:] * normalized[:, 1:, :-1],
    )


def _moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, deviation, skew and excess kurtosis of `(batch, n)`; the last two are 0 if flat."""
    mean = values.mean(dim=1)
    centered = values - mean.unsqueeze(1)
    square = centered.square()
    variance = square.mean(dim=1)
    skew = quotient_or_zero((square * centered).mean(dim=1), variance.pow(1.5), floor=1e-3)
    kurtosis = quotient_or_zero(square.square().mean(dim=1), variance.square(), floor=1e-4)
    excess = torch.where(kurtosis > 0, kurtosis - 3.0, kurtosis)
    return mean, variance.sqrt(), skew, excess


def _log_laplacian(luma: Tensor) -> Tensor:
    padded = _padded(luma, 1)
    neighbors = (
        padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    )
    return torch.log((neighbors - 4.0 * luma).square().mean(dim=(1, 2)) + 1e-3)


def _gradient_length(luma: Tensor) -> Tensor:
    padded = _padded(luma, 1)
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    right = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    return 0.5 * (down.square() + right.square()).sqrt()


def _colorfulness(images: Tensor) -> Tensor:
    red, green, blue = (images * _GRAY_LEVELS).flatten(2).unbind(dim=1)
    opponents = torch.stack((red - green, 0.5 * (red + green) - blue), dim=1)
    spread = opponents.var(dim=2, correction=0).sum(dim=1).sqrt()
    cast = opponents.mean(dim=2).square().sum(dim=1).sqrt()
    return spread + 0.3 * cast


def _saturation(images: Tensor) -> tuple[Tensor, Tensor]:
    high, low = images.amax(dim=1), images.amin(dim=1)
    saturation = quotient_or_zero(high - low, high, floor=1e-6).flatten(1)
    return saturation.mean(dim=1), saturation.std(dim=1, correction=0)


def _entropy(luma: Tensor) -> Tensor:
    batch = luma.shape[0]
    levels = luma.round().clamp(0, _GRAY_LEVELS).long().flatten(1)
    images = torch.arange(batch, dtype=torch.int64, device=luma.device).unsqueeze(1)
    shifted = levels + 256 * images
    histogram = torch.bincount(shifted.flatten(), minlength=256 * batch).view(batch, 256)
    share = histogram.to(luma.dtype) / levels.shape[1]
    return -torch.special.xlogy(share, share).sum(dim=1) / math.log(2.0)


@lru_cache(maxsize=8)
def _slope_weights(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Hann window of the image, and the map whose dot product with log power is the slope.

    Weighted least squares on log frequency; the weight 1 / f gives every ring the same say.
    """
    rows = torch.hann_window(height, periodic=False, dtype=torch.float64, device=device)
    columns = torch.hann_window(width, periodic=False, dtype=torch.float64, device=device)
    vertical = torch.fft.fftfreq(height, dtype=torch.float64, device=device).unsqueeze(1)
    horizontal = torch.fft.rfftfreq(width, dtype=torch.float64, device=device).unsqueeze(0)
    frequency = (vertical.square() + horizontal.square()).sqrt()
    # Below two cycles a side the window leaks the mean; above 0.5 only the corners have samples.
    used = (frequency >= 2.0 / min(height, width)) & (frequency <= 0.5)
    weight = torch.where(used, 1.0 / frequency.clamp(min=1e-9), torch.zeros_like(frequency))
    log_frequency = frequency.clamp(min=1e-9).log()
    centered = log_frequency - (weight * log_frequency).sum() / weight.sum()
    covariance = weight * centered
    window = rows.unsqueeze(1) * columns.unsqueeze(0)
    return window.float(), covariance / (covariance * centered).sum().clamp(min=1e-12)


def _spectral_slope(luma: Tensor) -> Tensor:
    height, width = luma.shape[-2:]
    if min(height, width) < 4:
        return luma.new_zeros(luma.shape[0])
    window, weights = _slope_weights(height, width, luma.device)
    centered = (luma - luma.mean(dim=(1, 2), keepdim=True)) * window.to(luma.dtype)
    # The floor is far below the power of 8-bit rounding noise and keeps flat images at slope 0.
    power = torch.fft.rfft2(centered, norm="ortho").abs().square() + 1e-4
    return (power.log() * weights.to(luma.dtype)).sum(dim=(1, 2))


def _blockiness(luma: Tensor) -> Tensor:
    across, elsewhere = luma.new_zeros(2, luma.shape[0]).unbind()
    across_count = elsewhere_count = 0
    for step in (luma.diff(dim=2).abs().sum(dim=1), luma.diff(dim=1).abs().sum(dim=2)):
        length = step.shape[1]
        lines = step[:, _BLOCK - 1 :: _BLOCK]
        grid = lines.sum(dim=1)
        across = across + grid
        elsewhere = elsewhere + step.sum(dim=1) - grid
        other_side = luma[0].numel() // (length + 1)
        across_count += lines.shape[1] * other_side
        elsewhere_count += (length - lines.shape[1]) * other_side
    if across_count == 0:
        return luma.new_zeros(luma.shape[0])
    # A tenth of a gray level keeps the quotient of two almost flat sides at 1.
    return torch.log((across / across_count + 0.1) / (elsewhere / elsewhere_count + 0.1))


def _noise(luma: Tensor) -> Tensor:
    padded = _padded(luma, 1)
    rows = padded[:, :-2] - 2.0 * padded[:, 1:-1] + padded[:, 2:]
    response = rows[:, :, :-2] - 2.0 * rows[:, :, 1:-1] + rows[:, :, 2:]
    return math.sqrt(0.5 * math.pi) / 6.0 * response.abs().mean(dim=(1, 2))
