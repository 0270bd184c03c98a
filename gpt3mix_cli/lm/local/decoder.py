"""A causal LM as the local engine runs it: loaded and checked; token ids in, logits out."""

import inspect
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear
from transformers.cache_utils import DynamicCache, DynamicLayer

from ...errors import UserError
from ...pretrained import (
    NO_FOREIGN_CODE,
    load_config,
    load_model,
    load_tokenizer,
    needs_own_code,
)
from ...stopping import stop_now_if_requested
from .tokenization import PromptTokenizer

# Of each layer, both (rows, heads, columns, size).
KeysValues = list[tuple[torch.Tensor, torch.Tensor]]
VOCABULARY_BLOCK = 8192  # tokens
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
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    what = CANNOT_LOAD.format(path)
    config = load_config(path, what, HINT, revision=revision)
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    if not known and "AutoModelForCausalLM" in getattr(config, "auto_map", ()):
        raise needs_own_code(what)
    # The library gives encoders the head of an LM, but they read the tokens that follow too.
    is_masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING
    if not known or (is_masked and not getattr(config, "is_decoder", False)):
        kind = "a translator" if config.is_encoder_decoder else "an encoder or another model"
        raise UserError(f"{what}: {config.model_type} is {kind}, which continues no text", HINT)
    return config, load_tokenizer(path, what, HINT, config, revision=revision)


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


def num_parameters(config: Any) -> int:
    """Return the number of weights of a causal LM; none of them is created."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, **NO_FOREIGN_CODE)
    return sum(weights.numel() for weights in model.parameters())


def num_stored_parameters(folder: Path) -> int:
    """Return the number of weights in a folder's safetensors files; 0 if there are none.

    Reading their headers takes milliseconds; building the model of a config takes seconds.
    """
    from safetensors import safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            names = file.keys()
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    return count


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


def changes_in_passes(config: Any) -> bool:
    """Return whether a model writes to itself in each pass, so that one thread may run it.

    Its rotary embeddings depend on the longest text of the pass.
    """
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    by_layer_type = [item for item in rope.values() if isinstance(item, dict)]
    kinds = [str(item.get("rope_type")) for item in [rope, *by_layer_type]]
    return any(kind == "longrope" or "dynamic" in kind for kind in kinds)


class Decoder:
    """A causal LM of the transformers library.

    Attributes:
        model: the library's.
        config: its text model's configuration.
        tokenizer: of the model.
        context_length: the most tokens in a row.
        bytes_per_token: of its keys and values.
        flops_per_token: of a pass, two per weight; embeddings and attention do not count.
    """

    def __init__(self, model: Any, tokenizer: PromptTokenizer, context_length: int) -> None:
        self.model, self.tokenizer, self.context_length = model, tokenizer, context_length
        self.config = model.config.get_text_config()
        heads = getattr(self.config, "num_key_value_heads", None) or self.config.num_attention_heads
        size = getattr(self.config, "head_dim", None) or (
            self.config.hidden_size // self.config.num_attention_heads
        )
        self.bytes_per_token = (
            2 * self.config.num_hidden_layers * heads * size * model.dtype.itemsize
        )
        layer = model.get_output_embeddings()
        embeddings = model.get_input_embeddings().weight.numel()
        self.flops_per_token = 2 * max(0, model.num_parameters() - embeddings)
        rounds = model.dtype != torch.float32 and isinstance(layer, torch.nn.Linear)
        self._output_layer = OutputLayer(layer) if rounds else None
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
        scored: Sequence[int] | slice = (),
        logits_to_keep: int = 1,
    ) -> tuple[torch.Tensor, KeysValues]:
        """Return the logits of the last tokens, and keys and values of `past` and `ids` together.

        Args:
            ids: new tokens, (rows, tokens).
            mask: 1 where a column holds a token, (rows, past columns + tokens).
            positions: of the new tokens, (rows, tokens).
            past: keys and values of the columns before; may be empty.
            scored: see `run`.
            logits_to_keep: number of tokens.
        """
        cache = DynamicCache(past)
        logits = self.run(ids, mask, positions, cache, scored, logits_to_keep)
        return logits, [(layer.keys, layer.values) for layer in cache.layers]

    def run(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: Any,
        scored: Sequence[int] | slice = (),
        logits_to_keep: int = 1,
    ) -> torch.Tensor:
        """Return the logits of the last tokens; their keys and values are added to the cache.

        Args:
            ids: see `forward`.
            mask: see `forward`.
            positions: see `forward`.
            cache: the library's, of the columns before.
            scored: rows whose output layer is computed in float32, whatever the model's dtype.
            logits_to_keep: number of tokens.

        Returns:
            (rows, logits_to_keep, vocabulary), float32.

        Raises:
            Interrupted: if the process ends.
        """
        stop_now_if_requested()
        if self._output_layer:
            self._output_layer.next_pass.rows = scored
        logits: torch.Tensor = self.model(
            input_ids=ids,
            attention_mask=self._attention_mask(mask, positions),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        ).logits
        return logits.float()

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


class OutputLayer:
    """Computes the output layer of a bfloat16 or float16 model in float32, for some rows.

    The model's own result is rounded: bfloat16 logits lie 0.125 to 0.5 nats apart, so that hundreds
    of labels share a few dozen probabilities. What the model does with the logits afterwards
    (scales, soft-capping) it does in float32 too, because the result replaces its own.

    Args:
        layer: the model's last linear layer.

    Attributes:
        next_pass: its `rows` are those of this thread's next pass.
    """

    def __init__(self, layer: torch.nn.Linear) -> None:
        self.next_pass = threading.local()
        layer.register_forward_hook(self._recompute)

    def _recompute(
        self, layer: torch.nn.Linear, inputs: tuple[torch.Tensor], output: torch.Tensor
    ) -> torch.Tensor | None:
        rows: Sequence[int] | slice = self.next_pass.rows
        if not isinstance(rows, slice) and not rows:
            return None
        rows = rows if isinstance(rows, slice) else list(rows)
        hidden, output = inputs[0][rows].float(), output.float()
        # In blocks of the vocabulary, so that the weights are never all there in float32.
        for start in range(0, output.shape[-1], VOCABULARY_BLOCK):
            part = slice(start, start + VOCABULARY_BLOCK)
            bias = None if layer.bias is None else layer.bias[part].float()
            output[rows, :, part] = linear(hidden, layer.weight[part].float(), bias)
        return output
