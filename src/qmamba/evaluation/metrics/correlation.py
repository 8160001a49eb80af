"""How well predicted scores follow human opinion: correlations, the logistic mapping, intervals.

All functions take two equally long one-dimensional sequences of finite numbers, prediction first,
and return plain floats. They raise DataError for fewer than 3 samples, different lengths, values
that are not finite, and (all but `rmse`) for an input that is constant, whose correlation is
undefined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmamba.errors import ConfigError, DataError, QMambaError

FloatArray = NDArray[np.float64]

_MINIMUM_SAMPLES = 3
_STARTS = (np.log([0.25, 0.5, 1.0, 2.0, 4.0, 8.0]), np.linspace(-2.0, 2.0, 9))


@dataclass(frozen=True)
class LogisticFit:
    """A smooth mapping from predictions to the scale of opinion scores; call it on predictions.

    With four coefficients b: b2 + (b1 - b2) / (1 + exp(-(x - b3) / |b4|)), from the VQEG final
    report of 2000. With five: b1 (1/2 - 1 / (1 + exp(b2 (x - b3)))) + b4 x + b5, from Sheikh, Sabir
    and Bovik, "A Statistical Evaluation of Recent Full Reference Image Quality Assessment
    Algorithms", IEEE Transactions on Image Processing 15(11), 2006.
    """

    coefficients: tuple[float, ...]

    def __call__(self, prediction: ArrayLike) -> FloatArray:
        """Mapped predictions, float64, of the shape of `prediction`."""
        return _logistic(np.asarray(prediction, dtype=np.float64), np.array(self.coefficients))


def srcc(prediction: ArrayLike, target: ArrayLike) -> float:
    """Spearman's rank correlation in [-1, 1]; tied values share their average rank."""
    first, second = _varied_pair(prediction, target)
    return _pearson(_average_ranks(first), _average_ranks(second))


def plcc(prediction: ArrayLike, target: ArrayLike) -> float:
    """Pearson's linear correlation in [-1, 1], on the values as they are (no logistic mapping)."""
    return _pearson(*_varied_pair(prediction, target))


def krcc(prediction: ArrayLike, target: ArrayLike) -> float:
    """Kendall's rank correlation, tau-b (corrected for ties), in [-1, 1], in O(n log^2 n)."""
    first, second = _varied_pair(prediction, target)
    first_codes, second_codes = _codes(first), _codes(second)
    # Ties of the first are in rising order of the second: no pair of them counts as an inversion.
    discordant = _inversions(second_codes[np.lexsort((second_codes, first_codes))])
    pairs = first.size * (first.size - 1) // 2
    first_ties, second_ties = _tied_pairs(first_codes), _tied_pairs(second_codes)
    both_ties = _tied_pairs(first_codes * first.size + second_codes)
    balance = pairs - first_ties - second_ties + both_ties - 2 * discordant
    # Integers and two roots: the product of the pair counts may pass 2^53.
    tau = balance / math.sqrt(pairs - first_ties) / math.sqrt(pairs - second_ties)
    return min(1.0, max(-1.0, tau))


def rmse(prediction: ArrayLike, target: ArrayLike) -> float:
    """Root of the mean squared difference, in the unit of the scores; constants are allowed."""
    first, second = _pair(prediction, target)
    return float(np.sqrt(np.mean(np.square(first - second))))


