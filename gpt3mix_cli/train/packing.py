"""Texts of one forward pass: their tokens in a row without padding, and groups for attention."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .tokens import Tokens

if TYPE_CHECKING:
    import torch

MIN_GROUP = 8  # texts that attention takes together at least: a product of fewer takes as long
# The first product of a shape takes several times as long, so shapes come in few sizes.
TOKENS_STEP = 64  # of all tokens
LENGTH_STEP = 8  # of the padded length of texts of different lengths


class Group(NamedTuple):
    """Consecutive texts that attention takes together, padded to the longest.

    Attributes:
        texts: number of texts.
        tokens: number of their tokens.
        longest: number of tokens of each once they are padded.
        slots: where each token is once they are padded; None if all have the same length.
        mask: (texts, 1, longest), minus infinity where a key is padding; None in that case too.
    """

    texts: int
    tokens: int
    longest: int
    slots: "torch.Tensor | None"
    mask: "torch.Tensor | None"

    def pad(self, x: "torch.Tensor") -> "torch.Tensor":
        """Insert padding, zeros, into the rows of a matrix."""
        if self.slots is None:
            return x
        zeros = x.new_zeros(self.texts * self.longest, x.shape[1])
        return zeros.index_copy(0, self.slots, x)

    def unpad(self, x: "torch.Tensor") -> "torch.Tensor":
        """Remove padding from the rows of a matrix."""
        return x if self.slots is None else x[self.slots]


class Rows(NamedTuple):
    """Texts in the order of their lengths, without padding between them.

    Attributes:
        ids: token ids of all texts, (tokens,), and a few that belong to no text.
        positions: of each token in its text, (tokens,), and zeros for those of no text.
        firsts: where each text starts, (texts,).
        groups: the texts, as attention takes them.
    """

    ids: "torch.Tensor"
    positions: "torch.Tensor"
    firsts: "torch.Tensor"
    groups: list[Group]

    @property
    def num_tokens(self) -> int:
        """Number of tokens that belong to a text."""
        return sum(group.tokens for group in self.groups)


def pack(tokens: Tokens, chosen: "torch.Tensor") -> Rows:
    """Return the rows of texts; `chosen` are their indices, in the order of their lengths."""
    import torch
    from torch.nn.functional import pad

    lengths = [tokens.lengths[index] for index in chosen.tolist()]
    sizes = torch.tensor(lengths)
    firsts = sizes.cumsum(0) - sizes
    positions = torch.arange(sum(lengths)) - firsts.repeat_interleave(sizes)
    ids = tokens.flat[tokens.starts[chosen].repeat_interleave(sizes) + positions]
    extra = (0, -len(ids) % TOKENS_STEP)
    ids, positions = pad(ids, extra), pad(positions, extra)
    return Rows(ids, positions, firsts, [_group(part) for part in _split_by_length(lengths)])


def _split_by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the lengths of each group: where the length changes, but no group of a few texts."""
    part: list[int] = []
    for length in lengths:
        if len(part) >= MIN_GROUP and length != part[-1]:
            yield part
            part = []
        part.append(length)
    if part:
        yield part


def _group(lengths: list[int]) -> Group:
    import torch

    texts, longest = len(lengths), max(lengths)
    if min(lengths) == longest:
        return Group(texts, texts * longest, longest, None, None)
    longest += -longest % LENGTH_STEP
    is_token = torch.arange(longest) < torch.tensor(lengths)[:, None]
    mask = torch.zeros(is_token.shape).masked_fill(~is_token, -torch.inf)[:, None]
    return Group(texts, sum(lengths), longest, is_token.flatten().nonzero()[:, 0], mask)
