"""The statistics of a report: many cells or comparisons at once, the data seed always being the unit.

Trials that share a subsample are no independent witnesses, so they are averaged before anything is tested or resampled.
Everything is exact where the design is small, and seeded where it is not. SciPy's bootstrap, permutation_test and
wilcoxon give the same figures, which tests show, but one test at a time draws its own resamples: for the thousands of a
large grid it takes minutes, the matrix products here a second.
"""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
    Rows = Array | Sequence[Sequence[float]]

LEVEL = 0.95  # of all intervals
RESAMPLES = 9_999  # where all of them would be more
EXACT_UNITS = 8  # up to here all 6,435 bootstrap samples are enumerated
AT_ONCE = 1_000_000  # figures held at a time: 8 MB, of which a processor's cache holds most
DIGITS = 9  # differences are rounded to these before they are ranked: accuracies have six


def components(values: "Array", unit_of: "Array", cell_of_unit: "Array") -> "tuple[Array, Array]":
    """Return the standard deviations between the units of each cell and within them; NaN where they cannot be told apart.

    The ANOVA estimators of a one-way random model with unequal groups (Searle, Casella and McCulloch, Variance Components,
    1992, section 3.6); a negative variance between units counts as none.

    Args:
        values: one a trial.
        unit_of: the unit of each trial, a data seed of a cell, from 0.
        cell_of_unit: the cell of each unit, from 0; no unit is empty.
    """
    import numpy as np

    in_unit = np.bincount(unit_of)
    means = np.bincount(unit_of, values) / in_unit
    within = np.bincount(cell_of_unit, np.bincount(unit_of, (values - means[unit_of]) ** 2))
    units = np.bincount(cell_of_unit)
    trials = np.bincount(cell_of_unit, in_unit)
    mean = np.bincount(cell_of_unit, means * in_unit) / trials
    between = np.bincount(cell_of_unit, in_unit * (means - mean[cell_of_unit]) ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_within = np.where(trials > units, within / (trials - units), np.nan)
        size = (trials - np.bincount(cell_of_unit, in_unit**2.0) / trials) / (units - 1)
        variance = np.maximum(0, (between / (units - 1) - mean_within) / size)
        return np.sqrt(np.where(units > 1, variance, np.nan)), np.sqrt(mean_within)


def intervals(sums: "Rows", counts: "Rows | None" = None) -> "Array":
    """Return the 95 % bootstrap intervals of means whose units (data seeds) are drawn with replacement.

    The expanded percentile interval (Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician
    69, 2015, section 5.1): the plain one is far too narrow for five units. With five it is all but the range of
    the units, with fewer it cannot be wider than that and holds the true mean in less than 95 % of cases.

    Args:
        sums: (cells, units), the sum over the trials of a unit.
        counts: (cells, units), how many trials that are; one each if it is not given.

    Returns:
        float array (cells, 2); NaN for a single unit.
    """
    import numpy as np
    from scipy.special import ndtr, stdtrit

    sums = np.asarray(sums, dtype=float)
    counts = np.ones_like(sums) if counts is None else np.asarray(counts, dtype=float)
    units = sums.shape[1]
    if units < 2:
        return np.full((len(sums), 2), np.nan)
    drawn, weights = _draws(units)
    tail = float(ndtr(-math.sqrt(units / (units - 1)) * stdtrit(units - 1, (1 + LEVEL) / 2)))
    found = []
    step = 1 + AT_ONCE // len(drawn)
    for start in range(0, len(sums), step):
        means = (drawn @ sums[start : start + step].T) / (drawn @ counts[start : start + step].T)
        found.append(_quantiles(means, weights, (tail, 1 - tail)))
    return np.concatenate(found)


def _quantiles(values: "Array", weights: "Array", shares: tuple[float, float]) -> "Array":
    """Return the smallest value of each column below or at which these shares of the weight lie, (columns, shares)."""
    import numpy as np

    if len(values) == RESAMPLES:  # all weigh the same
        ranks = [min(RESAMPLES - 1, math.ceil(share * RESAMPLES - 1e-9) - 1) for share in shares]
        return np.asarray(np.partition(values, ranks, axis=0)[ranks].T)
    order = values.argsort(0)
    reached = np.cumsum(weights[order], axis=0)
    places = np.stack([np.argmax(reached >= share - 1e-12, axis=0) for share in shares])
    return np.take_along_axis(values, np.take_along_axis(order, places, 0), 0).T


def _draws(units: int) -> "tuple[Array, Array]":
    """Return how often each unit is in a bootstrap sample, (samples, units), and the probability of each sample."""
    import numpy as np
    from numpy.random import default_rng

    if units > EXACT_UNITS:
        drawn = default_rng(0).multinomial(units, np.full(units, 1 / units), RESAMPLES)
        return drawn.astype(float), np.full(RESAMPLES, 1 / RESAMPLES)
    samples = np.array(
        [
            np.bincount(chosen, minlength=units)
            for chosen in itertools.combinations_with_replacement(range(units), units)
        ]
    )
    ways = [
        math.factorial(units) / math.prod(map(math.factorial, sample))
        for sample in samples.tolist()
    ]
    return samples.astype(float), np.array(ways) / units**units


def permutation_p(differences: "Rows", resamples: int = RESAMPLES) -> "Array":
    """Return two-sided p-values of paired permutation tests: the sign of each unit's difference is flipped.

    Args:
        differences: (tests, units).
        resamples: up to so many flips all are made (13 units and fewer), beyond that so many are drawn and what is observed
            counts as one of them, so that p is never zero.
    """
    import numpy as np
    from numpy.random import default_rng

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
    found = []
    step = 1 + AT_ONCE // len(signs)
    for start in range(0, len(values), step):
        part = values[start : start + step]
        observed = np.abs(part.sum(axis=1))
        # Sums of the same numbers in another order may differ in their last bits.
        sums = np.abs(signs @ part.T)
        found.append(np.count_nonzero(sums >= observed - 1e-9 * np.abs(part).sum(axis=1), axis=0))
    reached = np.concatenate(found)
    return reached / len(signs) if exact else (reached + 1) / (len(signs) + 1)


def wilcoxon_p(differences: "Rows") -> "Array":
    """Return two-sided p-values of Wilcoxon's signed-rank tests, with ties too; units without a difference are left out.

    It is the permutation test over signed ranks, exact as that is; tied differences share their mean rank.

    Args:
        differences: (tests, units).
    """
    import numpy as np

    rounded = np.asarray(differences, dtype=float).round(DIGITS)
    if not rounded.size:
        return np.empty(0)
    sizes = np.abs(rounded)
    order = np.sort(sizes, axis=1)
    ranks = [
        (np.searchsorted(line, each) + np.searchsorted(line, each, "right") + 1) / 2
        for line, each in zip(order, sizes, strict=True)
    ]
    none = (rounded == 0).sum(axis=1, keepdims=True)  # they have the lowest ranks
    return permutation_p(np.sign(rounded) * (np.array(ranks) - none))


def smallest_p(units: int) -> float | None:
    """Return the least two-sided p that flipping the signs of so many units can give: 0.0625 for five; drawn flips give no less than 0.0001."""
    return max(2.0 ** (1 - units), 1 / (RESAMPLES + 1)) if units > 1 else None


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979)."""
    corrected = [0.0] * len(values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected
