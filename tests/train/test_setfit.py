"""SetFit with a tiny random encoder; most tests are skipped if the library is not installed."""

import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from tiny_rows import CLASSES, ROWS, TEXTS, VALIDATION

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.layout import Cell, TrialKey
from gpt3mix_cli.records import Example
from gpt3mix_cli.settings import SetFitSettings
from gpt3mix_cli.train import Classifier, TrialData, TrialRunner, open_classifier
from gpt3mix_cli.train.saved_models import load_saved_model, save_model

needs_setfit = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("setfit"), reason="setfit is not installed"),
]


def open_setfit(encoder: Path, **options: object) -> Classifier:
    settings = {
        "kind": "setfit",
        "model": str(encoder),
        "iterations": 2,
        "lr": 1e-3,
        "max_length": 16,
        **options,
    }
    return open_classifier(SetFitSettings.model_validate(settings), CLASSES)


def test_without_the_library_the_message_says_how_to_install_it(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the library `setfit`") as caught:
        open_setfit(tiny_encoder)
    assert "pip install 'gpt3mix[setfit]'" in caught.value.hint


class TestWithTheLibrary:
    pytestmark = needs_setfit

    def test_fits_learn_are_independent_and_depend_on_the_seed(
        self, tiny_encoder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """And nothing is written to the terminal."""
        classifier = open_setfit(tiny_encoder)
        fit = classifier.fit(ROWS, VALIDATION, 2**62)
        first = classifier.predict_proba(TEXTS)
        assert fit.valid_accuracy >= 0.75
        assert first.shape == (len(TEXTS), 2)
        assert first.sum(1) == pytest.approx(1)
        classifier.fit(ROWS[:4], VALIDATION, 1)
        assert np.abs(classifier.predict_proba(TEXTS) - first).max() > 1e-4
        classifier.fit(ROWS, VALIDATION, 2**62)
        assert classifier.predict_proba(TEXTS).tobytes() == first.tobytes()
        assert capfd.readouterr() == ("", "")

    def test_pairs_grow_with_the_rows_and_not_with_their_square(
        self, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By default the library keeps the pairs of every two rows and trains on some of them."""
        import setfit.trainer

        datasets = []

        class RecordedDataset(setfit.trainer.ContrastiveDataset):
            def __init__(self, *arguments: object, **options: object) -> None:
                super().__init__(*arguments, **options)
                datasets.append(self)

        monkeypatch.setattr(setfit.trainer, "ContrastiveDataset", RecordedDataset)
        rows = ROWS * (64 // len(ROWS))
        open_setfit(tiny_encoder, iterations=1, batch_size=4).fit(rows, VALIDATION, 0)
        assert len(rows) <= len(datasets[-1].pos_pairs) < len(rows) + 4
        assert len(datasets[-1]) == 2 * len(rows)

    def test_a_soft_label_counts_as_its_most_probable_class(self, tiny_encoder: Path) -> None:
        classifier = open_setfit(tiny_encoder)
        classifier.fit(ROWS, VALIDATION, 0)
        soft = classifier.predict_proba(TEXTS)
        classifier.fit(
            [
                row.model_copy(
                    update={"probs": {name: float(name == row.label) for name in CLASSES}}
                )
                for row in ROWS
            ],
            VALIDATION,
            0,
        )
        assert classifier.predict_proba(TEXTS).tobytes() == soft.tobytes()

    def test_a_class_without_rows_gets_probability_zero(self, tiny_encoder: Path) -> None:
        classifier = open_classifier(
            SetFitSettings(kind="setfit", model=str(tiny_encoder), iterations=1), ["odd", *CLASSES]
        )
        classifier.fit(
            [row.model_copy(update={"probs": {"odd": 0.0, **row.probs}}) for row in ROWS],
            VALIDATION,
            0,
        )
        values = classifier.predict_proba(TEXTS)
        assert (values[:, 0] == 0).all()
        assert values.sum(1) == pytest.approx(1)

    def test_it_is_pickled_as_settings_and_about_depends_on_them(self, tiny_encoder: Path) -> None:
        classifier = open_setfit(tiny_encoder)
        assert pickle.loads(pickle.dumps(classifier)).about == classifier.about
        assert classifier.threads == 1
        for options in (
            {"iterations": 3},
            {"epochs": 2},
            {"batch_size": 4},
            {"lr": 0.1},
            {"max_length": 8},
        ):
            assert open_setfit(tiny_encoder, **options).about != classifier.about
        assert open_setfit(tiny_encoder, name="x", trials=3).about == classifier.about

    def test_a_saved_model_predicts_the_same(self, tiny_encoder: Path, tmp_path: Path) -> None:
        """It is plain weights without a pickle, and the card says what it is."""
        settings = SetFitSettings(kind="setfit", model=str(tiny_encoder), iterations=1)
        real = [Example(id=row.id, text=row.text, label=row.label) for row in ROWS]
        runner = TrialRunner(
            open_classifier(settings, CLASSES),
            TrialKey(Cell("t", {}, "1%", 0), "none", "setfit"),
            CLASSES,
            TrialData(real, VALIDATION, VALIDATION),
            42,
        )
        row = runner.run((0, 0)).row
        assert row.status == "ok"
        save_model(runner, [row], settings, tmp_path / "model")
        assert not [
            path
            for path in (tmp_path / "model").rglob("*")
            if path.suffix in (".pkl", ".bin", ".pt")
        ]
        assert "fine-tuned by SetFit" in (tmp_path / "model" / "README.md").read_text()
        assert (
            json.loads((tmp_path / "model" / "gpt3mix.json").read_text())["classifier"]["kind"]
            == "setfit"
        )
        saved = load_saved_model(tmp_path / "model")
        assert saved.classes == CLASSES
        assert (
            saved.predict_proba(TEXTS).tobytes() == runner.classifier.predict_proba(TEXTS).tobytes()
        )

    def test_a_missing_model_is_a_user_error(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="cannot be loaded"):
            open_setfit(tmp_path / "nowhere").probe()
