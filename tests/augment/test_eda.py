"""EDA: a property for each operation, and what holds for every row."""

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.augment.eda import EDA, OPERATIONS, STOP_WORDS, Sentence, delete, edit, insert, replace, swap
from gpt3mix_cli.augment.quality import same_text
from gpt3mix_cli.augment.thesaurus import synonyms
from gpt3mix_cli.records import Augmented, Example
from gpt3mix_cli.settings import Eda, Task

TASK = Task(name="demo", data={"kind": "demo"}, labels={"pos": "positive", "neg": "negative"})
TEXTS = [
    "A gorgeous, witty, seductive movie.",
    "it 's a charming and often affecting journey .",
    "Dreadful",
    "The film is a waste of time, and the film is long!",
    '" Boring " is the word .',
]
ROWS = [Example(id=f"r{i}", text=text, label="pos" if i % 2 else "neg") for i, text in enumerate(TEXTS)]

words = st.lists(st.sampled_from(["The", "film", "films", "of", "a", "GREAT", "waste", "xyzzy", "n't", "time"]), min_size=1, max_size=12)
randoms = st.integers(0, 2**32).map(Random)
tokens = st.sampled_from(["The", "film,", "film", "FILM", "!", '"', "of", "great", "xyzzy", "'s", "(well)", "n't", "--"])
texts = st.lists(tokens, max_size=10).map(" ".join)
quick = settings(max_examples=60, deadline=None)


def choices(of: list[str]) -> dict[str, list[str]]:
    return Sentence(" ".join(of)).choices


# The operations ------------------------------------------------------------------------------------------------------


@quick
@given(words, st.integers(1, 5), randoms)
def test_swap_keeps_the_words(before: list[str], n: int, random: Random) -> None:
    """The same words as often as before; one swap moves two at most."""
    after = swap(before, n, random)
    assert Counter(after) == Counter(before)
    assert sum(old != new for old, new in zip(before, after, strict=True)) <= 2 * n


@quick
@given(words, st.floats(0, 1), randoms)
def test_delete_gives_a_part_in_the_same_order(before: list[str], p: float, random: Random) -> None:
    """Never empty, nothing new, nothing moved."""
    after = delete(before, p, random)
    rest = iter(before)
    assert after
    assert all(word in rest for word in after)


def test_delete_keeps_its_rate() -> None:
    """100,000 words at 0.1: six standard deviations are 570, so a false alarm comes once in 5e8 seeds."""
    assert abs(len(delete(["word"] * 100_000, 0.1, Random(3))) - 90_000) < 570


@quick
@given(words, st.integers(1, 5), randoms)
def test_insert_adds_n_synonyms(before: list[str], n: int, random: Random) -> None:
    """What was there stays in order, the last word stays last, and what is new is a synonym of a word."""
    known = choices(before)
    after = insert(before, known, n, random)
    added = Counter(after) - Counter(before)
    rest = iter(after)
    assert len(after) == len(before) + (n if known else 0)
    assert all(word in rest for word in before)
    assert after[-1] == before[-1]
    assert set(added) <= {synonym for found in known.values() for synonym in found}


@quick
@given(words, st.integers(1, 5), randoms)
def test_replace_keeps_length_and_stop_words(before: list[str], n: int, random: Random) -> None:
    """As many different words as asked for, where so many have synonyms, each replaced wherever it stands."""
    known = choices(before)
    after = replace(before, known, n, random)
    changed = {old.lower() for old, new in zip(before, after, strict=True) if old != new}
    assert len(changed) == min(n, len(known))
    assert not changed & STOP_WORDS
    for old, new in zip(before, after, strict=True):
        assert old == new or new.lower() in [synonym.lower() for synonym in synonyms(old)]
        assert (old.lower() in changed) == (old != new)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FILM", "MOTION PICTURE"),
        ("Film, (film) film's", "Motion picture, (motion picture) film's"),
        ('" Film " .', '" Motion picture " .'),
    ],
)
def test_replaced_words_keep_capitals_and_punctuation(text: str, expected: str) -> None:
    """Only the word itself changes."""
    sentence = Sentence(text)
    assert sentence.with_words(replace(sentence.words, {"film": ["motion picture"]}, 1, Random(0))) == expected


def test_swapped_words_leave_punctuation_in_its_place() -> None:
    """Signs that stand apart included."""
    sentence = Sentence("good , bad .")
    assert sentence.with_words(swap(sentence.words, 1, Random(0))) == "bad , good ."


