"""Which executor a run gets, how many trials run at a time, and in which order steps run."""

import importlib.util
import json
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpt3mix_cli import stopping
from gpt3mix_cli.cli import main
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import NO_CALLBACKS, StoppedShort, UserError
from gpt3mix_cli.files import STDIO, atomic_write
from gpt3mix_cli.grid import AugmentStep, Grid, Step, SubsampleStep, TrainStep
from gpt3mix_cli.grid.executors import processes
from gpt3mix_cli.grid.executors.opener import (
    ExecutorOptions,
    TrialDemand,
    count_jobs,
    open_executor,
    trials_per_gpu,
)
from gpt3mix_cli.grid.executors.processes import ProcessExecutor
from gpt3mix_cli.grid.executors.protocol import SerialExecutor
from gpt3mix_cli.grid.schedule import StepRun
from gpt3mix_cli.grid.steps import trial_demand
from gpt3mix_cli.layout import Cell
from gpt3mix_cli.settings import (
    LinearSettings,
    LocalLMSettings,
    SetFitSettings,
    TrainableSettings,
    TransformerSettings,
)
from gpt3mix_cli.train import run_serially
from gpt3mix_cli.user_cache import cache_folder

CELL = Cell("small", {}, "4/class", 0)
OTHER = Cell("small", {}, "4/class", 1)
LINEAR = LinearSettings(kind="linear")
TRANSFORMER = TransformerSettings(kind="transformer")
needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed")


def demand(
    *classifiers: TrainableSettings, trials: int = 100, gpu: float = 1.0, on_gpu: bool = False
) -> TrialDemand:
    """Return a demand whose classifiers say that they run on a GPU, or not."""

    def open_classifier(settings: Any) -> Any:
        threads = None if on_gpu else getattr(settings, "threads", None)
        return SimpleNamespace(threads=threads, failure_reason="")

    return TrialDemand(classifiers, trials, gpu, open_classifier)


# Which executor ----------------------------------------------------------------------------------


def test_trials_that_fit_a_gpu_by_their_fraction_run_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "count_fitting_workers", lambda threads: 16 // threads)
    assert [trials_per_gpu(gpu) for gpu in (1, 0.5, 1 / 3, 0.3, 0.25, 0.1)] == [1, 2, 3, 3, 4, 10]
    assert count_jobs(demand(TRANSFORMER, on_gpu=True)) == 1
    assert count_jobs(demand(TRANSFORMER, LINEAR, gpu=0.25, on_gpu=True)) == 4
    assert count_jobs(demand(TRANSFORMER, gpu=0.01, on_gpu=True)) == 16
    assert count_jobs(demand(TRANSFORMER, gpu=0.25)) == 16
    wide = TransformerSettings(kind="transformer", threads=4)
    assert count_jobs(demand(wide, LINEAR)) == 4
    assert count_jobs(demand(LINEAR)) == 1


@pytest.mark.parametrize(
    ("jobs", "trials", "expected"),
    [(None, 1, SerialExecutor), (1, 100, SerialExecutor), (4, 2, ProcessExecutor)],
)
def test_one_job_or_one_trial_runs_in_this_process(jobs: Any, trials: int, expected: Any) -> None:
    with open_executor(ExecutorOptions(jobs=jobs), demand(LINEAR, trials=trials)) as executor:
        assert type(executor) is expected
        assert executor.parallel_trainings in (0, 2)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(
        """\
task: {data: {kind: demo}, labels: [pos, neg], text_type: movie review, label_type: sentiment}
subsample: {levels: [2/class], seeds: 2, validation: 4}
lm: {kind: local, model: bundled}
augment: {ratio: 0.5, max_tokens: 30}
classifiers: [{kind: linear}]
trials: 2
"""
    )
    return tmp_path / "small.yaml"


def test_the_fraction_of_a_gpu_is_checked(small: Path) -> None:
    assert load_experiments(small)[0].resources.gpu == 1
    assert load_experiments(small, ["resources.gpu=0.25"])[0].resources.gpu == 0.25
    for wrong in ("0", "1.5", "true"):
        with pytest.raises(UserError, match=r"resources\.gpu"):
            load_experiments(small, [f"resources.gpu={wrong}"])


def test_an_address_needs_the_executor_that_it_is_for(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(small), "--address", "head:6379"]) == 2
    assert "add --executor ray" in capsys.readouterr().err


# The order of steps ------------------------------------------------------------------------------