def fit_logistic(prediction: ArrayLike, target: ArrayLike, coefficients: int = 4) -> LogisticFit:
    """Least-squares logistic mapping with 4 or 5 coefficients, rising or falling; needs scipy.

    Steepness and center are searched (within 0.1 to 50 per standard deviation of the prediction,
    and 10 of them around its mean); the remaining coefficients, in which the form is linear, are
    solved for. The fit depends on `target`: figures that use it, such as `plcc(fit(x), y)`, must
    say so. Raises ConfigError for another number of coefficients, DataError for fewer samples than
    coefficients, QMambaError where scipy is not installed.
    """
    if coefficients not in (4, 5):
        raise ConfigError(f"fit_logistic has 4 or 5 coefficients, not {coefficients}")
    first, second = _varied_pair(prediction, target)
    if first.size < coefficients:
        raise DataError(
            f"A logistic with {coefficients} coefficients needs as many samples, got {first.size}."
        )
    try:
        from scipy.optimize import least_squares
    except ImportError as error:
        raise QMambaError(
            'The function fit_logistic needs SciPy; run pip install "qmamba[train]".'
        ) from error

    # On a standardised prediction one set of starts and limits serves every scale of scores.
    shift, scale = float(first.mean()), float(first.std())
    x = (first - shift) / scale

    def basis(log_steepness: float, center: float) -> FloatArray:
        curve = np.tanh(0.5 * np.exp(log_steepness) * (x - center))
        columns = (np.ones_like(x), curve) if coefficients == 4 else (np.ones_like(x), curve, x)
        return np.stack(columns, axis=1)

    def residuals(candidate: FloatArray) -> FloatArray:
        columns = basis(*candidate)
        residual: FloatArray = columns @ np.linalg.lstsq(columns, second, rcond=None)[0] - second
        return residual

    # The sum of squares has local minima: the best point of a coarse grid leads to the lowest.
    start = min(
        ((log_steepness, center) for log_steepness in _STARTS[0] for center in _STARTS[1]),
        key=lambda candidate: float(np.square(residuals(np.array(candidate))).sum()),
    )
    limits = ([np.log(0.1), -10.0], [np.log(50.0), 10.0])
    log_steepness, center = least_squares(residuals, start, bounds=limits, max_nfev=200).x
    middle, half, *rest = np.linalg.lstsq(basis(log_steepness, center), second, rcond=None)[0]
    steepness, center = np.exp(log_steepness) / scale, shift + scale * center
    fitted: tuple[float, ...] = (middle + half, middle - half, center, 1.0 / steepness)
    if coefficients == 5:
        linear = rest[0] / scale
        fitted = (2.0 * half, steepness, center, linear, middle - linear * shift)
    return LogisticFit(tuple(float(value) for value in fitted))


