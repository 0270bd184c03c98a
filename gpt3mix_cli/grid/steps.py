"""The steps of a run: one stage on one cell each, in the order of their dependencies."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, ParamSpec

from ..errors import StoppedShort
from ..layout import Cell, TrialKey
from ..records import StageResult
from ..settings import ClassifierSettings, Experiment
from ..train import Classifier, TrialExecutor, run_serially
from .executors.opener import TrialDemand
from .executors.protocol import Executor

REAL_ROWS_ONLY = "uses real examples only, so it runs with method 'none'; other methods are skipped"


@dataclass(frozen=True)
class SubsampleStep:
    """Draw the real rows of a cell."""

    cell: Cell

    uses_lm: ClassVar[bool] = False


@dataclass(frozen=True)
class AugmentStep:
    """Write one synthetic set of a method.

    Attributes:
        cell: the cell.
        method: the method.
        draw: number of the set.
        uses_lm: whether the experiment's LM writes it.
    """

    cell: Cell
    method: str
    draw: int
    uses_lm: bool = False


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
    def uses_lm(self) -> bool:
        """Whether the classifier asks the experiment's LM."""
        return self.classifier.uses_lm

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
            with_lm = experiment.lm_settings_for(method) is not None
            for draw in experiment.draws_for(cell.data_seed):
                yield AugmentStep(cell, method, draw, with_lm)
        for classifier in experiment.classifiers_for(method, cell.data_seed):
            yield TrainStep(cell, method, classifier)


def rows_first(steps: Sequence[Step]) -> list[Step]:
    """Return the steps with all subsamples and synthetic sets before the first training."""
    return sorted(steps, key=lambda step: isinstance(step, TrainStep))


def trial_demand(
    steps: Sequence[Step],
    experiment: Callable[[Cell], Experiment],
    open_classifier: Callable[[Experiment, ClassifierSettings], Classifier],
) -> TrialDemand:
    """Return what the trials of some steps need, those that can run in parallel.

    Args:
        steps: the steps.
        experiment: returns the variant of the experiment that a cell belongs to.
        open_classifier: opens a classifier; one that cannot be opened has a reason.
    """
    trainings = [
        step for step in steps if isinstance(step, TrainStep) and step.classifier.runs_in_parallel
    ]
    experiments = {step.classifier: experiment(step.cell) for step in trainings}
    return TrialDemand(
        list(experiments),
        sum(
            len(experiment(step.cell).trials_for(step.classifier, step.cell.data_seed))
            for step in trainings
        ),
        experiment(steps[0].cell).resources.gpu if steps else 1.0,
        lambda settings: open_classifier(experiments[settings], settings),
    )


class StepRun:
    """Runs steps in order, several at the same time where the executor can.

    A step that runs on a worker goes on while the steps after it run. A training waits for its
    synthetic rows only.

    Args:
        executor: where the steps run; it is opened here.
        run: runs one step.
        open_lm: is called for the first set of an LM that is elsewhere, before trials take its
            place.
        close_lm: is called once the LM has written its last set, and after the last prompt.
    """

    def __init__(
        self,
        executor: Executor,
        run: Callable[[Step, TrialExecutor], StageResult],
        open_lm: Callable[[AugmentStep], object] = lambda step: None,
        close_lm: Callable[[], None] = lambda: None,
    ) -> None:
        self._executor, self._run = executor, run
        self._open_lm, self._close_lm = open_lm, close_lm
        self._pending: dict[Future[StepResult], Step] = {}
        self._sets: dict[object, list[Future[StepResult]]] = {}

    def results(self, steps: Sequence[Step]) -> Iterator[StepResult]:
        """Run the steps; yield each result as it comes."""
        left = Counter(type(step) for step in steps if step.uses_lm)

        def finish(step: Step, result: StepResult) -> StepResult:
            if step.uses_lm:
                left[type(step)] -= 1
                if not left[type(step)]:
                    self._close_lm()
            return result

        with ExitStack() as stack:
            # Threads only wait. On exit the executor ends first: they would wait without end.
            trainings = _enter_threads(stack, self._executor.parallel_trainings)
            writers = _enter_threads(stack, self._executor.parallel_sets)
            stack.enter_context(self._executor)
            for step in steps:
                if isinstance(step, AugmentStep) and step.uses_lm and writers:
                    self._start_set(step, writers)
                elif isinstance(step, TrainStep) and step.classifier.runs_in_parallel and trainings:
                    needed = self._sets.get((step.cell, step.method), [])
                    self._start(step, trainings, needed, self._executor.map)
                else:
                    yield finish(step, run_or_stop(self._run, step, run_serially))
                for future in [future for future in self._pending if future.done()]:
                    yield finish(self._pending.pop(future), future.result())
            for future in as_completed(self._pending):
                yield finish(self._pending[future], future.result())

    def _start_set(self, step: AugmentStep, threads: ThreadPoolExecutor) -> None:
        if not self._sets:
            self._open_lm(step)
        # Variants of a cell look for answers in each other's journals, and the sets of a method for
        # the real rows' labels in the first one's: they keep their order.
        group = self._sets.setdefault((step.cell.level, step.cell.data_seed), [])
        future = self._start(step, threads, list(group), run_serially)
        group.append(future)
        self._sets.setdefault((step.cell, step.method), []).append(future)

    def _start(
        self,
        step: Step,
        threads: ThreadPoolExecutor,
        needed: Sequence[Future[StepResult]],
        executor: TrialExecutor,
    ) -> Future[StepResult]:
        future = threads.submit(_run_after, needed, self._run, step, executor)
        self._pending[future] = step
        return future


def _enter_threads(stack: ExitStack, count: int) -> ThreadPoolExecutor | None:
    if not count:
        return None
    threads = stack.enter_context(ThreadPoolExecutor(count))
    stack.callback(threads.shutdown, wait=False, cancel_futures=True)
    return threads


def _run_after(
    needed: Sequence[Future[StepResult]],
    run: Callable[[Step, TrialExecutor], StageResult],
    step: Step,
    executor: TrialExecutor,
) -> StepResult:
    """Run a step once other steps have ended, whatever their results."""
    for future in needed:
        future.exception()  # raises if the step was cancelled
    return run_or_stop(run, step, executor)


def run_or_stop(
    run: Callable[Arguments, StageResult], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> StepResult:
    """Run a step; return its result, or why it stopped short."""
    try:
        return run(*args, **kwargs)
    except StoppedShort as error:
        return error
