"""A local LM on the nodes of a Ray cluster: a worker on each GPU, or on each node without GPUs.

Blocks of requests are sent whole, so answers are those of the same LM in this process. Journals
stay with the driver.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ...errors import StoppedShort, UserError
from ...lm import MAX_PARALLEL_BLOCKS, Completion, Request, Scores, open_lm, split_into_blocks
from ...settings import LocalLMSettings
from ...stopping import stop_if_requested, stop_now_if_requested
from .ray_workers import MAX_TRIES, POLL_S, START_S, LMWorker, WorkerInfo, WorkerPool, result_of


class RayLM:
    """The LM; see `lm.LM` and `lm.ParallelLM`.

    Args:
        settings: from the config.
        trial_workers: end where the LM needs their place.
        check: checks the facts of a worker.
        warn: is called once if the LM waits long for its first worker.

    Raises:
        UserError: if the LM cannot be opened on a node, or differs between nodes.
    """

    def __init__(
        self,
        settings: LocalLMSettings,
        trial_workers: WorkerPool,
        check: Callable[[WorkerInfo], None],
        warn: Callable[[str], None],
    ) -> None:
        self._settings, self._check_worker = settings, check
        self._warn, self._has_warned = warn, False
        self._facts: dict[str, Any] = {}
        self._trial_workers = trial_workers
        self._pool = WorkerPool(self._start, self._check)
        self._pool.release(self._take())
        # Counts tokens; it loads no weights, and where it would run does not matter for that.
        plain = {"device": "cpu", "dtype": "float32"}
        here = open_lm(settings.model_copy(update=plain), replay_only=True).info
        self.info = replace(here, **self._facts)

    @property
    def parallel_blocks(self) -> int:
        """How many blocks the workers answer at the same time."""
        return max(1, self._pool.size)

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield the answers, block by block."""
        for block in split_into_blocks(requests, self.info.block_size):
            yield from self._ask("complete", block)

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        """Return the scores of every choice after every prompt."""
        scores: list[Scores] = self._ask("score", prompts, choices)
        return scores

    def describe(self) -> str:
        """Return what a worker says, and how many there are."""
        return f"{self._ask('describe')}, {self._pool.size} blocks at a time on the Ray cluster"

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    def _start(self, pool: WorkerPool) -> dict[Any, int]:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if pool.size:
            return {}  # those that are busy will be free
        worker = ray.remote(LMWorker)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(node["Resources"].get("GPU", 0) for node in nodes))
        if gpus and self._settings.device.startswith(("auto", "cuda")):
            options = [{"num_cpus": 1, "num_gpus": 1, "max_concurrency": 1}] * gpus
        else:
            # All cores, since trials would fight with it for them. Soft: a node may end meanwhile.
            options = [
                {
                    "num_cpus": cores,
                    "max_concurrency": min(int(cores), MAX_PARALLEL_BLOCKS),
                    "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], True),
                }
                for node in nodes
                if (cores := node["Resources"].get("CPU", 0)) >= 1
            ]
        return {
            worker.options(**item).remote(self._settings): item["max_concurrency"]
            for item in options
        }

    def _check(self, info: WorkerInfo) -> None:
        self._check_worker(info)
        if not self._facts:
            self._facts = dict(info.lm)
        if info.lm["fingerprint"] != self._facts["fingerprint"]:
            raise UserError(
                f"node {info.node}: lm {self._settings.model} gives other answers there: "
                f"{info.lm['details']}; elsewhere {self._facts['details']}",
                "use nodes of one kind, or set lm.device and lm.dtype",
            )

    def _take(self) -> Any:
        """Return a free worker; trials that are under way end first if it needs what they take.

        Raises:
            Interrupted: if nothing new should begin.
        """
        began = time.monotonic()
        try:
            while True:
                stop_if_requested()
                if worker := self._pool.take():
                    return worker
                if not self._pool.is_running:
                    self._trial_workers.paused = True
                    self._trial_workers.release_idle()
                    if not self._has_warned and time.monotonic() - began > START_S:
                        self._has_warned = True
                        self._warn(
                            f"lm {self._settings.model}: no worker has started on the Ray cluster "
                            f"for {START_S:.0f} s; `ray status` shows what is free; a node that "
                            "joins is used"
                        )
                time.sleep(POLL_S / 4)
        finally:
            self._trial_workers.paused = False

    def _ask(self, method: str, *arguments: Any) -> Any:
        import ray
        from ray.exceptions import RayError

        for _ in range(MAX_TRIES):
            worker = self._take()
            reference = getattr(worker, method).remote(*arguments)
            try:
                while not ray.wait([reference], timeout=1.0)[0]:
                    stop_now_if_requested()
                    if self._trial_workers.is_closed:
                        raise StoppedShort("the run has ended")
                result = result_of(reference)
            except RayError:
                self._pool.discard(worker)
                continue
            except BaseException:
                self._pool.release(worker)
                raise
            self._pool.release(worker)
            return result
        raise StoppedShort(
            f"lm {self._settings.model}: {MAX_TRIES} workers died while they answered the same "
            "requests",
            "nodes with more memory, or a smaller lm.batch_size; finished work is kept",
        )
