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
from ..method.labels import hard_label, label_logits, label_mass
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
from ..settings.prompt_content import PromptContent
from .extras import ExtrasSource
from .label_check import MIN_ROWS, LabelCheck, check_labels
from .protocol import RowGenerator
from .set_labels import SetLabels, class_mix, most_probable
from .small_lm import resolve_auto
from .soft_labels import (
    UNSCORED,
    Answer,
    Attempt,
    SoftLabeler,
    find_artefact,
    reject_without_text,
)

CACHE_VERSION = 5  # raise it if the same settings give other rows
# Settings that decide how many rows are made and which are kept, but not what an attempt yields.
QUOTA_SETTINGS = {"ratio", "synthetic_sets", "attempts", "filter"}
# Settings that have no effect with a kind of label.
LM_LABEL_SETTINGS = {"label_temperature", "contextual_calibration", "label_prior", "label_check"}
UNUSED_SETTINGS = {
    "soft": {"beams"},
    "product": {"beams"},
    "parents": {"beams", *LM_LABEL_SETTINGS},
    "hard": {"top_p", "min_p", "frequency_penalty", *LM_LABEL_SETTINGS},
}
NUM_CHECKED_ROWS = 32  # of `label_check: auto`
MAX_EXPONENT = 700.0  # of e, in a float
OMIT_IF_ZERO = ("label_tokens", "requests", "rescored")  # of `usage`

Row = Augmented | Reject


