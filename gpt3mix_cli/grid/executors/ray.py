"""Runs trials and the local LM on the nodes of a Ray cluster.

Ray schedules, restarts and moves objects. The driver, which is this process, reads the data and
writes all files, so that nodes need no folder in common, and rows are those of this machine. A
worker or node that dies costs the trials that it was running, which run again elsewhere.
"""

import contextlib
import importlib.util
import math
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from functools import partial
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import NO_CALLBACKS, Callbacks, UserError, in_progress
from ...lm import LM, costs_money, open_lm
from ...records import Augmented, Example
from ...settings import Budget, LMSettings, TrainableSettings, fingerprint
from ...stopping import INTERRUPTED, Interrupted, is_stop_requested
from ...train import (
    Classifier,
    EpochCallback,
    FitResult,
    Result,
    TrialJob,
    WorkerDied,
    ignore_epoch,
)
from .opener import ExecutorOptions, TrialDemand
from .processes import WORKER_DIED
from .ray_cluster import check_nodes, connect, keep_stdout_for_results
from .ray_lm import RayLM
from .ray_workers import (
    MAX_TRIES,
    POLL_S,
    TrialWorker,
    WorkerInfo,
    WorkerPool,
    describe_classifier,
    open_same_classifier,
    result_of,
    worker_info,
)

MESSAGES = 10_000  # progress and warnings that wait for the driver; further ones are dropped
PARALLEL_SETS = 16
DIED_EACH_TIME = f"{WORKER_DIED} (tried {MAX_TRIES} times, on any node)"


def trial_resources(demand: TrialDemand, has_gpus: bool) -> dict[str, float]:
    """Return what a worker takes of a node: the same for all, since any of them runs any trial.

    Args:
        demand: what the trials need.
        has_gpus: whether the cluster has any.
    """
    threads = [getattr(settings, "threads", 1) for settings in demand.classifiers]
    on_gpu = has_gpus and any(settings.can_use_gpu for settings in demand.classifiers)
    return {"num_cpus": max(threads, default=1), "num_gpus": demand.gpu if on_gpu else 0}


