"""EDA: a property for each operation, and what holds for every row."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.augment import AugmentOptions, augment, num_rows_wanted
from gpt3mix_cli.augment import eda as module
from gpt3mix_cli.augment.eda import (
    EDA,
    OPERATIONS,
    STOP_WORDS,
    Sentence,
    delete,
    draw_swaps,
    draw_synonyms,
    edit,
    insert,
    normalize_like_authors,
    operation_order,
)
from gpt3mix_cli.augment.protocol import edited_line_renderer
from gpt3mix_cli.augment.thesaurus import synonyms
from gpt3mix_cli.duplicates import normalize_text
from gpt3mix_cli.records import Augmented, Example, read_records, to_json_line
from gpt3mix_cli.settings import EdaSettings, Task

TASK = Task(name="demo", data={"kind": "demo"}, labels={"pos": "positive", "neg": "negative"})
TEXTS = [
    "A gorgeous, witty, seductive movie.",
    "it 's a charming and often affecting journey .",
    "Dreadful",
    "The film is a waste of time, and the film is long!",
    '" Boring " is the word .',
]
ROWS = [
    Example(id=f"r{i}", text=text, label="pos" if i % 2 else "neg") for i, text in enumerate(TEXTS)
]

words = st.lists(
    st.sampled_from(["The", "film", "films", "of", "a", "GREAT", "waste", "xyzzy", "n't", "time"]),
    min_size=1,
    max_size=12,
)
randoms = st.integers(0, 2**32).map(Random)
tokens = st.sampled_from(
    ["The", "film,", "film", "FILM", "!", '"', "of", "great", "xyzzy", "'s", "(well)", "n't", "--"]
)
texts = st.lists(tokens, max_size=10).map(" ".join)
quick = settings(max_examples=60, deadline=None)


def sources(of: list[str]) -> list[str]:
    return Sentence(" ".join(of)).content_words


def only(operation: str, text: str, alpha: float = 0.1, random: Random | None = None) -> str:
    return edit(Sentence(text), alpha, [operation], random or Random(0))


# The operations -----------------------------------------------------------------------------------


@quick
@given(st.integers(0, 12), st.integers(1, 5), randoms)
def test_swap_keeps_the_words(count: int, n: int, random: Random) -> None:
    """The same words as often as before; one swap moves two, if there are two."""
    moved = draw_swaps(count, n, random)
    assert sorted(moved) == sorted(moved.values())
    assert all(0 <= place < count for place in moved)
    assert len(moved) <= 2 * n
    assert (len(moved) == 2) if n == 1 and count > 1 else (bool(moved) == (count > 1))


def test_any_two_words_are_swapped_as_often_as_others() -> None:
    """10,000 swaps of 4 words: 6 pairs, 1,667 each; six standard deviations are 224."""
    found = Counter(frozenset(draw_swaps(4, 1, random)) for random in map(Random, range(10_000)))
    assert len(found) == 6
    assert all(abs(n - 10_000 / 6) < 224 for n in found.values())


@quick
@given(words, st.floats(0, 1), randoms)
def test_delete_gives_a_part_in_the_same_order(before: list[str], p: float, random: Random) -> None:
    """Never empty, nothing new, nothing moved."""
    after = delete(before, p, random)
    rest = iter(before)
    assert after
    assert all(word in rest for word in after)


def test_delete_keeps_its_rate() -> None:
    """100,000 words at 0.1: six standard deviations are 570, so a false alarm comes once in 5e8
    seeds."""
    assert abs(len(delete(["word"] * 100_000, 0.1, Random(3))) - 90_000) < 570


@quick
@given(words, st.integers(1, 5), randoms)
def test_insert_adds_n_synonyms(before: list[str], n: int, random: Random) -> None:
    """What was there stays in order, the last word stays last, and what is new is a synonym of a
    word."""
    after = insert(before, sources(before), synonyms, n, random)
    known = {synonym for word in sources(before) for synonym in synonyms(word)}
    rest = iter(after)
    assert len(after) == len(before) + (n if known else 0)
    assert all(word in rest for word in before)
    assert after[-1] == before[-1]
    assert set(Counter(after) - Counter(before)) <= known


@quick
@given(words, st.integers(1, 5), randoms)
def test_drawn_words_are_different_and_have_synonyms(
    before: list[str], n: int, random: Random
) -> None:
    """As many as asked for, where so many have synonyms; no stop word among them."""
    chosen = draw_synonyms(sources(before), synonyms, n, random)
    assert len(chosen) == min(n, sum(bool(synonyms(word)) for word in sources(before)))
    assert not set(chosen) & STOP_WORDS
    assert all(synonym in synonyms(word) for word, synonym in chosen.items())


@quick
@given(words, st.floats(0.01, 1), randoms)
def test_replacement_keeps_all_other_words(before: list[str], alpha: float, random: Random) -> None:
    """One in n words is replaced, wherever it is, in its capitals; the others stay."""
    text = " ".join(before)
    after = only("replace", text, alpha, random)
    chosen = {
        word for word in sources(before) if synonyms(word) and word not in after.lower().split()
    }
    if not any(map(synonyms, sources(before))):
        return  # then a word is left out instead
    assert len(chosen) <= max(1, int(alpha * len(before)))
    assert [word for word in before if word.lower() not in sources(before)] == [
        word for word in after.split() if word in before and word.lower() not in sources(before)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FILM", "MOTION PICTURE"),
        ("Film, (film) film's", "Motion picture, (motion picture) film's"),
        ('" Film " .', '" Motion picture " .'),
    ],
)
def test_replaced_words_keep_capitals_and_punctuation(
    text: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the word itself changes."""
    monkeypatch.setattr(
        module, "synonyms", lambda word: ("motion picture",) if word == "film" else ()
    )
    assert only("replace", text) == expected