class GPT3Mix(RowGenerator):
    """The generator; see `protocol.RowGenerator`. With hard labels an attempt yields `beams` rows.

    Args:
        settings: of `augment`.
        task: the classes, and the words of the prompt.
        lm: the language model.
        name: the `method` of the rows.
        unlabelled: the texts of `augment.unlabelled`.

    Raises:
        UserError: if `augment.similarity` names an encoder that is not installed.

    Attributes:
        lm_info: what is known of the LM before it is asked.
    """

    def __init__(
        self,
        settings: AugmentSettings,
        task: Task,
        lm: LM,
        name: str,
        unlabelled: Sequence[str] = (),
    ) -> None:
        settings = resolve_auto(settings, lm.info)
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
        self._extras = ExtrasSource(settings, task, unlabelled)
        self._labels = SetLabels(settings, task.classes)
        self._check: LabelCheck | None = None
        self.lm_info, self.block_size = lm.info, lm.info.block_size
        self.rows_per_attempt = settings.beams if settings.labels == "hard" else 1
        uses_similarity = settings.selection in ("nearest", "furthest")
        unused = (
            QUOTA_SETTINGS | UNUSED_SETTINGS[settings.labels] | PromptContent.model_fields.keys()
        )
        if settings.label_prior != "auto":  # otherwise the check decides
            unused |= {"label_check"}
        self.about = {
            "method": name,
            "kind": "gpt3mix",
            **settings.model_dump(exclude=unused),
            **self._extras.about,
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

    def prepare(self, examples: Sequence[Example]) -> Sequence[str]:
        """Let the LM label real rows, unless `label_check` is 0 or its labels are not used."""
        most = self._settings.label_check
        if most == "auto":
            most = NUM_CHECKED_ROWS if self._lm.info.is_local else 0
        if not most or not self._settings.uses_lm_labels or len(examples) < 2:
            return ()
        extras = self._extras.of_label_check
        self._check = check_labels(self._lm, self._task, examples, self._settings.k, most, extras)
        if self._check is None:
            return ["no real row fits the LM's context, so its labels are not checked"]
        if self._check.requests:
            self._usage.update(label_tokens=self._check.tokens, requests=self._check.requests)
            self._add_usd(self._check.usd)
        if self._check.rows < MIN_ROWS or not self._check.is_blind:
            return ()
        return [f"the LM's labels of real rows: {self._check.describe()}; {self._check.advice()}"]

    def label_set(
        self, rows: Sequence[Augmented], examples: Sequence[Example]
    ) -> tuple[Sequence[Augmented], Mapping[str, Any]]:
        """Return the rows with labels that match the class mix, if `label_prior` asks for it."""
        counts = {"label_check": self._check.summary()} if self._check else {}
        if not rows or not (prior := self._prior(examples)):
            return rows, counts
        matched, matching = self._labels.match(rows, prior)
        return matched, counts | matching

    def attempts(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[Attempt]:
        """Yield the attempts first..first+count without asking the LM."""
        selector = self._selector_of(examples)
        for number in range(first, first + count):
            # The purpose string "choose" decides which examples are drawn: never change it.
            rng = generator(seed, "choose", number)
            selected = selector.select(self._settings.k, rng, number) if self._settings.k else []
            extras = self._extras.draw(number, seed)
            limit = self._max_prompt_tokens
            parents = self._fitter.fit(selected, limit, extras=extras) or selected[-1:]
            prompt = render_prompt(self._task, parents, extras)
            yield Attempt(self._request(number, prompt, seed), parents, len(selected), extras)

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
        completion, scores = answer.completion, answer.scores
        self._usage.update(
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            label_tokens=completion.label_tokens,
            requests=completion.requests,
            shortened=int(len(answer.attempt.parents) < answer.attempt.num_selected),
            retokenised=int(completion.retokenised),
            rescored=int(answer.is_rescored),
        )
        self._add_usd(completion.usd)
        if answer.is_rescored and scores:
            self._usage.update(label_tokens=scores.tokens or 0, requests=scores.requests)
            self._add_usd(scores.usd)

    def _add_usd(self, usd: float | None) -> None:
        self._usd = None if self._usd is None or usd is None else self._usd + usd

    def _prior(self, examples: Sequence[Example]) -> Mapping[str, float] | None:
        """Return the class mix that labels are matched to; None if they are not matched."""
        prior = self._settings.label_prior
        if not self._settings.uses_lm_labels or prior == "none":
            return None
        if isinstance(prior, Mapping):
            total = math.fsum(prior.values())
            return {name: prior.get(name, 0.0) / total for name in self._task.classes}
        if prior == "auto" and not (self._check and self._check.is_biased):
            return None
        return class_mix([row.label for row in examples], self._task.classes)

    # Requests ------------------------------------------------------------------------------------

    def _selector_of(self, examples: Sequence[Example]) -> ExampleSelector:
        key, settings = hash_rows(examples), self._settings
        if self._selector is None or self._selector[0] != key:
            self._selector = (
                key,
                ExampleSelector(examples, settings.selection, settings.similarity),
            )
        return self._selector[1]

    def _request(self, number: int, prompt: str, seed: int) -> Request:
        settings, task, min_p = self._settings, self._task, self._settings.min_p
        assert min_p != "auto", "resolved with the LM"
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
            min_p=min_p,
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
        if self._settings.labels != "hard":
            yield self._soft_row(answer)
        elif no_text := reject_without_text(completion, self._settings.max_tokens, self._lm):
            yield self._reject(answer, completion.text, *no_text)
        elif completion.hypotheses:
            for rank, hypothesis in enumerate(completion.hypotheses):
                yield self._hard_row(answer, hypothesis, rank)
        else:
            yield self._reject(
                answer, completion.text, "unfinished", "the beam search found no line"
            )

    def _soft_row(self, answer: Answer) -> Row:
        scores, settings, parents = answer.scores, self._settings, answer.attempt.parents
        if answer.rejection or scores is None:
            return self._reject(answer, answer.completion.text, *(answer.rejection or UNSCORED))
        logits = label_logits(scores.logprobs, settings.label_temperature, answer.content_free)
        probs = self._labels.add(self._row_id(answer), logits, parents)
        return self._row(
            answer,
            answer.text,
            probs,
            label_source="parents" if settings.labels == "parents" else scores.source,
            label_mass=round(label_mass(scores.logprobs), 6) if scores.has_mass else None,
            bounded=[self._task.classes[index] for index in scores.bounded],
        )

    def _hard_row(self, answer: Answer, hypothesis: Hypothesis, rank: int) -> Row:
        reject = functools.partial(self._reject, answer, hypothesis.text)
        line, limit = parse_line(hypothesis.text, self._task), self._settings.max_tokens
        if not hypothesis.finished:
            return reject("unfinished", f"no end within {limit} tokens and a label")
        if artefact := find_artefact(line.text, self._task, answer.attempt.extras):
            return reject(*artefact)
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
        return Augmented(
            id=self._row_id(answer, rank),
            text=text,
            label=most_probable(probs),
            probs=probs,
            method=self._name,
            parents=[parent.id for parent in answer.attempt.parents],
            request=answer.completion.number,
            perplexity=_perplexity(answer.completion),
            asked_label=answer.attempt.extras.asked_label,
            attributes=dict(answer.attempt.extras.attributes),
            **label,
        )

    def _row_id(self, answer: Answer, rank: int = 0) -> str:
        return f"{self._name}-{answer.completion.number:05d}{f'.{rank}' if rank else ''}"

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
    exponent = -completion.logprob / completion.completion_tokens
    return round(math.exp(exponent), 2) if exponent < MAX_EXPONENT else None
