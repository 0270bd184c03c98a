"""The gate: nothing copied, nothing twice, and a reason for each."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.augment.quality import Gate, same_text
from gpt3mix_cli.records import Augmented, Example, Reject

REAL = [Example(id="r0", text="A gorgeous, witty film.", label="pos"), Example(id="r1", text="So bad", label="neg")]


def row(text: str, number: int = 0) -> Augmented:
    return Augmented(
        id=f"gpt3mix-{number:05d}", text=text, label="pos", probs={"pos": 1, "neg": 0}, method="gpt3mix", parents=["r1", "r0"], request=number
    )


def reason(found: Augmented | Reject) -> str:
    return found.reason if isinstance(found, Reject) else ""


@pytest.mark.parametrize("text", ["So bad", "so  BAD", " So\tbad ", "SO BAD\u00a0"])
def test_a_copy_of_a_real_row_is_rejected(text: str) -> None:
    """Whatever its case and spacing; the reject says what, whose and which."""
    found = Gate(REAL).check(row(text, 7))
    assert found == Reject(request=7, method="gpt3mix", parents=["r1", "r0"], text=text, reason="copy_of_real", detail="r1")


def test_a_repeat_is_rejected_and_the_first_is_kept() -> None:
    gate = Gate(REAL)
    first = row("Quite new.", 3)
    assert gate.check(first) is first
    again = gate.check(row("quite NEW.", 5))
    assert (reason(again), again.request) == ("repeat", 5)
    assert isinstance(again, Reject)
    assert again.detail == first.id
    assert reason(gate.check(row("quite new.", 9))) == "repeat"


@pytest.mark.parametrize("text", ["So bad.", "So bad so bad", "Sobad", "S o bad", "So bad!"])
def test_a_sign_or_a_word_more_makes_another_text(text: str) -> None:
    assert reason(Gate(REAL).check(row(text))) == ""


def test_what_was_rejected_before_passes_as_it_is() -> None:
    """And its text does not count as kept."""
    gate = Gate(REAL)
    unfinished = Reject(request=1, method="gpt3mix", parents=[], text="Quite new.", reason="unfinished")
    assert gate.check(unfinished) is unfinished
    assert reason(gate.check(row("Quite new.", 2))) == ""


def test_gates_know_nothing_of_each_other() -> None:
    assert reason(Gate(REAL).check(row("Quite new."))) == ""
    assert reason(Gate(REAL).check(row("Quite new."))) == ""
    assert reason(Gate([]).check(row("So bad"))) == ""


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text("aA bB\n", min_size=1, max_size=4), max_size=12))
def test_what_is_kept_is_new_and_what_is_not_kept_is_not(texts: list[str]) -> None:
    real = [Example(id="r0", text="a b", label="pos")]
    gate = Gate(real)
    seen = {same_text("a b")}
    for number, text in enumerate(texts):
        assert (reason(gate.check(row(text, number))) == "") == (same_text(text) not in seen)
        seen.add(same_text(text))


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=20))
def test_same_text_is_stable_and_blind_to_spacing(text: str) -> None:
    assert same_text(f"  {text}\n") == same_text(text)
    assert same_text(same_text(text)).split() == [word.casefold() for word in same_text(text).split()]
