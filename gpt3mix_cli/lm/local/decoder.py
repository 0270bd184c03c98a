"""A causal LM as the local engine runs it: rows of tokens in, keys, values and logits out; what prompts share is read once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..port import Request
from .tokenization import Ending, Tokens

if TYPE_CHECKING:
    import torch

Cached = list[
    tuple["torch.Tensor", "torch.Tensor"]
]  # keys and values of each layer, (rows, heads, columns, size)
PREFILL = 16_384  # padded tokens that are read at once
SHARED = 8  # tokens that prompts must share for reading them apart to pay


@dataclass
class Row:
    """A text on its way, or a finished context of which only the choices are to be scored.

    Attributes:
        prompt: tokens to read.
        choices: tokens of each choice.
        request: what is to be written; None if nothing is.
        written: tokens written, up to the one that ended the text.
        logprob: of all of them together, in nats.
        ending: how the text ended; None if max_tokens came first.
        scores: log-probability of each choice; None where there are no choices, or no place for them.
    """

    prompt: list[int]
    choices: list[list[int]]
    request: Request | None = None
    written: list[int] = field(default_factory=list)
    logprob: float = 0.0
    ending: Ending | None = None
    scores: list[float] | None = None

    def clear(self) -> None:
        """Forget what was written, so that it can be written again."""
        self.written, self.logprob, self.ending, self.scores = [], 0.0, None, None


class Decoder:
    """A causal LM of the transformers library, and how it is run."""

    def __init__(self, model: Any, tokens: Tokens, context: int) -> None:
        """Keep model and tokenizer; `context` is the most tokens of a row."""
        from transformers import DynamicCache

        self.model, self.tokens, self.context = model, tokens, context
        windows = [
            layer.sliding_window
            for layer in DynamicCache(config=model.config).layers
            if layer.is_sliding
        ]
        self._window, self._by_layer = (
            min(windows, default=0),
            bool(getattr(model.config.get_text_config(), "layer_types", None)),
        )

    def forward(
        self,
        ids: "torch.Tensor",
        mask: "torch.Tensor",
        positions: "torch.Tensor",
        before: Cached,
        keep: int,
    ) -> "tuple[torch.Tensor, Cached]":
        """Return the logits of the last `keep` tokens and all layers' keys and values, those `before` included."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (keys, values) in enumerate(before):
            cache.update(keys, values, layer)
        output = self.model(
            input_ids=ids,
            attention_mask=self.seen(mask, positions),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return output.logits, [(layer.keys, layer.values) for layer in cache.layers]

    def seen(
        self, mask: "torch.Tensor", positions: "torch.Tensor"
    ) -> "torch.Tensor | dict[str, torch.Tensor]":
        """Return a mask of columns, (rows, columns), in the form in which the model takes it.

        Where a layer sees the last tokens only, the library would count columns, and rows have gaps: tokens are counted
        here, in the forms that the library passes through, (rows, 1, queries, columns) for all layers or by kind of layer.
        """
        import torch

        if not self._window:
            return mask
        places = (mask.cumsum(-1) - 1)[:, None, None, :]
        last = positions[:, None, :, None]
        full = (mask[:, None, None, :] == 1) & (places <= last)
        sliding = full & (places > last - self._window)
        # Added to attention scores, since not every kind of attention takes truth values.
        unseen = torch.finfo(self.model.dtype).min
        added = [
            torch.zeros(kind.shape, dtype=self.model.dtype, device=mask.device).masked_fill_(
                ~kind, unseen
            )
            for kind in (full, sliding)
        ]
        return (
            {"full_attention": added[0], "sliding_attention": added[1]}
            if self._by_layer
            else added[1]
        )


class Prompts:
    """Reads prompts; what all of them begin with, the header, is read once.

    Reading the examples that some prompts share apart from the rest was tried too: copying their keys and values cost
    more than it saved.
    """

    def __init__(self, decoder: Decoder, prompts: Sequence[list[int]]) -> None:
        """Read the header of all prompts that will come."""
        self._decoder = decoder
        first, last = min(prompts), max(prompts)  # whatever these two share, all between them do
        # Each prompt keeps a token of its own, and a few shared tokens do not pay.
        shared = min(common_start(first, last), max(0, len(min(prompts, key=len)) - 1))
        self._header = list(first[: shared if shared >= SHARED else 0])
        self._cached = self._read([self._header], [])[0] if self._header else []

    def read(self, prompts: "Sequence[Sequence[int]]") -> "tuple[Cached, torch.Tensor]":
        """Return keys and values of each layer, and which of their columns count, (prompts, columns)."""
        before = [
            (keys.expand(len(prompts), -1, -1, -1), values.expand(len(prompts), -1, -1, -1))
            for keys, values in self._cached
        ]
        return self._read([prompt[len(self._header) :] for prompt in prompts], before)

    def _read(
        self, rests: Sequence[Sequence[int]], before: Cached
    ) -> "tuple[Cached, torch.Tensor]":
        """Read rows of tokens after the keys and values before them, a part at a time; return both together."""
        import torch

        ids, mask = left_padded(rests, self._decoder.tokens.pad, self._decoder.model.device)
        mask = torch.cat([mask.new_ones(len(rests), len(self._header) if before else 0), mask], 1)
        if not ids.shape[1]:
            return before, mask
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        size = max(1, PREFILL // ids.shape[1])
        parts = []
        for start in range(0, len(ids), size):
            part = slice(start, start + size)
            earlier = [(keys[part], values[part]) for keys, values in before]
            parts.append(
                self._decoder.forward(ids[part], mask[part], positions[part], earlier, keep=1)[1]
            )
        if len(parts) == 1:
            return parts[0], mask
        return [
            (torch.cat([keys for keys, _ in layer]), torch.cat([values for _, values in layer]))
            for layer in zip(*parts, strict=True)
        ], mask


def left_padded(
    rows: Sequence[Sequence[int]], pad: int, device: "torch.device"
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return ids and attention mask, both (rows, longest), padded on the left so that all rows end together."""
    import torch

    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        if row:
            ids[i, longest - len(row) :] = torch.tensor(row)
            mask[i, longest - len(row) :] = 1
    return ids.to(device), mask.to(device)


def common_start(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two rows share at their beginning."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )
