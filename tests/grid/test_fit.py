"""`gpt3mix fit`: the choice by validation accuracy, its reasons, and the saved model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt3mix_cli.cli import main
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.data import load_splits
from gpt3mix_cli.errors import StoppedShort, UserError
from gpt3mix_cli.grid import Grid, choice
from gpt3mix_cli.grid.choice import Candidate, explain_choice
from gpt3mix_cli.grid.fit import fit, largest_level
from gpt3mix_cli.layout import TrialKey
from gpt3mix_cli.records import Trial, read_records
from gpt3mix_cli.settings import Experiment, LinearSettings
from gpt3mix_cli.train.calibration import apply_temperature
from gpt3mix_cli.train.saved_models import load_saved_model

CONFIG = """\
name: shipped
task: {{data: {{kind: demo}}, labels: [pos, neg]}}
subsample: {{levels: [8/class], seeds: 2, validation: 40}}
augment: {{ratio: 1}}
baselines: [{{kind: eda}}]
classifiers: [{classifiers}]
trials: 2
"""
TINY = (
    "{{kind: transformer, name: tiny, model: {encoder}, lr: 3e-3, warmup_epochs: 0, max_epochs: 3,"
    " dtype: float32, device: cpu}}"
)


def write_config(folder: Path, classifiers: str = "{kind: linear}") -> Path:
    config = folder / "shipped.yaml"
    config.write_text(CONFIG.format(classifiers=classifiers))
    return config


def about(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "gpt3mix.json").read_text())
    return values


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fitted linear model, with its results; tests must not write to it."""
    folder = tmp_path_factory.mktemp("linear")
    config = write_config(folder)
    command = ["fit", str(config), "--out", str(folder / "results"), "-q", "-o"]
    assert main([*command, str(folder / "model")]) == 0
    return folder


# The choice --------------------------------------------------------------------------------------


def test_the_combination_with_the_best_validation_accuracy_is_chosen(linear: Path) -> None:
    means = {}
    for method in ("none", "eda"):
        rows = [
            row
            for path in (linear / "results").rglob(f"8-per-class/*/trials/{method}.linear.jsonl")
            for row in read_records(path, Trial)
        ]
        assert len(rows) == 2
        means[method] = sum(row.valid_accuracy or 0 for row in rows) / 2
    saved = about(linear / "model")
    assert {row["method"]: row["accuracy"] for row in saved["candidates"]} == means
    assert saved["trial"]["method"] == max(means, key=lambda method: (means[method], method))


def candidates(*scores: tuple[str, str, float], seeds: int = 2) -> list[Candidate]:
    """Return candidates of (classifier, method, score), best first."""
    experiment = Experiment.model_validate(
        {"name": "x", "task": {"data": {"kind": "demo"}, "labels": ["pos", "neg"]},
         "subsample": {"levels": ["full"]}, "baselines": [{"kind": "eda"}]}
    )  # fmt: skip
    return [
        Candidate(
            experiment,
            method,
            LinearSettings(kind="linear", name=classifier),
            score,
            {(seed, seed): score for seed in range(seeds)},
            None,
        )
        for classifier, method, score in scores
    ]


@pytest.mark.parametrize(
    ("tried", "sentence"),
    [
        (
            [("svm", "none", 0.9), ("svm", "eda", 0.85)],
            "Augmentation did not help svm: the best method, eda, is 5.0 points below real rows "
            "only. The model is trained on real rows only.",
        ),
        (
            [("svm", "none", 0.9), ("svm", "eda", 0.9)],
            "Augmentation did not help svm: the best method, eda, is no better than real rows "
            "only. The model is trained on real rows only.",
        ),
        (
            [("svm", "eda", 0.9), ("net", "none", 0.88), ("svm", "none", 0.85)],
            "eda is 5.0 points above real rows only with svm: ahead in 2 and equal in 0 of 2 "
            "trials.",
        ),
        ([("svm", "none", 0.9)], "No augmentation method was tried with svm."),
    ],
)
def test_the_verdict_says_whether_augmentation_helped(
    tried: Sequence[tuple[str, str, float]], sentence: str
) -> None:
    sentences = explain_choice(candidates(*tried), 40)
    assert sentence in sentences
    assert sentences[0].startswith(f"Chosen: {tried[0][0]} with {tried[0][1]}, validation accuracy")
    assert sentences[-2].startswith("One validation row is 2.5 points")


def test_equal_scores_choose_no_augmentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "read_records", lambda *_: [object()])
    monkeypatch.setattr(
        choice, "_candidate", lambda _, method, *__: candidates(("linear", method, 0.8))[0]
    )
    grid = Grid(load_experiments(write_config(tmp_path)), tmp_path)
    cells = list(grid.cells())
    finished = [
        grid.layout.trials_path(TrialKey(cell, method, "linear"))
        for cell in cells
        for method in ("eda", "none")
    ]
    found = choice.find_candidates(grid, cells, finished)
    assert [item.method for item in found] == ["none", "eda"]


def test_failed_trials_are_no_candidates(tmp_path: Path) -> None:
    grid = Grid(load_experiments(write_config(tmp_path)), tmp_path / "results")
    with pytest.raises(StoppedShort, match="nothing to choose from"):
        choice.find_candidates(grid, list(grid.cells()), set())


@pytest.mark.parametrize(
    ("levels", "largest"),
    [("[1%, 8/class, 50%]", "50%"), ("[full, 100%]", "full"), ("[9/class, 8/class]", "9/class")],
)
def test_trials_at_the_largest_level_choose(tmp_path: Path, levels: str, largest: str) -> None:
    config = write_config(tmp_path)
    grid = Grid(load_experiments(config, [f"subsample.levels={levels}"]), tmp_path)
    assert largest_level(grid) == largest


