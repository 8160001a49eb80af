"""What an image file says about its image, kept apart from the pixels: EXIF, XMP, density, text.

Pixels that are read are upright, and after restoration they may have another size.  So the EXIF
orientation and XMP's are set to 1, pixel sizes follow the image, and thumbnails are taken out, as
is what speaks of them or of other images of the file (gain maps, videos).  Everything else stays
byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from PIL import ExifTags, Image, JpegImagePlugin, TiffImagePlugin

from qmamba.images.metadata.exif import exif_block, patched_exif
from qmamba.images.metadata.geo import GeoPosition, read_geo
from qmamba.images.metadata.resources import read_resources
from qmamba.images.metadata.xmp import resized_xmp, upright_xmp

_INCH, _CENTIMETRE = 2, 3
_PER_INCH = {_INCH: 1.0, _CENTIMETRE: 2.54}
_JFIF_UNITS = (1, 2)
_RAW_PROFILE = "Raw profile type "
_CHANGED_CHUNKS = frozenset(("tIME", "hIST", "sBIT", "sPLT", "bKGD"))
"""PNG chunks about the samples that were stored, which no longer hold for others."""


@dataclass(frozen=True)
class ImageMetadata:
    """What is known about an image beside its pixels and its colors."""

    exif: bytes | None = None
    """EXIF block, from its byte-order mark on; orientation 1, no thumbnail."""
    xmp: bytes | None = None
    """XMP packet, UTF-8; orientation 1."""
    density: tuple[float, float] | None = None
    """Pixels per inch, horizontally and vertically."""
    texts: tuple[tuple[str, str], ...] = ()
    """Keywords and texts of a PNG file; the comment of a JPEG or GIF has the keyword "Comment"."""
    resources: bytes | None = None
    """Photoshop's image resources, without thumbnails."""
    iptc: bytes | None = None
    """IPTC record of a TIFF file."""
    geo: GeoPosition | None = None
    """Position of a GeoTIFF."""

    def resized(self, width: int, height: int) -> ImageMetadata:
        """The same for an image of another size; a damaged EXIF block is left out."""
        return replace(
            self,
            exif=None if self.exif is None else patched_exif(self.exif, width, height),
            xmp=None if self.xmp is None else resized_xmp(self.xmp, width, height),
            geo=None if self.geo is None else self.geo.resized(width, height),
        )


def read_metadata(
    image: Image.Image, width: int, height: int, notes: list[str], *, turned: bool = False
) -> ImageMetadata:
    """The metadata of a loaded image that is `width` x `height` pixels when upright.

    What is damaged or has no place is left out and named in `notes`.

    Args:
        image: The image.
        width, height: Its size.
        notes: Receives one phrase for each thing that is lost.
        turned: Whether the pixels lie otherwise than in the file.
    """
    exif = None
    block = exif_block(image)
    if block:
        exif = patched_exif(block, width, height)
        if exif is None:
            notes.append("EXIF data dropped: it is damaged")
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "surrogateescape")
    if isinstance(xmp, bytes) and xmp:
        xmp, cleaned = upright_xmp(xmp)
        if cleaned:
            notes.append("XMP entries of a gain map, video or thumbnail taken out")
    else:
        xmp = None
    resources, iptc = read_resources(image)
    geo = read_geo(image, width, height)
    if geo is not None and turned:
        notes.append("GeoTIFF position dropped: the image was turned")
        geo = None
    lost = [kind for kind in getattr(image, "other_chunks", ()) if kind not in _CHANGED_CHUNKS]
    if lost:
        notes.append(f"PNG chunks dropped: {', '.join(lost)}")
    raw = [key for key in image.info if isinstance(key, str) and key.startswith(_RAW_PROFILE)]
    lost = [ascii(key.removeprefix(_RAW_PROFILE))[1:-1] for key in raw]
    if lost := [name for name in lost if name != "exif"]:
        notes.append(f"PNG raw profiles dropped: {', '.join(lost)[:80]}")
    return ImageMetadata(exif, xmp, _density(image), tuple(_texts(image)), resources, iptc, geo)


def _density(image: Image.Image) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in _stored_density(image))
    except Exception:
        # None is stored, or it is damaged, for which Pillow raises many kinds of errors.
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def _stored_density(image: Image.Image) -> Any:
    """Pixels per inch as the file has them, two numbers; an exception where it has none.

    Pillow makes up 1 for a TIFF without resolution, and 72 for a JPEG whose EXIF block has none.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        if ExifTags.Base.XResolution not in tags or ExifTags.Base.YResolution not in tags:
            raise KeyError("resolution")
    if isinstance(image, JpegImagePlugin.JpegImageFile) and (
        image.info.get("jfif_unit") not in _JFIF_UNITS
    ):
        exif = image.getexif()
        across = float(exif[ExifTags.Base.XResolution])
        down = float(exif.get(ExifTags.Base.YResolution, across))
        per_inch = _PER_INCH[exif.get(ExifTags.Base.ResolutionUnit, _INCH)]
        return across * per_inch, down * per_inch
    return image.info["dpi"]


def _texts(image: Image.Image) -> Iterator[tuple[str, str]]:
    comment = image.info.get("comment")
    if isinstance(comment, bytes) and comment:
        yield "Comment", comment.rstrip(b"\0").decode("utf-8", "replace")
    texts = getattr(image, "text", None)
    if isinstance(texts, dict):
        for keyword, text in texts.items():
            own_place = keyword.startswith(("XML:", "Raw profile type")) or keyword == "exif"
            if not own_place:
                yield str(keyword), str(text)