@pytest.mark.parametrize("word", ["the", "not", "n't", "'s", "was", "s", "2", "10th", "we"])
def test_function_words_and_numbers_are_no_source(word: str) -> None:
    """Although WordNet knows most of them."""
    assert Sentence(word).choices == {}


# The whole -----------------------------------------------------------------------------------------------------------


@quick
@given(texts, st.sampled_from([0.01, 0.1, 1.0]), st.permutations(OPERATIONS), randoms)
def test_unchanged_only_where_nothing_can_change(text: str, alpha: float, order: list[str], random: Random) -> None:
    """A text of two words can lose one; a single word needs a synonym."""
    sentence = Sentence(text)
    after = edit(sentence, alpha, order, random)
    assert after.strip() or not text.strip()
    changeable = len(sentence.words) > 1 or bool(sentence.choices)
    assert (same_text(after) != same_text(text)) == changeable
    assert changeable or after == text


def eda(**options: object) -> EDA:
    return EDA(Eda(kind="eda", **options), TASK)


def generate(first: int, count: int, seed: int = 7, rows: list[Example] = ROWS) -> list[Augmented]:
    return list(eda().generate(rows, first, count, seed))


def test_rows() -> None:
    """Everything that a row carries; probabilities in the task's order."""
    row = generate(0, 7)[6]
    assert row.model_dump(exclude={"text"}) == {
        "id": "r1~eda-1",
        "label": "pos",
        "probs": {"pos": 1.0, "neg": 0.0},
        "method": "eda",
        "parents": ["r1"],
        "label_source": "parent",
        "label_mass": None,
        "request": 6,
    }
    assert list(generate(0, 1)[0].probs) == TASK.classes


def test_a_row_depends_on_its_seed_and_number_only() -> None:
    """Ratio 10 extends ratio 1, and any stretch is the same as in the whole."""
    whole = generate(0, 50)
    assert whole == generate(0, 50)
    assert whole[:5] == generate(0, 5)
    assert whole[13:29] == generate(13, 16)
    assert [row.text for row in whole] != [row.text for row in generate(0, 50, seed=8)]


def test_every_row_is_changed_and_copies_differ() -> None:
    """No text here is beyond change; eight copies of a sentence are not eight times the same."""
    rows = generate(0, 40)
    assert all(same_text(row.text) != same_text(ROWS[i % 5].text) for i, row in enumerate(rows))
    assert len({row.text for row in rows[3::5]}) > 4


def test_four_copies_use_four_operations() -> None:
    """Told apart by the number of words, in a sentence without repeated words."""
    row = Example(id="r", text="charming actors carry this gloomy tale", label="pos")
    texts = [copy.text.split() for copy in generate(0, 40, rows=[row])]
    before = row.text.split()
    for start in range(0, 40, 4):
        block = texts[start : start + 4]
        assert sum(sorted(text) == sorted(before) for text in block) == 1, "swap"
        assert sum(len(text) < len(before) and set(text) < set(before) for text in block) == 1, "delete"
        assert sum(set(before) < set(text) for text in block) == 1, "insert"
    kinds = [[len(text) for text in texts[start : start + 4]] for start in range(0, 40, 4)]
    assert any(one != other for one, other in pairwise(kinds)), "the order is drawn"


@pytest.mark.parametrize(("text", "unchanged"), [("Dreadful", False), ("xyzzy", True), ("the", True), ("!!", True), (" ", True)])
def test_one_word(text: str, unchanged: bool) -> None:
    """A row for each attempt, never empty where its parent is not."""
    texts = [row.text for row in generate(0, 8, rows=[Example(id="r", text=text, label="neg")])]
    assert len(texts) == 8
    assert all((after == text) is unchanged and after for after in texts)


@pytest.mark.parametrize(("rows", "alpha"), [(10, 0.05), (2000, 0.05), (2001, 0.1), (6920, 0.1)])
def test_alpha_by_training_size(rows: int, alpha: float) -> None:
    """The authors' Table 3: `auto` gives the rows that the share for that many examples gives, and no other's."""
    text = " ".join(f"film waste {i}" for i in range(20))
    examples = [Example(id=f"r{i}", text=text, label="pos") for i in range(rows)]
    made = {share: [row.text for row in eda(alpha=share).generate(examples, 0, 8, 0)] for share in ("auto", 0.05, 0.1)}
    assert made["auto"] == made[alpha]
    assert made[0.05] != made[0.1]


def test_about_tells_settings_apart() -> None:
    """Whatever can change a row is in it."""
    assert eda().about != eda(alpha=0.2).about
    assert eda(name="eda2").about["method"] == "eda2"
    assert eda().about["classes"] == ["pos", "neg"]
    assert eda().usage() == {}
