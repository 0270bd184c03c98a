"""AEDA: marks are put in, and nothing else happens."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.augment import AugmentationSink, AugmentOptions, run_attempts
from gpt3mix_cli.augment.aeda import AEDA, MARKS, insert_marks
from gpt3mix_cli.augment.statistics import Statistics
from gpt3mix_cli.records import Example
from gpt3mix_cli.settings import AedaSettings, Task

TASK = Task(name="demo", data={"kind": "demo"}, labels={"pos": "positive", "neg": "negative"})
TEXTS = [
    "A gorgeous, witty, seductive movie.",
    "Dreadful",
    "The film is a waste of time, and the film is long!",
]
ROWS = [
    Example(id=f"r{i}", text=text, label="pos" if i % 2 else "neg") for i, text in enumerate(TEXTS)
]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from(["The", "film,", "...", "?!", "great"]), min_size=1, max_size=20),
    st.integers(0, 2**32),
)
def test_words_stay_in_order_and_the_number_of_marks_is_the_papers(
    words: list[str], seed: int
) -> None:
    """One to a third of the words, each mark alone and before a word of its own."""
    after = insert_marks(" ".join(words), Random(seed)).split()
    marked = [word in MARKS for word in after]
    assert [word for word in after if word not in MARKS] == words
    assert 1 <= sum(marked) <= max(1, len(words) // 3)
    assert not marked[-1]
    assert not any(one and other for one, other in pairwise(marked))


def test_every_mark_every_number_and_every_place_comes() -> None:
    """Of 600 draws over six words: a mark or one of the two numbers that is missing comes once in
    more than 1e40."""
    found = [insert_marks("a b c d e f", Random(seed)) for seed in range(600)]
    assert {word for text in found for word in text.split()} == set("abcdef") | set(MARKS)
    assert {len(text.split()) for text in found} == {7, 8}
    assert {
        text.split().index(next(word for word in text.split() if word in MARKS)) for text in found
    } == set(range(6))
    assert not [
        text for text in found if text.split()[-1] in MARKS
    ]  # before a word, never at the end


def test_a_row_is_an_edit_of_its_parent_and_depends_on_seed_row_and_copy_alone() -> None:
    augmenter = AEDA(AedaSettings(kind="aeda", name="marks"), TASK)
    rows = list(augmenter.generate(ROWS, 0, 9, 5))
    assert rows == [*augmenter.generate(ROWS, 0, 4, 5), *augmenter.generate(ROWS, 4, 5, 5)]
    assert [row.text for row in rows] != [row.text for row in augmenter.generate(ROWS, 0, 9, 6)]
    assert (rows[4].id, rows[4].method, rows[4].parents, rows[4].label, rows[4].probs) == (
        "r1~marks-1",
        "marks",
        ["r1"],
        "pos",
        {"pos": 1, "neg": 0},
    )
    sink = AugmentationSink([].append, Statistics(ROWS))
    quota = AugmentOptions(ratio=9 / len(ROWS), attempts=4, seed=5)
    run_attempts(augmenter, ROWS, sink, quota)
    assert (sink.kept, sink.unchanged) == (9, 0)


@pytest.mark.parametrize("text", ["", " \t"])
def test_a_text_without_words_stays(text: str) -> None:
    assert insert_marks(text, Random(0)) == text