class RayExecutor:
    """The executor; see `Executor`.

    Args:
        options: address of the cluster, and the most trials at the same time.
        demand: what the trials need.
        callbacks: for progress and warnings.

    Raises:
        UserError: if Ray is not installed.
    """

    parallel_trainings = 32  # their rows are in the memory of the driver
    shares_memory = True

    def __init__(
        self, options: ExecutorOptions, demand: TrialDemand, callbacks: Callbacks = NO_CALLBACKS
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise UserError("--executor ray needs the package ray", "pip install 'gpt3mix[ray]'")
        if options.address and options.address.startswith("ray://"):
            raise UserError(
                f"--address {options.address}: the driver must run on a node of the cluster",
                "log in to its head node, or use `ray job submit`, and leave out --address",
            )
        # Sets that cost money are written one at a time: each one reads what the others have spent,
        # and the server's capabilities are measured once.
        self.parallel_sets = 0 if demand.has_paid_lm else PARALLEL_SETS
        self._options, self._demand, self._callbacks = options, demand, callbacks
        self._resources: dict[str, float] = {}
        self._workers = WorkerPool(self._start_workers, self._check)
        self._lms: list[RayLM] = []
        self._classifiers: dict[str, Classifier] = {}
        self._lock = threading.Lock()
        self._streams = contextlib.ExitStack()
        self._forwarder: threading.Thread | None = None
        self._queue: Any = None

    # Cluster -------------------------------------------------------------------------------------

    def __enter__(self) -> "RayExecutor":
        try:
            self._streams.enter_context(keep_stdout_for_results())
            with in_progress(self._callbacks, "connecting to Ray"):
                connect(self._options.address)
                check_nodes(self._check)
            import ray

            has_gpus = ray.cluster_resources().get("GPU", 0) > 0
            self._resources = trial_resources(self._demand, has_gpus)
            self._warn_if_too_small()
            self._open_queue()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def _check(self, info: WorkerInfo) -> None:
        if info.version != __version__:
            raise UserError(
                f"node {info.node} has gpt3mix {info.version}, the driver {__version__}",
                f"pip install gpt3mix=={__version__} on every node",
            )
        here = worker_info().libraries
        others = [f"{k} {v}, not {here[k]}" for k, v in info.libraries.items() if v != here[k]]
        if others:
            self._callbacks.warn(
                f"node {info.node} has other libraries, so its numbers may differ: "
                + ", ".join(others)
            )

    def _warn_if_too_small(self) -> None:
        import ray

        cpus, gpus = self._resources["num_cpus"], self._resources["num_gpus"]
        sizes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if self._demand.num_trials and not any(
            size.get("CPU", 0) >= cpus and size.get("GPU", 0) >= gpus for size in sizes
        ):
            gpu = f" and {gpus:g} of a GPU" if gpus else ""
            self._callbacks.warn(
                f"no node of the Ray cluster has {cpus:g} CPUs{gpu} for a trial; trials wait until "
                "such a node joins"
            )

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        import ray

        if self._forwarder and error is None:
            self._queue.put(())
            self._forwarder.join(POLL_S * 10)
        for lm in self._lms:
            lm.close()
        self._workers.close()
        ray.shutdown()
        self._streams.close()

    # Messages ------------------------------------------------------------------------------------

    def _open_queue(self) -> None:
        import ray
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), False)
        self._queue = Queue(MESSAGES, {"num_cpus": 0, "scheduling_strategy": here})
        self._forwarder = threading.Thread(target=self._forward_messages, daemon=True)
        self._forwarder.start()

    def _forward_messages(self) -> None:
        """Call the callbacks for the messages of workers, up to an empty one."""
        with contextlib.suppress(Exception):  # the connection is closed
            while message := self._queue.get():
                name, *arguments = message
                getattr(self._callbacks, name)(*arguments)

    # Trials --------------------------------------------------------------------------------------

    def _start_workers(self, pool: WorkerPool) -> dict[Any, int]:
        """Start the workers that fit now, at least one, which may wait for a node to join."""
        import ray

        free, needed = ray.available_resources(), self._resources
        fitting = int(free.get("CPU", 0) / needed["num_cpus"])
        if needed["num_gpus"]:
            fitting = min(fitting, int(free.get("GPU", 0) / needed["num_gpus"] + 1e-6))
        most = min(self._options.jobs or math.inf, max(1, self._demand.num_trials))
        count = int(min(max(1, fitting), most - pool.size))
        worker = ray.remote(TrialWorker).options(**needed)
        return {worker.remote(self._queue.actor): 1 for _ in range(count)}

    def map(
        self,
        function: Callable[[TrialJob, Callbacks], Result],
        jobs: Sequence[TrialJob],
        callbacks: Callbacks,
    ) -> Iterator[tuple[TrialJob, Result | WorkerDied]]:
        """Run jobs and yield each with its result, as they end; see `Executor`."""
        if not jobs:
            return
        import ray

        # The rows of a trials file go to each node once.
        content = ray.put(pickle.dumps(function))
        waiting, running = [(job, 1) for job in jobs], dict[Any, tuple[TrialJob, int, Any]]()
        try:
            while running or (waiting and not is_stop_requested()):
                while waiting and not is_stop_requested() and (worker := self._workers.take()):
                    job, number = waiting.pop(0)
                    reference = worker.run.remote(content.hex(), [content], job)
                    running[reference] = job, number, worker
                if not running:
                    time.sleep(POLL_S / 4)
                    continue
                for reference in ray.wait(list(running), timeout=POLL_S if waiting else 1.0)[0]:
                    job, number, worker = running.pop(reference)
                    result = self._finish(reference, worker)
                    if isinstance(result, WorkerDied) and number < MAX_TRIES:
                        waiting.append((job, number + 1))
                    else:
                        yield job, result
                if self._workers.is_closed:
                    raise BrokenExecutor("the run has ended")  # no result, so no finished file
        finally:
            if not self._workers.is_closed:
                for _, _, worker in running.values():
                    self._workers.discard(worker)

    def _finish(self, reference: Any, worker: Any) -> Any:
        """Return the result of a job that has ended; its worker is free, or dead."""
        from ray.exceptions import RayError

        try:
            result = result_of(reference)
        except RayError:
            self._workers.discard(worker)
            return WorkerDied(DIED_EACH_TIME)
        except BaseException:
            self._workers.release(worker)
            raise
        self._workers.release(worker)
        return result

    # Models --------------------------------------------------------------------------------------

    def open_classifier(self, settings: TrainableSettings, classes: tuple[str, ...]) -> Classifier:
        """Return a classifier that trials can be run with; it is opened on a node, not here."""
        name = fingerprint([settings.model_dump(), classes])
        with self._lock:
            if name in self._classifiers:
                return self._classifiers[name]
        describe = partial(describe_classifier, settings=settings, classes=classes)
        results = list(self.map(describe, [TrialJob(0)], NO_CALLBACKS))
        if not results:  # nothing begins any more
            raise Interrupted(INTERRUPTED)
        ((_, facts),) = results
        if isinstance(facts, WorkerDied):
            raise UserError(f"classifier '{settings.name}': {facts}", "nodes with more memory")
        classifier = RemoteClassifier(settings, classes, *facts)
        with self._lock:
            return self._classifiers.setdefault(name, classifier)

    def open_lm(
        self,
        settings: LMSettings,
        budget: Budget | None = None,
        journals: Callable[[], Sequence[Path]] = list,
        replay_only: bool = False,
        callbacks: Callbacks = NO_CALLBACKS,
    ) -> LM:
        """Return an LM: one that is local runs on the nodes; see `lm.open_lm`."""
        if replay_only or costs_money(settings):
            return open_lm(settings, budget, journals, replay_only, callbacks)
        assert settings.kind == "local"
        lm = RayLM(settings, self._workers, self._check, self._callbacks.warn)
        self._lms.append(lm)
        return lm


class RemoteClassifier(Classifier):
    """A classifier on the nodes: the driver knows what it is, and does not open it."""

    def __init__(
        self,
        settings: TrainableSettings,
        classes: tuple[str, ...],
        about: dict[str, Any],
        threads: int | None,
    ) -> None:
        self._settings, self._classes = settings, classes
        self.about, self.threads = about, threads

    def __reduce__(self) -> tuple[Any, ...]:
        return open_same_classifier, (self._settings, self._classes, self.about)

    def fit(
        self,
        train: Sequence[Augmented],
        validation: Sequence[Example],
        seed: int,
        on_epoch: EpochCallback = ignore_epoch,
    ) -> FitResult:
        """Do nothing."""
        raise NotImplementedError("it runs on the nodes")

    def predict_proba(self, texts: Sequence[str]) -> Any:
        """Do nothing."""
        raise NotImplementedError("it runs on the nodes")

    def probe(self) -> None:
        """Do nothing."""
        raise NotImplementedError("it runs on the nodes")
