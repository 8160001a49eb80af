from __future__ import annotations

import io
import struct
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from qmamba.errors import ImageError
from qmamba.images import read_image
from tests.images.image_files import (
    PNG_RGB,
    encoded,
    png16,
    png_chunk,
    tiff_file,
)


def _pattern(height: int, width: int) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def _bombs(width: int, height: int) -> dict[str, bytes]:
    """Small files that announce width x height pixels."""
    jpeg = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    bmp = bytearray(encoded(Image.new("RGB", (8, 8)), "BMP"))
    bmp[18:26] = struct.pack("<ii", width, height)
    tiff = bytearray(tiff_file(np.zeros((8, 8, 3), np.uint8)))
    directory = struct.unpack_from("<I", tiff, 4)[0]
    struct.pack_into("<I", tiff, directory + 2 + 8, width)
    struct.pack_into("<I", tiff, directory + 2 + 12 + 8, height)
    gif_head = b"GIF89a" + struct.pack("<HH", 1, 1) + b"\x80\0\0" + b"\0" * 6
    disposal = b"!\xf9\x04\x08\0\0\0\0"
    comment = b"!\xfe\x03abc\0"
    gif_frame = b"," + struct.pack("<4HB", 0, 0, width, height, 0) + b"\2\2\x4c\1\0;"
    header = struct.pack(">IIBBBBB", width, height, 8, PNG_RGB, 0, 0, 0)
    webp = bytearray(encoded(Image.new("RGBA", (8, 8)), "WEBP"))
    assert webp[12:16] == b"VP8X"
    webp[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return {
        "png": b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"x\x9c"),
        "jpeg": bytes(jpeg),
        "bmp": bytes(bmp),
        "tiff": bytes(tiff),
        "gif": gif_head + disposal + comment + gif_frame,
        "webp": bytes(webp),
    }


@pytest.mark.parametrize("name", ["png", "jpeg", "bmp", "tiff", "gif", "webp"])
def test_bomb_is_refused_by_its_header(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _bombs(16000, 15000)[name]

    def decode(*_: object) -> None:
        raise AssertionError("a pixel was about to be decoded")

    monkeypatch.setattr(Image.core, "new", decode)
    monkeypatch.setattr(Image.core, "fill", decode)
    path = tmp_path / f"bomb.{name}"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError) as caught:
            read_image(path)
    message = str(caught.value)
    for part in (str(path), "16000 x 15000", "100000000", "max_pixels"):
        assert part in message


@pytest.mark.parametrize("lossless", [False, True])
def test_plain_webp_headers(lossless: bool) -> None:
    data = encoded(_pattern(20, 30), "WEBP", lossless=lossless)
    with pytest.raises(ImageError, match="30 x 20 = 600 pixels and the limit is 599"):
        read_image(data, max_pixels=599)
    assert read_image(data, max_pixels=600).pixels.shape == (20, 30, 3)


def test_a_limit_is_the_largest_size_allowed() -> None:
    for file_format in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"):
        data = encoded(_pattern(20, 30), file_format)
        assert read_image(data, max_pixels=600).pixels.shape == (20, 30, 3)
        with pytest.raises(ImageError, match="the limit is 599"):
            read_image(data, max_pixels=599)


def test_pillows_own_limit_neither_warns_nor_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    samples = np.random.default_rng(1).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    files = [
        encoded(_pattern(20, 30), name) for name in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
    ]
    files += [png16(samples, PNG_RGB), tiff_file(samples)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(6) as pool:
            decoded = list(pool.map(read_image, files * 4))
    assert all(image.pixels.shape == (20, 30, 3) for image in decoded)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_small_images_leave_pillows_limit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int | None] = []
    original = PngImagePlugin.PngImageFile.load_prepare

    def load_prepare(self: PngImagePlugin.PngImageFile) -> None:
        seen.append(Image.MAX_IMAGE_PIXELS)
        original(self)

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", load_prepare)
    before = Image.MAX_IMAGE_PIXELS
    read_image(encoded(_pattern(4, 4), "PNG"))
    assert seen == [before]


def test_overlapping_large_images_restore_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    inside, leave = threading.Event(), threading.Event()
    original = PngImagePlugin.PngImageFile.load_prepare

    def load_prepare(self: PngImagePlugin.PngImageFile) -> None:
        if self.size == (30, 20):
            inside.set()
            leave.wait(10)
        original(self)

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", load_prepare)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(read_image, encoded(_pattern(20, 30), "PNG"))
        assert inside.wait(10)
        read_image(encoded(_pattern(21, 30), "PNG"))
        assert Image.MAX_IMAGE_PIXELS is None
        leave.set()
        slow.result(10)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files(file_format: str, share: float, tmp_path: Path) -> None:
    data = encoded(_pattern(64, 64), file_format)
    path = tmp_path / "cut"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=f"the {file_format} data is truncated") as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_random_damage_never_escapes() -> None:
    """Random bytes, cuts and byte flips end in pixels or in an ImageError."""
    rng = np.random.default_rng(7)
    image = _pattern(12, 10)
    samples = rng.integers(0, 65536, (6, 5, 3), dtype=np.uint16)
    animation = [image, _pattern(12, 10).rotate(180)]
    valid = [
        encoded(
            image, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
        ),
        encoded(image, "PNG"),
        encoded(image, "WEBP"),
        encoded(image.convert("RGBA"), "WEBP", lossless=True),
        encoded(image, "TIFF"),
        encoded(image, "TIFF", compression="tiff_lzw"),
        encoded(image, "TIFF", compression="tiff_adobe_deflate"),
        encoded(image, "BMP"),
        encoded(image.convert("P"), "BMP"),
        encoded(animation[0], "GIF", save_all=True, append_images=animation[1:]),
        encoded(animation[0], "PNG", save_all=True, append_images=animation[1:]),
        png16(samples, PNG_RGB),
        tiff_file(samples, separate=True),
    ]
    inputs = [rng.bytes(int(rng.integers(0, 200))) for _ in range(100)]
    for data in valid:
        inputs += [data[:4] + rng.bytes(60) for _ in range(10)]
        inputs += [data[: int(rng.integers(0, len(data)))] for _ in range(20)]
        for _ in range(60):
            flipped = bytearray(data)
            for place in rng.integers(0, len(data), int(rng.integers(1, 6))):
                flipped[place] = rng.integers(0, 256)
            inputs.append(bytes(flipped))
    outcomes = {"pixels": 0, "error": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for data in inputs:
            try:
                decoded = read_image(io.BytesIO(data), max_pixels=1_000_000)
            except ImageError as error:
                assert "\n" not in str(error)
                outcomes["error"] += 1
            else:
                assert decoded.pixels.ndim == 3 and decoded.pixels.shape[2] == 3
                outcomes["pixels"] += 1
    assert min(outcomes.values()) > 100
