"""The figures of a synthetic set, against hand counts and the properties that make them worth
reading."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.augment.statistics import (
    MAX_SAMPLED_TEXTS,
    SELF_BLEU_TEXTS,
    Statistics,
    describe_counts,
    distinct,
    entropy,
    has_majority_label,
    self_bleu,
)
from gpt3mix_cli.records import Augmented, Example

REAL = [
    Example(id="p0", text="A fine film.", label="pos"),
    Example(id="p1", text="Good!", label="pos"),
    Example(id="n0", text="So very bad, so bad", label="neg"),
]
few = settings(max_examples=60, deadline=None)


def row(text: str, pos: float = 1.0, parents: list[str] | None = None, **fields: Any) -> Augmented:
    label = "pos" if pos >= 0.5 else "neg"
    given: dict[str, Any] = {"label_source": "exact", "label_mass": 0.5, **fields}
    return Augmented(
        id=text,
        text=text,
        label=label,
        probs={"pos": pos, "neg": 1 - pos},
        method="gpt3mix",
        parents=parents or ["p0", "p1"],
        **given,
    )


def statistics(rows: list[Augmented], examples: list[Example]) -> dict[str, Any]:
    collected = Statistics(examples)
    for one in rows:
        collected.add(one)
    return collected.summary()


def test_the_figures_of_a_small_set() -> None:
    rows = [
        row("a b a b", 1.0),
        row("c d", 0.5, label_mass=0.25),
        row("a b", 0.0, ["p0", "n0", "p1"]),
    ]
    assert statistics(rows, REAL) == {
        "classes": {"pos": 2, "neg": 1},
        "mean_probs": {"pos": 0.5, "neg": 0.5},
        "class_mix": {"pos": 0.6667, "neg": 0.3333},
        "entropy_bits": 0.3333,
        "label_mass": {"mean": 0.4167, "min": 0.25},
        "distinct_1": 0.5,  # a b c d of eight
        "distinct_2": 0.6,  # ab ba cd of five
        "self_bleu": self_bleu([["a", "b", "a", "b"], ["c", "d"], ["a", "b"]]),
        "self_bleu_texts": 3,
        "words": {"mean": 2.67, "real": 3.0},
        "texts": 3,
        "parents_majority": 0.6667,
        "parents_compared": 3,
    }


def test_no_rows_have_no_figures() -> None:
    assert statistics([], REAL) == {}
    assert describe_counts(
        {"wanted": 3, "kept": 0, "asked": 4, "rejected": {"unfinished": 4}, "statistics": {}}
    ) == [
        ("rows", "0 of 3 wanted, from 4 attempts"),
        ("rejected", "4 unfinished"),
    ]


def test_of_edited_parents_only_the_text_says_something() -> None:
    """Their labels are their parents', whatever the editor."""
    found = statistics([row("a b c", label_source="parent", label_mass=None)] * 2, REAL)
    assert [name for name, value in found.items() if value is None] == [
        "mean_probs",
        "entropy_bits",
        "label_mass",
        "parents_majority",
    ]
    assert found["classes"] == {"pos": 2, "neg": 0}
    assert [
        name
        for name, _ in describe_counts(
            {
                "wanted": 2,
                "kept": 2,
                "asked": 2,
                "rejected": {},
                "unchanged": 1,
                "statistics": found,
            }
        )
    ] == [
        "rows",
        "classes",
        "diversity",
        "length",
    ]


def test_figures_for_people_name_every_reason_the_most_frequent_first() -> None:
    counts = {
        "wanted": 1,
        "kept": 1,
        "asked": 1504,
        "rejected": {"reject_test_copies": 2, "unfinished": 1500},
        "spare": 1,
        "prompt_tokens": 12000,
        "completion_tokens": 0,
        "shortened": 3,
        "statistics": statistics([row("a b c d")], REAL),
    }
    assert describe_counts(counts) == [
        ("rows", "1 of 1 wanted, from 1,504 attempts, 1 spare"),
        ("rejected", "1,500 unfinished, 2 reject_test_copies"),
        ("classes", "1 pos, 0 neg"),
        ("soft labels", "entropy 0.000 bits; label mass 0.500 (lowest 0.500)"),
        ("parents", "100.0% of 1 rows have the label that most of their parents have"),
        ("diversity", "distinct-1 1.000, distinct-2 1.000"),
        ("length", "4.0 words, real rows 3.0"),
        ("tokens", "12,000 prompt tokens"),
        ("prompts", "3 shortened"),
    ]


def test_parents_in_a_tie_say_nothing() -> None:
    rows = [
        row("a", 1.0, ["p0", "n0"]),
        row("b", 0.0, ["p0", "n0", "p1"]),
        row("c", 0.0, ["n0"]),
        row("d", 1.0, ["gone"]),
    ]
    labels = {row.id: row.label for row in REAL}
    assert [has_majority_label(row, labels) for row in rows] == [None, False, True, None]


