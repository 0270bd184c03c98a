"""GPT3Mix (section 3): select k examples, render the prompt, let the LM write a row.

Soft labels (equation 1) are the LM's probabilities of the labels after the text that it generated.
Hard labels, the other column of Table 5, are those that a beam search over the whole line wrote. A
prompt that is longer than the LM's context loses examples from its front, down to one.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..lm import LM, Completion, Hypothesis, Request, next_block_start
from ..method.labels import CONTENT_FREE, hard_label, soft_label
from ..method.parsing import parse_line
from ..method.prompt import (
    PromptFitter,
    label_choices,
    label_prefix,
    prompt_inputs,
    render_label_prompt,
    render_prompt,
)
from ..method.selection import ExampleSelector, similarity_fingerprint
from ..records import Augmented, Example, Reject, hash_rows
from ..settings import AugmentSettings, Task, derived_seed, generator
from .protocol import RowGenerator

CACHE_VERSION = 3  # raise it if the same settings give other rows
# Settings that decide how many rows are made and which are kept, but not what an attempt yields.
QUOTA_SETTINGS = {"ratio", "synthetic_sets", "attempts", "filter"}
# Settings that have no effect with a kind of label.
UNUSED_SETTINGS = {
    "soft": {"beams"},
    "hard": {"top_p", "min_p", "frequency_penalty", "label_temperature", "contextual_calibration"},
}
ENDPOINT_COUNTS = ("label_tokens", "requests")  # of `usage`; absent for a local LM
# Answers calibrated together, with an LM that answers each request on its own.
CALIBRATION_BATCH_SIZE = 256

Row = Augmented | Reject


@dataclass(frozen=True)
class Attempt:
    """A request to the LM, and the examples in its prompt.

    Attributes:
        request: what the LM is asked.
        parents: the examples, in prompt order.
    """

    request: Request
    parents: Sequence[Example]


@dataclass(frozen=True)
class Answer:
    """The LM's answer to an attempt.

    Attributes:
        attempt: the attempt.
        completion: what the LM generated.
        content_free: log-probabilities of the labels after each content-free text, for contextual
            calibration.
    """

    attempt: Attempt
    completion: Completion
    content_free: Sequence[Sequence[float]] = ()


class GPT3Mix(RowGenerator):
    """The generator; see `protocol.RowGenerator`. With hard labels an attempt yields `beams` rows.

    Args:
        settings: of `augment`.
        task: the classes, and the words of the prompt.
        lm: the language model.
        name: the `method` of the rows.

    Raises:
        UserError: if `augment.similarity` names an encoder that is not installed.

    Attributes:
        lm_info: what is known of the LM before it is asked.
    """

    def __init__(self, settings: AugmentSettings, task: Task, lm: LM, name: str) -> None:
        self._settings, self._task, self._lm, self._name = settings, task, lm, name
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
        self.lm_info, self.block_size = lm.info, lm.info.block_size
        self.rows_per_attempt = settings.beams if settings.labels == "hard" else 1
        uses_similarity = settings.selection in ("nearest", "furthest")
        self.about = {
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
            self._count(answer)
            yield from self._rows(answer)

    def attempts(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[Attempt]:
        """Yield the attempts first..first+count without asking the LM."""
        selector = self._selector_of(examples)
        for number in range(first, first + count):
            # The purpose string "choose" decides which examples are drawn: never change it.
            selected = selector.select(self._settings.k, generator(seed, "choose", number))
            parents = self._fitter.fit(selected, self._max_prompt_tokens) or selected[-1:]
            yield Attempt(self._request(number, parents, seed), parents)

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

    def describe_lm(self) -> str:
        """Return how the LM was asked and how precise its labels are; empty before any answer."""
        return self._lm.describe() if self._usage["prompt_tokens"] else ""

    def _count(self, answer: Answer) -> None:
        completion, usd = answer.completion, answer.completion.usd
        self._usage.update(
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            label_tokens=completion.label_tokens,
            requests=completion.requests,
            shortened=int(len(answer.attempt.parents) < self._settings.k),
            retokenised=int(completion.retokenised),
        )
        self._usd = None if self._usd is None or usd is None else self._usd + usd

    # Requests ------------------------------------------------------------------------------------

    def _selector_of(self, examples: Sequence[Example]) -> ExampleSelector:
        key, settings = hash_rows(examples), self._settings
        if self._selector is None or self._selector[0] != key:
            self._selector = (
                key,
                ExampleSelector(examples, settings.selection, settings.similarity),
            )
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
            min_p=settings.min_p,
            frequency_penalty=settings.frequency_penalty,
            label_prefix=label_prefix(task),
            choices=label_choices(task),
        )

    @functools.cached_property
    def _label_tokens(self) -> int:
        # The most tokens between the label prefix and the end of the line. They are added to
        # `max_tokens` of a whole line, so that it limits the text and its label prefix with both
        # kinds of label.
        return max(
            self._fitter.count_line(f" {token.capitalize()})\n")
            for token in self._task.labels.values()
        )

    @functools.cached_property
    def _max_prompt_tokens(self) -> int:
        # A label prefix that has to be appended, and what follows it, need room too.
        reserved = self._fitter.count_line(f".{label_prefix(self._task)}") + self._label_tokens
        return self._lm.info.context_length - self._settings.max_tokens - reserved

    # Answers -------------------------------------------------------------------------------------

    def _answers(
        self, requests: Iterable[Request], attempts: dict[int, Attempt]
    ) -> Iterator[Answer]:
        completions = self._lm.complete(requests)
        answers = (Answer(attempts.pop(item.number), item) for item in completions)
        if self._settings.labels == "hard" or not self._settings.contextual_calibration:
            return answers
        # In the LM's own blocks: the last digits of scores depend on what is scored together, and
        # that must not depend on how many rows are wanted.
        size = self.block_size if self.block_size > 1 else CALIBRATION_BATCH_SIZE
        blocks = itertools.groupby(
            answers, lambda answer: next_block_start(answer.completion.number, size)
        )
        return itertools.chain.from_iterable(self._calibrated(list(block)) for _, block in blocks)

    def _calibrated(self, answers: Sequence[Answer]) -> Iterator[Answer]:
        prompts = [
            render_label_prompt(self._task, answer.attempt.parents, text)
            for answer in answers
            if answer.completion.scores
            for text in CONTENT_FREE
        ]
        scores = iter(self._lm.score(prompts, label_choices(self._task)) if prompts else ())
        for answer in answers:
            own = itertools.islice(scores, len(CONTENT_FREE) if answer.completion.scores else 0)
            yield replace(answer, content_free=[score.logprobs for score in own])

    # Rows ----------------------------------------------------------------------------------------

    def _rows(self, answer: Answer) -> Iterator[Row]:
        completion, max_tokens = answer.completion, self._settings.max_tokens
        if completion.finish == "too_long":
            detail = (
                f"{completion.prompt_tokens} tokens and max_tokens {max_tokens} "
                f"do not fit {self.lm_info.context_length}"
            )
            yield self._reject(answer, "", "prompt_too_long", detail)
        elif self._settings.labels == "soft":
            yield self._soft_row(answer)
        elif completion.hypotheses:
            for rank, hypothesis in enumerate(completion.hypotheses):
                yield self._hard_row(answer, hypothesis, rank)
        else:
            yield self._reject(
                answer, completion.text, "unfinished", "the beam search found no line"
            )

    def _soft_row(self, answer: Answer) -> Row:
        completion, scores, settings = answer.completion, answer.completion.scores, self._settings
        reject = functools.partial(self._reject, answer, completion.text)
        if completion.finish == "length":
            return reject("unfinished", f"no end within {settings.max_tokens} tokens")
        if scores is None:
            return reject("unscored", "the endpoint gives no log-probability of any label")
        line = parse_line(completion.text, self._task)
        if line.rest:
            # The labels were scored after the whole line, which is another text.
            return reject("no_label", f"went on with '{line.rest}'")
        if not line.text:
            return reject("empty")
        classes = self._task.classes
        probs, mass = soft_label(
            classes, scores.logprobs, settings.label_temperature, answer.content_free
        )
        return self._row(
            answer,
            line.text,
            probs,
            label_source=scores.source,
            label_mass=round(mass, 6) if scores.has_mass else None,
            bounded=[classes[index] for index in scores.bounded],
        )

    def _hard_row(self, answer: Answer, hypothesis: Hypothesis, rank: int) -> Row:
        reject = functools.partial(self._reject, answer, hypothesis.text)
        line, limit = parse_line(hypothesis.text, self._task), self._settings.max_tokens
        if not hypothesis.finished:
            return reject("unfinished", f"no end within {limit} tokens and a label")
        if not line.text:
            return reject("empty")
        if line.written_label is None:
            return reject("no_label")
        if line.label is None:
            return reject("label_not_in_set", line.written_label)
        return self._row(
            answer,
            line.text,
            hard_label(self._task.classes, line.label),
            rank,
            label_source="hard",
            label_mass=None,
        )

    def _row(
        self, answer: Answer, text: str, probs: dict[str, float], rank: int = 0, **label: Any
    ) -> Augmented:
        number = answer.completion.number
        return Augmented(
            id=f"{self._name}-{number:05d}{f'.{rank}' if rank else ''}",
            text=text,
            label=max(probs, key=lambda name: probs[name]),
            probs=probs,
            method=self._name,
            parents=[parent.id for parent in answer.attempt.parents],
            request=number,
            perplexity=_perplexity(answer.completion),
            **label,
        )

    def _reject(self, answer: Answer, text: str, reason: str, detail: str = "") -> Reject:
        return Reject(
            request=answer.completion.number,
            method=self._name,
            parents=[parent.id for parent in answer.attempt.parents],
            text=text.strip(),
            reason=reason,
            detail=detail,
        )


def _perplexity(completion: Completion) -> float | None:
    """Return the perplexity per generated token, the end included; None if it is unknown.

    A beam search has none: its log-probability is of several lines.
    """
    if completion.logprob is None or completion.hypotheses or not completion.completion_tokens:
        return None
    return round(math.exp(-completion.logprob / completion.completion_tokens), 2)
