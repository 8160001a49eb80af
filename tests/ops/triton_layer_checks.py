"""Kernels around the scan against their definitions; ``test_triton.py`` runs this file.

With ``TRITON_INTERPRET=1`` the kernels run in Triton's interpreter on the CPU, else on the GPU.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from qmamba.inference.gpu.quality import GpuQMamba
from qmamba.inference.gpu.restoration import GpuMambaIR
from qmamba.models import MambaIR, MambaIRConfig, QMamba, QMambaConfig
from qmamba.ops.triton import layers

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED:
    import tests.ops.interpreter  # noqa: F401

DEVICE = "cpu" if INTERPRETED else "cuda"
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


def values(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, atol=4 * tolerance, rtol=4 * tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("channels", "rows"), [(5, (3, 7)), (48, (2, 3, 4)), (200, (1, 1, 1))])
@pytest.mark.parametrize("parts", ["", "branch", "branch scale", "gelu", "gate", "branch gate"])
def test_norm(channels: int, rows: tuple[int, ...], parts: str, dtype: torch.dtype) -> None:
    x, branch = (values(*rows, channels, seed=seed, dtype=dtype) for seed in (1, 2))
    weight, bias, scale = (values(channels, seed=seed) for seed in (3, 4, 5))
    gate = values(*rows, 2 * channels, seed=6, dtype=dtype)[..., channels:]
    arguments = {
        "scale": scale if "scale" in parts else None,
        "gate": gate if "gate" in parts else None,
        "gelu": "gelu" in parts,
        "eps": 1e-3,
    }
    added = branch if "branch" in parts else None
    total, y = layers.residual_norm(x, added, weight, bias, **arguments)
    expected = layers.residual_norm_plain(x, added, weight, bias, **arguments)
    close(total, expected[0], TOLERANCE[dtype])
    close(y, expected[1], TOLERANCE[dtype])
    assert total is x or added is not None


def test_norm_of_an_image_that_is_one_color_and_of_not_a_number() -> None:
    x = torch.full((1, 2, 8), 3.0, device=DEVICE)
    x[0, 1, 0] = torch.nan
    one = torch.ones(8, device=DEVICE)
    _, y = layers.residual_norm(x, None, one, one)
    close(y[0, 0], one, 1e-6)
    assert torch.isnan(y[0, 1]).all()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 1, 2100)])
def test_bias_and_gelu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, bias = 3 * values(*shape, dtype=dtype), values(shape[-1], seed=1, dtype=dtype)
    expected = layers.bias_gelu_plain_(x.clone(), bias)
    actual = layers.bias_gelu_(x, bias)
    assert actual is x
    close(actual, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("sides", "channels", "size"),
    [((5, 7), 20, 3), ((1, 1), 70, 3), ((4, 9), 33, 5), ((3, 3), 1, 1)],
)
@pytest.mark.parametrize("biased", [True, False])
def test_depthwise_convolution(
    sides: tuple[int, int], channels: int, size: int, biased: bool, dtype: torch.dtype
) -> None:
    wide = values(2, *sides, 2 * channels, dtype=dtype)
    taps = values(size, size, channels, seed=1)
    bias = values(channels, seed=2) if biased else None
    for x in wide.chunk(2, dim=-1):
        actual = layers.depthwise_silu(x, taps, bias)
        assert actual.is_contiguous()
        close(actual, layers.depthwise_silu_plain(x, taps, bias), TOLERANCE[dtype])


@pytest.mark.parametrize("gate", [False, True])
def test_a_whole_quality_network(gate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMAMBA_BACKEND", "triton")
    torch.manual_seed(0)
    config = QMambaConfig(
        dims=(8, 16), depths=(2, 1), windows=(2, 1) if gate else (1, 1), route_gate=gate
    )
    model = QMamba(config).eval().to(DEVICE)
    images = values(2, 3, 16, 12)
    with torch.no_grad():
        torch.testing.assert_close(GpuQMamba(model)(images), model(images), atol=1e-5, rtol=1e-4)


def test_a_whole_restoration_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMAMBA_BACKEND", "triton")
    torch.manual_seed(0)
    config = MambaIRConfig(dim=8, depths=(2,), state_size=2, expansion=1.0, attention_reduction=4)
    model = MambaIR(config).eval().to(DEVICE)
    images = values(1, 3, 5, 4).sigmoid()
    with torch.no_grad():
        torch.testing.assert_close(GpuMambaIR(model)(images), model(images), atol=1e-5, rtol=1e-4)
