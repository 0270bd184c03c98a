"""Writes many texts side by side with one key-value cache, and scores their labels from it.

The cache is a window of columns that all rows share: a step appends one column, each row sees its own columns through
its mask and counts its own positions. So a row that has ended leaves at once, and one that waits takes its place: its
prompt is read (what all prompts begin with only once, equal prompts once) and laid down before the newest column. A
text that has ended is led on to its label prefix, and the next step's logits are its labels' scores: nothing is read twice.
"""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .decoder import Decoder, Prompts, Row, common_start
from .sampling import Sampler

if TYPE_CHECKING:
    import torch

SPARE = 32  # columns for label prefixes, before the window has to grow


def write(decoder: Decoder, rows: Sequence[Row], side_by_side: int) -> None:
    """Write and score the rows, at most `side_by_side` at a time; fills in their fields."""
    import torch

    with torch.inference_mode():
        _Window(decoder, rows, min(side_by_side, len(rows))).run()


class _Layer:
    """One layer of the window, in the form that the library asks a cache's layers for.

    Attributes:
        keys: (rows, heads, columns, size); the model sees the columns from `window.start` to `window.end`.
        values: likewise.
    """

    is_sliding = is_compileable = is_croppable = False

    def __init__(self, window: "_Window") -> None:
        self._window = window
        self.keys: torch.Tensor | None = None
        self.values: torch.Tensor | None = None

    def held(
        self, keys: "torch.Tensor", values: "torch.Tensor"
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return the window's keys and values, made in the form of the first ones."""
        if self.keys is None or self.values is None:
            slots, columns = self._window.shape
            self.keys = keys.new_zeros(slots, keys.shape[1], columns, keys.shape[3])
            self.values = values.new_zeros(slots, values.shape[1], columns, values.shape[3])
        return self.keys, self.values

    def update(
        self, keys: "torch.Tensor", values: "torch.Tensor", *_: Any, **__: Any
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        start, end = self._window.start, self._window.end
        all_keys, all_values = self.held(keys, values)
        all_keys[:, :, end : end + 1] = keys
        all_values[:, :, end : end + 1] = values
        return all_keys[:, :, start : end + 1], all_values[:, :, start : end + 1]

    def get_seq_length(self) -> int:
        return self._window.end - self._window.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1


class _Window:
    """The rows that are under way, each in a slot.

    Attributes:
        start: the first column that any row needs.
        end: the column that the next step fills.
    """

    def __init__(self, decoder: Decoder, rows: Sequence[Row], slots: int) -> None:
        import torch

        self._decoder, self._tokens = decoder, decoder.tokens
        # Rows of like length share a reading; the longest come first, so that the others find room before the newest column.
        self._waiting = deque(sorted(rows, key=lambda row: -len(row.prompt)))
        # The last token of a prompt is fed by the first step, whose logits are wanted.
        self._prompts = Prompts(decoder, [row.prompt[:-1] for row in rows])
        self._device = decoder.model.device
        longest = max([row.request.max_tokens for row in rows if row.request] or [1])
        self._sampler = Sampler(slots, longest, self._device)
        self._rows: list[Row | None] = [None] * slots
        self._forced: dict[
            int, deque[int]
        ] = {}  # slot -> tokens that lead to the place of the label
        self._parked: dict[
            int, list[float]
        ] = {}  # slot -> first tokens' log-probabilities of choices that have more
        self._first = [0] * slots  # the first column of each slot's row
        self._ids = torch.zeros(slots, dtype=torch.long, device=self._device)
        self._positions = torch.zeros(slots, dtype=torch.long, device=self._device)
        self._active = torch.zeros(slots, dtype=torch.bool, device=self._device)
        self._writing = torch.zeros(slots, dtype=torch.bool, device=self._device)
        self._limits = torch.zeros(slots, dtype=torch.long, device=self._device)
        self._logprobs = torch.zeros(slots, dtype=torch.float64, device=self._device)
        self._mask = torch.zeros(
            slots,
            len(self._waiting[0].prompt) + longest + SPARE,
            dtype=torch.long,
            device=self._device,
        )
        self._layers = [
            _Layer(self) for _ in range(decoder.model.config.get_text_config().num_hidden_layers)
        ]
        self._closers: dict[str, torch.Tensor] = {}
        self.start = self.end = 0

    def run(self) -> None:
        """Go on until every row has ended."""
        while True:
            quarter = max(1, len(self._rows) // 4)
            if not self._live or (
                len(self._rows) - self._live >= quarter and (self._waiting or self._parked)
            ):
                self._turn_over()
                if not self._live:
                    return
            if not self._waiting and self._taken <= len(self._rows) // 2:
                self._shrink()
            self._step()

    @property
    def shape(self) -> tuple[int, int]:
        """Slots and columns."""
        return self._mask.shape[0], self._mask.shape[1]

    @property
    def _taken(self) -> int:
        return sum(row is not None for row in self._rows)

    @property
    def _live(self) -> int:
        return self._taken - len(self._parked)

    # Rows come and go ------------------------------------------------------------------------------------------------

    def _turn_over(self) -> None:
        """Score what is parked, and let waiting rows in."""
        self._score_parked()
        free = [slot for slot, row in enumerate(self._rows) if row is None]
        joining = [self._waiting.popleft() for _ in free[: len(self._waiting)]]
        if joining:
            self._join(joining, free[: len(joining)])

    def _join(self, rows: Sequence[Row], slots: Sequence[int]) -> None:
        import torch

        distinct = list(dict.fromkeys(tuple(row.prompt[:-1]) for row in rows))
        found, mask = self._prompts.read(distinct)
        place = {prompt: i for i, prompt in enumerate(distinct)}
        source = torch.tensor([place[tuple(row.prompt[:-1])] for row in rows], device=self._device)
        target = torch.tensor(slots, device=self._device)
        # Columns that count, in their order and without gaps between them, at the end: a wide window costs every step.
        width = int(mask.sum(1).max())
        columns = mask.argsort(dim=1, stable=True)[:, mask.shape[1] - width :]
        mask, columns = mask.gather(1, columns), columns[source]
        if all(row is None for row in self._rows):
            self.start, self.end = 0, width
        self.end = max(self.end, width)
        for layer, (keys, values) in zip(
            self._layers, found, strict=False
        ):  # nothing is found before a prompt of one token
            all_keys, all_values = layer.held(keys, values)
            all_keys[target, :, self.end - width : self.end] = keys[
                source[:, None], :, columns
            ].transpose(1, 2)
            all_values[target, :, self.end - width : self.end] = values[
                source[:, None], :, columns
            ].transpose(1, 2)
        self._mask[target] = 0
        self._mask[target, self.end - width : self.end] = mask[source]
        for slot, row in zip(slots, rows, strict=True):
            self._rows[slot], self._first[slot] = row, self.end - width
            self._ids[slot], self._positions[slot] = row.prompt[-1], len(row.prompt) - 1
            self._logprobs[slot] = 0
            self._active[slot], self._writing[slot] = True, row.request is not None
            if row.request:
                self._sampler.set(slot, row.request)
                self._limits[slot] = row.request.max_tokens
            else:
                self._forced[slot] = deque([row.prompt[-1]])
        self._close_up()

    def _leave(self, slot: int) -> None:
        self._rows[slot] = None
        self._active[slot] = self._writing[slot] = False
        self._close_up()

    def _close_up(self) -> None:
        self.start = min(
            (first for first, row in zip(self._first, self._rows, strict=True) if row),
            default=self.start,
        )

    def _make_room(self, columns: int) -> None:
        """Move the columns in use to the front, and add more, until `columns` are free behind them."""
        import torch

        if self.end + columns <= self._mask.shape[1]:
            return
        used = self.end - self.start
        more = max(
            0, used + columns + used // 2 - self._mask.shape[1]
        )  # half as much again, so that this is rare
        for layer in self._layers:
            for name in ("keys", "values"):
                if (old := getattr(layer, name)) is None:
                    continue
                new = old.new_zeros(*old.shape[:2], old.shape[2] + more, old.shape[3])
                new[:, :, :used] = old[:, :, self.start : self.end]
                setattr(layer, name, new)
        mask = torch.zeros(
            len(self._mask), self._mask.shape[1] + more, dtype=self._mask.dtype, device=self._device
        )
        mask[:, :used] = self._mask[:, self.start : self.end]
        self._mask = mask
        self._first = [first - self.start for first in self._first]
        self.start, self.end = 0, used

    def _shrink(self) -> None:
        """Keep only the slots that are taken."""
        import torch

        kept = [slot for slot, row in enumerate(self._rows) if row]
        index = torch.tensor(kept, device=self._device)
        for layer in self._layers:
            layer.keys, layer.values = layer.keys[index], layer.values[index]  # type: ignore[index]
        for name in ("_ids", "_positions", "_active", "_writing", "_limits", "_logprobs", "_mask"):
            setattr(self, name, getattr(self, name)[index])
        self._sampler.select(index)
        new = {old: i for i, old in enumerate(kept)}
        self._rows, self._first = (
            [self._rows[slot] for slot in kept],
            [self._first[slot] for slot in kept],
        )
        self._forced = {new[slot]: queue for slot, queue in self._forced.items()}
        self._parked = {new[slot]: found for slot, found in self._parked.items()}

    # One step --------------------------------------------------------------------------------------------------------

    def _step(self) -> None:
        """Feed one token to every row; take a new one from each that writes, and the scores of each that is done."""
        for slot, queue in self._forced.items():
            self._ids[slot] = queue.popleft()
        logits = self._forward()
        totals = logits.logsumexp(-1)
        for slot in [slot for slot, queue in self._forced.items() if not queue]:
            del self._forced[slot]
            self._label(slot, logits[slot], totals[slot])
        if self._live == len(self._forced):
            return
        tokens = self._sampler.draw(logits, self._writing)
        chosen = logits.gather(-1, tokens[:, None])[:, 0] - totals
        self._logprobs += (chosen * self._writing).double()
        self._ids = tokens
        ended = self._writing & (
            self._may_end(tokens, logits.shape[-1]) | (self._sampler.counts >= self._limits)
        )
        for slot in ended.nonzero()[:, 0].tolist():
            self._look(slot)

    def _forward(self) -> "torch.Tensor":
        """Return the logits after each row's token, (slots, vocabulary), float32."""
        from transformers.cache_utils import Cache, CacheLayerMixin

        CacheLayerMixin.register(_Layer)  # the library asks its layers by class
        self._make_room(1)
        # A free slot sees its own token, since a row that sees nothing has no numbers; nobody else ever sees it.
        self._mask[:, self.end] = 1
        output = self._decoder.model(
            input_ids=self._ids[:, None],
            attention_mask=self._decoder.seen(
                self._mask[:, self.start : self.end + 1], self._positions[:, None]
            ),
            position_ids=self._positions[:, None],
            past_key_values=Cache(layers=self._layers),
            use_cache=True,
            logits_to_keep=1,
        )
        self._mask[:, self.end] = self._active.long()
        self._positions += self._active
        self.end += 1
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def _may_end(self, tokens: "torch.Tensor", vocabulary: int) -> "torch.Tensor":
        prefixes = {row.request.label_prefix for row in self._rows if row and row.request}
        if len(prefixes) == 1 and (label_prefix := next(iter(prefixes))) in self._closers:
            return self._closers[label_prefix][tokens]
        for label_prefix in prefixes:
            self._closers[label_prefix] = self._tokens.closers(label_prefix, vocabulary).to(
                self._device
            )
        found = tokens.new_zeros(len(tokens), dtype=self._active.dtype)
        for closers in self._closers.values():
            found |= closers[tokens]
        return found

    # Endings ---------------------------------------------------------------------------------------------------------

    def _look(self, slot: int) -> None:
        """See whether a text has ended, and lead it to its label."""
        row = self._rows[slot]
        assert row
        assert row.request
        count = int(self._sampler.counts[slot])
        written = self._sampler.written[slot, :count].tolist()
        ending = self._tokens.ending(
            row.prompt, row.request.prompt, written, row.request.label_prefix
        )
        if not ending and count < row.request.max_tokens:
            return
        row.written, row.ending, row.logprob = written, ending, float(self._logprobs[slot])
        if (
            not ending
            or not row.choices
            or not ending.context
            or len(ending.context) + max(map(len, row.choices)) > self._decoder.context
        ):
            self._leave(slot)
            return
        self._writing[slot] = False
        read = [*row.prompt, *written[:-1]]
        # At least one token is read again, for its logits.
        kept = min(common_start(read, ending.context), len(ending.context) - 1)
        if kept < len(read):
            columns = self._mask[slot].nonzero()[:, 0]
            self._mask[slot, columns[kept:]] = 0
            self._positions[slot] = kept
        self._forced[slot] = deque(ending.context[kept:])

    def _label(self, slot: int, logits: "torch.Tensor", total: "torch.Tensor") -> None:
        """Take the log-probability of each choice's first token; choices with more tokens wait for company."""
        row = self._rows[slot]
        assert row
        first = (logits[[choice[0] for choice in row.choices]] - total).double().tolist()
        if all(len(choice) == 1 for choice in row.choices):
            row.scores = first
            self._leave(slot)
        else:
            self._parked[slot] = first
            self._active[slot] = False

    def _score_parked(self) -> None:
        pairs = [
            (slot, choice)
            for slot in self._parked
            for choice in self._rows[slot].choices  # type: ignore[union-attr]
            if len(choice) > 1
        ]
        rest = itertools.chain.from_iterable(
            self._rest(part) for part in _batched(pairs, len(self._rows))
        )
        for slot, first in self._parked.items():
            row = self._rows[slot]
            assert row
            row.scores = [
                value + (next(rest) if len(choice) > 1 else 0.0)
                for value, choice in zip(first, row.choices, strict=True)
            ]
        for slot in list(self._parked):
            self._leave(slot)
        self._parked.clear()

    def _rest(self, pairs: "Sequence[tuple[int, list[int]]]") -> list[float]:
        """Return the log-probability of each choice's tokens after its first, from a copy of its row's cache."""
        import torch

        slots = torch.tensor([slot for slot, _ in pairs], device=self._device)
        longest = max(len(choice) for _, choice in pairs) - 1
        # The last token is predicted, never read; what pads on the right is read by nobody.
        ids = torch.tensor(
            [choice[:-1] + [self._tokens.pad] * (longest + 1 - len(choice)) for _, choice in pairs],
            device=self._device,
        )
        mask = torch.cat([self._mask[slots, self.start : self.end], torch.ones_like(ids)], 1)
        # A short choice at the edge of the context may have longer ones beside it: what pads it has no place of its own.
        positions = (
            self._positions[slots, None] + torch.arange(longest, device=self._device)
        ).clamp(max=self._decoder.context - 1)
        held = [(layer.keys, layer.values) for layer in self._layers]
        before = [
            (keys[slots, :, self.start : self.end], values[slots, :, self.start : self.end])  # type: ignore[index]
            for keys, values in held
        ]
        logprobs = (
            self._decoder.forward(ids, mask, positions, before, keep=longest)[0]
            .float()
            .log_softmax(-1)
        )
        found = []
        for i, (_, choice) in enumerate(pairs):
            targets = torch.tensor(choice[1:], device=self._device)
            found.append(
                float(logprobs[i, : len(targets)].gather(-1, targets[:, None]).double().sum())
            )
        return found


def _batched(
    items: "Sequence[tuple[int, list[int]]]", size: int
) -> "Iterator[Sequence[tuple[int, list[int]]]]":
    for start in range(0, len(items), size):
        yield items[start : start + size]
