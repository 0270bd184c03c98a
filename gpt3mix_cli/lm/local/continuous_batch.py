"""Continuous batching: generates many texts at once and scores their labels from the same cache.

A row that has ended frees its slot at once, and a waiting row takes it. Nothing is read twice: the
prefix that all prompts share and equal prompts are read once; a text that has ended is continued
with its label prefix, and the next step's logits are its label scores.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..port import Request
from .decoder import Decoder, PromptReader, common_prefix_length
from .kv_cache import KVCache
from .sampling import Sampler
from .tokenization import Ending

if TYPE_CHECKING:
    import torch

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

    def reset(self) -> None:
        """Drop the results, so that the row can be run again."""
        self.generated, self.logprob, self.ending, self.scores = [], 0.0, None, None


def run_rows(decoder: Decoder, rows: Sequence[Row], max_rows: int) -> None:
    """Generate and score the rows, at most `max_rows` at a time; fills in their results."""
    import torch

    with torch.inference_mode():
        ContinuousBatch(decoder, rows, min(max_rows, len(rows))).run()


class ContinuousBatch:
    """The rows in progress, each in a slot, and those that wait for one.

    A row goes through three states: it generates; it is fed the tokens in `forced_tokens`, which
    lead to the label; it waits in `awaiting_multi_token_score` if a choice has several tokens.
    """

    def __init__(self, decoder: Decoder, rows: Sequence[Row], slots: int) -> None:
        """Prepare to run the rows, at most `slots` of them at a time."""
        import torch

        self._decoder, self._tokenizer = decoder, decoder.tokenizer
        # Rows of similar length are read together. The longest come first, so that the others find
        # enough columns before the newest one.
        self._waiting = deque(sorted(rows, key=lambda row: -len(row.prompt)))
        # The first step feeds a prompt's last token, since it needs the logits.
        self._prompts = PromptReader(decoder, [row.prompt[:-1] for row in rows])
        device = self._device = decoder.model.device
        max_tokens = max([row.request.max_tokens for row in rows if row.request] or [1])
        self._sampler = Sampler(slots, max_tokens, device)
        self._cache = KVCache(
            decoder.model.config.get_text_config().num_hidden_layers,
            slots,
            len(self._waiting[0].prompt) + max_tokens + SPARE_COLUMNS,
            device,
        )
        self._rows: list[Row | None] = [None] * slots
        self._forced_tokens: dict[int, deque[int]] = {}  # by slot
        # By slot: log-probabilities of the choices' first tokens.
        self._awaiting_multi_token_score: dict[int, list[float]] = {}
        self._label_prefixes = {row.request.label_prefix for row in rows if row.request}
        self._may_end: torch.Tensor | None = None
        # Of each slot: next token and its position; whether the slot's row is fed tokens, and
        # generates them; its limit, and the log-probability of its tokens.
        self._ids = torch.zeros(slots, dtype=torch.long, device=device)
        self._positions = torch.zeros(slots, dtype=torch.long, device=device)
        self._active = torch.zeros(slots, dtype=torch.bool, device=device)
        self._generating = torch.zeros(slots, dtype=torch.bool, device=device)
        self._max_tokens = torch.zeros(slots, dtype=torch.long, device=device)
        self._logprobs = torch.zeros(slots, dtype=torch.float64, device=device)

    def run(self) -> None:
        """Run steps until every row has ended."""
        while True:
            # Rows are admitted once a quarter of the slots is idle, so that many prompts are read,
            # and many labels are scored, in one pass.
            idle = len(self._rows) - self._num_running
            more = self._waiting or self._awaiting_multi_token_score
            if not self._num_running or (more and idle >= max(1, len(self._rows) // 4)):
                self._score_multi_token_choices()
                self._admit_rows()
                if not self._num_running:
                    return
            if not self._waiting and self._num_taken <= len(self._rows) // 2:
                self._compact()
            self._step()

    @property
    def _num_taken(self) -> int:
        return sum(row is not None for row in self._rows)

    @property
    def _num_running(self) -> int:
        return self._num_taken - len(self._awaiting_multi_token_score)

    def _row(self, slot: int) -> Row:
        row = self._rows[slot]
        assert row
        return row

    # Rows join and leave -------------------------------------------------------------------------

    def _admit_rows(self) -> None:
        """Read the prompts of waiting rows into the free slots."""
        slots = [slot for slot, row in enumerate(self._rows) if row is None][: len(self._waiting)]
        if not slots:
            return
        rows = [self._waiting.popleft() for _ in slots]
        prompts = [tuple(row.prompt[:-1]) for row in rows]
        index = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
        source = self._ids.new_tensor([index[prompt] for prompt in prompts])
        self._cache.insert(slots, source, *self._prompts.read(list(index)))
        for slot, row in zip(slots, rows, strict=True):
            self._rows[slot] = row
            self._ids[slot], self._positions[slot] = row.prompt[-1], len(row.prompt) - 1
            self._logprobs[slot] = 0
            self._active[slot], self._generating[slot] = True, row.request is not None
            if row.request:
                self._sampler.assign(slot, row.request)
                self._max_tokens[slot] = row.request.max_tokens
            else:
                self._forced_tokens[slot] = deque([row.prompt[-1]])

    def _free(self, slot: int) -> None:
        self._rows[slot] = None
        self._active[slot] = self._generating[slot] = False
        self._cache.free(slot)

    def _compact(self) -> None:
        """Drop the free slots."""
        taken = [slot for slot, row in enumerate(self._rows) if row]
        index = self._ids.new_tensor(taken)
        self._cache.select(taken)
        self._sampler.select(index)
        for name in ("_ids", "_positions", "_active", "_generating", "_max_tokens", "_logprobs"):
            setattr(self, name, getattr(self, name)[index])
        self._rows = [self._rows[slot] for slot in taken]
        new_slot = {slot: i for i, slot in enumerate(taken)}
        self._forced_tokens = {new_slot[slot]: ids for slot, ids in self._forced_tokens.items()}
        self._awaiting_multi_token_score = {
            new_slot[slot]: first for slot, first in self._awaiting_multi_token_score.items()
        }

    # One step ------------------------------------------------------------------------------------

    def _step(self) -> None:
        """Feed one token to every row; draw the next one, or score the labels."""
        for slot, tokens in self._forced_tokens.items():
            self._ids[slot] = tokens.popleft()
        logits = self._forward()
        totals = logits.logsumexp(-1)
        for slot in [slot for slot, tokens in self._forced_tokens.items() if not tokens]:
            del self._forced_tokens[slot]
            self._score_first_tokens(slot, logits[slot], totals[slot])
        if self._num_running == len(self._forced_tokens):
            return
        self._ids = self._sampler.draw(logits, self._generating)
        logprobs = logits.gather(-1, self._ids[:, None])[:, 0] - totals
        self._logprobs += (logprobs * self._generating).double()
        at_limit = self._sampler.counts >= self._max_tokens
        if self._may_end is None:
            mask = self._tokenizer.may_end_text(self._label_prefixes, logits.shape[-1])
            self._may_end = mask.to(self._device)
        check = self._generating & (self._may_end[self._ids] | at_limit)
        for slot in check.nonzero()[:, 0].tolist():
            self._check_ending(slot)

    def _forward(self) -> "torch.Tensor":
        """Return the logits after each row's token, (slots, vocabulary), float32."""
        mask = self._cache.open_column()
        output = self._decoder.model(
            input_ids=self._ids[:, None],
            attention_mask=self._decoder.attention_mask(mask, self._positions[:, None]),
            position_ids=self._positions[:, None],
            past_key_values=self._cache.for_model(),
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache.close_column(self._active)
        self._positions += self._active
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def _check_ending(self, slot: int) -> None:
        """Look for the end of a row's text, and feed what leads from there to its label."""
        row, count = self._row(slot), int(self._sampler.counts[slot])
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

    def _score_first_tokens(self, slot: int, logits: "torch.Tensor", total: "torch.Tensor") -> None:
        """Score each choice's first token; the row waits if a choice has more of them."""
        row = self._row(slot)
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
            for choice in self._row(slot).choices
            if len(choice) > 1
        ]
        rest: list[float] = []
        for start in range(0, len(pairs), len(self._rows)):
            rest += self._score_remaining_tokens(pairs[start : start + len(self._rows)])
        remaining = iter(rest)
        for slot, first in self._awaiting_multi_token_score.items():
            row = self._row(slot)
            row.scores = [
                score + (next(remaining) if len(choice) > 1 else 0.0)
                for score, choice in zip(first, row.choices, strict=True)
            ]
            self._free(slot)
        self._awaiting_multi_token_score.clear()

    def _score_remaining_tokens(self, pairs: "Sequence[tuple[int, list[int]]]") -> list[float]:
        """Return, for pairs of slot and choice, the log-probability of all tokens but the first."""
        import torch

        slots = torch.tensor([slot for slot, _ in pairs], device=self._device)
        longest = max(len(choice) for _, choice in pairs) - 1
        # The last token is predicted, never read; no token attends to the padding on the right.
        ids = torch.tensor(
            [
                choice[:-1] + [self._tokenizer.pad] * (longest + 1 - len(choice))
                for _, choice in pairs
            ],
            device=self._device,
        )
        past, mask = self._cache.copy_rows(slots)
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
        # The padding of a short choice may lie beyond the context, which has no position for it.
        offsets = torch.arange(longest, device=self._device)
        positions = (self._positions[slots, None] + offsets).clamp(
            max=self._decoder.context_length - 1
        )
        logits, _ = self._decoder.forward(ids, mask, positions, past, logits_to_keep=longest)
        logprobs = logits.float().log_softmax(-1)
        scores = []
        for i, (_, choice) in enumerate(pairs):
            targets = torch.tensor(choice[1:], device=self._device)
            chosen = logprobs[i, : len(targets)].gather(-1, targets[:, None])
            scores.append(float(chosen.double().sum()))
        return scores
