"""SetFit behind the protocol, with a tiny random encoder; what needs the library is skipped where it is not installed."""

import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from tiny_rows import CLASSES, ROWS, TEXTS, VALIDATION

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.records import Example
from gpt3mix_cli.settings import SetFitSettings
from gpt3mix_cli.train import Cell, Classifier, TrialRunner, open_classifier
from gpt3mix_cli.train.saved_models import load, save_model

needs_setfit = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("setfit"), reason="setfit is not installed"),
]


def resources(encoder: Path, **options: object) -> Classifier:
    settings = {
        "kind": "setfit",
        "model": str(encoder),
        "iterations": 2,
        "lr": 1e-3,
        "max_length": 16,
        **options,
    }
    return open_classifier(SetFitSettings.model_validate(settings), CLASSES)


def test_without_the_library_the_remedy_is_told(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the library `setfit`") as caught:
        resources(tiny_encoder)
    assert "pip install 'gpt3mix[setfit]'" in caught.value.hint


class TestWithTheLibrary:
    pytestmark = needs_setfit

    def test_fits_learn_do_not_know_of_each_other_and_depend_on_the_seed(
        self, tiny_encoder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """And nothing is written to the terminal."""
        classifier = resources(tiny_encoder)
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
        """The library's default keeps every two rows in memory, and shows as many of them as `iterations` says."""
        import setfit.trainer

        made = []

        class Kept(setfit.trainer.ContrastiveDataset):
            def __init__(self, *arguments: object, **options: object) -> None:
                super().__init__(*arguments, **options)
                made.append(self)

        monkeypatch.setattr(setfit.trainer, "ContrastiveDataset", Kept)
        rows = ROWS * (64 // len(ROWS))
        resources(tiny_encoder, iterations=1, batch_size=4).fit(rows, VALIDATION, 0)
        assert len(rows) <= len(made[-1].pos_pairs) < len(rows) + 4
        assert len(made[-1]) == 2 * len(rows)

    def test_of_a_soft_label_the_likeliest_class_counts(self, tiny_encoder: Path) -> None:
        classifier = resources(tiny_encoder)
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

    def test_a_class_that_no_row_has_gets_probability_zero(self, tiny_encoder: Path) -> None:
        classifier = open_classifier(
            SetFitSettings(kind="setfit", model=str(tiny_encoder), iterations=1), ["odd", *CLASSES]
        )
        classifier.fit(
            [row.model_copy(update={"probs": {"odd": 0.0, **row.probs}}) for row in ROWS],
            VALIDATION,
            0,
        )
        found = classifier.predict_proba(TEXTS)
        assert (found[:, 0] == 0).all()
        assert found.sum(1) == pytest.approx(1)

    def test_it_travels_as_settings_and_its_settings_are_known_by_about(
        self, tiny_encoder: Path
    ) -> None:
        classifier = resources(tiny_encoder)
        assert pickle.loads(pickle.dumps(classifier)).about == classifier.about
        assert classifier.threads == 1
        for options in (
            {"iterations": 3},
            {"epochs": 2},
            {"batch_size": 4},
            {"lr": 0.1},
            {"max_length": 8},
        ):
            assert resources(tiny_encoder, **options).about != classifier.about
        assert resources(tiny_encoder, name="x", trials=3).about == classifier.about

    def test_a_saved_model_labels_as_it_did(self, tiny_encoder: Path, tmp_path: Path) -> None:
        """From plain weights, without a pickle; the card says what it is."""
        settings = SetFitSettings(kind="setfit", model=str(tiny_encoder), iterations=1)
        real = [Example(id=row.id, text=row.text, label=row.label) for row in ROWS]
        work = TrialRunner(
            open_classifier(settings, CLASSES),
            Cell("t", "1%", "none", "setfit", {}, 0, CLASSES),
            real,
            {},
            VALIDATION,
            VALIDATION,
            42,
        )
        row = work.trial((0, 0)).row
        assert row.status == "ok"
        save_model(work, [row], settings, tmp_path / "model")
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
        found, classes = load(tmp_path / "model")
        assert classes == CLASSES
        assert (
            found.predict_proba(TEXTS).tobytes() == work.classifier.predict_proba(TEXTS).tobytes()
        )

    def test_a_model_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="cannot be loaded"):
            resources(tmp_path / "nowhere").probe()
