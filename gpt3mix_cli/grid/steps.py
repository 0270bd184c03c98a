"""The steps of a run: one stage on one cell each, in order, with trainings in parallel."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec

from ..errors import Callbacks, StoppedShort
from ..layout import Cell, TrialKey
from ..records import StageResult
from ..settings import ClassifierSettings, Experiment
from ..stopping import stop_if_requested
from ..train import TrialExecutor, run_serially
from .executors.processes import ProcessExecutor

REAL_ROWS_ONLY = "uses real examples only, so it runs with method 'none'; other methods are skipped"


@dataclass(frozen=True)
class SubsampleStep:
    """Draw the real rows of a cell."""

    cell: Cell


@dataclass(frozen=True)
class AugmentStep:
    """Write one synthetic set of a method."""

    cell: Cell
    method: str
    draw: int


@dataclass(frozen=True)
class TrainStep:
    """Run the trials of a method and classifier.

    Attributes:
        cell: the cell.
        method: the method whose synthetic rows are added; `none` for real rows only.
        classifier: the classifier.
        input: real rows in place of the subsample.
        augmented: files of synthetic rows in place of the method's own.
        output: the trials file in place of the default.
        save_model: folder for the best trial's model.
    """

    cell: Cell
    method: str
    classifier: ClassifierSettings
    input: Path | None = None
    augmented: Sequence[Path] = ()
    output: Path | None = None
    save_model: Path | None = None

    @property
    def key(self) -> TrialKey:
        """Which trials these are."""
        return TrialKey(self.cell, self.method, self.classifier.name)


Arguments = ParamSpec("Arguments")
Step = SubsampleStep | AugmentStep | TrainStep
StepResult = StageResult | StoppedShort


def cell_steps(experiment: Experiment, cell: Cell) -> Iterator[Step]:
    """Yield the steps of a cell in the order of their dependencies; none if it has no trials."""
    if not experiment.has_trials(cell.data_seed):
        return
    yield SubsampleStep(cell)
    for method in experiment.methods:
        if experiment.needs_augmentation(method, cell.data_seed):
            for draw in experiment.draws_for(cell.data_seed):
                yield AugmentStep(cell, method, draw)
        for classifier in experiment.classifiers_for(method, cell.data_seed):
            yield TrainStep(cell, method, classifier)


def run_in_parallel(
    steps: Iterable[Step],
    run: Callable[[Step, TrialExecutor], StageResult],
    jobs: int,
    callbacks: Callbacks,
) -> Iterator[StepResult]:
    """Run steps in order, with the trials of trainings in worker processes.

    A training goes on while the steps after it run; results are yielded as they come.

    Args:
        steps: the steps.
        run: runs one step.
        jobs: number of trials at the same time.
        callbacks: for progress and warnings of the workers.
    """
    pending: set[Future[StepResult]] = set()
    with ExitStack() as stack:
        # Each training has a thread that only waits for its trials. On exit the processes end
        # first: threads would wait for them without end.
        threads = stack.enter_context(ThreadPoolExecutor(jobs))
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        processes = stack.enter_context(ProcessExecutor(jobs, callbacks))
        for step in steps:
            if isinstance(step, TrainStep) and step.classifier.runs_in_parallel:
                pending.add(threads.submit(run_or_stop, run, step, processes.map))
            else:
                yield run_or_stop(run, step, run_serially)
            for future in [future for future in pending if future.done()]:
                pending.remove(future)
                yield future.result()
        for future in as_completed(pending):
            yield future.result()


def run_or_stop(
    run: Callable[Arguments, StageResult], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> StepResult:
    """Run a step; return its result, or why it stopped short."""
    try:
        stop_if_requested()
        return run(*args, **kwargs)
    except StoppedShort as error:
        return error
