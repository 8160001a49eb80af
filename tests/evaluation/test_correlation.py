from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qmamba.errors import ConfigError, DataError
from qmamba.evaluation.metrics.correlation import (
    LogisticFit,
    bootstrap_interval,
    fit_logistic,
    krcc,
    plcc,
    rmse,
    srcc,
)

CORRELATIONS = (srcc, plcc, krcc)


def scores(element: st.SearchStrategy[float]) -> st.SearchStrategy[list[tuple[float, float]]]:
    return st.lists(st.tuples(element, element), min_size=3, max_size=60)


tied = scores(st.integers(0, 5).map(float))
spread = scores(st.floats(-1e3, 1e3, allow_nan=False, width=32))


def varied_pair(pairs: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.array(pairs, dtype=np.float64).T
    assume(np.ptp(first) > 0 and np.ptp(second) > 0)
    return first, second


@settings(deadline=None, max_examples=150)
@given(st.one_of(tied, spread))
def test_rank_correlations_equal_scipy(pairs: list[tuple[float, float]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = varied_pair(pairs)
    assert srcc(first, second) == pytest.approx(stats.spearmanr(first, second)[0], abs=1e-9)
    assert krcc(first, second) == pytest.approx(stats.kendalltau(first, second)[0], abs=1e-9)


@settings(deadline=None, max_examples=100)
@given(st.one_of(tied, spread))
def test_linear_correlation_equals_scipy(pairs: list[tuple[float, float]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = varied_pair(pairs)
    assume(np.ptp(first) > 1e-3 and np.ptp(second) > 1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = stats.pearsonr(first, second)[0]
    assert plcc(first, second) == pytest.approx(expected, abs=1e-7)


@settings(deadline=None, max_examples=50)
@given(tied)
def test_correlations_are_symmetric_odd_and_bounded(pairs: list[tuple[float, float]]) -> None:
    first, second = varied_pair(pairs)
    for metric in CORRELATIONS:
        value = metric(first, second)
        assert -1.0 <= value <= 1.0
        assert metric(second, first) == pytest.approx(value, abs=1e-12)
        assert metric(-first, second) == pytest.approx(-value, abs=1e-12)
        assert metric(first, 3 * first + 2) == pytest.approx(1.0)


def test_known_values() -> None:
    assert srcc([1, 2, 3, 4], [1, 4, 9, 16]) == pytest.approx(1.0)
    assert krcc([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    assert rmse([0, 0, 0], [3, 3, 3]) == 3.0
    assert isinstance(srcc([1, 2, 3], [3, 1, 2]), float)


def test_large_inputs_and_extreme_magnitudes() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    first = generator.integers(0, 500, 20_000)
    second = first + generator.integers(0, 300, 20_000)
    assert krcc(first, second) == pytest.approx(stats.kendalltau(first, second)[0], abs=1e-9)
    assert plcc([1e300, 2e300, 3e300], [1e-300, 2e-300, 3e-300]) == pytest.approx(1.0)


@pytest.mark.parametrize("metric", [*CORRELATIONS, rmse])
def test_unusable_scores_are_refused(metric: Callable[..., float]) -> None:
    for first, second, word in (
        ([1, 2], [1, 2], "3 samples"),
        ([1, 2, 3], [1, 2, 3, 4], "3 values and target 4"),
        ([1, math.nan, 3], [1, 2, 3], "not finite"),
        ([1, 2, 3], [1, math.inf, 3], "not finite"),
        ([[1, 2, 3]], [1, 2, 3], "shape"),
        (["a", "b", "c"], [1, 2, 3], "numbers"),
    ):
        with pytest.raises(DataError, match=word):
            metric(first, second)


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_constant_scores_are_refused(metric: Callable[..., float]) -> None:
    with pytest.raises(DataError, match="target is constant"):
        metric([1, 2, 3], [5, 5, 5])
    with pytest.raises(DataError, match="prediction is constant"):
        metric([5, 5, 5], [1, 2, 3])


@pytest.mark.parametrize("direction", [1.0, -1.0])
@pytest.mark.parametrize("coefficients", [4, 5])
def test_logistic_recovers_its_curve(coefficients: int, direction: float) -> None:
    pytest.importorskip("scipy.optimize")
    x = np.linspace(-300, 700, 200)
    true = LogisticFit((90.0, 10.0, 200.0, 80.0))
    y = true(direction * x)
    fit = fit_logistic(x, y, coefficients)
    assert len(fit.coefficients) == coefficients
    np.testing.assert_allclose(fit(x), y, atol=0.5)
    assert plcc(fit(x), y) > 0.9999 > plcc(direction * x, y)


def test_logistic_forms_follow_their_papers() -> None:
    x = np.array([-1.0, 0.5, 2.0])
    four = LogisticFit((5.0, 1.0, 0.5, -2.0))(x)
    np.testing.assert_allclose(four, 1 + 4 / (1 + np.exp(-(x - 0.5) / 2)))
    five = LogisticFit((3.0, 2.0, 0.5, 0.25, 1.0))(x)
    np.testing.assert_allclose(five, 3 * (0.5 - 1 / (1 + np.exp(2 * (x - 0.5)))) + x / 4 + 1)
    assert np.isfinite(LogisticFit((1.0, 0.0, 0.0, 1e-9))(1e6 * x)).all()


def test_logistic_refuses_what_it_cannot_fit() -> None:
    with pytest.raises(ConfigError, match="4 or 5"):
        fit_logistic([1, 2, 3], [1, 2, 3], 3)
    with pytest.raises(DataError, match="as many samples"):
        fit_logistic([1, 2, 3], [1, 2, 3], 4)
    with pytest.raises(DataError, match="constant"):
        fit_logistic([1, 1, 1, 1], [1, 2, 3, 4], 4)


def test_logistic_never_fits_worse_than_a_constant() -> None:
    pytest.importorskip("scipy.optimize")
    generator = np.random.default_rng(1)
    for coefficients in (4, 5):
        x, y = generator.normal(size=(2, 60))
        assert rmse(fit_logistic(x, y, coefficients)(x), y) <= y.std() + 1e-6


def test_bootstrap_interval_holds_the_truth_and_repeats() -> None:
    generator = np.random.default_rng(2)
    first = generator.normal(size=400)
    second = 0.6 * first + 0.8 * generator.normal(size=400)
    low, high = bootstrap_interval(first, second, plcc, 300, seed=1)
    assert low < 0.6 < high
    # The large-sample deviation of a correlation is (1 - r^2) / sqrt(n): 4 x 0.64 / 20 wide.
    assert high - low == pytest.approx(4 * 0.64 / 20, rel=0.35)
    assert (low, high) == bootstrap_interval(first, second, plcc, 300, seed=1)
    assert (low, high) != bootstrap_interval(first, second, plcc, 300, seed=2)
    narrow_low, narrow_high = bootstrap_interval(first, second, plcc, 300, seed=1, level=0.5)
    assert low < narrow_low < narrow_high < high


def test_bootstrap_draws_again_where_the_metric_is_undefined() -> None:
    low, high = bootstrap_interval([0, 0, 0, 1, 0], [1, 2, 3, 4, 5], srcc, 50)
    assert -1.0 <= low <= high <= 1.0


def test_bootstrap_refuses_wrong_options() -> None:
    with pytest.raises(ConfigError, match="resample"):
        bootstrap_interval([1, 2, 3], [1, 2, 3], srcc, 0)
    with pytest.raises(ConfigError, match="level"):
        bootstrap_interval([1, 2, 3], [1, 2, 3], srcc, level=95)
    with pytest.raises(DataError, match="constant"):
        bootstrap_interval([1, 1, 1], [1, 2, 3], srcc)
