"""GPT3Mix (section 3): select k examples, render the prompt, let the LM write a row.

Soft labels (equation 1) are the LM's probabilities of the labels after the text that it generated.
Hard labels, the other column of Table 5, are those that a beam search over the whole line wrote. A
prompt that is longer than the LM's context loses examples from its front, down to one.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from ..lm import LM, Request, next_block_start
from ..method.labels import CONTENT_FREE
from ..method.prompt import PromptFitter, label_choices, label_prefix, prompt_inputs, render_prompt
from ..method.selection import ExampleSelector, similarity_fingerprint
from ..records import Example, hash_rows
from ..settings import AugmentSettings, Task, derived_seed, generator
from .row_builder import Answer, Attempt, Row, RowBuilder

CACHE_VERSION = 3  # raise it if the same settings give other rows
# Settings that decide how many rows are made and which are kept, but not what an attempt yields.
QUOTA_SETTINGS = {"ratio", "synthetic_sets", "attempts", "filter"}
# Settings that have no effect with a kind of label.
UNUSED_SETTINGS = {
    "soft": {"beams"},
    "hard": {"top_p", "frequency_penalty", "label_temperature", "contextual_calibration"},
}
ENDPOINT_COUNTS = ("label_tokens", "requests")  # of `usage`; absent for a local LM
# Answers calibrated together, with an LM that answers each request on its own.
CALIBRATION_BATCH_SIZE = 256


class GPT3Mix:
    """The generator; see `protocol.RowGenerator`. With hard labels an attempt yields `beams` rows.

    Attributes:
        lm_info: what is known of the LM before it is asked.
    """

    edits_parents: Literal[False] = False

    def __init__(self, settings: AugmentSettings, task: Task, lm: LM, name: str) -> None:
        """Keep the settings, the task and the LM.

        Args:
            settings: of `augment`.
            task: the classes, and the words of the prompt.
            lm: the language model.
            name: the `method` of the rows.

        Raises:
            UserError: if `augment.similarity` names an encoder that is not installed.
        """
        self._settings, self._task, self._lm = settings, task, lm
        self._usage: Counter[str] = Counter(
            prompt_tokens=0,
            completion_tokens=0,
            label_tokens=0,
            requests=0,
            shortened=0,
            retokenised=0,
        )
        self._usd: float | None = 0.0
        self._selector: tuple[str, ExampleSelector] | None = None  # hash of its examples, selector
        self._fitter = PromptFitter(task, lm.info.count_tokens)
        self._builder = RowBuilder(settings, task, name, lm.info.context_length)
        self._calibrates = settings.contextual_calibration and settings.labels == "soft"
        self.lm_info = lm.info
        self.block_size = lm.info.block_size
        self.rows_per_attempt = settings.beams if settings.labels == "hard" else 1
        uses_similarity = settings.selection in ("nearest", "furthest")
        self.about: dict[str, Any] = {
            "method": name,
            "kind": "gpt3mix",
            **settings.model_dump(exclude=QUOTA_SETTINGS | UNUSED_SETTINGS[settings.labels]),
            **prompt_inputs(task, lm.info),
            "format": CACHE_VERSION,
            "similarity": similarity_fingerprint(settings.similarity) if uses_similarity else None,
        }

    def generate(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[Row]:
        """Yield the rows and rejects of attempts first..first+count, as the LM answers them."""
        attempts: dict[int, Attempt] = {}

        def requests() -> Iterator[Request]:
            for attempt in self.attempts(examples, first, count, seed):
                attempts[attempt.request.number] = attempt
                yield attempt.request

        for answer in self._answers(requests(), attempts):
            del attempts[answer.completion.number]
            self._count(answer)
            yield from self._builder.rows(answer)

    def attempts(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[Attempt]:
        """Yield the attempts first..first+count without asking the LM."""
        selector = self._selector_of(examples)
        for number in range(first, first + count):
            # The purpose string "choose" decides which examples are drawn: never change it.
            selected = selector.select(self._settings.k, generator(seed, "choose", number))
            parents = self._fitter.fit(selected, self._max_prompt_tokens) or selected[-1:]
            request = self._request(number, parents, seed)
            yield Attempt(request, parents, shortened=len(parents) < len(selected))

    def usage(self) -> Mapping[str, int]:
        """Return the tokens and counts of all answers so far, those from the journal included.

        `shortened`: prompts that lost examples to the context's length. `retokenised`: texts that
        the tokenizer splits differently when they are read than when they were generated. For an
        endpoint also `requests` and `label_tokens`, of requests for a label alone.
        """
        return {
            name: count
            for name, count in self._usage.items()
            if count or name not in ENDPOINT_COUNTS
        }

    def usd(self) -> float | None:
        """Return the cost of all answers so far at the user's prices; None if it is unknown."""
        return self._usd if self._usage["requests"] else None

    def describe_endpoint(self) -> str:
        """Return how the endpoint was asked; empty for a local LM."""
        return self._lm.describe() if self._usage["requests"] else ""

    def _count(self, answer: Answer) -> None:
        completion = answer.completion
        self._usage.update(
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            label_tokens=completion.label_tokens,
            requests=completion.requests,
            shortened=int(answer.attempt.shortened),
            retokenised=int(completion.retokenised),
        )
        if self._usd is not None:
            self._usd = None if completion.usd is None else self._usd + completion.usd

    # Requests ------------------------------------------------------------------------------------

    def _selector_of(self, examples: Sequence[Example]) -> ExampleSelector:
        """Return the selector of these examples; it keeps its vectors between calls."""
        key = hash_rows(examples)
        if self._selector is None or self._selector[0] != key:
            strategy, similarity = self._settings.selection, self._settings.similarity
            self._selector = key, ExampleSelector(examples, strategy, similarity)
        return self._selector[1]

    def _request(self, number: int, parents: Sequence[Example], seed: int) -> Request:
        settings, task = self._settings, self._task
        prompt = render_prompt(task, parents)
        if settings.labels == "hard":
            return Request(
                number=number,
                prompt=prompt,
                # At temperature 0 nothing is drawn: a seed must not make it another request.
                seed=derived_seed(seed, "write", number) if settings.temperature else 0,
                max_tokens=settings.max_tokens + self._label_tokens,
                temperature=settings.temperature,
                beams=settings.beams,
            )
        return Request(
            number=number,
            prompt=prompt,
            seed=derived_seed(seed, "write", number),
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            frequency_penalty=settings.frequency_penalty,
            label_prefix=label_prefix(task),
            choices=label_choices(task),
        )

    @functools.cached_property
    def _label_tokens(self) -> int:
        """The most tokens between the label prefix and the end of the line.

        They are added to `max_tokens` of a whole line, so that `max_tokens` limits the text and its
        label prefix with both kinds of label.
        """
        ends = [f" {token.capitalize()})\n" for token in self._task.labels.values()]
        return max(map(self._fitter.count_line, ends))

    @functools.cached_property
    def _max_prompt_tokens(self) -> int:
        # A label prefix that has to be appended, and what follows it, need room too.
        prefix_tokens = self._fitter.count_line(f".{label_prefix(self._task)}")
        reserved = self._settings.max_tokens + prefix_tokens + self._label_tokens
        return self._lm.info.context_length - reserved

    # Answers -------------------------------------------------------------------------------------

    def _answers(
        self, requests: Iterable[Request], attempts: Mapping[int, Attempt]
    ) -> Iterator[Answer]:
        completions = self._lm.complete(requests)
        if not self._calibrates:
            for completion in completions:
                yield Answer(attempts[completion.number], completion)
            return
        # In the LM's own blocks: the last digits of scores depend on what is scored together, and
        # that must not depend on how many rows are wanted.
        size = self.block_size if self.block_size > 1 else CALIBRATION_BATCH_SIZE
        blocks = itertools.groupby(completions, lambda item: next_block_start(item.number, size))
        for _, block in blocks:
            yield from self._calibrated(
                [Answer(attempts[completion.number], completion) for completion in block]
            )

    def _calibrated(self, answers: Sequence[Answer]) -> Iterator[Answer]:
        """Yield the answers with the labels' log-probabilities after each content-free text."""
        prompts = []
        for answer in answers:
            if answer.completion.scores:
                base = answer.attempt.request.prompt
                prompts += [self._content_free_prompt(base, text) for text in CONTENT_FREE]
        scores = iter(self._lm.score(prompts, label_choices(self._task)) if prompts else ())
        for answer in answers:
            content_free: list[tuple[float, ...]] = []
            if answer.completion.scores:
                own = itertools.islice(scores, len(CONTENT_FREE))
                content_free = [score.logprobs for score in own]
            yield Answer(answer.attempt, answer.completion, content_free)

    def _content_free_prompt(self, prompt: str, text: str) -> str:
        return f"{prompt}{f' {text}' if text else ''}{label_prefix(self._task)}"
