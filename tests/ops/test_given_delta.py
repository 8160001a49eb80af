from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qmamba.errors import ShapeError
from qmamba.ops import backends, scan_routes, ss2d, ss2d_given_delta

AVAILABLE = [row.name for row in backends() if row.device == "cpu" and row.available]


def arguments(channels: int, states: int, height: int, width: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    pixels = height * width
    return {
        "x": draw(2, pixels, channels),
        "delta": draw(2, 4, pixels, channels),
        "projected": draw(2, pixels, 4, 2 * states),
        "dt_bias": draw(4, channels),
        "A": -draw(4, channels, states).abs() - 0.1,
        "D": draw(4, channels),
    }


@pytest.mark.parametrize("backend", [name for name in AVAILABLE if name != "triton"])
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(("window", "channels", "states"), [(1, 20, 3), (2, 16, 1), (4, 5, 2)])
def test_all_implementations_agree_with_the_low_rank_scan(
    backend: str, merge: bool, window: int, channels: int, states: int
) -> None:
    values = arguments(channels, states, 5, 7)
    routes = scan_routes(5, 7, window)
    for tensor in values.values():
        tensor.requires_grad_()
    given = ss2d_given_delta(
        *(values[key] for key in ("x", "delta", "projected")),
        routes,
        *(values[key] for key in ("dt_bias", "A", "D")),
        merge=merge,
        backend=backend,
    )
    # With a rank of all channels and an identity, the low-rank delta is any delta.
    projected = torch.cat([values["delta"].transpose(1, 2), values["projected"]], dim=-1)
    identity = torch.eye(channels).expand(4, channels, channels)
    expected = ss2d(
        values["x"],
        projected,
        routes,
        identity,
        *(values[key] for key in ("dt_bias", "A", "D")),
        merge=merge,
        backend="naive",
    )
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)
    up = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = (
        torch.autograd.grad((y * up).sum(), list(values.values())) for y in (given, expected)
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3)


def test_shapes_are_checked() -> None:
    values = arguments(4, 2, 3, 3)
    values["delta"] = values["delta"][:, :, :5]
    with pytest.raises(ShapeError, match="delta must be"):
        ss2d_given_delta(
            *(values[key] for key in ("x", "delta", "projected")),
            scan_routes(3, 3),
            *(values[key] for key in ("dt_bias", "A", "D")),
        )
