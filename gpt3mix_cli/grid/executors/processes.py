"""Processes that run trials side by side, each with the encoder that it has loaded once.

Trials compute the same wherever they run; only the time differs. A worker that dies takes the trial that it was at with
it and no other. Workers end with the program, also when it is killed.
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
from ...train import Result, TrialJob, WorkerDied

MEMORY = 4e9  # bytes of memory for each worker: BERT-base, its gradients and its optimiser's state
PRELOADED = [
    "numpy",
    "sklearn.metrics",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.modeling_utils",
    "gpt3mix_cli.train",
]


def fitting(threads: int) -> int:
    """Return how many workers of so many threads this machine holds, by its cores and its memory."""
    import joblib

    cores: int = joblib.cpu_count(
        only_physical_cores=False
    )  # what the container or the scheduler grants, not what is built in
    try:
        memory = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        memory = cores * MEMORY
    with contextlib.suppress(OSError, ValueError):  # `max` where a container has no limit
        memory = min(memory, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return max(1, min(cores // threads, int(memory / MEMORY)))


class Workers:
    """The processes; a context manager. `map` may be called from several threads, which share them."""

    def __init__(self, count: int, callbacks: Callbacks = NO_CALLBACKS) -> None:
        """Prepare; processes start when they are needed."""
        self._count, self._callbacks = count, callbacks
        self._slots = threading.Semaphore(count)
        self._lock = threading.Lock()
        self._pools: list[
            ProcessPoolExecutor
        ] = []  # of one process each: a broken pool fails all that it is at
        self._idle: list[ProcessPoolExecutor] = []
        self._closed = False
        self._ears, self._mouth = _channel()

    def __enter__(self) -> "Workers":
        """Begin to hear what the workers tell."""
        if self._ears:
            threading.Thread(target=self._listen, args=(self._ears,), daemon=True).start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """End the workers: after an error or Ctrl-C at once, whatever they are at."""
        self._closed = True
        for pool in self._pools:
            pool.shutdown(wait=error is None, cancel_futures=True)
        if error is not None:
            for child in multiprocessing.active_children():
                child.terminate()
        for end in (self._mouth, self._ears):
            if end:
                end.close()

    def map(
        self,
        function: Callable[[TrialJob, Callbacks], Result],
        jobs: Sequence[TrialJob],
        callbacks: Callbacks,
    ) -> Iterator[tuple[TrialJob, Result | WorkerDied]]:
        """Run the jobs and yield each with what came of it, as they end; see `train.Map`."""
        waiting, running = list(jobs), dict[Future[Result], TrialJob]()
        while waiting or running:
            # Nothing is queued beyond the workers, so that a dying one takes no waiting job with it.
            while waiting and self._slots.acquire(blocking=not running):
                job = waiting.pop(0)
                running[self._submit(function, job)] = job
            ended, _ = wait(running, timeout=0.1 if waiting else None, return_when=FIRST_COMPLETED)
            for future in ended:
                job = running.pop(future)
                try:
                    yield job, future.result()
                except BrokenExecutor:
                    if self._closed:
                        raise  # the whole run ends: that is no finding about the trial
                    yield (
                        job,
                        WorkerDied(
                            "the process of the trial died, as the system's memory ran out or it was killed; fewer --jobs need less memory"
                        ),
                    )

    def _submit(
        self, function: Callable[[TrialJob, Callbacks], Result], job: TrialJob
    ) -> Future[Result]:
        with self._lock:
            while True:
                pool = self._idle.pop() if self._idle else self._open()
                try:
                    future = pool.submit(_work, function, job)
                    break
                except BrokenExecutor:
                    if self._closed:
                        raise

        def freed(ended: Future[Result]) -> None:
            if ended.cancelled() or not isinstance(ended.exception(), BrokenExecutor):
                self._idle.append(pool)
            self._slots.release()

        future.add_done_callback(freed)
        return future

    def _open(self) -> ProcessPoolExecutor:
        if self._closed:
            raise BrokenExecutor("the run has ended")
        # A server that has imported the libraries forks each worker: they share its memory and start at once.
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            context.set_forkserver_preload(PRELOADED)
            _start_server()
        self._pools.append(ProcessPoolExecutor(1, context, _begin, (self._mouth,)))
        return self._pools[-1]

    def _listen(self, ears: socket.socket) -> None:
        while True:
            try:
                kind, *arguments = json.loads(ears.recv(4096))
                getattr(self._callbacks, kind)(*arguments)
            except (OSError, ValueError):
                return


def _start_server() -> None:
    """Start the server of forks with a search path that the current folder is not part of: it may hold other versions."""
    from multiprocessing import forkserver

    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _channel() -> tuple[socket.socket | None, socket.socket | None]:
    """Return both ends of a way for whole, short messages that no dying process can block."""
    if not hasattr(socket, "AF_UNIX"):
        return None, None  # Windows: trials show no epochs there
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)


# In the worker -------------------------------------------------------------------------------------------------------

_mouth: socket.socket | None = None


def _begin(mouth: socket.socket | None) -> None:
    global _mouth
    _mouth = mouth
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _work(function: Callable[[TrialJob, Callbacks], Result], job: TrialJob) -> Result:
    return function(job, Callbacks(partial(_send, "progress"), partial(_send, "warn")))


def _send(kind: str, *arguments: Any) -> None:
    """Send a call of a callback to the parent process."""
    if _mouth:
        with contextlib.suppress(OSError):  # who shows it is behind, or gone
            _mouth.send(json.dumps([kind, *arguments]).encode(), socket.MSG_DONTWAIT)
