"""Workers on the nodes of a Ray cluster, and the pool that the driver takes them from.

Ray places, starts and ends workers; the pool only remembers which of them are free.
"""

import pickle
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ... import __version__
from ...errors import Callbacks, StoppedShort, UserError, first_line
from ...lm import LM, open_lm
from ...machine import machine
from ...settings import LocalLMSettings, TrainableSettings
from ...train import Classifier, TrialJob, cached_classifier

MAX_TRIES = 3  # of a job whose worker dies each time, and of a worker that does not start
POLL_S = 0.2
START_S = 120.0  # until a node has started a worker
PROGRESS_INTERVAL_S = 0.2  # between two messages of a worker about the same trial
MAX_FUNCTIONS = 4  # trials files whose rows a worker keeps
MODEL_ON_NODES = (
    "every node needs the model: name a hub id, a packaged model, or a folder that all nodes share"
)


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker says about itself.

    Attributes:
        node: name of its machine.
        version: of gpt3mix.
        libraries: name -> version of those that compute.
        lm: facts of the LM that it has loaded, as in `LMInfo`.
    """

    node: str
    version: str
    libraries: Mapping[str, str]
    lm: Mapping[str, Any] = field(default_factory=dict)


def worker_info(lm: Mapping[str, Any] | None = None) -> WorkerInfo:
    """Return the facts of this process."""
    libraries = {name: version for name, version in machine().items() if name != "threads"}
    return WorkerInfo(socket.gethostname(), __version__, libraries, lm or {})


def on_this_node(error: UserError) -> UserError:
    """Return the error of a model that could not be opened, with the name of this machine."""
    hint = f"{error.hint}; {MODEL_ON_NODES}" if error.hint else MODEL_ON_NODES
    kind = StoppedShort if isinstance(error, StoppedShort) else UserError
    return kind(f"node {socket.gethostname()}: {error.message}", hint)


# On the nodes ------------------------------------------------------------------------------------


class TrialWorker:
    """Runs trials, one at a time, with classifiers that it has loaded once.

    Args:
        messages: the actor of a queue, for progress and warnings.
    """

    def __init__(self, messages: Any) -> None:
        self._messages = messages
        self._functions: dict[str, Callable[[TrialJob, Callbacks], Any]] = {}
        self._sent: dict[str, float] = {}

    def info(self) -> WorkerInfo:
        """Return the facts of this worker."""
        return worker_info()

    def run(self, name: str, content: Sequence[Any], job: TrialJob) -> Any:
        """Run a job.

        Args:
            name: of the function.
            content: a reference to the pickled function, which is fetched once.
            job: its argument.
        """
        import ray

        if name not in self._functions:
            while len(self._functions) >= MAX_FUNCTIONS:
                del self._functions[next(iter(self._functions))]
            try:
                self._functions[name] = pickle.loads(ray.get(content[0]))  # noqa: S301 - the driver's own
            except UserError as error:
                raise on_this_node(error) from None
        warn = partial(self._send, "warn")
        return self._functions[name](job, Callbacks(self._send_progress, warn))

    def _send_progress(
        self, name: str, done: int, total: int | None = None, detail: str = ""
    ) -> None:
        now, ends = time.monotonic(), total is not None and done >= total
        if ends or now - self._sent.get(name, 0.0) >= PROGRESS_INTERVAL_S:
            self._sent[name] = now
            self._send("progress", name, done, total, detail)
        if ends:
            self._sent.pop(name, None)

    def _send(self, name: str, *arguments: Any) -> None:
        # The answer is not waited for: a message that is lost does no harm.
        self._messages.put_nowait.remote((name, *arguments))


def describe_classifier(
    job: TrialJob,
    callbacks: Callbacks,
    *,
    settings: TrainableSettings,
    classes: tuple[str, ...],
) -> tuple[dict[str, Any], int | None]:
    """Return `about` and `threads` of a classifier as it is on this node."""
    try:
        classifier = cached_classifier(settings, classes)
    except UserError as error:
        raise on_this_node(error) from None
    return classifier.about, classifier.threads


def open_same_classifier(
    settings: TrainableSettings, classes: tuple[str, ...], about: dict[str, Any]
) -> Classifier:
    """Return this process's classifier; its settings must be those that the driver knows.

    Raises:
        UserError: if it is another one here, so that its rows would not belong to the others.
    """
    classifier = cached_classifier(settings, classes)
    names = [name for name in about if about[name] != classifier.about.get(name)]
    if names:
        differences = ", ".join(f"{n} {classifier.about.get(n)}, not {about[n]}" for n in names)
        raise UserError(
            f"classifier '{settings.name}' is another one than on the first node: {differences}",
            "use nodes of one kind, or set device and dtype of the classifier",
        )
    return classifier


class LMWorker:
    """Answers requests with an LM that it has loaded once; several threads may ask."""

    def __init__(self, settings: LocalLMSettings) -> None:
        self._settings, self._loading = settings, threading.Lock()
        self._lm: LM | None = None

    def info(self) -> WorkerInfo:
        """Load the LM and return the facts of this worker.

        Raises:
            StoppedShort: if the LM is another one than this node knew.
            UserError: if it cannot be opened.
        """
        try:
            with self._loading:
                self._lm = self._lm or open_lm(self._settings)
                self._lm.describe()  # loads it, so that its fingerprint is not only remembered
        except UserError as error:
            raise on_this_node(error) from None
        info = self._lm.info
        names = ("model", "fingerprint", "context_length", "block_size", "details")
        return worker_info({name: getattr(info, name) for name in names})

    def complete(self, *arguments: Any) -> Any:
        """Return the answers to requests."""
        assert self._lm
        return list(self._lm.complete(*arguments))

    def score(self, *arguments: Any) -> Any:
        """Return scores."""
        assert self._lm
        return self._lm.score(*arguments)

    def describe(self) -> str:
        """Return one line about the LM."""
        assert self._lm
        return self._lm.describe()


# In the driver -----------------------------------------------------------------------------------


class WorkerPool:
    """Workers of one kind; several threads take and return them.

    A worker may have several places: as many threads can take it at the same time.

    Args:
        start: returns new workers of a pool and how many places each has, when none of it is free
            or starting.
        check: is called with the facts of each worker before it is used.
    """

    def __init__(
        self,
        start: Callable[["WorkerPool"], Mapping[Any, int]],
        check: Callable[[WorkerInfo], None],
    ) -> None:
        self.paused = False  # whether no worker is handed out
        self._start, self._check = start, check
        self._places: dict[Any, int] = {}  # of each worker that is not known to be dead
        self._idle: list[Any] = []  # once for each free place
        self._busy: Counter[Any] = Counter()
        self._starting: dict[Any, Any] = {}  # reference to its facts -> worker
        self._known: set[Any] = set()  # that have started
        self._failures = 0
        self._closed = False
        self._lock = threading.RLock()

    @property
    def size(self) -> int:
        """Number of places, those of workers that are starting included."""
        with self._lock:
            return sum(self._places.values())

    @property
    def is_running(self) -> bool:
        """Whether any worker has started."""
        with self._lock:
            return bool(self._idle or self._busy)

    @property
    def is_closed(self) -> bool:
        """Whether the run has ended."""
        return self._closed

    def take(self) -> Any:
        """Return a worker with a free place; None if there is none yet.

        Raises:
            UserError: if a worker cannot be used.
            StoppedShort: if none starts.
        """
        with self._lock:
            if self._closed:
                raise BrokenExecutor("the run has ended")
            if self.paused:
                return None
            self._admit()
            if self._idle:
                worker = self._idle.pop()
                self._busy[worker] += 1
                return worker
            if not self._starting:
                started = self._start(self)
                self._places |= started
                self._starting = {worker.info.remote(): worker for worker in started}
            return None

    def _admit(self) -> None:
        """Move workers that have started to the free ones."""
        import ray
        from ray.exceptions import RayError

        references = list(self._starting)
        if not references:
            return
        for reference in ray.wait(references, num_returns=len(references), timeout=0)[0]:
            worker = self._starting.pop(reference)
            if not (places := self._places.pop(worker, 0)):  # it died meanwhile
                continue
            try:
                self._check(result_of(reference))
            except RayError as error:  # its node died, or it cannot be created there
                if worker in self._known:
                    continue
                self._failures += 1
                if self._failures >= MAX_TRIES:
                    raise StoppedShort(
                        f"no worker starts on the Ray cluster: {first_line(error)}",
                        "see the logs of Ray in /tmp/ray on its nodes; finished work is kept",
                    ) from None
                continue
            self._failures = 0
            self._known.add(worker)
            self._places[worker] = places
            taken = self._busy[worker] + self._idle.count(worker)
            self._idle += [worker] * (places - taken)

    def release(self, worker: Any) -> None:
        """Take back a worker that has done its work."""
        with self._lock:
            self._busy -= Counter([worker])
            if worker in self._places:
                self._idle.append(worker)

    def discard(self, worker: Any) -> None:
        """End a worker that is dead, or whose work is not needed."""
        with self._lock:
            self._busy -= Counter([worker])
            self._places.pop(worker, None)
            # Others of its node may be dead too: they must answer before they are used again.
            others = set(self._idle) - {worker} - set(self._starting.values())
            self._starting |= {other.info.remote(): other for other in others}
            self._idle = []
        _end([worker])

    def release_idle(self) -> None:
        """End the workers that have nothing to do; what they take of the cluster is free then."""
        with self._lock:
            idle = {*self._idle, *self._starting.values()} - set(self._busy)
            self._idle = [worker for worker in self._idle if worker not in idle]
            self._starting = {
                reference: worker
                for reference, worker in self._starting.items()
                if worker not in idle
            }
            for worker in idle:
                self._places.pop(worker, None)
        _end(idle)

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            self._closed = True
            workers = {*self._places, *self._busy}
            self._places, self._idle, self._starting = {}, [], {}
            self._busy.clear()
        _end(workers)


def _end(workers: Iterable[Any]) -> None:
    import ray

    for worker in workers:
        ray.kill(worker)


def result_of(reference: Any) -> Any:
    """Return the result of a call.

    Raises:
        Exception: what the call raised.
        RayError: if its worker or node died.
    """
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if error.cause is None:
            raise
        raise error.cause from None
