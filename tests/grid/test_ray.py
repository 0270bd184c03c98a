"""A Ray cluster of several nodes on this machine: the files of one machine, whatever dies."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import gpt3mix_cli
from gpt3mix_cli import stopping
from gpt3mix_cli.cli import main
from gpt3mix_cli.errors import NO_CALLBACKS, Callbacks, UserError
from gpt3mix_cli.grid.executors.opener import ExecutorOptions, TrialDemand
from gpt3mix_cli.lm import JournaledLM, Request, open_lm
from gpt3mix_cli.settings import LinearSettings, LocalLMSettings
from gpt3mix_cli.train import TrialJob, WorkerDied

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed"),
    pytest.mark.filterwarnings("ignore"),  # Ray leaves sockets open
]

SCRIPT = Path(sys.executable).with_name("gpt3mix")
DEADLINE = 240  # seconds that a test waits for anything
STORE = 80_000_000  # bytes of a node's object store
JOBS = [TrialJob(number) for number in range(4)]
# One cell, and trials of a second or two each.
LONG = [
    *("--set", "baselines=[]", "--set", "subsample.seeds=1", "--set", "trials=6"),
    *("--set", "lm=null", "--set", "classifiers.1.max_epochs=12"),
]
WORK = """
import os, signal

from gpt3mix_cli.errors import UserError

def name(job, callbacks):
    callbacks.progress(f"job {job[0]}", 1, 2, "half of it")
    callbacks.warn(f"job {job[0]} warns")
    return f"{job[0]}-{job[1]}", os.getpid()

def die(job, callbacks, folder, deadly, times):
    begun = len(list(folder.glob(f"{job[0]}-*.begun")))
    (folder / f"{job[0]}-{begun}.begun").touch()
    if job[0] == deadly and begun < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return job[0]

def refuse(job, callbacks):
    raise UserError(f"job {job[0]} is wrong", "fix it")

