"""Saved models: the folder, which trial is saved, and `predict`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt3mix_cli.cli import main
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import Callbacks
from gpt3mix_cli.grid import Grid, TrainStep
from gpt3mix_cli.records import Augmented, StageOptions, Trial, read_records, write_records
from gpt3mix_cli.settings import Experiment as ExperimentSettings
from gpt3mix_cli.settings import LinearSettings
from gpt3mix_cli.train import cached_classifier, open_classifier, saved_models
from gpt3mix_cli.train import predict as predict_module
from gpt3mix_cli.train.model_card import describe_model, render_card
from gpt3mix_cli.train.predict import predict
from gpt3mix_cli.train.saved_models import MODEL_FILE, write_model

CONFIG = """\
name: kept
task: {{data: {{kind: demo}}, labels: [pos, neg]}}
subsample: {{levels: [8/class], seeds: 1, validation: 40}}
augment: {{synthetic_sets: per-trial}}
baselines: [{{kind: eda}}]
classifiers:
  - {{kind: linear}}
  - kind: transformer
    name: tiny
    model: {encoder}
    lr: 3e-3
    warmup_epochs: 0
    max_epochs: 6
    dtype: float32
    device: cpu
trials: 5
"""
KINDS = ["linear", "tiny"]
NO_PROBS = {"pos": 0.0, "neg": 0.0}


class Experiment:
    """An experiment with finished trials, a saved model per classifier, and the test rows."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config, self.out, self.test = (
            folder,
            folder / "kept.yaml",
            folder / "results",
            folder / "test.jsonl",
        )

    def train(self, *arguments: object) -> int:
        return main(["train", str(self.config), "--out", str(self.out), "-q", *map(str, arguments)])

    def save(self, kind: str, folder: Path, *arguments: object) -> int:
        return self.train(
            "--method", "eda", "--classifier", kind, "--save-model", folder, *arguments
        )

    def trials(self, kind: str) -> list[Trial]:
        return list(
            read_records(self.out / "kept/8-per-class/seed-0/trials" / f"eda.{kind}.jsonl", Trial)
        )


def experiment(folder: Path, encoder: Path) -> Experiment:
    result = Experiment(folder)
    result.config.write_text(CONFIG.format(encoder=encoder))
    for command in (["subsample"], ["baseline", "--method", "eda"]):
        assert (
            main([command[0], str(result.config), *command[1:], "--out", str(result.out), "-q"])
            == 0
        )
    return result


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Experiment:
    """A finished experiment, shared: tests must not write to it."""
    result = experiment(tmp_path_factory.mktemp("kept"), tiny_encoder)
    grid = Grid(load_experiments(result.config), result.out)
    write_records(result.test, grid.resources.splits(grid.experiments[0]).test)
    assert result.train("--method", "eda", "--jobs", "1") == 0
    for kind in KINDS:
        assert result.save(kind, result.folder / kind) == 0
    return result


@pytest.fixture
def fresh(tmp_path: Path, tiny_encoder: Path) -> Experiment:
    """An experiment with subsamples and synthetic rows, and no trials."""
    return experiment(tmp_path, tiny_encoder)


def labelled(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def about(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / MODEL_FILE).read_text())
    return values


