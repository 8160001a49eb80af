from __future__ import annotations

import io
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image, ImageOps

from qmamba.errors import ConfigError, ImageError
from qmamba.images import IMAGE_SUFFIXES, read_image
from tests.images.image_files import (
    PNG_GRAY,
    PNG_GRAY_ALPHA,
    PNG_RGB,
    PNG_RGBA,
    encoded,
    png16,
    png_chunk,
    png_file,
    tiff_file,
)

LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "BMP": {}}


ORDERS: tuple[Literal["<"], Literal[">"]] = ("<", ">")


@pytest.fixture
def colors() -> np.ndarray:
    """A small image without any symmetry."""
    return np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


@pytest.mark.parametrize("file_format", LOSSLESS)
def test_lossless_formats_keep_every_pixel(
    file_format: str, colors: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "image.dat"
    path.write_bytes(encoded(Image.fromarray(colors), file_format, **LOSSLESS[file_format]))
    decoded = read_image(path)
    assert decoded.format == file_format
    assert decoded.path == str(path)
    assert decoded.notes == ()
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.writeable and decoded.pixels.flags.c_contiguous
    np.testing.assert_array_equal(decoded.pixels, colors)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg_equals_pillow(options: dict[str, object], colors: np.ndarray) -> None:
    data = encoded(Image.fromarray(colors), "JPEG", **options)
    decoded = read_image(data)
    assert (decoded.format, decoded.path, decoded.notes) == ("JPEG", None, ())
    np.testing.assert_array_equal(decoded.pixels, np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_compressed_tiff(compression: str, colors: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    Image.fromarray(colors).save(path, compression=compression)
    expected = np.asarray(Image.open(path))
    np.testing.assert_array_equal(read_image(path).pixels, expected)
    np.testing.assert_array_equal(read_image(path.read_bytes()).pixels, expected)


def test_sources_give_the_same_pixels(colors: np.ndarray, tmp_path: Path) -> None:
    data = encoded(Image.fromarray(colors), "PNG")
    path = tmp_path / "image.png"
    path.write_bytes(data)
    with open(path, "rb") as stream:
        from_stream = read_image(stream)
        assert not stream.closed
    prefixed = io.BytesIO(b"skip" + data)
    prefixed.seek(4)
    for decoded in (read_image(str(path)), read_image(data), from_stream, read_image(prefixed)):
        np.testing.assert_array_equal(decoded.pixels, colors)
    assert read_image(str(path)).path == str(path)
    assert from_stream.path is None


def test_gray_becomes_three_equal_channels() -> None:
    gray = np.arange(30, dtype=np.uint8).reshape(5, 6)
    for file_format in ("PNG", "TIFF", "BMP"):
        decoded = read_image(encoded(Image.fromarray(gray), file_format))
        np.testing.assert_array_equal(decoded.pixels, np.stack([gray] * 3, axis=-1))
    assert read_image(encoded(Image.fromarray(gray), "JPEG")).pixels.shape == (5, 6, 3)


def test_one_bit() -> None:
    checks = np.indices((6, 9)).sum(axis=0) % 2 == 0
    decoded = read_image(encoded(Image.fromarray(checks), "PNG"))
    np.testing.assert_array_equal(decoded.pixels[..., 1], checks * 255)


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette(file_format: str) -> None:
    image = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) % 3).convert("P")
    image.putpalette([10, 20, 30, 250, 128, 0, 7, 7, 99])
    decoded = read_image(encoded(image, file_format))
    expected = np.array([[10, 20, 30], [250, 128, 0], [7, 7, 99]])[np.asarray(image)]
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert decoded.notes == ()


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_palette_transparency_is_composited(transparency: int | bytes) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 250, 128, 0, 7, 7, 99])
    decoded = read_image(encoded(image, "PNG", transparency=transparency))
    assert decoded.pixels.tolist() == [[[10, 20, 30], [255, 255, 255], [7, 7, 99]]]
    assert decoded.notes == ("alpha composited on white",)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_white(file_format: str) -> None:
    samples = np.random.default_rng(1).integers(0, 256, (9, 11, 4), dtype=np.uint8)
    options = {"exact": True, **LOSSLESS[file_format]} if file_format == "WEBP" else {}
    decoded = read_image(encoded(Image.fromarray(samples), file_format, **options))
    alpha = samples[..., 3:] / 255.0
    expected = samples[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decoded.pixels - expected).max() <= 0.51
    assert decoded.notes == ("alpha composited on white",)


def test_opaque_alpha_is_not_worth_a_note(colors: np.ndarray) -> None:
    image = Image.fromarray(colors)
    image.putalpha(255)
    decoded = read_image(encoded(image, "PNG"))
    np.testing.assert_array_equal(decoded.pixels, colors)
    assert decoded.notes == ()


