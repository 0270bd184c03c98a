"""Runs trials in worker processes, each with a classifier that it has loaded once.

A trial computes the same in every process; only the time differs. A worker that dies loses only
the trial that it was running. Workers end with the program, even if the program is killed.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import NO_CALLBACKS, Callbacks
from ...lm import open_lm
from ...stopping import is_stop_requested
from ...train import Result, TrialJob, WorkerDied, cached_classifier

MEMORY_PER_WORKER = 4e9  # bytes: BERT-base, its gradients and its optimizer's state
MAX_START_S = 5  # that an end waits for a worker that is starting
MAX_MESSAGE_SIZE = 4096  # bytes of a progress message
WORKER_DIED = (
    "the process of the trial died: it was killed, or the system ran out of memory; "
    "fewer --jobs need less memory"
)
PRELOADED_MODULES = [
    "numpy",
    "sklearn.metrics",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.modeling_utils",
    "gpt3mix_cli.train",
]


def count_fitting_workers(threads: int) -> int:
    """Return how many workers with so many threads each this machine's cores and memory hold."""
    import joblib

    # The cores that the container or the scheduler grants, not those of the machine.
    cores: int = joblib.cpu_count(only_physical_cores=False)
    try:
        memory = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        memory = cores * MEMORY_PER_WORKER
    with contextlib.suppress(OSError, ValueError):  # `max` if the container has no limit
        memory = min(memory, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return max(1, min(cores // threads, int(memory / MEMORY_PER_WORKER)))


class ProcessExecutor:
    """Worker processes; see `Executor`.

    Several threads may call `map` at the same time; they share the workers. Workers start when
    they are first needed.

    Args:
        count: number of workers.
        callbacks: for progress and warnings of the trials.
        shares_memory: see `Executor`.
    """

    parallel_sets = 0  # the LM is in this process
    open_classifier = staticmethod(cached_classifier)
    open_lm = staticmethod(open_lm)

    def __init__(
        self, count: int, callbacks: Callbacks = NO_CALLBACKS, shares_memory: bool = False
    ) -> None:
        self.parallel_trainings, self.shares_memory = count, shares_memory
        self._callbacks = callbacks
        self._free_workers = threading.Semaphore(count)
        self._lock = threading.Lock()
        # One pool for each worker: a dead process breaks its whole pool.
        self._pools: list[ProcessPoolExecutor] = []
        self._idle_pools: list[ProcessPoolExecutor] = []
        self._closed = False
        self._receiver: socket.socket | None = None
        self._sender: socket.socket | None = None
        if hasattr(socket, "AF_UNIX"):  # on Windows the progress of trials is not shown
            # Short messages, which no dying process can block.
            self._receiver, self._sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def __enter__(self) -> "ProcessExecutor":
        if self._receiver:
            threading.Thread(
                target=self._forward_messages, args=(self._receiver,), daemon=True
            ).start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        # After an error or Ctrl-C workers end at once, without waiting for their trials.
        self._closed = True
        # With the lock no worker is about to start, which would run its trial to the end.
        waits = self._lock.acquire(timeout=MAX_START_S)
        if error is not None:
            for child in multiprocessing.active_children():
                child.kill()
        for pool in self._pools:
            # Waiting frees the semaphores of a pool: nobody else removes them before `os._exit`.
            pool.shutdown(wait=waits, cancel_futures=True)
        if waits:
            self._lock.release()
        for end in (self._sender, self._receiver):
            if end:
                end.close()

    def map(
        self,
        function: Callable[[TrialJob, Callbacks], Result],
        jobs: Sequence[TrialJob],
        callbacks: Callbacks,
    ) -> Iterator[tuple[TrialJob, Result | WorkerDied]]:
        """Run jobs and yield each with its result, as they end; see `train.TrialExecutor`."""
        waiting, running = list(jobs), dict[Future[Result], TrialJob]()
        while running or (waiting and not is_stop_requested()):
            # A job is only submitted to a free worker: a worker that dies loses no waiting job.
            while waiting and self._free_workers.acquire(blocking=not running):
                if is_stop_requested():
                    self._free_workers.release()
                    waiting.clear()
                    break
                job = waiting.pop(0)
                running[self._submit(function, job)] = job
            ended, _ = wait(running, timeout=0.1 if waiting else None, return_when=FIRST_COMPLETED)
            for future in ended:
                job = running.pop(future)
                try:
                    yield job, future.result()
                except BrokenExecutor:
                    if self._closed:
                        raise  # the whole run ends, so this says nothing about the trial
                    yield job, WorkerDied(WORKER_DIED)

    def _submit(
        self, function: Callable[[TrialJob, Callbacks], Result], job: TrialJob
    ) -> Future[Result]:
        with self._lock:
            while True:
                if self._closed:
                    raise BrokenExecutor("the run has ended")
                pool = self._idle_pools.pop() if self._idle_pools else self._start_worker()
                try:
                    future = pool.submit(_run_job, function, job)
                    break
                except BrokenExecutor:
                    continue
                except (EOFError, ConnectionError) as error:  # the fork server was killed
                    future = Future()
                    future.set_exception(BrokenExecutor(str(error)))
                    break

        def release(ended: Future[Result]) -> None:
            if ended.cancelled() or not isinstance(ended.exception(), BrokenExecutor):
                self._idle_pools.append(pool)
            self._free_workers.release()

        future.add_done_callback(release)
        return future

    def _start_worker(self) -> ProcessPoolExecutor:
        # Workers are forked from a server that has imported the libraries: they share its memory
        # and start at once.
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            context.set_forkserver_preload(PRELOADED_MODULES)
            _start_fork_server()
        self._pools.append(ProcessPoolExecutor(1, context, _start_in_worker, (self._sender,)))
        return self._pools[-1]

    def _forward_messages(self, receiver: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):  # the socket is closed
            while True:
                name, *arguments = json.loads(receiver.recv(MAX_MESSAGE_SIZE))
                getattr(self._callbacks, name)(*arguments)


def _start_fork_server() -> None:
    """Start the fork server without the current folder on its search path.

    The folder may hold other versions of the libraries.
    """
    from multiprocessing import forkserver, resource_tracker

    before = {name: value for name, value in os.environ.items() if name == "PYTHONSAFEPATH"}
    os.environ["PYTHONSAFEPATH"] = "1"
    # A signal to the process group must not end what trials in flight need. Python lets the two
    # processes ignore some of the signals, and that only after their imports.
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        resource_tracker.ensure_running()  # it unblocks two of them
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        del os.environ["PYTHONSAFEPATH"]
        os.environ.update(before)


# In the worker -----------------------------------------------------------------------------------

_sender: socket.socket | None = None


def _start_in_worker(sender: socket.socket | None) -> None:
    global _sender
    _sender = sender
    # A terminal's signals reach the whole process group, and those of a job system all processes;
    # the parent decides what ends.
    for name in ("SIGINT", "SIGHUP", "SIGTERM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _run_job(function: Callable[[TrialJob, Callbacks], Result], job: TrialJob) -> Result:
    return function(job, Callbacks(_send_progress, partial(_send, "warn")))


def _send_progress(name: str, done: int, total: int | None = None, detail: str = "") -> None:
    _send("progress", name, done, total, detail)


def _send(name: str, *arguments: Any) -> None:
    if _sender:
        # A message is dropped if the parent is busy or has ended.
        with contextlib.suppress(OSError):
            _sender.send(json.dumps([name, *arguments]).encode(), socket.MSG_DONTWAIT)
