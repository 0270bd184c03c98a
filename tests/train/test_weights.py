"""`synthetic_weight: auto` and `row_weights: dimp`, with the linear classifier."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt3mix_cli.errors import Callbacks, StoppedShort
from gpt3mix_cli.layout import Cell, TrialKey, find_trials, weight_path
from gpt3mix_cli.records import Augmented, Example, StageOptions, StageResult, Trial, read_records
from gpt3mix_cli.settings import LinearSettings
from gpt3mix_cli.train import (
    WEIGHTS,
    SyntheticSet,
    TrialData,
    TrialJob,
    TrialRunner,
    open_classifier,
    train,
    train_with_best_weight,
)
from gpt3mix_cli.train.row_weights import dimp_weights
from gpt3mix_cli.train.saved_models import load_saved_model, save_model
from gpt3mix_cli.train.targets import to_one_hot

CLASSES = ["pos", "neg"]
WORDS = {"pos": ("good", "fine", "warm", "funny"), "neg": ("bad", "dull", "cold", "sad")}


def rows(prefix: str, numbers: range) -> list[Example]:
    return [
        Example(
            id=f"{prefix}{label}{number}",
            text=f"{WORDS[label][number % 4]} film number {number}",
            label=label,
        )
        for number in numbers
        for label in CLASSES
    ]


REAL = rows("t", range(1))  # one word of each class
VALIDATION, TEST = rows("v", range(8)), rows("e", range(8, 20))


def synthetic(right: bool = True) -> list[Augmented]:
    other = {"pos": "neg", "neg": "pos"}
    return [
        to_one_hot(row if right else row.model_copy(update={"label": other[row.label]}), CLASSES)
        for row in rows("s", range(20, 32))
    ]


def runner(given: list[Augmented], test: list[Example] = TEST, **settings: Any) -> TrialRunner:
    chosen = LinearSettings(kind="linear", synthetic_weight="auto", **settings)
    key = TrialKey(Cell("task", {}, "1%", 0), "gpt3mix", "linear")
    data = TrialData(REAL, VALIDATION, test, {0: SyntheticSet(given, {"kind": "gpt3mix"})})
    return TrialRunner(open_classifier(chosen, CLASSES), key, CLASSES, data, 42, chosen)


TRIALS = [TrialJob(0), TrialJob(5)]


def go(folder: Path, given: TrialRunner, **options: Any) -> tuple[StageResult, list[Trial]]:
    output = folder / "trials" / "gpt3mix.linear.jsonl"
    result = train_with_best_weight(given, TRIALS, output, output, StageOptions(**options))
    return result, list(read_records(output, Trial))


def test_rows_that_help_get_weight_and_rows_that_harm_none(tmp_path: Path) -> None:
    _, helped = go(tmp_path / "a", runner(synthetic()))
    result, harmed = go(tmp_path / "b", runner(synthetic(right=False)))
    assert {row.synthetic_weight for row in helped} < {0.1, 0.3, 1.0}
    assert {row.synthetic_weight for row in harmed} == {0.0}
    assert result.manifest.counts["synthetic_weight"] == 0
    assert [row.trial for row in harmed] == [0, 5]


def test_weight_zero_is_no_augmentation(tmp_path: Path) -> None:
    _, harmed = go(tmp_path, runner(synthetic(right=False)))
    plain = runner([])
    plain.data.synthetic.clear()  # type: ignore[attr-defined]
    none = tmp_path / "none.jsonl"
    train(plain, TRIALS, none)
    assert [row.accuracy for row in harmed] == [row.accuracy for row in read_records(none, Trial)]


def test_a_tie_goes_to_the_smaller_weight(tmp_path: Path) -> None:
    """Without validation words in the rows, no weight changes a prediction."""
    given = [
        row.model_copy(update={"text": f"unknown{number}"})
        for number, row in enumerate(synthetic())
    ]
    assert {row.synthetic_weight for row in go(tmp_path, runner(given))[1]} == {0.0}


def test_test_rows_play_no_part(tmp_path: Path) -> None:
    other = {"pos": "neg", "neg": "pos"}
    flipped = [row.model_copy(update={"label": other[row.label]}) for row in TEST]
    _, first = go(tmp_path / "a", runner(synthetic()))
    _, second = go(tmp_path / "b", runner(synthetic(), flipped))
    assert [row.synthetic_weight for row in first] == [row.synthetic_weight for row in second]
    assert [row.accuracy for row in first] != [row.accuracy for row in second]


def test_a_killed_run_keeps_the_weights_that_were_tried(tmp_path: Path) -> None:
    result, expected = go(tmp_path, runner(synthetic()))
    paths = [weight_path(result.output, weight) for weight in WEIGHTS]
    before = [path.stat().st_mtime_ns for path in paths]
    result.output.unlink()
    _, again = go(tmp_path, runner(synthetic()))
    assert again == expected
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert go(tmp_path, runner(synthetic()))[0].skipped
    assert find_trials(tmp_path) == [result.output], "a report must not read the candidates"


def test_cells_that_choose_other_weights_have_equal_settings(tmp_path: Path) -> None:
    """Otherwise a report would not average them."""
    hashes = set()
    for name, right in (("a", True), ("b", False)):
        hashes |= {row.settings for row in go(tmp_path / name, runner(synthetic(right)))[1]}
    assert len(hashes) == 1


@pytest.mark.parametrize("skipped", [False, True])
def test_the_saved_model_has_the_chosen_weight(tmp_path: Path, skipped: bool) -> None:
    first = runner(synthetic(right=False))
    _, trials = go(tmp_path, first)
    if skipped:
        first = runner(synthetic(right=False))
        assert go(tmp_path, first)[0].skipped
    settings = first.target_settings
    assert isinstance(settings, LinearSettings)
    callbacks = Callbacks(warn=pytest.fail)
    best = save_model(first, trials, settings, tmp_path / "model", callbacks=callbacks)
    assert best.synthetic_weight == 0
    classifier = load_saved_model(tmp_path / "model")
    right = [
        CLASSES[probs.argmax()] == row.label
        for row, probs in zip(
            TEST, classifier.predict_proba([row.text for row in TEST]), strict=True
        )
    ]
    assert sum(right) / len(TEST) == pytest.approx(best.accuracy, abs=1e-6)


def test_a_weight_that_cannot_be_trained_does_not_forbid_the_others(tmp_path: Path) -> None:
    """Without the synthetic rows, no row has the class `neg`."""
    given = runner(synthetic())
    real = [row for row in REAL if row.label == "pos"]
    given.data = replace(given.data, real=real)
    _, trials = go(tmp_path, given)
    assert {row.synthetic_weight for row in trials} < {0.1, 0.3, 1.0}


def test_failed_trials_are_written_if_no_weight_works(tmp_path: Path) -> None:
    given = runner([])
    given.data = replace(given.data, real=[row for row in REAL if row.label == "pos"])
    with pytest.raises(StoppedShort, match="2 of 2 trials failed"):
        go(tmp_path, given)
    (path,) = find_trials(tmp_path)
    assert [row.status for row in read_records(path, Trial)] == ["failed", "failed"]


# Rows weighted one by one -------------------------------------------------------------------------


def test_a_row_whose_label_the_real_rows_deny_weighs_less() -> None:
    real = [to_one_hot(row, CLASSES) for row in rows("t", range(8))]
    given = synthetic()
    wrong = given[0].model_copy(update={"label": "neg", "probs": {"pos": 0.0, "neg": 1.0}})
    weights = dimp_weights(real, [wrong, *given[1:]], CLASSES)
    assert sum(weights) / len(weights) == pytest.approx(1)
    assert weights[0] == min(weights)
    assert weights[0] < 0.5 * weights[1]


def test_a_soft_label_is_an_expectation() -> None:
    real = [to_one_hot(row, CLASSES) for row in rows("t", range(8))]
    even = [row.model_copy(update={"probs": {"pos": 0.5, "neg": 0.5}}) for row in synthetic()]
    assert dimp_weights(real, even, CLASSES) == pytest.approx([1.0] * len(even))


def test_rows_of_one_class_teach_nothing() -> None:
    real = [to_one_hot(row, CLASSES) for row in rows("t", range(8))]
    given = [row for row in synthetic() if row.label == "pos"]
    weights = dimp_weights(real, given, CLASSES)
    assert all(weight > 0 for weight in weights)
    assert dimp_weights(given, given, CLASSES) == pytest.approx([1.0] * len(given))


def test_dimp_changes_the_trial(tmp_path: Path) -> None:
    mixed = synthetic()[:12] + synthetic(right=False)[12:]
    scores = []
    for name in ("none", "dimp"):
        _, trials = go(tmp_path / name, runner(mixed, row_weights=name))
        candidates = weight_path(tmp_path / name / "trials" / "gpt3mix.linear.jsonl", 1.0)
        (first, *_) = (json.loads(line) for line in candidates.read_text().splitlines())
        scores.append(first["ece"])
        assert len(trials) == 2
    assert scores[0] != scores[1]
