"""JPEG files decoded at a fraction of their size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qmamba.assess import CropsPolicy, parse_policy
from qmamba.assess.policies import policy_from_metadata, policy_to_metadata
from qmamba.assess.views import read_views
from qmamba.errors import ConfigError, ImageError
from qmamba.images import read_draft, read_image, resize_to, to_tensor

EXAMPLES = Path(__file__).parents[2] / "examples"


def jpeg(width: int, height: int, orientation: int = 1, **options: object) -> bytes:
    ramp = np.linspace(0, 1, height)[:, None, None] * np.linspace(0, 1, width)[None, :, None]
    pixels = (255 * ramp * np.array([1.0, 0.5, 0.2])).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95, exif=exif, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("size", "least", "decoded"),
    [
        ((1600, 1200), 600, (800, 600)),
        ((1600, 1200), 601, (1600, 1200)),
        ((1600, 1200), 300, (400, 300)),
        ((1600, 1200), 100, (200, 150)),
        ((1601, 1203), 600, (801, 602)),
        ((1200, 1600), 300, (300, 400)),
        ((300, 200), 256, (300, 200)),
    ],
)
def test_sizes(size: tuple[int, int], least: int, decoded: tuple[int, int]) -> None:
    image, full = read_draft(jpeg(*size), least)
    assert full == size[::-1] and image.pixels.shape[1::-1] == decoded


def test_it_is_nearly_what_scaling_gives() -> None:
    data = (EXAMPLES / "coffee.jpg").read_bytes()
    full = to_tensor(read_image(data))
    draft, size = read_draft(data, min(full.shape[1:]) // 2)
    assert size == tuple(full.shape[1:]) and draft.pixels.shape[0] < size[0]
    scaled = resize_to(full, draft.pixels.shape[:2]).clamp(0, 1)
    difference = (to_tensor(draft) - scaled).abs()
    assert difference.mean() < 0.01 and difference.quantile(0.99) < 0.06


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation(orientation: int) -> None:
    data = jpeg(1600, 1200, orientation)
    draft, full = read_draft(data, 300)
    whole = read_image(data).pixels
    assert full == whole.shape[:2]
    assert draft.pixels.shape[:2] == (full[0] // 4, full[1] // 4)
    scaled = resize_to(to_tensor(whole), draft.pixels.shape[:2])
    assert (to_tensor(draft) - scaled).abs().max() < 0.03


def test_other_formats_are_decoded_in_full() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (640, 480), (9, 99, 199)).save(stream, "PNG")
    image, full = read_draft(stream.getvalue(), 100)
    assert image.pixels.shape[:2] == full == (480, 640)


def test_gray_and_damaged_files() -> None:
    stream = io.BytesIO()
    Image.new("L", (640, 480), 77).save(stream, "JPEG")
    image, _ = read_draft(stream.getvalue(), 100)
    assert image.pixels.shape == (120, 160, 3) and abs(int(image.pixels[5, 5, 0]) - 77) < 2
    with pytest.raises(ImageError):
        read_draft(stream.getvalue()[:300], 100)
    with pytest.raises(ImageError, match="limit is 1000"):
        read_draft(stream.getvalue(), 100, max_pixels=1000)


@pytest.mark.parametrize("size", [(640, 480), (641, 483), (1603, 1201)])
@pytest.mark.parametrize("progressive", [False, True])
def test_whether_a_file_is_whole(size: tuple[int, int], progressive: bool) -> None:
    data = jpeg(*size, progressive=progressive)
    image, _ = read_draft(data, 100)
    assert min(image.pixels.shape[:2]) < min(size) // 2
    with pytest.raises(ImageError):
        read_draft(data[: len(data) // 2], 100)
    gray = np.full((size[1], size[0], 3), 128, np.uint8)
    stream = io.BytesIO()
    Image.fromarray(gray).save(stream, "JPEG", progressive=progressive)
    read_draft(stream.getvalue(), 100)


def test_a_policy_with_draft() -> None:
    text = "crops(size=224,count=2,layout=fixed,shorter=256,draft=yes)"
    policy = parse_policy(text)
    assert isinstance(policy, CropsPolicy) and str(policy) == text and policy.draft
    assert policy_from_metadata(policy_to_metadata(policy)) == policy
    assert "draft" not in policy_to_metadata(CropsPolicy())
    views = read_views(jpeg(1600, 1200), policy)
    assert (views.width, views.height) == (1600, 1200)
    assert views.notes == ("scaled from 1600x1200 to 341x256",)
    plain = read_views(jpeg(1600, 1200), parse_policy(text.replace(",draft=yes", "")))
    assert views.views.shape == plain.views.shape == (2, 3, 224, 224)
    assert torch.allclose(views.views, plain.views, atol=0.03)
    with pytest.raises(ConfigError, match=r"draft=yes of the crops policy needs shorter"):
        CropsPolicy(draft=True)
    with pytest.raises(ConfigError, match="takes yes or no, got 'maybe'"):
        parse_policy("crops:draft=maybe,shorter=256")
