"""Trials in parallel: the same rows as one after the other, and no process left over."""

import contextlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from whole_runs import contents

from gpt3mix_cli.cli import main
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import NO_CALLBACKS, Callbacks, UserError
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.grid.executors.processes import ProcessExecutor
from gpt3mix_cli.records import StageOptions, StageResult
from gpt3mix_cli.settings import derived_seed
from gpt3mix_cli.train import TrialJob, WorkerDied

SCRIPT = Path(sys.executable).with_name("gpt3mix")
DEADLINE = 120  # seconds that a test waits for anything

CONFIG = """\
name: small
task: {{data: {{kind: demo}}, labels: [pos, neg]}}
subsample: {{levels: [4/class], seeds: 2, validation: 20}}
baselines: [{{kind: eda}}]
classifiers:
  - {{kind: linear}}
  - {{kind: transformer, name: tiny, model: {encoder}, lr: 1e-3, max_epochs: 3, dtype: float32,
     device: cpu}}
trials: 4
"""

WORK = """
import os, signal, time
from pathlib import Path

from gpt3mix_cli.errors import UserError

def name(job, callbacks):
    callbacks.progress(f"job {job[0]}", 1, 2, "half of it")
    return f"{job[0]}-{job[1]}", os.getpid()

def span(job, callbacks):
    started = time.monotonic()
    time.sleep(0.2)
    return started, time.monotonic()

def die(job, callbacks, folder, deadly, wait):
    (folder / f"{job[0]}.begun").touch()
    if job[0] == deadly:
        while wait and not list(folder.glob(f"[!{deadly}].begun")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1 if wait else 0)
    return job[0]

def refuse(job, callbacks):
    raise UserError(f"job {job[0]} is wrong", "fix it")

def hang(job, callbacks, folder):
    (folder / "begun").touch()
    time.sleep(600)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Functions for the workers, in a module that they can import."""
    (tmp_path / "work_of_a_test.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("work_of_a_test", None)
    import work_of_a_test

    return work_of_a_test


@pytest.fixture
def small(tmp_path: Path, tiny_encoder: Path) -> Path:
    (tmp_path / "small.yaml").write_text(CONFIG.format(encoder=tiny_encoder))
    return tmp_path / "small.yaml"


def until(is_reached: Callable[[], Any]) -> None:
    end = time.monotonic() + DEADLINE
    while not is_reached():
        assert time.monotonic() < end
        time.sleep(0.02)


# The processes -----------------------------------------------------------------------------------

JOBS = [(number, number % 2) for number in range(7)]


@pytest.mark.parametrize("count", [1, 3])
def test_every_job_comes_back_once_with_its_result(work: ModuleType, count: int) -> None:
    with ProcessExecutor(count) as workers:
        results = list(workers.map(work.name, JOBS, NO_CALLBACKS))
    assert sorted((job, text) for job, (text, _) in results) == [
        (job, f"{job[0]}-{job[1]}") for job in JOBS
    ]
    assert os.getpid() not in {process for _, (_, process) in results}


def test_no_more_jobs_run_at_once_than_there_are_workers(work: ModuleType) -> None:
    spans: list[tuple[float, float]] = []

    def share() -> None:
        spans.extend(span for _, span in workers.map(work.span, JOBS[:4], NO_CALLBACKS))

    with ProcessExecutor(2) as workers:
        threads = [threading.Thread(target=share) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(spans) == 12
    assert max(sum(start <= moment < end for start, end in spans) for moment, _ in spans) == 2


def test_progress_of_the_workers_reaches_the_parent(work: ModuleType) -> None:
    calls: list[tuple[Any, ...]] = []
    callbacks = Callbacks(progress=lambda *call: calls.append(call))  # type: ignore[misc]
    with ProcessExecutor(2, callbacks) as workers:
        assert len(list(workers.map(work.name, JOBS, NO_CALLBACKS))) == 7
        until(lambda: len(calls) == 7)
    assert sorted(calls) == [(f"job {number}", 1, 2, "half of it") for number, _ in JOBS]


def test_a_worker_that_is_killed_loses_its_own_job_and_the_others_go_on(
    work: ModuleType, tmp_path: Path
) -> None:
    with ProcessExecutor(1) as workers:
        results = dict(
            workers.map(
                partial(work.die, folder=tmp_path, deadly=2, wait=False), JOBS, NO_CALLBACKS
            )
        )
    assert len(results) == 7
    assert isinstance(results.pop((2, 0)), WorkerDied)
    assert results == {job: job[0] for job in JOBS if job != (2, 0)}


def test_a_fork_server_that_is_killed_loses_the_job_that_it_was_to_start(work: ModuleType) -> None:
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    ended: list[Any] = []
    with ProcessExecutor(1) as processes:
        jobs = [TrialJob(3)]
        thread = threading.Thread(
            target=lambda: ended.extend(processes.map(work.name, jobs, NO_CALLBACKS))
        )
        thread.start()
        until(lambda: forkserver._forkserver._forkserver_pid)  # type: ignore[attr-defined]
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]
        thread.join(DEADLINE)
    ((job, outcome),) = ended
    assert job == TrialJob(3)
    assert isinstance(outcome, WorkerDied)


def test_signals_to_the_process_group_end_nothing_that_jobs_in_flight_need(
    work: ModuleType,
) -> None:
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]
    with ProcessExecutor(1) as workers:
        outcomes = workers.map(work.span, JOBS[:3], NO_CALLBACKS)
        next(outcomes)
        for process in (
            forkserver._forkserver._forkserver_pid,  # type: ignore[attr-defined]
            resource_tracker._resource_tracker._pid,  # type: ignore[attr-defined]
            multiprocessing.active_children()[0].pid,
        ):
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                os.kill(process, number)
        assert not any(isinstance(result, WorkerDied) for _, result in outcomes)
    for process in (
        forkserver._forkserver._forkserver_pid,  # type: ignore[attr-defined]
        resource_tracker._resource_tracker._pid,  # type: ignore[attr-defined]
    ):
        assert os.waitpid(process, os.WNOHANG) == (0, 0)


