"""The statistics against published examples, SciPy, properties and simulations."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.report.statistics import (
    components,
    holm,
    intervals,
    min_units,
    permutation_p,
    smallest_p,
    wilcoxon_p,
    wilson,
    with_test_rows,
)

# Darwin's cross- and self-fertilised maize, differences in eighths of an inch (Fisher, The Design
# of Experiments, 1935, section 17).
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
# Yield of dyestuff from six batches, five each (Davies, Statistical Methods in Research and
# Production, 1947; Box and Tiao, 1973, section 5.1.2).
DYESTUFF = [
    [1545, 1440, 1440, 1520, 1580],
    [1540, 1555, 1490, 1560, 1495],
    [1595, 1550, 1605, 1510, 1560],
    [1445, 1440, 1595, 1465, 1545],
    [1595, 1630, 1515, 1635, 1625],
    [1520, 1455, 1450, 1480, 1445],
]
# Whole numbers: sums of fractions that should be equal differ in their last bit for SciPy.
FIGURES = st.lists(st.integers(-1000, 1000).map(float), min_size=2, max_size=9)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Published examples ---------------------------------------------------------------------------


def test_fishers_permutation_test_of_darwins_maize() -> None:
    """Of 32,768 sign patterns 1,726 have a sum as far from 0 (Fisher 1935, section 21)."""
    assert permutation_p([DARWIN], resamples=2**15)[0] == 1726 / 32768


def test_wilcoxons_test_of_darwins_maize() -> None:
    """W is 24 and p 0.041 (the example of R's and SciPy's documentation)."""
    assert scipy.stats.wilcoxon(DARWIN).statistic == 24
    assert wilcoxon_p([DARWIN])[0] == pytest.approx(
        0.041260, abs=0.004
    )  # 15 pairs: drawn, not enumerated
    assert wilcoxon_p([DARWIN[:12]])[0] == pytest.approx(scipy.stats.wilcoxon(DARWIN[:12]).pvalue)


def test_variance_components_of_the_dyestuff() -> None:
    """Between batches 1764.05, within them 2451.25.

    Box and Tiao, Bayesian Inference in Statistical Analysis, 1973, table 5.1.2.
    """
    values = np.array(DYESTUFF, dtype=float).ravel()
    between, within = components(values, np.repeat(np.arange(6), 5), np.zeros(6, dtype=int))
    assert between[0] ** 2 == pytest.approx(1764.05)
    assert within[0] ** 2 == pytest.approx(2451.25)


def test_holms_correction() -> None:
    """The worked example of Wikipedia's article on the method."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_wilsons_interval_is_scipys_and_74_rows_are_four_and_a_half_points() -> None:
    for right, rows in ((71, 74), (74, 74), (0, 5), (500, 1000)):
        expected = scipy.stats.binomtest(right, rows).proportion_ci(method="wilson")
        assert wilson(np.array([right / rows]), np.array([rows]))[0] == pytest.approx(expected)
    low, high = wilson(np.array([0.96]), np.array([74]))[0]
    assert (high - low) / 2 == pytest.approx(0.047, abs=0.003)


# SciPy ----------------------------------------------------------------------------------------


@given(FIGURES)
def test_the_permutation_test_is_scipys(differences: list[float]) -> None:
    expected = scipy.stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=2**13
    ).pvalue
    assert permutation_p([differences])[0] == pytest.approx(expected)


@settings(deadline=None, max_examples=25)  # SciPy's permutations take their time
@given(FIGURES.filter(any))
def test_wilcoxons_test_is_scipys_with_ties_and_zeros(differences: list[float]) -> None:
    expected = scipy.stats.wilcoxon(
        differences, method=scipy.stats.PermutationMethod(n_resamples=2**13)
    ).pvalue
    assert wilcoxon_p([differences])[0] == pytest.approx(expected)


def test_many_tests_at_once_equal_single_ones() -> None:
    differences = generator().normal(size=(7, 6))
    assert permutation_p(differences).tolist() == [permutation_p([row])[0] for row in differences]
    assert wilcoxon_p(differences).tolist() == [wilcoxon_p([row])[0] for row in differences]
    assert intervals(differences) == pytest.approx(
        np.array([intervals([row])[0] for row in differences])
    )


@pytest.mark.parametrize("units", [12, 20])
def test_the_interval_is_scipys_percentile_interval_at_its_wider_level(units: int) -> None:
    values = generator(units).normal(size=units)
    tail = scipy.stats.norm.cdf(
        -math.sqrt(units / (units - 1)) * scipy.stats.t.ppf(0.975, units - 1)
    )
    found = scipy.stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=1 - 2 * tail,
        n_resamples=20_000,
        method="percentile",
        rng=1,
    )
    assert intervals([values])[0] == pytest.approx(found.confidence_interval, abs=0.05)


