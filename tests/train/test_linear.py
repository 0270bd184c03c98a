"""The linear classifier: soft labels are weights, absent classes get 0, nothing is random."""

from pathlib import Path

import numpy as np
import pytest

from gpt3mix_cli.records import Augmented, Example
from gpt3mix_cli.settings import LinearSettings
from gpt3mix_cli.train import open_classifier

SETTINGS = LinearSettings(kind="linear")
CLASSES = ["pos", "neg"]
TEXTS = ["a good film", "a bad film", "an odd film !", "what a waste", "i liked it", "good fun"]
VALIDATION = [
    Example(id="v0", text="good film", label="pos"),
    Example(id="v1", text="bad waste", label="neg"),
]


def row(text: str, pos: float, neg: float | None = None) -> Augmented:
    probs = {"pos": pos, "neg": 1 - pos if neg is None else neg}
    return Augmented(id=f"{text}-{pos}", text=text, label=max(probs, key=probs.get), probs=probs)


def probabilities(
    rows: list[Augmented], seed: int = 0, classes: list[str] = CLASSES, **options: object
) -> np.ndarray:
    classifier = open_classifier(LinearSettings(kind="linear", **options), classes)
    classifier.fit(rows, [v for v in VALIDATION if v.label in classes], seed)
    return classifier.predict_proba(TEXTS)


HARD = [row("a good film", 1), row("a bad film", 0), row("i liked it", 1), row("what a waste", 0)]


def test_a_half_and_half_row_equals_two_half_rows() -> None:
    soft = [row("an odd film !", 0.5), row("an odd film !", 0.5)]
    hard = [row("an odd film !", 1), row("an odd film !", 0)]
    assert probabilities(HARD + soft) == pytest.approx(probabilities(HARD + hard), abs=1e-3)
    assert (
        np.abs(probabilities(HARD + soft) - probabilities([*HARD, hard[0], hard[0]])).max() > 0.02
    )


def test_the_probability_of_a_text_grows_with_its_soft_label() -> None:
    values = [
        probabilities([*HARD, row("an odd film !", probability)])[2, 0]
        for probability in (0.0, 0.2, 0.5, 0.8, 1.0)
    ]
    assert values == sorted(values)
    assert values[-1] - values[0] > 0.2


def test_a_class_without_rows_gets_probability_zero_in_its_own_column() -> None:
    classes = ["odd", "pos", "neg"]
    rows = [
        Augmented(id=r.id, text=r.text, label=r.label, probs={"odd": 0.0, **r.probs}) for r in HARD
    ]
    values = probabilities(rows, classes=classes)
    assert values.shape == (6, 3)
    assert (values[:, 0] == 0).all()
    assert values[0, 1] > 0.5 > values[0, 2]
    assert values.sum(1) == pytest.approx(1)


def test_the_seed_changes_nothing() -> None:
    assert probabilities(HARD, 0).tobytes() == probabilities(HARD, 12345).tobytes()


def test_a_fit_does_not_depend_on_the_one_before() -> None:
    classifier = open_classifier(SETTINGS, CLASSES)
    classifier.fit([row("good", 0), row("bad", 1)], VALIDATION, 0)
    classifier.fit(HARD, VALIDATION, 0)
    assert classifier.predict_proba(TEXTS).tobytes() == probabilities(HARD).tobytes()


def test_punctuation_and_single_characters_count() -> None:
    rows = [row("it is it !", 1), row("it is it ?", 0), row("it is it i", 1), row("it is it a", 0)]
    classifier = open_classifier(SETTINGS, CLASSES)
    classifier.fit(rows, VALIDATION, 0)
    values = classifier.predict_proba(["!", "?", "i", "a"])[:, 0]
    assert (values > 0.5).tolist() == [True, False, True, False]


def test_the_settings_reach_the_model() -> None:
    for options in ({"C": 0.01}, {"ngrams": 1}):
        assert np.abs(probabilities(HARD) - probabilities(HARD, **options)).max() > 1e-3
    assert (
        open_classifier(LinearSettings(kind="linear", name="x", trials=3), CLASSES).about
        == open_classifier(SETTINGS, CLASSES).about
    )
    assert (
        open_classifier(LinearSettings(kind="linear", C=2), CLASSES).about
        != open_classifier(SETTINGS, CLASSES).about
    )


def test_valid_accuracy_is_that_of_the_validation_rows() -> None:
    classifier = open_classifier(SETTINGS, CLASSES)
    turned = [Example(id="v2", text="good film", label="neg")]
    assert classifier.fit(HARD, VALIDATION, 0).valid_accuracy == 1.0
    fit = classifier.fit(HARD, [*VALIDATION, *turned], 0)
    assert fit.valid_accuracy == pytest.approx(2 / 3)
    assert (fit.best_epoch, fit.history) == (None, ())


@pytest.mark.parametrize("classes", [["pos", "neg"], ["pos", "neg", "odd"]])
def test_a_saved_model_predicts_as_before(classes: list[str], tmp_path: Path) -> None:
    rows = [
        Augmented(id=text, text=text, label=label, probs={c: float(c == label) for c in classes})
        for text, label in zip(TEXTS, classes * 3, strict=False)
    ]
    classifier = open_classifier(SETTINGS, classes)
    classifier.fit(rows, [], seed=0)
    classifier.save(tmp_path)
    loaded = open_classifier(SETTINGS, classes)
    loaded.load(tmp_path)
    assert loaded.predict_proba(TEXTS) == pytest.approx(classifier.predict_proba(TEXTS))
