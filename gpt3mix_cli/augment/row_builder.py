"""Turns the answers of an LM into rows and rejects of GPT3Mix."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..lm import Completion, Hypothesis, Request
from ..method.labels import hard_label, soft_label
from ..method.parsing import parse_line
from ..records import Augmented, Example, Reject
from ..settings import AugmentSettings, Task

Row = Augmented | Reject


@dataclass(frozen=True)
class Attempt:
    """A request to the LM, and the examples in its prompt.

    Attributes:
        request: what the LM is asked.
        parents: the examples, in prompt order.
        shortened: whether the prompt lost examples to the context's length.
    """

    request: Request
    parents: Sequence[Example]
    shortened: bool


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


class RowBuilder:
    """Parses, labels and names the rows of one method."""

    def __init__(self, settings: AugmentSettings, task: Task, name: str, context: int) -> None:
        """Keep what rows depend on.

        Args:
            settings: of `augment`.
            task: the classes, and the words of the prompt.
            name: the `method` of the rows.
            context: tokens of the LM's context, for the detail of a reject.
        """
        self._settings, self._task, self._name, self._context = settings, task, name, context

    def rows(self, answer: Answer) -> Iterator[Row]:
        """Yield the rows and rejects of an answer; only a beam search yields several."""
        completion, settings = answer.completion, self._settings
        if completion.finish == "too_long":
            detail = (
                f"{completion.prompt_tokens} tokens and max_tokens {settings.max_tokens} "
                f"do not fit {self._context}"
            )
            yield self._reject(answer, "", "prompt_too_long", detail)
        elif settings.labels == "soft":
            yield self._soft_row(answer)
        elif completion.hypotheses:
            for rank, hypothesis in enumerate(completion.hypotheses):
                yield self._hard_row(answer, hypothesis, rank)
        else:
            detail = "the beam search found no line"
            yield self._reject(answer, completion.text, "unfinished", detail)

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
        line = parse_line(hypothesis.text, self._task)
        if not hypothesis.finished:
            limit = self._settings.max_tokens
            return reject("unfinished", f"no end within {limit} tokens and a label")
        if not line.text:
            return reject("empty")
        if line.written_label is None:
            return reject("no_label")
        if line.label is None:
            return reject("label_not_in_set", line.written_label)
        probs = hard_label(self._task.classes, line.label)
        return self._row(answer, line.text, probs, rank, label_source="hard", label_mass=None)

    def _row(
        self, answer: Answer, text: str, probs: dict[str, float], rank: int = 0, **label: Any
    ) -> Augmented:
        number = answer.completion.number
        return Augmented(
            id=f"{self._name}-{number:05d}" + (f".{rank}" if rank else ""),
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
