"""A quality map as an image that people can read: colors over the image and a legend."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from qmamba.assess.maps import QualityMap
from qmamba.assess.views import ImageFile
from qmamba.errors import ConfigError
from qmamba.images import read_image
from qmamba.images.samples import eight_bits

COLORS = (
    "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 3fbc73 5ec962 "
    "84d44b addc30 d8e219 fde725"
)
"""Anchors of the color map viridis from bad to good: its lightness rises evenly, so that it can be
read in gray and by the color-blind. Source: matplotlib (CC0)."""

MAX_SIDE = 1600
"""Longest side of an overlay in pixels."""

_ANCHORS = np.array([tuple(bytes.fromhex(color)) for color in COLORS.split()], np.float32)
_MARGIN = 12
_BAR = 14
_UNSEEN_LIGHT = 0.55


def colorize(quality: QualityMap) -> NDArray[np.uint8]:
    """The map's colors, (rows, columns, 3); black where no view looks.

    The colors span the whole scale of the scores, so that maps of one model can be compared; values
    beyond its ends have the colors of the ends. Bright is good, also where a low score is.
    """
    low, high = quality.score.scale
    share = (quality.values - low) / (high - low)
    if not quality.score.higher_is_better:
        share = 1 - share
    seen = ~np.isnan(share)
    at = np.clip(np.nan_to_num(share), 0, 1) * (len(_ANCHORS) - 1)
    channels = [np.interp(at, range(len(_ANCHORS)), anchors) for anchors in _ANCHORS.T]
    colors: NDArray[np.uint8] = np.where(seen[..., None], np.stack(channels, -1), 0).round()
    return colors.astype(np.uint8)


def overlay(
    image: ImageFile, quality: QualityMap, *, opacity: float = 0.5, regions: int = 3
) -> Image.Image:
    """The map over its image, with a legend below.

    Args:
        image: the file that the map is of.
        quality: from :meth:`~qmamba.assess.Scorer.map`.
        opacity: of the colors, 0 to 1. The image below them is gray, and dark where no view looks.
        regions: how many of the worst regions are framed and numbered.

    Returns:
        RGB, its longest side at most :data:`MAX_SIDE` without the legend.

    Raises:
        ConfigError: the opacity lies outside 0 to 1.
        ImageError: the image cannot be decoded.
    """
    if not 0 <= opacity <= 1:
        raise ConfigError(f"The opacity must be from 0 to 1, got {opacity!r}.")
    pixels = read_image(image, max_pixels=max(1, quality.score.width * quality.score.height)).pixels
    below = Image.fromarray(eight_bits(pixels))
    below.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    gray = np.asarray(below.convert("L"), np.float32)[..., None]
    colors = Image.fromarray(colorize(quality)).resize(below.size, Image.Resampling.NEAREST)
    seen = Image.fromarray(~np.isnan(quality.values)).resize(below.size, Image.Resampling.NEAREST)
    mask = np.asarray(seen)[..., None]
    mixed = np.where(
        mask, (1 - opacity) * gray + opacity * np.asarray(colors, np.float32), _UNSEEN_LIGHT * gray
    )
    body = Image.fromarray(mixed.round().astype(np.uint8))
    _frame(body, quality, regions)
    return _with_legend(body, quality)


def _frame(body: Image.Image, quality: QualityMap, count: int) -> None:
    draw = ImageDraw.Draw(body)
    zoom = body.width / quality.score.width, body.height / quality.score.height
    font = _font(body.width)
    for number, region in enumerate(quality.worst(count), start=1):
        box = (
            region.left * zoom[0],
            region.top * zoom[1],
            (region.left + region.width) * zoom[0] - 1,
            (region.top + region.height) * zoom[1] - 1,
        )
        draw.rectangle(box, outline="black", width=3)
        draw.rectangle(box, outline="white", width=1)
        draw.text(
            (box[0] + 4, box[1] + 2),
            str(number),
            "white",
            font,
            stroke_width=2,
            stroke_fill="black",
        )


def _with_legend(body: Image.Image, quality: QualityMap) -> Image.Image:
    score = quality.score
    font = _font(body.width)
    line = round(font.size * 1.4)
    direction = "higher" if score.higher_is_better else "lower"
    texts = [
        f"score {score.score:.4g}; {direction} is better",
        f"{score.model}, {score.policy}",
    ]
    if np.isnan(quality.values).any():
        texts.append("dark: no view looks there")
    draw = ImageDraw.Draw(body)
    texts = [part for text in texts for part in _wrapped(draw, text, font, body.width)]
    height = 3 * _MARGIN + _BAR + line * (len(texts) + 1)
    sheet = Image.new("RGB", (body.width, body.height + height), "white")
    sheet.paste(body)
    draw = ImageDraw.Draw(sheet)
    left, right = _MARGIN, max(_MARGIN + 1, body.width - _MARGIN)
    top = body.height + _MARGIN
    low, high = score.scale
    ramp = np.linspace(0, len(_ANCHORS) - 1, right - left)
    channels = [np.interp(ramp, range(len(_ANCHORS)), anchors) for anchors in _ANCHORS.T]
    bar = np.stack(channels, -1).round().astype(np.uint8)[None].repeat(_BAR, 0)
    if not score.higher_is_better:
        bar = bar[:, ::-1]
    sheet.paste(Image.fromarray(np.ascontiguousarray(bar)), (left, top))
    mark = left + (right - left) * (score.score - low) / (high - low)
    draw.polygon([(mark, top + 2), (mark - 6, top - 8), (mark + 6, top - 8)], "black")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        text = f"{low + share * (high - low):g}"
        width = draw.textlength(text, font)
        x = min(max(left, left + share * (right - left) - width / 2), max(left, right - width))
        draw.text((x, top + _BAR + 2), text, "black", font)
    for row, text in enumerate(texts, start=1):
        draw.text((left, top + _BAR + 2 + row * line), text, "black", font)
    return sheet


def _wrapped(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int
) -> list[str]:
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and draw.textlength(longer, font) <= width - 2 * _MARGIN:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _font(width: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(min(20, max(11, width // 40)))
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow is built without fonts"
    return font
