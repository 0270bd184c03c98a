"""A causal LM as the local engine runs it: rows of tokens in, keys, values and logits out; what all begin with is read once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import Request
from .tokens import Ending, Tokens

if TYPE_CHECKING:
    import torch

SHARED = 8  # tokens that prompts must have in common for reading them apart to pay


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
        windows = [layer.sliding_window for layer in DynamicCache(config=model.config).layers if layer.is_sliding]
        self._window, self._by_layer = min(windows, default=0), bool(getattr(model.config.get_text_config(), "layer_types", None))
        self._shared: tuple[tuple[int, ...], list[tuple[torch.Tensor, torch.Tensor]]] = (), []

    def read(self, prompts: Sequence[Sequence[int]], shared: Sequence[int]) -> "tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]":
        """Return keys and values of each layer, (prompts, heads, width, size), and which columns count, (prompts, width).

        Args:
            prompts: tokens; what is shorter is padded behind the shared ones.
            shared: tokens with which all of them begin.
        """
        import torch

        before = self._read_shared(tuple(shared))
        rests = [prompt[len(shared) :] for prompt in prompts]
        device = self.model.device
        ids, mask = left_padded(rests, self.tokens.pad, device)
        mask = torch.cat([mask.new_ones(len(prompts), len(shared)), mask], 1)
        expanded = [(keys.expand(len(prompts), -1, -1, -1), values.expand(len(prompts), -1, -1, -1)) for keys, values in before]
        if not ids.shape[1]:
            return expanded, mask
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, len(shared) :]
        return self.forward(ids, mask, positions, expanded, keep=1)[1], mask

    def forward(
        self,
        ids: "torch.Tensor",
        mask: "torch.Tensor",
        positions: "torch.Tensor",
        before: "Sequence[tuple[torch.Tensor, torch.Tensor]]",
        keep: int,
    ) -> "tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]":
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

    def seen(self, mask: "torch.Tensor", positions: "torch.Tensor") -> "torch.Tensor | dict[str, torch.Tensor]":
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
        added = [torch.zeros(kind.shape, dtype=self.model.dtype, device=mask.device).masked_fill_(~kind, unseen) for kind in (full, sliding)]
        return {"full_attention": added[0], "sliding_attention": added[1]} if self._by_layer else added[1]

    def _read_shared(self, shared: tuple[int, ...]) -> "list[tuple[torch.Tensor, torch.Tensor]]":
        import torch

        if not shared:
            return []
        if self._shared[0] != shared:
            ids = torch.tensor([shared], device=self.model.device)
            positions = torch.arange(len(shared), device=self.model.device)[None]
            self._shared = shared, self.forward(ids, torch.ones_like(ids), positions, [], keep=1)[1]
        return self._shared[1]


def left_padded(rows: Sequence[Sequence[int]], pad: int, device: "torch.device") -> "tuple[torch.Tensor, torch.Tensor]":
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
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))


def shared_start(prompts: Sequence[list[int]]) -> list[int]:
    """Return the tokens with which all prompts begin, where reading them apart pays; each keeps a last token of its own."""
    if len(prompts) < 2:
        return []
    first, last = min(prompts), max(prompts)  # whatever these two share, all between them do
    common = first[: min(common_start(first, last), len(min(prompts, key=len)) - 1)]
    return common if len(common) >= SHARED else []
