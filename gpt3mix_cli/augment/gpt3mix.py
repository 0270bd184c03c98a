"""GPT3Mix (section 3): choose k examples, render the prompt (`lm.prompt`), let the LM write, read its text and its label.

Soft labels (equation 1) are the LM's probabilities of the labels after the text that it wrote; hard ones, the other arm
of Table 5, are those that a beam search over the whole line wrote. A prompt that is longer than the LM's context loses
examples from its front, down to one. Limits: a text that holds an annotation of its own, or another `Movie review:`,
ends there.
"""

import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from ..lm import LM, Completion, Request, next_block_start
from ..method.labels import CONTENT_FREE, hard_label, soft_label
from ..method.prompt import asking, choices, label_prefix, one_line, prompt
from ..method.selection import ExampleSelector, similarity_fingerprint
from ..records import Augmented, Example, Reject, hash_rows
from ..settings import AugmentSettings, Task, derived_seed, generator

CACHE_VERSION = 3  # raised when the same settings would give other rows
# Settings that say how many rows are made and which are kept, and those that one kind of label does not use.
NOT_A_ROWS = {"ratio", "synthetic_sets", "attempts", "filter"}
UNUSED = {
    "soft": {"beams"},
    "hard": {"top_p", "frequency_penalty", "label_temperature", "contextual_calibration"},
}
TOGETHER = 256  # answers whose content-free texts are scored together, where the LM answers each request by itself
OF_AN_ENDPOINT = ("label_tokens", "requests")
SLACK = 4  # tokens by which a line of the prompt may count differently alone and among others

Row = Augmented | Reject


@dataclass(frozen=True)
class Asked:
    """What an attempt asks: its prompt, the examples in it, and whether some had to be left out."""

    prompt: str
    parents: Sequence[Example]
    shortened: bool


