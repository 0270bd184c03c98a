"""Reads prompts: keys and values of a prefix that several of them share are computed once.

All prompts of a block share the header, those with the same first examples share more, and equal
prompts share everything. So the prefixes form a tree.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.utils.rnn import pad_sequence

from .decoder import Decoder, KeysValues

Tokens = tuple[int, ...]

PREFILL_TOKENS = 16_384  # read in one pass, padding included
CPU_PREFILL_TOKENS = 512  # enough for a CPU's full speed
TREE_BYTES = 512 << 20  # the most for keys and values of shared prefixes
PREFIXES_AT_ONCE = 32  # that are read together, each with all before it
# What sharing a prefix must save to be worth a pass of its own: some milliseconds of computation.
MIN_FLOPS_SAVED = 1e9
MIN_FLOPS_SAVED_ON_GPU = 1e12


@dataclass(frozen=True, eq=False)
class _Prefix:
    """Tokens that several prompts have in common, after those of the prefix before.

    Attributes:
        tokens: without those of the prefix before.
        before: the prefix before; None if there is none.
        past: keys and values of `tokens` by layer, both (heads, tokens, size).
    """

    tokens: Tokens
    before: "_Prefix | None"
    past: KeysValues = field(default_factory=list)

    @property
    def chain(self) -> list["_Prefix"]:
        """All prefixes from the start of the prompt to this one."""
        return [*(self.before.chain if self.before else ()), self]


class PromptReader:
    """Computes keys and values of prompts.

    Args:
        decoder: the model.
        prompts: all that will be read, each as often as it will be.
    """

    def __init__(self, decoder: Decoder, prompts: Sequence[Sequence[int]]) -> None:
        self._decoder, self._device = decoder, decoder.model.device
        self._tokens_left = TREE_BYTES // decoder.bytes_per_token
        on_gpu = self._device.type != "cpu"
        flops = MIN_FLOPS_SAVED_ON_GPU if on_gpu else MIN_FLOPS_SAVED
        self._min_tokens_saved = flops / max(1, decoder.flops_per_token)
        self._prefixes: list[_Prefix] = []
        self._prefix_of: dict[Tokens, _Prefix | None] = {}
        self._add_prefixes(sorted(Counter(map(tuple, prompts)).items()), None, 0)
        levels = sorted(self._prefixes, key=_depth)
        for _, level in itertools.groupby(levels, _depth):
            self._read_prefixes(list(level))

    def read(self, prompts: Sequence[Sequence[int]]) -> tuple[KeysValues, torch.Tensor]:
        """Return keys and values of some of the prompts, and the mask, (prompts, columns)."""
        prefixes = [self._prefix_of[tuple(prompt)] for prompt in prompts]
        rests = [
            prompt[_num_tokens(prefix) :] for prompt, prefix in zip(prompts, prefixes, strict=True)
        ]
        return self._read(rests, prefixes)

    # The tree ------------------------------------------------------------------------------------

    def _add_prefixes(
        self, prompts: Sequence[tuple[Tokens, int]], before: _Prefix | None, start: int
    ) -> None:
        """Add the prefixes that are worth it among sorted prompts with their counts.

        Args:
            prompts: they share their first `start` tokens.
            before: the prefix of these tokens.
            start: number of tokens.
        """
        first, last = prompts[0][0], prompts[-1][0]
        end = common_prefix_length(first, last)  # what these two share, all between them share
        reads = sum(count for _, count in prompts)
        worth = (reads - 1) * (end - start) >= self._min_tokens_saved
        if worth and 0 < end - start <= self._tokens_left:
            before = _Prefix(first[start:end], before)
            self._prefixes.append(before)
            self._tokens_left -= end - start
            start = end
        self._prefix_of |= dict.fromkeys((tokens for tokens, _ in prompts), before)
        if len(prompts) == 1:
            return
        for _, group in itertools.groupby(prompts, lambda item: item[0][end : end + 1]):
            self._add_prefixes(list(group), before, start)

    def _read_prefixes(self, prefixes: Sequence[_Prefix]) -> None:
        """Compute keys and values of prefixes; those of the prefixes before them are there."""
        for start in range(0, len(prefixes), PREFIXES_AT_ONCE):
            part = prefixes[start : start + PREFIXES_AT_ONCE]
            layers, _ = self._read(
                [prefix.tokens for prefix in part], [prefix.before for prefix in part]
            )
            for row, prefix in enumerate(part):
                own = slice(-len(prefix.tokens), None)  # rows are padded on the left
                prefix.past.extend(
                    (keys[row, :, own].clone(), values[row, :, own].clone())
                    for keys, values in layers
                )

    def _gather(self, prefixes: Sequence[_Prefix | None]) -> tuple[KeysValues, torch.Tensor]:
        """Return keys and values of prefixes, padded on the left, and their mask."""
        if len(distinct := set(prefixes)) == 1 and len(prefixes) > 1:
            past, mask = self._gather(list(distinct))
            size = len(prefixes)
            return [
                (keys.expand(size, -1, -1, -1), values.expand(size, -1, -1, -1))
                for keys, values in past
            ], mask.expand(size, -1)
        chains = [prefix.chain if prefix else [] for prefix in prefixes]
        mask = left_padding_mask([_num_tokens(prefix) for prefix in prefixes], self._device)
        width = mask.shape[1]
        if not width:
            return [], mask
        some = next(chain[0] for chain in chains if chain)
        past = []
        for layer, (keys, values) in enumerate(some.past):
            shape = (len(chains), keys.shape[0], width, keys.shape[2])
            both = keys.new_zeros(shape), values.new_zeros(shape)
            for row, chain in enumerate(chains):
                end = width
                for prefix in reversed(chain):
                    part = slice(end - len(prefix.tokens), end)
                    for whole, own in zip(both, prefix.past[layer], strict=True):
                        whole[row, :, part] = own
                    end = part.start
            past.append(both)
        return past, mask

    # Passes --------------------------------------------------------------------------------------

    def _read(
        self, rows: Sequence[Sequence[int]], prefixes: Sequence[_Prefix | None]
    ) -> tuple[KeysValues, torch.Tensor]:
        """Return keys and values of prefixes and rows together, and the mask."""
        past, past_mask = self._gather(prefixes)
        own_mask = left_padding_mask([len(row) for row in rows], self._device)
        width = own_mask.shape[1]
        mask = torch.cat([past_mask, own_mask], 1)
        if not width:
            return past, mask
        layers: KeysValues = []
        # Rows of similar length are read together, since padding costs as much as tokens do.
        for part in self._parts(rows):
            size = max(len(rows[row]) for row in part)
            ids = pad_sequence(
                [torch.tensor(rows[row], dtype=torch.long) for row in part],
                batch_first=True,
                padding_value=self._decoder.tokenizer.pad,
                padding_side="left",
            ).to(self._device)
            part_mask = torch.cat([past_mask[part], own_mask[part, width - size :]], 1)
            positions = (part_mask.cumsum(-1) - 1).clamp(min=0)[:, past_mask.shape[1] :]
            part_past = [(keys[part], values[part]) for keys, values in past]
            new = self._decoder.forward(ids, part_mask, positions, part_past)[1]
            layers = layers or self._allocate(new, past, *mask.shape)
            for whole, read in zip(layers, new, strict=True):
                for target, source in zip(whole, read, strict=True):
                    target[part, :, mask.shape[1] - size :] = source[:, :, past_mask.shape[1] :]
        return layers, mask

    @staticmethod
    def _allocate(new: KeysValues, past: KeysValues, rows: int, columns: int) -> KeysValues:
        """Return keys and values of all rows, shaped like `new`; `past` fills the first columns."""
        layers = [
            (keys.new_zeros(shape), values.new_zeros(shape))
            for keys, values in new
            for shape in [(rows, keys.shape[1], columns, keys.shape[3])]
        ]
        for whole, before in zip(layers, past, strict=False):
            for target, source in zip(whole, before, strict=True):
                target[:, :, : source.shape[2]] = source
        return layers

    def _parts(self, rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Yield the indices of rows that are read in one pass; rows without tokens need none."""
        limit = CPU_PREFILL_TOKENS if self._device.type == "cpu" else PREFILL_TOKENS
        order = sorted((i for i, row in enumerate(rows) if row), key=lambda i: len(rows[i]))
        part: list[int] = []
        for row in order:
            if part and (len(part) + 1) * len(rows[row]) > limit:
                yield part
                part = []
            part.append(row)
        yield part


def left_padding_mask(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return the mask of rows that are padded on the left, (rows, longest)."""
    columns = torch.arange(max(lengths), device=device)
    starts = max(lengths) - torch.tensor(lengths, device=device)
    return (columns >= starts[:, None]).long()


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two rows share at their beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _depth(prefix: _Prefix) -> int:
    return len(prefix.chain)


def _num_tokens(prefix: _Prefix | None) -> int:
    return sum(len(part.tokens) for part in prefix.chain) if prefix else 0
