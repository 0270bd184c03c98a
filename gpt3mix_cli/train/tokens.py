"""Texts as token ids on the device, tokenised once for all trials."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MAX_CACHED_TEXTS = 100_000  # tokenised texts kept; a few hundred megabytes


@dataclass
class Tokens:
    """The tokens of texts, concatenated, on the device.

    Attributes:
        flat: all token ids, (tokens,).
        starts: where each text starts in `flat`, (texts,), on the device.
        sizes: number of tokens of each text, (texts,), on the device.
        lengths: the same on the host, where batches are planned.
    """

    flat: "torch.Tensor"
    starts: "torch.Tensor"
    sizes: "torch.Tensor"
    lengths: list[int]

    def batch(self, chosen: "torch.Tensor", longest: int, pad: int) -> dict[str, "torch.Tensor"]:
        """Return input_ids and attention_mask, both (rows, longest), padded on the right.

        Args:
            chosen: indices of the texts, on the device.
            longest: number of tokens of the longest of them.
            pad: the id of the padding token.
        """
        import torch

        position = torch.arange(longest, device=self.flat.device)
        mask = position < self.sizes[chosen, None]
        index = (self.starts[chosen, None] + position).clamp(max=len(self.flat) - 1)
        ids = self.flat[index].masked_fill(~mask, pad)
        return {"input_ids": ids, "attention_mask": mask.long()}


class TokenCache:
    """Tokenises texts and keeps the result.

    Args:
        max_length: the most tokens of a text.
        num_embeddings: of the model; special tokens that have none are left out.

    Attributes:
        texts_seen: number of texts asked for; users may reset it.
        texts_cut: how many of them were longer than `max_length`.
    """

    def __init__(self, max_length: int, num_embeddings: float = math.inf) -> None:
        self._max_length, self._num_embeddings = max_length, num_embeddings
        self._ids: dict[str, list[int]] = {}
        self._cut: set[str] = set()
        self.texts_seen = self.texts_cut = 0

    def tokens(
        self, texts: Sequence[str], tokenizer: Callable[..., Any], device: "torch.device"
    ) -> Tokens:
        """Return the tokens of texts, cut at `max_length`, on a device."""
        import torch

        if len(self._ids) > MAX_CACHED_TEXTS:
            self._ids, self._cut = {}, set()
        if new := [text for text in dict.fromkeys(texts) if text not in self._ids]:
            self._tokenise(new, tokenizer)
        lengths = [len(self._ids[text]) for text in texts]
        self.texts_seen += len(texts)
        self.texts_cut += sum(text in self._cut for text in texts)
        sizes = torch.tensor(lengths, dtype=torch.long)
        flat = torch.tensor(
            [token for text in texts for token in self._ids[text]], dtype=torch.int32
        )
        starts = sizes.cumsum(0) - sizes
        return Tokens(flat.to(device), starts.to(device), sizes.to(device), lengths)

    def _tokenise(self, new: Sequence[str], tokenizer: Callable[..., Any]) -> None:
        ids = tokenizer(new, truncation=True, max_length=self._max_length)["input_ids"]
        for text, tokens in zip(new, ids, strict=True):
            self._ids[text] = [token for token in tokens if token < self._num_embeddings]
        # Only a text that fills `max_length` can have been cut.
        if full := [text for text in new if len(self._ids[text]) >= self._max_length]:
            whole = zip(full, tokenizer(full, truncation=False)["input_ids"], strict=True)
            self._cut |= {text for text, ids in whole if len(ids) > self._max_length}


def batches_within(lengths: Sequence[int], max_tokens: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of batches of ascending lengths with at most `max_tokens` padded tokens.

    A single text may have more.
    """
    start = 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or lengths[end] * (end + 1 - start) > max_tokens:
            yield start, end
            start = end