def test_a_worker_that_is_killed_does_not_lose_the_job_of_another(
    work: ModuleType, tmp_path: Path
) -> None:
    with ProcessExecutor(2) as workers:
        results = dict(
            workers.map(
                partial(work.die, folder=tmp_path, deadly=0, wait=True), JOBS[:3], NO_CALLBACKS
            )
        )
    assert [job for job, result in results.items() if isinstance(result, WorkerDied)] == [(0, 0)]
    assert {result for result in results.values() if not isinstance(result, WorkerDied)} == {1, 2}


def test_user_errors_come_back_with_their_hint(work: ModuleType) -> None:
    with pytest.raises(UserError, match="job 0 is wrong") as caught, ProcessExecutor(1) as workers:
        list(workers.map(work.refuse, JOBS[:1], NO_CALLBACKS))
    assert caught.value.hint == "fix it"


def test_an_error_ends_the_workers_at_once(work: ModuleType, tmp_path: Path) -> None:
    before = set(multiprocessing.active_children())

    def wait() -> None:
        with contextlib.suppress(Exception):
            list(workers.map(partial(work.hang, folder=tmp_path), JOBS, NO_CALLBACKS))

    waiting = threading.Thread(target=wait, daemon=True)
    with pytest.raises(KeyboardInterrupt), ProcessExecutor(2) as workers:  # noqa: PT012
        waiting.start()
        until((tmp_path / "begun").exists)
        raise KeyboardInterrupt
    until(lambda: not set(multiprocessing.active_children()) - before)
    waiting.join(DEADLINE)  # a thread that waits for jobs ends too, or the program could not
    assert not waiting.is_alive()


# Whole commands ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_jobs_write_the_same_files_as_one(small: Path, tmp_path: Path) -> None:
    for jobs in ("1", "2"):
        assert main(["run", str(small), "--jobs", jobs, "--out", str(tmp_path / jobs), "-q"]) == 0
    files = contents(tmp_path / "2")
    assert len([name for name in files if "/trials/" in name]) == 16
    assert files == contents(tmp_path / "1")


def test_epochs_of_the_workers_are_shown_with_their_scores(small: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int | None, str]] = []

    def progress(name: str, done: int, total: int | None = None, detail: str = "") -> None:
        calls.append((name, done, total, detail))

    grid = Grid(
        load_experiments(small, ["baselines=[]", "subsample.seeds=1", "trials=2"]),
        tmp_path / "results",
        StageOptions(callbacks=Callbacks(progress=progress)),
        jobs=2,
    )
    assert all(isinstance(item, StageResult) for item in grid.run())
    for number in (0, 1):
        epochs = [
            call
            for call in calls
            if call[0] == f"4/class seed 0 none + tiny, trial {number}, epoch"
        ]
        assert [done for _, done, _, detail in epochs if detail] == [1, 2, 3]
        assert all(
            re.match(r"loss \d\.\d+\W+validation \d+\.\d%", detail)
            for _, _, _, detail in epochs
            if detail
        )
    assert ("4/class seed 0 none + tiny", 2, 2, "") in calls


