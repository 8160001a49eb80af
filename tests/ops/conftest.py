"""What the tests of the kernels share."""

from __future__ import annotations

import pytest

from qmamba.ops.native import library


@pytest.fixture(params=sorted(library.LANES))
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test once with each variant of the kernel that this processor can run."""
    loaded = library.load_kernel()
    if library.LANES[request.param] > loaded.library.qmamba_lanes():
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setattr(loaded, "lanes", library.LANES[request.param])
    return str(request.param)
