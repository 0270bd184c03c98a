"""A causal LM as the local engine runs it: loaded and checked; token ids in, logits out."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import DynamicCache, DynamicLayer

from ...errors import UserError
from ...pretrained import load_model, load_pretrained
from .tokenization import PromptTokenizer

# Of each layer, both (rows, heads, columns, size).
KeysValues = list[tuple[torch.Tensor, torch.Tensor]]
PREFILL_TOKENS = 16_384  # read in one pass, padding included
MIN_SHARED_PREFIX_TOKENS = 8  # for fewer a pass of their own does not pay
CANNOT_LOAD = "lm.model {}: cannot be loaded as a causal LM"
HINT = (
    "give `bundled`, `smollm2`, a GGUF file, the folder of a causal LM, or a hub id that can be "
    "reached; a hub repository of GGUF files needs lm.gguf_file"
)


def load_config_and_tokenizer(path: str, revision: str | None) -> tuple[Any, Any]:
    """Return the library's configuration and tokenizer.

    Args:
        path: a folder or a hub id.
        revision: commit of a hub model.

    Raises:
        UserError: if they cannot be loaded.
    """
    if Path(path).is_dir() and not any(Path(path).glob("tokenizer*")):
        raise UserError(
            f"lm.model {path}: the folder has no tokenizer",
            "save it there with tokenizer.save_pretrained",
        )
    config, tokenizer = (
        load_pretrained(part, path, CANNOT_LOAD.format(path), HINT, revision=revision)
        for part in ("AutoConfig", "AutoTokenizer")
    )
    return config, tokenizer


def load_causal_lm(path: str, revision: str | None, dtype: str, device: torch.device) -> Any:
    """Return the model on its device, ready for inference.

    Args:
        path: a folder or a hub id.
        revision: commit of a hub model.
        dtype: of the weights.
        device: where it runs.

    Raises:
        UserError: if it cannot be loaded or run.
    """
    model = load_model(
        "AutoModelForCausalLM",
        path,
        CANNOT_LOAD.format(path),
        HINT,
        device=str(device),
        dtype=dtype,
        revision=revision,
    )
    check_can_run(model, path)
    return model


def check_can_run(model: Any, path: str) -> None:
    """Check that this engine can run a model of the library.

    Args:
        model: the library's.
        path: its name in the message.

    Raises:
        UserError: if it cannot.
    """
    if not _can_run(model):
        raise UserError(
            f"lm.model {path}: {type(model).__name__} keeps a state, counts positions by"
            " itself, or has an attention of its own, which this engine cannot serve",
            "use a plain transformer, such as Llama, Qwen, Mistral or GPT-2",
        )


def _can_run(model: Any) -> bool:
    config = model.config.get_text_config()
    layers = DynamicCache(config=model.config).layers
    attention = {
        *(getattr(config, "layer_types", None) or ()),
        *(getattr(config, "attention_layers", None) or ()),
    }
    return (
        len(layers) == config.num_hidden_layers
        and all(isinstance(layer, DynamicLayer) for layer in layers)
        and attention <= {"full_attention", "sliding_attention", "global"}
        and not getattr(model, "_is_stateful", False)
        and {"position_ids", "logits_to_keep"} <= set(inspect.signature(model.forward).parameters)
    )


class Decoder:
    """A causal LM of the transformers library.

    Attributes:
        model: the library's.
        config: its text model's configuration.
        tokenizer: of the model.
        context_length: the most tokens in a row.
    """

    def __init__(self, model: Any, tokenizer: PromptTokenizer, context_length: int) -> None:
        self.model, self.tokenizer, self.context_length = model, tokenizer, context_length
        self.config = model.config.get_text_config()
        layers = DynamicCache(config=model.config).layers
        self._sliding_window = min(
            (layer.sliding_window for layer in layers if layer.is_sliding), default=0
        )

    def forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        past: KeysValues,
        logits_to_keep: int = 1,
    ) -> tuple[torch.Tensor, KeysValues]:
        """Return the logits of the last tokens, and keys and values of `past` and `ids` together.

        Args:
            ids: new tokens, (rows, tokens).
            mask: 1 where a column holds a token, (rows, past columns + tokens).
            positions: of the new tokens, (rows, tokens).
            past: keys and values of the columns before; may be empty.
            logits_to_keep: number of tokens.
        """
        cache = DynamicCache(past)
        logits = self.run(ids, mask, positions, cache, logits_to_keep)
        return logits, [(layer.keys, layer.values) for layer in cache.layers]

    def run(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: Any,
        logits_to_keep: int = 1,
    ) -> torch.Tensor:
        """Return the logits of the last tokens; their keys and values are added to the cache.

        Args:
            ids: see `forward`.
            mask: see `forward`.
            positions: see `forward`.
            cache: the library's, of the columns before.
            logits_to_keep: number of tokens.
        """
        logits: torch.Tensor = self.model(
            input_ids=ids,
            attention_mask=self._attention_mask(mask, positions),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        ).logits
        return logits

    def _attention_mask(
        self, mask: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return a mask of columns, (rows, columns), in the form that the model needs.

        With sliding-window attention the library would count columns, but rows have gaps. So tokens
        are counted here, and the mask has a form that the library does not change: (rows, 1,
        queries, columns), for all layers or by type of layer.
        """
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
        by_layer_type = getattr(self.config, "layer_types", None)
        return {"full_attention": full, "sliding_attention": sliding} if by_layer_type else sliding