# The folder --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", {"vocabulary.json"}),
        ("tiny", {"config.json", "tokenizer.json", "tokenizer_config.json"}),
    ],
)
def test_the_folder_has_weights_tokenizer_and_card(
    kept: Experiment, kind: str, expected: set[str]
) -> None:
    assert (
        set(files(kept.folder / kind)) == {"model.safetensors", MODEL_FILE, "README.md"} | expected
    )


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_the_folder_reveals_paths_of_the_machine(kept: Experiment, kind: str) -> None:
    for name, content in files(kept.folder / kind).items():
        assert not {
            word
            for word in (b"/tmp", b"/root", b"/home", str(kept.folder).encode())
            if word in content
        }, name


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_has_data_method_and_scores(kept: Experiment, kind: str) -> None:
    row = next(
        row for row in kept.trials(kind) if row.trial == about(kept.folder / kind)["trial"]["trial"]
    )
    card = (kept.folder / kind / "README.md").read_text()
    assert "level 8/class, data seed 0: 16 real rows" in card
    assert f"Method `eda`: 16 synthetic rows, draw {row.draw}, labels from: parent" in card
    assert f"| accuracy | {row.accuracy:.4f} |" in card
    assert f"| validation accuracy | {row.valid_accuracy:.4f} |" in card
    assert f"`{row.confusion}`" in card
    assert "tiny-encoder" in card if kind == "tiny" else "tf-idf" in card
    assert "## Sources and licenses" in card
    assert "@inproceedings{yoo2021gpt3mix," in card
    assert ("- Pretrained model: `tiny-encoder" in card) == (kind == "tiny")


def test_the_header_of_a_model_card_is_valid_and_names_the_data_set() -> None:
    keys = {"data": {"kind": "hub", "path": "SetFit/sst2"}, "labels": ["pos", "neg"]}
    lm = {"kind": "local", "model": "bundled"}
    config = {"name": "x", "task": keys, "subsample": {"levels": ["1%"]}, "lm": lm}
    whole = ExperimentSettings.model_validate(config)
    settings = LinearSettings(kind="linear")
    classifier = open_classifier(settings, ["pos", "neg"])
    model = describe_model(classifier, ["pos", "neg"], settings, whole, "gpt3mix")
    card = render_card("", model, {"task": "sst2"})
    header = yaml.safe_load(card.split("---")[1])
    assert header["datasets"] == ["SetFit/sst2"]
    assert header["pipeline_tag"] == "text-classification"
    assert "- Language model of the synthetic rows: `bundled`; license: apache-2.0." in card
    plain = describe_model(classifier, ["pos", "neg"], settings, whole)
    assert "Language model" not in plain.sources


def test_a_linear_model_is_plain_weights(kept: Experiment) -> None:
    from safetensors.numpy import load_file

    assert set(load_file(kept.folder / "linear" / "model.safetensors")) == {
        "idf",
        "coef",
        "intercept",
        "classes",
    }
    assert all(
        isinstance(term, str)
        for term in json.loads((kept.folder / "linear" / "vocabulary.json").read_text())
    )


# Which trial it is -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_trial_by_validation_accuracy_is_saved_with_its_weights(
    kept: Experiment, tmp_path: Path, kind: str
) -> None:
    rows = kept.trials(kind)
    best = next(
        row for row in rows if row.valid_accuracy == max(row.valid_accuracy or 0 for row in rows)
    )
    if kind == "linear":
        # Neither the test score nor the trial's number decided. The network's scores are random.
        assert (best.accuracy or 0) < max(row.accuracy or 0 for row in rows)
        assert best.trial not in (0, 4)
    assert about(kept.folder / kind)["trial"] | {"seconds": 0} == best.model_dump() | {"seconds": 0}
    done = predict(kept.folder / kind, kept.test, tmp_path / "p.jsonl")
    assert done.manifest.counts["labelled"] == best.n_test
    assert round(done.manifest.counts["right"] / best.n_test, 6) == best.accuracy
    rows = labelled(tmp_path / "p.jsonl")
    assert [
        [sum((row["label"], row["predicted"]) == (t, p) for row in rows) for p in ("pos", "neg")]
        for t in ("pos", "neg")
    ] == best.confusion


