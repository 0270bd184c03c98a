"""Equation (1), its temperature, and contextual calibration."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import settings as quick
from hypothesis import strategies as st

from gpt3mix_cli.method.labels import (
    CONTENT_FREE,
    hard_label,
    match_prior,
    soft_label,
    soft_labels,
)

TREC = ["abbreviation", "location", "description", "numeric", "entity", "human"]

logprobs = st.lists(st.floats(-1500, 0), min_size=2, max_size=6)


@quick(max_examples=200, deadline=None)
@given(logprobs)
def test_soft_label_is_the_softmax(values: list[float]) -> None:
    """Against exact arithmetic on shifted values; six digits are kept."""
    names = TREC[: len(values)]
    probs, mass = soft_label(names, values)
    assert list(probs) == names
    assert sum(probs.values()) == pytest.approx(1, abs=1e-5)
    for name, value in zip(names, values, strict=True):
        assert probs[name] == pytest.approx(
            1 / math.fsum(math.exp(min(other - value, 700)) for other in values), abs=1e-6
        )
    assert mass == pytest.approx(
        min(math.fsum(math.exp(value) for value in values), 1), rel=1e-9, abs=1e-300
    )
    assert probs[names[values.index(max(values))]] == max(probs.values())


def test_soft_label_by_hand() -> None:
    probs, mass = soft_label(["pos", "neg"], [math.log(0.6), math.log(0.2)])
    assert probs == {"pos": 0.75, "neg": 0.25}
    assert mass == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-1000.0, -1000.0], [0.5, 0.5]),
        ([-1000.0, -1001.0], [0.731059, 0.268941]),
        ([-0.0, -1000.0], [1, 0]),
        ([-1e300, -1.0], [0, 1]),
    ],
)
def test_extreme_values_neither_overflow_nor_vanish(
    values: list[float], expected: list[float]
) -> None:
    probs, mass = soft_label(["a", "b"], values)
    assert list(probs.values()) == expected
    assert 0 <= mass <= 1


# Temperature and calibration ----------------------------------------------------------------------


@quick(max_examples=200, deadline=None)
@given(logprobs, st.floats(0.05, 20), st.floats(0.05, 20))
def test_temperature_flattens_and_keeps_order_and_mass(
    values: list[float], low: float, high: float
) -> None:
    low, high = sorted((low, high))
    (cold, mass), (hot, same) = (
        soft_label(TREC[: len(values)], values, temperature) for temperature in (low, high)
    )
    assert mass == same
    assert max(hot.values()) <= max(cold.values()) + 1e-6
    for probs in (cold, hot):
        ranked = sorted(zip(values, probs.values(), strict=True))
        assert all(below[1] <= above[1] for below, above in itertools.pairwise(ranked))


def test_temperature_by_hand() -> None:
    """At 2 the odds 9 : 1 become 3 : 1; at 0.5 81 : 1."""
    values = [math.log(0.9), math.log(0.1)]
    assert soft_label(["pos", "neg"], values, 2)[0] == {"pos": 0.75, "neg": 0.25}
    assert soft_label(["pos", "neg"], values, 0.5)[0] == {"pos": 0.987805, "neg": 0.012195}


@quick(max_examples=200, deadline=None)
@given(
    st.data(),
    st.lists(st.floats(-40, 0), min_size=2, max_size=6),
    st.integers(1, 3),
    st.floats(-20, 20),
)
def test_calibration_divides_by_the_mean_probability_without_content(
    data: st.DataObject, values: list[float], texts: int, shift: float
) -> None:
    """Zhao et al.: p / p_cf, made to sum to one; how much mass the labels have without content does
    not matter."""
    row = st.lists(st.floats(-40, 0), min_size=len(values), max_size=len(values))
    free = data.draw(st.lists(row, min_size=texts, max_size=texts))
    names = TREC[: len(values)]
    probs, mass = soft_label(names, values, 1.0, free)
    prior = [
        math.fsum(math.exp(one[place]) for one in free) / texts for place in range(len(values))
    ]
    ratios = [math.exp(value) / usual for value, usual in zip(values, prior, strict=True)]
    assert list(probs.values()) == pytest.approx(
        [ratio / math.fsum(ratios) for ratio in ratios], abs=2e-6
    )
    assert mass == soft_label(names, values)[1]
    assert soft_label(names, values, 1.0, [[value + shift for value in one] for one in free])[
        0
    ] == pytest.approx(probs, abs=2e-6)


@quick(max_examples=100, deadline=None)
@given(logprobs)
def test_a_text_that_says_no_more_than_none_is_undecided(values: list[float]) -> None:
    probs, _ = soft_label(TREC[: len(values)], values, 0.7, [values] * len(CONTENT_FREE))
    assert set(probs.values()) == {round(1 / len(values), 6)}


def test_calibration_by_hand() -> None:
    """An LM that says pos twice as often whatever it reads: 0.6 : 0.4 is 3 : 4 in truth; at
    temperature 0.5, 9 : 16."""
    values, free = (
        [math.log(0.6), math.log(0.4)],
        [[math.log(0.3), math.log(0.1)], [math.log(0.1), math.log(0.1)]],
    )
    assert soft_label(["pos", "neg"], values, 1.0, free)[0] == {"pos": 0.428571, "neg": 0.571429}
    assert soft_label(["pos", "neg"], values, 0.5, free)[0] == {"pos": 0.36, "neg": 0.64}


def test_a_hard_label_is_one_of_the_classes() -> None:
    assert hard_label(["a", "b", "c"], "b") == {"a": 0.0, "b": 1.0, "c": 0.0}


def test_upper_bounds_are_no_mass_above_one() -> None:
    """Each label that a server leaves out may have all the rest, but not all of them together."""
    assert soft_label(TREC, [math.log(0.7), *[math.log(0.3)] * (len(TREC) - 1)])[1] == 1.0


# Matched to a class mix ---------------------------------------------------------------------------


def matched_means(logits: list[list[float]], prior: list[float]) -> list[float]:
    probabilities = soft_labels(logits, match_prior(logits, prior))
    return [sum(column) / len(logits) for column in zip(*probabilities, strict=True)]


sets = st.integers(2, 4).flatmap(
    lambda classes: st.tuples(
        st.lists(
            st.lists(st.floats(-30, 0), min_size=classes, max_size=classes), min_size=1, max_size=30
        ),
        st.lists(st.floats(0.05, 1), min_size=classes, max_size=classes),
    )
)


@quick(max_examples=150, deadline=None)
@given(sets)
def test_the_mean_soft_label_becomes_the_prior(
    drawn: tuple[list[list[float]], list[float]],
) -> None:
    """Labels that are all but certain converge slowly; 0.002 moves no label."""
    logits, shares = drawn
    prior = [share / sum(shares) for share in shares]
    assert matched_means(logits, prior) == pytest.approx(prior, abs=2e-3)


@quick(max_examples=100, deadline=None)
@given(sets)
def test_matching_keeps_the_order_of_the_rows_by_the_odds_of_two_classes(
    drawn: tuple[list[list[float]], list[float]],
) -> None:
    logits, shares = drawn
    offsets = match_prior(logits, shares)
    moved = [[a + b for a, b in zip(row, offsets, strict=True)] for row in logits]
    by_odds = sorted(range(len(logits)), key=lambda index: logits[index][0] - logits[index][1])
    odds = [moved[index][0] - moved[index][1] for index in by_odds]
    assert all(b - a >= -1e-9 for a, b in itertools.pairwise(odds))


def test_what_matches_already_is_left_alone() -> None:
    logits = [[0.0, -2.0], [-2.0, 0.0]]
    assert match_prior(logits, [0.5, 0.5]) == [0.0, 0.0]


def test_a_class_without_mass_is_left_out_and_the_others_match_in_proportion() -> None:
    logits = [[0.0, -1.0, -math.inf], [0.0, -3.0, -math.inf]]
    offsets = match_prior(logits, [0.25, 0.25, 0.5])
    assert offsets[2] == 0
    assert all(map(math.isfinite, offsets))
    assert matched_means(logits, [0.25, 0.25, 0.5]) == pytest.approx([0.5, 0.5, 0], abs=1e-5)


def test_a_class_whose_mean_rounds_to_nothing_is_matched_too() -> None:
    logits = [[0.0, -900.0]] * 3 + [[0.0, -950.0]]
    assert matched_means(logits, [0.5, 0.5]) == pytest.approx([0.5, 0.5], abs=1e-4)


def test_a_class_that_no_real_row_has_keeps_its_labels() -> None:
    logits = [[0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]
    offsets = match_prior(logits, [0.5, 0.5, 0.0])
    assert offsets[2] == 0
    means = matched_means(logits, [0.5, 0.5, 0.0])
    assert means[0] == pytest.approx(means[1], abs=1e-5)
    assert means[2] > 0.2