class PromptReader:
    """Computes keys and values of prompts; the prefix that all of them share is computed once.

    Sharing longer prefixes among some of the prompts was tried too: copying their keys and values
    took longer than computing them.
    """

    def __init__(self, decoder: Decoder, prompts: Sequence[list[int]]) -> None:
        self._decoder = decoder
        first, last = min(prompts), max(prompts)  # what these two share, all between them share
        # At least one token of each prompt is left.
        shared = min(common_prefix_length(first, last), max(0, len(min(prompts, key=len)) - 1))
        self._prefix = first[: shared if shared >= MIN_SHARED_PREFIX_TOKENS else 0]
        self._prefix_past = self._read([self._prefix], [])[0] if self._prefix else []

    def read(self, prompts: Sequence[Sequence[int]]) -> tuple[KeysValues, torch.Tensor]:
        """Return keys and values of some of the prompts, and the mask, (prompts, columns)."""
        past = [
            (keys.expand(len(prompts), -1, -1, -1), values.expand(len(prompts), -1, -1, -1))
            for keys, values in self._prefix_past
        ]
        return self._read([prompt[len(self._prefix) :] for prompt in prompts], past)

    def _read(
        self, rows: Sequence[Sequence[int]], past: KeysValues
    ) -> tuple[KeysValues, torch.Tensor]:
        tokens = [torch.tensor(row, dtype=torch.long) for row in rows]
        # Padded on the left: all rows end together.
        ids, mask = (
            pad_sequence(values, True, padding, "left").to(self._decoder.model.device)
            for values, padding in (
                (tokens, self._decoder.tokenizer.pad),
                ([torch.ones_like(row) for row in tokens], 0),
            )
        )
        mask = torch.cat([mask.new_ones(len(rows), len(self._prefix) if past else 0), mask], 1)
        if not ids.shape[1]:
            return past, mask
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        size = max(1, PREFILL_TOKENS // ids.shape[1])
        parts = []
        for start in range(0, len(ids), size):
            part = slice(start, start + size)
            part_past = [(keys[part], values[part]) for keys, values in past]
            parts.append(
                self._decoder.forward(ids[part], mask[part], positions[part], part_past)[1]
            )
        if len(parts) == 1:
            return parts[0], mask
        return [
            (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
            for layer in zip(*parts, strict=True)
        ], mask


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two rows share at their beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
