"""A causal LM as the local engine runs it: token ids in; logits, keys and values out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .tokenization import PromptTokenizer

if TYPE_CHECKING:
    import torch

# Of each layer, both (rows, heads, columns, size).
KeysValues = list[tuple["torch.Tensor", "torch.Tensor"]]
PREFILL_TOKENS = 16_384  # read in one pass, padding included
MIN_SHARED_PREFIX_TOKENS = 8  # for fewer a pass of their own does not pay


class Decoder:
    """A causal LM of the transformers library.

    Attributes:
        model: the library's.
        tokenizer: of the model.
        context_length: the most tokens in a row.
    """

    def __init__(self, model: Any, tokenizer: PromptTokenizer, context_length: int) -> None:
        """Wrap a model."""
        from transformers import DynamicCache

        self.model, self.tokenizer, self.context_length = model, tokenizer, context_length
        windows = [
            layer.sliding_window
            for layer in DynamicCache(config=model.config).layers
            if layer.is_sliding
        ]
        self._sliding_window = min(windows, default=0)
        self._mask_by_layer_type = bool(
            getattr(model.config.get_text_config(), "layer_types", None)
        )

    def forward(
        self,
        ids: "torch.Tensor",
        mask: "torch.Tensor",
        positions: "torch.Tensor",
        past: KeysValues,
        logits_to_keep: int,
    ) -> "tuple[torch.Tensor, KeysValues]":
        """Return the logits of the last tokens, and keys and values of `past` and `ids` together.

        Args:
            ids: new tokens, (rows, tokens).
            mask: 1 where a column holds a token, (rows, past columns + tokens).
            positions: of the new tokens, (rows, tokens).
            past: keys and values of the columns before; may be empty.
            logits_to_keep: number of tokens.
        """
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (keys, values) in enumerate(past):
            cache.update(keys, values, layer)
        output = self.model(
            input_ids=ids,
            attention_mask=self.attention_mask(mask, positions),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        )
        return output.logits, [(layer.keys, layer.values) for layer in cache.layers]

    def attention_mask(
        self, mask: "torch.Tensor", positions: "torch.Tensor"
    ) -> "torch.Tensor | dict[str, torch.Tensor]":
        """Return a mask of columns, (rows, columns), in the form that the model needs.

        With sliding-window attention the library would count columns, but rows have gaps. So tokens
        are counted here, and the mask has a form that the library does not change: (rows, 1,
        queries, columns), for all layers or by type of layer.
        """
        import torch

        if not self._sliding_window:
            return mask
        column_positions = (mask.cumsum(-1) - 1)[:, None, None, :]
        query_positions = positions[:, None, :, None]
        full = (mask[:, None, None, :] == 1) & (column_positions <= query_positions)
        sliding = full & (column_positions > query_positions - self._sliding_window)
        # Values to add to attention scores: not every attention implementation takes booleans.
        zeros = torch.zeros(full.shape, dtype=self.model.dtype, device=mask.device)
        hidden = torch.finfo(self.model.dtype).min
        full, sliding = zeros.masked_fill(~full, hidden), zeros.masked_fill(~sliding, hidden)
        if self._mask_by_layer_type:
            return {"full_attention": full, "sliding_attention": sliding}
        return sliding


class PromptReader:
    """Computes keys and values of prompts; the prefix that all of them share is computed once.

    Sharing longer prefixes among some of the prompts was tried too: copying their keys and values
    took longer than computing them.
    """

    def __init__(self, decoder: Decoder, prompts: Sequence[list[int]]) -> None:
        """Read the prefix that all these prompts share."""
        self._decoder = decoder
        first, last = min(prompts), max(prompts)  # what these two share, all between them share
        # At least one token of each prompt is left.
        shared = min(common_prefix_length(first, last), max(0, len(min(prompts, key=len)) - 1))
        self._prefix = first[: shared if shared >= MIN_SHARED_PREFIX_TOKENS else 0]
        self._prefix_past = self._read([self._prefix], [])[0] if self._prefix else []

    def read(self, prompts: "Sequence[Sequence[int]]") -> "tuple[KeysValues, torch.Tensor]":
        """Return keys and values of some of the prompts, and the mask, (prompts, columns)."""
        past = [
            (keys.expand(len(prompts), -1, -1, -1), values.expand(len(prompts), -1, -1, -1))
            for keys, values in self._prefix_past
        ]
        return self._read([prompt[len(self._prefix) :] for prompt in prompts], past)

    def _read(
        self, rows: Sequence[Sequence[int]], past: KeysValues
    ) -> "tuple[KeysValues, torch.Tensor]":
        """Read rows of tokens after `past`; return keys and values of both, and the mask."""
        import torch

        ids, mask = _pad_left(rows, self._decoder.tokenizer.pad, self._decoder.model.device)
        mask = torch.cat([mask.new_ones(len(rows), len(self._prefix) if past else 0), mask], 1)
        if not ids.shape[1]:
            return past, mask
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        size = max(1, PREFILL_TOKENS // ids.shape[1])
        parts = []
        for start in range(0, len(ids), size):
            part = slice(start, start + size)
            part_past = [(keys[part], values[part]) for keys, values in past]
            _, read = self._decoder.forward(
                ids[part], mask[part], positions[part], part_past, logits_to_keep=1
            )
            parts.append(read)
        if len(parts) == 1:
            return parts[0], mask
        joined = [
            (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
            for layer in zip(*parts, strict=True)
        ]
        return joined, mask


def _pad_left(
    rows: Sequence[Sequence[int]], pad: int, device: "torch.device"
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return ids and mask, both (rows, longest), padded on the left: all rows end together."""
    import torch

    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        if row:
            ids[i, longest - len(row) :] = torch.tensor(row)
            mask[i, longest - len(row) :] = 1
    return ids.to(device), mask.to(device)


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two rows share at their beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
