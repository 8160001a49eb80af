"""Writing image files: what each format keeps, and what happens when it cannot."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qmamba.errors import ConfigError, DataError, ImageError
from qmamba.images import ImageLayers, ImageMetadata, encode, read_layers, write_layers
from qmamba.images.encode import format_of
from tests.images.image_files import encoded, linear_gray_profile, srgb_profile
from tests.images.test_image_layers import noise

EXIF_DIRECTORY, GPS_DIRECTORY = 0x8769, 0x8825
MAKER_NOTE, PIXEL_WIDTH, PIXEL_HEIGHT = 0x927C, 0xA002, 0xA003
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"


def exif_block() -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif.get_ifd(EXIF_DIRECTORY).update(
        {MAKER_NOTE: b"secret of the maker", PIXEL_WIDTH: 11, PIXEL_HEIGHT: 12}
    )
    exif.get_ifd(GPS_DIRECTORY)[1] = "N"
    return exif.tobytes().removeprefix(b"Exif\0\0")


def sample_layers(
    bits: int = 8, channels: int = 3, alpha: bool = False, size: tuple[int, int] = (13, 21)
) -> ImageLayers:
    dtype = np.uint8 if bits == 8 else np.uint16
    profile = srgb_profile() if channels == 3 else linear_gray_profile()
    metadata = ImageMetadata(
        exif_block(), XMP, (300.0, 150.0), (("Title", "tést"), ("Comment", "hello"))
    )
    return ImageLayers(
        noise(*size, channels, dtype=dtype),
        noise(*size, dtype=dtype, seed=1) if alpha else None,
        profile,
        metadata,
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("size", [(13, 21), (1, 1), (1, 300), (300, 1)])
def test_lossless_formats(
    tmp_path: Path, suffix: str, bits: int, channels: int, alpha: bool, size: tuple[int, int]
) -> None:
    layers = sample_layers(bits, channels, alpha, size)
    notes = write_layers(tmp_path / f"a{suffix}", layers)
    again = read_layers(tmp_path / f"a{suffix}")
    widened = suffix == ".tif" and (bits, channels, alpha) == (16, 1, True)
    assert any("gray stored as RGB" in note for note in notes) == widened
    expected = np.repeat(layers.colors, 3, axis=2) if widened else layers.colors
    assert np.array_equal(again.colors, expected)
    if layers.alpha is not None and layers.alpha.min() < np.iinfo(layers.alpha.dtype).max:
        assert again.alpha is not None and np.array_equal(again.alpha, layers.alpha)
    assert again.profile == (None if widened else layers.profile)
    assert again.metadata.xmp == XMP
    assert again.metadata.density == pytest.approx((300, 150), rel=1e-4)
    with Image.open(tmp_path / f"a{suffix}") as image:
        image.load()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_exif_is_kept_with_its_sizes_set(tmp_path: Path, suffix: str) -> None:
    write_layers(tmp_path / f"a{suffix}", sample_layers())
    with Image.open(tmp_path / f"a{suffix}") as image:
        exif = image.getexif()
        inner, place = exif.get_ifd(EXIF_DIRECTORY), exif.get_ifd(GPS_DIRECTORY)
    assert exif[0x010F] == "Maker" and exif.get(0x0112, 1) == 1
    assert inner[MAKER_NOTE] == b"secret of the maker" and place[1] == "N"
    assert (inner[PIXEL_WIDTH], inner[PIXEL_HEIGHT]) == (21, 13)
    assert read_layers(tmp_path / f"a{suffix}").metadata.xmp == XMP


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_strip_metadata_keeps_the_profile(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    layers = sample_layers()
    notes = write_layers(path, layers, strip_metadata=True)
    again = read_layers(path)
    assert again.profile == layers.profile
    assert replace(again.metadata, density=None) == ImageMetadata()
    assert notes == ()
    for secret in (b"Maker", b"xmpmeta", b"hello"):
        assert secret not in path.read_bytes()


def test_texts(tmp_path: Path) -> None:
    layers = sample_layers()
    write_layers(tmp_path / "a.png", layers)
    assert read_layers(tmp_path / "a.png").metadata.texts == layers.metadata.texts
    assert "texts dropped" in " ".join(write_layers(tmp_path / "a.jpg", layers))
    assert read_layers(tmp_path / "a.jpg").metadata.texts == (("Comment", "hello"),)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossy_formats_say_what_they_lose(tmp_path: Path, suffix: str, channels: int) -> None:
    flat = np.full((16, 16, channels), 0x8000, np.uint16)
    alpha = np.full((16, 16), 0xFFFF, np.uint16)
    alpha[:8] = 0
    notes = " ".join(write_layers(tmp_path / f"a{suffix}", ImageLayers(flat, alpha)))
    again = read_layers(tmp_path / f"a{suffix}")
    assert "16-bit samples reduced" in notes
    assert abs(int(again.colors[15, 8, 0]) - 0x80) <= 2
    if suffix == ".jpg":
        assert "alpha composited on white" in notes and again.alpha is None
        assert again.colors[0, 8, 0] > 250 and again.colors.shape[2] == channels
    else:
        assert again.alpha is not None and again.alpha[:8].max() == 0 and again.alpha.max() == 255


def test_jpeg_colors_are_not_subsampled(tmp_path: Path) -> None:
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2] = (255, 0, 0)
    stripes[:, 1::2] = (0, 0, 255)
    write_layers(tmp_path / "a.jpg", ImageLayers(stripes))
    found = read_layers(tmp_path / "a.jpg").colors.astype(int)
    assert np.abs(found - stripes).max() < 30


def test_webp_at_100_is_lossless(tmp_path: Path) -> None:
    layers = sample_layers()
    write_layers(tmp_path / "a.webp", layers, quality=100)
    assert np.array_equal(read_layers(tmp_path / "a.webp").colors, layers.colors)


def test_too_much_metadata_for_jpeg(tmp_path: Path) -> None:
    block = exif_block() + bytes(70_000)
    texts = (("Comment", "c" * 70_000),)
    metadata = ImageMetadata(block, b"<x>" + b" " * 70_000, None, texts)
    layers = replace(sample_layers(), metadata=metadata)
    notes = " ".join(write_layers(tmp_path / "a.jpg", layers))
    assert all(f"{kind} dropped" in notes for kind in ("EXIF data", "XMP data", "texts"))
    write_layers(tmp_path / "a.png", layers)
    assert read_layers(tmp_path / "a.png").metadata == metadata.resized(21, 13)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.sampled_from([np.uint8, np.uint16]),
    st.integers(0, 2**32 - 1),
)
def test_png_filters_are_reversible(
    tmp_path_factory: pytest.TempPathFactory,
    height: int,
    width: int,
    channels: int,
    alpha: bool,
    dtype: type,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    # Ramps with little noise make every filter the best one somewhere.
    rows, columns = np.mgrid[:height, :width]
    ramp = (rows * rng.integers(0, 9) + columns * rng.integers(0, 9))[..., None]
    samples = (ramp + rng.integers(0, 3, (height, width, channels + alpha))) * rng.integers(1, 255)
    samples = samples.astype(dtype)
    layers = ImageLayers(
        np.ascontiguousarray(samples[..., :channels]),
        np.ascontiguousarray(samples[..., -1]) if alpha else None,
    )
    path = tmp_path_factory.mktemp("png") / "a.png"
    write_layers(path, layers)
    again = read_layers(path)
    assert np.array_equal(again.colors, layers.colors)
    if again.alpha is not None and layers.alpha is not None:
        assert np.array_equal(again.alpha, layers.alpha)


def test_png_is_about_as_small_as_pillows(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:200, :200]
    smooth = np.stack([rows, columns, (rows + columns) // 2], axis=2).astype(np.uint8)
    smooth += noise(200, 200, 3) % 4
    write_layers(tmp_path / "a.png", ImageLayers(smooth))
    size = (tmp_path / "a.png").stat().st_size
    assert size < 1.1 * len(encoded(Image.fromarray(smooth), "PNG"))


@pytest.mark.parametrize("name", ["a.gif", "a.bmp", "a", "png", "a.png.txt"])
def test_unknown_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="must end in"):
        write_layers(tmp_path / name, sample_layers())
    assert not list(tmp_path.iterdir())


def test_names_of_formats() -> None:
    assert [format_of(f"x{end}") for end in (".PNG", ".jpeg", ".JPG", ".tiff", ".webp")] == [
        "PNG",
        "JPEG",
        "JPEG",
        "TIFF",
        "WEBP",
    ]


@pytest.mark.parametrize("quality", [0, 101, 9.5])
def test_quality_out_of_range(tmp_path: Path, quality: Any) -> None:
    with pytest.raises(ConfigError, match="1 to 100"):
        write_layers(tmp_path / "a.jpg", sample_layers(), quality=quality)


@pytest.mark.parametrize(("name", "side"), [("a.webp", 16_384), ("a.jpg", 65_501)])
def test_sides_that_a_format_cannot_hold(tmp_path: Path, name: str, side: int) -> None:
    with pytest.raises(ImageError, match="choose PNG"):
        write_layers(tmp_path / name, ImageLayers(np.zeros((1, side, 1), np.uint8)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")

    def full(stream: Any, *_: Any) -> None:
        stream.write(b"the first part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(encode._WRITERS, format_of(path), full)
    with pytest.raises(DataError, match="no space left"):
        write_layers(path, sample_layers())
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        write_layers(tmp_path / "gone" / "a.png", sample_layers())
