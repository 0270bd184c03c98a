"""The classes of a label column, and words for them."""

from pathlib import Path

import pytest

from gpt3mix_cli.classes import (
    auto_labels,
    label_words,
    merge_spellings,
    same_first_words,
    similar_class,
)
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.data import load_splits
from gpt3mix_cli.errors import Callbacks, UserError
from gpt3mix_cli.settings import Task


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["billing_issue", "techSupport", "other-stuff"], "billing issue,tech support,other stuff"),
        (["label_a", "label_b"], "a,b"),
        (["NLP", "Rückgabe"], "NLP,rückgabe"),
        (["1", "2"], "1,2"),
        (["a_b", "a-b"], "a_b,a-b"),  # words that are equal help nobody
        (["account", "account_closed"], "account,account closed"),
    ],
)
def test_words_for_classes_are_readable_and_distinct(classes: list[str], words: str) -> None:
    assert list(label_words(classes).values()) == words.split(",")


def test_a_spelling_means_the_more_frequent_one() -> None:
    counts = {"billing": 9, "Billing": 2, " BILLING ": 1, "other": 3, "1": 5, "1.0": 1}
    assert merge_spellings(counts) == {"Billing": "billing", " BILLING ": "billing", "1.0": "1"}


def test_words_that_begin_alike() -> None:
    assert same_first_words(["card lost", "Card late", "cash"]) == ["card lost", "Card late"]


def test_auto_labels_are_those_of_the_data(tmp_path: Path) -> None:
    text = "text,label\n" + "".join(
        f"text {number},{label}\n"
        for number in range(6)
        for label in ("sales_tax", "delivery", "Delivery")
    )
    (tmp_path / "a.csv").write_text(text)
    config = tmp_path / "a.yaml"
    config.write_text(
        "task: {data: {kind: files, train: a.csv}, labels: auto}\nsubsample: {levels: [full]}\n"
    )
    task = load_experiments(config)[0].task
    assert task.labels == {"Delivery": "delivery", "sales_tax": "sales tax"}
    assert {row.label for row in load_splits(task, 0).train} == {"Delivery", "sales_tax"}


def test_blank_cells_are_no_class(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,p\nb,n\nc, \nd,\n")
    assert auto_labels({"kind": "files", "train": tmp_path / "a.csv"})[0].keys() == {"n", "p"}


def test_auto_needs_two_classes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,p\nb,p\n")
    with pytest.raises(UserError, match="has one class only: p"):
        auto_labels({"kind": "files", "train": tmp_path / "a.csv"})


@pytest.mark.parametrize(
    ("label", "near"),
    [
        ("Biling", "Billing"),
        ("biling ", "Billing"),
        ("abbr", ""),
        ("team 2", ""),
        ("billing 2", ""),
    ],
)
def test_a_typing_error_is_near_to_its_class(label: str, near: str) -> None:
    assert similar_class(label, ["Billing", "Shipping", "team 1"]) == near


def test_a_class_of_few_texts_among_larger_ones_gives_a_warning(tmp_path: Path) -> None:
    text = "".join(f"{label} {n},{label}\n" for n in range(9) for label in ("billing", "shipping"))
    (tmp_path / "a.csv").write_text(f"text,label\n{text}odd,biling\nodder,x\n")
    data = {"kind": "files", "train": tmp_path / "a.csv"}
    warnings: list[str] = []
    labels, _ = auto_labels(data)
    task = Task.model_validate({"name": "t", "data": data, "labels": labels})
    load_splits(task, 0, callbacks=Callbacks(warn=warnings.append))
    assert warnings == [
        "task 't': classes of fewer than 3 different texts: 'biling' (a typing error of "
        "'billing'?), 'x'; add rows, or map them to another class: task.data.values"
    ]


def test_auto_labels_of_the_demo() -> None:
    assert auto_labels({"kind": "demo"}) == ({"neg": "neg", "pos": "pos"}, {})
