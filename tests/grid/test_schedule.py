"""Failed steps: others go on past them, they are tried once more, and the end lists them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from gpt3mix_cli import stopping
from gpt3mix_cli.cli import main
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import OutputError, StoppedShort, UserError
from gpt3mix_cli.grid import AugmentStep, Grid, Step, SubsampleStep
from gpt3mix_cli.grid.junit import write_junit
from gpt3mix_cli.records import StageOptions, StageResult
from gpt3mix_cli.settings import TransformerSettings
from gpt3mix_cli.train import FitResult, TrialExecutor, run_serially
from gpt3mix_cli.train.linear import LinearClassifier

CONFIG = """\
name: films
task: {data: {kind: demo}, labels: [pos, neg]}
subsample: {levels: [2/class], seeds: 2, validation: 4, test: 10/class}
baselines: [{kind: eda}]
classifiers: [{kind: linear}]
trials: 2
"""


class FlakyGrid(Grid):
    """A grid whose steps fail as often as a test says."""

    failures: dict[str, int]
    calls: Counter[str]
    error: UserError = StoppedShort("the server is away", "start it")

    def run_step(self, step: Step, executor: TrialExecutor = run_serially) -> StageResult:
        if not self.options.only_checks:
            self.calls[str(step)] += 1
            if self.failures.get(str(step), 0) >= self.calls[str(step)]:
                raise self.error
        return super().run_step(step, executor)


def flaky(tmp_path: Path, **failures: int) -> FlakyGrid:
    (tmp_path / "films.yaml").write_text(CONFIG)
    grid = FlakyGrid(load_experiments(tmp_path / "films.yaml"), tmp_path / "results", jobs=1)
    grid.calls = Counter()
    grid.failures = {f"2/class seed {name[1]} {name[3:]}": n for name, n in failures.items()}
    return grid


def test_a_step_that_fails_once_is_tried_again_after_the_others(tmp_path: Path) -> None:
    grid = flaky(tmp_path, s0_eda=1)
    results = list(grid.run())
    assert all(isinstance(result, StageResult) for result in results)
    assert len(results) == len(grid.steps())
    # Its training waited for it, and no other one did.
    ended = [str(step) for step, _ in grid.outcomes]
    assert ended[-2:] == ["2/class seed 0 eda", "2/class seed 0 eda + linear"]
    assert grid.calls["2/class seed 0 eda"] == 2
    assert grid.calls["2/class seed 0 eda + linear"] == 1


def test_what_fails_twice_is_listed_and_the_same_command_resumes(tmp_path: Path) -> None:
    grid = flaky(tmp_path, s0_subsample=2)
    grid.error = UserError("data.csv: no such file", "give its path")
    failed = [result for result in grid.run() if isinstance(result, UserError)]
    # The subsample, its synthetic set, and two trainings.
    assert [error.message.split(":")[0] for error in failed] == [
        "data.csv",
        "2/class seed 0 eda",
        "2/class seed 0 none + linear",
        "2/class seed 0 eda + linear",
    ]
    assert len(list((tmp_path / "results").rglob("trials/*.linear.jsonl"))) == 2
    again = flaky(tmp_path)
    assert all(isinstance(result, StageResult) for result in again.run())
    assert set(again.calls) == {name for name in map(str, grid.steps()) if "seed 0" in name}


def test_a_signal_while_done_work_is_recognised_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(flaky(tmp_path).run())
    monkeypatch.setattr(stopping, "_is_requested", True)
    again = flaky(tmp_path)
    assert all(isinstance(result, StageResult) for result in again.run())
    assert len(again.outcomes) == len(again.steps())


def test_after_a_signal_what_is_left_is_counted_and_skipped_in_junit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "_is_requested", False)
    grid = flaky(tmp_path)
    for number, _ in enumerate(grid.run(), 1):
        if number == 3:
            monkeypatch.setattr(stopping, "_is_requested", True)
    error = grid.outcomes[-1][1]
    assert isinstance(error, stopping.Interrupted)
    assert error.message == "interrupted: 5 of 8 steps are left"
    write_junit(tmp_path / "junit.xml", [grid])
    (suite,) = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (suite.get("failures"), suite.get("skipped")) == ("0", "2")


def test_an_edited_file_does_not_hold_up_other_cells(tmp_path: Path) -> None:
    list(flaky(tmp_path).run())
    folders = sorted((tmp_path / "results").rglob("seed-*"))
    with (folders[0] / "eda.jsonl").open("a") as stream:
        stream.write("\n")
    for path in (tmp_path / "results").rglob("trials/eda.*"):
        path.unlink()
    results = list(flaky(tmp_path).run())
    failed = [result.message for result in results if isinstance(result, UserError)]
    assert "eda.jsonl: was changed after it was written" in failed[0]
    assert len(failed) == 2
    assert (folders[1] / "trials" / "eda.linear.jsonl").exists()


def test_force_repeats_no_trial_of_this_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, fit, fits = flaky(tmp_path), LinearClassifier.fit, 0
    grid.configure_training(jobs=1, tensorboard=None, trials=4)
    list(grid.run())
    grid.calls.clear()
    grid.failures = {"2/class seed 0 none + linear": 1}  # has never run when it is repeated
    grid.options = StageOptions(force=True)

    def fail_once(*arguments: Any) -> FitResult:
        nonlocal fits
        fits += 1
        if fits == 2:
            raise RuntimeError("no luck")
        return fit(*arguments)

    monkeypatch.setattr(LinearClassifier, "fit", fail_once)
    results = list(grid.run())
    assert all(isinstance(result, StageResult) and not result.skipped for result in results)
    assert fits == 4 * 2 + 1  # two trials for each file


def test_what_was_given_up_is_opened_anew_before_steps_are_repeated(
    tmp_path: Path, tiny_encoder: Path
) -> None:
    grid = flaky(tmp_path, s0_eda=1)
    experiment, folder = grid.experiments[0], tmp_path / "encoder"
    encoder = TransformerSettings(kind="transformer", model=str(folder))
    assert grid.resources.classifier_or_unavailable(experiment, encoder).failure_reason
    folder.symlink_to(tiny_encoder)
    assert grid.resources.classifier_or_unavailable(experiment, encoder).failure_reason
    list(grid.run())
    assert not grid.resources.classifier_or_unavailable(experiment, encoder).failure_reason


def test_an_endpoint_that_was_given_up_is_opened_anew(tmp_path: Path) -> None:
    (tmp_path / "films.yaml").write_text(CONFIG)
    endpoint = "lm={kind: openai, model: m, base_url: 'http://localhost:1/v1', api_key_env: HOME}"
    experiments = load_experiments(tmp_path / "films.yaml", [endpoint])
    resources = Grid(experiments, tmp_path / "results").resources
    lm = resources.lm(experiments[0])
    resources.close_local_lms(experiments)
    assert resources.lm(experiments[0]) is lm
    resources.forget_failures(experiments)
    assert resources.lm(experiments[0]) is not lm
    resources.close()


def test_no_further_step_begins_where_nothing_can_be_written(tmp_path: Path) -> None:
    grid = flaky(tmp_path, s0_subsample=1)
    grid.error = OutputError("train.jsonl: cannot be written: No space left on device")
    with pytest.raises(OutputError):
        list(grid.run())
    assert set(grid.calls) == {"2/class seed 0 subsample"}


def test_a_dry_run_lists_the_steps_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = flaky(tmp_path)
    rows = [step for step in grid.steps() if isinstance(step, SubsampleStep | AugmentStep)]
    list(grid.run_steps(rows[:2], "run steps"))
    before = sorted(tmp_path.rglob("*"))
    command = ["run", str(tmp_path / "films.yaml"), "--out", str(tmp_path / "results")]
    assert main([*command, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:10].strip() for line in lines].count("up to date") == 2
    assert [line[12:] for line in lines] == list(map(str, grid.steps()))
    assert main([*command, "--dry-run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["steps"]) == len(lines)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_a_task_without_test_rows_keeps_no_division(tmp_path: Path) -> None:
    rows = [{"text": f"text {n} of {n % 2}", "label": str(n % 2)} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = CONFIG.replace("{kind: demo}", "{kind: files, train: rows.jsonl}")
    (tmp_path / "films.yaml").write_text(text.replace("[pos, neg]", '["0", "1"]'))
    out = tmp_path / "results"
    assert main(["run", str(tmp_path / "films.yaml"), "--out", str(out), "--dry-run"]) == 0
    assert not out.exists()


def test_a_junit_file_has_a_case_for_each_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "films.yaml").write_text(CONFIG)
    (tmp_path / "task.csv").write_text("text,label\n")
    broken = CONFIG.replace("films", "broken").replace(
        "{kind: demo}", "{kind: files, train: task.csv, test: task.csv}"
    )
    (tmp_path / "broken.yaml").write_text(broken)
    configs = [str(tmp_path / name) for name in ("broken.yaml", "films.yaml")]
    out = ["--out", str(tmp_path / "results"), "--junit", str(tmp_path / "junit.xml")]
    assert main(["run", *configs, *out]) == 2
    suites = {
        suite.get("name"): suite for suite in ElementTree.parse(tmp_path / "junit.xml").getroot()
    }
    assert {name: suite.get("failures") for name, suite in suites.items()} == {
        "broken": "2",
        "films": "0",
    }
    assert [case.get("name") for case in suites["films"]] == ["2/class seed 0", "2/class seed 1"]
    failure = suites["broken"].find("testcase/failure")
    assert failure is not None
    assert "task.csv" in failure.get("message", "")
    assert "task.csv" in capsys.readouterr().err
