"""Writing TIFF files of 8 and 16 bits a sample, gray or RGB, with or without alpha.

Pillow has no 16-bit color, so strips are written here; Pillow writes the directory, which holds
the tags of EXIF as well.  Samples are deflated after taking differences along each row, which every
reader built on libtiff understands.

Source: TIFF 6.0 and Adobe's TIFF Technical Notes (1992, 2002).
"""

from __future__ import annotations

import zlib
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from qmamba.errors import ImageError
from qmamba.images.layers import ImageLayers
from qmamba.images.metadata.exif import STRUCTURE_TAGS
from qmamba.images.metadata.resources import IPTC_TAG, RESOURCES_TAG

MAX_SIDE = 2**32 - 1

_MAX_FILE = 2**32 - 1
_STRIP_BYTES = 1 << 20
_COMPRESSION = 6
_ADOBE_DEFLATE = 8
_HORIZONTAL_DIFFERENCES = 2
_BLACK_IS_ZERO, _RGB = 1, 2
_UNASSOCIATED_ALPHA = 2
_INCH = 2
_XMP, _ICC_PROFILE = 700, 34675
_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)


def write_tiff(stream: BinaryIO, layers: ImageLayers) -> None:
    """Write the image with its profile and metadata; PNG texts have no place in the format.

    The compressed image is in memory as a whole.

    Raises:
        ImageError: the file would be larger than 4 GB, which the format cannot address.
        OSError: the stream cannot be written.
    """
    channels = layers.colors.shape[2] + (layers.alpha is not None)
    row_bytes = layers.width * channels * layers.bits // 8
    step = max(1, _STRIP_BYTES // row_bytes)
    strips = [
        zlib.compress(_differences(layers, top, top + step), _COMPRESSION)
        for top in range(0, layers.height, step)
    ]
    tags = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    _add_exif(tags, layers.metadata.exif)
    tags[ExifTags.Base.ImageWidth] = layers.width
    tags[ExifTags.Base.ImageLength] = layers.height
    tags[ExifTags.Base.BitsPerSample] = (layers.bits,) * channels
    tags[ExifTags.Base.Compression] = _ADOBE_DEFLATE
    tags[ExifTags.Base.PhotometricInterpretation] = (
        _BLACK_IS_ZERO if layers.colors.shape[2] == 1 else _RGB
    )
    tags[ExifTags.Base.SamplesPerPixel] = channels
    tags[ExifTags.Base.RowsPerStrip] = step
    tags[ExifTags.Base.StripByteCounts] = tuple(map(len, strips))
    starts = np.cumsum([0, *map(len, strips)])
    tags[ExifTags.Base.StripOffsets] = tuple(int(start) for start in starts[:-1])
    tags[ExifTags.Base.PlanarConfiguration] = 1
    tags[ExifTags.Base.Predictor] = _HORIZONTAL_DIFFERENCES
    if layers.alpha is not None:
        tags[ExifTags.Base.ExtraSamples] = _UNASSOCIATED_ALPHA
    if layers.metadata.density is not None:
        across, down = layers.metadata.density
        tags[ExifTags.Base.XResolution] = across
        tags[ExifTags.Base.YResolution] = down
        tags[ExifTags.Base.ResolutionUnit] = _INCH
    for tag, block in (
        (_XMP, layers.metadata.xmp),
        (_ICC_PROFILE, layers.profile),
        (RESOURCES_TAG, layers.metadata.resources),
        (IPTC_TAG, layers.metadata.iptc),
    ):
        if block is not None:
            tags.tagtype[tag] = 1 if tag == _XMP else 7
            tags[tag] = block
    geo = () if layers.metadata.geo is None else layers.metadata.geo.tags
    for number, value in (*layers.stated.tags, *geo):
        tags[number] = value
    if int(starts[-1]) + (1 << 20) + len(layers.profile or b"") > _MAX_FILE:
        raise ImageError("a TIFF file holds at most 4 GB and this image needs more, choose PNG")
    # Pillow moves the offsets behind the directory, which it writes first.
    tags.save(stream)
    stream.writelines(strips)


def _differences(layers: ImageLayers, top: int, bottom: int) -> bytes:
    samples = layers.colors[top:bottom]
    if layers.alpha is not None:
        samples = np.concatenate([samples, layers.alpha[top:bottom, :, None]], axis=2)
    stored = samples.astype(samples.dtype.newbyteorder("<"))
    stored[:, 1:] -= samples[:, :-1]
    return stored.tobytes()


def _add_exif(tags: TiffImagePlugin.ImageFileDirectory_v2, exif: bytes | None) -> None:
    """Copy the tags of an EXIF block; what of it Pillow cannot read is left out."""
    if exif is None:
        return
    source = Image.Exif()
    try:
        source.load(exif)
        found: dict[int, Any] = {tag: source[tag] for tag in source if tag not in STRUCTURE_TAGS}
        for directory in _DIRECTORIES:
            if directory in found:
                found[directory] = source.get_ifd(directory)
        interop = found.get(ExifTags.IFD.Exif, {}).get(ExifTags.IFD.Interop)
        if interop is not None:
            found[ExifTags.IFD.Exif][ExifTags.IFD.Interop] = source.get_ifd(ExifTags.IFD.Interop)
        copy = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\0\0\0\0")
        for tag, value in found.items():
            copy[tag] = value
        copy.tobytes()
    except Exception:
        # Pillow's EXIF code raises many kinds of errors on damaged data.
        return
    for tag, value in found.items():
        tags[tag] = value