def test_of_several_best_trials_the_first_is_saved(kept: Experiment, tmp_path: Path) -> None:
    grid = Grid(load_experiments(kept.config), kept.out)
    cell = next(grid.cells())
    settings = grid.experiment(cell).classifiers[0]
    runners: list[Any] = []
    original = saved_models.save_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "gpt3mix_cli.train.saved_models.save_model",
            lambda runner, *rest: runners.append(runner),
        )
        grid.train(TrainStep(cell, "eda", settings, save_model=tmp_path / "model"))
    rows = [
        row.model_copy(update={"valid_accuracy": 0.5, "accuracy": row.trial / 10})
        for row in kept.trials("linear")
    ]
    rows[0] = rows[0].model_copy(update={"valid_accuracy": 0.4})
    rows[1] = rows[1].model_copy(update={"status": "failed", "valid_accuracy": None})
    assert original(runners[0], rows[::-1], settings, tmp_path / "model").trial == 2


@pytest.mark.parametrize("kind", KINDS)
def test_trials_that_are_up_to_date_give_the_same_model(
    kept: Experiment, fresh: Experiment, tmp_path: Path, kind: str
) -> None:
    """In `kept` the trials were up to date; here they run with --save-model."""
    assert fresh.save(kind, tmp_path / "model", "--jobs", "1") == 0
    first, second = files(tmp_path / "model"), files(kept.folder / kind)
    assert {name: first[name] for name in first if name != MODEL_FILE} == {
        name: second[name] for name in second if name != MODEL_FILE
    }
    assert about(tmp_path / "model")["trial"] | {"seconds": 0} == about(kept.folder / kind)[
        "trial"
    ] | {"seconds": 0}


@pytest.mark.slow
def test_trials_of_two_jobs_give_the_same_model(
    kept: Experiment, fresh: Experiment, tmp_path: Path
) -> None:
    assert fresh.save("tiny", tmp_path / "model", "--jobs", "2") == 0
    assert (tmp_path / "model/model.safetensors").read_bytes() == (
        kept.folder / "tiny/model.safetensors"
    ).read_bytes()


def test_an_earlier_model_is_replaced(kept: Experiment, tmp_path: Path) -> None:
    shutil.copytree(kept.folder / "tiny", tmp_path / "model")
    assert kept.save("linear", tmp_path / "model") == 0
    assert set(files(tmp_path / "model")) == set(files(kept.folder / "linear"))


def test_a_model_of_another_experiment_or_task_is_kept(tmp_path: Path) -> None:
    folder, notes = tmp_path / "model", list[str]()
    classifier = open_classifier(LinearSettings(kind="linear"), ["pos", "neg"])
    rows = [
        Augmented(id=f"{number}", text=label, label=label, probs={**NO_PROBS, label: 1.0})
        for number, label in enumerate(NO_PROBS)
    ]
    classifier.fit(rows, [], 0)
    model = describe_model(classifier, [*NO_PROBS], LinearSettings(kind="linear"))
    for name, task in (("one", "a"), ("one", "a"), ("two", "a"), ("two", "b")):
        origin = {"experiment": name, "trial": {"task": task}}
        write_model(folder, model, "card", origin, Callbacks(note=notes.append))
    saved = [about(tmp_path / f"model{end}") for end in (".bak", ".bak2", "")]
    origins = [(item["experiment"], item["trial"]["task"]) for item in saved]
    assert origins == [("one", "a"), ("two", "a"), ("two", "b")]
    assert len(notes) == 2
    assert "model.bak" in notes[0]


# What is refused ---------------------------------------------------------------------------------


