"""The row filter: nothing copied, nothing twice, nothing that is no text of the task, and a reason
for each."""

from typing import Any

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.augment.filter import (
    REMEDIES,
    RowFilter,
    count_scripts,
    normalize_text,
    overlap,
    repetition,
    split_words,
    suggest_remedy,
)
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.records import Augmented, Example, Reject
from gpt3mix_cli.settings import AugmentSettings, FilterSettings

REAL = [
    Example(id="r0", text="A gorgeous, witty film.", label="pos"),
    Example(id="r1", text="So bad", label="neg"),
]


def row(text: str, number: int = 0) -> Augmented:
    return Augmented(
        id=f"gpt3mix-{number:05d}",
        text=text,
        label="pos",
        probs={"pos": 1, "neg": 0},
        method="gpt3mix",
        parents=["r1", "r0"],
        request=number,
    )


def reason(found: Augmented | Reject) -> str:
    return found.reason if isinstance(found, Reject) else ""


@pytest.mark.parametrize("text", ["So bad", "so  BAD", " So\tbad ", "SO BAD\u00a0"])
def test_a_copy_of_a_real_row_is_rejected(text: str) -> None:
    """Whatever its case and spacing; the reject says what, whose and which."""
    found = RowFilter(REAL).check(row(text, 7))
    assert found == Reject(
        request=7,
        method="gpt3mix",
        parents=["r1", "r0"],
        text=text,
        reason="copy_of_real",
        detail="r1",
    )


def test_a_repeat_is_rejected_and_the_first_is_kept() -> None:
    row_filter = RowFilter(REAL)
    first = row("Quite new.", 3)
    assert row_filter.check(first) is first
    again = row_filter.check(row("quite NEW.", 5))
    assert (reason(again), again.request) == ("repeat", 5)
    assert isinstance(again, Reject)
    assert again.detail == first.id
    assert reason(row_filter.check(row("quite new.", 9))) == "repeat"


@pytest.mark.parametrize("text", ["So bad.", "So bad so bad", "Sobad", "S o bad", "So bad!"])
def test_a_sign_or_a_word_more_makes_another_text(text: str) -> None:
    assert reason(RowFilter(REAL, FilterSettings(**OFF)).check(row(text))) == ""


def test_what_was_rejected_before_passes_as_it_is() -> None:
    """And its text does not count as kept."""
    row_filter = RowFilter(REAL)
    unfinished = Reject(
        request=1, method="gpt3mix", parents=[], text="Quite new.", reason="unfinished"
    )
    assert row_filter.check(unfinished) is unfinished
    assert reason(row_filter.check(row("Quite new.", 2))) == ""


def test_filters_share_no_state() -> None:
    assert reason(RowFilter(REAL).check(row("Quite new."))) == ""
    assert reason(RowFilter(REAL).check(row("Quite new."))) == ""
    assert reason(RowFilter([]).check(row("So bad"))) == ""


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text("aA bB\n", min_size=1, max_size=4), max_size=12))
def test_what_is_kept_is_new_and_what_is_not_kept_is_not(texts: list[str]) -> None:
    real = [Example(id="r0", text="a b", label="pos")]
    row_filter = RowFilter(real, FilterSettings(min_words=0, max_similarity=None))
    seen = {normalize_text("a b")}
    for number, text in enumerate(texts):
        assert (reason(row_filter.check(row(text, number))) == "") == (
            normalize_text(text) not in seen
        )
        seen.add(normalize_text(text))


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=20))
def test_same_text_is_stable_and_blind_to_spacing(text: str) -> None:
    assert normalize_text(f"  {text}\n") == normalize_text(text)
    assert normalize_text(normalize_text(text)).split() == [
        word.casefold() for word in normalize_text(text).split()
    ]


