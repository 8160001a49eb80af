"""Random but reproducible inputs of the two scan operators, and the comparison with the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qmamba.ops import PADDING, scan_routes
from qmamba.ops.scan.naive import ss2d_naive


def scan_inputs(
    batch: int, channels: int, length: int, states: int, groups: int, seed: int = 0
) -> list[Tensor]:
    """float64 u, delta, A, B, C, D, delta_bias."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    decay = -0.1 - 2 * torch.rand(channels, states, generator=random, dtype=torch.float64)
    return [
        normal(batch, channels, length),
        normal(batch, channels, length),
        decay,
        normal(batch, groups, states, length),
        normal(batch, groups, states, length),
        normal(channels),
        normal(channels),
    ]


def map_inputs(
    batch: int,
    height: int,
    width: int,
    channels: int,
    states: int,
    rank: int,
    routes: int = 4,
    seed: int = 0,
) -> list[Tensor]:
    """float64 x, projected, dt_weight, dt_bias, A, D; the routes are :func:`route_tables`."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    pixels = height * width
    decay = -0.1 - 2 * torch.rand(routes, channels, states, generator=random, dtype=torch.float64)
    return [
        normal(batch, pixels, channels),
        normal(batch, pixels, routes, rank + 2 * states),
        normal(routes, channels, rank) * 0.3,
        normal(routes, channels) - 1,
        decay,
        normal(routes, channels),
    ]


def route_tables(height: int, width: int, window: int = 1, routes: int = 4) -> Tensor:
    return scan_routes(height, width, window)[:routes].contiguous()


def values_and_gradients(
    function: Callable[..., Tensor],
    tensors: Sequence[Tensor],
    dtype: torch.dtype = torch.float64,
    rearrange: Callable[[Tensor], Tensor] = lambda t: t,
) -> list[Tensor]:
    """The output for these inputs, and the gradient of a fixed weighted sum of it for each input.

    Inputs of reduced precision are rounded first, so that both sides of a comparison see one input.
    """
    leaves = [t.to(dtype).to(torch.float64).requires_grad_() for t in tensors]
    output = function(*(rearrange(t.to(dtype)) for t in leaves))
    weights = torch.sin(torch.arange(output.numel(), dtype=torch.float64) * 0.7 + 0.3)
    (output.double() * weights.view(output.shape)).sum().backward()
    zeros = [torch.zeros_like(t) for t in leaves]
    gradients = [z if t.grad is None else t.grad for t, z in zip(leaves, zeros, strict=True)]
    return [output.detach().double(), *gradients]


def largest_relative_error(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Over all tensors, the largest deviation divided by the largest magnitude expected there."""
    errors = [
        ((a - e).abs().max() / e.abs().max().clamp_min(1e-6)).item()
        for a, e in zip(actual, expected, strict=True)
    ]
    return max(errors)


def own_routes(batch: int, pixels: int, steps: int, routes: int, seed: int = 0) -> Tensor:
    """Other random routes for each image, with padding wherever the draw puts it."""
    random = torch.Generator().manual_seed(seed)
    entries = torch.arange(steps, dtype=torch.int32)
    entries[pixels:] = PADDING
    drawn = [entries[torch.randperm(steps, generator=random)] for _ in range(batch * routes)]
    return torch.stack(drawn).view(batch, routes, steps)


def check_own_routes(function: Callable[..., Tensor], merge: bool, tolerance: float = 2e-5) -> None:
    """Compare a scan with the definition on one image after the other, each with its own routes."""
    batch, height, width, routes = 3, 5, 7, 2
    for steps in (height * width, height * width + 9):
        tensors = map_inputs(batch, height, width, channels=20, states=3, rank=2, routes=routes)
        tables = own_routes(batch, height * width, steps, routes)

        def at_once(x: Tensor, projected: Tensor, *parameters: Tensor) -> Tensor:
            return function(x, projected, tables, *parameters, merge)  # noqa: B023

        def one_by_one(x: Tensor, projected: Tensor, *parameters: Tensor) -> Tensor:
            images = range(batch)
            return torch.cat(
                [
                    ss2d_naive(x[i : i + 1], projected[i : i + 1], tables[i], *parameters, merge)  # noqa: B023
                    for i in images
                ]
            )

        actual = values_and_gradients(at_once, tensors, torch.float32)
        expected = values_and_gradients(one_by_one, tensors)
        assert largest_relative_error(actual, expected) < tolerance