class Recorder:
    """Runs steps that only take some time, and remembers what began and ended."""

    def __init__(self, parallel_sets: int = 0, parallel_trainings: int = 0) -> None:
        self.events: list[str] = []
        self.parallel_sets, self.parallel_trainings = parallel_sets, parallel_trainings
        self.shares_memory = True
        self.map = run_serially
        self.most = 0
        self._running = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *error: object) -> None:
        self.events.append("executor ends")

    def run(self, step: Step, executor: Any) -> Any:
        name = f"{type(step).__name__} {step.cell.data_seed}"
        with self._lock:
            self.events.append(f"{name} begins")
            self._running += 1
            self.most = max(self.most, self._running)
        time.sleep(0.05)
        with self._lock:
            self._running -= 1
            self.events.append(f"{name} ends")
        return step

    def results(self, steps: list[Step]) -> list[Any]:
        run = StepRun(
            self,  # type: ignore[arg-type]
            self.run,
            lambda step: self.events.append("lm opens"),
            lambda: self.events.append("lm closes"),
        )
        return [result for _, result in run.results(steps)]


def steps_of(*cells: Cell) -> list[Step]:
    steps: list[Step] = []
    for cell in cells:
        steps += [SubsampleStep(cell), AugmentStep(cell, "gpt3mix", 0, uses_lm=True)]
        steps += [TrainStep(cell, "gpt3mix", LINEAR)]
    return steps


def test_the_lm_is_closed_after_its_last_set_and_trainings_follow(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Grid(load_experiments(small), tmp_path / "results", jobs=1)
    order: list[tuple[str, bool]] = []
    run_step = Grid.run_step

    def recorded(self: Grid, step: Step, *executor: Any) -> Any:
        result = run_step(self, step, *executor)
        names = [type(item).__name__ for item in self.resources._cache.values()]
        order.append((type(step).__name__, "LazyLM" in names))
        return result

    monkeypatch.setattr(Grid, "run_step", recorded)
    list(grid.run())
    kinds = [kind for kind, _ in order]
    assert kinds == sorted(kinds, key=lambda kind: kind == "TrainStep")
    assert ("AugmentStep", True) in order
    assert not [item for item in order if item == ("TrainStep", True)]


def test_a_training_waits_for_its_own_rows_only() -> None:
    recorder = Recorder(parallel_sets=2, parallel_trainings=4)
    results = recorder.results(steps_of(CELL, OTHER))
    assert len(results) == 6
    events = recorder.events
    for seed in (0, 1):
        assert events.index(f"AugmentStep {seed} ends") < events.index(f"TrainStep {seed} begins")
    assert recorder.most > 1  # sets of different cells are written at the same time
    assert events.count("lm opens") == events.count("lm closes") == 1
    assert events[-1] == "executor ends"


def test_sets_that_share_journals_are_written_in_order() -> None:
    variant = Cell("small", {"augment.k": 4}, "4/class", 0)
    sets: list[Step] = [
        AugmentStep(cell, "gpt3mix", draw, uses_lm=True)
        for cell in (CELL, variant)
        for draw in (0, 1)
    ]
    recorder = Recorder(parallel_sets=4)
    assert recorder.results(sets) == sets
    assert recorder.most == 1


def test_steps_run_one_after_the_other_without_workers() -> None:
    recorder = Recorder()
    steps = steps_of(CELL, OTHER)
    assert recorder.results(steps) == steps
    assert recorder.most == 1
    assert "lm opens" not in recorder.events  # the first set opens it
    assert recorder.events.index("lm closes") < recorder.events.index("TrainStep 1 begins")


# Ray, without a cluster --------------------------------------------------------------------------


def test_resources_of_a_worker_are_those_of_the_largest_trial() -> None:
    from gpt3mix_cli.grid.executors.ray import trial_resources

    wide = TransformerSettings(kind="transformer", threads=4)
    on_cpu = TransformerSettings(kind="transformer", device="cpu")
    setfit = SetFitSettings(kind="setfit")
    for classifiers, has_gpus, expected in [
        ([LINEAR], True, (1, 0)),
        ([LINEAR, wide], True, (4, 0.25)),
        ([LINEAR, wide], False, (4, 0)),
        ([on_cpu], True, (1, 0)),
        ([setfit], True, (1, 0.25)),
        ([], True, (1, 0)),
    ]:
        resources = trial_resources(demand(*classifiers, gpu=0.25), has_gpus)
        assert (resources["num_cpus"], resources["num_gpus"]) == expected


@needs_ray
@pytest.mark.parametrize(
    ("lm", "is_parallel"),
    [
        ("{kind: local, model: bundled}", True),
        ("{kind: openai, model: gpt, base_url: 'http://127.0.0.1:1/v1', prices: none}", False),
    ],
)
def test_sets_that_cost_money_are_written_one_at_a_time(
    small: Path, lm: str, is_parallel: bool
) -> None:
    experiment = load_experiments(small, [f"lm={lm}"])[0]
    steps = steps_of(Cell("small", {}, "2/class", 0))
    needed = trial_demand(steps, lambda cell: experiment, lambda *_: pytest.fail("not opened"))
    executor = open_executor(ExecutorOptions("ray"), needed)
    assert bool(executor.parallel_sets) == is_parallel
    assert executor.parallel_trainings


def test_what_ray_prints_is_not_on_stdout(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    from gpt3mix_cli.grid.executors.ray_cluster import keep_stdout_for_results

    with keep_stdout_for_results():
        thread = threading.Thread(target=print, args=["a node died"], name="ray_listener")
        thread.start()
        thread.join()
        print("a table", flush=True)
        with atomic_write(STDIO) as stream:
            stream.write(b"a row")
    assert capfdbinary.readouterr().out == b"a table\na row"


@needs_ray
def test_an_lm_that_no_node_can_start_is_reported_and_a_signal_ends_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gpt3mix_cli.grid.executors import ray_lm
    from gpt3mix_cli.grid.executors.ray_workers import WorkerPool

    class WaitingLM(ray_lm.RayLM):
        def _start(self, pool: WorkerPool) -> list[Any]:
            return []

    def warn(text: str) -> None:
        warnings.append(text)
        threading.Timer(0.3, stopping.request_stop).start()

    monkeypatch.setattr(stopping, "_is_requested", False)
    monkeypatch.setattr(ray_lm, "START_S", 0.0)
    warnings: list[str] = []
    trial_workers = WorkerPool(lambda pool: [], lambda info: None)
    lm = LocalLMSettings(kind="local", model="bundled")
    with pytest.raises(stopping.Interrupted):
        WaitingLM(lm, trial_workers, lambda info: None, warn)
    (warning,) = warnings
    assert "lm bundled: no worker has started on the Ray cluster" in warning
    assert not trial_workers.paused


def test_a_worker_says_what_its_lm_is_and_not_what_was_known_of_it(tiny_lm: Path) -> None:
    from gpt3mix_cli.grid.executors.ray_workers import LMWorker

    settings = LocalLMSettings(kind="local", model=str(tiny_lm))
    facts = LMWorker(settings).info().lm
    (path,) = (cache_folder() / "facts").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "another"}))
    with pytest.raises(StoppedShort, match=f"node {socket.gethostname()}: .* is another than"):
        LMWorker(settings).info()
    assert LMWorker(settings).info().lm == facts


