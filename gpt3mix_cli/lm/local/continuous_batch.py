"""Continuous batching: generates many texts at once and scores their labels from the same cache.

A row that has ended frees its slot at once, and a waiting row takes it. Nothing is read twice:
prefixes that prompts share are read once (`prompt_reader`); a text that has ended is continued with
its label prefix, and the next step's logits are its label scores.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.utils.rnn import pad_sequence

from ..port import Request
from .decoder import Decoder
from .kv_cache import KVCache
from .prompt_reader import PromptReader, common_prefix_length
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

    A row goes through three states: it generates; it is fed the tokens in `forced_tokens`, which
    lead to the label; it waits in `awaiting_multi_token_score` if a choice has several tokens.

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
        self._forced_tokens: dict[int, deque[int]] = {}  # by slot
        # By slot: log-probabilities of the choices' first tokens.
        self._awaiting_multi_token_score: dict[int, list[float]] = {}
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
            more = self._waiting or self._awaiting_multi_token_score
            if not running or (
                more and slots - running >= max(1, int(slots * self._idle_fraction))
            ):
                self._score_multi_token_choices()
                self._admit_rows()
                if not self._num_running:
                    return
            if not self._waiting and len(self._rows) <= slots * self._compact_below:
                self._compact()
            self._step()

    @property
    def _num_running(self) -> int:
        return len(self._rows) - len(self._awaiting_multi_token_score)

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
                self._forced_tokens[slot] = deque([row.prompt[-1]])

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
        for name in ("_rows", "_forced_tokens", "_awaiting_multi_token_score"):
            by_slot = getattr(self, name)
            setattr(self, name, {new_slot[slot]: value for slot, value in by_slot.items()})

    # One step ------------------------------------------------------------------------------------

    def _step(self) -> None:
        """Feed one token to every row; draw the next one, or score the labels."""
        for slot, tokens in self._forced_tokens.items():
            self._ids[slot] = tokens.popleft()
        scored = [slot for slot, tokens in self._forced_tokens.items() if not tokens]
        logits = self._forward(scored)
        totals = logits.logsumexp(-1)
        for slot in scored:
            del self._forced_tokens[slot]
            self._score_first_tokens(slot, logits[slot], totals[slot])
        if self._num_running == len(self._forced_tokens):
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
        self._forced_tokens[slot] = deque(context[kept:])

    # Labels --------------------------------------------------------------------------------------

    def _score_first_tokens(self, slot: int, logits: torch.Tensor, total: torch.Tensor) -> None:
        row = self._rows[slot]
        scores = (logits[[choice[0] for choice in row.choices]] - total).double().tolist()
        if all(len(choice) == 1 for choice in row.choices):
            row.scores = scores
            self._free(slot)
        else:
            self._awaiting_multi_token_score[slot] = scores
            self._active[slot] = False

    def _score_multi_token_choices(self) -> None:
        """Add the scores of the choices' other tokens, for all waiting rows together."""
        pairs = [
            (slot, choice)
            for slot in self._awaiting_multi_token_score
            for choice in self._rows[slot].choices
            if len(choice) > 1
        ]
        rest: list[float] = []
        for start in range(0, len(pairs), len(self._ids)):
            rest += self._score_remaining_tokens(pairs[start : start + len(self._ids)])
        remaining = iter(rest)
        for slot, first in self._awaiting_multi_token_score.items():
            row = self._rows[slot]
            row.scores = [
                score + (next(remaining) if len(choice) > 1 else 0.0)
                for score, choice in zip(first, row.choices, strict=True)
            ]
            self._free(slot)
        self._awaiting_multi_token_score.clear()

    def _score_remaining_tokens(self, pairs: Sequence[tuple[int, list[int]]]) -> list[float]:
        """Return, for pairs of slot and choice, the log-probability of all tokens but the first."""
        slots = torch.tensor([slot for slot, _ in pairs], device=self._device)
        # The last token is predicted, never read; no token attends to the padding on the right.
        tokens = [torch.tensor(choice[:-1]) for _, choice in pairs]
        ids = pad_sequence(tokens, True, self._tokenizer.pad).to(self._device)
        past, mask = self._cache.copy_rows(slots)
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
        # The padding of a short choice may lie beyond the context, which has no position for it.
        offsets = torch.arange(ids.shape[1], device=self._device)
        positions = self._positions[slots, None] + offsets
        positions = positions.clamp(max=self._decoder.context_length - 1)
        logits, _ = self._decoder.forward(ids, mask, positions, past, slice(None), len(offsets))
        logprobs = logits.log_softmax(-1)
        return [
            float(logprobs[i, offsets[: len(choice) - 1], choice[1:]].double().sum())
            for i, (_, choice) in enumerate(pairs)
        ]
