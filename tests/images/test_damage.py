"""What is refused as damaged and what is noted: every pixel must be there and pass its check."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qmamba.errors import ImageError
from qmamba.images import read_image, read_layers
from qmamba.images.formats.jpeg import read_layout
from tests.images.image_files import PNG_RGB, encoded, png_chunk, png_file, tiff_file

HEIGHT, WIDTH = 40, 56


@pytest.fixture
def photo() -> Image.Image:
    random = np.random.default_rng(5)
    small = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, place = [], 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def png_of(parts: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, data) for kind, data in parts)


def broken(kind: bytes, data: bytes) -> bytes:
    chunk = bytearray(png_chunk(kind, data))
    chunk[-1] ^= 1
    return bytes(chunk)


@pytest.mark.parametrize("missing", [1, 34, HEIGHT - 1])
@pytest.mark.parametrize("lace", [False, True])
def test_png_without_all_rows(missing: int, lace: bool) -> None:
    rows = [bytes(3 * WIDTH)] * (HEIGHT - missing)
    with pytest.raises(ImageError, match="of its"):
        read_image(png_file(WIDTH, HEIGHT, 8, PNG_RGB, rows, interlaced=lace))


def test_png_of_which_the_rest_is_zero(photo: Image.Image) -> None:
    data = encoded(photo, "PNG")
    for share in (0.3, 0.6, 0.9):
        kept = int(len(data) * share)
        with pytest.raises(ImageError, match=r"checksum|damaged|truncated"):
            read_image(data[:kept] + bytes(len(data) - kept))


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"IDAT"])
def test_png_chunks_that_pixels_depend_on(kind: bytes, photo: Image.Image) -> None:
    data = bytearray(encoded(photo.quantize(16), "PNG"))
    place = data.index(kind)
    (length,) = struct.unpack_from(">I", data, place - 4)
    data[place + 4 + length] ^= 1
    with pytest.raises(ImageError, match=f"{kind.decode()}.*checksum|checksum.*{kind.decode()}"):
        read_image(bytes(data))


def test_png_chunk_of_unknown_meaning(photo: Image.Image) -> None:
    parts = chunks(encoded(photo, "PNG"))
    with pytest.raises(ImageError, match="depend on a chunk CgBI"):
        read_image(png_of([(b"CgBI", bytes(4)), *parts]))


@pytest.mark.parametrize(
    ("extra", "note"),
    [
        (broken(b"tEXt", b"Author\0me"), "tEXt skipped: its checksum is wrong"),
        (broken(b"gAMA", struct.pack(">I", 45455)), "gAMA skipped: its checksum is wrong"),
        (broken(b"tRNS", bytes(6)), "tRNS skipped: its checksum is wrong"),
        (png_chunk(b"gAMA", b"\0\0"), "gAMA skipped: it has 2 bytes instead of 4"),
        (png_chunk(b"pHYs", b"\0\0"), "pHYs skipped: it is damaged"),
        (png_chunk(b"zTXt", b"a\0\0nonsense"), "zTXt skipped: it is damaged"),
        (png_chunk(b"iCCP", b"no separator"), "iCCP skipped: it is damaged"),
        (
            png_chunk(b"iTXt", b"big\0\1\0\0\0" + zlib.compress(bytes(17 << 20))),
            "iTXt skipped: more than 16 MiB",
        ),
        (
            png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(17 << 20))),
            "iCCP skipped: more than 16 MiB",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("behind", [False, True])
def test_png_chunks_that_pixels_do_not_depend_on(
    extra: bytes, note: str, behind: bool, photo: Image.Image
) -> None:
    data = encoded(photo, "PNG")
    place = len(data) - 12 if behind else 33
    for decoded in (read_image, read_layers):
        found: Any = decoded(data[:place] + extra + data[place:])
        assert any(note in written for written in found.notes), found.notes
        pixels = found.pixels if hasattr(found, "pixels") else found.colors
        assert np.array_equal(pixels, np.asarray(photo))


def test_png_texts_of_more_than_a_mebibyte_are_kept(photo: Image.Image) -> None:
    workflow = b"{" + b"x" * (3 << 20) + b"}"
    data = encoded(photo, "PNG")
    chunk = png_chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(workflow))
    layers = read_layers(data[:33] + chunk + data[33:])
    assert layers.metadata.texts == (("workflow", workflow.decode()),)
    assert not layers.notes


def test_many_texts_do_not_fill_the_memory(photo: Image.Image) -> None:
    chunk = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20)))
    data = encoded(photo, "PNG")
    layers = read_layers(data[:33] + chunk * 70 + data[33:])
    assert layers.notes == (
        "PNG chunk zTXt skipped: more than 16 MiB of texts and profile (54 times)",
    )


def test_png_ends(photo: Image.Image) -> None:
    data = encoded(photo, "PNG")
    assert read_image(data[:-12]).notes == ("the file has no end marker (IEND)",)
    assert read_image(data + b"\0 anything behind the end").notes == ()
    broken_end = data[:-12] + b"\xff" * 12
    assert read_image(broken_end).notes == ("the file is damaged behind its pixel data",)


def test_png_data_that_cannot_hold_the_pixels() -> None:
    header = struct.pack(">IIBBBBB", 9000, 9000, 8, PNG_RGB, 0, 0, 0)
    data = png_of([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")])
    with pytest.raises(ImageError, match="compressed bytes cannot hold 9000 x 9000 pixels"):
        read_image(data)


JPEG_KINDS: list[dict[str, Any]] = [
    {},
    {"progressive": True},
    {"restart_marker_blocks": 3},
    {"progressive": True, "restart_marker_blocks": 3},
]


@pytest.mark.parametrize("options", JPEG_KINDS, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9", b"\0" * 400 + b"\xff\xd9"])
def test_jpeg_closed_early(
    options: dict[str, Any], mode: str, end: bytes, photo: Image.Image
) -> None:
    large = photo.resize((240, 200)).convert(mode)
    data = encoded(large, "JPEG", quality=92, **options)
    assert not read_image(data).notes or mode == "CMYK"
    for share in (0.3, 0.5, 0.7, 0.85, 0.95):
        cut = data[: int(len(data) * share)].rstrip(b"\xff")
        if end.startswith(b"\0") and not options.get("restart_marker_blocks"):
            continue
        with pytest.raises(ImageError, match=r"truncated|damaged"):
            read_image(cut + end)


@pytest.mark.parametrize("options", [*JPEG_KINDS, {"subsampling": 0}, {"quality": 30}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"])
def test_jpeg_cut_inside_its_last_block(
    options: dict[str, Any], mode: str, end: bytes, photo: Image.Image
) -> None:
    """It is refused, or what is missing makes no difference."""
    data = encoded(photo.convert(mode), "JPEG", **options)
    whole = read_image(data).pixels
    refused = 0
    for missing in range(1, 16):
        try:
            cut = read_image(data[: -2 - missing].rstrip(b"\xff") + end)
        except ImageError:
            refused += 1
        else:
            assert np.array_equal(cut.pixels, whole)
    assert refused >= 13


@pytest.mark.parametrize("marker", [b"\xda", b"\xd1"])
def test_jpeg_cut_in_front_of_another_marker(marker: bytes, photo: Image.Image) -> None:
    """libjpeg goes on with the next scan or restart interval over what is missing."""
    options = {"progressive": True} if marker == b"\xda" else {"restart_marker_blocks": 40}
    data = encoded(photo.resize((200, 200)), "JPEG", **options)
    position = data.index(b"\xff" + marker, data.index(b"\xff\xda") + 2)
    # Tables stand in front of a scan.
    while marker == b"\xda" and b"\xff\xc4" in data[data.index(b"\xff\xda") + 2 : position]:
        position = data.index(b"\xff\xc4", data.index(b"\xff\xda") + 2)
    with pytest.raises(ImageError, match="ends before the last pixel"):
        read_image(data[: position - 12] + data[position:])


def test_jpeg_fill_bytes_in_front_of_markers(photo: Image.Image) -> None:
    data = encoded(photo, "JPEG", restart_marker_blocks=40)
    filled = data[:-2] + b"\xff\xff" + data[-2:]
    filled = filled.replace(b"\xff\xd0", b"\xff\xff\xff\xd0")
    assert np.array_equal(read_image(filled).pixels, read_image(data).pixels)


def test_jpeg_of_nothing_but_restart_markers_takes_little_memory(photo: Image.Image) -> None:
    data = encoded(photo, "JPEG", restart_marker_blocks=1)
    layout = read_layout(io.BytesIO(data[:-2] + b"\xff\xd0" * 300_000 + data[-2:]))
    assert layout.scans[0].restarts > 300_000 and len(layout.scans[0].ends) < 110_000


def test_jpeg_of_scans_upon_scans_takes_little_time() -> None:
    """Each takes a hundred bytes, and as long to decode as the image."""
    data = encoded(Image.new("L", (9900, 9900), 128), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    started = time.monotonic()
    with pytest.raises(ImageError, match="has 206 scans over 9900 x 9900 pixels"):
        read_image(data[:-2] + 200 * last + data[-2:])
    assert time.monotonic() - started < 5
    small = encoded(Image.new("L", (99, 99), 128), "JPEG", progressive=True)
    last = small[small.rindex(b"\xff\xda") : -2]
    assert not read_image(small[:-2] + 200 * last + small[-2:]).notes


@pytest.mark.parametrize("options", JPEG_KINDS, ids=str)
def test_jpeg_without_its_end_marker(options: dict[str, Any], photo: Image.Image) -> None:
    data = encoded(photo, "JPEG", **options)
    decoded = read_image(data[:-2])
    assert decoded.notes == ("the file has no end marker",)
    assert np.array_equal(decoded.pixels, read_image(data).pixels)


@pytest.mark.parametrize("options", JPEG_KINDS, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_gray_corner_is_no_damage(options: dict[str, Any], mode: str) -> None:
    image = Image.new("RGB", (50, 50), (128, 128, 128)).convert(mode)
    read_image(encoded(image, "JPEG", **options))


def test_jpeg_without_a_color(photo: Image.Image) -> None:
    """A progressive file whose scans of one color are gone."""
    data = encoded(photo, "JPEG", progressive=True)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    with pytest.raises(ImageError, match="after its 1 scans the image is not complete"):
        read_image(data[:second].rsplit(b"\xff\xc4", 1)[0] + b"\xff\xd9")


def test_webp(photo: Image.Image) -> None:
    for options in ({}, {"lossless": True}):
        data = encoded(photo.resize((200, 200)), "WEBP", **options)
        for share in (0.5, 0.9):
            cut = bytearray(data[: int(len(data) * share) // 2 * 2])
            with pytest.raises(ImageError, match="WEBP data is truncated"):
                read_image(bytes(cut))
            struct.pack_into("<I", cut, 4, len(cut) - 8)
            struct.pack_into("<I", cut, 16, len(cut) - 20)
            with pytest.raises(ImageError, match="WEBP data is truncated"):
                read_image(bytes(cut))


@pytest.mark.parametrize("end", [b"", b"\0;"])
def test_gif(end: bytes, photo: Image.Image) -> None:
    data = encoded(photo.quantize(64), "GIF")
    with pytest.raises(ImageError, match="GIF data is truncated"):
        read_image(data[: int(len(data) * 0.8)] + end)


COMPRESSIONS = [None, "deflate", "lzw", "packbits", "zstd", "jpeg"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_tiff_strips(compression: str | None, photo: Image.Image) -> None:
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    large = np.asarray(photo.resize((160, 128)))
    tifffile.imwrite(
        stream, large, photometric="rgb", compression=compression, rowsperstrip=16, metadata=None
    )
    data = stream.getvalue()
    read_image(data)
    stream.seek(0)
    with tifffile.TiffFile(stream) as file:
        tags = file.pages[0].tags
        offsets, counts = file.pages[0].dataoffsets, file.pages[0].databytecounts
        places = {code: tags[code].valueoffset for code in (273, 279)}
        sizes = {code: 4 if tags[code].dtype == 4 else 2 for code in (273, 279)}

    def changed(code: int, index: int, value: int) -> bytes:
        other = bytearray(data)
        layout = "<I" if sizes[code] == 4 else "<H"
        struct.pack_into(layout, other, places[code] + index * sizes[code], value)
        return bytes(other)

    with pytest.raises(ImageError, match=r"strip 1 of|decoder error|truncated"):
        read_image(changed(279, 0, counts[0] // 2))
    with pytest.raises(ImageError, match="lies beyond its end"):
        read_image(changed(273, len(offsets) - 1, len(data) - 3))
    if compression is not None:
        zeroed = bytearray(data)
        half = counts[0] // 2
        zeroed[offsets[0] + half : offsets[0] + counts[0]] = bytes(counts[0] - half)
        with pytest.raises(ImageError, match="truncated"):
            read_image(bytes(zeroed))


def test_tiff_without_all_strips() -> None:
    data = bytearray(tiff_file(np.zeros((64, 8, 3), np.uint8)))
    (directory,) = struct.unpack_from("<I", data, 4)
    for entry in range(directory + 2, len(data) - 4, 12):
        if struct.unpack_from("<H", data, entry)[0] == 278:
            struct.pack_into("<I", data, entry + 8, 16)
    with pytest.raises(ImageError, match="lists 1 of 4 strips"):
        read_image(bytes(data))


def test_preview_pages(shared: Path) -> None:
    cases = shared / "cases" / "tiff-preview-scored"
    expected = read_image(cases / "full.png").pixels
    for name, note in (
        ("raw.dng", "sub-image 1 used, because the first page is a preview"),
        ("thumb_first_chain.tif", "page 2 used, because the first page is a preview"),
    ):
        decoded = read_image(cases / name)
        assert np.array_equal(decoded.pixels, expected)
        assert note in decoded.notes
    raw = bytearray((cases / "raw.dng").read_bytes())
    (below,) = struct.unpack_from("<I", raw, raw.index(struct.pack("<HHI", 330, 4, 1)) + 8)
    place = raw.index(struct.pack("<HHI", 262, 3, 1), below)
    struct.pack_into("<H", raw, place + 8, 32803)
    with pytest.raises(ImageError, match=r"camera raw file .a color filter array"):
        read_image(bytes(raw))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_the_page_that_is_no_preview(
    big: bool, order: str, below: bool, compression: str | None, tmp_path: Path
) -> None:
    tifffile = pytest.importorskip("tifffile")
    full = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    path = tmp_path / "pages.tif"
    if big and order == ">":
        tifffile.imwrite(path, full, bigtiff=True, byteorder=">", metadata=None)
        with pytest.raises(ImageError, match="BigTIFF file in big-endian byte order"):
            read_image(path)
        return
    with tifffile.TiffWriter(path, bigtiff=big, byteorder=order) as writer:
        options: dict[str, Any] = {
            "photometric": "rgb",
            "metadata": None,
            "compression": compression,
        }
        writer.write(full[::4, ::4], subfiletype=1, subifds=1 if below else None, **options)
        writer.write(full, subfiletype=0, **options)
    decoded = read_image(path)
    assert np.array_equal(decoded.pixels, full)
    what = "sub-image 1" if below else "page 2"
    assert f"{what} used, because the first page is a preview" in decoded.notes


def test_an_image_that_is_only_marked_as_a_preview(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "one.tif"
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8), subfiletype=1)
    assert read_image(path).notes == ("the image is marked as a preview and the file has no other",)


@pytest.mark.parametrize("photometric", [0, 1])
def test_float_white_is_zero(photometric: int) -> None:
    values = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8, 1)
    decoded = read_image(tiff_file(values, photometric=photometric, sample_format=3))
    expected = values if photometric else 1 - values
    assert np.abs(decoded.pixels / 65535 - expected).max() < 1e-4


def test_signed_8_bit_samples_have_no_white() -> None:
    data = tiff_file(np.zeros((4, 4, 1), np.int8), photometric=1, sample_format=2)
    with pytest.raises(ImageError, match="signed 8-bit"):
        read_image(data)


def rle_bitmap(runs: bytes) -> bytes:
    """A gray BMP file of 8 x 4 pixels in run lengths."""
    palette = b"".join(bytes((level, level, level, 0)) for level in range(256))
    start = 54 + len(palette)
    header = struct.pack("<2sIHHI", b"BM", start + len(runs), 0, 0, start)
    header += struct.pack("<IiiHHIIiiII", 40, 8, 4, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return header + palette + runs


def test_run_lengths_that_skip_pixels() -> None:
    skip = bytes((2, 50, 0, 2, 3, 1, 3, 200))
    pixels = read_image(
        rle_bitmap(bytes((8, 100, 0, 0)) + skip + bytes((0, 0, 8, 10, 0, 1)))
    ).pixels
    assert pixels[::-1, :, 0].tolist() == [
        [100] * 8,
        [50, 50, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 200, 200, 200],
        [10] * 8,
    ]
    with pytest.raises(ImageError, match=r"end before the last pixel.*; save it uncompressed"):
        read_image(rle_bitmap(bytes((8, 100, 0, 0, 8, 10, 0, 0, 0, 1))))


def test_tiff_files_that_are_not_read_say_what_to_do() -> None:
    colors = np.zeros((4, 4, 3))
    for samples, kind in ((colors.astype(np.float32), 3), (colors.astype(np.uint32), 1)):
        with pytest.raises(ImageError, match="; save it as gray or RGB with integers of 8 or 16"):
            read_image(tiff_file(samples, sample_format=kind))
    data = tiff_file(colors.astype(np.uint8))
    stated = struct.pack("<HHIHH", 259, 3, 1, 1, 0)
    assert data.count(stated) == 1
    webp = data.replace(stated, struct.pack("<HHIHH", 259, 3, 1, 50001, 0))
    with pytest.raises(ImageError, match=r"method webp \(50001\) is .* this Pillow; save it"):
        read_image(webp)


def test_color_map_of_8_bits() -> None:
    tifffile = pytest.importorskip("tifffile")
    indices = np.arange(64, dtype=np.uint8).reshape(8, 8)
    colors = np.random.default_rng(0).integers(0, 256, (3, 256), dtype=np.uint16)
    stream = io.BytesIO()
    tifffile.imwrite(stream, indices, photometric="palette", colormap=colors, metadata=None)
    decoded = read_image(stream.getvalue())
    assert np.array_equal(decoded.pixels, colors.T[indices])
    assert decoded.notes == ("color map taken as 8-bit values",)


@pytest.mark.parametrize(
    ("number", "named"), [(34887, r"LERC \(34887\)"), (34712, "JPEG 2000"), (40000, "40000")]
)
def test_a_compression_that_is_not_known(number: int, named: str) -> None:
    data = tiff_file(np.zeros((8, 8, 3), np.uint8), photometric=2)
    entry = struct.pack("<HHIH", 259, 3, 1, 1)
    assert data.count(entry) == 1
    with pytest.raises(ImageError, match=f"compressed by method {named}.*not supported"):
        read_image(data.replace(entry, struct.pack("<HHIH", 259, 3, 1, number)))


def test_large_unsigned_integers_are_named_as_they_are() -> None:
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.full((4, 4), 3_000_000_000, np.uint32))
    with pytest.raises(ImageError, match="span 3000000000 to 3000000000 and only 0 to 65535"):
        read_image(stream.getvalue())


def test_tiles_that_claim_gigabytes(shared: Path) -> None:
    with pytest.raises(ImageError, match="do not belong to an image of 16 x 16"):
        read_image(shared / "cases" / "tiff-tile-bomb" / "tile_46320.tif")


def test_nothing_is_printed_about_too_many_samples() -> None:
    """Pillow logs an error, which Python prints where nobody has set up logging."""
    data = tiff_file(np.zeros((8, 8, 7), np.uint8), photometric=1)
    script = (
        "import sys\n"
        "from qmamba.errors import ImageError\n"
        "from qmamba.images import read_image\n"
        "try: read_image(sys.stdin.buffer.read())\n"
        "except ImageError: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], input=data, capture_output=True)
    assert (done.stdout, done.stderr) == (b"refused\n", b"")


def _indexed(rows: list[bytes], packed: bytes | None = None, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", 8, len(rows), 8, 3, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows)) if packed is None else packed
    chunks = ((b"IHDR", header), (b"PLTE", bytes(range(12))), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def test_png_pixels_without_a_color_in_the_palette() -> None:
    assert not read_image(_indexed([bytes(8), bytes([3] * 8)])).notes
    damaged = read_image(_indexed([bytes(8), bytes([9] * 8)]))
    assert damaged.notes == ("pixels name color 9 of a palette of 4 colors",)


def test_png_data_behind_the_last_row() -> None:
    sound = _indexed([bytes(8)] * 2)
    pixels = read_image(sound).pixels
    packed = zlib.compress(bytes(18))
    # The last one would take ten gigabytes.
    for more in (packed + b"tail", zlib.compress(bytes(30)), zlib.compress(bytes(10**7)) * 1000):
        started = time.monotonic()
        found = read_image(_indexed([bytes(8)] * 2, more))
        assert time.monotonic() - started < 5
        assert found.notes == ("the pixel data goes on behind the last row",)
        assert np.array_equal(found.pixels, pixels)
    with pytest.raises(ImageError, match="no checksum at its end"):
        read_image(_indexed([bytes(8)] * 2, packed[:-4]))


def test_png_key_color_beside_alpha(photo: Image.Image) -> None:
    data = encoded(photo.convert("RGBA"), "PNG")
    keyed = data[:33] + png_chunk(b"tRNS", bytes(6)) + data[33:]
    found = read_image(keyed)
    assert found.notes == ("PNG chunk tRNS skipped: the image has an alpha channel",)
    assert np.array_equal(found.pixels, read_image(data).pixels)
