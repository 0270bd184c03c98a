"""Copies within a task are found and reported."""

import pytest

from gpt3mix_cli.duplicates import copy_key, describe_copies, find_conflicts
from gpt3mix_cli.records import Example


def rows(*texts: tuple[str, str], split: str = "t") -> list[Example]:
    return [
        Example(id=f"{split}{number}", text=text, label=label)
        for number, (text, label) in enumerate(texts)
    ]


def test_a_text_with_two_labels_names_the_first_row_with_another_one() -> None:
    labelled = [("A", "p"), ("b", "n"), ("a!", "n"), ("a", "p"), ("b", "n"), ("A.", "q")]
    assert find_conflicts(labelled) == {0: 2, 2: 0, 3: 2, 5: 0}


def test_each_kind_of_copy_is_one_warning_with_its_count_and_an_example() -> None:
    train = rows(
        ("A warm film.", "p"), ("dull", "n"), ("a warm film", "n"), ("dull", "n"), ("Dull !", "n")
    )
    validation = rows(("dull", "n"), ("new", "p"), split="v")
    test = rows(("DULL", "n"), ("A  warm film.", "p"), ("newer", "p"), split="x")
    assert list(describe_copies("films", train, validation, test)) == [
        "task 'films': 1 training row is a copy, but for case, punctuation or spacing, of a "
        "training row with another label: t2 = t0 ('a warm film'); "
        "correct or remove one of each",
        "task 'films': 2 training rows are copies (1 but for case, punctuation or spacing) of "
        "other training rows, such as t3 = t1 ('dull'); remove them, unless they are meant",
        "task 'films': 1 validation row is an exact copy of a training row: v0 = t1 "
        "('dull'); early stopping on them favours memorizing; remove one of each",
        "task 'films': 2 test rows are copies (2 but for case, punctuation or spacing) of "
        "training rows, such as x0 = t1 ('DULL'); accuracy on them says nothing about new text; "
        "subsample.decontaminate: drop leaves such rows out of train",
    ]
    assert not list(describe_copies("films", train[:2], validation[1:], test[2:]))


@pytest.mark.parametrize(
    ("first", "second", "is_copy"),
    [
        ("isn 't it , though ?", "Isn't it, though?", True),
        ("``good'' film", '"good" film', True),
        ("caf\u00e9", "cafe\u0301", True),
        ("a\u00a0b\u200b", "a b", True),
        ("good \U0001f600", "good \U0001f620", False),  # emoji
        ("\u0926\u093f\u0928", "\u0926\u0940\u0928", False),  # Hindi: day, poor
        ("!!!", "???", False),
        ("c++", "c", False),
    ],
)
def test_copies_differ_in_case_punctuation_and_spacing_only(
    first: str, second: str, is_copy: bool
) -> None:
    assert (copy_key(first) == copy_key(second)) == is_copy
