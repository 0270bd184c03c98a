"""The metrics of a trial against cases calculated by hand."""

import math

import numpy as np
import pytest

from gpt3mix_cli.train import metrics

CLASSES = ["a", "b", "c"]


def certain(*predicted: int) -> list[list[float]]:
    return [[float(column == number) for column in range(3)] for number in predicted]


def test_majority_is_the_fraction_of_the_most_frequent_label() -> None:
    assert metrics.majority(["a", "b", "b"]) == 0.666667
    assert metrics.majority(["a"] * 5) == 1.0


def test_three_classes_by_hand() -> None:
    # truth a a b b c c, predicted a b b b a c
    scores = metrics.score(certain(0, 1, 1, 1, 0, 2), ["a", "a", "b", "b", "c", "c"], CLASSES)
    assert scores["accuracy"] == 0.666667
    # F1: a 2*1/(2+2) = 1/2; b 2*2/(3+2) = 4/5; c 2*1/(1+2) = 2/3
    assert scores["macro_f1"] == round((1 / 2 + 4 / 5 + 2 / 3) / 3, 6)
    # MCC (Gorodkin): c*s - sum p*t over roots, with c = 4, s = 6, p = (2, 3, 1), t = (2, 2, 2)
    assert scores["mcc"] == round((4 * 6 - 12) / math.sqrt((36 - 14) * (36 - 12)), 6)
    assert scores["confusion"] == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    assert scores["predicted_classes"] == 3


def test_rows_of_the_confusion_are_true_classes_in_the_tasks_order() -> None:
    assert metrics.score([[0.1, 0.9]] * 3, ["y", "y", "x"], ["y", "x"])["confusion"] == [
        [0, 2],
        [0, 1],
    ]
    assert metrics.score([[0.9, 0.1]] * 3, ["y", "y", "x"], ["y", "x"])["confusion"] == [
        [2, 0],
        [1, 0],
    ]


def test_a_class_without_rows_or_predictions_counts_as_zero_in_macro_f1() -> None:
    scores = metrics.score(certain(0, 0), ["a", "b"], CLASSES)
    assert scores["macro_f1"] == round((2 / 3) / 3, 6)  # a 2*1/(2+1); b and c nothing
    assert scores["predicted_classes"] == 1
    assert scores["mcc"] == 0.0


def test_ece_is_zero_for_a_calibrated_classifier() -> None:
    # four rows at 0.75, three of them right; two rows at 1.0, both right
    probabilities = [[0.75, 0.25]] * 4 + [[0.0, 1.0]] * 2
    assert metrics.score(probabilities, ["a", "a", "a", "b", "b", "b"], ["a", "b"])["ece"] == 0.0


def test_ece_weighs_the_gap_of_each_bin_by_its_rows() -> None:
    # Eight rows say 0.9 and half are right: gap 0.4. Two rows say 0.6 and both are right: gap 0.4
    # on the other side.
    probabilities = [[0.9, 0.1]] * 8 + [[0.6, 0.4]] * 2
    labels = ["a", "b"] * 4 + ["a", "a"]
    assert metrics.score(probabilities, labels, ["a", "b"])["ece"] == pytest.approx(
        0.8 * 0.4 + 0.2 * 0.4, abs=1e-6
    )
    # over-confident by a third throughout
    assert metrics.score([[1.0, 0.0]] * 3, ["a", "a", "b"], ["a", "b"])["ece"] == 0.333333


def test_gaps_of_different_bins_do_not_cancel() -> None:
    # 1.0 and wrong, 0.5 and right: the mean confidence equals the mean accuracy + 0.25, but both
    # bins are far off.
    assert metrics.score([[1.0, 0.0], [0.5, 0.5]], ["b", "a"], ["a", "b"])["ece"] == 0.75


def test_float32_probabilities_above_one_by_rounding_stay_in_the_last_bin() -> None:
    probabilities = np.array([[1.0000001, 0.0], [0.0, 1.0]], dtype=np.float32)
    assert metrics.score(probabilities, ["a", "b"], ["a", "b"])["ece"] == pytest.approx(0, abs=1e-6)


def test_a_test_set_of_one_class_is_scored_without_a_warning() -> None:
    scores = metrics.score([[0.9, 0.1]] * 2, ["a", "a"], ["a", "b"])
    assert (scores["accuracy"], scores["mcc"]) == (1.0, 0.0)
