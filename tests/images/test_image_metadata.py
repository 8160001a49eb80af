"""EXIF and XMP: what is changed in them and what is not."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qmamba.images import read_layers
from qmamba.images.metadata.exif import patched_exif
from tests.images.image_files import encoded, png_chunk
from tests.images.test_encode import exif_block


def block_with_thumbnail(order: str, trailing: bytes = b"") -> tuple[bytes, bytes]:
    """An EXIF block with orientation 8 and a thumbnail in a second directory."""
    thumbnail = encoded(Image.new("RGB", (8, 8), "red"), "JPEG")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    first = struct.pack(f"{order}HHHIHHI", 1, 0x0112, 3, 1, 8, 0, 26)
    place = 26 + 2 + 24 + 4
    second = struct.pack(f"{order}HHHII", 2, 0x0201, 4, 1, place)
    second += struct.pack(f"{order}HHIII", 0x0202, 4, 1, len(thumbnail), 0)
    return mark + struct.pack(f"{order}I", 8) + first + second + thumbnail + trailing, thumbnail


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("trailing", [b"", b"what the maker put behind it"])
def test_thumbnail_is_taken_out(order: str, trailing: bytes) -> None:
    block, thumbnail = block_with_thumbnail(order, trailing)
    patched = patched_exif(block, 20, 10)
    assert patched is not None
    assert thumbnail[20:60] in block and thumbnail[20:60] not in patched
    assert patched.endswith(trailing)
    exif = Image.Exif()
    exif.load(patched)
    assert exif[0x0112] == 1 and not exif.get_ifd(1)


def test_everything_else_stays_byte_for_byte() -> None:
    block = exif_block()
    patched = patched_exif(block, 11, 12)
    assert patched is not None and len(patched) == len(block)
    changed = [i for i, (a, b) in enumerate(zip(block, patched, strict=True)) if a != b]
    assert len(changed) == 1, "the orientation alone"
    assert patched_exif(patched, 11, 12) == patched


def test_sizes_beyond_16_bits() -> None:
    patched = patched_exif(exif_block(), 70_000, 3)
    exif = Image.Exif()
    exif.load(patched or b"")
    assert exif.get_ifd(0x8769)[0xA002] == 70_000 and exif.get_ifd(0x8769)[0xA003] == 3


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=40), st.integers(0, 200), st.integers(0, 255))
def test_damaged_blocks_are_refused_or_survived(garbage: bytes, place: int, value: int) -> None:
    block = bytearray(exif_block())
    block[place % len(block)] = value
    for data in (bytes(block), bytes(block[:place]), b"II*\0" + garbage, garbage):
        patched = patched_exif(data, 3, 4)
        assert patched is None or len(patched) == len(data)


@pytest.mark.parametrize(
    "text",
    [
        '<x tiff:Orientation="6" a="6"/>',
        "<x tiff:Orientation='6' a=\"6\"/>",
        '<x a="6"><tiff:Orientation>6</tiff:Orientation></x>',
    ],
)
def test_orientation_in_xmp_is_reset(text: str) -> None:
    image = encoded(Image.new("RGB", (3, 2)), "PNG")
    chunk = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + text.encode())
    layers = read_layers(image[:33] + chunk + image[33:])
    xmp = (layers.metadata.xmp or b"").decode()
    assert "6" in xmp.replace('a="6"', "", 1) or 'a="6"' in xmp
    reset = text.replace("6", "1").replace('a="1"', 'a="6"')
    assert xmp == reset
    again = read_layers(
        image[:33] + png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp.encode()) + image[33:]
    )
    assert again.notes == ()


@pytest.mark.parametrize("big", [False, True])
def test_tiff_tags_of_its_layout_do_not_become_exif(big: bool) -> None:
    exif = Image.Exif()
    exif[0x013B], exif[0x010E] = "Artist", "Description"
    stream = io.BytesIO()
    options = {"compression": "tiff_lzw", "dpi": (72, 72), "big_tiff": big}
    Image.new("RGB", (4, 4)).save(stream, "TIFF", exif=exif, **options)
    layers = read_layers(stream.getvalue())
    assert layers.notes == ()
    kept = Image.Exif()
    kept.load(layers.metadata.exif or b"")
    assert dict(kept) == {0x013B: "Artist", 0x010E: "Description"}
    assert layers.metadata.density == (72, 72)


def test_no_density_is_made_up() -> None:
    exif = Image.Exif()
    exif[0x013B] = "Artist"
    image = Image.new("RGB", (4, 4))
    bare = [encoded(image, kind) for kind in ("TIFF", "JPEG", "PNG")]
    bare += [encoded(image, kind, exif=exif) for kind in ("TIFF", "JPEG")]
    assert [read_layers(content).metadata.density for content in bare] == [None] * 5


@pytest.mark.parametrize(("unit", "factor"), [(2, 1.0), (3, 2.54), (None, 1.0)])
def test_density_of_exif(unit: int | None, factor: float) -> None:
    exif = Image.Exif()
    exif[0x011A], exif[0x011B] = 300.0, 150.0
    if unit is not None:
        exif[0x0128] = unit
    content = encoded(Image.new("RGB", (4, 4)), "JPEG", exif=exif)
    assert read_layers(content).metadata.density == pytest.approx((300 * factor, 150 * factor))
    exif[0x0128] = 1
    content = encoded(Image.new("RGB", (4, 4)), "JPEG", exif=exif)
    assert read_layers(content).metadata.density is None


def test_density_of_files() -> None:
    image = Image.new("RGB", (4, 4))
    for kind in ("TIFF", "JPEG", "PNG", "BMP"):
        density = read_layers(encoded(image, kind, dpi=(300, 150))).metadata.density
        assert density == pytest.approx((300, 150), rel=1e-3), kind
