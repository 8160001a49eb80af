"""Where tiles lie, and that blending leaves no seams."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qmamba.errors import ConfigError
from qmamba.restore.tiles import MIN_TILE, TilePlan, blended, plan_tiles
from tests.models.micro_mambair import MICRO, build, images


def whole(restored: Tensor, plan: TilePlan, scale: int) -> Tensor:
    """Blend tiles that are cut out of an image that is restored already."""

    def cut(rows: slice, columns: slice) -> Tensor:
        return restored[
            :,
            scale * rows.start : scale * rows.stop,
            scale * columns.start : scale * columns.stop,
        ]

    result = torch.full_like(restored, torch.nan)
    next_row = 0
    for row, band in blended(cut, plan, scale):
        assert row == next_row
        result[:, row : row + band.shape[1]] = band
        next_row = row + band.shape[1]
    return result


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 150),
    st.integers(1, 150),
    st.integers(MIN_TILE, 70),
    st.integers(0, 40),
    st.sampled_from([1, 2, 3]),
)
def test_weights_of_a_pixel_sum_to_one(
    height: int, width: int, tile: int, overlap: int, scale: int
) -> None:
    plan = plan_tiles(height, width, tile, overlap)
    restored = torch.rand(2, scale * height, scale * width)
    assert torch.allclose(whole(restored, plan, scale), restored, atol=1e-6)


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 3000), st.integers(MIN_TILE, 500), st.integers(0, 200))
def test_tiles_cover_a_line(length: int, tile: int, overlap: int) -> None:
    spans = plan_tiles(length, 1, tile, overlap).rows
    assert spans[0].start == 0 and spans[-1].stop == length
    sizes = {span.stop - span.start for span in spans}
    assert len(sizes) == 1 and sizes.pop() <= max(tile, 1)
    wanted = min(overlap, tile // 4)
    shared = [a.stop - b.start for a, b in pairwise(spans)]
    assert all(wanted <= count <= wanted + len(spans) for count in shared)
    assert all(b.start >= a.stop for a, b in zip(spans[:-2], spans[2:], strict=True))


def test_smallest_tiles_that_do() -> None:
    plan = plan_tiles(100, 60, 64, 16)
    assert plan.rows == (slice(0, 58), slice(42, 100))
    assert plan.columns == (slice(0, 60),)
    assert len(plan) == 2 and str(plan) == "2 tiles of 60x58" and plan.tile == (58, 60)


def test_whole_image() -> None:
    plan = plan_tiles(100, 60, None, 16)
    assert len(plan) == 1 and str(plan) == "whole"
    assert plan == plan_tiles(100, 60, 100, 16)


@pytest.mark.parametrize(("tile", "overlap"), [(MIN_TILE - 1, 0), (64, -1)])
def test_wrong_tiles(tile: int, overlap: int) -> None:
    with pytest.raises(ConfigError):
        plan_tiles(10, 10, tile, overlap)


@torch.no_grad()
def test_seams_of_a_network_are_not_visible() -> None:
    """Steps across a seam are as large as anywhere else, and the result is that of the whole."""
    model = build(MICRO)
    scale, image = MICRO.scale, images(1, 3, 72, 80)

    def restore_tile(rows: slice, columns: slice) -> Tensor:
        return model(image[:, :, rows, columns])[0]

    expected = model(image)[0]
    errors = []
    for overlap in (0, 16):
        plan = plan_tiles(72, 80, 48, overlap)
        assert len(plan) == 4
        result = torch.cat([band.clone() for _, band in blended(restore_tile, plan, scale)], dim=1)
        error = (result - expected).abs()
        seam = slice(scale * plan.columns[1].start - 1, scale * plan.columns[0].stop + 1)
        steps = (result - expected).diff(dim=2).abs()
        errors.append((error.max(), steps[:, :, seam].max()))
    typical = expected.diff(dim=2).abs().mean()
    (largest_without, step_without), (largest, step) = errors
    assert step_without > typical, "hard borders are seen in these images"
    assert step < 0.5 * typical and step < 0.25 * step_without
    assert largest < 0.25 * largest_without