def test_near_copies_of_real_rows_and_of_kept_rows_are_rejected() -> None:
    """Also of a real row that is no parent; the reject names the row that it is similar to."""
    other = Example(
        id="other",
        text="A quiet film about two brothers who never learned how to talk to each other.",
        label="pos",
    )
    row_filter = RowFilter([*REAL, other])
    near = row_filter.check(
        row("a noisy film about two brothers who never learned how to talk to each other", 1)
    )
    assert isinstance(near, Reject)
    assert (near.reason, near.detail) == ("max_similarity", "81% like other")
    new = "The plot goes nowhere for two hours and then it ends in the middle of a scene."
    assert reason(row_filter.check(row(new, 2))) == ""
    again = row_filter.check(row(new.replace("two hours", "three hours"), 3))
    assert isinstance(again, Reject)
    assert (again.reason, again.detail.split()[-1]) == ("max_similarity", "gpt3mix-00002")


# Thresholds ---------------------------------------------------------------------------------------

LONG = Example(
    id="long",
    text="Berry's saucy, full-bodied performance gives this aging series a much needed kick.",
    label="pos",
)
SHORT = Example(id="short", text="Laughably, irredeemably awful.", label="neg")
OFF: dict[str, Any] = {
    "reject_test_copies": False,
    "max_parent_overlap": None,
    "max_similarity": None,
    "max_repetition": None,
    "min_words": 0,
    "max_foreign_script": None,
}


def judged(
    text: str, real: list[Example] | None = None, test: list[Example] | None = None, **limits: Any
) -> Augmented | Reject:
    """Return what a filter with no other check than those named says of a text whose parents are
    LONG and SHORT."""
    written = row(text).model_copy(update={"parents": ["long", "short"]})
    return RowFilter(real or [LONG, SHORT], FilterSettings(**{**OFF, **limits}), test or []).check(
        written
    )


@pytest.mark.parametrize(
    "text",
    [
        "Laughably, irredeemably awful!",
        "laughably irredeemably AWFUL",
        "Full-bodied performance gives this aging series a much needed kick.",
        "Berry's saucy, full-bodied performance gives this aging series a much needed thrill",
        "this aging series",
    ],
)
def test_a_near_copy_of_a_parent_is_rejected(text: str) -> None:
    """Signs and case do not make a text, nor does a word changed at its end, nor a piece of the
    parent."""
    found = judged(text, max_parent_overlap=0.8)
    assert isinstance(found, Reject)
    assert found.reason == "max_parent_overlap"
    assert found.detail.endswith((" is in long", " is in short"))


@pytest.mark.parametrize(
    "text",
    [
        "Groundbreaking, disturbing.",
        "Awful.",
        "Irredeemably awful.",  # two words in a row prove nothing
        "Berry's saucy performance gives a much needed kick to this aging series.",
        "Laughably, irredeemably good.",
        "ageing series",
    ],
)
def test_what_only_resembles_a_parent_passes(text: str) -> None:
    assert reason(judged(text, max_parent_overlap=0.8)) == ""


def test_a_near_copy_of_a_row_that_is_no_parent_passes() -> None:
    """Only the examples of its own prompt are looked at, so that cost grows with the rows alone."""
    other = Example(id="other", text="An utterly charming and hilarious little film.", label="pos")
    text = "An utterly charming and hilarious little film!"
    assert reason(judged(text, [LONG, SHORT, other], max_parent_overlap=0.8)) == ""
    assert (
        reason(
            RowFilter([other], FilterSettings()).check(
                row(text).model_copy(update={"parents": ["other"]})
            )
        )
        == "max_parent_overlap"
    )


def test_containment_is_the_share_of_word_triples() -> None:
    assert overlap(split_words("a b c d e f"), split_words("a b c d x y")) == 0.5
    assert overlap(split_words("a b"), split_words("x a b")) == 0
    assert overlap(split_words("a b"), split_words("A, b!")) == 1


