"""What the tests of the kernels share."""

from __future__ import annotations

import pytest

from qmamba.ops import kernel


@pytest.fixture(params=sorted(kernel.LANES))
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once with each variant of the kernel that this processor can run."""
    loaded = kernel.load_kernel()
    if kernel.LANES[request.param] > loaded.library.qmamba_lanes():
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setattr(loaded, "lanes", kernel.LANES[request.param])
    return str(request.param)
