"""The port to language models: text in; text and label log-probabilities out.

`open_lm` returns an engine, `journal.Journaled` makes its answers durable. A caller never learns how an engine batches,
retries or finds its scores.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, assert_never, runtime_checkable

from ..errors import NO_CALLBACKS, Callbacks, StoppedShort
from ..settings import Budget, LocalLMSettings, OpenAISettings

if TYPE_CHECKING:
    from .journal import Journal


@dataclass(frozen=True)
class Request:
    """One text to be written.

    Attributes:
        number: the attempt; makes equal prompts different requests.
        prompt: ends where the LM is to go on, without a space after the colon.
        seed: of this request's own randomness.
        max_tokens: a text that has no end by then is unfinished.
        temperature: 0 takes the likeliest token.
        top_p: the smallest set of tokens with at least this probability is drawn from.
        frequency_penalty: taken off a token's logit for each time it was written already (OpenAI's definition).
        label_prefix: where the text ends and the label begins, such as ` (Sentiment:`; empty if nothing is to be scored.
        choices: what may follow the label prefix, each with its leading space, such as ` Positive`.
        beams: 0 draws one text; b takes up to b whole lines that differ, from a beam search of that width: the answer's
            `hypotheses`. They are the likeliest ones at temperature 0; above it they are drawn without replacement. Seam
            and choices are then empty, since the line holds its label; top_p and frequency_penalty are not used.
    """

    number: int
    prompt: str
    seed: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    frequency_penalty: float = 0.0
    label_prefix: str = ""
    choices: tuple[str, ...] = ()
    beams: int = 0


@dataclass(frozen=True)
class Scores:
    """Raw log-probabilities (before temperature, top-p and penalties) of each choice.

    Attributes:
        logprobs: natural logarithms, one a choice.
        source: `exact`: of the choice's whole token sequence. `top_logprobs`: of its first token, its spellings in other
            case and spacing added up. `decision`: a distribution over the choices, by OpenAI's decisions. `vote`: shares
            of labels that were drawn, half a vote added to each. The last two know no mass.
        bounded: places of choices that were not among what the server told: their log-probability is the highest it can be.
        tokens: read and written for these scores alone, as an endpoint counts them; None where nobody told. No part of what scores are.
        usd: what that cost by the user's prices; None where it is unknown.
    """

    logprobs: tuple[float, ...]
    source: Literal["exact", "decision", "top_logprobs", "vote"] = "exact"
    bounded: tuple[int, ...] = ()
    tokens: int | None = field(default=None, compare=False)
    usd: float | None = field(default=None, compare=False)

    @property
    def has_mass(self) -> bool:
        """Whether the probabilities are parts of all that the LM might have written."""
        return self.source in ("exact", "top_logprobs")


@dataclass(frozen=True)
class Hypothesis:
    """A whole line that a beam search found.

    Attributes:
        text: the line as it was written, its label included, without the line's end.
        finished: False if max_tokens came before the line's end.
        logprob: of all its tokens together; None where it is unknown.
    """

    text: str
    finished: bool
    logprob: float | None


@dataclass(frozen=True)
class Completion:
    """The answer to a request.

    Attributes:
        number: that of the request.
        text: what was written before the label prefix or the line's end, as it was written.
        finish: `label_prefix` or `line` (its end, or the end of the text); `length` if max_tokens came first, `too_long` if
            the prompt left no room in the context. The last two have no scores.
        scores: of the choices after the label prefix; where the line ended without the label prefix it is appended. None too where an
            endpoint told nothing of any choice.
        prompt_tokens: tokens read.
        completion_tokens: tokens written.
        logprob: raw log-probability of all the tokens written together; None where it is unknown.
        retokenised: whether prompt, text and label prefix as one string have other tokens than those that were read, written and
            scored.
        hypotheses: what a beam search found, the likeliest first at temperature 0, in the order drawn above it; `text` is then
            the first one's.
        label_tokens: read and written in further requests, for the label alone.
        requests: asked of an endpoint for it, those for its label included; 0 where there is none.
        usd: what they cost by the user's prices; None where that is unknown.
    """

    number: int
    text: str
    finish: Literal["label_prefix", "line", "length", "too_long"]
    scores: Scores | None
    prompt_tokens: int
    completion_tokens: int
    logprob: float | None = None
    retokenised: bool = False
    hypotheses: tuple[Hypothesis, ...] = ()
    label_tokens: int = 0
    requests: int = 0
    usd: float | None = None


@dataclass(frozen=True)
class About:
    """What is known of an LM before it is asked.

    Attributes:
        model: the name that the user gave.
        fingerprint: of the weights, or the endpoint, and of everything else that can change an answer.
        context: the most tokens of prompt and text together.
        block: requests are answered, and journalled, at most this many at a time; see `end_of_block`. 1: each by itself.
        count_tokens: how many tokens a text has.
        details: for people: device, dtype, parameters.
    """

    model: str
    fingerprint: str
    context: int
    block: int
    count_tokens: Callable[[str], int]
    details: str


class LM(Protocol):
    """A language model."""

    @property
    def about(self) -> About:
        """What is known of it before it is asked."""

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield the answer to each request, in their order; equal blocks of requests (see `blocks`) get equal answers."""

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        """Return for each prompt the log-probability of each choice as its continuation."""

    def describe(self) -> str:
        """Return in words, for people, what it offers; an endpoint is asked."""


