"""Full and read-only disks, files that vanish, clocks that jump: a message, and nothing lost."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from whole_runs import TASK, contents, write_rows

from gpt3mix_cli.cli import main
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.grid import AugmentStep, Grid, Step
from gpt3mix_cli.grid.recognition import step_states
from gpt3mix_cli.records import StageResult
from gpt3mix_cli.train import TrialExecutor, run_serially

CONFIG = f"""\
name: films
{TASK}\
subsample: {{levels: [2/class], seeds: 2, validation: 4}}
baselines: [{{kind: eda}}]
classifiers: [{{kind: linear}}]
trials: 4
"""
WITH_LM = (
    CONFIG.replace("{kind: linear}", "{kind: linear}, {kind: prompt, examples: 1}")
    + "lm: {kind: local, model: bundled, batch_size: 8}\naugment: {ratio: 2, max_tokens: 20}\n"
)
ALL_UP_TO_DATE = "8 up to date"
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the experiment into a folder: exit code and stderr."""
    (tmp_path / "films.yaml").write_text(CONFIG)
    write_rows(tmp_path)

    def call(out: Path, *arguments: str) -> tuple[int, str]:
        config = str(tmp_path / "films.yaml")
        code = main(["run", config, "--out", str(out), "--jobs", "1", *arguments])
        return code, capsys.readouterr().err

    return call


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def run_while_the_disk_grows(run: Run, disk: Path, sizes: list[int]) -> None:
    failures = 0
    for size in sizes:
        remount(disk, f"size={size}k")
        code, err = run(disk)
        assert "Traceback" not in err
        assert not [*disk.rglob("*.partial"), *disk.rglob("*.lock")]
        for path in disk.rglob("*.jsonl"):
            assert path.read_bytes()[-1:] in (b"\n", b""), f"{path} ends in the middle of a row"
        if code == 0:
            break
        failures += 1
        # One message and not one for each step: the others would fail too.
        assert code == 2
        assert err.count("cannot be written") == 1
        assert str(disk / "films") in err
        assert "free some" in err
    assert failures > 2
    assert code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "sizes"),
    [(CONFIG, [16, 40, 64, 100, 8_000]), (WITH_LM, [*range(16, 800, 56), 16_000])],
    ids=["trials", "journals"],
)
def test_a_full_disk_loses_nothing(
    run: Run, disk: Path, tmp_path: Path, config: str, sizes: list[int]
) -> None:
    (tmp_path / "films.yaml").write_text(config)
    assert run(tmp_path / "results")[0] == 0
    run_while_the_disk_grows(run, disk, sizes)
    assert contents(disk) == contents(tmp_path / "results")


def test_results_on_a_read_only_disk(run: Run, disk: Path, tmp_path: Path) -> None:
    remount(disk, "size=16m")
    assert run(disk)[0] == 0
    before = contents(disk)
    remount(disk, "ro")
    code, err = run(disk)
    assert code == 0, err
    assert ALL_UP_TO_DATE in err
    code, err = run(disk, "--set", "trials=6")
    assert code == 2
    assert err.count("cannot be written: Read-only file system") == 1
    code, err = run(disk, "--set", "name=other")
    assert code == 2
    assert err.count("cannot be written: Read-only file system") == 1
    assert contents(disk) == before


def failures(grid: Grid) -> list[UserError]:
    return [result for result in grid.run() if isinstance(result, UserError)]


@pytest.fixture
def grid(run: Run, tmp_path: Path) -> Callable[..., Grid]:
    """Return a function that opens the experiment in a folder: no report, which takes a second."""

    def open_grid(name: str, *overrides: str, kind: type[Grid] = Grid) -> Grid:
        experiments = load_experiments(tmp_path / "films.yaml", overrides)
        return kind(experiments, tmp_path / name, jobs=1)

    return open_grid


class ForgetfulGrid(Grid):
    """A grid from whose folder a subsample is deleted when a step reads it."""

    def run_step(self, step: Step, executor: TrialExecutor = run_serially) -> StageResult:
        is_read = isinstance(step, AugmentStep) and step.cell.data_seed == 0
        if is_read and not self.options.only_checks:
            self.layout.train_path(step.cell).unlink(missing_ok=True)
        return super().run_step(step, executor)


def test_a_subsample_that_vanishes_costs_its_cell_only(
    grid: Callable[..., Grid], tmp_path: Path
) -> None:
    assert failures(grid("undisturbed")) == []
    forgetful = grid("results", kind=ForgetfulGrid)
    failed = failures(forgetful)
    assert "seed-0/train.jsonl: no such file" in failed[0].message
    assert "gpt3mix subsample" in failed[0].hint
    assert all("seed 0" in str(step) for step, result in forgetful.outcomes if result in failed)
    assert len(list((tmp_path / "results").rglob("seed-1/trials/*.linear.jsonl"))) == 2
    assert failures(grid("results")) == []
    assert contents(tmp_path / "results") == contents(tmp_path / "undisturbed")


def test_data_that_vanished_is_named_and_results_stay(
    grid: Callable[..., Grid], tmp_path: Path
) -> None:
    assert failures(grid("results")) == []
    before = contents(tmp_path / "results")
    (tmp_path / "test.jsonl").rename(tmp_path / "elsewhere.jsonl")
    failed = failures(grid("results"))
    assert failed[0].message == f"{tmp_path}/test.jsonl: cannot be read: No such file or directory"
    (tmp_path / "elsewhere.jsonl").rename(tmp_path / "test.jsonl")
    assert are_up_to_date(grid("results"))
    assert contents(tmp_path / "results") == before


def are_up_to_date(grid: Grid) -> bool:
    return all(is_done for _, is_done in step_states(grid))


@pytest.mark.parametrize("jump", [-1e9, 1e9], ids=["back", "forward"])
def test_a_clock_that_jumps_changes_nothing(
    grid: Callable[..., Grid], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    assert failures(grid("undisturbed")) == []
    assert failures(grid("results", "trials=2")) == []
    now = time.time
    for path in sorted(tmp_path.rglob("*")):
        os.utime(path, (now() + jump, now() + jump))
    monkeypatch.setattr(time, "time", lambda: now() - jump)
    assert failures(grid("results")) == []
    assert contents(tmp_path / "results") == contents(tmp_path / "undisturbed")
    assert are_up_to_date(grid("results"))
