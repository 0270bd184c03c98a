"""CPU threads of a local LM: several blocks of requests at a time, each with few threads.

The products of one step are small, so that a second thread saves little of their time; another
block has products of its own. How many threads a pass has never depends on what else is in
progress, nor on what its Python thread did before: it may change last digits.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..port import MAX_PARALLEL_BLOCKS


class BlockThreads:
    """Sets the threads of blocks that run at the same time.

    Args:
        device: of the model; a GPU runs one block at a time.
        one_at_a_time: whether passes of several threads would disturb each other.

    Attributes:
        parallel_blocks: the most blocks at a time.
    """

    def __init__(self, device: torch.device, one_at_a_time: bool) -> None:
        cores, is_parallel = torch.get_num_threads(), device.type == "cpu" and not one_at_a_time
        self.parallel_blocks = min(cores, MAX_PARALLEL_BLOCKS) if is_parallel else 1
        self._free = threading.BoundedSemaphore(self.parallel_blocks)  # more threads may ask
        self._all, self._each = cores, cores // self.parallel_blocks
        self._lock, self._num_running, self._before = threading.Lock(), 0, cores

    @contextmanager
    def of_a_block(self) -> Iterator[None]:
        """Let torch use a block's threads in this Python thread."""
        with self._free, self._set(self._each):
            yield

    @contextmanager
    def of_scores(self) -> Iterator[None]:
        """Let torch use all threads in this Python thread: scores are asked for by one."""
        with self._free, self._set(self._all):
            yield

    @contextmanager
    def _set(self, count: int) -> Iterator[None]:
        # torch keeps a number for each Python thread; a new one begins with the last that was set.
        # So what is restored is the number before all that runs.
        with self._lock:
            if not self._num_running:
                self._before = torch.get_num_threads()
            self._num_running += 1
            torch.set_num_threads(count)
        try:
            yield
        finally:
            with self._lock:
                self._num_running -= 1
                torch.set_num_threads(self._before)
