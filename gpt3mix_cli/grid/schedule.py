"""Runs the steps of a run in the order of their dependencies, past those that fail.

In the first round a step whose input failed is postponed. In the second one, after all others, what
failed is tried once more, and what was postponed runs on what there is then. What another process
was writing is waited for in the second round.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..errors import OutputError, OutputInUse, StoppedShort, UserError
from ..records import StageResult
from ..stopping import INTERRUPTED, Interrupted, is_stop_requested, stop_if_requested
from ..train import TrialExecutor, run_serially
from .executors.opener import open_executor
from .executors.protocol import Executor, SerialExecutor
from .finished_trials import keep_trained_rows
from .recognition import split_finished
from .steps import (
    AugmentStep,
    Step,
    StepResult,
    TrainStep,
    rows_first,
    trial_demand,
)

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from .stages import Stages

FinishedStep = tuple[Step, StepResult]


def run_steps(grid: "Stages", steps: Sequence[Step], name: str) -> Iterator[FinishedStep]:
    """Run some steps; yield each with its result, first those that are up to date.

    Args:
        grid: runs one step.
        steps: in the order of their dependencies.
        name: of the progress bar; it ends with ` steps`.

    Raises:
        UserError: if nothing can be written, or finished work would be lost.
    """
    finished, missing = split_finished(grid, steps)
    for step in missing:  # before the first one costs anything
        if isinstance(step, AugmentStep) and not grid.options.force:
            keep_trained_rows(grid.layout, grid.experiment(step.cell), step)
    yield from finished
    attempts = Attempts(grid.run_step)
    for step, result in _run_round(grid, missing, attempts, name, len(finished)):
        if not isinstance(result, UserError):
            yield step, result
        elif isinstance(result, OutputInUse):
            grid.callbacks.warn(f"{result.message}; this run looks again after its other steps")
        elif not isinstance(result, Postponed | Interrupted):
            grid.callbacks.warn(str(result))
    attempts.run_step = grid.with_options(waits=True).run_step
    left = [step for step in missing if id(step) not in attempts.outcomes]
    again = attempts.begin_second_round(missing)
    if is_stop_requested():
        left = [*again, *left]
        if left:
            count = f"{len(left)} of {len(steps)} steps are left"
            yield left[-1], Interrupted(f"{INTERRUPTED}: {count}")
    elif again:
        grid.resources.forget_failures(grid.experiments)
        yield from _run_round(grid, again, attempts, "repeated steps")


def _run_round(
    grid: "Stages", steps: Sequence[Step], attempts: "Attempts", name: str, done: int = 0
) -> Iterator[FinishedStep]:
    if not steps:
        return
    resources = grid.resources
    demand = trial_demand(steps, grid.experiment, resources.classifier_or_unavailable)
    options = replace(grid.executor, jobs=grid.jobs)
    executor = resources.executor = open_executor(options, demand, grid.callbacks)
    run = StepRun(
        executor,
        attempts.run,
        open_lm=lambda step: resources.lm(grid.experiment(step.cell)),
        close_lm=lambda: resources.close_local_lms(grid.experiments),
    )
    total = done + len(steps)
    grid.callbacks.progress(name, done, total)
    try:
        outcomes = run.results(rows_first(steps) if executor.shares_memory else steps)
        for number, outcome in enumerate(outcomes, done + 1):
            grid.callbacks.progress(name, number, total)
            yield outcome
    finally:
        resources.executor = SerialExecutor()


class Postponed(StoppedShort):
    """A step was not run, because a step before it failed."""


@dataclass
class Attempts:
    """Runs steps, each at most twice.

    Attributes:
        run_step: runs one step.
        outcomes: id of each step that has run or was postponed -> its last result.
    """

    run_step: Callable[[Step, TrialExecutor], StageResult]
    outcomes: dict[int, StepResult] = field(default_factory=dict)
    _is_second_round: bool = False
    _failed: dict[Hashable, UserError] = field(default_factory=dict)

    def run(self, step: Step, executor: TrialExecutor) -> StepResult:
        """Run a step, unless one of its inputs failed; return its result, or why there is none.

        Raises:
            OutputError: if other steps would fail too.
        """
        result: StepResult
        try:
            stop_if_requested()
            for source in step.inputs:
                self._check(step, source)
            result = self.run_step(step, executor)
        except OutputError:
            raise
        except Interrupted as error:
            return error
        except UserError as error:
            self._failed.setdefault(step.product, error)
            result = error
        self.outcomes[id(step)] = result
        return result

    def _check(self, step: Step, source: Hashable) -> None:
        error = self._failed.get(source)
        # Rows that are not all there are better than none, once nothing else can be done.
        if error and not (self._is_second_round and isinstance(error, StoppedShort)):
            raise Postponed(f"{step}: not run, because a step before it failed: {error.message}")

    def begin_second_round(self, steps: Sequence[Step]) -> list[Step]:
        """Return the steps that failed or were postponed."""
        self._is_second_round = True
        self._failed.clear()
        return [step for step in steps if isinstance(self.outcomes.get(id(step)), UserError)]


class StepRun:
    """Runs steps in order, several at the same time where the executor can.

    A step that runs on a worker goes on while the steps after it run. A training waits for its
    synthetic rows only.

    Args:
        executor: where the steps run; it is opened here.
        run: runs one step, and returns its result or error.
        open_lm: is called for the first set of an LM that is elsewhere, before trials take its
            place.
        close_lm: is called once the LM has written its last set, and after the last prompt.
    """

    def __init__(
        self,
        executor: Executor,
        run: Callable[[Step, TrialExecutor], StepResult],
        open_lm: Callable[[AugmentStep], object] = lambda step: None,
        close_lm: Callable[[], None] = lambda: None,
    ) -> None:
        self._executor, self._run = executor, run
        self._open_lm, self._close_lm = open_lm, close_lm
        self._pending: dict[Future[StepResult], Step] = {}
        self._sets: dict[object, list[Future[StepResult]]] = {}

    def results(self, steps: Sequence[Step]) -> Iterator[FinishedStep]:
        """Run the steps; yield each with its result as it ends."""
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
                    yield step, finish(step, self._run(step, run_serially))
                for future in [future for future in self._pending if future.done()]:
                    ended = self._pending.pop(future)
                    yield ended, finish(ended, future.result())
            from concurrent.futures import as_completed

            for future in as_completed(self._pending):
                ended = self._pending[future]
                yield ended, finish(ended, future.result())

    def _start_set(self, step: AugmentStep, threads: "ThreadPoolExecutor") -> None:
        if not self._sets:
            self._open_lm(step)
        # Variants of a cell look for answers in each other's journals, and the sets of a method for
        # the real rows' labels in the first one's: they keep their order.
        cell = step.cell
        task = cell.task if cell.one_of_tasks else ""
        group = self._sets.setdefault((task, cell.level, cell.data_seed), [])
        future = self._start(step, threads, list(group), run_serially)
        group.append(future)
        self._sets.setdefault((step.cell, step.method), []).append(future)

    def _start(
        self,
        step: Step,
        threads: "ThreadPoolExecutor",
        needed: "Sequence[Future[StepResult]]",
        executor: TrialExecutor,
    ) -> "Future[StepResult]":
        future = threads.submit(_run_after, needed, self._run, step, executor)
        self._pending[future] = step
        return future


def _enter_threads(stack: ExitStack, count: int) -> "ThreadPoolExecutor | None":
    if not count:
        return None
    from concurrent.futures import ThreadPoolExecutor

    threads = stack.enter_context(ThreadPoolExecutor(count))
    stack.callback(threads.shutdown, wait=False, cancel_futures=True)
    return threads


def _run_after(
    needed: "Sequence[Future[StepResult]]",
    run: Callable[[Step, TrialExecutor], StepResult],
    step: Step,
    executor: TrialExecutor,
) -> StepResult:
    """Run a step once other steps have ended, whatever their results."""
    for future in needed:
        future.exception()  # raises if the step was cancelled
    return run(step, executor)