# Properties -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "least"), [(1, None), (2, 0.5), (5, 0.0625), (6, 0.03125), (16, 0.0001)]
)
def test_the_smallest_p_is_that_of_differences_of_one_sign(units: int, least: float | None) -> None:
    assert smallest_p(units) == least
    if least is not None:
        assert permutation_p([[0.1 + unit for unit in range(units)]])[0] == least
        assert wilcoxon_p([[0.1 + unit for unit in range(units)]])[0] == least


@given(FIGURES)
def test_p_is_one_without_a_difference_and_symmetric(differences: list[float]) -> None:
    p = permutation_p([differences, [-value for value in differences], [0.0] * len(differences)])
    assert p[0] == p[1] >= (smallest_p(len(differences)) or 0)
    assert p[2] == 1


@given(st.lists(st.floats(0, 1), max_size=8))
def test_corrected_values_keep_their_order_and_are_no_smaller(values: list[float]) -> None:
    corrected = holm(values)
    assert all(1 >= after >= before for before, after in zip(values, corrected, strict=True))
    assert [corrected[i] for i in sorted(range(len(values)), key=values.__getitem__)] == sorted(
        corrected
    )


def test_an_interval_over_trials_is_that_of_its_seeds() -> None:
    sums, counts = np.array([[1.0, 1.4, 0.5]]), np.array([[2, 2, 1]])
    low, high = intervals(sums, counts)[0]
    assert low == pytest.approx(0.5)  # of three seeds the interval is their range
    assert high == pytest.approx(0.7)
    assert np.isnan(intervals([[0.5]])).all()


def test_every_bootstrap_sample_is_counted_once() -> None:
    """All 5^5 samples, one by one, give the interval that the weighted 126 give."""
    values = generator(3).normal(size=5)
    tail = scipy.stats.norm.cdf(-math.sqrt(5 / 4) * scipy.stats.t.ppf(0.975, 4))
    means = np.sort(
        [np.mean(values[list(sample)]) for sample in itertools.product(range(5), repeat=5)]
    )
    expected = (
        means[math.ceil(tail * len(means)) - 1],
        means[math.ceil((1 - tail) * len(means)) - 1],
    )
    assert intervals([values])[0] == pytest.approx(expected)


def test_components_that_cannot_be_separated_are_nan() -> None:
    between, within = components(
        np.array([0.5, 0.6, 0.7, 0.8]), np.array([0, 1, 2, 2]), np.array([0, 0, 1])
    )
    assert np.isnan([between[0], within[0], between[1]]).all()  # one trial a seed; one seed
    assert within[1] == pytest.approx(sample_std([0.7, 0.8]))


def sample_std(values: list[float]) -> float:
    return float(np.std(values, ddof=1))


# Simulations ----------------------------------------------------------------------------------