class GPT3Mix:
    """The generator; see `augment.Augmenter`. With hard labels an attempt gives a row or a reject for each hypothesis."""

    edits = False

    def __init__(self, settings: AugmentSettings, task: Task, lm: LM, name: str) -> None:
        """Keep settings, task specification and LM.

        Raises:
            UserError: if `augment.similarity` names an encoder that is not installed.
        """
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
        self._chooser: tuple[str, ExampleSelector] | None = None
        self._lengths: dict[str, int] = {}
        self._calibrated = settings.contextual_calibration and settings.labels == "soft"
        self.lm_info = lm.info
        self.block = lm.info.block_size
        self.rows = settings.beams if settings.labels == "hard" else 1
        self.about: dict[str, Any] = {
            "method": name,
            "kind": "gpt3mix",
            **settings.model_dump(exclude=NOT_A_ROWS | UNUSED[settings.labels]),
            **asking(task, lm.info),
            "format": CACHE_VERSION,
        }
        alike = settings.selection in ("nearest", "furthest")
        self.about["similarity"] = similarity_fingerprint(settings.similarity) if alike else None

    def generate(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[Row]:
        """Yield the rows and rejects of each attempt; the LM draws the requests as it has room for them."""
        asked: dict[int, Asked] = {}

        def requests() -> Iterator[Request]:
            for request, about in self.requests(examples, first, count, seed):
                asked[request.number] = about
                yield request

        for completion, without_content in self._answers(requests(), asked):
            known = asked.pop(completion.number)
            self._usage.update(
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
                label_tokens=completion.label_tokens,
                requests=completion.requests,
                shortened=int(known.shortened),
                retokenised=int(completion.retokenised),
            )
            self._usd = (
                None if completion.usd is None or self._usd is None else self._usd + completion.usd
            )
            yield from self._read(
                completion, [parent.id for parent in known.parents], without_content
            )

    def requests(
        self, examples: Sequence[Example], first: int, count: int, seed: int
    ) -> Iterator[tuple[Request, Asked]]:
        """Yield what each attempt asks; nothing is asked here."""
        choose = self._choose_from(examples).choose
        for number in range(first, first + count):
            drawn = choose(self._settings.k, generator(seed, "choose", number))
            parents = self._fitting(drawn)
            request = self._request(number, parents, seed)
            yield request, Asked(request.prompt, parents, shortened=len(parents) < len(drawn))

    def usage(self) -> Mapping[str, int]:
        """Return the tokens of all answers so far, those from the journal included, and counts of answers.

        `shortened`: prompts that lost examples to the context's length; `retokenised`: texts whose tokens are others when
        they are read than they were when they were written (`lm.Completion`). Of an endpoint also the requests, and the
        tokens of those that asked for a label alone.
        """
        return {
            name: count
            for name, count in self._usage.items()
            if count or name not in OF_AN_ENDPOINT
        }

    def usd(self) -> float | None:
        """Return what all answers so far cost at the user's prices, those from the journal included; None if unknown."""
        return self._usd if self._usage["requests"] else None

    def asked_as(self) -> str:
        """Return how the endpoint was asked; empty where the LM runs in this process."""
        return self._lm.describe() if self._usage["requests"] else ""

    # Asking ----------------------------------------------------------------------------------------------------------

    def _choose_from(self, examples: Sequence[Example]) -> ExampleSelector:
        """Return the chooser of these examples, which keeps its vectors over rounds and draws."""
        key = hash_rows(examples)
        if self._chooser is None or self._chooser[0] != key:
            self._chooser = (
                key,
                ExampleSelector(examples, self._settings.selection, self._settings.similarity),
            )
        return self._chooser[1]

    def _request(self, number: int, parents: Sequence[Example], seed: int) -> Request:
        settings, task = self._settings, self._task
        text = prompt(task, parents)
        if settings.labels == "hard":
            return Request(
                number=number,
                prompt=text,
                # A beam search at temperature 0 draws nothing: a seed must not make it another request.
                seed=derived_seed(seed, "write", number) if settings.temperature else 0,
                max_tokens=settings.max_tokens + self._label_tokens,
                temperature=settings.temperature,
                beams=settings.beams,
            )
        return Request(
            number=number,
            prompt=text,
            seed=derived_seed(seed, "write", number),
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            frequency_penalty=settings.frequency_penalty,
            label_prefix=label_prefix(task),
            choices=choices(task),
        )

    def _answers(
        self, requests: Iterable[Request], asked: Mapping[int, "Asked"]
    ) -> Iterator[tuple[Completion, list[tuple[float, ...]]]]:
        """Yield each answer and, for contextual calibration, the labels' log-probabilities after the content-free texts."""
        completions = self._lm.complete(requests)
        if not self._calibrated:
            yield from ((completion, []) for completion in completions)
            return
        # In the LM's own blocks: scores depend in their last digits on what is scored beside them, which must be no quota's business.
        size = self.block if self.block > 1 else TOGETHER
        for _, group in itertools.groupby(
            completions, lambda completion: next_block_start(completion.number, size)
        ):
            block = list(group)
            scored = [completion.number for completion in block if completion.scores]
            texts = [
                f"{asked[number].prompt}{f' {text}' if text else ''}{label_prefix(self._task)}"
                for number in scored
                for text in CONTENT_FREE
            ]
            found = iter(self._lm.score(texts, choices(self._task)) if texts else [])
            known = {
                number: [scores.logprobs for scores in islice(found, len(CONTENT_FREE))]
                for number in scored
            }
            yield from ((completion, known.get(completion.number, [])) for completion in block)

    # What fits into the context --------------------------------------------------------------------------------------

    def _fitting(self, parents: Sequence[Example]) -> Sequence[Example]:
        """Return the examples without as many of the first as keep the prompt from fitting; the last one stays."""
        while len(parents) > 1 and not self._fits(parents):
            parents = parents[1:]
        return parents

    def _fits(self, parents: Sequence[Example]) -> bool:
        limit = self._lm.info.context_length - self._settings.max_tokens - self._label_room
        lines = prompt(self._task, parents).splitlines(keepends=True)
        estimate = sum(map(self._tokens, lines))
        if abs(estimate - limit) > SLACK * len(lines):
            return estimate < limit
        return self._lm.info.count_tokens("".join(lines)) <= limit

    def _tokens(self, text: str) -> int:
        """Return how many tokens a text has, without those that a tokenizer puts around it; counted once a text."""
        if text not in self._lengths:
            self._lengths[text] = self._lm.info.count_tokens(text) - self._lm.info.count_tokens("")
        return self._lengths[text]

    @functools.cached_property
    def _label_tokens(self) -> int:
        """What follows the label prefix to the line's end, so that `max_tokens` bounds the text and its label prefix with either kind of label."""
        return max(
            self._tokens(f" {token.capitalize()})\n") for token in self._task.labels.values()
        )

    @functools.cached_property
    def _label_room(self) -> int:
        """Tokens kept free behind `max_tokens`: a label prefix that has to be appended, and what follows it."""
        return self._tokens(f".{label_prefix(self._task)}") + self._label_tokens

    # Reading ---------------------------------------------------------------------------------------------------------

    def _read(
        self, completion: Completion, parents: list[str], without_content: Sequence[Sequence[float]]
    ) -> Iterator[Row]:
        if completion.finish == "too_long":
            limit = f"{completion.prompt_tokens} tokens and max_tokens {self._settings.max_tokens} do not fit {self._lm.info.context_length}"
            yield self._reject(completion, parents, "", "prompt_too_long", limit)
        elif self._settings.labels == "hard":
            yield from self._hard(completion, parents)
        else:
            yield self._soft(completion, parents, without_content)

    def _soft(
        self, completion: Completion, parents: list[str], without_content: Sequence[Sequence[float]]
    ) -> Row:
        reject = functools.partial(self._reject, completion, parents, completion.text)
        if completion.finish == "length":
            return reject("unfinished", f"no end within {self._settings.max_tokens} tokens")
        scores = completion.scores
        if scores is None:
            return reject("unscored", "the endpoint tells nothing of any label")
        text, _, _, rest = parse(completion.text, self._task)
        if rest:
            # The scores stand at the end of what was written, so they are those of another text.
            return reject("no_label", f"went on with '{rest}'")
        if not text:
            return reject("empty")
        probs, mass = soft_label(
            self._task.classes, scores.logprobs, self._settings.label_temperature, without_content
        )
        bounded = [self._task.classes[place] for place in scores.bounded]
        known_mass = round(mass, 6) if scores.has_mass else None
        return self._row(
            completion,
            parents,
            text,
            probs,
            label_source=scores.source,
            label_mass=known_mass,
            bounded=bounded,
        )

    def _hard(self, completion: Completion, parents: list[str]) -> Iterator[Row]:
        if not completion.hypotheses:
            yield self._reject(
                completion, parents, completion.text, "unfinished", "the beam search found no line"
            )
        for rank, hypothesis in enumerate(completion.hypotheses):
            reject = functools.partial(self._reject, completion, parents, hypothesis.text)
            text, label, written, _ = parse(hypothesis.text, self._task)
            if not hypothesis.finished:
                yield reject(
                    "unfinished", f"no end within {self._settings.max_tokens} tokens and a label"
                )
            elif not text:
                yield reject("empty")
            elif written is None:
                yield reject("no_label")
            elif label is None:
                yield reject("label_not_in_set", written)
            else:
                probs = hard_label(self._task.classes, label)
                yield self._row(
                    completion, parents, text, probs, rank, label_source="hard", label_mass=None
                )

    def _row(
        self,
        completion: Completion,
        parents: list[str],
        text: str,
        probs: dict[str, float],
        rank: int = 0,
        **label: Any,
    ) -> Augmented:
        return Augmented(
            id=f"{self._name}-{completion.number:05d}" + (f".{rank}" if rank else ""),
            text=text,
            label=max(probs, key=lambda name: probs[name]),
            probs=probs,
            method=self._name,
            parents=parents,
            request=completion.number,
            perplexity=_perplexity(completion),
            **label,
        )

    def _reject(
        self, completion: Completion, parents: list[str], text: str, reason: str, detail: str = ""
    ) -> Reject:
        return Reject(
            request=completion.number,
            method=self._name,
            parents=parents,
            text=text.strip(),
            reason=reason,
            detail=detail,
        )


def _perplexity(completion: Completion) -> float | None:
    """Return the perplexity a token of what was written, its end included; None where it is unknown or a beam search's."""
    if completion.logprob is None or completion.hypotheses or not completion.completion_tokens:
        return None
    return round(math.exp(-completion.logprob / completion.completion_tokens), 2)


# What an LM wrote ----------------------------------------------------------------------------------------------------


class Parsed(NamedTuple):
    """A line that an LM wrote.

    Attributes:
        text: the row's text; brackets that annotate nothing are part of it.
        label: its class; None if there is none, or none of the task's.
        written: the label as it was written; None without an annotation.
        rest: what followed and was cut off: a second annotation, another row, chatter.
    """

    text: str
    label: str | None
    written: str | None
    rest: str


def parse(line: str, task: Task) -> Parsed:
    """Return what a line holds: `Groundbreaking. (Sentiment: Positive)` is `Groundbreaking.`, pos.

    The first annotation ends the text, whatever the case of its words and the spaces in it; it may lack its bracket where
    the line ends. So does another `Movie review:` before it, and then the text has no label. A line that begins with
    `Movie review:` loses it.
    """
    again, another, annotation = _patterns(
        task.text_type, task.label_type, tuple(task.labels.values())
    )
    line = one_line(line)
    line = line[match.end() :] if (match := again.match(line)) else line
    found, next_row = annotation.search(line), another.search(line)
    if next_row and (found is None or next_row.start() < found.start()):
        return Parsed(line[: next_row.start()].strip(), None, None, line[next_row.start() :])
    if found is None:
        return Parsed(line.strip(), None, None, "")
    written = found["known"] or found["other"] or ""
    classes = {_folded(token): name for name, token in task.labels.items()}
    return Parsed(
        line[: found.start()].strip(),
        classes.get(_folded(written)),
        written,
        line[found.end() :].strip(),
    )


@functools.lru_cache
def _patterns(
    text_type: str, label_type: str, tokens: tuple[str, ...]
) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Return what finds a repeated `Movie review:` at the start, a further one, and an annotation."""
    mark = re.escape(f"{text_type.capitalize()}:")
    # A label may hold brackets, as long as it is one of the task's; the longest first, since one may begin another.
    known = "|".join(_any_case(token) for token in sorted(tokens, key=len, reverse=True))
    label = rf"(?:(?P<known>{known})\s*(?:\)|\Z)|(?P<other>[^()]*?)\s*\))"
    return (
        re.compile(rf"(?:\s*(?:{_any_case(text_type)})\s*:)+", re.IGNORECASE),
        re.compile(rf"(?<!\w){mark}"),  # case counts: `this text: ...` may be said in a text
        re.compile(rf"\(\s*(?:{_any_case(label_type)})\s*:\s*{label}", re.IGNORECASE),
    )


def _any_case(words: str) -> str:
    """Return a pattern of words as they were given and as the prompt writes them: ß is Ss there, which no flag equates."""
    return "|".join(
        re.sub(r"(?:\\?\s)+", r"\\s+", re.escape(form))
        for form in {words: 0, words.capitalize(): 0}
    )


def _folded(label: str) -> str:
    return " ".join(label.casefold().split())