def bootstrap_interval(
    prediction: ArrayLike,
    target: ArrayLike,
    metric: Callable[[FloatArray, FloatArray], float],
    resamples: int = 1000,
    *,
    seed: int = 0,
    level: float = 0.95,
    groups: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """Percentile interval (low, high) of `metric` over draws with replacement (Efron 1979).

    The draws and the errors are those of `bootstrap_values`; a `level` outside (0, 1) is a
    ConfigError. The same seed gives the same interval.
    """
    _check_level(level)
    values = bootstrap_values(prediction, target, metric, resamples, seed=seed, groups=groups)
    return interval(values, level)


def bootstrap_values(
    prediction: ArrayLike,
    target: ArrayLike,
    metric: Callable[[FloatArray, FloatArray], float],
    resamples: int = 1000,
    *,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> FloatArray:
    """Values of `metric` over draws with replacement: float64 of shape (resamples,).

    A draw on which `metric` is undefined (all its values equal) is drawn again. The same seed gives
    the same draws for every metric.

    Args:
        prediction, target: the samples.
        metric: a function of both.
        resamples: number of draws.
        seed: seed of the draws.
        groups: one key per sample. Whole groups are drawn, as many as there are, because samples
            that depend on each other (images of one scene) would make intervals too narrow.
            None: every sample is drawn for itself.

    Raises:
        ConfigError: `resamples` is below 1.
        DataError: the inputs are no samples of `metric`, `groups` has another length, or most draws
            are constant.
    """
    if resamples < 1:
        raise ConfigError(
            f"The function bootstrap_interval needs at least 1 resample, got {resamples}."
        )
    first, second = _pair(prediction, target)
    metric(first, second)
    members = _members(groups, first.size)
    generator = np.random.default_rng(seed)
    values: list[float] = []
    failures = 0
    while len(values) < resamples:
        if members is None:
            chosen = generator.integers(0, first.size, first.size)
        else:
            drawn = generator.integers(0, len(members), len(members))
            chosen = np.concatenate([members[group] for group in drawn])
        try:
            values.append(metric(first[chosen], second[chosen]))
        except DataError:
            failures += 1
            if failures > resamples:
                raise DataError(
                    f"most bootstrap draws of these {first.size} samples are constant; "
                    "an interval needs more samples or more distinct values"
                ) from None
    return np.array(values)


def interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """The (low, high) quantiles that hold the middle share `level` of the values.

    Raises:
        ConfigError: `level` lies outside (0, 1).
    """
    _check_level(level)
    tail = 0.5 * (1.0 - level)
    low, high = np.quantile(np.asarray(values, dtype=np.float64), (tail, 1.0 - tail))
    return float(low), float(high)


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ConfigError(f"The level of an interval lies between 0 and 1, got {level:g}.")


def _members(groups: Sequence[Hashable] | None, samples: int) -> list[NDArray[np.int64]] | None:
    """Positions of the samples of each group; None where every sample is its own."""
    if groups is None:
        return None
    if len(groups) != samples:
        raise DataError(f"groups has {len(groups)} keys for {samples} samples; give one for each")
    found: dict[Hashable, list[int]] = {}
    for position, key in enumerate(groups):
        found.setdefault(key, []).append(position)
    if len(found) == samples:
        return None
    return [np.array(positions) for positions in found.values()]


def _pair(prediction: ArrayLike, target: ArrayLike) -> tuple[FloatArray, FloatArray]:
    first, second = _vector(prediction, "prediction"), _vector(target, "target")
    if first.size != second.size:
        raise DataError(
            f"prediction has {first.size} values and target {second.size}; each needs one per image"
        )
    if first.size < _MINIMUM_SAMPLES:
        raise DataError(
            f"A correlation needs at least {_MINIMUM_SAMPLES} samples, got {first.size}."
        )
    return first, second


def _varied_pair(prediction: ArrayLike, target: ArrayLike) -> tuple[FloatArray, FloatArray]:
    pair = _pair(prediction, target)
    for values, name in zip(pair, ("prediction", "target"), strict=True):
        if values.min() == values.max():
            raise DataError(
                f"{name} is constant ({values[0]:g}), so its correlation is undefined; "
                "check the scores"
            )
    return pair


def _vector(values: ArrayLike, name: str) -> FloatArray:
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is not a sequence of numbers; pass one score per image") from error
    if vector.ndim != 1:
        raise DataError(f"{name} has shape {vector.shape}; pass one dimension, one score per image")
    wrong = np.flatnonzero(~np.isfinite(vector))
    if wrong.size:
        raise DataError(
            f"{name} holds {wrong.size} values that are not finite, the first at index {wrong[0]}; "
            "drop those images first"
        )
    return vector


def _pearson(first: FloatArray, second: FloatArray) -> float:
    # Scaling by the largest value keeps the squares of very small and very large scores in range.
    first = first / np.abs(first).max()
    second = second / np.abs(second).max()
    first = first - first.mean()
    second = second - second.mean()
    norms = float(np.linalg.norm(first)) * float(np.linalg.norm(second))
    if norms == 0.0:
        raise DataError("The scores differ only by rounding, so their correlation is undefined.")
    return min(1.0, max(-1.0, float(first @ second) / norms))


def _average_ranks(values: FloatArray) -> FloatArray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    average: FloatArray = np.cumsum(counts) - 0.5 * (counts - 1)
    return average[inverse.reshape(-1)]


def _codes(values: FloatArray) -> NDArray[np.int64]:
    """Dense ranks from 0: equal values, equal codes."""
    inverse = np.unique(values, return_inverse=True)[1]
    return inverse.reshape(-1).astype(np.int64)


def _tied_pairs(codes: NDArray[np.int64]) -> int:
    counts = np.unique(codes, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())


def _inversions(codes: NDArray[np.int64]) -> int:
    """Number of i < j with codes[i] > codes[j], one bit of the codes at a time from the highest.

    Two codes are ordered by the highest bit in which they differ, so within each group that agrees
    in all higher bits the inversions of this bit are the ones before each zero.
    """
    count = 0
    for bit in reversed(range(int(codes.max()).bit_length())):
        ones = (codes >> bit) & 1
        before = np.cumsum(ones) - ones
        groups = codes >> (bit + 1)
        starts = np.searchsorted(groups, groups, side="left")
        count += int((before - before[starts])[ones == 0].sum())
        codes = codes[np.argsort(codes >> bit, kind="stable")]
    return count


def _logistic(x: FloatArray, coefficients: FloatArray) -> FloatArray:
    if coefficients.size == 4:
        high, low, center, width = coefficients
        # Half of 1 + tanh(t / 2) is the logistic function, without its overflow.
        steepness = 0.5 / max(abs(width), 1e-12)
        return low + (high - low) * 0.5 * (1.0 + np.tanh(steepness * (x - center)))
    height, slope, center, linear, offset = coefficients
    return height * 0.5 * np.tanh(0.5 * slope * (x - center)) + linear * x + offset