@pytest.mark.parametrize(
    ("shares", "bits"), [((1, 0), 0), ((0.5, 0.5), 1), ((0.25,) * 4, 2), ((0.9, 0.1), 0.469)]
)
def test_entropy_is_in_bits(shares: tuple[float, ...], bits: float) -> None:
    assert entropy(shares) == pytest.approx(bits, abs=1e-4)


def test_distinct_of_texts_without_such_runs_is_unknown() -> None:
    assert distinct([["a"], []], 2) is None


# Self-BLEU ----------------------------------------------------------------------------------------


def test_copies_have_1_and_strangers_next_to_nothing() -> None:
    text = ["one", "two", "three", "four", "five", "six"]
    assert self_bleu([text, text, text]) == 1
    assert self_bleu([text, ["a", "b", "c", "d", "e", "f"]]) == pytest.approx(
        (0.1**4 / (6 * 5 * 4 * 3)) ** 0.25, abs=1e-4
    )
    assert self_bleu([text]) is None
    assert self_bleu([text, []]) is None


def test_self_bleu_by_hand() -> None:
    """Each text against the other: 3 of 4 words, 2 of 3 pairs, 1 of 2 triples, no run of four; and
    a short one that is cut."""
    a, b = ["a", "b", "c", "d"], ["a", "b", "c", "e"]
    assert self_bleu([a, b]) == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** 0.25, abs=1e-4)
    short = self_bleu([["a", "b"], a])
    expected = (math.exp(1 - 4 / 2) + (2 / 4 * 1 / 3 * 0.1 / 2 * 0.1) ** 0.25) / 2
    assert short == pytest.approx(expected, abs=1e-4)


def test_a_word_counts_as_often_as_one_other_text_has_it() -> None:
    """Clipped: `a a` has two, each of the others one."""
    assert self_bleu([["a", "a"], ["a"], ["a"]]) == pytest.approx(
        ((1 / 2 * 0.1) ** 0.5 + 1 + 1) / 3, abs=1e-4
    )


WORDS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=8)


@few
@given(st.lists(WORDS, min_size=2, max_size=6))
def test_self_bleu_is_bleu_against_all_others(texts: list[list[str]]) -> None:
    """The two highest counts that are kept serve as well as looking at every other text; order does
    not matter."""
    found = self_bleu(texts)
    assert found is not None
    assert 0 <= found <= 1
    assert found == pytest.approx(
        sum(bleu(text, texts[:i] + texts[i + 1 :]) for i, text in enumerate(texts)) / len(texts),
        abs=1e-4,
    )
    assert self_bleu(texts[::-1]) == pytest.approx(found, abs=1e-4)


def bleu(text: list[str], references: list[list[str]]) -> float:
    """The definition of Papineni et al. (2002), as slowly as it reads."""
    product, orders = 1.0, min(4, len(text))
    for n in range(1, orders + 1):
        own = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
        theirs = [
            [tuple(other[i : i + n]) for i in range(len(other) - n + 1)] for other in references
        ]
        matches = sum(
            min(own.count(gram), max(grams.count(gram) for grams in theirs)) for gram in set(own)
        )
        product *= (matches or 0.1) / len(own)
    nearest = min(
        (len(other) for other in references), key=lambda length: (abs(length - len(text)), length)
    )
    return min(1.0, math.exp(1 - nearest / len(text))) * product ** (1 / orders)


def test_of_many_texts_the_same_sample_is_taken_each_time() -> None:
    rows = [
        row(f"word{i} word{i + 1} word{i * 7 % 11} word{i % 3}") for i in range(3 * SELF_BLEU_TEXTS)
    ]
    found = statistics(rows, REAL)
    assert found["self_bleu_texts"] == SELF_BLEU_TEXTS
    assert found == statistics(rows, REAL) == json.loads(json.dumps(found))


def test_of_very_many_rows_classes_are_counted_and_texts_sampled() -> None:
    """Each row is as likely as another to be looked at, so the mean length is near that of all: 4
    standard deviations are 0.13."""
    rows = [
        row(" ".join(["word"] * (1 + i % 4)), float(i % 2)) for i in range(5 * MAX_SAMPLED_TEXTS)
    ]
    found = statistics(rows, REAL)
    assert found["classes"] == {"pos": len(rows) // 2, "neg": len(rows) // 2}
    assert (found["texts"], found["parents_compared"]) == (MAX_SAMPLED_TEXTS, len(rows))
    assert found["words"]["mean"] == pytest.approx(2.5, abs=0.15)
    counts = {
        "wanted": len(rows),
        "kept": len(rows),
        "asked": len(rows),
        "rejected": {},
        "statistics": found,
    }
    assert (
        dict(describe_counts(counts))["length"]
        == f"{found['words']['mean']:.1f} words, real rows 3.0 (1,000 sampled rows)"
    )
    fewer = {**counts, "kept": MAX_SAMPLED_TEXTS}
    assert "sampled" not in dict(describe_counts(fewer))["length"]