class DyingWorker:
    def __init__(self, deaths):
        self.deaths = deaths

    def info(self):
        if self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head without CPUs, where the driver runs, and two nodes with one each."""
    from ray.cluster_utils import Cluster

    work = tmp_path_factory.mktemp("work")
    (work / "work_of_a_test.py").write_text(WORK)
    package = Path(gpt3mix_cli.__file__).parent.parent
    options = {"include_dashboard": False, "object_store_memory": STORE}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PYTHONPATH", f"{package}{os.pathsep}{work}")  # of the nodes
        patch.syspath_prepend(str(work))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **options})
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=STORE)
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def work(cluster: Any) -> ModuleType:
    import work_of_a_test

    return work_of_a_test


def contents(folder: Path) -> dict[str, Any]:
    """Return all rows, without the seconds, and all answers in journals."""
    files: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.jsonl")):
        rows = re.sub(r'"seconds": [\d.]+', '"seconds": 0', path.read_text(encoding="utf-8"))
        files[str(path.relative_to(folder))] = rows
    for path in sorted(folder.rglob("*.sqlite")):
        with contextlib.closing(sqlite3.connect(path)) as journal:
            tables = journal.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for (table,) in tables.fetchall():
                rows = sorted(map(repr, journal.execute(f"SELECT * FROM {table}")))
                files[f"{path.relative_to(folder)}:{table}"] = rows
    return files


def until(is_reached: Callable[[], Any]) -> None:
    end = time.monotonic() + DEADLINE
    while not is_reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def start(config: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(SCRIPT), "run", str(config), "--executor", "ray", "--out", "ray", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def num_trials(folder: str) -> int:
    paths = Path(folder).rglob("trials/none.tiny.jsonl")
    return sum(len(path.read_text("utf-8").splitlines()) for path in paths)


@contextlib.contextmanager
def executor(callbacks: Callbacks = NO_CALLBACKS) -> Iterator[Any]:
    from gpt3mix_cli.grid.executors.ray import RayExecutor

    demand = TrialDemand([], len(JOBS), 1.0, lambda settings: pytest.fail("not opened here"))
    with RayExecutor(ExecutorOptions("ray"), demand, callbacks) as ray_executor:
        yield ray_executor


def test_a_cluster_writes_the_files_of_one_machine(cluster: Any, config: Path) -> None:
    """With the LM on the nodes, and their answers in the journals of the driver."""
    text = config.read_text("utf-8")
    config.write_text(text.replace("trials: 2\n", "  - {kind: prompt, trials: 1}\ntrials: 2\n"))
    process = start(config, "--json")
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    assert json.loads(out)["cells"]
    local = ["run", str(config)]
    assert main([*local, "--jobs", "1", "--out", "local", "-q"]) == 0
    files = contents(Path("ray"))
    assert len([name for name in files if "/trials/" in name and "history" not in name]) > 12
    assert files == contents(Path("local"))


def test_a_node_that_is_killed_costs_no_trial(cluster: Any, config: Path) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    process = start(config, *LONG, "--json")
    until(lambda: process.poll() is not None or num_trials("ray") > 0)
    cluster.remove_node(node, allow_graceful=False)
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    assert json.loads(out)["cells"]  # Ray's messages about the node are not on stdout
    assert main(["run", str(config), *LONG, "--jobs", "1", "--out", "local", "-q"]) == 0
    assert contents(Path("ray")) == contents(Path("local"))


def test_ctrl_c_ends_a_run_and_it_resumes(cluster: Any, config: Path) -> None:
    process = start(config, *LONG)
    until(lambda: process.poll() is not None or num_trials("ray") > 0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (130, ""), err
    assert "interrupted; finished work is kept" in err
    assert "Traceback" not in err
    finished = num_trials("ray")
    assert 0 < finished < 6
    assert main(["run", str(config), *LONG, "--jobs", "1", "--out", "ray", "-q"]) == 0
    assert num_trials("ray") == 6


def test_after_a_signal_no_trial_begins(work: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_is_requested", False)
    jobs = [TrialJob(number) for number in range(40)]
    with executor() as ray:
        results = ray.map(work.name, jobs, NO_CALLBACKS)
        first = next(results)
        stopping.request_stop()
        assert len([first, *results]) <= 4  # two of them ended, and two were in flight
        assert not list(ray.map(work.name, jobs, NO_CALLBACKS))
        with pytest.raises(stopping.Interrupted):
            ray.open_classifier(LinearSettings(kind="linear"), ("pos", "neg"))


def test_a_node_that_does_not_answer_is_named(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt3mix_cli.grid.executors import ray_cluster

    with executor():
        import ray

        monkeypatch.setattr(ray_cluster, "START_S", 0.0)  # the cluster has answered
        probe = ray.remote(lambda: time.sleep(60)).options(num_cpus=0).remote()
        with pytest.raises(UserError, match="node gpu-2: no worker has started") as caught:
            ray_cluster.wait_for_probes({probe: "gpu-2"})
    assert "remove it from the cluster" in caught.value.hint


def test_rows_go_to_stdout(cluster: Any, config: Path) -> None:
    cell = [str(config), "--level", "4/class", "--seed", "0"]
    assert main(["subsample", *cell, "-q"]) == 0
    done = subprocess.run(
        [
            SCRIPT,
            "train",
            *cell,
            *["--method", "none", "--classifier", "linear", "--executor", "ray", "-o", "-"],
        ],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["ok"]


def test_results_messages_and_errors_of_workers_come_back(work: ModuleType, tmp_path: Path) -> None:
    progress: list[tuple[Any, ...]] = []
    warnings: list[str] = []
    callbacks = Callbacks(lambda *call: progress.append(call), warnings.append)  # type: ignore[misc]
    with executor(callbacks) as ray:
        results = dict(ray.map(work.name, JOBS, NO_CALLBACKS))
        assert {job: text for job, (text, _) in results.items()} == {
            job: f"{job.trial}-0" for job in JOBS
        }
        assert len({process for _, process in results.values()} - {os.getpid()}) <= 2
        until(lambda: len(warnings) == len(JOBS))
        # A worker that dies once costs nothing; one that dies each time fails its trial.
        for times, is_lost in ((1, False), (9, True)):
            (tmp_path / str(times)).mkdir()
            die = partial(work.die, folder=tmp_path / str(times), deadly=2, times=times)
            results = dict(ray.map(die, JOBS, NO_CALLBACKS))
            lost = results.pop(TrialJob(2))
            assert results == {job: job.trial for job in JOBS if job.trial != 2}
            assert isinstance(lost, WorkerDied) == is_lost
            assert is_lost or lost == 2
        assert "tried 3 times" in str(lost)
        with pytest.raises(UserError, match="job 0 is wrong") as caught:
            list(ray.map(work.refuse, JOBS[:1], NO_CALLBACKS))
        assert caught.value.hint == "fix it"
    assert sorted(warnings) == [f"job {job.trial} warns" for job in JOBS]
    for job in JOBS:
        assert (f"job {job.trial}", 1, 2, "half of it") in progress


def test_the_lm_answers_as_here_and_outlives_its_workers(cluster: Any, tiny_lm: Path) -> None:
    settings = LocalLMSettings(kind="local", model=str(tiny_lm), batch_size=4)
    requests = [Request(number, "Movie review:", number, 8) for number in range(6)]
    answers = list(open_lm(settings).complete(requests))
    with executor() as ray_executor:
        lm = ray_executor.open_lm(settings)
        assert lm.info.fingerprint == open_lm(settings).info.fingerprint
        assert list(lm.complete(requests)) == answers
        import ray

        until(lambda: len(lm._pool._idle) == 2 or lm._pool.release(lm._take()))
        for worker in lm._pool._idle:
            ray.kill(worker)
        assert list(lm.complete(requests)) == answers
        assert lm.score(["Movie review:"], [" good", " bad"]) == open_lm(settings).score(
            ["Movie review:"], [" good", " bad"]
        )


def test_blocks_survive_a_worker_that_answers_several(
    cluster: Any, tiny_lm: Path, tmp_path: Path
) -> None:
    settings = LocalLMSettings(kind="local", model=str(tiny_lm), batch_size=4)
    requests = [Request(number, "Movie review:", number, 200) for number in range(48)]
    node = cluster.add_node(num_cpus=2, object_store_memory=STORE)
    with executor() as ray_executor:
        import ray

        lm = ray_executor.open_lm(settings)
        until(lambda: len(lm._pool._idle) == 4 or lm._pool.release(lm._take()))
        assert lm.parallel_blocks == 4
        (worker,) = (worker for worker, count in Counter(lm._pool._idle).items() if count == 2)

        def kill() -> None:
            until(lambda: lm._pool._busy[worker])
            ray.kill(worker)

        killer = threading.Thread(target=kill)
        killer.start()
        answers = list(JournaledLM(lm, tmp_path / "a.sqlite").complete(requests))
        killer.join()
        assert lm.parallel_blocks == 2
    cluster.remove_node(node)
    assert answers == list(open_lm(settings).complete(requests))


def test_a_worker_that_does_not_start_counts_once(work: ModuleType) -> None:
    import ray

    from gpt3mix_cli.grid.executors.ray_workers import MAX_TRIES, WorkerPool

    started: list[Any] = []
    checked: list[Any] = []

    def start(pool: WorkerPool) -> dict[Any, int]:
        deaths = len(started) < MAX_TRIES - 1
        started.append(ray.remote(work.DyingWorker).options(max_concurrency=4).remote(deaths))
        return {started[-1]: 4}

    with executor():
        pool = WorkerPool(start, checked.append)
        taken: list[Any] = []
        until(lambda: (worker := pool.take()) and not taken.append(worker) and len(taken) == 4)
        assert taken == started[-1:] * 4
        assert (len(started), len(checked)) == (MAX_TRIES, 1)
        pool.close()


def test_a_folder_that_a_node_lacks_is_reported(cluster: Any, tmp_path: Path) -> None:
    missing = LocalLMSettings(kind="local", model=str(tmp_path / "model"))
    with executor() as ray_executor, pytest.raises(UserError, match=r"node .*/model") as caught:
        ray_executor.open_lm(missing)
    assert "a folder that all nodes share" in caught.value.hint
