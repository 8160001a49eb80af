from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from qmamba.images import read_image
from tests.images.image_files import (
    PNG_RGB,
    cmyk_profile,
    encoded,
    linear_gray_profile,
    png16,
    png_chunk,
    srgb_profile,
    swapped_profile,
)

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (7, 9, 3), dtype=np.uint8)
GRAY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_profile_is_converted_to_srgb(file_format: str) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {}
    image = Image.fromarray(COLORS)
    decoded = read_image(encoded(image, file_format, icc_profile=swapped_profile(), **options))
    difference = decoded.pixels.astype(int) - COLORS[..., [1, 0, 2]]
    assert np.abs(difference).max() <= 1
    assert decoded.notes == ("converted to sRGB from ICC profile 'sRGB built-in'",)


def test_jpeg_profile() -> None:
    decoded = read_image(
        encoded(Image.new("RGB", (8, 8), (255, 0, 0)), "JPEG", icc_profile=swapped_profile())
    )
    assert np.abs(decoded.pixels - np.array([0.0, 255, 0])).max() <= 3


def test_srgb_profile_changes_nothing() -> None:
    decoded = read_image(encoded(Image.fromarray(COLORS), "PNG", icc_profile=srgb_profile()))
    np.testing.assert_array_equal(decoded.pixels, COLORS)
    assert decoded.notes == ()


def test_gray_profile() -> None:
    decoded = read_image(encoded(Image.fromarray(GRAY), "PNG", icc_profile=linear_gray_profile()))
    light = GRAY / 255.0
    encoded_light = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(decoded.pixels - 255 * encoded_light[..., None]).max() <= 1
    assert len(decoded.notes) == 1


def test_gray_image_with_a_color_profile() -> None:
    for profile in (srgb_profile(), swapped_profile()):
        decoded = read_image(encoded(Image.fromarray(GRAY), "PNG", icc_profile=profile))
        assert np.abs(decoded.pixels.astype(int) - GRAY[..., None]).max() <= 1


def test_palette_image_with_a_profile() -> None:
    image = Image.new("P", (3, 2), 0)
    image.putpalette([200, 10, 30])
    decoded = read_image(encoded(image, "PNG", icc_profile=swapped_profile()))
    assert np.abs(decoded.pixels - np.array([10.0, 200, 30])).max() <= 1


def test_profile_comes_before_alpha() -> None:
    image = Image.new("RGBA", (3, 2), (255, 0, 0, 51))
    decoded = read_image(encoded(image, "PNG", icc_profile=swapped_profile()))
    assert np.abs(decoded.pixels - np.array([204.0, 255, 204])).max() <= 1
    assert decoded.notes[-1] == "alpha composited on white"


@pytest.mark.parametrize("file_format", ["TIFF", "JPEG"])
def test_cmyk_by_its_profile(file_format: str) -> None:
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    plain = read_image(encoded(cyan, file_format))
    assert np.abs(plain.pixels - np.array([0.0, 255, 255])).max() <= 3
    assert plain.notes == ("converted from CMYK",)
    managed = read_image(encoded(cyan, file_format, icc_profile=cmyk_profile()))
    assert np.abs(managed.pixels - 119.0).max() <= 3
    assert managed.notes[0] == "converted from CMYK"
    assert managed.notes[1].startswith("converted to sRGB from ICC profile")


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        (b"rubbish", "cannot be read"),
        (srgb_profile()[:200], "cannot be read"),
        (cmyk_profile(), "it is for CMYK colors, the image has RGB"),
    ],
)
def test_unusable_profile_is_ignored_with_a_note(profile: bytes, reason: str) -> None:
    decoded = read_image(encoded(Image.fromarray(COLORS), "PNG", icc_profile=profile))
    np.testing.assert_array_equal(decoded.pixels, COLORS)
    assert len(decoded.notes) == 1
    assert decoded.notes[0].startswith("ICC profile ignored: ")
    assert reason in decoded.notes[0]


def test_16_bits_survive_an_srgb_profile_only() -> None:
    samples = RNG.integers(0, 65536, (5, 6, 3), dtype=np.uint16)

    def with_profile(profile: bytes) -> bytes:
        import zlib

        return png16(samples, PNG_RGB, png_chunk(b"iCCP", b"name\0\0" + zlib.compress(profile)))

    kept = read_image(with_profile(srgb_profile()))
    np.testing.assert_array_equal(kept.pixels, samples)
    assert kept.notes == ()
    converted = read_image(with_profile(swapped_profile()))
    assert converted.pixels.dtype == np.uint8
    assert np.abs(converted.pixels - samples[..., [1, 0, 2]] / 257).max() <= 1.6
    assert "16-bit samples reduced to 8 bits for the color conversion" in converted.notes


def test_lab_tiff() -> None:
    decoded = read_image(encoded(Image.new("LAB", (3, 2), (255, 128, 128)), "TIFF"))
    assert decoded.pixels.min() >= 253
