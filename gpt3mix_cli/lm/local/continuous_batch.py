"""Continuous batching: generates many texts at once and scores their labels from the same cache.

A row that has ended frees its slot at once, and a waiting row takes it. Nothing is read twice:
prefixes that prompts share are read once (`prompt_reader`); a text that has ended is continued with
its label prefix, and the next logits are its label scores. One missing token of it is read with the
next step. More of them, or of a text that is split otherwise when it is read, and labels of several
tokens are read in passes of their own, for several rows at once.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.utils.rnn import pad_sequence

from ..port import Request
from .decoder import Decoder
from .kv_cache import KVCache
from .prompt_reader import PromptReader, Tokens, common_prefix_length, left_padding_mask
from .sampling import Sampler
from .tokenization import Ending

# The fraction of idle slots at which waiting rows are admitted, and the fraction of taken slots at
# which idle ones are given up if no row waits. A CPU computes idle slots at full cost; a GPU
# prefers few large passes.
CPU_OCCUPANCY = 1 / 16, 0.75
GPU_OCCUPANCY = 1 / 4, 0.5
SPARE_COLUMNS = 32  # for label prefixes, before the cache has to grow


@dataclass
class Row:
    """A text to generate, or a finished prompt of which only the choices are scored.

    Attributes:
        prompt: tokens to read.
        choices: tokens of each choice.
        request: what to generate; None if nothing is.
        generated: tokens, up to the one that ended the text.
        logprob: of all generated tokens, natural logarithm.
        ending: how the text ended; None if `max_tokens` came first.
        scores: log-probability of each choice; None if there is no choice, or no space for it in
            the context.
    """

    prompt: list[int]
    choices: list[list[int]]
    request: Request | None = None
    generated: list[int] = field(default_factory=list)
    logprob: float = 0.0
    ending: Ending | None = None
    scores: list[float] | None = None


@torch.inference_mode()
def run_rows(decoder: Decoder, rows: Sequence[Row], max_rows: int) -> None:
    """Generate and score the rows, at most `max_rows` at a time; fills in their results."""
    for row in rows:  # a run before this one may have failed halfway
        row.generated, row.logprob, row.ending, row.scores = [], 0.0, None, None
    ContinuousBatch(decoder, rows, min(max_rows, len(rows))).run()


class ContinuousBatch:
    """The rows in progress, each in a slot, and those that wait for one.

    A row goes through three states: it generates; it is fed its `last_tokens`, the one before the
    label; it waits in `to_be_read` for a pass that reads several tokens.

    Args:
        decoder: the model.
        rows: to generate and score.
        slots: the most rows at a time.
    """

    def __init__(self, decoder: Decoder, rows: Sequence[Row], slots: int) -> None:
        self._decoder, self._tokenizer = decoder, decoder.tokenizer
        # Rows of similar length are read together. The longest come first, so that the others find
        # enough columns before the newest one.
        self._waiting = deque(sorted(rows, key=lambda row: -len(row.prompt)))
        # The first step feeds a prompt's last token, since it needs the logits.
        self._prompts = PromptReader(decoder, [row.prompt[:-1] for row in rows])
        device = self._device = decoder.model.device
        self._idle_fraction, self._compact_below = (
            CPU_OCCUPANCY if device.type == "cpu" else GPU_OCCUPANCY
        )
        requests = [row.request for row in rows if row.request]
        max_tokens = max((request.max_tokens for request in requests), default=1)
        self._sampler = Sampler(slots, max_tokens, device)
        columns = len(self._waiting[0].prompt) + max_tokens + SPARE_COLUMNS
        self._cache = KVCache(decoder.config.num_hidden_layers, slots, columns, device)
        self._rows: dict[int, Row] = {}  # by slot
        self._last_tokens: dict[int, int] = {}  # by slot
        # By slot: tokens before the label; none if the scores of its first tokens are known.
        self._to_be_read: dict[int, list[int]] = {}
        self._may_end = decoder.tokenizer.may_end_text(
            {request.label_prefix for request in requests}, decoder.config.vocab_size
        ).to(device)
        # Of each slot: next token and its position; whether the slot's row is fed tokens, and
        # generates them; its limit, and the log-probability of its tokens.
        self._ids, self._positions, self._max_tokens = torch.zeros(
            3, slots, dtype=torch.long, device=device
        )
        self._active, self._generating = torch.zeros(2, slots, dtype=torch.bool, device=device)
        self._logprobs = torch.zeros(slots, dtype=torch.float64, device=device)

    def run(self) -> None:
        """Run steps until every row has ended."""
        while True:
            # Rows are admitted once several slots are idle, so that many prompts are read, and many
            # labels are scored, in one pass.
            slots, running = len(self._ids), self._num_running
            several = max(1, int(slots * self._idle_fraction))
            idle = slots - running if self._waiting else len(self._to_be_read)
            if not running or idle >= several:
                self._read_and_score()
                self._admit_rows()
                if not self._num_running:
                    return
            if not self._waiting and len(self._rows) <= slots * self._compact_below:
                self._compact()
            self._step()

    @property
    def _num_running(self) -> int:
        return len(self._rows) - len(self._to_be_read)

    # Rows join and leave -------------------------------------------------------------------------

    def _admit_rows(self) -> None:
        free = [slot for slot in range(len(self._ids)) if slot not in self._rows]
        admitted = {slot: self._waiting.popleft() for slot in free[: len(self._waiting)]}
        if not admitted:
            return
        self._rows |= admitted
        prompts = [tuple(row.prompt[:-1]) for row in admitted.values()]
        index = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        source = self._ids.new_tensor([index[prompt] for prompt in prompts])
        self._cache.insert(list(admitted), source, *self._prompts.read(list(index)))
        for slot, row in admitted.items():
            self._ids[slot], self._positions[slot] = row.prompt[-1], len(row.prompt) - 1
            self._logprobs[slot] = 0
            self._active[slot], self._generating[slot] = True, row.request is not None
            if row.request:
                self._sampler.assign(slot, row.request)
                self._max_tokens[slot] = row.request.max_tokens
            else:
                self._last_tokens[slot] = row.prompt[-1]

    def _free(self, slot: int) -> None:
        del self._rows[slot]
        self._active[slot] = self._generating[slot] = False
        self._cache.free(slot)

    def _compact(self) -> None:
        taken = sorted(self._rows)
        index = self._ids.new_tensor(taken)
        self._cache.select(taken)
        self._sampler.select(index)
        for name in ("_ids", "_positions", "_active", "_generating", "_max_tokens", "_logprobs"):
            setattr(self, name, getattr(self, name)[index])
        new_slot = {slot: i for i, slot in enumerate(taken)}
        for name in ("_rows", "_last_tokens", "_to_be_read"):
            by_slot = getattr(self, name)
            setattr(self, name, {new_slot[slot]: value for slot, value in by_slot.items()})

    # One step ------------------------------------------------------------------------------------

    def _step(self) -> None:
        """Feed one token to every row; draw the next one, or score the labels."""
        for slot, token in self._last_tokens.items():
            self._ids[slot] = token
        logits = self._forward(list(self._last_tokens))
        totals = logits.logsumexp(-1)
        for slot in self._last_tokens:
            self._score_first_tokens(slot, logits[slot], totals[slot])
        self._last_tokens.clear()
        if not self._num_running:
            return
        self._ids = self._sampler.draw(logits, self._generating)
        logprobs = logits.gather(-1, self._ids[:, None])[:, 0] - totals
        self._logprobs += (logprobs * self._generating).double()
        at_limit = self._sampler.counts >= self._max_tokens
        check = self._generating & (self._may_end[self._ids] | at_limit)
        for slot in check.nonzero()[:, 0].tolist():
            self._check_ending(slot)

    def _forward(self, scored: Sequence[int]) -> torch.Tensor:
        """Return the logits after each row's token, (slots, vocabulary), float32.

        Args:
            scored: slots whose labels are scored; see `Decoder.run`.
        """
        mask = self._cache.open_column()
        logits = self._decoder.run(
            self._ids[:, None], mask, self._positions[:, None], self._cache.for_model, scored
        )
        self._cache.close_column(self._active)
        self._positions += self._active
        return logits[:, -1]

    def _check_ending(self, slot: int) -> None:
        row, count = self._rows[slot], int(self._sampler.counts[slot])
        assert row.request
        generated = self._sampler.tokens[slot, :count].tolist()
        ending = self._tokenizer.find_ending(
            row.prompt, row.request.prompt, generated, row.request.label_prefix
        )
        if not ending and count < row.request.max_tokens:
            return
        row.generated, row.ending, row.logprob = generated, ending, float(self._logprobs[slot])
        context = ending.context if ending else []
        longest = max(map(len, row.choices), default=0)
        if not row.choices or not context or len(context) + longest > self._decoder.context_length:
            self._free(slot)
            return
        self._generating[slot] = False
        in_cache = [*row.prompt, *generated[:-1]]
        # At least one token is read again, for its logits.
        kept = min(common_prefix_length(in_cache, context), len(context) - 1)
        if kept < len(in_cache):
            self._cache.truncate(slot, kept)
            self._positions[slot] = kept
        if kept == len(context) - 1:
            self._last_tokens[slot] = context[-1]
        else:
            row.scores = [0.0] * len(row.choices)
            self._to_be_read[slot] = context[kept:]
            self._active[slot] = False

    # Labels --------------------------------------------------------------------------------------

    def _score_first_tokens(self, slot: int, logits: torch.Tensor, total: torch.Tensor) -> None:
        row = self._rows[slot]
        row.scores = (logits[[choice[0] for choice in row.choices]] - total).double().tolist()
        if all(len(choice) == 1 for choice in row.choices):
            self._free(slot)
        else:
            self._to_be_read[slot] = []
            self._active[slot] = False

    def _read_and_score(self) -> None:
        """Read what leads to the choices of all rows that wait for it, and add up their scores."""
        # Choices that the same tokens lead to, such as those of one token, by slot and tokens.
        choices_after: dict[tuple[int, Tokens], list[int]] = {}
        for slot, tokens in self._to_be_read.items():
            for number, choice in enumerate(self._rows[slot].choices):
                if before := (*tokens, *choice[:-1]):
                    choices_after.setdefault((slot, before), []).append(number)
        sequences = list(choices_after)
        for start in range(0, len(sequences), len(self._ids)):
            part = sequences[start : start + len(self._ids)]
            for (slot, before), logprobs in zip(part, self._read(part), strict=True):
                row = self._rows[slot]
                assert row.scores
                for number in choices_after[slot, before]:
                    choice = row.choices[number]
                    predicted = choice if self._to_be_read[slot] else choice[1:]
                    columns = range(-len(predicted), 0)
                    row.scores[number] += float(logprobs[columns, predicted].double().sum())
        for slot in self._to_be_read:
            self._free(slot)
        self._to_be_read.clear()

    def _read(self, sequences: Sequence[tuple[int, Tokens]]) -> torch.Tensor:
        """Return log-probabilities after the last tokens, (sequences, tokens, vocabulary).

        Args:
            sequences: of slots and the tokens that are read after those in the cache.
        """
        slots = torch.tensor([slot for slot, _ in sequences], device=self._device)
        # Padded on the left: the logits that are needed are those of the last columns.
        own = [torch.tensor(tokens) for _, tokens in sequences]
        ids = pad_sequence(own, True, self._tokenizer.pad, "left").to(self._device)
        own_mask = left_padding_mask([len(tokens) for tokens in own], self._device)
        past, mask = self._cache.copy_rows(slots)
        mask = torch.cat([mask, own_mask], 1)
        positions = self._positions[slots, None] + (own_mask.cumsum(1) - 1).clamp(min=0)
        needed = max(len(choice) for slot, _ in sequences for choice in self._rows[slot].choices)
        needed = min(needed, ids.shape[1])
        logits, _ = self._decoder.forward(ids, mask, positions, past, slice(None), needed)
        return logits.log_softmax(-1)