def test_swapped_words_leave_punctuation_in_its_place() -> None:
    """Signs that stand apart included."""
    assert only("swap", "good , bad .") == "bad , good ."


@pytest.mark.parametrize(
    ("alpha", "n"), [(0.05, 1), (0.1, 1), (0.19, 1), (0.25, 2), (0.5, 5), (1.0, 10)]
)
def test_alpha_is_the_share_of_words_changed(
    alpha: float, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """n = max(1, alpha l), rounded down, of ten words."""
    monkeypatch.setattr(module, "synonyms", lambda word: (f"other{word}",))
    before = ["ab", "bc", "cd", "de", "ef", "fg", "gh", "hi", "ij", "jk"]
    for random in map(Random, range(20)):
        replaced, longer, moved = (
            only(operation, " ".join(before), alpha, random).split()
            for operation in ("replace", "insert", "swap")
        )
        assert [new == f"other{old}" for old, new in zip(before, replaced, strict=True)].count(
            True
        ) == n
        assert len(longer) == 10 + n
        assert 2 <= sum(old != new for old, new in zip(before, moved, strict=True)) <= 2 * n


@pytest.mark.parametrize("word", ["the", "not", "n't", "'s", "was", "s", "2", "10th", "we"])
def test_function_words_and_numbers_are_no_source(word: str) -> None:
    """Although WordNet knows most of them."""
    assert Sentence(word).content_words == []


# The whole ----------------------------------------------------------------------------------------


@quick
@given(texts, st.sampled_from([0.01, 0.1, 1.0]), st.permutations(OPERATIONS), randoms)
def test_unchanged_only_where_nothing_can_change(
    text: str, alpha: float, order: list[str], random: Random
) -> None:
    """A text of two words can lose one; a single word needs a synonym."""
    sentence = Sentence(text)
    after = edit(sentence, alpha, order, random)
    assert after.strip() or not text.strip()
    changeable = len(sentence.words) > 1 or any(map(sentence.synonyms, sentence.content_words))
    assert (normalize_text(after) != normalize_text(text)) == changeable
    assert changeable or after == text


def test_names_are_no_synonyms_except_in_the_authors_form() -> None:
    """WordNet's `hi` is the postal code of Hawaii, the Aloha State."""
    assert "Hawaii" in synonyms("hi")
    assert [*Sentence("Hi there").synonyms("hi")] == [
        word for word in synonyms("hi") if word.islower()
    ]
    assert "hawaii" in Sentence("hi there", normalise=True).synonyms("hi")


def eda(**options: object) -> EDA:
    return EDA(EdaSettings(kind="eda", **options), TASK)


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
    assert all(
        normalize_text(row.text) != normalize_text(ROWS[i % 5].text) for i, row in enumerate(rows)
    )
    assert len({row.text for row in rows[3::5]}) > 4


def test_four_copies_use_four_operations() -> None:
    """Distinguished by the number of words, in a sentence without repeated words."""
    row = Example(id="r", text="charming actors carry this gloomy tale", label="pos")
    texts = [copy.text.split() for copy in generate(0, 40, rows=[row])]
    before = row.text.split()
    for start in range(0, 40, 4):
        block = texts[start : start + 4]
        assert sum(sorted(text) == sorted(before) for text in block) == 1, "swap"
        assert sum(len(text) < len(before) and set(text) < set(before) for text in block) == 1, (
            "delete"
        )
        assert sum(set(before) < set(text) for text in block) == 1, "insert"
    kinds = [[len(text) for text in texts[start : start + 4]] for start in range(0, 40, 4)]
    assert any(one != other for one, other in pairwise(kinds)), "the order is drawn"


@quick
@given(st.integers(0, 2**63), st.integers(0, 10**6), st.integers(0, 100))
def test_each_four_copies_use_each_operation_first_once(key: int, parent: int, block: int) -> None:
    orders = [operation_order(key, parent, 4 * block + turn) for turn in range(4)]
    assert sorted(order[0] for order in orders) == sorted(OPERATIONS)
    assert all(sorted(order) == sorted(OPERATIONS) for order in orders)


def test_operations_are_drawn_evenly() -> None:
    """The first copy of 4,000 parents: 1,000 by each operation; six standard deviations are 164."""
    found = Counter(operation_order(1, parent, 0)[0] for parent in range(4000))
    assert all(abs(found[operation] - 1000) < 164 for operation in OPERATIONS)


@pytest.mark.parametrize(
    ("text", "unchanged"),
    [("Dreadful", False), ("xyzzy", True), ("the", True), ("!!", True), (" ", True)],
)
def test_one_word(text: str, unchanged: bool) -> None:
    """A row for each attempt, never empty where its parent is not."""
    texts = [row.text for row in generate(0, 8, rows=[Example(id="r", text=text, label="neg")])]
    assert len(texts) == 8
    assert all((after == text) is unchanged and after for after in texts)


@pytest.mark.parametrize(("rows", "alpha"), [(10, 0.05), (2000, 0.05), (2001, 0.1), (6920, 0.1)])
def test_alpha_by_training_size(rows: int, alpha: float) -> None:
    """The authors' Table 3: `auto` gives the rows that the share for that many examples gives, and
    no other's."""
    text = " ".join(f"film waste {i}" for i in range(20))
    examples = [Example(id=f"r{i}", text=text, label="pos") for i in range(rows)]
    made = {
        share: [row.text for row in eda(alpha=share).generate(examples, 0, 8, 0)]
        for share in ("auto", 0.05, 0.1)
    }
    assert made["auto"] == made[alpha]
    assert made[0.05] != made[0.1]


def test_about_tells_settings_apart() -> None:
    """Whatever can change a row is in it."""
    assert eda().about != eda(alpha=0.2).about
    assert eda(name="eda2").about["method"] == "eda2"
    assert eda().about["classes"] == ["pos", "neg"]
    assert eda().usage() == {}


# The authors' form --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's a well-made Film!", "its a well made film"),
        ("they wo n’t , 2 of 3 ,", "they wo nt of"),
        ("Caf\u00e9\tl\u00e0", "caf l"),
        ("!!", ""),
    ],
)
def test_the_authors_form(text: str, expected: str) -> None:
    """Apostrophes go, hyphens and all else that is no letter of theirs become spaces."""
    assert normalize_like_authors(text) == expected