@runtime_checkable
class JournalAware(Protocol):
    """An LM that keeps raw answers in a journal by itself."""

    def over(self, journal: "Journal") -> LM:
        """Return the same LM, which looks answers up in a journal first and commits them to it before it reads them."""


@dataclass(frozen=True)
class CostModel:
    """What an attempt takes at an LM, as far as that is known before it is asked.

    Attributes:
        usd: dollars for tokens read and written; None if the price is unknown.
        label_requests: further requests for each row's label; 0 where it comes with the line.
        label_tokens: written in each of them.
        score_requests: for a label that is asked for by itself.
        whole_line: whether the label prefix and the label count as written, as an endpoint has them, or the text alone.
        remarks: for people: what is assumed.
    """

    usd: Callable[[float, float], float | None] = lambda read, written: 0.0
    label_requests: int = 0
    label_tokens: int = 0
    score_requests: int = 0
    whole_line: bool = False
    remarks: tuple[str, ...] = ()


@runtime_checkable
class Priced(Protocol):
    """An LM whose answers cost something."""

    def cost_model(self, request: Request, journal: "Journal") -> CostModel:
        """Return what an attempt such as this one takes, by what a journal holds of the endpoint; nothing is asked."""


class ReplayOnlyLM:
    """An LM that tells what it is and is never asked."""

    def __init__(self, lm: LM) -> None:
        """Keep the LM."""
        self.about, self.describe = lm.about, lm.describe

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Refuse the first request."""
        raise StoppedShort(NOT_ASKED)

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        """Refuse."""
        raise StoppedShort(NOT_ASKED)


NOT_ASKED = "nothing is asked here"
SMALLEST = 32  # requests in the first block


def end_of_block(number: int, largest: int) -> int:
    """Return the attempt that begins the block after the one of `number`.

    Blocks lie at fixed places, so that what an attempt gives depends on no quota. They double in size up to `largest`,
    so that whoever wants six rows does not pay for hundreds.
    """
    size = min(SMALLEST, largest)
    end = size
    while end <= number and end < largest:
        end *= 2
    return end if number < end else end + ((number - end) // largest + 1) * largest


def blocks(requests: Iterable[Request], largest: int) -> Iterator[list[Request]]:
    """Yield the requests block by block."""
    for _, block in itertools.groupby(
        requests, lambda request: end_of_block(request.number, largest)
    ):
        yield list(block)


def open_lm(
    settings: LocalLMSettings | OpenAISettings,
    budget: Budget | None = None,
    journals: Callable[[], Sequence[Path]] = list,
    asks: bool = True,
    callbacks: Callbacks = NO_CALLBACKS,
) -> LM:
    """Return the LM for its settings, ready to be asked.

    Args:
        settings: of the LM.
        budget: what may be spent at an endpoint.
        journals: names the files that hold what was spent before.
        asks: False: it gives what journals hold and asks nothing, so that an endpoint needs no key.
        callbacks: take servers that are busy or fail.

    Raises:
        UserError: if it cannot be opened, with the remedy.
    """
    match settings:
        case LocalLMSettings():
            from .local.engine import LocalLM

            return LocalLM(settings) if asks else ReplayOnlyLM(LocalLM(settings))
        case OpenAISettings():
            from .openai.engine import OpenAILM

            return OpenAILM(settings, budget, journals, asks, callbacks)
        case _:
            assert_never(settings)
