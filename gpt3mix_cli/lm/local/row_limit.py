"""How many rows a local LM runs at a time: as many as the memory holds."""

from collections.abc import Callable
from typing import TypeVar

import torch

from ...errors import StoppedShort
from ...pretrained import out_of_memory
from .decoder import Decoder

Result = TypeVar("Result")

# For keys and values of a block; a CPU does not say how much memory is free.
CPU_CACHE_BYTES = 2 << 30
CPU_MAX_ROWS = 64  # more no longer fit into the processor's caches and cost more per row
GPU_FREE_FRACTION = 0.6  # of the GPU's free memory, for keys, values and logits
LOGITS_COPIES = 4  # in float32, of each row's logits, while a token is drawn


class RowLimit:
    """Runs work with as many rows at a time as the memory holds.

    The limit is an estimate first, then half as many rows whenever the memory runs out.

    Args:
        decoder: its model is loaded.
        name: of the model, for messages.
        max_rows: the most rows that are wanted.

    Attributes:
        decoder: as given.
        max_rows: the limit so far, which a failure halves.
    """

    def __init__(self, decoder: Decoder, name: str, max_rows: int) -> None:
        self.decoder, self.max_rows = decoder, max_rows
        self._name, self._device = name, decoder.model.device
        self._logits_bytes = LOGITS_COPIES * 4 * decoder.config.vocab_size
        self._bytes = CPU_CACHE_BYTES
        if self._device.type == "cuda":
            self._bytes = int(GPU_FREE_FRACTION * torch.cuda.mem_get_info(self._device)[0])

    def run(
        self, work: Callable[[int], Result], tokens_per_row: int, rows: int, min_rows: int = 1
    ) -> Result:
        """Return the result of `work`; if memory runs out, run it again with half as many rows.

        Args:
            work: takes the most rows at a time.
            tokens_per_row: of the longest row.
            rows: that there are.
            min_rows: rows that must run together.

        Raises:
            StoppedShort: if the memory does not hold the fewest rows.
        """
        row_bytes = tokens_per_row * self.decoder.bytes_per_token + self._logits_bytes
        device_limit = CPU_MAX_ROWS if self._device.type == "cpu" else rows
        while True:
            limit = min(self.max_rows, max(1, self._bytes // row_bytes), rows, device_limit)
            try:
                return work(limit)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            if limit <= min_rows:
                what = "a single text" if min_rows == 1 else f"{min_rows} beams of a single text"
                raise StoppedShort(
                    f"lm.model {self._name}: not enough memory for {what}",
                    "use a smaller model, or another lm.device",
                )
            self.max_rows = limit // 2
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
