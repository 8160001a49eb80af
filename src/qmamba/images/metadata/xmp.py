"""XMP packets: what no longer holds is changed or taken out, the rest stays byte for byte."""

from __future__ import annotations

import re

_ORIENTATION = re.compile(rb"(tiff:Orientation\s*=\s*[\"']|<tiff:Orientation>\s*)\d+")
_WIDTHS = re.compile(rb"((?:tiff:ImageWidth|exif:PixelXDimension)(?:\s*=\s*[\"']|>\s*))\d+")
_HEIGHTS = re.compile(rb"((?:tiff:ImageLength|exif:PixelYDimension)(?:\s*=\s*[\"']|>\s*))\d+")
_GONE_ATTRIBUTES = re.compile(
    rb"\s(?:hdrgm:\w+|GCamera:(?:MotionPhoto|MicroVideo)\w*|xmpNote:HasExtendedXMP)"
    rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')"
)
_GONE_ELEMENTS = (
    b"Container:Directory",
    b"GContainer:Directory",
    b"xmp:Thumbnails",
    b"xap:Thumbnails",
    b"xmpNote:HasExtendedXMP",
)
_GONE_PREFIXES = re.compile(rb"<(hdrgm:\w+|GCamera:(?:MotionPhoto|MicroVideo)\w*)[\s/>]")


def upright_xmp(packet: bytes) -> tuple[bytes, bool]:
    """The packet of an upright image that has lost its gain map, video and thumbnails.

    Returns:
        The packet, and whether entries were taken out of it.
    """
    packet = _ORIENTATION.sub(rb"\g<1>1", packet.rstrip(b"\0"))
    cleaned = _GONE_ATTRIBUTES.sub(b"", packet)
    names = {*_GONE_ELEMENTS, *_GONE_PREFIXES.findall(cleaned)}
    for name in sorted(names):
        cleaned = _without(cleaned, name)
    return cleaned, cleaned != packet


def resized_xmp(packet: bytes, width: int, height: int) -> bytes:
    """The packet with the pixel sizes of the image."""
    packet = _WIDTHS.sub(rb"\g<1>%d" % width, packet)
    return _HEIGHTS.sub(rb"\g<1>%d" % height, packet)


def _without(packet: bytes, name: bytes) -> bytes:
    """The packet without an element, wherever it stands; what is not closed stays."""
    kept = []
    place = 0
    closing = b"</" + name + b">"
    while (start := packet.find(b"<" + name, place)) >= 0:
        end_of_tag = packet.find(b">", start)
        if end_of_tag < 0:
            break
        end = end_of_tag + 1
        if packet[end_of_tag - 1 : end_of_tag] != b"/":
            end = packet.find(closing, end_of_tag) + len(closing)
            if end < len(closing):
                break
        kept.append(packet[place:start])
        place = end
    return b"".join([*kept, packet[place:]])