def test_a_model_that_a_node_lacks_is_reported_with_the_node_and_a_remedy(tmp_path: Path) -> None:
    from gpt3mix_cli.grid.executors.ray_workers import describe_classifier, open_same_classifier

    missing = TransformerSettings(kind="transformer", model=str(tmp_path / "encoder"))
    with pytest.raises(UserError) as caught:
        describe_classifier((0, 0), NO_CALLBACKS, settings=missing, classes=("pos", "neg"))  # type: ignore[arg-type]
    assert f"node {socket.gethostname()}: " in caught.value.message
    assert str(tmp_path / "encoder") in caught.value.message
    assert "a folder that all nodes share" in caught.value.hint
    with pytest.raises(UserError, match=r"C 10\.0, not 1\.0") as caught:
        open_same_classifier(LINEAR, ("pos", "neg"), {"C": 1.0})
    assert "nodes of one kind" in caught.value.hint


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        open_executor(ExecutorOptions("ray"), demand(LINEAR))
    assert caught.value.hint == "pip install 'gpt3mix[ray]'"


@needs_ray
def test_an_address_where_nothing_answers_is_reported_at_once() -> None:
    from gpt3mix_cli.grid.executors.ray_cluster import check_reachable

    for address in (None, "auto", "local"):
        check_reachable(address)
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1") as caught:
        check_reachable("127.0.0.1:1")
    assert "ray start --head" in caught.value.hint
    with pytest.raises(UserError, match="must run on a node"):
        open_executor(ExecutorOptions("ray", "ray://head:10001"), demand(LINEAR))


@needs_ray
def test_a_node_with_another_version_is_refused() -> None:
    from gpt3mix_cli import __version__
    from gpt3mix_cli.grid.executors.ray import RayExecutor
    from gpt3mix_cli.grid.executors.ray_workers import WorkerInfo, worker_info

    executor = RayExecutor(ExecutorOptions("ray"), demand(LINEAR))
    executor._check(worker_info())
    with pytest.raises(UserError, match=f"node gpu-2 has gpt3mix 0.1, the driver {__version__}"):
        executor._check(WorkerInfo("gpu-2", "0.1", {}))
