"""Reading an image with all that its file holds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qmamba.errors import ImageError
from qmamba.images import ImageLayers, layers_of, read_image, read_layers, to_tensor
from qmamba.images.color.srgb import over_white
from tests.images.image_files import (
    PNG_GRAY_ALPHA,
    PNG_RGBA,
    cmyk_profile,
    encoded,
    linear_gray_profile,
    png16,
    png_chunk,
    swapped_profile,
    tiff_file,
)


def noise(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "WEBP"])
def test_plain_colors(file_format: str) -> None:
    samples = noise(5, 7, 3)
    options = {"lossless": True} if file_format == "WEBP" else {}
    layers = read_layers(encoded(Image.fromarray(samples), file_format, **options))
    assert np.array_equal(layers.colors, samples)
    assert layers.colors.flags.c_contiguous and layers.colors.flags.writeable
    assert (layers.alpha, layers.profile, layers.notes) == (None, None, ())
    assert (layers.format, layers.path, layers.bits) == (file_format, None, 8)
    assert (layers.width, layers.height) == (7, 5)


def test_gray_stays_gray() -> None:
    samples = noise(4, 6)
    for image in (Image.fromarray(samples), Image.fromarray(samples).convert("P")):
        layers = read_layers(encoded(image, "PNG"))
        assert np.array_equal(layers.colors, samples[..., None])
    bilevel = Image.fromarray(samples > 100)
    assert set(np.unique(read_layers(encoded(bilevel, "PNG")).colors)) == {0, 255}


def test_palette_with_colors_and_transparency() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 9, 9, 9])
    image.putdata([0, 1, 2])
    layers = read_layers(encoded(image, "PNG", transparency=b"\x80\xff\x00"))
    assert layers.colors.tolist() == [[[255, 0, 0], [0, 255, 0], [9, 9, 9]]]
    assert layers.alpha is not None and layers.alpha.tolist() == [[128, 255, 0]]


def test_alpha_is_a_layer() -> None:
    samples = noise(5, 4, 4)
    layers = read_layers(encoded(Image.fromarray(samples), "PNG"))
    assert np.array_equal(layers.colors, samples[..., :3])
    assert layers.alpha is not None and np.array_equal(layers.alpha, samples[..., 3])
    samples[..., 3] = 255
    assert read_layers(encoded(Image.fromarray(samples), "PNG")).alpha is None
    gray = read_layers(encoded(Image.fromarray(samples[..., :2]), "PNG"))
    assert gray.colors.shape == (5, 4, 1) and gray.alpha is not None


@pytest.mark.parametrize(("color", "channels"), [(PNG_RGBA, 4), (PNG_GRAY_ALPHA, 2)])
def test_16_bits_with_alpha(color: int, channels: int) -> None:
    samples = noise(3, 5, channels, dtype=np.uint16)
    layers = read_layers(png16(samples, color))
    assert np.array_equal(layers.colors, samples[..., :-1])
    assert layers.alpha is not None and np.array_equal(layers.alpha, samples[..., -1])
    assert layers.bits == 16 and layers.notes == ()


def test_16_bit_tiff() -> None:
    samples = noise(3, 5, 3, dtype=np.uint16)
    for separate in (False, True):
        layers = read_layers(tiff_file(samples, ">", separate=separate))
        assert np.array_equal(layers.colors, samples)


def test_profiles_stay_with_their_colors() -> None:
    image = Image.fromarray(noise(4, 4, 3))
    profile = swapped_profile()
    layers = read_layers(encoded(image, "PNG", icc_profile=profile))
    assert np.array_equal(layers.colors, np.asarray(image))
    assert layers.profile == profile and layers.notes == ()
    deep = noise(4, 4, 3, dtype=np.uint16)
    gray = read_layers(encoded(image.convert("L"), "PNG", icc_profile=linear_gray_profile()))
    assert gray.profile == linear_gray_profile() and gray.colors.shape == (4, 4, 1)
    assert np.array_equal(read_layers(tiff_file(deep)).colors, deep)


@pytest.mark.parametrize(
    ("mode", "profile", "note"),
    [
        ("RGB", linear_gray_profile(), "ICC profile dropped: it is for other colors (GRAY)"),
        ("RGB", b"no profile at all", "ICC profile dropped: it cannot be read"),
    ],
)
def test_profiles_that_do_not_fit(mode: str, profile: bytes, note: str) -> None:
    layers = read_layers(encoded(Image.new(mode, (2, 2)), "PNG", icc_profile=profile))
    assert layers.profile is None and layers.notes == (note,)


def test_cmyk_and_lab_become_srgb() -> None:
    cmyk = encoded(Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "TIFF", icc_profile=cmyk_profile())
    layers = read_layers(cmyk)
    assert np.array_equal(layers.colors, read_image(cmyk).pixels)
    assert layers.profile is None and layers.notes[0] == "converted from CMYK"
    lab = encoded(Image.new("LAB", (2, 2), (128, 128, 128)), "TIFF")
    assert read_layers(lab).colors.shape == (2, 2, 3)
    assert read_layers(lab).notes == ("converted from LAB",)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_orientation_is_applied_and_reset(orientation: int, file_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Maker"
    samples = noise(2, 3, 4)
    data = encoded(Image.fromarray(samples), file_format, exif=exif)
    layers = read_layers(data)
    flat = encoded(Image.fromarray(samples[..., :3]), file_format, exif=exif)
    assert np.array_equal(layers.colors, read_image(flat).pixels)
    assert layers.alpha is not None and layers.alpha.shape == layers.colors.shape[:2]
    kept = Image.Exif()
    assert layers.metadata.exif is not None
    kept.load(layers.metadata.exif)
    assert kept.get(0x0112, 1) == 1 and kept[0x010F] == "Maker"
    expected = () if orientation == 1 else (f"EXIF orientation {orientation} applied",)
    assert layers.notes == expected


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 3), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    layers = read_layers(tmp_path / "a.gif")
    assert layers.notes == ("first of several frames used",)
    assert layers.colors[0, 0].tolist() == [255, 0, 0]
    assert layers.path == str(tmp_path / "a.gif")


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_smallest_images(size: tuple[int, int]) -> None:
    samples = noise(*size, 3)
    assert np.array_equal(read_layers(encoded(Image.fromarray(samples), "PNG")).colors, samples)


def test_errors_are_those_of_read_image(tmp_path: Path) -> None:
    good = encoded(Image.fromarray(noise(20, 20, 3)), "PNG")
    for content, message in (
        (b"", "empty"),
        (b"hello", "not a JPEG"),
        (good[:200], "truncated"),
        (good, "raise max_pixels"),
    ):
        with pytest.raises(ImageError, match=message):
            read_layers(io.BytesIO(content), max_pixels=399 if content is good else 400)
    with pytest.raises(ImageError, match="no such file"):
        read_layers(tmp_path / "gone.png")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_is_dropped() -> None:
    image = encoded(Image.new("L", (2, 2)), "PNG")
    chunk = png_chunk(b"eXIf", b"II*\0\xff\xff\xff\xff broken")
    layers = read_layers(image[:33] + chunk + image[33:])
    assert layers.metadata.exif is None
    assert "EXIF data dropped: it is damaged" in layers.notes


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_arrays_and_tensors(channels: int) -> None:
    samples = noise(4, 5, channels)
    colors = channels - (channels in (2, 4))
    for image in (samples, torch.from_numpy(samples).permute(2, 0, 1)):
        layers = layers_of(image)
        assert np.array_equal(layers.colors, samples[..., :colors])
        assert (layers.alpha is None) == (channels in (1, 3))
    values = samples.astype(np.float32) / 255
    layers = layers_of(values)
    assert np.array_equal(layers.colors, samples[..., :colors].astype(np.uint16) * 257)
    assert layers.notes == ("float samples stored as 16 bits",)


def test_arrays_of_foreign_byte_order() -> None:
    samples = noise(4, 5, 3, dtype=np.uint16)
    layers = layers_of(samples.astype(">u2"))
    assert layers.colors.dtype == np.uint16 and np.array_equal(layers.colors, samples)
    assert torch.equal(to_tensor(samples.astype(">u2")), to_tensor(samples))


def test_pillow_images() -> None:
    image = Image.fromarray(noise(4, 5, 4)).rotate(90, expand=True)
    layers = layers_of(image)
    assert np.array_equal(layers.colors, np.asarray(image)[..., :3])
    assert layers_of(Image.new("I;16", (2, 3), 40_000)).colors.ravel()[0] == 40_000


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 3, 3), np.uint8), "have pixels"),
        (np.zeros((2, 3, 5), np.uint8), "1 to 4 channels"),
        (np.zeros((2, 3), np.int32), "uint8, uint16 or floating point"),
        (np.full((2, 3), np.nan), r"lie in \[0, 1\]"),
        (np.full((2, 3), 255.0), r"lie in \[0, 1\]"),
        (torch.zeros(2, 3), "channels, height, width"),
        (torch.zeros(3, 2, 2, dtype=torch.int64), "uint8, uint16 or floating point"),
        ("text", "got str"),
        (Image.new("RGB", (0, 3)), "empty"),
    ],
)
def test_what_is_no_image(image: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        layers_of(image)  # type: ignore[arg-type]


def test_layers_must_fit_each_other() -> None:
    colors = np.zeros((2, 3, 3), np.uint8)
    for bad, alpha in (
        (colors[..., :2], None),
        (colors.astype(np.float32), None),
        (colors, np.zeros((3, 2), np.uint8)),
        (colors, np.zeros((2, 3), np.uint16)),
    ):
        with pytest.raises(ImageError):
            ImageLayers(bad, alpha)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_layers_over_white_are_what_is_scored(mode: str) -> None:
    if mode == "I;16":
        data = encoded(Image.fromarray(noise(6, 5, dtype=np.uint16)), "PNG")
    else:
        data = encoded(Image.fromarray(noise(6, 5, 4)).convert(mode), "PNG")
    layers = read_layers(data)
    colors = layers.colors
    if layers.alpha is not None:
        colors = over_white(colors, layers.alpha[..., None])
    assert np.array_equal(np.broadcast_to(colors, (6, 5, 3)), read_image(data).pixels)