@quick
@given(texts.filter(normalize_like_authors), st.integers(0, 20))
def test_normalised_rows_are_lower_case_letters(text: str, copies: int) -> None:
    row = Example(id="r", text=text, label="pos")
    for after in eda(normalise=True).edit_texts([row], 0, copies, 3):
        assert after
        assert after == normalize_like_authors(after)


def test_a_text_without_letters_is_not_normalised_away() -> None:
    assert list(
        eda(normalise=True).edit_texts([Example(id="r", text="7 / 10 !", label="pos")], 0, 1, 0)
    ) != [""]
    assert list(
        eda(normalise=True).edit_texts([Example(id="r", text="!!", label="pos")], 0, 2, 0)
    ) == [
        "!!",
        "!!",
    ]


# Many rows ----------------------------------------------------------------------------------------


@quick
@given(
    st.lists(st.text(min_size=1, max_size=9).filter(str.strip), min_size=1, max_size=4),
    st.integers(0, 9),
)
def test_lines_are_those_of_the_rows(parents: list[str], count: int) -> None:
    """The short way to a line gives what the long one does, whatever is in texts and ids."""
    rows = [
        Example(id=f"{text}{i}", text=text, label="pos" if i % 2 else "neg")
        for i, text in enumerate(parents)
    ]
    made = eda(name="e").generate(rows, 0, count, 5)
    render = edited_line_renderer(rows, "e", TASK.classes)
    texts = eda(name="e").edit_texts(rows, 0, count, 5)
    assert [render(text, attempt) for attempt, text in enumerate(texts)] == [
        to_json_line(row) for row in made
    ]


def test_parents_that_are_not_kept_give_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = generate(0, 40)
    monkeypatch.setattr(module, "MAX_CACHED_SENTENCES", 2)
    assert generate(0, 40) == whole


def test_a_file_holds_the_rows_and_their_counts(tmp_path: Path) -> None:
    done = augment(
        eda(),
        [*ROWS, Example(id="x", text="xyzzy", label="pos")],
        tmp_path / "eda.jsonl",
        AugmentOptions(ratio=7.5, attempts=1, seed=3),
    )
    rows = list(read_records(done.output, Augmented, TASK.classes))
    assert len(rows) == num_rows_wanted(7.5, 6) == done.manifest.counts["kept"]
    assert done.manifest.counts["unchanged"] == sum(row.parents == ["x"] for row in rows)
    seen = [(row.parents[0], normalize_text(row.text)) for row in rows]
    assert done.manifest.counts["repeated"] == len(seen) - len(set(seen)) > 0
    assert done.manifest.counts["statistics"]["classes"] == Counter(row.label for row in rows)
