"""`gpt3mix check --labels` and `--specs`, and `preset: paper`, as a user calls them."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpt3mix_cli.cli import main
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import UserError

CONFIG = """\
task:
  data: {kind: demo}
  labels: {pos: positive, neg: negative}
  text_type: movie review
  label_type: sentiment
subsample: {levels: [4/class, 12/class], seeds: 2}
lm: {kind: local, model: bundled}
classifiers: [{kind: linear}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "films.yaml"
    path.write_text(CONFIG)
    return path


def run(config: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> list[dict[str, Any]]:
    arguments = ["check", str(config), "--out", str(config.parent / "out"), "--json", *flags]
    assert main(arguments) == 0, capsys.readouterr().err
    findings: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["findings"]
    return findings


def test_labels_of_the_largest_level_are_checked(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = [item for item in run(config, capsys, "--labels") if item["what"] == "labels"]
    assert "of 24 real rows right" in found["detail"]
    assert "majority 50%" in found["detail"]
    assert " tokens" in found["detail"]
    (small,) = [
        item
        for item in run(config, capsys, "--labels", "--level", "4/class")
        if item["what"] == "labels"
    ]
    assert "of 8 real rows right" in small["detail"]
    assert not (config.parent / "out" / "films" / "4-per-class").exists(), "nothing is drawn"


def test_variants_of_one_lm_are_checked_once(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(CONFIG + "sweep: {augment.label_prior: [none, match], augment.k: [1, 2]}\n")
    lms = [item["detail"] for item in run(config, capsys) if item["what"] == "lm"]
    assert len(lms) == 2, "prompts of one and of two examples"


def test_nothing_is_asked_twice(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt3mix_cli.lm.local.engine import LocalLM

    first = run(config, capsys, "--labels")
    scored: list[int] = []
    score = LocalLM.score
    monkeypatch.setattr(
        LocalLM,
        "score",
        lambda self, prompts, choices: scored.append(len(prompts)) or score(self, prompts, choices),
    )
    second = run(config, capsys, "--labels")
    assert [item for item in second if item["what"] == "labels"] == [
        item for item in first if item["what"] == "labels"
    ]
    assert scored == [1], "only the probe of `check` itself asks"


def test_specifications_are_ranked(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    specs = config.parent / "specs.yaml"
    specs.write_text(
        "- {text_type: text, label_type: label, labels: {pos: yes, neg: no}}\n"
        "- {text_type: movie review, label_type: sentiment}\n"
    )
    found = [
        item for item in run(config, capsys, "--specs", str(specs)) if item["what"][:2] in "1. 2. "
    ]
    assert [item["what"][:3] for item in found] == ["1. ", "2. "]
    assert found[0]["what"] == "1. movie review, sentiment: positive, negative"
    assert found[1]["what"] == "2. text, label: yes, no"
    assert "log loss" in found[0]["detail"]
    assert "% of 24 real rows right without bias (" in found[0]["detail"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text_type: a", "not a list of task specifications"),
        ("[]", "not a list of task specifications"),
        ("- a", "specification 1: not a mapping"),
        ("- {text_type: a}\n- {text_typ: b}", "specification 2: unknown key 'text_typ'"),
        ("- {labels: {pos: yes}}", "at least two classes"),
        ("- {labels: {neg: no, pos: yes}}", "its classes are neg, pos"),
        ("- {text_type: ' a'}", "without spaces around it"),
    ],
)
def test_a_wrong_file_of_specifications(
    config: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    specs = config.parent / "specs.yaml"
    specs.write_text(text)
    assert main(["check", str(config), "--specs", str(specs), "--out", str(config.parent)]) == 2
    assert message in capsys.readouterr().err


def test_a_wrong_level_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(config), "--level", "foo", "--out", str(config.parent)]) == 2
    assert "'foo'" in capsys.readouterr().err


def test_labels_need_an_lm(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(CONFIG.replace("lm: {kind: local, model: bundled}\n", ""))
    assert main(["check", str(config), "--labels", "--out", str(config.parent)]) == 2
    assert "needs an `lm:`" in capsys.readouterr().err


# The paper's preset -------------------------------------------------------------------------------


def test_the_preset_fills_in_what_the_paper_does(config: Path) -> None:
    config.write_text(f"preset: paper\n{CONFIG}")
    (experiment,) = load_experiments(config)
    assert experiment.subsample.validation_fraction == 0.5
    assert experiment.augment.label_prior == "none"
    assert (experiment.augment.temperature, experiment.augment.min_p) == (1, 0)
    config.write_text(
        f"preset: paper\n{CONFIG}".replace("{kind: linear}", "{kind: transformer, model: minilm}")
    )
    assert load_experiments(config)[0].classifiers[0].preset == "paper"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("augment: {label_prior: match}", "augment.label_prior: none"),
        ("augment: {temperature: 0.7}", "augment.temperature: 1.0"),
        ("augment: {contextual_calibration: true}", "augment.contextual_calibration: false"),
        ("augment: {selection: same_class}", "augment.selection: uniform"),
    ],
)
def test_the_preset_refuses_departures(config: Path, line: str, key: str) -> None:
    config.write_text(f"preset: paper\n{CONFIG}{line}\n")
    with pytest.raises(UserError, match=f"preset paper has {key}"):
        load_experiments(config)
