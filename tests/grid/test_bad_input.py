"""Input that is wrong for some trials: those fail with a reason, the others run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt3mix_cli.cli import main
from gpt3mix_cli.records import manifest_path
from gpt3mix_cli.train import cached_classifier

CONFIG = """\
name: spoilt
task: {{data: {{kind: demo}}, labels: [pos, neg]}}
subsample: {{levels: [4/class], seeds: 1, validation: 20, test: 10/class}}
augment: {{synthetic_sets: 2}}
baselines: [{{kind: eda}}]
classifiers:
  - {{kind: linear}}
  - {{kind: transformer, name: tiny, model: {encoder}, lr: 1e-3, max_epochs: 1, dtype: float32,
     device: cpu}}
trials: 4
"""


class Experiment:
    """A config whose cell is drawn and augmented, and commands on it."""

    def __init__(self, folder: Path, encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config, self.encoder, self._capsys = folder / "spoilt.yaml", folder / "encoder", capsys
        self.cell = folder / "results/spoilt/4-per-class/seed-0"
        shutil.copytree(encoder, self.encoder)
        self.config.write_text(CONFIG.format(encoder=self.encoder))
        assert self("subsample")[0] == self("baseline", "--method", "eda")[0] == 0

    def __call__(self, command: str, *arguments: str) -> tuple[int, str]:
        cached_classifier.cache_clear()  # for a user each command is a process of its own
        self._capsys.readouterr()
        jobs = ["--jobs", "1"] if command in ("train", "run") else []
        code = main([command, str(self.config), *jobs, *arguments])
        return code, self._capsys.readouterr().err

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.cell / "trials" / name).read_text().splitlines()]

    def spoil(self, name: str, spoil: Callable[[dict[str, Any]], None]) -> None:
        """Change the second row of a file of another program."""
        lines = (self.cell / name).read_text().splitlines()
        row = json.loads(lines[1])
        spoil(row)
        lines[1] = json.dumps(row)
        (self.cell / name).write_text("".join(line + "\n" for line in lines))
        manifest_path(self.cell / name).unlink(missing_ok=True)


@pytest.fixture
def experiment(
    tmp_path: Path, tiny_encoder: Path, capsys: pytest.CaptureFixture[str]
) -> Experiment:
    return Experiment(tmp_path, tiny_encoder, capsys)


LINEAR = ["--classifier", "linear", "--method", "eda"]


@pytest.mark.parametrize(
    ("probs", "reason"),
    [
        (
            {"pos": 0.5, "neg": 0.2, "fine": 0.3},
            "eda.draw-1.jsonl, line 2: probs: label 'fine' is not one of the task's classes",
        ),
        (
            {"pos": 0.9, "neg": 0.3},
            "eda.draw-1.jsonl, line 2: probs: {'pos': 0.9, 'neg': 0.3} is not a distribution",
        ),
        ({"pos": 1.0}, "eda.draw-1.jsonl, line 2: probs: class 'neg' is missing"),
        (
            {"pos": 0.9, "neg": 0.1},
            "eda.draw-1.jsonl, row 2: its label_source is 'parent', "
            "but its probs are not the label of demo-train-",
        ),
    ],
    ids=["unknown class", "sum", "missing class", "not the parent's"],
)
def test_broken_soft_labels_fail_the_trials_of_their_draw_only(
    experiment: Experiment, probs: dict[str, float], reason: str
) -> None:
    experiment.spoil("eda.draw-1.jsonl", lambda row: row.update(probs=probs, label="pos"))
    code, err = experiment("train", *LINEAR)
    assert code == 3
    assert "2 of 4 trials failed" in err
    rows = experiment.rows("eda.linear.jsonl")
    assert [(row["draw"], row["status"]) for row in rows] == [
        (0, "ok"),
        (1, "failed"),
        (0, "ok"),
        (1, "failed"),
    ]
    assert all(reason in row["error"] for row in rows if row["status"] == "failed")
    kept = [row for row in rows if row["status"] == "ok"]
    experiment.spoil(
        "eda.draw-1.jsonl",
        lambda row: row.update(probs={"pos": 0.9, "neg": 0.1}, label_source="exact"),
    )
    assert experiment("train", *LINEAR)[0] == 0
    assert [row["status"] for row in experiment.rows("eda.linear.jsonl")] == ["ok"] * 4
    assert [
        row for row in experiment.rows("eda.linear.jsonl") if row["draw"] == 0
    ] == kept  # `seconds` too


def test_an_encoder_without_a_tokenizer_fails_its_own_trials_only(experiment: Experiment) -> None:
    for path in experiment.encoder.glob("tokenizer*"):
        path.unlink()
    code, err = experiment("train", "--method", "none")
    assert code == 3
    assert "the folder has no tokenizer" in err
    assert {row["status"] for row in experiment.rows("none.linear.jsonl")} == {"ok"}
    rows = experiment.rows("none.tiny.jsonl")
    assert [row["status"] for row in rows] == ["failed"] * 4
    assert all("the folder has no tokenizer" in row["error"] for row in rows)


def test_a_missing_encoder_fails_its_own_trials_of_a_run_only(experiment: Experiment) -> None:
    shutil.rmtree(experiment.encoder)
    code, err = experiment("run")
    assert code == 3
    assert "none.tiny.jsonl: 4 of 4 trials failed" in err
    assert [
        {row["status"] for row in experiment.rows(f"{method}.linear.jsonl")}
        for method in ("none", "eda")
    ] == [{"ok"}, {"ok"}]
    assert (experiment.cell.parents[1] / "report" / "report.md").exists()


def test_successful_trials_are_kept_without_their_encoder(experiment: Experiment) -> None:
    assert experiment("train", "--method", "none")[0] == 0
    before = {path: path.read_bytes() for path in (experiment.cell / "trials").iterdir()}
    shutil.rmtree(experiment.encoder)
    for force, status, problem in (
        ([], 2, "none.tiny.jsonl: is finished, with other settings"),
        (["--force"], 3, "none.tiny.jsonl: left as it is"),
    ):
        code, err = experiment("train", "--method", "none", "--classifier", "tiny", *force)
        assert code == status
        assert problem in err
        assert {path: path.read_bytes() for path in before} == before


def test_successful_trials_are_kept_without_their_synthetic_rows(experiment: Experiment) -> None:
    assert experiment("train", *LINEAR)[0] == 0
    before = (experiment.cell / "trials/eda.linear.jsonl").read_bytes()
    for name in ("eda.jsonl", "eda.draw-1.jsonl"):
        experiment.spoil(name, lambda row: row.update(probs={"pos": 2.0, "neg": 1.0}, label="pos"))
    code, err = experiment("train", *LINEAR, "--force")
    assert code == 3
    assert "left as it is" in err
    assert (experiment.cell / "trials/eda.linear.jsonl").read_bytes() == before


def test_a_class_without_training_rows_fails_the_trials(
    experiment: Experiment, tmp_path: Path
) -> None:
    rows = [
        line
        for line in (experiment.cell / "train.jsonl").read_text().splitlines()
        if json.loads(line)["label"] == "pos"
    ]
    (tmp_path / "real.jsonl").write_text("".join(line + "\n" for line in rows))
    for kind in ("linear", "tiny"):
        code, err = experiment(
            "train",
            "--method",
            "none",
            "--classifier",
            kind,
            "-i",
            str(tmp_path / "real.jsonl"),
            "-o",
            str(tmp_path / f"{kind}.jsonl"),
        )
        assert code == 3
        assert "no training row has the class 'neg'" in err
        assert [
            json.loads(line)["status"]
            for line in (tmp_path / f"{kind}.jsonl").read_text().splitlines()
        ] == ["failed"] * 4


def test_a_loss_that_is_no_number_fails_its_own_trials_only(experiment: Experiment) -> None:
    absurd = [
        "--set",
        "classifiers.1.lr=1e30",
        "--set",
        "classifiers.1.warmup_epochs=0",
        "--set",
        "classifiers.1.batch_size=2",
    ]
    code, err = experiment("train", "--method", "none", *absurd)
    assert code == 3
    assert "a lower lr helps" in err
    assert {row["status"] for row in experiment.rows("none.linear.jsonl")} == {"ok"}
    assert {(row["status"], row["accuracy"]) for row in experiment.rows("none.tiny.jsonl")} == {
        ("failed", None)
    }
