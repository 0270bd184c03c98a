"""The `next:` of each command is one that can run: same options, a stage that is still missing."""

import shlex
from pathlib import Path

import pytest

from gpt3mix_cli.cli import main
from gpt3mix_cli.cli_hints import after_train, command_line
from gpt3mix_cli.cli_options import GridOptions

CONFIG = """\
name: demo
task: {data: {kind: demo}, labels: [pos, neg], text_type: movie review, label_type: sentiment}
subsample: {levels: [3/class], seeds: 1, validation: 10}
METHODS
classifiers: [{kind: linear}]
trials: 1
"""
BASELINES = "baselines: [{kind: eda}, {kind: aeda}]"


def options(config: str = "a b.yaml", out: str = "results", *overrides: str) -> GridOptions:
    return GridOptions(Path(config), Path(out), overrides)


def test_a_command_keeps_out_and_set_and_quotes_what_a_shell_would_split() -> None:
    line = command_line("run", options("a b.yaml", "my out", "task.text_type=movie review"))
    assert line == (
        "gpt3mix run 'a b.yaml' --out 'my out' --set 'task.text_type=movie review'"
    )  # fmt: skip
    assert command_line("run", options("a.yaml")) == "gpt3mix run a.yaml"


def test_after_train_comes_what_reads_its_output() -> None:
    assert after_train(options("a.yaml"), None, None, Path("m")) == (
        "gpt3mix predict m -i FILE -o FILE"
    )
    assert after_train(options("a.yaml"), None, Path("t.jsonl"), None) == "gpt3mix report t.jsonl"
    assert after_train(options("a.yaml"), None, Path("-"), None) == ""
    assert after_train(options("a.yaml", "o"), 3, None, None) == (
        "gpt3mix report a.yaml --set trials=3 --out o"
    )


@pytest.mark.parametrize(
    ("methods", "stages"),
    [
        (BASELINES, ["subsample", "baseline", "baseline", "train", "report"]),
        ("", ["subsample", "train", "report"]),
    ],
)
def test_each_hint_runs_and_leads_to_the_report(
    methods: str,
    stages: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without an `lm:` no `augment` is proposed, and what is proposed ends in a report."""
    monkeypatch.chdir(tmp_path)
    Path("my config.yaml").write_text(CONFIG.replace("METHODS", methods), "utf-8")
    command = "gpt3mix subsample 'my config.yaml' --out 'my results' --set subsample.master_seed=7"
    seen = []
    while command:
        words = shlex.split(command)[1:]
        seen.append(words[0])
        assert main(words) == 0, capsys.readouterr().err
        command = capsys.readouterr().err.splitlines()[-1].partition("; next: ")[2]
    assert seen == stages
    written = {path.name for path in tmp_path.iterdir()} - {"cache"}
    assert written == {"my config.yaml", "my results"}


def test_rows_in_a_file_of_their_own_are_given_to_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(CONFIG.replace("METHODS", BASELINES), "utf-8")
    command = "gpt3mix subsample c.yaml -o real.jsonl"
    for expected in (
        "gpt3mix baseline c.yaml --method eda -i real.jsonl",
        "gpt3mix train c.yaml -i real.jsonl -a results/demo/3-per-class/seed-0/eda.jsonl",
    ):
        assert main(shlex.split(command)[1:]) == 0
        last = capsys.readouterr().err.splitlines()[-1]
        command = last.partition("; next: ")[2]
        assert command == expected
    assert "6 rows" in last
    assert main(shlex.split(command)[1:]) == 0


def test_one_row_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(CONFIG.replace("METHODS", BASELINES), "utf-8")
    assert main(["baseline", "c.yaml", "--method", "eda", "--limit", "1"]) == 2
    assert main(["subsample", "c.yaml"]) == 0
    assert main(["baseline", "c.yaml", "--method", "eda", "--limit", "1"]) == 0
    assert "1 file, 1 row; next: " in capsys.readouterr().err
