"""The key-value cache of a batch whose rows join and leave while it runs.

All rows share its columns. A step appends one column; each row sees its own columns through the
mask. A row that joins is written right before the newest column, wherever its slot was empty.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from transformers.cache_utils import Cache, CacheLayerMixin

from .decoder import KeysValues


class KVCache:
    """Keys and values of every layer, (slots, heads, columns, size), with one slot per row.

    Attributes:
        layers: keys and values, allocated with the first ones.
        for_model: the cache as a model of the transformers library takes it.
        mask: (slots, columns), 1 where a column holds a token of the slot's row.
        start: the first column that any row needs.
        end: the column that the next step writes.
    """

    def __init__(self, num_layers: int, slots: int, columns: int, device: torch.device) -> None:
        self.layers = [_Layer(self) for _ in range(num_layers)]
        self.for_model = Cache(layers=self.layers)
        self.mask = torch.zeros(slots, columns, dtype=torch.long, device=device)
        self.start = self.end = 0
        self._first_columns: dict[int, int] = {}  # of the row in each slot that is taken

    def insert(
        self, slots: Sequence[int], source: torch.Tensor, prompts: KeysValues, mask: torch.Tensor
    ) -> None:
        """Put rows into free slots.

        Args:
            slots: one per row.
            source: index of each row's prompt, (rows,).
            prompts: keys and values of the prompts; empty if all of them have a single token.
            mask: of their columns, (prompts, columns).
        """
        # Every step pays for the width, so each row's tokens move to the right, without gaps.
        width = int(mask.sum(1).max())
        columns = mask.argsort(dim=1, stable=True)[:, mask.shape[1] - width :]
        mask, columns = mask.gather(1, columns), columns[source]
        self.end = max(self.end if self._first_columns else 0, width)
        first = self.end - width
        for layer, (keys, values) in zip(self.layers, prompts, strict=False):
            all_keys, all_values = layer.allocate(keys, values)
            rows = source[:, None], slice(None), columns
            all_keys[slots, :, first : self.end] = keys[rows].transpose(1, 2)
            all_values[slots, :, first : self.end] = values[rows].transpose(1, 2)
        self.mask[slots] = 0
        self.mask[slots, first : self.end] = mask[source]
        self._first_columns |= dict.fromkeys(slots, first)
        self.start = min(self._first_columns.values())

    def free(self, slot: int) -> None:
        """Mark a slot as free; columns that only its row needed are dropped."""
        del self._first_columns[slot]
        self.start = min(self._first_columns.values(), default=self.start)

    def truncate(self, slot: int, length: int) -> None:
        """Keep only the first tokens of a row."""
        self.mask[slot, self.mask[slot].nonzero()[length:, 0]] = 0

    def select(self, slots: Sequence[int]) -> None:
        """Keep only these slots, which are taken, in this order."""
        index = self.mask.new_tensor(slots)
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[index], layer.values[index]
        self.mask = self.mask[index]
        self._first_columns = {i: self._first_columns[slot] for i, slot in enumerate(slots)}

    def copy_rows(self, slots: torch.Tensor) -> tuple[KeysValues, torch.Tensor]:
        """Return keys and values of some slots, (rows, heads, columns, size), and their mask."""
        used = slice(self.start, self.end)
        layers = [
            (layer.keys[slots, :, used], layer.values[slots, :, used]) for layer in self.layers
        ]
        return layers, self.mask[slots, used]

    def open_column(self) -> torch.Tensor:
        """Make space for the next token and return the mask that the step sees, (slots, columns).

        A free slot sees this column, since a row that sees nothing has NaNs; `close_column` hides
        it again.
        """
        if self.end == self.mask.shape[1]:
            self._grow()
        self.mask[:, self.end] = 1
        return self.mask[:, self.start : self.end + 1]

    def close_column(self, active: torch.Tensor) -> None:
        """Keep the new column in the slots that are `active`, (slots,)."""
        self.mask[:, self.end] = active.long()
        self.end += 1

    def _grow(self) -> None:
        used = self.end - self.start
        # Half as much again, so that this is rare.
        free = max(self.mask.shape[1], used + 1 + used // 2) - used
        for layer in self.layers:
            layer.keys = pad(layer.keys[:, :, self.start : self.end], (0, 0, 0, free))
            layer.values = pad(layer.values[:, :, self.start : self.end], (0, 0, 0, free))
        self.mask = pad(self.mask[:, self.start : self.end], (0, free))
        self._first_columns = {
            slot: first - self.start for slot, first in self._first_columns.items()
        }
        self.start, self.end = 0, used


@CacheLayerMixin.register  # the library checks the class
class _Layer:
    """One layer; the attributes and methods are those that the library asks of a cache layer."""

    is_sliding = is_compileable = is_croppable = False

    def __init__(self, cache: KVCache) -> None:
        self._cache = cache
        self.keys = self.values = torch.empty(0)

    def allocate(
        self, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all keys and values; allocates them in the shape of the first ones."""
        if not self.keys.numel():
            slots, columns = self._cache.mask.shape
            self.keys = keys.new_zeros(slots, keys.shape[1], columns, keys.shape[3])
            self.values = values.new_zeros(slots, values.shape[1], columns, values.shape[3])
        return self.keys, self.values

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start, end = self._cache.start, self._cache.end
        all_keys, all_values = self.allocate(keys, values)
        all_keys[:, :, end : end + 1] = keys
        all_values[:, :, end : end + 1] = values
        return all_keys[:, :, start : end + 1], all_values[:, :, start : end + 1]

    def get_seq_length(self) -> int:
        return self._cache.end - self._cache.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1
