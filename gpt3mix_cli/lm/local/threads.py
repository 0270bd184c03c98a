"""CPU threads of a local LM: several blocks of requests at a time, each with few threads.

The products of one step are small, so that a second thread saves little of their time; another
block has products of its own. The number of threads of a block never depends on how many blocks are
in progress: it may change last digits.
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

    Attributes:
        parallel_blocks: the most blocks at a time.
    """

    def __init__(self, device: torch.device) -> None:
        cores = torch.get_num_threads()
        self.parallel_blocks = min(cores, MAX_PARALLEL_BLOCKS) if device.type == "cpu" else 1
        self._each = cores // self.parallel_blocks
        self._lock, self._num_running, self._before = threading.Lock(), 0, cores

    @contextmanager
    def of_a_block(self) -> Iterator[None]:
        """Let torch use a block's threads in this thread; restore them after the last block."""
        with self._lock:
            if not self._num_running:
                self._before = torch.get_num_threads()
            self._num_running += 1
            torch.set_num_threads(self._each)
        try:
            yield
        finally:
            with self._lock:
                self._num_running -= 1
                torch.set_num_threads(self._each if self._num_running else self._before)
