"""What files say about colors, places and rights is carried over, converted or noted."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from qmamba.images import ImageLayers, read_image, read_layers, write_layers
from qmamba.images.color.stated import StatedColors
from qmamba.images.metadata.geo import GeoPosition
from qmamba.images.metadata.resources import jpeg_segment
from qmamba.images.metadata.xmp import resized_xmp, upright_xmp
from tests.images.image_files import encoded, linear_gray_profile, png_chunk, srgb_profile

GAMMA = ("gAMA", struct.pack(">I", 100_000))
ADOBE = (
    ("gAMA", struct.pack(">I", 45_455)),
    ("cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)),
)
P3 = ("cICP", bytes((12, 13, 0, 1)))
PQ = ("cICP", bytes((9, 16, 0, 1)))
SRGB = ("sRGB", b"\0")


def png_with(*chunks: tuple[str, bytes], mode: str = "RGB") -> bytes:
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    ).convert(mode)
    data = encoded(image, "PNG")
    extra = b"".join(png_chunk(kind.encode(), content) for kind, content in chunks)
    return data[:33] + extra + data[33:]


@pytest.mark.parametrize("chunks", [(GAMMA,), ADOBE, (P3,), (PQ,), (SRGB,), (P3, *ADOBE)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_png_keeps_its_color_chunks(
    chunks: tuple[tuple[str, bytes], ...], mode: str, tmp_path: Path
) -> None:
    layers = read_layers(png_with(*chunks, mode=mode))
    assert layers.stated.chunks == chunks
    assert write_layers(tmp_path / "out.png", layers) == ()
    assert read_layers(tmp_path / "out.png").stated.chunks == chunks


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif"])
@pytest.mark.parametrize(
    ("chunks", "note"),
    [
        ((GAMMA,), "colors (gAMA) written as ICC profile"),
        (ADOBE, "colors (gAMA, cHRM) written as ICC profile"),
        ((P3,), "colors (cICP) written as ICC profile"),
        ((PQ,), "color information dropped: cICP"),
        ((SRGB,), None),
        ((("gAMA", struct.pack(">I", 45_455)),), None),
    ],
)
def test_other_formats_get_a_profile(
    chunks: tuple[tuple[str, bytes], ...], note: str | None, suffix: str, tmp_path: Path
) -> None:
    notes = write_layers(tmp_path / f"out{suffix}", read_layers(png_with(*chunks)))
    assert notes == (() if note is None else (note,))
    profile = read_layers(tmp_path / f"out{suffix}").profile
    assert (profile is not None) == (note is not None and "profile" in note)


def shown(profile: bytes, color: tuple[int, ...], mode: str = "RGB") -> np.ndarray:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    image = Image.new(mode, (1, 1), color if mode == "RGB" else color[0])
    converted = ImageCms.profileToProfile(
        image,
        source,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
    )
    assert converted is not None
    return np.asarray(converted)[0, 0].astype(int)


def test_profiles_show_the_stated_colors() -> None:
    linear = StatedColors((GAMMA,)).profile(gray=False)
    gray = StatedColors((GAMMA,)).profile(gray=True)
    p3 = StatedColors((P3,)).profile(gray=False)
    assert linear is not None and gray is not None and p3 is not None
    # 128 / 255 of the light is 188 in sRGB.
    assert np.abs(shown(linear, (128, 128, 128)) - 188).max() <= 1
    assert np.abs(shown(gray, (128,), "L") - 188).max() <= 1
    assert np.abs(shown(p3, (255, 255, 255)) - 255).max() <= 1
    # Apple's red (234, 51, 35) is the sRGB red inside Display P3, by CSS Color 4's matrices.
    assert np.abs(shown(p3, (234, 51, 35)) - (255, 0, 0)).max() <= 2
    assert StatedColors((SRGB,)).profile(gray=False) is None
    assert StatedColors((PQ,)).profile(gray=False) is None


def test_scores_say_that_statements_are_not_used() -> None:
    for chunks in ((GAMMA,), ADOBE, (P3,), (PQ,)):
        decoded = read_image(png_with(*chunks))
        assert np.array_equal(decoded.pixels, read_image(png_with()).pixels)
        names = ", ".join(kind for kind, _ in chunks)
        assert decoded.notes == (f"colors taken as sRGB: {names} not used",)
    assert read_image(png_with(SRGB)).notes == ()


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_gray_with_a_profile_of_rgb(mode: str, tmp_path: Path) -> None:
    gray = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) * 5)
    data = encoded(gray.convert(mode), "PNG", icc_profile=srgb_profile())
    layers = read_layers(data)
    assert layers.colors.shape == (6, 8, 3) and layers.profile == srgb_profile()
    assert layers.notes == ("gray stored as RGB, because its ICC profile is one of RGB",)
    write_layers(tmp_path / "out.png", layers)
    assert np.array_equal(read_image(tmp_path / "out.png").pixels, read_image(data).pixels)


def test_gray_cases(shared: Path, tmp_path: Path) -> None:
    for path in sorted((shared / "cases" / "grey-with-rgb-profile").glob("*.[jp][pn]g")):
        write_layers(tmp_path / "out.png", read_layers(path))
        assert np.array_equal(read_image(tmp_path / "out.png").pixels, read_image(path).pixels)


def test_gray_profile_is_dropped_with_a_note(tmp_path: Path) -> None:
    layers = ImageLayers(
        np.zeros((4, 4, 1), np.uint16), np.full((4, 4), 9, np.uint16), linear_gray_profile()
    )
    assert "ICC profile dropped: it is one of gray" in write_layers(tmp_path / "a.tif", layers)


IPTC = b"\x1c\x02\x05\x00\x05Title"
RESOURCES = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(IPTC)) + IPTC


@pytest.mark.parametrize("tag", [33723, 34377])
@pytest.mark.parametrize("suffix", [".tif", ".jpg", ".png", ".webp"])
def test_iptc_and_photoshop(tag: int, suffix: str, tmp_path: Path) -> None:
    thumbnail = b"8BIM" + struct.pack(">HHI", 0x040C, 0, 4) + b"abcd"
    block = IPTC if tag == 33723 else RESOURCES + thumbnail
    source = encoded(Image.new("RGB", (6, 6)), "TIFF", tiffinfo={tag: block})
    layers = read_layers(source)
    assert (layers.metadata.iptc, layers.metadata.resources) == (
        (IPTC, None) if tag == 33723 else (None, RESOURCES)
    )
    path = tmp_path / f"out{suffix}"
    notes = write_layers(path, layers)
    again = read_layers(path).metadata
    if suffix == ".tif":
        assert (again.iptc, again.resources) == (layers.metadata.iptc, layers.metadata.resources)
    elif suffix == ".jpg":
        assert again.resources == RESOURCES
    else:
        assert len(notes) == 1 and "dropped" in notes[0] and "has no place" in notes[0]
    write_layers(path, layers, strip_metadata=True)
    assert read_layers(path).metadata.resources is None


def test_iptc_of_a_jpeg_survives(tmp_path: Path) -> None:
    segment = jpeg_segment(RESOURCES, None)
    data = encoded(Image.new("RGB", (6, 6)), "JPEG")
    data = data[:2] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    layers = read_layers(data)
    assert layers.metadata.resources == RESOURCES
    assert write_layers(tmp_path / "out.jpg", layers) == ()
    assert read_layers(tmp_path / "out.jpg").metadata.resources == RESOURCES


def test_tiff_cases(shared: Path, tmp_path: Path) -> None:
    folder = shared / "cases" / "tiff-blocks-lost"
    for name in ("geo", "iptc", "photoshop", "transfer"):
        layers = read_layers(folder / f"{name}.tif")
        assert layers.notes == ()
        assert write_layers(tmp_path / "same.tif", layers) == ()
        again = read_layers(tmp_path / "same.tif")
        assert again.metadata == layers.metadata and again.stated == layers.stated
        assert any("dropped" in note for note in write_layers(tmp_path / "out.webp", layers))


def test_color_tags_of_tiff(tmp_path: Path) -> None:
    white, primaries = (0.3127, 0.329), (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
    data = encoded(Image.new("RGB", (4, 4)), "TIFF", tiffinfo={318: white, 319: primaries})
    layers = read_layers(data)
    assert write_layers(tmp_path / "out.jpg", layers) == (
        "colors (WhitePoint, PrimaryChromaticities) written as ICC profile",
    )
    assert read_layers(tmp_path / "out.jpg").profile is not None
    deep = ImageLayers(
        np.zeros((2, 2, 3), np.uint16), stated=StatedColors(tags=((301, (0,) * 256),))
    )
    assert write_layers(tmp_path / "deep.tif", deep) == (
        "color information dropped: TransferFunction",
    )


@pytest.mark.parametrize("point", [False, True])
def test_geo_position_follows_the_size(point: bool) -> None:
    keys = (1, 1, 0, 1, 1025, 0, 1, 2 if point else 1)
    matrix = (2.0, 0.5, 0, 100, 0.25, -2.0, 0, 200, 0, 0, 0, 0, 0, 0, 0, 1)
    tags = ((33550, (2.0, 3.0, 0.0)), (33922, (1.0, 2.0, 0.0, 100.0, 200.0, 0.0)), (34264, matrix))
    small = GeoPosition(10, 20, (*tags, (34735, keys)))
    large = small.resized(20, 60)
    found = dict(large.tags)
    assert found[33550] == (1.0, 1.0, 0.0) and found[34735] == keys
    shift = 0.5 if point else 0.0

    def place(position: GeoPosition, column: float, row: float) -> np.ndarray:
        values = np.array(dict(position.tags)[34264], float).reshape(4, 4)
        return values[:2] @ (column, row, 0, 1)

    corner = place(small, 3 - shift, 5 - shift)
    assert np.allclose(place(large, 6 - shift, 15 - shift), corner)
    tie = found[33922]
    assert isinstance(tie, tuple) and np.allclose(
        tie[:2], ((1 + shift) * 2 - shift, (2 + shift) * 3 - shift)
    )


def test_xmp_forgets_what_was_removed() -> None:
    packet = (
        b'<rdf:Description hdrgm:Version="1.0" GCamera:MotionPhoto="1" tiff:Orientation="6" '
        b'xmpNote:HasExtendedXMP="ABC" dc:title="kept" tiff:ImageWidth="40" '
        b'exif:PixelYDimension="30">'
        b"<Container:Directory><rdf:Seq/></Container:Directory><xmp:Thumbnails>x</xmp:Thumbnails>"
        b"<hdrgm:GainMapMax>2</hdrgm:GainMapMax><dc:format>image/jpeg</dc:format></rdf:Description>"
    )
    cleaned, changed = upright_xmp(packet)
    assert changed
    assert cleaned == (
        b'<rdf:Description tiff:Orientation="1" dc:title="kept" tiff:ImageWidth="40" '
        b'exif:PixelYDimension="30"><dc:format>image/jpeg</dc:format></rdf:Description>'
    )
    assert b'tiff:ImageWidth="80"' in resized_xmp(cleaned, 80, 60)
    assert b'exif:PixelYDimension="60"' in resized_xmp(cleaned, 80, 60)
    assert upright_xmp(b"<x>plain</x>") == (b"<x>plain</x>", False)
    # What is never closed stays, however often it is opened.
    hostile = b"<xmp:Thumbnails>" * 100_000
    assert upright_xmp(hostile) == (hostile, False)


def test_chunks_without_a_place_are_named() -> None:
    data = png_with(("caBX", b"content credentials"), ("tIME", bytes(7)))
    assert read_layers(data).notes == ("PNG chunks dropped: caBX",)
