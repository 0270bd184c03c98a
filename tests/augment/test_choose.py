"""Choosing the examples of a prompt."""

import math
from collections import Counter
from random import Random
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.augment.choose import choose
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.records import Example

How = Literal["uniform", "balanced"]
quick = settings(max_examples=80, deadline=None)


def rows(labels: str) -> list[Example]:
    return [Example(id=f"r{i}", text="same text", label=label) for i, label in enumerate(labels)]


pools = st.text("abc", min_size=1, max_size=12).map(rows)
hows = st.sampled_from(["uniform", "balanced"])


@quick
@given(pools, hows, st.randoms(use_true_random=False), st.data())
def test_exactly_k_distinct_rows(pool: list[Example], how: How, rng: Random, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(pool)))
    chosen = choose(pool, k, how, rng)
    assert len({row.id for row in chosen}) == len(chosen) == k
    assert all(row in pool for row in chosen)


@quick
@given(pools, hows, st.integers(0, 2**63))
def test_k_equal_to_n_takes_all_in_some_order(pool: list[Example], how: How, seed: int) -> None:
    before = list(pool)
    assert sorted(row.id for row in choose(pool, len(pool), how, Random(seed))) == sorted(row.id for row in pool)
    assert pool == before, "the caller's list stays as it was"


@pytest.mark.parametrize("how", ["uniform", "balanced"])
def test_more_than_there_are_names_both_numbers(how: How) -> None:
    with pytest.raises(UserError, match=r"(?s)13.*\b12\b") as caught:
        choose(rows("ab" * 6), 13, how, Random(0))
    assert caught.value.hint


@pytest.mark.parametrize("how", ["uniform", "balanced"])
def test_the_same_generator_chooses_the_same(how: How) -> None:
    pool = rows("ab" * 10)
    seen = {tuple(row.id for row in choose(pool, 3, how, Random(seed))) for seed in range(20)}
    assert len(seen) > 10
    assert choose(pool, 3, how, Random(5)) == choose(pool, 3, how, Random(5))


@quick
@given(pools, st.integers(0, 2**63), st.data())
def test_balanced_takes_the_classes_in_turn(pool: list[Example], seed: int, data: st.DataObject) -> None:
    """No class is two ahead of another that still has rows."""
    k = data.draw(st.integers(1, len(pool)))
    there = Counter(row.label for row in pool)
    chosen = Counter(row.label for row in choose(pool, k, "balanced", Random(seed)))
    for label, count in there.items():
        if chosen[label] < count:
            assert max(chosen.values()) <= chosen[label] + 1


def test_balanced_does_not_favour_a_class_or_a_place() -> None:
    """k = 1 of 3 classes, 18 : 9 : 3 rows; and k = 2: which class stands first.

    Within 5 standard deviations: a right chooser fails once in 170,000 choices of seeds.
    """
    pool, n = rows("a" * 18 + "b" * 9 + "c" * 3), 3000
    first = Counter(choose(pool, 1, "balanced", Random(seed))[0].label for seed in range(n))
    two = rows("a" * 18 + "b" * 2)
    leading = Counter(choose(two, 2, "balanced", Random(seed))[0].label for seed in range(n))
    for count, p in [*((first[label], 1 / 3) for label in "abc"), (leading["a"], 1 / 2)]:
        assert abs(count - n * p) <= 5 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("how", ["uniform", "balanced"])
def test_every_row_is_as_likely_in_every_place(how: How) -> None:
    """Chi-square of 5 rows in 2 places over 4,000 draws (balanced: 3 + 3 rows).

    Each place alone is a uniform draw: chi-square with n - 1 degrees of freedom passes 38 once in 10 million for 4, 1.5 million for 5.
    """
    pool, n = rows("aaaaa" if how == "uniform" else "aaabbb"), 4000
    draws = [choose(pool, 2, how, Random(seed)) for seed in range(n)]
    for place in range(2):
        counts = Counter(draw[place].id for draw in draws)
        expected = n / len(pool)
        assert sum((counts[row.id] - expected) ** 2 / expected for row in pool) < 38


def test_uniform_draws_pairs_uniformly() -> None:
    """The 12 ordered pairs of 4 rows, whatever their classes: chi-square with 11 degrees of freedom passes 60 once in 100 million."""
    pool, n = rows("aaab"), 6000
    counts = Counter(tuple(row.id for row in choose(pool, 2, "uniform", Random(seed))) for seed in range(n))
    assert len(counts) == 12
    assert sum((count - n / 12) ** 2 / (n / 12) for count in counts.values()) < 60
