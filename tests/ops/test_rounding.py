from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from qmamba.ops.native import library as kernel
from qmamba.ops.native import rounding as bindings
from qmamba.ops.quantized import rounding

needs_kernel = pytest.mark.skipif(not bindings.available(), reason="the kernel was not built")
SHAPES = [(1, 1), (3, 5), (1, 16), (2, 1000), (2, 20001)]


def table(rows: int, count: int) -> Tensor:
    x = torch.randn(rows, count, generator=torch.Generator().manual_seed(count))
    x = x * torch.logspace(-1, 1, rows)[:, None] + 0.3
    # Two values attain the largest.
    x[:, 0] = x.amax(1)
    return x


def grids(x: Tensor, bounded: bool) -> dict[str, Any]:
    scale = 0.3 * x.abs().amax(1) + 1e-3
    bounds = (0.5 * x.amin(1), 0.5 * x.amax(1)) if bounded else None
    return {"scale": scale, "offset": -x.mean(1), "bounds": bounds}


@pytest.fixture(params=sorted(kernel.LANES))
def both(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], Any]], tuple[Any, Any]]:
    """Run a function with the kernel on one instruction set, and with PyTorch."""
    library = kernel.load_kernel()
    if kernel.LANES[request.param] > library.lanes:
        pytest.skip("this processor lacks the instructions")
    monkeypatch.setattr(library, "lanes", kernel.LANES[request.param])

    def run(function: Callable[[], Any]) -> tuple[Any, Any]:
        native = function()
        with monkeypatch.context() as context:
            context.setattr(bindings, "available", lambda: False)
            return native, function()

    return run


@needs_kernel
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("high", [1, 127])
def test_levels_have_the_same_bits(
    both: Callable[..., Any], shape: tuple[int, int], bounded: bool, high: int
) -> None:
    x = table(*shape)
    native, plain = both(
        lambda: rounding.round_rows(x, low=-high - 1, high=high, **grids(x, bounded))
    )
    assert torch.equal(native, plain)


@needs_kernel
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bounded", [True, False])
def test_gradients_agree(both: Callable[..., Any], shape: tuple[int, int], bounded: bool) -> None:
    x = table(*shape)
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    native, plain = both(
        lambda: rounding.round_rows_backward(grad, x, low=-2, high=1, **grids(x, bounded))
    )
    assert torch.equal(native.x, plain.x)
    for ours, theirs in zip(native[1:], plain[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@needs_kernel
@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_and_their_gradient_agree(
    both: Callable[..., Any], shape: tuple[int, int]
) -> None:
    x = table(*shape)
    native, plain = both(lambda: rounding.row_statistics(x))
    for ours, theirs in zip(native, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert float(native.highest_count[0]) >= min(2, shape[1])
    rows = [torch.arange(1.0, 1 + len(x)) * factor for factor in (0.1, 0.2, 3.0, -4.0)]

    def add() -> Tensor:
        total = x.clone()
        rounding.add_statistics_gradient_(total, x, plain, *rows)
        return total

    torch.testing.assert_close(*both(add), rtol=1e-5, atol=1e-5)


@needs_kernel
def test_a_row_has_the_same_bits_alone() -> None:
    x = table(3, 20001)
    together = rounding.row_statistics(x)
    for i in range(len(x)):
        alone = rounding.row_statistics(x[i : i + 1])
        assert all(torch.equal(a, b[i : i + 1]) for a, b in zip(alone, together, strict=True))


@needs_kernel
def test_threads_do_not_change_bits() -> None:
    x = table(2, 50000)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = rounding.row_statistics(x)
        torch.set_num_threads(3)
        three = rounding.row_statistics(x)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def test_halves_go_to_even_codes() -> None:
    x = torch.tensor([[-1.5, -0.5, 0.5, 1.5, 2.5, 9.0, -9.0]])
    one, zero = torch.ones(1), torch.zeros(1)
    for dtype in (torch.float32, torch.float64):
        y = rounding.round_rows(x.to(dtype), one.to(dtype), zero.to(dtype), -4, 3)
        assert y.tolist() == [[-2, 0, 0, 2, 2, 3, -4]]


def test_nan_stays_nan() -> None:
    x = torch.tensor([[float("nan"), 1.0]])
    y = rounding.round_rows(x, torch.ones(1), torch.zeros(1), -4, 3)
    assert bool(y[0, 0].isnan()) and y[0, 1] == 1
