"""Contact sheets: a few images with their figures on one page, as an image file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from qmamba.assess import ImageRow
from qmamba.errors import ConfigError, ImageError
from qmamba.evaluation.comparison import ComparedRow
from qmamba.evaluation.comparison.folders import Pair
from qmamba.files import atomic_write
from qmamba.web.thumbnails import encoded, small_image

SIDE = 240
"""Longest side of an image on a sheet, in pixels."""

_GAP = 12
_LINE = 18
_SHEET_WIDTH = 1280
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}


class Tile(NamedTuple):
    """Versions of one image beside each other, with a caption."""

    images: tuple[str, ...]
    """Paths."""
    caption: tuple[str, ...]
    """Lines of text."""


class Section(NamedTuple):
    """Tiles under a heading."""

    heading: str
    tiles: Sequence[Tile]


def best_and_worst(
    rows: Iterable[ImageRow], count: int, paths: Mapping[str, str] | None = None
) -> list[Section]:
    """The sections of a contact sheet of scored images.

    Args:
        rows: error rows are left out.
        count: images in each section; where there are not twice as many in all, one section shows
            all.
        paths: where the images lie, by name; ``None`` takes the names.

    Raises:
        ConfigError: ``count`` is below 1.
    """
    _check_count(count)
    scores = [(row.score, row.image) for row in rows if row.score is not None]
    scores.sort(key=lambda entry: -entry[0].raw if entry[0].higher_is_better else entry[0].raw)
    tiles = [
        Tile(
            ((paths or {}).get(image, image),),
            (f"{place}.  {score.score:.4g}", os.path.basename(image)),
        )
        for place, (score, image) in enumerate(scores, start=1)
    ]
    if len(tiles) <= 2 * count:
        return [Section(f"{len(tiles)} images, best first", tiles)]
    return [
        Section(f"Best {count} of {len(tiles)}", tiles[:count]),
        Section(f"Worst {count} of {len(tiles)}", tiles[-count:]),
    ]


def side_by_side(rows: Iterable[ComparedRow], pairs: Iterable[Pair], count: int) -> list[Section]:
    """The sections of a sheet of compared pairs: what gained most and what lost most.

    Args:
        rows: error rows are left out.
        pairs: where the images of the rows lie, by name.
        count: pairs in each section.

    Raises:
        ConfigError: ``count`` is below 1.
    """
    _check_count(count)
    places = {pair.name: pair for pair in pairs}
    compared = [(row.comparison, places[row.name]) for row in rows if row.comparison is not None]
    compared.sort(key=lambda entry: -entry[0].gain.improvement)
    tiles = [
        Tile(
            (pair.before, pair.after),
            (
                f"{comparison.gain.before.score:.4g} -> {comparison.gain.after.score:.4g}"
                f" ({comparison.gain.difference:+.4f}): {comparison.gain.verdict}",
                pair.name,
            ),
        )
        for comparison, pair in compared
    ]
    if len(tiles) <= 2 * count:
        return [Section(f"{len(tiles)} pairs, largest gain first", tiles)]
    return [
        Section(f"Largest gains of {len(tiles)}", tiles[:count]),
        Section(f"Largest losses of {len(tiles)}", tiles[-count:][::-1]),
    ]


def draw_sheet(sections: Sequence[Section], footer: str = "") -> Image.Image:
    """Draw the sections one below the other; an image that cannot be read is a gray field."""
    parts = max((len(tile.images) for section in sections for tile in section.tiles), default=1)
    tile_width = parts * SIDE + (parts - 1) * 2
    columns = max(1, (_SHEET_WIDTH - _GAP) // (tile_width + _GAP))
    lines = max((len(tile.caption) for section in sections for tile in section.tiles), default=1)
    tile_height = SIDE + lines * _LINE + _GAP
    height = _GAP + sum(
        2 * _LINE + -(-len(section.tiles) // columns) * tile_height for section in sections
    )
    width = _GAP + columns * (tile_width + _GAP)
    sheet = Image.new("RGB", (width, height + (2 * _LINE if footer else 0)), "white")
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(17), ImageFont.load_default(13)
    top = _GAP
    for section in sections:
        draw.text((_GAP, top), _plain(section.heading), "black", large)
        top += 2 * _LINE
        for index, tile in enumerate(section.tiles):
            left = _GAP + index % columns * (tile_width + _GAP)
            _draw_tile(sheet, tile, left, top, small, tile_width)
            if index % columns == columns - 1 or index == len(section.tiles) - 1:
                top += tile_height
    if footer:
        draw.text((_GAP, top), _fitted(draw, footer, small, width - 2 * _GAP), "gray", small)
    return sheet


def write_sheet(path: str | os.PathLike[str], sections: Sequence[Section], footer: str) -> None:
    """Draw a sheet and write it as .jpg, .png or .webp.

    Raises:
        ConfigError: the name has another ending.
        DataError: the file cannot be written.
    """
    kind = check_sheet_name(path)
    content = encoded(draw_sheet(sections, footer), kind, 88)
    with atomic_write(path) as stream:
        stream.write(content)


def check_sheet_name(path: str | os.PathLike[str]) -> str:
    """The format that the name of a sheet asks for.

    Raises:
        ConfigError: the name has another ending than .jpg, .png or .webp.
    """
    kind = _FORMATS.get(Path(path).suffix.lower())
    if kind is None:
        raise ConfigError(f"The sheet {os.fspath(path)!r} must end in .jpg, .png or .webp.")
    return kind


def _draw_tile(
    sheet: Image.Image,
    tile: Tile,
    left: int,
    top: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: int,
) -> None:
    draw = ImageDraw.Draw(sheet)
    for number, path in enumerate(tile.images):
        corner = left + number * (SIDE + 2)
        try:
            image = small_image(path, SIDE)
        except ImageError:
            draw.rectangle((corner, top, corner + SIDE - 1, top + SIDE - 1), "lightgray")
            draw.text((corner + 8, top + 8), "cannot be read", "black", font)
            continue
        sheet.paste(image, (corner + (SIDE - image.width) // 2, top + SIDE - image.height))
    for row, text in enumerate(tile.caption):
        fitted = _fitted(draw, text, font, width)
        draw.text((left, top + SIDE + 2 + row * _LINE), fitted, "black", font)


def _fitted(
    draw: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: int,
) -> str:
    text = _plain(text)
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."


def _plain(text: str) -> str:
    """Without characters that would break the line or that cannot be encoded."""
    return "".join(part if part.isprintable() else "?" for part in text)


def _check_count(count: int) -> None:
    if count < 1:
        raise ConfigError(f"A sheet shows 1 image or more, got {count}.")
