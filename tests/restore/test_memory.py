"""The estimate of memory against what the tensors of a network take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from qmamba.inference import Precision, prepare
from qmamba.models import create_model, model_config
from qmamba.models.mambair.config import MambaIRConfig
from qmamba.ops.native import library
from qmamba.ops.out_of_memory import is_out_of_memory
from qmamba.restore import memory


def peak_of_tensors(name: str, side: int, precision: Precision, **changes: Any) -> tuple[int, int]:
    """Bytes per input pixel: the most that torch's allocator gave out, and the estimate."""
    model = create_model(name, **changes).eval()
    assert isinstance(model.config, MambaIRConfig)
    run = prepare(model, precision)
    if library.unavailable_reason() is None:
        # What calls before this one have left would not be counted.
        library.load_kernel()._kept.workspace = None
    image = torch.rand(1, model.config.channels, side, side)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run(image)
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events = recorded.profiler.kineto_results.events()
    changes_of_memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    total = peak = 0
    for _, size in changes_of_memory:
        total += size
        peak = max(peak, total)
    return peak // side**2, memory.bytes_per_pixel(model.config, precision)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mambair-nano-x2", {}),
        ("mambair-nano-jpeg", {}),
        ("mambair-light-x4", {"depths": (2,)}),
        ("mambair-classic-x4", {"depths": (1,), "dim": 60}),
        ("mambair-classic-x2", {"depths": (1,), "dim": 60, "scale": 8}),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_estimate_bounds_the_tensors(
    name: str, changes: dict[str, Any], precision: Precision
) -> None:
    """The process took up to 1.7 times the tensors in measurements, so the estimate is above."""
    measured, estimate = peak_of_tensors(name, 48, precision, **changes)
    assert 1.4 * measured < estimate < 4 * measured


@pytest.mark.parametrize("name", ["mambair-light-x2", "mambair-classic-x4", "mambair-jpeg"])
def test_larger_networks_take_more(name: str) -> None:
    def estimate(**changes: object) -> int:
        config = model_config(name, **changes)
        assert isinstance(config, MambaIRConfig)
        return memory.bytes_per_pixel(config)

    assert estimate() > estimate(dim=32) > 1000
    assert estimate() == estimate(depths=(2,))
    assert estimate(state_size=40) > estimate()


def test_free_memory_of_this_machine() -> None:
    assert 1 << 20 < memory.free_memory(torch.device("cpu")) < 1 << 50


def test_container_limits_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_system_memory", lambda: 1000)
    monkeypatch.setattr(memory, "_group_memory", lambda: 300)
    assert memory.free_memory(torch.device("cpu")) == 300
    monkeypatch.setattr(memory, "_group_memory", lambda: None)
    assert memory.free_memory(torch.device("cpu")) == 1000
    monkeypatch.setattr(memory, "_system_memory", lambda: None)
    assert memory.free_memory(torch.device("cpu")) == 2 << 30


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) == expected
