from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from qmamba.errors import ConfigError, ShapeError
from qmamba.images import (
    Padding,
    crop_grid,
    pad_to,
    padding_for,
    random_crops,
    resize_shorter,
    resize_to,
    take_crops,
)


@st.composite
def _crop_cases(draw: st.DrawFn) -> tuple[int, int, int, int]:
    size = draw(st.integers(1, 40))
    height = size + draw(st.one_of(st.integers(0, 4), st.integers(0, 300)))
    width = size + draw(st.one_of(st.integers(0, 4), st.integers(0, 300)))
    return height, width, size, draw(st.integers(1, 40))


@settings(deadline=None)
@given(_crop_cases())
def test_grid_is_within_bounds_different_and_complete(case: tuple[int, int, int, int]) -> None:
    height, width, size, count = case
    positions = crop_grid(height, width, size, count)
    assert len(positions) == min(count, (height - size + 1) * (width - size + 1))
    assert len(set(positions)) == len(positions)
    assert positions == sorted(positions)
    for top, left in positions:
        assert 0 <= top <= height - size
        assert 0 <= left <= width - size
    assert positions == crop_grid(height, width, size, count)


@settings(deadline=None)
@given(_crop_cases())
def test_grid_of_the_transposed_image(case: tuple[int, int, int, int]) -> None:
    height, width, size, count = case
    assume(height != width)
    transposed = {(left, top) for top, left in crop_grid(width, height, size, count)}
    assert set(crop_grid(height, width, size, count)) == transposed


@settings(deadline=None)
@given(_crop_cases())
def test_grid_reaches_the_borders(case: tuple[int, int, int, int]) -> None:
    height, width, size, count = case
    positions = crop_grid(height, width, size, count)
    assume(len(positions) >= 5)
    longer = [left if width >= height else top for top, left in positions]
    assert min(longer) == 0
    assert max(longer) == max(height, width) - size


def test_known_layouts() -> None:
    assert crop_grid(512, 512, 224, 1) == [(144, 144)]
    corners = [(0, 0), (0, 288), (288, 0), (288, 288)]
    assert crop_grid(512, 512, 224, 4) == corners
    assert crop_grid(512, 512, 224, 5) == sorted([*corners, (144, 144)])
    assert [left for _, left in crop_grid(300, 2000, 224, 5)] == [0, 444, 888, 1332, 1776]
    ten = crop_grid(512, 512)
    assert [sum(top == row for top, _ in ten) for row in (0, 144, 288)] == [3, 4, 3]
    covered = np.zeros((512, 512), bool)
    for top, left in ten:
        covered[top : top + 224, left : left + 224] = True
    assert covered.all()


def test_a_image_of_the_crops_size_gives_one_position() -> None:
    assert crop_grid(224, 224, 224, 10) == [(0, 0)]


def test_many_crops_of_a_large_image() -> None:
    positions = crop_grid(3000, 4000, 224, 400)
    assert len(set(positions)) == 400


def test_wrong_crops_are_refused() -> None:
    generator = torch.Generator()
    for size, count in ((0, 1), (1, 0)):
        with pytest.raises(ConfigError):
            crop_grid(10, 10, size, count)
        with pytest.raises(ConfigError):
            random_crops(10, 10, size, count, generator)
    with pytest.raises(ShapeError, match="pad it first"):
        crop_grid(9, 20, 10, 1)
    with pytest.raises(ShapeError):
        take_crops(torch.zeros(3, 10, 10), [(1, 0)], 10)
    with pytest.raises(ShapeError):
        take_crops(torch.zeros(3, 10, 10), [], 10)
    with pytest.raises(ShapeError):
        take_crops(torch.zeros(1, 3, 10, 10), [(0, 0)], 10)


@settings(deadline=None)
@given(_crop_cases(), st.integers(0, 2**31))
def test_random_crops_stay_inside_and_follow_the_seed(
    case: tuple[int, int, int, int], seed: int
) -> None:
    first = random_crops(*case, torch.Generator().manual_seed(seed))
    assert first == random_crops(*case, torch.Generator().manual_seed(seed))
    height, width, size, count = case
    assert len(first) == count
    for top, left in first:
        assert 0 <= top <= height - size and 0 <= left <= width - size


