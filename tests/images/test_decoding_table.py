"""Every arrangement of samples that a file can have, against an independent decoder.

TIFF files are written by tifffile and their samples read back by it; PNG, BMP and WebP files by
OpenCV.  What the samples mean is computed here, in float64, from the rules in docs/images.md.
"""

from __future__ import annotations

import io
import itertools
import re
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qmamba.errors import ImageError
from qmamba.images import read_image, read_layers
from tests.images.image_files import encoded, png_chunk, png_file

tifffile = pytest.importorskip("tifffile")
cv2 = pytest.importorskip("cv2")

HEIGHT, WIDTH = 21, 34
ALPHAS = {"none": None, "unspecified": 0, "associated": 1, "unassociated": 2}


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Upright pixels by the table of TIFF 6.0: where row 0 and column 0 of the file are shown."""
    shown = {
        1: pixels,
        2: np.fliplr(pixels),
        3: np.rot90(pixels, 2),
        4: np.flipud(pixels),
        5: np.swapaxes(pixels, 0, 1),
        6: np.rot90(pixels, -1),
        7: np.rot90(np.swapaxes(pixels, 0, 1), 2),
        8: np.rot90(pixels, 1),
    }
    return shown[orientation]


def over_white(colors: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    if alpha is None:
        return colors
    return colors * alpha[..., None] + (1 - alpha[..., None])


@dataclass(frozen=True)
class Tiff:
    """One arrangement of the samples of a TIFF file."""

    photometric: str
    dtype: str
    alpha: str = "none"
    order: str = "<"
    separate: bool = False
    compression: str | None = None
    tiled: bool = False
    orientation: int = 1
    bits: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [self.photometric, self.dtype if self.bits is None else f"uint{self.bits}"]
        parts += [self.alpha] * (self.alpha != "none") + ["big-endian"] * (self.order == ">")
        parts += ["planes"] * self.separate + [self.compression or ""] * (
            self.compression is not None
        )
        parts += ["tiles"] * self.tiled
        parts += [f"turned{self.orientation}"] * (self.orientation > 1)
        return "-".join(map(str, parts))

    @property
    def colors(self) -> int:
        return {"rgb": 3, "separated": 4}.get(self.photometric, 1)

    def samples(self) -> np.ndarray:
        channels = self.colors + (self.alpha != "none")
        random = np.random.default_rng(7)
        shape = (HEIGHT, WIDTH, channels)
        dtype = np.dtype(self.dtype)
        if dtype.kind == "f":
            values = random.random(shape).astype(dtype)
        else:
            top = np.iinfo(dtype).max if self.bits is None else 2**self.bits - 1
            values = random.integers(0, min(top, 65535), shape, dtype=dtype, endpoint=True)
        if self.alpha == "associated":
            values[..., :-1] = np.minimum(values[..., :-1], values[..., -1:])
        return values

    def file(self) -> bytes:
        values = self.samples()
        if values.shape[2] == 1:
            values = values[..., 0]
        elif self.separate:
            values = np.moveaxis(values, 2, 0)
        options: dict[str, Any] = {
            "photometric": self.photometric,
            "byteorder": self.order,
            "metadata": None,
            "compression": self.compression,
            **self.options,
        }
        if values.ndim == 3:
            options["planarconfig"] = "separate" if self.separate else "contig"
        if self.alpha != "none":
            options["extrasamples"] = [ALPHAS[self.alpha]]
        if self.tiled:
            options["tile"] = (16, 16)
        if self.bits is not None:
            options["bitspersample"] = self.bits
        if self.photometric == "palette":
            options["colormap"] = self.color_map()
        if self.orientation > 1:
            options["extratags"] = [(274, "H", 1, self.orientation, True)]
        stream = io.BytesIO()
        tifffile.imwrite(stream, values, **options)
        return stream.getvalue()

    def color_map(self) -> np.ndarray:
        return np.random.default_rng(3).integers(0, 256, (3, 256), dtype=np.uint16) * 257

    def expected(self, data: bytes) -> np.ndarray:
        """sRGB in [0, 1] as float64 (height, width, 3)."""
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            stored = file.pages[0].asarray()
        if stored.ndim == 2:
            stored = stored[..., None]
        elif self.separate:
            stored = np.moveaxis(stored, 0, 2)
        assert np.array_equal(stored, self.samples()), "tifffile reads what it wrote"
        top = 1.0
        if stored.dtype.kind != "f":
            top = 2.0 ** (self.bits or min(16, stored.dtype.itemsize * 8)) - 1
        values = stored.astype(np.float64) / top
        colors = values[..., : self.colors]
        alpha = values[..., -1] if self.alpha in ("associated", "unassociated") else None
        if self.photometric == "miniswhite":
            colors = 1 - colors
        if self.photometric == "palette":
            colors = np.moveaxis(self.color_map(), 0, 1)[stored[..., 0]] / 65535
        if self.photometric == "separated":
            colors = (1 - colors[..., :3]) * (1 - colors[..., 3:])
        if self.alpha == "associated" and alpha is not None:
            shown = colors + (1 - alpha[..., None])
        else:
            shown = over_white(colors, alpha)
        return turned(np.broadcast_to(shown, (*shown.shape[:2], 3)), self.orientation)


def tiffs() -> list[Tiff]:
    found = []
    for photometric, dtype, order in itertools.product(
        ("minisblack", "miniswhite", "rgb"), ("uint8", "uint16", "float32"), "<>"
    ):
        for alpha, separate, compression in itertools.product(
            ALPHAS, (False, True), (None, "deflate")
        ):
            if separate and (photometric != "rgb" and alpha == "none"):
                continue
            found.append(Tiff(photometric, dtype, alpha, order, separate, compression))
    for compression in ("lzw", "packbits", "zstd", "lzma"):
        for dtype in ("uint8", "uint16", "float32"):
            found.append(Tiff("minisblack", dtype, compression=compression))
        found.append(Tiff("rgb", "uint16", compression=compression, tiled=True))
    for bits in (1, 2, 4):
        found += [Tiff("minisblack", "uint8", bits=bits), Tiff("miniswhite", "uint8", bits=bits)]
    found += [Tiff("palette", "uint8"), Tiff("palette", "uint8", compression="deflate")]
    found += [
        Tiff("separated", "uint8"),
        Tiff("separated", "uint16"),
        Tiff("separated", "uint8", "unspecified"),
    ]
    found += [
        Tiff("minisblack", dtype, order=order, compression=compression)
        for dtype in ("int16", "int32", "uint32")
        for order in "<>"
        for compression in (None, "deflate")
    ]
    found += [
        Tiff(p, d, orientation=o)
        for p, d in (
            ("rgb", "uint8"),
            ("rgb", "uint16"),
            ("minisblack", "float32"),
            ("minisblack", "uint16"),
        )
        for o in range(2, 9)
    ]
    return found


UNSUPPORTED = (
    "arranges its samples|in separate planes|only 0 to 65535 has a meaning|unsupported kind"
)
DECODED = 166


def decodes(case: Tiff) -> bool:
    """Whether a case is decoded, and then rightly; a refusal must be one clear sentence."""
    data = case.file()
    expected = case.expected(data)
    try:
        decoded = read_image(data)
    except ImageError as error:
        assert re.search(UNSUPPORTED, str(error))
        return False
    top = np.iinfo(decoded.pixels.dtype).max
    difference = np.abs(decoded.pixels / top - expected).max() * 255
    # Half a level of rounding, once more where alpha is applied, and the low byte that 16-bit
    # samples in compressed planes and CMYK lose, which a note says.
    allowed = 0.51 + (case.alpha != "none")
    if "16-bit samples reduced to 8 bits" in decoded.notes:
        allowed += 1.5
    assert difference <= allowed, (difference, decoded.notes)
    return True


@pytest.mark.parametrize("case", tiffs(), ids=str)
def test_tiff(case: Tiff) -> None:
    decodes(case)


def test_refusals_do_not_become_more() -> None:
    assert sum(map(decodes, tiffs())) >= DECODED


def interlaced(samples: np.ndarray, bits: int) -> list[bytes]:
    """Rows of the seven passes of Adam7."""
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    return [
        row
        for top, left, down, across in passes
        for row in packed_rows(samples[top::down, left::across], bits)
    ]


def packed_rows(samples: np.ndarray, bits: int) -> list[bytes]:
    if 0 in samples.shape:
        return []
    if bits == 16:
        return [row.astype(">u2").tobytes() for row in samples]
    if bits == 8:
        return [row.astype(np.uint8).tobytes() for row in samples]
    flat = samples.reshape(len(samples), -1).astype(np.uint8)
    single = np.unpackbits(flat[..., None], axis=2)[..., 8 - bits :].reshape(len(samples), -1)
    return [row.tobytes() for row in np.packbits(single, axis=1)]


PNGS = [
    (bits, color, key, lace)
    for bits, color in [
        *((bits, 0) for bits in (1, 2, 4, 8, 16)),
        *((bits, 3) for bits in (1, 2, 4, 8)),
        *((bits, color) for bits in (8, 16) for color in (2, 4, 6)),
    ]
    for key in (False, True)
    for lace in (False, True)
    if not (key and color in (4, 6))
]


@pytest.mark.parametrize(("bits", "color", "key", "lace"), PNGS)
def test_png(bits: int, color: int, key: bool, lace: bool) -> None:
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    random = np.random.default_rng(bits + color)
    values = random.integers(0, 1 << bits, (HEIGHT, WIDTH, channels))
    palette = random.integers(0, 256, (1 << bits, 3)) if color == 3 else None
    extra = b"" if palette is None else png_chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    alphas = None
    if key and palette is not None:
        alphas = random.integers(0, 256, len(palette))
        extra += png_chunk(b"tRNS", alphas.astype(np.uint8).tobytes())
    elif key:
        extra += png_chunk(b"tRNS", values[0, 0].astype(">u2").tobytes())
    rows = interlaced(values, bits) if lace else packed_rows(values, bits)
    data = png_file(WIDTH, HEIGHT, bits, color, rows, extra, interlaced=lace)

    top = (1 << bits) - 1
    if palette is not None:
        colors = palette[values[..., 0]] / 255
        alpha = None if alphas is None else alphas[values[..., 0]] / 255
    else:
        colors = values[..., : 3 if color & 2 else 1] / top
        alpha = values[..., -1] / top if color & 4 else None
        if key:
            alpha = 1.0 - (values == values[0, 0]).all(axis=2)
    decoded = read_image(data)
    assert decoded.pixels.dtype == (np.uint16 if bits == 16 else np.uint8)
    scale = np.iinfo(decoded.pixels.dtype).max
    assert np.abs(decoded.pixels / scale - over_white(colors, alpha)).max() * scale <= 1.01

    reference = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    reference = reference[..., None] if reference.ndim == 2 else reference[..., 2::-1]
    layers = read_layers(data)
    if layers.alpha is not None:
        seen = layers.alpha > 0
        assert np.array_equal(
            (layers.colors + 0 * reference)[seen], (reference + 0 * layers.colors)[seen]
        )
    else:
        assert np.array_equal(layers.colors + 0 * reference, reference + 0 * layers.colors)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("place", ["exif", "xmp", "xmp-element", "exif-behind-pixels"])
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_orientation(file_format: str, place: str, orientation: int) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:16, :16] = (255, 0, 0)
    pixels[:16, 16:] = (0, 255, 0)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[274] = orientation
    attribute = f'tiff:Orientation="{orientation}"'
    element = f"<tiff:Orientation>{orientation}</tiff:Orientation>"
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        f'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" {attribute if place == "xmp" else ""}>'
        f"{element if place == 'xmp-element' else ''}</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()
    if place == "exif-behind-pixels":
        if file_format != "PNG":
            return
        end = png_chunk(b"IEND", b"")
        data = encoded(image, "PNG").removesuffix(end)
        data += png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + end
    elif place == "exif":
        data = encoded(image, file_format, exif=exif, lossless=True, quality=95)
    elif file_format == "PNG":
        text = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet)
        data = encoded(image, "PNG")
        data = data[:33] + text + data[33:]
    elif file_format == "TIFF":
        data = encoded(image, "TIFF", tiffinfo={700: packet})
    else:
        data = encoded(image, file_format, xmp=packet, lossless=True, quality=95)
    decoded = read_image(data)
    difference = decoded.pixels.astype(int) - turned(pixels, orientation)
    assert np.abs(difference).max() < (150 if file_format == "JPEG" else 1), decoded.notes
    assert any("rientation" in note for note in decoded.notes) == (orientation > 1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("lossless", [True, False])
def test_webp(mode: str, lossless: bool) -> None:
    random = np.random.default_rng(1)
    channels = len(mode)
    values = random.integers(0, 256, (HEIGHT, WIDTH, channels), dtype=np.uint8).squeeze()
    data = encoded(Image.fromarray(values), "WEBP", lossless=lossless, exact=True)
    reference = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    colors = reference[..., 2::-1] / 255
    alpha = reference[..., 3] / 255 if reference.shape[2] == 4 else None
    decoded = read_image(data).pixels / 255
    assert np.abs(decoded - over_white(colors, alpha)).max() * 255 <= 1.01


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg(mode: str, subsampling: int, progressive: bool) -> None:
    photo = Image.effect_noise((WIDTH, HEIGHT), 40).convert(mode)
    data = encoded(photo, "JPEG", subsampling=subsampling, progressive=progressive, quality=90)
    reference = cv2.imdecode(
        np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    )
    difference = read_image(data).pixels.astype(int) - reference[..., ::-1]
    assert np.abs(difference).max() <= 2


BMPS = [(1, 0), (4, 0), (8, 0), (16, 0), (24, 0), (32, 0), (32, 255), (32, 128)]


@pytest.mark.parametrize(("bits", "alpha"), BMPS)
@pytest.mark.parametrize("upside_down", [False, True])
def test_bmp(bits: int, alpha: int, upside_down: bool) -> None:
    """32 bits without an alpha mask carry none, and one that is zero everywhere means nothing."""
    random = np.random.default_rng(bits)
    row_bytes = -(-WIDTH * bits // 32) * 4
    rows = random.integers(0, 256, (HEIGHT, row_bytes), dtype=np.uint8)
    if bits == 32:
        rows.reshape(HEIGHT, WIDTH, 4)[..., 3] = alpha
    if bits == 16:
        rows[:, 1::2] &= 0x7F
    palette = random.integers(0, 256, (1 << bits, 4), dtype=np.uint8) if bits <= 8 else np.empty(0)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) if bits == 32 else b""
    info = struct.pack(
        "<IiiHHIIiiII",
        108 if masks else 40,
        WIDTH,
        -HEIGHT if upside_down else HEIGHT,
        1,
        bits,
        3 if masks else 0,
        rows.size,
        2835,
        2835,
        0,
        0,
    )
    info += masks + bytes(52) if masks else palette.tobytes()
    data = b"BM" + struct.pack("<IHHI", 14 + len(info) + rows.size, 0, 0, 14 + len(info))
    data += info + rows.tobytes()
    reference = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] / 255
    if bits == 16:
        # OpenCV shifts the five bits, which leaves white at 248.
        reference = np.round(reference * 255 / 8) / 31
    opacity = np.full((HEIGHT, WIDTH), alpha / 255) if alpha == 128 else None
    decoded = read_image(data)
    assert np.abs(decoded.pixels / 255 - over_white(reference, opacity)).max() * 255 <= 1.01
    assert (bits == 32 and alpha == 0) == ("alpha ignored: it is zero everywhere" in decoded.notes)
    # The sixteen bits are those of a pixel, and none of them is lost.
    assert not any("16-bit" in note for note in decoded.notes)


@pytest.mark.parametrize("transparent", [False, True])
def test_gif_frame_smaller_than_its_canvas(transparent: bool) -> None:
    """What no frame has drawn is transparent, as every browser shows it."""
    frame = Image.fromarray(np.arange(6 * 5, dtype=np.uint8).reshape(6, 5) % 7, "P")
    frame.putpalette([255, 0, 0, *range(60, 60 + 20 * 3)])
    options = {"transparency": 3} if transparent else {}
    data = bytearray(encoded(frame, "GIF", **options))
    assert data[6:10] == struct.pack("<HH", 5, 6)
    data[6:10] = struct.pack("<HH", 9, 8)
    place = data.index(b",\0\0\0\0\5\0\6\0")
    data[place + 1 : place + 5] = struct.pack("<HH", 2, 1)
    expected = np.full((8, 9, 3), 255, np.uint8)
    inside = np.array(frame.convert("RGB"))
    if transparent:
        inside[np.asarray(frame) == 3] = 255
    expected[1:7, 2:7] = inside
    decoded = read_image(bytes(data))
    assert np.array_equal(decoded.pixels, expected)
    assert "the first frame is smaller than the canvas, and transparent around it" in decoded.notes
    layers = read_layers(bytes(data))
    assert layers.alpha is not None and layers.alpha[0, 0] == 0 and layers.alpha[1, 2] == 255