# The model ---------------------------------------------------------------------------------------


def test_the_model_is_trained_on_training_and_validation_rows(linear: Path) -> None:
    experiment = load_experiments(linear / "shipped.yaml")[0]
    splits = load_splits(experiment.task, experiment.subsample.master_seed, 40)
    rows = about(linear / "model")["rows"]
    assert (rows["train"], rows["validation"]) == (len(splits.train), 40)
    vocabulary = json.loads((linear / "model" / "vocabulary.json").read_text())
    words = {word for row in splits.validation for word in row.text.lower().split()}
    words -= {word for row in splits.train for word in row.text.lower().split()}
    assert any(word in vocabulary for word in words)


def test_predictions_are_calibrated(linear: Path) -> None:
    model, saved = load_saved_model(linear / "model"), about(linear / "model")
    texts = ["A dull film.", "A joy from start to end."]
    raw = model.classifier.predict_proba(texts)
    assert model.temperature == saved["temperature"] != 1
    np.testing.assert_allclose(
        model.predict_proba(texts), apply_temperature(raw, saved["temperature"])
    )
    assert saved["ece"]["rows"] == saved["rows"]["test"]
    assert saved["scores"]["ece"] == saved["ece"]["after"]


def test_the_card_has_reasons_calibration_and_scores(linear: Path) -> None:
    card, saved = (linear / "model" / "README.md").read_text(), about(linear / "model")
    for sentence in saved["verdict"]:
        assert f"- {sentence}\n" in card
    assert f"Temperature {saved['temperature']:g}, fitted on 40 validation rows" in card
    assert f"| accuracy | {saved['scores']['accuracy']:.4f} |" in card
    assert "| linear | eda |" in card
    assert "/tmp" not in card + json.dumps(saved)


def test_a_network_is_trained_for_the_epochs_of_its_development_model(
    tmp_path: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, TINY.format(encoder=tiny_encoder))
    command = ["fit", str(config), "--out", str(tmp_path / "results"), "--jobs", "1", "--json"]
    assert main([*command, "-o", str(tmp_path / "model")]) == 0
    printed, saved = json.loads(capsys.readouterr().out), about(tmp_path / "model")
    assert printed["verdict"] == saved["verdict"]
    assert saved["classifier"]["max_epochs"] == saved["trial"]["best_epoch"]
    assert saved["trial"]["level"] == "full"
    assert load_saved_model(tmp_path / "model").predict_proba(["A dull film."]).shape == (1, 2)


def test_combinations_that_failed_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = TINY.format(encoder=tmp_path / "absent")
    config = write_config(tmp_path, f"{{kind: linear}}, {missing}")
    command = ["fit", str(config), "--out", str(tmp_path / "results"), "--jobs", "1", "--json"]
    assert main([*command, "-o", str(tmp_path / "model")]) == 3
    captured, saved = capsys.readouterr(), about(tmp_path / "model")
    assert [text.split(" (")[0] for text in saved["unfinished"]] == [
        "tiny with none",
        "tiny with eda",
    ]
    assert saved["verdict"][-1].startswith("Not finished: tiny with none (")
    assert "model 'absent' cannot be loaded" in saved["verdict"][-1]
    assert json.loads(captured.out)["unfinished"] == saved["unfinished"]
    card = (tmp_path / "model" / "README.md").read_text()
    assert saved["verdict"][-1] in card
    assert str(tmp_path) not in card
    assert "saved, but 2 combinations" in captured.err


# What is refused ---------------------------------------------------------------------------------


def test_a_folder_with_other_files_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    grid = Grid(load_experiments(write_config(tmp_path)), tmp_path / "results")
    with pytest.raises(UserError, match="not a saved model") as error:
        fit(grid, tmp_path / "thesis")
    assert error.value.hint.startswith("choose another folder with -o")
    assert not (tmp_path / "results").exists()


def test_classifiers_without_weights_cannot_be_shipped(tmp_path: Path) -> None:
    config = write_config(tmp_path, "{kind: prompt}")
    grid = Grid(load_experiments(config, ["lm={kind: local, model: bundled}"]), tmp_path / "r")
    with pytest.raises(UserError, match="whose weights can be saved"):
        fit(grid, tmp_path / "model")


def test_a_sweep_over_classes_is_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    grid = Grid(
        load_experiments(config, ["sweep={task.labels: [[pos, neg], {neg: bad, pos: good}]}"]),
        tmp_path / "r",
    )
    with pytest.raises(UserError, match="fit makes one model"):
        fit(grid, tmp_path / "model")


@pytest.mark.parametrize("test_rows", ["full", "4"])
def test_with_folds_all_rows_choose_and_train(tmp_path: Path, test_rows: str) -> None:
    lines = ["text,label", *(f"a {word} film {n},{word}" for n in range(15) for word in "xy")]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    config = write_config(tmp_path)
    task = "task={data: {kind: files, train: rows.csv, folds: 3}, labels: [x, y]}"
    overrides = [task, f"subsample={{levels: [full], test: {test_rows}}}", "trials=3"]
    grid = Grid(load_experiments(config, overrides), tmp_path / "results", jobs=1)
    model = fit(grid, tmp_path / "model")
    assert model.verdict[0].startswith("Chosen: linear with none, cross-validated accuracy 100.0%")
    assert model.about["cross_validated_accuracy"] == 1
    rows = model.about["rows"]
    assert rows["train"] + rows["validation"] + rows["test"] == 30
    assert "30 labelled rows" in (tmp_path / "model" / "README.md").read_text()
    vocabulary = json.loads((tmp_path / "model" / "vocabulary.json").read_text())
    assert {str(number) for number in range(15)} <= set(vocabulary)
