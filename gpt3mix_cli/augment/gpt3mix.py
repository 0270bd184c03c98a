"""GPT3Mix (section 3): select k examples, render the prompt, let the LM write a row.

Soft labels (equation 1) are the LM's probabilities of the labels after the row's text; see
`soft_labels`. Hard labels, the other column of Table 5, are those that a beam search over the whole
line wrote. A prompt that is longer than the LM's context loses examples from its front, down to
one.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..lm import LM, Completion, Hypothesis, Request
from ..method.cleaning import find_bracketed_label
from ..method.labels import hard_label, soft_label
from ..method.parsing import parse_line
from ..method.prompt import (
    PromptFitter,
    label_choices,
    label_prefix,
    prompt_inputs,
    render_prompt,
)
from ..method.selection import ExampleSelector, similarity_fingerprint
from ..records import Augmented, Example, Reject, hash_rows
from ..settings import AugmentSettings, Task, derived_seed, generator
from .protocol import RowGenerator
from .soft_labels import UNSCORED, Answer, Attempt, SoftLabeler, describe_excess

CACHE_VERSION = 4  # raise it if the same settings give other rows
# Settings that decide how many rows are made and which are kept, but not what an attempt yields.
QUOTA_SETTINGS = {"ratio", "synthetic_sets", "attempts", "filter"}
# Settings that have no effect with a kind of label.
UNUSED_SETTINGS = {
    "soft": {"beams"},
    "hard": {"top_p", "min_p", "frequency_penalty", "label_temperature", "contextual_calibration"},
}
OMIT_IF_ZERO = ("label_tokens", "requests", "rescored")  # of `usage`

Row = Augmented | Reject


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
        the tokenizer splits differently when they are read than when they were generated. Absent if
        zero: `rescored`: rows whose label was scored again, since their text was cleaned;
        `requests`, to an endpoint, and `label_tokens`, of its requests for a label alone.
        """
        return {
            name: count for name, count in self._usage.items() if count or name not in OMIT_IF_ZERO
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
            rescored=int(answer.is_rescored),
        )
        self._usd = None if self._usd is None or usd is None else self._usd + usd
        if answer.is_rescored and answer.scores:
            tokens, usd = answer.scores.tokens, answer.scores.usd
            self._usage.update(label_tokens=tokens or 0, requests=answer.scores.requests)
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
        answers = ((attempts.pop(item.number), item) for item in completions)
        if self._settings.labels == "hard":
            return itertools.starmap(Answer, answers)
        return SoftLabeler(self._settings, self._task, self._lm).label(answers)

    # Rows ----------------------------------------------------------------------------------------

    def _rows(self, answer: Answer) -> Iterator[Row]:
        completion = answer.completion
        if self._settings.labels == "soft":
            yield self._soft_row(answer)
        elif completion.finish == "too_long":
            detail = describe_excess(completion, self._settings.max_tokens, self._lm)
            yield self._reject(answer, "", "prompt_too_long", detail)
        elif completion.hypotheses:
            for rank, hypothesis in enumerate(completion.hypotheses):
                yield self._hard_row(answer, hypothesis, rank)
        else:
            yield self._reject(
                answer, completion.text, "unfinished", "the beam search found no line"
            )

    def _soft_row(self, answer: Answer) -> Row:
        scores, classes = answer.scores, self._task.classes
        if answer.rejection or scores is None:
            return self._reject(answer, answer.completion.text, *(answer.rejection or UNSCORED))
        probs, mass = soft_label(
            classes, scores.logprobs, self._settings.label_temperature, answer.content_free
        )
        return self._row(
            answer,
            answer.text,
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
        if bracket := find_bracketed_label(line.text, self._task):
            return reject("label_in_text", bracket)
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