def test_gray_with_alpha() -> None:
    image = Image.merge("LA", (Image.new("L", (3, 2), 100), Image.new("L", (3, 2), 51)))
    decoded = read_image(encoded(image, "PNG"))
    assert set(decoded.pixels.ravel().tolist()) == {224}
    assert decoded.notes == ("alpha composited on white",)


@pytest.mark.parametrize(("bits", "key"), [(2, 1), (4, 9), (8, 200)])
def test_transparent_gray_level(bits: int, key: int) -> None:
    per_byte = 8 // bits
    levels = [key, 0] if per_byte > 1 else [key]
    row = bytes([sum(level << (8 - bits * (i + 1)) for i, level in enumerate(levels))])
    data = png_file(
        len(levels), 1, bits, PNG_GRAY, [row], png_chunk(b"tRNS", key.to_bytes(2, "big"))
    )
    decoded = read_image(data)
    assert decoded.pixels[0, 0].tolist() == [255, 255, 255]
    assert decoded.notes == ("alpha composited on white",)


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    for file_format in ("GIF", "PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if file_format == "WEBP" else {}
        data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
        decoded = read_image(data)
        assert decoded.notes == ("first of several frames used",), file_format
        assert decoded.pixels.reshape(-1, 3).tolist() == [[255, 0, 0]] * 48
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    decoded = read_image(data)
    assert (decoded.format, decoded.notes) == ("JPEG", ("first of several frames used",))
    assert decoded.pixels[..., 0].min() > 250


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(file_format: str, orientation: int, colors: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = LOSSLESS.get(file_format, {})
    data = encoded(Image.fromarray(colors), file_format, exif=exif, **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    decoded = read_image(data)
    np.testing.assert_array_equal(decoded.pixels, np.asarray(upright))
    note = (f"EXIF orientation {orientation} applied",)
    assert decoded.notes == (note if orientation > 1 else ())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_without_sense_is_ignored(colors: np.ndarray) -> None:
    image = Image.fromarray(colors)
    for exif in (b"Exif\0\0rubbish", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        np.testing.assert_array_equal(read_image(encoded(image, "PNG", exif=exif)).pixels, colors)
    exif_nine = Image.Exif()
    exif_nine[0x0112] = 9
    decoded = read_image(encoded(image, "PNG", exif=exif_nine))
    np.testing.assert_array_equal(decoded.pixels, colors)
    assert decoded.notes == ()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1)])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_tiny_images(size: tuple[int, int], file_format: str) -> None:
    decoded = read_image(encoded(Image.new("RGB", size, (255, 255, 255)), file_format))
    assert decoded.pixels.shape == (size[1], size[0], 3)
    assert decoded.pixels.min() >= 250


def test_16_bit_gray_keeps_its_values() -> None:
    samples = np.random.default_rng(2).integers(0, 65536, (5, 7, 1), dtype=np.uint16)
    expected = samples.repeat(3, axis=2)
    for data in (
        png16(samples, PNG_GRAY),
        tiff_file(samples, "<", photometric=1),
        tiff_file(samples, ">", photometric=1),
        encoded(Image.fromarray(samples[..., 0]), "TIFF", compression="tiff_lzw"),
    ):
        decoded = read_image(data)
        assert decoded.pixels.dtype == np.uint16
        assert decoded.notes == ()
        np.testing.assert_array_equal(decoded.pixels, expected)
    inverted = read_image(tiff_file(samples, "<", photometric=0))
    np.testing.assert_array_equal(inverted.pixels, 65535 - expected)


@pytest.mark.parametrize("orientation", [1, 2, 6])
def test_16_bit_rgb_keeps_its_values(orientation: int) -> None:
    samples = np.random.default_rng(3).integers(0, 65536, (6, 9, 3), dtype=np.uint16)
    upright = {1: samples, 2: samples[:, ::-1], 6: np.rot90(samples, -1)}[orientation]
    files = [
        tiff_file(samples, order, separate=separate, orientation=orientation)
        for order in ORDERS
        for separate in (False, True)
    ]
    exif = Image.Exif()
    exif[0x0112] = orientation
    files.append(png16(samples, PNG_RGB, png_chunk(b"eXIf", exif.tobytes()[6:])))
    for data in files:
        decoded = read_image(data)
        assert decoded.pixels.dtype == np.uint16
        np.testing.assert_array_equal(decoded.pixels, upright)


def test_16_bit_alpha_is_composited_in_16_bits() -> None:
    samples = np.random.default_rng(4).integers(0, 65536, (6, 9, 4), dtype=np.uint16)
    samples[0, 0] = (0, 65535, 123, 65535)
    samples[0, 1] = (0, 65535, 123, 0)
    alpha = samples[..., 3:] / 65535.0
    expected = samples[..., :3] * alpha + 65535 * (1 - alpha)
    for data in (png16(samples, PNG_RGBA), tiff_file(samples, extra_samples=(2,))):
        decoded = read_image(data)
        assert decoded.pixels.dtype == np.uint16
        assert np.abs(decoded.pixels - expected).max() <= 0.51
        assert decoded.notes == ("alpha composited on white",)


def test_16_bit_transparent_color() -> None:
    samples = np.array([[[257, 2, 3], [256, 2, 3]]], dtype=np.uint16)
    key = png_chunk(b"tRNS", samples[0, 0].astype(">u2").tobytes())
    decoded = read_image(png16(samples, PNG_RGB, key))
    assert decoded.pixels.tolist() == [[[65535] * 3, [256, 2, 3]]]
    gray = samples[..., :1]
    decoded = read_image(png16(gray, PNG_GRAY, png_chunk(b"tRNS", b"\1\1")))
    assert decoded.pixels.tolist() == [[[65535] * 3, [256] * 3]]


def test_16_bit_gray_with_alpha() -> None:
    samples = np.array([[[0x8001, 65535], [0x1234, 65535], [5, 0]]], dtype=np.uint16)
    decoded = read_image(png16(samples, PNG_GRAY_ALPHA))
    assert decoded.pixels.tolist() == [[[0x8001] * 3, [0x1234] * 3, [65535] * 3]]
    assert decoded.notes == ("alpha composited on white",)


def test_float_tiff_in_range() -> None:
    samples = np.random.default_rng(5).random((4, 5), dtype=np.float32)
    decoded = read_image(encoded(Image.fromarray(samples), "TIFF"))
    assert decoded.pixels.dtype == np.uint16
    assert np.abs(decoded.pixels[..., 2] / 65535 - samples).max() <= 0.51 / 65535
    assert decoded.notes == ("float samples stored as 16 bits",)


@pytest.mark.parametrize("bad", [-1.0, 2.0, 255.0, float("nan"), float("inf")])
def test_float_tiff_out_of_range(bad: float) -> None:
    samples = np.full((4, 5), 0.5, dtype=np.float32)
    samples[1, 1] = bad
    with pytest.raises(ImageError, match=r"float samples .* \[0, 1\]"):
        read_image(encoded(Image.fromarray(samples), "TIFF"))


def test_32_bit_integers_count_as_16_bits_where_they_fit() -> None:
    samples = np.array([[0, 1000, 65535]], dtype=np.int32)
    decoded = read_image(encoded(Image.fromarray(samples), "TIFF"))
    assert decoded.pixels.dtype == np.uint16
    assert decoded.pixels[..., 0].tolist() == [[0, 1000, 65535]]
    for wrong in (-1, 65536):
        samples[0, 0] = wrong
        with pytest.raises(ImageError, match="integer samples"):
            read_image(encoded(Image.fromarray(samples), "TIFF"))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("missing.png", None, "there is no such file"),
        ("empty.jpg", b"", "the file is empty"),
        ("text.png", b"hello, this is text", "it is not a JPEG, PNG, WebP, TIFF, BMP or GIF file"),
        ("film.webp", b"RIFF\0\0\0\0WAVEfmt ", "it is not a JPEG"),
        ("drawing.eps", b"%!PS-Adobe-3.0 EPSF-3.0", "it is not a JPEG"),
        ("short.bmp", b"BM", "the BMP data is truncated"),
    ],
)
def test_unreadable_files(name: str, content: bytes | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=problem) as caught:
        read_image(path)
    message = str(caught.value)
    assert repr(str(path)) in message
    assert "\n" not in message


