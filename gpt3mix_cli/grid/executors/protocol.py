"""What every executor offers, and the one that runs all steps in this process, in order."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from ...errors import NO_CALLBACKS, Callbacks
from ...lm import LM, open_lm
from ...settings import Budget, LMSettings, TrainableSettings
from ...train import (
    Classifier,
    Result,
    TrialJob,
    WorkerDied,
    cached_classifier,
    run_serially,
)


class Executor(Protocol):
    """Decides where trials and the LM run, as a context manager; no choice changes a row.

    Attributes:
        parallel_trainings: trials files under way at the same time, each in a thread that waits for
            its trials; 0: one after the other, in the thread of the caller.
        parallel_sets: synthetic sets that the LM writes at the same time; 0 as above.
        shares_memory: whether the LM and trials need the memory of the same machine or GPU, so that
            all synthetic rows are written first, and then the LM is closed.
    """

    parallel_trainings: int
    parallel_sets: int
    shares_memory: bool

    def __enter__(self) -> "Executor":
        """Start."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """End all workers; after an error without waiting for them."""

    def map(
        self,
        function: Callable[[TrialJob, Callbacks], Result],
        jobs: Sequence[TrialJob],
        callbacks: Callbacks,
    ) -> Iterator[tuple[TrialJob, Result | WorkerDied]]:
        """Run jobs and yield each with its result; several threads may call it at the same time.

        A `train.TrialExecutor`.
        """

    def open_classifier(self, settings: TrainableSettings, classes: tuple[str, ...]) -> Classifier:
        """Return a classifier as it is where the trials run; see `train.open_classifier`."""

    def open_lm(
        self,
        settings: LMSettings,
        budget: Budget | None = None,
        journals: Callable[[], Sequence[Path]] = list,
        replay_only: bool = False,
        callbacks: Callbacks = NO_CALLBACKS,
    ) -> LM:
        """Return an LM; see `lm.open_lm`."""


class SerialExecutor:
    """Runs everything in this process; see `Executor`."""

    parallel_trainings = 0
    parallel_sets = 0
    shares_memory = True
    map = staticmethod(run_serially)
    open_classifier = staticmethod(cached_classifier)
    open_lm = staticmethod(open_lm)

    def __enter__(self) -> "SerialExecutor":
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        pass
