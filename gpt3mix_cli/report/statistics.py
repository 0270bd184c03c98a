"""The statistics of a report, for many results or comparisons at once.

The data seed is the unit: trials that share a subsample are not independent, so they are averaged
before anything is tested or resampled. Small designs are enumerated, larger ones are drawn with a
fixed seed. SciPy's bootstrap, permutation_test and wilcoxon give the same values, as tests show,
but they draw resamples for each test: thousands of tests take minutes, the matrix products here a
second.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import default_rng
from scipy.special import factorial, ndtr, ndtri, stdtrit

Array = np.ndarray[Any, np.dtype[Any]]
Rows = Array | Sequence[Sequence[float]]

LEVEL = 0.95  # of all intervals
RESAMPLES = 9_999  # where all of them would be more
EXACT_UNITS = 8  # up to here all 6,435 bootstrap samples are enumerated
MAX_NUMBERS = 1_000_000  # in memory at a time: 8 MB, which mostly fit a processor's cache
MIN_UNITS_FOR_STARS = 6  # five pairs cannot reach p < 0.05
SIGNIFICANCE_LEVELS = (0.05, 0.01, 0.001)
DIGITS = 9  # to which differences are rounded before they are ranked: accuracies have six


def components(values: Array, unit_of: Array, result_of_unit: Array) -> tuple[Array, Array]:
    """Return the standard deviations between and within the units of each result.

    The ANOVA estimators of a one-way random model with unequal groups (Searle, Casella and
    McCulloch, Variance Components, 1992, section 3.6); a negative variance between units counts as
    zero. NaN where they cannot be estimated.

    Args:
        values: one per trial.
        unit_of: the unit of each trial, a data seed of a result, from 0.
        result_of_unit: the result of each unit, from 0; no unit is empty.
    """
    in_unit = np.bincount(unit_of)
    means = np.bincount(unit_of, values) / in_unit
    within = np.bincount(result_of_unit, np.bincount(unit_of, (values - means[unit_of]) ** 2))
    units = np.bincount(result_of_unit)
    trials = np.bincount(result_of_unit, in_unit)
    mean = np.bincount(result_of_unit, means * in_unit) / trials
    between = np.bincount(result_of_unit, in_unit * (means - mean[result_of_unit]) ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_within = np.where(trials > units, within / (trials - units), np.nan)
        size = (trials - np.bincount(result_of_unit, in_unit**2.0) / trials) / (units - 1)
        variance = np.maximum(0, (between / (units - 1) - mean_within) / size)
        return np.sqrt(np.where(units > 1, variance, np.nan)), np.sqrt(mean_within)


def intervals(sums: Rows, counts: Rows | None = None) -> Array:
    """Return 95 % bootstrap intervals of means; units (data seeds) are drawn with replacement.

    The expanded percentile interval (Hesterberg, What Teachers Should Know About the Bootstrap, The
    American Statistician 69, 2015, section 5.1): the plain one is far too narrow for five units.
    With five it is nearly the range of the units; with fewer it cannot be wider than their range
    and contains the true mean in less than 95 % of cases.

    Args:
        sums: (results, units), the sum over the trials of a unit.
        counts: (results, units), the number of these trials; one each by default.

    Returns:
        float array (results, 2); NaN for a single unit.
    """
    sums = np.asarray(sums, dtype=float)
    counts = np.ones_like(sums) if counts is None else np.asarray(counts, dtype=float)
    units = sums.shape[1]
    if units < 2:
        return np.full((len(sums), 2), np.nan)
    drawn, weights = _draws(units)
    tail = float(ndtr(-math.sqrt(units / (units - 1)) * stdtrit(units - 1, (1 + LEVEL) / 2)))
    step = 1 + MAX_NUMBERS // len(drawn)
    parts = [slice(start, start + step) for start in range(0, len(sums), step)]
    return np.concatenate([
        _quantiles((drawn @ sums[part].T) / (drawn @ counts[part].T), weights, (tail, 1 - tail))
        for part in parts
    ])  # fmt: skip


def wilson(fractions: Array, counts: Array) -> Array:
    """Return 95 % score intervals of fractions of so many rows, as an array (results, 2).

    Wilson, Probable Inference, the Law of Succession, and Statistical Inference, Journal of the
    American Statistical Association 22, 1927. Unlike p ± 1.96 standard errors it has a width where
    all rows are right, and it stays within 0 and 1.
    """
    z2 = ndtri((1 + LEVEL) / 2) ** 2
    center = (fractions + z2 / (2 * counts)) / (1 + z2 / counts)
    variance = fractions * (1 - fractions) / counts + z2 / (4 * counts**2)
    half = np.sqrt(z2 * variance) / (1 + z2 / counts)
    limits: Array = np.clip(np.stack([center - half, center + half], axis=1), 0, 1)
    return limits


def with_test_rows(
    means: Array, limits: Array, counts: Array, own_rows: Array | None = None
) -> Array:
    """Return intervals of accuracies that count the sampling of the test rows too.

    The data seeds share the test rows, so that their spread does not show what other test rows
    would change. Both sources are independent; their intervals are combined by the method of
    variance estimates recovery (MOVER: Zou and Donner, Construction of Confidence Limits about
    Effect Measures, Statistics in Medicine 27, 2008): distances from the mean are added as squares.
    The binomial variance of the test rows is an upper bound: a part of it is in the spread of the
    data seeds already. Where each data seed has test rows of its own, as with folds, their spread
    is of both sources, and the wider interval is taken: few folds may agree by chance.

    Args:
        means: accuracies, one a result.
        limits: (results, 2), intervals over data seeds; NaN where there is one data seed, so that
            only test rows count.
        counts: numbers of test rows; NaN where unknown, so that only data seeds count.
        own_rows: whether each data seed has test rows of its own; by default nowhere.
    """
    of_rows = np.full((len(means), 2), np.nan)
    known = counts > 0
    of_rows[known] = wilson(means[known], counts[known])
    distances = np.stack([limits, of_rows]) - means[None, :, None]
    squares = np.where(np.isnan(distances), 0, distances) ** 2
    summed = squares.sum(axis=0)
    if own_rows is not None:
        summed = np.where(own_rows[:, None], squares.max(axis=0), summed)
    half = np.sqrt(summed)
    combined: Array = np.clip(np.stack([means - half[:, 0], means + half[:, 1]], axis=1), 0, 1)
    combined[np.isnan(distances).all(axis=(0, 2))] = np.nan
    return combined


def min_changed_rows() -> int:
    """Return how many test rows must change, all in one direction, for p < 0.05.

    McNemar's exact test, which Dietterich (Approximate Statistical Tests for Comparing Supervised
    Classification Learning Algorithms, Neural Computation 10, 1998) recommends for two classifiers
    on the same test rows: k rows that all change in one direction have p = 2 ** (1 - k).
    """
    return min_units(1)


def min_units(tests: int) -> int:
    """Return how many data seeds can reach p < 0.05 after correction for so many tests."""
    return math.floor(math.log2(max(1, tests) / SIGNIFICANCE_LEVELS[0])) + 2


def _quantiles(values: Array, weights: Array, fractions: tuple[float, float]) -> Array:
    """Return weighted quantiles of each column, as an array (columns, fractions).

    A quantile is the smallest value at or below which that fraction of the weight is.
    """
    if len(values) == RESAMPLES:  # all weigh the same
        ranks = [
            min(RESAMPLES - 1, math.ceil(fraction * RESAMPLES - 1e-9) - 1) for fraction in fractions
        ]
        return np.asarray(np.partition(values, ranks, axis=0)[ranks].T)
    order = values.argsort(0)
    reached = np.cumsum(weights[order], axis=0)
    indexes = np.stack([np.argmax(reached >= fraction - 1e-12, axis=0) for fraction in fractions])
    return np.take_along_axis(values, np.take_along_axis(order, indexes, 0), 0).T


def _draws(units: int) -> tuple[Array, Array]:
    if units > EXACT_UNITS:
        drawn = default_rng(0).multinomial(units, np.full(units, 1 / units), RESAMPLES)
        return drawn.astype(float), np.full(RESAMPLES, 1 / RESAMPLES)
    combinations = itertools.combinations_with_replacement(range(units), units)
    samples = np.array(
        [np.bincount(sample, minlength=units) for sample in combinations], dtype=float
    )
    ways = math.factorial(units) / factorial(samples).prod(axis=1)
    return samples, ways / units**units


def permutation_p(differences: Rows, resamples: int = RESAMPLES) -> Array:
    """Return two-sided p-values of paired permutation tests, which flip the sign of each unit.

    Args:
        differences: (tests, units).
        resamples: if there are at most so many flips (13 units), all are enumerated; otherwise so
            many are drawn, and the observed signs count as one of them, so that p is never zero.
    """
    values = np.asarray(differences, dtype=float).round(DIGITS)
    if not values.size:
        return np.empty(0)
    units = values.shape[1]
    exact = 2**units <= resamples
    flips = (
        (np.arange(2**units)[:, None] >> np.arange(units)) & 1
        if exact
        else default_rng(0).integers(2, size=(resamples, units))
    )
    signs = 1.0 - 2.0 * flips
    parts = []
    step = 1 + MAX_NUMBERS // len(signs)
    for start in range(0, len(values), step):
        part = values[start : start + step]
        observed = np.abs(part.sum(axis=1))
        # Sums of the same numbers in another order may differ in their last bits.
        sums = np.abs(signs @ part.T)
        parts.append(np.count_nonzero(sums >= observed - 1e-9 * np.abs(part).sum(axis=1), axis=0))
    reached = np.concatenate(parts)
    return reached / len(signs) if exact else (reached + 1) / (len(signs) + 1)


def wilcoxon_p(differences: Rows) -> Array:
    """Return two-sided p-values of Wilcoxon's signed-rank tests, with ties.

    It is the permutation test over signed ranks, and exact where that is. Units without a
    difference are left out; tied differences get their mean rank.

    Args:
        differences: (tests, units).
    """
    rounded = np.asarray(differences, dtype=float).round(DIGITS)
    if not rounded.size:
        return np.empty(0)
    ranks = pd.DataFrame(np.abs(rounded)).rank(axis=1).to_numpy()
    zeros = (rounded == 0).sum(axis=1, keepdims=True)  # they have the lowest ranks
    return permutation_p(np.sign(rounded) * (ranks - zeros))


def smallest_p(units: int) -> float | None:
    """Return the smallest two-sided p that flipping the signs of so many units can give.

    0.0625 for five units; drawn flips give at least 0.0001. None for a single unit.
    """
    return max(2.0 ** (1 - units), 1 / (RESAMPLES + 1)) if units > 1 else None


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for their number; None, a test that was not made, stays None.

    Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    known = sorted((p, index) for index, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = corrected[index] = max(highest, min(1.0, (len(known) - rank) * p))
    return corrected


def significance_stars(units: int, p: float | None) -> str:
    """Return `*`, `**` or `***` for a corrected p below 0.05, 0.01, 0.001; none below six units."""
    if units < MIN_UNITS_FOR_STARS or p is None:
        return ""
    return "*" * sum(p < level for level in SIGNIFICANCE_LEVELS)


def by_length(statistic: Callable[[Array], Array], rows: Sequence[Any]) -> list[Any]:
    """Return a statistic of each row of units, that of equally long rows at once.

    Args:
        statistic: `intervals`, or a test.
        rows: the units of each; rows may differ in their length.

    Returns:
        a number or tuple for each row; None for fewer than two units.
    """
    values: list[Any] = [None] * len(rows)
    lengths: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        lengths.setdefault(len(row), []).append(index)
    for length, indexes in lengths.items():
        if length > 1:
            chosen = statistic(np.array([rows[index] for index in indexes], dtype=float)).tolist()
            for index, value in zip(indexes, chosen, strict=True):
                values[index] = tuple(value) if isinstance(value, list) else value
    return values
