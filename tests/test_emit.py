"""`run --emit`: the stages' own commands, complete and in the order of their dependencies."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from gpt3mix_cli.cli import main
from gpt3mix_cli.cli_emit import StageCommand, emitted_lines, stage_commands
from gpt3mix_cli.cli_options import GridOptions
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.grid import Grid

CONFIG = """\
name: films
task: {data: {kind: demo}, labels: [pos, neg]}
subsample: {levels: [2/class, 1%], seeds: 2, validation: 4}
lm: {kind: local, model: bundled}
baselines: [{kind: eda}]
classifiers: [{kind: linear}, {kind: prompt}]
trials: 2
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    folder = tmp_path / "my configs"
    folder.mkdir()
    (folder / "films.yaml").write_text(CONFIG)
    return folder / "films.yaml"


def commands(config: Path, *overrides: str) -> list[StageCommand]:
    grid = Grid(load_experiments(config, overrides), Path("results"))
    return list(stage_commands(grid, GridOptions(config, Path("results"), overrides)))


def test_every_stage_of_every_cell_has_one_command(config: Path) -> None:
    counts: dict[str, int] = {}
    for item in commands(config):
        counts[item.stage] = counts.get(item.stage, 0) + 1
    # Four cells; a classifier that prompts has trials with real rows only.
    assert counts == {"subsample": 4, "augment": 4, "baseline": 4, "train": 16, "report": 1}


def test_what_a_command_requires_comes_before_it(config: Path) -> None:
    seen: set[str] = set()
    for item in commands(config):
        assert set(item.requires) <= seen
        assert item.target not in seen
        seen.add(item.target)
        if item.stage == "train" and "--method eda" in item.command:
            assert item.requires[0].startswith("baseline,")


def test_a_sweep_has_a_command_for_all_of_its_variants(config: Path) -> None:
    swept = commands(config, "sweep={augment.k: [1, 2]}")
    assert [item.target for item in swept] == [item.target for item in commands(config)]
    with pytest.raises(UserError, match="different levels, data seeds or methods"):
        commands(config, "sweep={subsample.seeds: [1, 2]}")


def test_names_that_end_alike_have_targets_of_their_own(config: Path) -> None:
    names = (
        "baselines=[{kind: eda}, {kind: aeda, name: eda-b}]",
        "classifiers=[{kind: linear}, {kind: linear, name: b-linear}]",
    )
    targets = [item.target for item in commands(config, *names)]
    assert len(set(targets)) == len(targets)


def test_a_flag_that_the_commands_would_not_repeat_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(config), "--emit", "commands", "--jobs", "2"]) == 2
    assert "which --jobs would not reach" in capsys.readouterr().err


def test_lines_are_read_back_by_a_shell(config: Path) -> None:
    grid = Grid(load_experiments(config), Path("results"))
    options = GridOptions(config, Path("an out"), ["augment.k=1"])
    lines = list(emitted_lines([(grid, options)], "commands"))
    stages = [shlex.split(line)[1] for line in lines]
    assert stages == sorted(
        stages, key=["subsample", "augment", "baseline", "train", "report"].index
    )
    assert shlex.split(lines[0]) == [
        *["gpt3mix", "subsample", str(config), "--level", "2/class", "--seed", "0"],
        *["--out", "an out", "--set", "augment.k=1"],
    ]


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_runs_each_command_once(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(config), "--emit", "make"]) == 0
    done = subprocess.run(
        ["make", "-n", "-f", "-"],
        input=capsys.readouterr().out,
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert sorted(done.stdout.splitlines()) == sorted(item.command for item in commands(config))


def test_configs_of_a_folder_are_one_run_with_names_of_their_own(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = config.with_name("others.yaml")
    other.write_text(CONFIG.replace("films", "others"))
    assert main(["run", str(config.parent), "--emit", "commands"]) == 0
    reports = [line for line in capsys.readouterr().out.splitlines() if " report " in line]
    # One report on both, as `run` without --emit writes it.
    assert reports == [shlex.join(["gpt3mix", "report", str(config), str(other)])]
    other.write_text(CONFIG)
    assert main(["run", str(config.parent), "--emit", "commands"]) == 2
    assert "change `name` in one of them" in capsys.readouterr().err


def test_dry_run_names_the_experiment_of_a_step_where_there_are_several(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--dry-run", "--out", str(tmp_path / "out")]
    assert main(["run", str(config), *out]) == 0
    alone = capsys.readouterr().out.splitlines()
    assert alone[0] == "to do       2/class seed 0 subsample"
    config.with_name("others.yaml").write_text(CONFIG.replace("films", "others"))
    assert main(["run", str(config.parent), *out]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "to do       films: 2/class seed 0 subsample"
    assert lines[len(alone)] == "to do       others: 2/class seed 0 subsample"