def simulated(
    runs: int, seeds: int, trials: int, effect: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return accuracies of two methods (runs, seeds, trials).

    Trials share subsamples, and a subsample suits one method more than the other.
    """
    shared = rng.normal(0.7, 0.05, (runs, seeds, 1))
    suits = [rng.normal(0, 0.03, (runs, seeds, 1)) for _ in range(2)]
    a, b = (shared + suit + rng.normal(0, 0.01, (runs, seeds, trials)) for suit in suits)
    return a + effect, b


def test_the_false_positive_rate_is_the_nominal_one_although_subsamples_differ() -> None:
    """Without an effect p <= 0.05 in a fraction of 0.047: 12 of 256 sign flips of eight seeds.

    With trials as units it would be in more than 0.4.
    """
    a, b = simulated(4000, seeds=8, trials=10, effect=0.0, rng=generator(1))
    p = permutation_p((a - b).mean(axis=2))
    reachable = 12 / 256  # the level just below 0.05 that eight signs can reach
    alarms = (p <= 0.05).mean()
    assert alarms == pytest.approx(
        reachable, abs=4 * math.sqrt(reachable / 4000)
    )  # odds of failing by chance: 1 in 16,000
    assert (wilcoxon_p((a - b).mean(axis=2)) <= 0.05).mean() < 0.065
    naive = scipy.stats.ttest_rel(a.reshape(4000, -1), b.reshape(4000, -1), axis=1).pvalue
    assert (naive <= 0.05).mean() > 0.4  # what this design is there to prevent


def test_holm_controls_the_family_wise_error_rate() -> None:
    a, b = simulated(6000, seeds=10, trials=3, effect=0.0, rng=generator(2))
    p = permutation_p((a - b).mean(axis=2)).reshape(1000, 6)
    assert np.mean([min(holm(row)) <= 0.05 for row in p.tolist()]) < 0.05 + 4 * math.sqrt(
        0.05 * 0.95 / 1000
    )
    assert np.mean(p.min(axis=1) <= 0.05) > 0.2  # without correction


def test_a_known_effect_is_detected() -> None:
    a, b = simulated(500, seeds=10, trials=5, effect=0.06, rng=generator(3))
    assert (permutation_p((a - b).mean(axis=2)) <= 0.05).mean() > 0.9


@pytest.mark.parametrize(("seeds", "least"), [(5, 0.91), (10, 0.93), (20, 0.93)])
def test_intervals_contain_the_true_mean_about_as_often_as_they_say(
    seeds: int, least: float
) -> None:
    """95 % intervals of a mean over correlated trials.

    The plain percentile bootstrap of five seeds contains it in 84 % of cases.
    """
    a, _ = simulated(1500, seeds, trials=4, effect=0.0, rng=generator(seeds))
    limits = intervals(a.sum(axis=2), np.full((1500, seeds), 4))
    assert least < ((limits[:, 0] < 0.7) & (limits[:, 1] > 0.7)).mean() < 0.975


def test_the_parts_of_the_standard_deviation_are_unbiased() -> None:
    a, _ = simulated(400, seeds=10, trials=6, effect=0.0, rng=generator(5))
    units = np.arange(4000)
    between, within = components(a.reshape(-1), np.repeat(units, 6), units // 10)
    assert np.mean(within**2) == pytest.approx(0.01**2, rel=0.05)
    assert np.mean(between**2) == pytest.approx(0.05**2 + 0.03**2, rel=0.1)


# Sampling of test rows ------------------------------------------------------------------------


@given(
    st.floats(0, 1), st.integers(1, 5_000), st.floats(0, 0.3), st.floats(0, 0.3),
)  # fmt: skip
def test_test_rows_only_widen_an_interval_and_more_of_them_less(
    mean: float, rows: int, below: float, above: float
) -> None:
    limits = np.array([[max(0, mean - below), min(1, mean + above)]])
    few, more, unknown = (
        with_test_rows(np.array([mean]), limits, np.array([count]))[0]
        for count in (rows, 4 * rows, math.nan)
    )
    assert unknown == pytest.approx(limits[0])
    assert 0 <= few[0] <= more[0] + 1e-9 <= limits[0][0] + 2e-9
    assert limits[0][1] - 2e-9 <= more[1] - 1e-9 <= few[1] <= 1
    assert few[1] - few[0] > 0


def test_equal_data_seeds_leave_wilsons_interval_and_nothing_leaves_none() -> None:
    mean, rows = np.array([71 / 74]), np.array([74.0])
    for limits in (np.array([[71 / 74, 71 / 74]]), np.full((1, 2), np.nan)):
        assert with_test_rows(mean, limits, rows) == pytest.approx(wilson(mean, rows))
    nothing = with_test_rows(mean, np.full((1, 2), np.nan), np.array([np.nan]))
    assert np.isnan(nothing).all()


def test_folds_count_the_sampling_of_test_rows_once() -> None:
    mean, rows, own = np.array([0.8]), np.array([100.0]), np.array([True])
    wide, narrow = np.array([[0.6, 0.95]]), np.array([[0.79, 0.81]])
    assert with_test_rows(mean, wide, rows, own) == pytest.approx(wide)
    assert with_test_rows(mean, narrow, rows, own) == pytest.approx(wilson(mean, rows))
    shared = with_test_rows(mean, wide, rows, ~own)
    assert shared[0, 0] < 0.6 < 0.95 < shared[0, 1]


def test_the_interval_contains_the_accuracy_on_all_rows_in_95_of_100_cases() -> None:
    """Simulated: rows differ in their difficulty, data seeds in their strength; all share rows."""
    rng, runs, seeds, rows, level = generator(5), 1_500, 6, 74, 0.9
    difficulty = rng.beta(level, 1 - level, (runs, 1, rows))
    strength = rng.normal(0, 0.02, (runs, seeds, 1))
    accuracy = (rng.random((runs, seeds, rows)) < difficulty + strength).mean(axis=2)
    means = accuracy.mean(axis=1)
    combined = with_test_rows(means, intervals(accuracy), np.full(runs, float(rows)))
    covered = ((combined[:, 0] <= level) & (level <= combined[:, 1])).mean()
    over_seeds = intervals(accuracy)
    covered_before = ((over_seeds[:, 0] <= level) & (level <= over_seeds[:, 1])).mean()
    assert covered_before < 0.8
    assert 0.94 <= covered <= 0.995


@pytest.mark.parametrize("tests", [1, 2, 3, 6, 100])
def test_min_units_is_the_first_number_that_can_pass(tests: int) -> None:
    units = min_units(tests)
    assert (smallest_p(units) or 1) * tests < 0.05 <= (smallest_p(units - 1) or 1) * tests
