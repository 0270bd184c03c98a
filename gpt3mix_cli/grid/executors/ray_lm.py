"""A local LM on the nodes of a Ray cluster: a worker on each GPU, or on each node without GPUs.

Blocks of requests are sent whole, so answers are those of the same LM in this process. Journals
stay with the driver.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ...errors import StoppedShort, UserError
from ...lm import Completion, Request, Scores, open_lm, split_into_blocks
from ...settings import LocalLMSettings
from .ray_workers import MAX_TRIES, POLL_S, LMWorker, WorkerInfo, WorkerPool, result_of


class RayLM:
    """The LM; see `lm.LM`. Several threads may ask it at the same time.

    Args:
        settings: from the config.
        trial_workers: end where the LM needs their place.
        check: checks the facts of a worker.

    Raises:
        UserError: if the LM cannot be opened on a node, or differs between nodes.
    """

    def __init__(self, settings: LocalLMSettings, trial_workers: WorkerPool, check: Any) -> None:
        self._settings, self._check_worker = settings, check
        self._facts: dict[str, Any] = {}
        self._trial_workers = trial_workers
        self._pool = WorkerPool(self._start, self._check)
        self._pool.release(self._take())
        # Counts tokens; it loads no weights, and where it would run does not matter for that.
        plain = {"device": "cpu", "dtype": "float32"}
        here = open_lm(settings.model_copy(update=plain), replay_only=True).info
        self.info = replace(here, **self._facts)

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
        return f"{self._ask('describe')}, {self._pool.size} workers on the Ray cluster"

    def close(self) -> None:
        """End the workers."""
        self._pool.close()

    def _start(self, pool: WorkerPool) -> list[Any]:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if pool.size:
            return []  # those that are busy will be free
        worker = ray.remote(LMWorker)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(node["Resources"].get("GPU", 0) for node in nodes))
        if gpus and self._settings.device.startswith(("auto", "cuda")):
            options = [{"num_cpus": 1, "num_gpus": 1}] * gpus
        else:
            # All cores, since trials would fight with it for them. Soft: a node may end meanwhile.
            options = [
                {
                    "num_cpus": node["Resources"]["CPU"],
                    "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], True),
                }
                for node in nodes
                if node["Resources"].get("CPU")
            ]
        return [worker.options(**item).remote(self._settings) for item in options]

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
        """Return a free worker; trials that are under way end first if it needs their place."""
        try:
            while (worker := self._pool.take()) is None:
                if not self._pool.is_running:
                    self._trial_workers.paused = True
                    self._trial_workers.release_idle()
                time.sleep(POLL_S / 4)
            return worker
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