def test_a_copy_of_a_test_row_is_a_leak() -> None:
    held_out = [Example(id="t7", text="A film for the ages.", label="pos")]
    found = judged("a film  for the AGES.", test=held_out, reject_test_copies=True)
    assert isinstance(found, Reject)
    assert (found.reason, found.detail) == ("reject_test_copies", "t7")
    cut = [
        Example(id="t8", text="it 's a gorgeous , witty film , is n't it ?", label="pos"),
        Example(id="t9", text=":-)", label="pos"),
    ]
    assert (
        reason(judged("It’s a gorgeous, witty film, isn’t it?", test=cut, reject_test_copies=True))
        == "reject_test_copies"
    )
    assert reason(judged("It's a gorgeous, witty film.", test=cut, reject_test_copies=True)) == ""
    assert [reason(judged(text, test=cut, reject_test_copies=True)) for text in (":-)", ":-(")] == [
        "reject_test_copies",
        "",
    ]
    assert reason(judged("a film for the ages.", test=held_out, reject_test_copies=False)) == ""


@pytest.mark.parametrize(
    "text",
    [
        "very very very very very good",
        "good film, good film, good film, good film",
        "bad a bad b bad c bad d bad",
        "哈哈哈哈哈哈哈",
    ],
)
def test_a_text_that_repeats_itself_is_rejected(text: str) -> None:
    assert reason(judged(text, max_repetition=0.5)) == "max_repetition"


@pytest.mark.parametrize(
    "text",
    [
        "Awful.",
        "No, no, no!",
        "It is what it is, and what it is is good.",
        LONG.text + " Really.",
        "",
    ],
)
def test_a_text_that_does_not_passes(text: str) -> None:
    assert reason(judged(text, max_repetition=0.5)) == ""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcdef"), max_size=12))
def test_repetition_is_a_share_and_grows_when_a_text_is_said_again(found: list[str]) -> None:
    assert 0 <= repetition(found) <= 1
    assert repetition(found * 3) >= repetition(found)


def test_lengths_are_counted_in_words() -> None:
    assert reason(judged("...!", min_words=1)) == "min_words"
    assert reason(judged("Awful.", min_words=1)) == ""
    assert reason(judged("Well-made but mush-hearted.", min_words=6)) == "min_words"
    assert reason(judged("Well-made but mush-hearted.", max_words=5)) == ""
    assert reason(judged("Well-made but mush-hearted.", max_words=4)) == "max_words"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Очень хороший фильм", "max_foreign_script"),
        ("Un très bon film, naïve façade", ""),
        ("Кино is the best band in the whole wide world", ""),
        ("12 / 10", ""),
        ("这部电影很好", "max_foreign_script"),
    ],
)
def test_letters_of_a_script_that_no_real_row_uses_are_another_language(
    text: str, expected: str
) -> None:
    assert reason(judged(text, max_foreign_script=0.3)) == expected


def test_the_scripts_of_japanese_are_one() -> None:
    real = [Example(id="r", text="この映画は好きだ", label="pos")]
    assert reason(judged("スター", real, max_foreign_script=0.3)) == ""
    assert reason(judged("A star", real, max_foreign_script=0.3)) == "max_foreign_script"
    assert set(count_scripts("ＡＢ")) == {"LATIN"}


def test_real_rows_without_letters_speak_for_no_language() -> None:
    assert (
        reason(judged("a", [Example(id="r", text="4/5", label="pos")], max_foreign_script=0.3))
        == ""
    )


def test_a_low_label_mass_is_rejected_where_it_is_known() -> None:
    row_filter = RowFilter([], FilterSettings(**OFF, min_label_mass=0.1))
    for number, (mass, expected) in enumerate(((0.0999, "min_label_mass"), (0.1, ""), (None, ""))):
        assert (
            reason(row_filter.check(row(f"text {number}").model_copy(update={"label_mass": mass})))
            == expected
        )


