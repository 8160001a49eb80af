from __future__ import annotations

import pytest
import torch

from qmamba.quantization.quantizers.initialization import LIMIT, OUTERMOST, Sample, WeightedValues
from qmamba.quantization.quantizers.interval_search import search_interval


def plain(values: torch.Tensor) -> WeightedValues:
    return WeightedValues(values, torch.ones_like(values))


def error(values: torch.Tensor, low: float, high: float, levels: int) -> float:
    step = (high - low) / (levels - 1)
    nearest = ((values - low) / step).round().clamp(0, levels - 1) * step + low
    return float((nearest - values).square().mean() / values.var())


# Steps and errors of the best uniform quantizers of a normal distribution: Max, 1960.
@pytest.mark.parametrize(
    ("bits", "step", "best"), [(2, 0.9957, 0.1188), (3, 0.5860, 0.03744), (4, 0.3352, 0.01154)]
)
def test_a_normal_distribution_gets_its_known_levels(bits: int, step: float, best: float) -> None:
    quantiles = (torch.arange(20000) + 0.5) / 20000
    values = torch.special.ndtri(quantiles.double()).float()
    low, high = (float(end) for end in search_interval(plain(values), 2**bits))
    assert (high - low) / (2**bits - 1) == pytest.approx(step, rel=0.03)
    # Half a step to either side of the center.
    assert low + high == pytest.approx(0, abs=0.05 * step)
    assert error(values, low, high, 2**bits) < 1.005 * best


def test_the_search_beats_the_range_and_close_neighbors() -> None:
    values = torch.randn(3000, generator=torch.Generator().manual_seed(0)) ** 3 + 2
    low, high = (float(end) for end in search_interval(plain(values), 16))
    found = error(values, low, high, 16)
    assert found < 0.7 * error(values, float(values.min()), float(values.max()), 16)
    for shift in (-0.05, 0.05):
        assert found <= error(values, low + shift * (high - low), high, 16)
        assert found <= error(values, low, high + shift * (high - low), 16)


def test_values_of_even_levels_are_found_exactly() -> None:
    values = torch.arange(4).repeat(50) * 0.25 - 0.1
    low, high = search_interval(plain(values), 4)
    assert error(values, float(low), float(high), 4) < 1e-6


def test_a_constant_is_its_own_interval() -> None:
    assert [
        float(end) for end in search_interval(plain(torch.full((5,), 0.3)), 4)
    ] == pytest.approx([0.3, 0.3])


def test_a_sample_is_small_and_knows_the_extremes() -> None:
    x = torch.randn(4, 3 * LIMIT, generator=torch.Generator().manual_seed(1))
    sample = Sample(batched=True)
    sample.add(x[:2])
    sample.add(x[2:])
    values, weights = sample.values()
    assert len(values) == LIMIT + 4 * OUTERMOST
    assert float(weights.sum()) == pytest.approx(x.numel(), rel=1e-4)
    assert sample.lowest == x.min() and sample.highest == x.max()
    assert sample.statistics.shape == (4, 4)
    torch.testing.assert_close(sample.statistics[:, 1], x.std(1))
    torch.testing.assert_close(sample.mean_magnitude(), x.abs().mean())
    mean = float((values * weights).sum() / weights.sum())
    assert mean == pytest.approx(0, abs=0.05)
    assert float((values**2 * weights).sum() / weights.sum()) == pytest.approx(1, rel=0.05)


def test_the_outermost_values_count_as_often_as_they_occur() -> None:
    x = torch.randn(100000, generator=torch.Generator().manual_seed(1))
    x[77] = 100.0
    sample = Sample.of(x, batched=False).values()
    assert float(sample.weights[sample.values == 100].sum()) == 1
    # With 256 levels it is worth while to go near the one far value, with 4 it is not.
    assert float(search_interval(sample, 4)[1]) < 10
    assert float(search_interval(sample, 256)[1]) > 60


def test_rows_are_normalized_by_themselves() -> None:
    x = torch.randn(3, 500, generator=torch.Generator().manual_seed(1))
    x = x * torch.tensor([[1.0], [100.0], [0.01]]) + 5
    values = Sample.of(x, batched=True, normalize=True).values().values
    assert float(values.std()) == pytest.approx(1, rel=0.01)
    assert float(values.mean()) == pytest.approx(0, abs=0.01)


def test_rounding_errors_around_a_constant_are_not_normalized() -> None:
    sample = Sample.of(torch.full((2, 100), 0.1), batched=True, normalize=True)
    assert torch.equal(sample.values().values, torch.zeros(200))