def test_folders_pipes_and_odd_paths(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="it is a folder"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match="cannot read"):
        read_image("nul\0byte.png")
    with pytest.raises(ImageError, match="cannot read"):
        read_image("x" * 5000)
    with pytest.raises(ImageError, match="cannot read"):
        read_image(tmp_path / "file.png" / "below.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ImageError, match="not a regular file"):
            read_image(tmp_path / "pipe")


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(Image.new("RGB", (2, 2)), "PNG"))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageError, match=f"{re.escape(str(path))}.*permission denied"):
        read_image(path)


def test_wrong_kinds_of_source() -> None:
    with pytest.raises(ImageError, match="from int"):
        read_image(3)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="binary mode"):
        read_image(io.StringIO("text"))  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"0 bytes in memory.*empty"):
        read_image(b"")
    with pytest.raises(ConfigError, match="max_pixels"):
        read_image(b"", max_pixels=0)


def test_many_threads_agree(colors: np.ndarray) -> None:
    big = Image.fromarray(np.tile(colors, (12, 9, 1)))
    files = [encoded(big, name) for name in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")]
    alone = [read_image(data).pixels for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: read_image(data).pixels, files * 8))
    for index, pixels in enumerate(together):
        np.testing.assert_array_equal(pixels, alone[index % len(files)])


def test_suffixes_are_lower_case() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"} <= IMAGE_SUFFIXES
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in IMAGE_SUFFIXES)
