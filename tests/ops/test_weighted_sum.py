"""Two maps into one, in every variant built."""

from __future__ import annotations

import pytest
import torch

from qmamba.ops import kernel
from qmamba.ops.weighted_sum import weighted_sum

pytestmark = pytest.mark.skipif(
    kernel.unavailable_reason() is not None, reason=str(kernel.unavailable_reason())
)


@pytest.fixture(params=sorted(kernel.LANES))
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = kernel.load_kernel()
    if kernel.LANES[request.param] > loaded.library.qmamba_lanes():
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setattr(loaded, "lanes", kernel.LANES[request.param])


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 16), (1, 7, 2, 37), (3, 4, 4, 60)])
def test_each_map_has_its_weights(shape: tuple[int, int, int, int]) -> None:
    x, z = torch.randn(shape), torch.randn(shape)
    x_weight, z_weight = torch.randn(shape[3]), torch.randn(shape[0], 1, 1, shape[3])
    kept = x.clone(), z.clone()
    y = weighted_sum(x, x_weight, z, z_weight)
    assert torch.allclose(y, x * x_weight + z * z_weight, atol=1e-6)
    assert torch.equal(x, kept[0]) and torch.equal(z, kept[1])