def test_random_crops_reach_every_position() -> None:
    positions = random_crops(12, 11, 10, 500, torch.Generator().manual_seed(0))
    assert set(positions) == {(top, left) for top in range(3) for left in range(2)}


def test_take_crops() -> None:
    image = torch.arange(3 * 6 * 7.0).reshape(3, 6, 7).requires_grad_()
    crops = take_crops(image, [(0, 0), (2, 3)], 4)
    assert crops.shape == (2, 3, 4, 4)
    torch.testing.assert_close(crops[1], image[:, 2:6, 3:7])
    crops.sum().backward()
    assert image.grad is not None
    assert image.grad[0, 2, 3] == 2 and image.grad[0, 0, 6] == 0


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 60), st.integers(1, 60))
def test_padding_equals_numpys_reflection(
    height: int, width: int, least_height: int, least_width: int
) -> None:
    image = torch.arange(2 * height * width).reshape(2, height, width)
    size = (least_height, least_width)
    padded, was_padded = pad_to(image, size)
    top, bottom, left, right = padding_for(height, width, size)
    assert padded.shape == (2, max(height, least_height), max(width, least_width))
    assert was_padded == (top + bottom + left + right > 0)
    assert 0 <= bottom - top <= 1 and 0 <= right - left <= 1
    expected = np.pad(image.numpy(), ((0, 0), (top, bottom), (left, right)), mode="reflect")
    np.testing.assert_array_equal(padded.numpy(), expected)


def test_padding_examples() -> None:
    image = torch.rand(3, 5, 9)
    same, was_padded = pad_to(image, 5)
    assert same is image and not was_padded
    assert padding_for(5, 9, 8) == Padding(top=1, bottom=2, left=0, right=0)
    single, was_padded = pad_to(image[:, :1, :1], 4)
    assert was_padded
    torch.testing.assert_close(single, image[:, :1, :1].expand(3, 4, 4))
    row, _ = pad_to(torch.tensor([[0.0, 1.0, 2.0]]), (1, 11))
    assert row.tolist() == [[0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]]
    for wrong in (torch.rand(3), torch.rand(3, 0, 4)):
        with pytest.raises(ShapeError):
            pad_to(wrong, 4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 14))
def test_padding_passes_gradients(height: int, width: int, size: int) -> None:
    image = torch.rand(1, height, width, dtype=torch.float64, requires_grad=True)
    padded, _ = pad_to(image, size)
    padded.sum().backward()
    assert image.grad is not None
    assert image.grad.sum() == padded.numel()
    assert image.grad.min() >= 1


@pytest.mark.parametrize(
    ("mode", "filter_"),
    [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)],
)
def test_resize_equals_pillow(mode: str, filter_: Image.Resampling) -> None:
    values = np.random.default_rng(0).random((40, 60), dtype=np.float32)
    expected = np.asarray(Image.fromarray(values).resize((23, 17), filter_))
    resized = resize_to(torch.from_numpy(values)[None], (17, 23), mode)  # type: ignore[arg-type]
    np.testing.assert_allclose(resized[0].numpy(), expected, atol=1e-5)


def test_resize_shapes_and_gradients() -> None:
    image = torch.rand(2, 3, 30, 41, requires_grad=True)
    assert resize_to(image, (30, 41)) is image
    resized = resize_shorter(image, 15)
    assert resized.shape == (2, 3, 15, 21)
    assert resize_shorter(image[0].mT, 15).shape == (3, 21, 15)
    assert resize_shorter(torch.rand(3, 1, 1), 7).shape == (3, 7, 7)
    resized.sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    for wrong in (torch.rand(4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)):
        with pytest.raises(ShapeError):
            resize_to(wrong, (2, 2))
    with pytest.raises(ShapeError):
        resize_to(image, (0, 2))
