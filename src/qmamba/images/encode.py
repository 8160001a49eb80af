"""Writing an image file: PNG and TIFF lose nothing, JPEG and WebP what their formats lack."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from qmamba.errors import ConfigError, ImageError
from qmamba.files import atomic_write
from qmamba.images.color.srgb import over_white
from qmamba.images.color.stated import TRANSFER_TAG, StatedColors
from qmamba.images.formats import png_writer, tiff_writer
from qmamba.images.layers import ImageLayers
from qmamba.images.metadata import ImageMetadata
from qmamba.images.metadata.resources import jpeg_segment
from qmamba.images.samples import reduced

ENCODED_SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""File name endings that can be written, lower case, and their formats."""

DEFAULT_QUALITY = 95
LOSSLESS = 100

_MAX_SIDES = {
    "PNG": png_writer.MAX_SIDE,
    "TIFF": tiff_writer.MAX_SIDE,
    "JPEG": 65_500,
    "WEBP": 16_383,
}
_MARKER_BYTES = 65_533
_XMP_BYTES = _MARKER_BYTES - 29
_EXIF_PREFIX = b"Exif\0\0"


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that a file name asks for: "PNG", "JPEG", "WEBP" or "TIFF".

    Raises:
        ConfigError: the name has another ending.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in ENCODED_SUFFIXES:
        raise ConfigError(
            f"cannot write {os.fspath(path)!r}: the name must end in {', '.join(ENCODED_SUFFIXES)}"
        )
    return ENCODED_SUFFIXES[suffix]


def write_layers(
    path: str | os.PathLike[str],
    layers: ImageLayers,
    *,
    quality: int = DEFAULT_QUALITY,
    strip_metadata: bool = False,
) -> tuple[str, ...]:
    """Write an image; the file appears under its name only when it is complete.

    The ending of the name chooses the format. PNG and TIFF keep every sample. JPEG and WebP have 8
    bits a sample; JPEG has no alpha, so the image is put on white, and no color subsampling is
    used; WebP has no gray and stores it as color. EXIF, XMP and the density go along where the
    format has a place for them (WebP: no density), texts into PNG and a comment into JPEG, IPTC and
    Photoshop data into JPEG and TIFF, a GeoTIFF position into TIFF. Colors that the file stated
    without a profile are stated again, or written as a profile.

    Args:
        path: The file to write or replace.
        layers: The image. The sizes in its EXIF block are set to its own.
        quality: Of JPEG and WebP, 1 to 100; WebP at 100 is lossless.
        strip_metadata: Leave EXIF, XMP, density and texts out. The color profile stays, because
            without it the colors would change.

    Returns:
        What the format could not keep, one phrase each.

    Raises:
        ConfigError: the name has another ending, or the quality is out of range.
        ImageError: the format cannot hold an image of this size.
        DataError: the file cannot be written; a file of that name is left as it was.
    """
    file_format = format_of(path)
    if not isinstance(quality, int) or not 1 <= quality <= LOSSLESS:
        raise ConfigError(f"the quality of an image file must be 1 to 100, got {quality!r}")
    limit = _MAX_SIDES[file_format]
    if max(layers.width, layers.height) > limit:
        raise ImageError(
            f"cannot write {os.fspath(path)!r}: {file_format} holds at most {limit} pixels a side "
            f"and the image has {layers.width} x {layers.height}, choose PNG"
        )
    notes: list[str] = []
    metadata = ImageMetadata()
    if not strip_metadata:
        metadata = layers.metadata.resized(layers.width, layers.height)
    layers = _with_colors_stated(replace(layers, metadata=metadata), file_format, notes)
    _note_lost_metadata(layers.metadata, file_format, notes)
    writer = _WRITERS[file_format]
    with atomic_write(path) as stream:
        writer(stream, layers, quality, notes)
    return tuple(notes)


_PLACES = {
    "resources": ("Photoshop data", ("JPEG", "TIFF")),
    "iptc": ("IPTC data", ("JPEG", "TIFF")),
    "geo": ("GeoTIFF position", ("TIFF",)),
}
"""What only some formats have a place for."""


def _note_lost_metadata(metadata: ImageMetadata, file_format: str, notes: list[str]) -> None:
    for name, (title, formats) in _PLACES.items():
        if getattr(metadata, name) is not None and file_format not in formats:
            notes.append(f"{title} dropped: {file_format} has no place for it")


def _with_colors_stated(layers: ImageLayers, file_format: str, notes: list[str]) -> ImageLayers:
    """What is said about the colors in the words of the format: its own, or an ICC profile."""
    stated = layers.stated
    chunks = stated.chunks if file_format == "PNG" else ()
    tags = stated.tags if file_format == "TIFF" else ()
    kept = StatedColors(chunks, tuple(pair for pair in tags if _tag_fits(pair, layers)))
    if layers.profile is not None or kept == stated:
        return replace(layers, stated=kept)
    if not stated.is_srgb:
        profile = stated.profile(gray=layers.colors.shape[2] == 1)
        if profile is not None:
            notes.append(f"colors ({stated.names}) written as ICC profile")
            return replace(layers, stated=StatedColors(), profile=profile)
        lost = StatedColors(
            tuple(pair for pair in stated.chunks if pair not in kept.chunks),
            tuple(pair for pair in stated.tags if pair not in kept.tags),
        )
        notes.append(f"color information dropped: {lost.names}")
    return replace(layers, stated=kept)


