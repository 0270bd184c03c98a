"""Chooses the executor of a run, and how many trials run at the same time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...errors import NO_CALLBACKS, Callbacks
from ...settings import ClassifierSettings
from ...train import Classifier
from .protocol import Executor, SerialExecutor

ExecutorKind = Literal["processes", "ray"]


@dataclass(frozen=True)
class ExecutorOptions:
    """What the command line says about executors.

    Attributes:
        kind: worker processes on this machine, or the nodes of a Ray cluster.
        address: of the cluster; None to look for one, or to start one on this machine.
        jobs: number of trials at the same time; None for as many as fit.
    """

    kind: ExecutorKind = "processes"
    address: str | None = None
    jobs: int | None = None


@dataclass(frozen=True)
class TrialDemand:
    """What the trials of a run need.

    Attributes:
        classifiers: settings of the classifiers whose trials can run in parallel.
        num_trials: number of their trials.
        gpu: fraction of a GPU that a trial takes.
        open_classifier: opens one of the classifiers; one that cannot be opened has a reason.
        has_paid_lm: whether an LM that costs money writes any of the run's sets.
    """

    classifiers: Sequence[ClassifierSettings]
    num_trials: int
    gpu: float
    open_classifier: Callable[[ClassifierSettings], Classifier] = field(compare=False)
    has_paid_lm: bool = False


def open_executor(
    options: ExecutorOptions, demand: TrialDemand, callbacks: Callbacks = NO_CALLBACKS
) -> Executor:
    """Return the executor of a run.

    Args:
        options: of the command line.
        demand: what the trials need.
        callbacks: for progress and warnings of workers.

    Raises:
        UserError: if the library for it is not installed.
    """
    if options.kind == "ray":
        from .ray import RayExecutor

        return RayExecutor(options, demand, callbacks)
    jobs = options.jobs
    if jobs is None and demand.num_trials > 1:
        jobs = count_jobs(demand)
    jobs = min(jobs or 1, demand.num_trials)
    if jobs <= 1:
        return SerialExecutor()
    from .processes import ProcessExecutor  # multiprocessing takes long to import

    may_use_gpu = any(settings.can_use_gpu for settings in demand.classifiers)
    return ProcessExecutor(jobs, callbacks, may_use_gpu and Path("/dev/nvidiactl").exists())


def count_jobs(demand: TrialDemand) -> int:
    """Return how many trials fit this machine: its cores and memory, and one GPU if they use it."""
    classifiers = {settings: demand.open_classifier(settings) for settings in demand.classifiers}
    threads = [classifier.threads for classifier in classifiers.values() if classifier.threads]
    on_gpu = [
        settings
        for settings, classifier in classifiers.items()
        if settings.can_use_gpu and not classifier.threads and not classifier.failure_reason
    ]
    if not threads and not on_gpu:
        return 1  # trials that take almost no time
    from .processes import count_fitting_workers

    fitting = count_fitting_workers(max(threads, default=1))
    return min(fitting, trials_per_gpu(demand.gpu)) if on_gpu else fitting


def trials_per_gpu(fraction: float) -> int:
    """Return how many trials a GPU runs at the same time, if each takes this fraction of it."""
    return int(1 / fraction + 1e-6)