def test_a_folder_with_other_files_is_not_replaced(
    fresh: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    assert fresh.save("linear", tmp_path / "thesis") == 2
    err = capsys.readouterr().err
    assert "thesis: exists and is not a saved model" in err
    assert "--save-model" in err
    assert files(tmp_path / "thesis") == {"chapter.txt": b"years of work"}
    assert not list(fresh.out.rglob("trials/*"))  # before anything is trained


@pytest.mark.parametrize("name", ["thesis.txt", "data/rows.jsonl", ".git/config", "link"])
def test_a_saved_model_with_other_files_is_not_replaced(
    kept: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(kept.folder / "linear", folder)
    (folder / name).parent.mkdir(exist_ok=True)
    if name == "link":
        (folder / name).symlink_to("nowhere")
    else:
        (folder / name).write_text("mine")
    before = sorted(folder.rglob("*"))
    assert kept.save("linear", folder) == 2
    err = capsys.readouterr().err
    assert f"model: holds files that are not of the saved model: {name}" in err
    assert sorted(folder.rglob("*")) == before


def test_a_folder_above_the_current_one_is_not_replaced(
    kept: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    assert kept.save("linear", Path("..")) == 2
    assert (tmp_path / "a/b").is_dir()


def test_a_file_with_the_folders_name_is_not_replaced(fresh: Experiment, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    assert fresh.save("linear", tmp_path / "model") == 2
    assert (tmp_path / "model").read_text() == "mine"


def test_an_empty_folder_can_be_used(kept: Experiment, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert kept.save("linear", tmp_path / "model") == 0
    assert (tmp_path / "model" / MODEL_FILE).exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--method", "eda"],
        ["--classifier", "linear"],
        ["--method", "eda", "--classifier", "linear", "--set", "subsample.seeds=2"],
    ],
    ids=["two classifiers", "two methods", "two cells"],
)
def test_one_folder_for_several_models_is_refused(
    fresh: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert fresh.train(*arguments, "--save-model", tmp_path / "model") == 2
    err = capsys.readouterr().err
    assert re.search(r"--save-model names one \w+, but 2 trials files are selected", err)
    assert all(flag in err for flag in ("--level", "--seed", "--method", "--classifier"))
    assert not (tmp_path / "model").exists()


def test_no_model_is_saved_if_every_trial_failed(
    fresh: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absurd = [
        "--set",
        "classifiers.1.lr=1e30",
        "--set",
        "classifiers.1.batch_size=2",
        "--set",
        "trials=1",
    ]
    assert fresh.save("tiny", tmp_path / "model", *absurd) == 3
    assert "trials failed" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


KILLED = """
import os, signal, sys
from gpt3mix_cli.cli import main
from gpt3mix_cli.train.linear import LinearClassifier

save = LinearClassifier.save

def truncated(self, folder):
    save(self, folder)
    (folder / "vocabulary.json").unlink()
    os.kill(os.getpid(), signal.SIGKILL)

LinearClassifier.save = truncated
main(sys.argv[1:])
"""


def test_a_killed_save_leaves_the_earlier_model(kept: Experiment, tmp_path: Path) -> None:
    line = [
        "train",
        str(kept.config),
        "--out",
        str(kept.out),
        "--method",
        "eda",
        "--classifier",
        "linear",
        "--save-model",
        str(tmp_path / "model"),
    ]
    shutil.copytree(kept.folder / "tiny", tmp_path / "model")
    before = files(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *line], check=False, capture_output=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    assert files(tmp_path / "model") == before
    assert kept.save("linear", tmp_path / "model") == 0
    assert files(tmp_path / "model").keys() == files(kept.folder / "linear").keys()
    assert os.listdir(tmp_path) == ["model"]


# predict -----------------------------------------------------------------------------------------


def rows(path: Path, *values: object) -> Path:
    path.write_text(
        "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8"
    )
    return path


def test_the_transformers_library_reads_the_folder_and_agrees(
    kept: Experiment, tmp_path: Path
) -> None:
    from transformers import pipeline

    predict(kept.folder / "tiny", kept.test, tmp_path / "p.jsonl")
    rows = labelled(tmp_path / "p.jsonl")[:60]
    answers = pipeline(
        "text-classification",
        str(kept.folder / "tiny"),
        device="cpu",
        truncation=True,
        max_length=128,
    )([row["text"] for row in rows])
    assert [answer["label"] for answer in answers] == [row["predicted"] for row in rows]
    assert [answer["score"] for answer in answers] == pytest.approx(
        [row["prob"] for row in rows], abs=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_rows_keep_their_keys_and_order(kept: Experiment, tmp_path: Path, kind: str) -> None:
    source = rows(
        tmp_path / "in.jsonl",
        {"z": [1, {"ü": None}], "text": "a fine film", "a": 1.5, "id": "x"},
        {"text": "so dull"},
    )
    assert (
        main(
            [
                "predict",
                str(kept.folder / kind),
                "-i",
                str(source),
                "-o",
                str(tmp_path / "out.jsonl"),
                "-q",
                "--probs",
            ]
        )
        == 0
    )
    first, second = labelled(tmp_path / "out.jsonl")
    assert list(first.items())[:4] == [
        ("z", [1, {"ü": None}]),
        ("text", "a fine film"),
        ("a", 1.5),
        ("id", "x"),
    ]
    assert list(first)[4:] == ["predicted", "prob", "probs"]
    assert list(second) == ["text", "predicted", "prob", "probs"]
    for row in (first, second):
        assert list(row["probs"]) == ["pos", "neg"]
        assert sum(row["probs"].values()) == pytest.approx(1, abs=2e-6)
        assert row["predicted"] == max(row["probs"], key=row["probs"].__getitem__)
        assert row["prob"] == max(row["probs"].values())
    assert "ü" in (tmp_path / "out.jsonl").read_text(encoding="utf-8")


def test_accuracy_is_counted_over_the_rows_with_a_label(
    kept: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(kept.folder / "linear", kept.test, tmp_path / "p.jsonl")
    sample = [
        {"text": row["text"], "label": row["label"], "right": row["label"] == row["predicted"]}
        for row in labelled(tmp_path / "p.jsonl")[:10]
    ]
    right = sum(row["right"] for row in sample)
    source = rows(tmp_path / "in.jsonl", *sample, {"text": "no label"}, {"text": "none either"})
    assert (
        main(
            [
                "predict",
                str(kept.folder / "linear"),
                "-i",
                str(source),
                "-o",
                str(tmp_path / "out.jsonl"),
                "--json",
            ]
        )
        == 0
    )
    out, err = capsys.readouterr()
    counts = json.loads(out)["outputs"][0]["counts"]
    assert 0 < counts.pop("macro_f1") <= 1
    assert counts == {
        "rows": 12,
        "empty": 0,
        "abstained": 0,
        "labelled": 10,
        "scored": 10,
        "unknown_labels": 0,
        "right": right,
    }
    assert re.search(rf"\b{right} of (the )?10 labels", err)


def test_rows_go_from_stdin_to_stdout(kept: Experiment, tmp_path: Path) -> None:
    program = str(Path(sys.executable).with_name("gpt3mix"))
    done = subprocess.run(
        [program, "predict", str(kept.folder / "linear"), "-i", "-", "-o", "-"],
        input='{"text": "a fine film"}\n\n{"text": "so dull"}\n',
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(row) for row in rows] == [["text", "predicted", "prob"]] * 2
    assert not list(tmp_path.iterdir())


def test_the_chunk_size_does_not_change_predictions(
    kept: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(kept.folder / "linear", kept.test, tmp_path / "whole.jsonl")
    monkeypatch.setattr(predict_module, "CHUNK_ROWS", 7)
    calls: list[int | None] = []
    done = predict(
        kept.folder / "linear",
        kept.test,
        tmp_path / "parts.jsonl",
        StageOptions(
            callbacks=Callbacks(lambda name, done, total=None, detail="": calls.append(done))
        ),
    )
    count = done.manifest.counts["rows"]
    assert calls == [*range(7, count, 7), count]
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_file_of_several_chunks_is_labelled_completely(kept: Experiment, tmp_path: Path) -> None:
    source = rows(
        tmp_path / "in.jsonl",
        *(
            {"text": f"film {number}", "n": number}
            for number in range(predict_module.CHUNK_ROWS * 2 + 1)
        ),
    )
    assert (
        predict(kept.folder / "linear", source, tmp_path / "out.jsonl").manifest.counts["rows"]
        == predict_module.CHUNK_ROWS * 2 + 1
    )
    assert [row["n"] for row in labelled(tmp_path / "out.jsonl")] == list(
        range(predict_module.CHUNK_ROWS * 2 + 1)
    )


def test_predictions_that_are_up_to_date_are_skipped(kept: Experiment, tmp_path: Path) -> None:
    model, source, output = (
        tmp_path / "model",
        rows(tmp_path / "in.jsonl", {"text": "a fine film"}),
        tmp_path / "out.jsonl",
    )
    shutil.copytree(kept.folder / "linear", model)
    assert not predict(model, source, output).skipped
    before = output.stat().st_mtime_ns
    assert predict(model, source, output).skipped
    assert output.stat().st_mtime_ns == before
    assert not predict(model, source, output, StageOptions(force=True)).skipped
    rows(source, {"text": "a fine film"}, {"text": "so dull"})
    assert not predict(model, source, output).skipped
    shutil.rmtree(model)
    shutil.copytree(kept.folder / "tiny", model)
    assert not predict(model, source, output).skipped


def broken(text: str) -> Callable[[Path, Path], None]:
    return lambda model, source: (
        source.write_text(f'{{"text": "fine"}}\n{text}\n', encoding="utf-8") and None
    )


def without(name: str) -> Callable[[Path, Path], None]:
    return lambda model, source: (model / name).unlink()


def truncated(name: str) -> Callable[[Path, Path], None]:
    return lambda model, source: (
        (model / name).write_bytes((model / name).read_bytes()[:-40]) and None
    )


BROKEN: dict[str, tuple[str, Callable[[Path, Path], None], Sequence[str]]] = {
    "broken line": ("linear", broken('{"text": "fi'), ["in.jsonl, line 2", "not valid JSON"]),
    "a line that is not an object": (
        "linear",
        broken("[1]"),
        ["in.jsonl, line 2", "not an object"],
    ),
    "missing text": (
        "linear",
        broken('{"texts": "fine"}'),
        ["in.jsonl, line 2", "'text' is missing"],
    ),
    "a column of the predictions": (
        "tiny",
        broken('{"text": "fine", "predicted": "pos"}'),
        ["in.jsonl, line 2", "'predicted' already"],
    ),
    "number for a text": ("linear", broken('{"text": 5}'), ["in.jsonl, line 2", "'text'"]),
    "no input": ("linear", lambda model, source: source.unlink(), ["in.jsonl: cannot be read"]),
    "no model": (
        "linear",
        lambda model, source: shutil.rmtree(model),
        ["model: no such folder", "gpt3mix train --save-model"],
    ),
    "a folder without a model": (
        "linear",
        without(MODEL_FILE),
        ["model: not a saved model: gpt3mix.json is missing", "gpt3mix train --save-model"],
    ),
    "broken description": (
        "linear",
        truncated(MODEL_FILE),
        ["model is damaged: a JSON file is cut"],
    ),
    "no vocabulary": (
        "linear",
        without("vocabulary.json"),
        ["damaged: vocabulary.json is missing"],
    ),
    "no weights": (
        "linear",
        without("model.safetensors"),
        ["damaged: model.safetensors is missing"],
    ),
    "truncated weights": ("linear", truncated("model.safetensors"), ["model is damaged"]),
    "an encoder without weights": (
        "tiny",
        without("model.safetensors"),
        ["model", "cannot be loaded"],
    ),
    "an encoder with truncated weights": (
        "tiny",
        truncated("model.safetensors"),
        ["model", "cannot be loaded"],
    ),
    "an encoder without configuration": (
        "tiny",
        without("config.json"),
        ["model", "cannot be loaded"],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_input_is_reported_and_an_earlier_output_is_kept(
    kept: Experiment,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    kind, spoil, expected = BROKEN[name]
    shutil.copytree(kept.folder / kind, tmp_path / "model")
    source = rows(tmp_path / "in.jsonl", {"text": "fine"})
    predict(kept.folder / "linear", source, tmp_path / "out.jsonl")
    spoil(tmp_path / "model", source)
    monkeypatch.setenv("GPT3MIX_CACHE", str(tmp_path_factory.mktemp("cache")))
    before = files(tmp_path)
    assert (
        main(
            [
                "predict",
                str(tmp_path / "model"),
                "-i",
                str(source),
                "-o",
                str(tmp_path / "out.jsonl"),
            ]
        )
        == 2
    )
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("error: ") == err.count("  fix: ") == 1
    for word in expected:
        assert word in err
    assert files(tmp_path) == before


def test_the_input_is_not_overwritten(kept: Experiment, tmp_path: Path) -> None:
    source = rows(tmp_path / "in.jsonl", {"text": "fine"})
    assert main(["predict", str(kept.folder / "linear"), "-i", str(source), "-o", str(source)]) == 2
    assert labelled(source) == [{"text": "fine"}]


def library_model(kept: Experiment, folder: Path, **tokenizer: Any) -> Path:
    """Write the network as the transformers library does, with other class names."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(kept.folder / "tiny")
    model.config.id2label, model.config.label2id = {0: "UP", 1: "DOWN"}, {"UP": 0, "DOWN": 1}
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(kept.folder / "tiny", **tokenizer).save_pretrained(folder)
    return folder


def test_any_classifier_of_the_transformers_library_can_be_used(
    kept: Experiment, tmp_path: Path
) -> None:
    predict(kept.folder / "tiny", kept.test, tmp_path / "ours.jsonl")
    predict(library_model(kept, tmp_path / "model"), kept.test, tmp_path / "plain.jsonl")
    ours, plain = labelled(tmp_path / "ours.jsonl"), labelled(tmp_path / "plain.jsonl")
    # Such a folder does not name a dtype: products may be in bfloat16 if the processor has it.
    up = [row["prob"] if row["predicted"] == "UP" else 1 - row["prob"] for row in plain]
    pos = [row["prob"] if row["predicted"] == "pos" else 1 - row["prob"] for row in ours]
    assert up == pytest.approx(pos, abs=0.02)


def test_a_classifier_whose_tokenizer_has_the_lower_limit_can_be_used(
    kept: Experiment, tmp_path: Path
) -> None:
    predict(
        library_model(kept, tmp_path / "model", model_max_length=64),
        kept.test,
        tmp_path / "plain.jsonl",
    )


def test_a_model_can_be_moved(kept: Experiment, tmp_path: Path) -> None:
    predict(kept.folder / "tiny", kept.test, tmp_path / "a.jsonl")
    shutil.copytree(kept.folder / "tiny", tmp_path / "elsewhere")
    cached_classifier.cache_clear()
    predict(tmp_path / "elsewhere", kept.test, tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_swept_models_do_not_reveal_paths_of_the_machine(
    kept: Experiment, tmp_path: Path, tiny_encoder: Path
) -> None:
    shutil.copytree(tiny_encoder, tmp_path / "other-encoder")
    sweep = f"sweep={{classifiers.1.model: [{tmp_path / 'other-encoder'}]}}"
    experiment = Experiment(tmp_path)
    experiment.config.write_text(CONFIG.format(encoder=tiny_encoder))
    assert (
        main(
            [
                "subsample",
                str(experiment.config),
                "--out",
                str(experiment.out),
                "-q",
                "--set",
                sweep,
            ]
        )
        == 0
    )
    line = [
        "--method",
        "none",
        "--classifier",
        "tiny",
        "--set",
        sweep,
        "--set",
        "trials=1",
        "--set",
        "classifiers.1.max_epochs=1",
    ]
    assert experiment.train(*line, "--save-model", tmp_path / "model") == 0
    assert str(tmp_path) not in (tmp_path / "model" / MODEL_FILE).read_text()
