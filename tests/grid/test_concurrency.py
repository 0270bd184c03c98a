"""Several processes in one folder of results: nothing is lost, doubled or waited for in vain."""

import fcntl
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from whole_runs import SCRIPT, TASK, contents, finish, start, write_rows

from gpt3mix_cli import stopping
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import Callbacks, OutputInUse
from gpt3mix_cli.files import exclusive_writer, write_shared
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.records import StageOptions, StageResult
from gpt3mix_cli.stopping import Interrupted

CONFIG = f"""\
name: films
{TASK}\
subsample: {{levels: [2/class, 4/class], seeds: 2, validation: 4}}
lm: {{kind: local, model: bundled, batch_size: 8}}
augment: {{ratio: 2, max_tokens: 20}}
baselines: [{{kind: eda}}]
classifiers: [{{kind: linear}}, {{kind: prompt, examples: 1}}]
trials: 2
"""
WITHOUT_LM = re.sub(r"(lm|augment): .*\n|, \{kind: prompt.*?\}", "", CONFIG)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of an output, as another process that works on it does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def write(folder: Path, config: str = CONFIG) -> Path:
    path = folder / "films.yaml"
    path.write_text(config)
    write_rows(folder)
    return path


class Release:
    """Ends a lock as soon as somebody says that they wait for it."""

    def __init__(self, path: Path) -> None:
        self._lock = locked(path)
        self._lock.__enter__()
        self.shown: list[str] = []

    def __call__(self, name: str, done: int, total: int | None = None, detail: str = "") -> None:
        if name.startswith("waiting for another process") and total is None:
            self.shown.append(name)
            threading.Timer(0.1, self._lock.__exit__, (None, None, None)).start()


def test_a_writer_waits_for_another_process_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    release = Release(path)
    with pytest.raises(OutputInUse), exclusive_writer(path):
        pytest.fail("both had it")
    with exclusive_writer(path, wait=True, callbacks=Callbacks(release)):
        assert release.shown == [f"waiting for another process to write {path}"]
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_a_killed_process_holds_up_nobody(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        "from gpt3mix_cli.files import exclusive_writer\n"
        "with exclusive_writer(Path(sys.argv[1])):\n    print('locked', flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(OutputInUse), exclusive_writer(path):
            pytest.fail("both had it")
        other.kill()
        other.wait()
        assert (tmp_path / ".rows.jsonl.lock").exists()
        with exclusive_writer(path):
            pass


def test_a_signal_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_is_requested", False)
    path = tmp_path / "rows.jsonl"
    threading.Timer(0.1, stopping.request_stop).start()
    with locked(path), pytest.raises(Interrupted), exclusive_writer(path, wait=True):
        pytest.fail("both had it")


def test_processes_that_write_a_shared_file_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    lock = locked(tmp_path / ".report.md.partial")
    lock.__enter__()
    threading.Timer(0.1, lock.__exit__, (None, None, None)).start()
    write_shared(path, b"all of it")
    assert path.read_bytes() == b"all of it"


@pytest.mark.parametrize("name", ["train.jsonl", "eda.jsonl", "trials/eda.linear.jsonl"])
def test_what_another_process_works_on_comes_last_and_is_waited_for(
    tmp_path: Path, name: str
) -> None:
    config = write(tmp_path, WITHOUT_LM)
    release = Release(tmp_path / "results/films/2-per-class/seed-0" / name)
    warnings: list[str] = []
    options = StageOptions(callbacks=Callbacks(release, warnings.append))
    grid = Grid(load_experiments(config), tmp_path / "results", options, jobs=1)
    results = list(grid.run())
    assert all(isinstance(result, StageResult) for result in results)
    assert len(results) == len(grid.steps())
    assert len(warnings) == len(release.shown) == 1
    assert f"{name}: another process is writing it; this run looks again" in warnings[0]
    assert str(grid.outcomes[-1][0]).startswith("2/class seed 0")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the files of one run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = write(folder)
    finish(start(config, "--jobs", 2))
    return contents(folder / "results")


def check(folder: Path, undisturbed: dict[str, str]) -> None:
    """Check that all is up to date, with the files of one run and nothing else."""
    assert contents(folder / "results") == undisturbed
    out, _ = finish(start(folder / "films.yaml", "--dry-run"))
    assert {line.split("  ")[0] for line in out.splitlines()} == {"up to date"}
    assert not [*folder.rglob("*.partial"), *folder.rglob("*.lock")]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [2])
def test_two_runs_of_one_config_at_once(
    tmp_path: Path, undisturbed: dict[str, str], jobs: int
) -> None:
    config = write(tmp_path)
    both = [start(config, "--jobs", jobs) for _ in range(2)]
    for process in both:
        finish(process)
    check(tmp_path, undisturbed)
    assert list((tmp_path / "results").rglob("report*"))


@pytest.mark.slow
def test_a_run_goes_on_where_one_that_it_waits_for_is_killed(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    config = write(tmp_path)
    first, second = [start(config, "--jobs", 2) for _ in range(2)]
    while not list(tmp_path.rglob("*.lock")):
        time.sleep(0.01)
    time.sleep(0.5)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    finish(second)
    assert contents(tmp_path / "results") == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("form", ["commands", "make"])
def test_commands_of_other_schedulers(
    tmp_path: Path, undisturbed: dict[str, str], form: str
) -> None:
    config = write(tmp_path)
    (tmp_path / "list").write_text(finish(start(config, "--emit", form))[0])
    at_once = "xargs -P4 -d '\\n' -n1 sh -c"
    stages = [
        f"grep '^gpt3mix {stage} ' list | {at_once}"
        for stage in ("subsample", "augment", "baseline", "train", "report")
    ]
    script = " && ".join(stages) if form == "commands" else "make -j4 -f list"
    environment = {**os.environ, "PATH": f"{shlex.quote(str(SCRIPT.parent))}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    check(tmp_path, undisturbed)