def test_a_perplexity_outside_the_band_is_rejected() -> None:
    row_filter = RowFilter([], FilterSettings(**OFF, perplexity=[5, 50]))
    for number, (value, expected) in enumerate(
        ((4.9, "perplexity"), (5, ""), (50, ""), (50.1, "perplexity"))
    ):
        assert (
            reason(row_filter.check(row(f"text {number}").model_copy(update={"perplexity": value})))
            == expected
        )
    unknown = row_filter.check(row("text"))
    assert isinstance(unknown, Reject)
    assert (unknown.reason, unknown.detail.partition(":")[0]) == ("perplexity", "unknown")


REVIEWS = [
    Example(id=f"{label}{i}", text=f"{text} {thing}", label=label)
    for label, text in (("pos", "a wonderful, charming"), ("neg", "a terrible, boring"))
    for i, thing in enumerate(("film", "story", "cast", "show"))
]


def test_a_classifier_of_the_real_rows_may_contradict_a_label() -> None:
    """Only where it is certain: what it has not seen passes."""
    row_filter = RowFilter(REVIEWS, FilterSettings(**OFF, max_disagreement=0.8))
    found = row_filter.check(row("Terrible, simply boring."))
    assert isinstance(found, Reject)
    assert found.reason == "max_disagreement"
    assert found.detail.startswith("neg: ")
    for text in (
        "Wonderful, simply charming.",
        "Quite unheard of.",
        "A wonderful film with a boring show",
    ):
        assert reason(row_filter.check(row(text))) == ""
    assert reason(RowFilter(REVIEWS).check(row("Terrible, simply boring."))) == ""


def test_a_classifier_of_one_class_is_refused() -> None:
    with pytest.raises(UserError, match=r"augment\.filter\.max_disagreement"):
        RowFilter(REVIEWS[:3], FilterSettings(max_disagreement=0.8))


@pytest.mark.parametrize(
    "wrong",
    [
        {"perplexity": [5, 5]},
        {"perplexity": [5]},
        {"max_parent_overlap": 0},
        {"max_repetition": 1},
        {"min_label_mass": 2},
        {"leek": True},
    ],
)
def test_thresholds_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        FilterSettings(**wrong)


def test_a_perplexity_that_no_row_will_have_is_refused_before_the_lm_is_asked() -> None:
    with pytest.raises(pydantic.ValidationError, match=r"remove filter\.perplexity"):
        AugmentSettings.model_validate({"labels": "hard", "filter": {"perplexity": [5, 50]}})
    assert AugmentSettings.model_validate(
        {"filter": {"perplexity": [5, 50]}}
    ).filter.perplexity == [
        5,
        50,
    ]


def test_the_papers_own_samples_pass() -> None:
    """Table 4, under the defaults."""
    real = [LONG, SHORT, Example(id="r2", text="Well-made but mush-hearted.", label="pos")]
    row_filter = RowFilter(real)
    for text in (
        "Groundbreaking, disturbing.",
        "“Gosford Park” takes a leisurely approach to story telling and along the way it mixes "
        "intrigue, comedy, and romance.",
        "Excessively talky, occasionally absurd and much too long, Munich is a fascinating mess.",
    ):
        assert (
            reason(
                row_filter.check(row(text).model_copy(update={"parents": [one.id for one in real]}))
            )
            == ""
        )


# Remedies -----------------------------------------------------------------------------------------


def test_the_remedy_is_that_of_the_most_frequent_reason() -> None:
    assert "max_tokens" in suggest_remedy({"repeat": 3, "unfinished": 30})
    assert "temperature" in suggest_remedy({"repeat": 30, "unfinished": 3})
    assert "test rows" in suggest_remedy({"reject_test_copies": 1})
    assert suggest_remedy({}) == suggest_remedy({"new reason": 1}) == ""


def test_every_key_that_a_remedy_names_exists() -> None:
    import re

    for key in re.findall(r"augment\.([a-z_.]*[a-z])", " ".join(REMEDIES.values())):
        first, _, rest = key.partition(".")
        assert first in AugmentSettings.model_fields
        assert not rest or rest in FilterSettings.model_fields