def _tag_fits(tag: tuple[int, object], layers: ImageLayers) -> bool:
    """A transfer function has one entry for each value of a sample."""
    number, value = tag
    entries = len(value) if isinstance(value, tuple) else 0
    return number != TRANSFER_TAG or entries in (1 << layers.bits, 3 << layers.bits)


def _write_png(stream: BinaryIO, layers: ImageLayers, quality: int, notes: list[str]) -> None:
    png_writer.write_png(stream, layers)


def _write_tiff(stream: BinaryIO, layers: ImageLayers, quality: int, notes: list[str]) -> None:
    if layers.metadata.texts:
        notes.append("texts dropped: TIFF has no place for them")
    if layers.bits == 16 and layers.colors.shape[2] == 1 and layers.alpha is not None:
        notes.append("gray stored as RGB: hardly a reader knows 16-bit TIFF of gray and alpha")
        if layers.profile is not None:
            notes.append("ICC profile dropped: it is one of gray")
        colors = np.repeat(layers.colors, 3, axis=2)
        layers = replace(layers, colors=colors, profile=None)
    tiff_writer.write_tiff(stream, layers)


def _write_jpeg(stream: BinaryIO, layers: ImageLayers, quality: int, notes: list[str]) -> None:
    colors = layers.colors
    if layers.alpha is not None:
        notes.append("alpha composited on white: JPEG has none")
        colors = over_white(colors, layers.alpha[..., None])
    metadata = layers.metadata
    options: dict[str, object] = {}
    exif = None if metadata.exif is None else _EXIF_PREFIX + metadata.exif
    if exif is not None and len(exif) > _MARKER_BYTES:
        notes.append("EXIF data dropped: JPEG has no place for that much")
        exif = None
    if metadata.xmp is not None and len(metadata.xmp) > _XMP_BYTES:
        notes.append("XMP data dropped: JPEG has no place for that much")
        metadata = replace(metadata, xmp=None)
    if metadata.xmp is not None:
        options["xmp"] = metadata.xmp
    if metadata.density is not None:
        options["dpi"] = metadata.density
    texts = dict(metadata.texts)
    comment = texts.pop("Comment", "").encode("utf-8", "replace")
    if texts or len(comment) > _MARKER_BYTES:
        notes.append("texts dropped: JPEG has no place for them")
    if 0 < len(comment) <= _MARKER_BYTES:
        options["comment"] = comment
    segment = jpeg_segment(metadata.resources, metadata.iptc)
    if len(segment) > _MARKER_BYTES:
        notes.append("Photoshop and IPTC data dropped: JPEG has no place for that much")
    elif segment:
        options["extra"] = b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment
    image = _eight_bit_image(colors, notes)
    _write_with_pillow(
        stream, image, "JPEG", layers.profile, exif, quality=quality, subsampling=0, **options
    )


def _write_webp(stream: BinaryIO, layers: ImageLayers, quality: int, notes: list[str]) -> None:
    colors = np.broadcast_to(layers.colors, (layers.height, layers.width, 3))
    profile = layers.profile
    if layers.colors.shape[2] == 1 and profile is not None:
        notes.append("ICC profile dropped: WebP has no gray")
        profile = None
    if layers.alpha is not None:
        colors = np.concatenate([colors, layers.alpha[..., None]], axis=2)
    if layers.metadata.texts:
        notes.append("texts dropped: WebP has no place for them")
    options: dict[str, object] = {}
    if layers.metadata.xmp is not None:
        options["xmp"] = layers.metadata.xmp
    exif = None if layers.metadata.exif is None else _EXIF_PREFIX + layers.metadata.exif
    image = _eight_bit_image(colors, notes)
    _write_with_pillow(
        stream,
        image,
        "WEBP",
        profile,
        exif,
        quality=quality,
        lossless=quality == LOSSLESS,
        **options,
    )


def _eight_bit_image(samples: np.ndarray, notes: list[str]) -> Image.Image:
    if samples.dtype == np.uint16:
        notes.append("16-bit samples reduced to 8 bits: the format has no more")
        samples = reduced(samples)
    samples = np.ascontiguousarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    return Image.fromarray(samples)


def _write_with_pillow(
    stream: BinaryIO,
    image: Image.Image,
    file_format: str,
    profile: bytes | None,
    exif: bytes | None,
    **options: object,
) -> None:
    if exif is not None:
        options["exif"] = exif
    if profile is not None:
        options["icc_profile"] = profile
    # Pillow's encoders lose the operating system's reason when a file cannot be written.
    memory = io.BytesIO()
    try:
        image.save(memory, file_format, **options)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ImageError(f"the image cannot be encoded as {file_format} ({reason})") from error
    stream.write(memory.getbuffer())


_WRITERS: dict[str, Callable[[BinaryIO, ImageLayers, int, list[str]], None]] = {
    "PNG": _write_png,
    "JPEG": _write_jpeg,
    "WEBP": _write_webp,
    "TIFF": _write_tiff,
}