# A command line whose workers kill themselves at one seed, once the other trials have begun.
DYING = """
import os, signal, sys, time
from pathlib import Path

from gpt3mix_cli.cli import main
from gpt3mix_cli.train.linear import LinearClassifier

FOLDER = Path(__file__).parent
fit = LinearClassifier.fit

def dying(self, train, validation, seed, *callbacks):
    if (FOLDER / "deadly").read_text() == str(seed):
        while len(list(FOLDER.glob("*.fitted"))) < 3:
            time.sleep(0.01)
        time.sleep(0.5)  # their rows are being sent
        os.kill(os.getpid(), signal.SIGKILL)
    result = fit(self, train, validation, seed, *callbacks)
    (FOLDER / f"{seed}.fitted").touch()
    return result

LinearClassifier.fit = dying
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_trial_is_reported_and_the_same_command_repeats_only_it(
    small: Path, tmp_path: Path
) -> None:
    line = [
        "run",
        str(small),
        "--jobs",
        "2",
        "--set",
        "baselines=[]",
        "--set",
        "classifiers=[{kind: linear}]",
        "--set",
        "subsample.seeds=1",
    ]
    (tmp_path / "dying.py").write_text(DYING)
    (tmp_path / "deadly").write_text(str(derived_seed(42, "train", 1)))
    done = subprocess.run(
        [sys.executable, tmp_path / "dying.py", *line],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "1 of 4 trials failed; the first: the process of the trial died" in done.stderr
    assert "Traceback" not in done.stderr
    (path,) = (tmp_path / "results").rglob("trials/none.linear.jsonl")
    first = [json.loads(row) for row in path.read_text().splitlines()]
    assert [row["status"] for row in first] == ["ok", "failed", "ok", "ok"]
    assert "died" in first[1]["error"]
    assert main([*line, "-q"]) == 0
    second = [json.loads(row) for row in path.read_text().splitlines()]
    assert [row["status"] for row in second] == ["ok"] * 4
    assert [second[number] for number in (0, 2, 3)] == [
        first[number] for number in (0, 2, 3)
    ]  # `seconds` too
    assert main([*line, "-q", "--jobs", "1", "--out", str(tmp_path / "undisturbed")]) == 0
    assert contents(tmp_path / "results") == contents(tmp_path / "undisturbed")


LONG = [
    "--set",
    "baselines=[]",
    "--set",
    "subsample.seeds=1",
    "--set",
    "trials=6",
    "--set",
    "classifiers.1.max_epochs=12",
]


@contextlib.contextmanager
def under_way(config: Path, folder: Path, trained: bool = True) -> Iterator[subprocess.Popen[str]]:
    """A run in a session of its own, after its first trial; or before its workers start."""
    command = [str(SCRIPT), "run", str(config), *LONG, "--jobs", "2"]

    def listen() -> None:
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # tests in the background hand down an ignored SIGINT

    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=listen,
    )
    try:
        if trained:
            until(
                lambda: (
                    process.poll() is not None
                    or any(
                        path.stat().st_size
                        for path in (folder / "results").rglob("trials/none.tiny.jsonl")
                    )
                )
            )
        until(lambda: process.poll() is not None or len(living(process.pid)) > 2)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        for child in living(process.pid):
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        process.communicate()


def living(session: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, its = path.read_text().rpartition(")")[2].split()[:4]
            if int(its) == session and state != "Z":
                processes.append(int(path.parent.name))
    return processes


@pytest.fixture(scope="module")
def undisturbed(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "small.yaml").write_text(CONFIG.format(encoder=tiny_encoder))
    assert (
        main(["run", str(folder / "small.yaml"), *LONG, "--jobs", "1", "-q", "--out", str(folder)])
        == 0
    )
    return contents(folder)


@pytest.mark.slow
def test_ctrl_c_ends_a_run_with_its_workers_and_it_resumes(
    small: Path, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    with under_way(small, tmp_path) as process:
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (130, ""), err
        assert "interrupted; finished work is kept" in err
        assert "Traceback" not in err
        assert "leaked" not in err  # semaphores, says Python's resource tracker
        until(lambda: not living(process.pid))
    assert main(["run", str(small), *LONG, "--jobs", "2", "-q"]) == 0
    assert contents(tmp_path / "results") == undisturbed
    assert not [
        path
        for pattern in ("*.partial", "*.lock")
        for path in (tmp_path / "results").rglob(pattern)
    ]


@pytest.mark.slow
def test_ctrl_c_while_the_workers_start_is_reported_in_one_line(
    small: Path, tmp_path: Path
) -> None:
    with under_way(small, tmp_path, trained=False) as process:
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130
        until(lambda: not living(process.pid))
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_killed_run_leaves_no_worker_and_resumes(
    small: Path, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    with under_way(small, tmp_path) as process:
        process.kill()
        process.wait()
        until(lambda: not living(process.pid))
    assert main(["run", str(small), *LONG, "--jobs", "2", "-q"]) == 0
    assert contents(tmp_path / "results") == undisturbed
