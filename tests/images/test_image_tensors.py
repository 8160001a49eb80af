from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from qmamba.errors import ImageError, ShapeError
from qmamba.images import IMAGENET_MEAN, IMAGENET_STD, normalize, read_image, to_tensor
from tests.images.image_files import PNG_RGB, encoded, png16

BYTES = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
EXPECTED = torch.from_numpy(BYTES).permute(2, 0, 1).float() / 255


def _check(tensor: torch.Tensor, expected: torch.Tensor, tolerance: float = 0.0) -> None:
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    torch.testing.assert_close(tensor, expected, rtol=0, atol=tolerance)


def test_the_same_image_in_every_form() -> None:
    image = Image.fromarray(BYTES)
    data = encoded(image, "PNG")
    _check(to_tensor(read_image(data)), EXPECTED)
    _check(to_tensor(image), EXPECTED)
    _check(to_tensor(BYTES), EXPECTED)
    _check(to_tensor(BYTES.astype(np.uint16) * 257), EXPECTED, 1e-7)
    for kind in (np.float16, np.float32, np.float64):
        _check(to_tensor((BYTES / 255).astype(kind)), EXPECTED, 3e-4)
    _check(to_tensor(torch.from_numpy(BYTES).permute(2, 0, 1)), EXPECTED)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        _check(to_tensor(EXPECTED.to(dtype)), EXPECTED, 4e-3)


def test_read_only_and_flipped_arrays() -> None:
    frozen = BYTES.copy()
    frozen.flags.writeable = False
    _check(to_tensor(frozen), EXPECTED)
    _check(to_tensor(BYTES[:, ::-1]), EXPECTED.flip(-1))


def test_the_result_is_a_copy_of_the_array() -> None:
    values = np.zeros((4, 4, 3), np.float32)
    tensor = to_tensor(values)
    values += 1
    assert tensor.max() == 0


def test_16_bits_are_not_rounded_to_8() -> None:
    samples = np.random.default_rng(1).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    expected = torch.from_numpy(samples.astype(np.float64) / 65535).permute(2, 0, 1).float()
    _check(to_tensor(samples), expected, 1e-7)
    _check(to_tensor(read_image(png16(samples, PNG_RGB))), expected, 1e-7)
    gray = Image.fromarray(samples[..., 0])
    _check(to_tensor(gray), expected[:1].repeat(3, 1, 1), 1e-7)


def test_gray_is_copied_to_three_channels() -> None:
    gray = BYTES[..., 0]
    expected = EXPECTED[:1].repeat(3, 1, 1)
    _check(to_tensor(gray), expected)
    _check(to_tensor(gray[..., None]), expected)
    _check(to_tensor(Image.fromarray(gray)), expected)
    _check(to_tensor(EXPECTED[:1]), expected)


def test_alpha_is_composited_on_white() -> None:
    samples = np.random.default_rng(2).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    colors, alpha = samples[..., :3] / 255, samples[..., 3:] / 255
    expected = torch.from_numpy(colors * alpha + 1 - alpha).permute(2, 0, 1).float()
    _check(to_tensor(samples), expected, 0.51 / 255)
    _check(to_tensor(samples.astype(np.uint16) * 257), expected, 0.51 / 65535)
    _check(to_tensor(samples / 255), expected, 1e-6)
    _check(to_tensor(Image.fromarray(samples)), expected, 0.51 / 255)
    _check(to_tensor(read_image(encoded(Image.fromarray(samples), "PNG"))), expected, 0.51 / 255)


def test_a_pillow_image_follows_the_rules_of_files() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(BYTES), "PNG", exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        _check(to_tensor(opened), to_tensor(read_image(data)))
    cut = encoded(Image.fromarray(BYTES.repeat(30, 0)), "JPEG")[:-200]
    with (
        Image.open(io.BytesIO(cut)) as opened,
        pytest.raises(ImageError, match="cannot decode the Pillow image"),
    ):
        to_tensor(opened)


def test_values_just_outside_are_clamped() -> None:
    values = EXPECTED.clone()
    values[0, 0, 0], values[0, 0, 1] = -0.0009, 1.0009
    tensor = to_tensor(values)
    assert tensor.min() >= 0 and tensor.max() <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        BYTES.astype(np.int64),
        BYTES > 3,
        BYTES.astype(np.float32),
        np.full((4, 4), np.nan),
        np.full((4, 4), np.inf),
        np.full((4, 4), -0.01),
        np.zeros((4,), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        torch.zeros(4, 4),
        torch.zeros(1, 3, 4, 4),
        torch.zeros(4, 4, 3),
        torch.zeros(3, 0, 4),
        torch.zeros(3, 4, 4, dtype=torch.int64),
        torch.full((3, 4, 4), 1.1),
        torch.full((3, 4, 4), float("nan")),
        [[1, 2], [3, 4]],
        "image.png",
        None,
    ],
    ids=lambda value: f"{type(value).__name__}{tuple(getattr(value, 'shape', ()))}",
)
def test_other_forms_are_refused(wrong: object) -> None:
    with pytest.raises(ImageError) as caught:
        to_tensor(wrong)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_float_pillow_image_out_of_range() -> None:
    with pytest.raises(ImageError, match="Pillow image: its float samples"):
        to_tensor(Image.new("F", (3, 3), 7.0))


@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_flow(channels: int) -> None:
    image = torch.rand(channels, 4, 5, dtype=torch.float64, requires_grad=True)
    normalize(to_tensor(image)).sum().backward()
    assert image.grad is not None
    per_channel = torch.tensor([1 / s for s in IMAGENET_STD], dtype=torch.float64)
    expected = per_channel.sum().reshape(1) if channels == 1 else per_channel
    torch.testing.assert_close(
        image.grad, expected.view(channels, 1, 1).expand_as(image), rtol=1e-6, atol=1e-6
    )


def test_normalize() -> None:
    images = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    expected = (images.numpy() - np.reshape(IMAGENET_MEAN, (3, 1, 1))) / np.reshape(
        IMAGENET_STD, (3, 1, 1)
    )
    np.testing.assert_allclose(normalize(images).numpy(), expected, rtol=1e-12)
    assert normalize(images[0].bfloat16()).dtype == torch.bfloat16
    for wrong in (torch.rand(4, 5), torch.rand(1, 4, 5), torch.zeros(3, 4, 5, dtype=torch.uint8)):
        with pytest.raises(ShapeError):
            normalize(wrong)
