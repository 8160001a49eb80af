from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qmamba.errors import ShapeError
from qmamba.ops import PADDING, gather_routes, scan_routes, scatter_routes
from qmamba.ops.scan import routes

sides = st.integers(1, 13)


def formula(height: int, width: int, window: int) -> torch.Tensor:
    """Routes from the closed form for the step at which a pixel is visited, pixel by pixel."""
    rows, columns = -(-height // window), -(-width // window)
    steps = rows * columns * window**2
    table = torch.full((4, steps), PADDING, dtype=torch.int32)
    for i in range(height):
        for j in range(width):
            wi, wj, ri, rj = i // window, j // window, i % window, j % window
            by_row = (wi * columns + wj) * window**2 + ri * window + rj
            by_column = (wj * rows + wi) * window**2 + rj * window + ri
            for route, step in enumerate(
                (by_row, by_column, steps - 1 - by_row, steps - 1 - by_column)
            ):
                table[route, step] = i * width + j
    return table


@settings(deadline=None)
@given(sides, sides, st.integers(1, 8))
def test_routes_follow_the_closed_form(height: int, width: int, window: int) -> None:
    assert torch.equal(scan_routes(height, width, window), formula(height, width, window))


def test_a_small_map_by_hand() -> None:
    assert scan_routes(2, 3).tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 3, 1, 4, 2, 5],
        [5, 4, 3, 2, 1, 0],
        [5, 2, 4, 1, 3, 0],
    ]
    assert scan_routes(2, 3, 2)[0].tolist() == [0, 1, 3, 4, 2, -1, 5, -1]


@settings(deadline=None)
@given(sides, sides, st.integers(1, 8))
def test_scatter_undoes_gather(height: int, width: int, window: int) -> None:
    features = torch.randn(2, height * width, 3)
    routes = scan_routes(height, width, window)
    along = gather_routes(features, routes)
    assert (along[:, routes == PADDING] == 0).all()
    back = scatter_routes(along, routes, height * width)
    assert torch.equal(back, features[:, None].expand_as(back))


@pytest.mark.parametrize("arguments", [(0, 3, 1), (3, 0, 1), (3, 3, 0), (-1, 3, 1)])
def test_empty_maps_and_windows_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ShapeError, match="at least 1"):
        scan_routes(*arguments)


def test_window_orders_match_the_recording(shared: Path) -> None:
    recorded = torch.load(shared / "parity" / "scan_orders.pt", weights_only=False)["local"]
    assert len(recorded) == 160
    for case in recorded:
        height, width, window = case["H"], case["W"], case["w"]
        route = int(case["column_first"]) + 2 * int(case["flip"])
        table = scan_routes(height, width, window)[route].long()
        assert torch.equal(table + 1, case["scan"].long().flatten()), case
        steps = torch.arange(table.numel()).view(1, 1, -1, 1)
        merge = scatter_routes(steps, table[None].int(), height * width).flatten()
        assert torch.equal(merge, case["merge"].long().flatten()), case


def test_cross_scan_and_merge_match_the_recording(shared: Path) -> None:
    recorded = torch.load(shared / "parity" / "scan_orders.pt", weights_only=False)["cross"]
    for case in recorded:
        routes = scan_routes(case["H"], case["W"])
        assert torch.equal(routes.long(), case["scan"].long() - int(case["scan"].min()))
        stored = case["merge_in"]
        along = stored.flatten(3).transpose(2, 3)
        merged = scatter_routes(along, routes, case["H"] * case["W"]).sum(1)
        torch.testing.assert_close(merged.transpose(1, 2), case["merge_out"])


def test_tables_made_in_inference_mode_serve_training() -> None:
    with torch.inference_mode():
        table = scan_routes(11, 3, 2)
    assert table is scan_routes(11, 3, 2)
    assert not table.is_inference()


def test_the_cache_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_CACHE", {})
    monkeypatch.setattr(routes, "_CACHE_BYTES", 1000)
    for side in range(1, 12):
        scan_routes(side, side)
        assert sum(table.nbytes for table in routes._CACHE.values()) <= max(1000, 16 * side**2)
