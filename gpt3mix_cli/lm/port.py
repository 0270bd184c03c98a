"""The port to language models: prompts go in; texts and label log-probabilities come out.

`open_lm` returns an engine: `local`, a model in this process, or `openai`, a server. Wrap it in
`JournaledLM` so that no answer is lost or computed twice. The caller never sees how an engine
batches, retries or obtains its label scores:

    lm = open_lm(LocalLMSettings(kind="local", model="bundled"))
    request = Request(
        number=0, prompt=prompt, seed=1, max_tokens=100,
        label_prefix=" (Sentiment:", choices=(" Positive", " Negative"),
    )
    (completion,) = lm.complete([request])
    completion.text             # " a witty film"
    completion.scores.logprobs  # log P(label | prompt, text), one value per choice
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, assert_never, runtime_checkable

from ..errors import NO_CALLBACKS, Callbacks, UserError
from ..settings import Budget, LocalLMSettings, OpenAISettings
from .journal import IN_MEMORY, Journal

FIRST_BLOCK_SIZE = 32  # requests
# Of a local LM on one machine at the same time: each has keys and values of its own in memory.
MAX_PARALLEL_BLOCKS = 4
LOCAL_VERSION = 6  # raised when equal requests to a local LM get other answers
# Of a chat. Journal keys of endpoints depend on it, so it must not change.
GENERATION_INSTRUCTION = (
    "You continue lists. Answer with the next item alone, on one line, "
    "in the form of the items before it."
)
THINKING_REMEDY = (
    "turn the model's thinking off, with lm.extra: {chat_template_kwargs: {enable_thinking: "
    "false}} (vLLM, SGLang, llama-server) or lm.extra: {reasoning_effort: none} (OpenAI, Ollama), "
    "or use a model that does not think"
)
REPLAY_ONLY = "no request is sent: answers come from the journal only"  # of a refused request


@dataclass(frozen=True)
class Request:
    """One text to generate.

    Attributes:
        number: index of the attempt. Requests that differ in nothing else are different requests.
        prompt: ends where the LM continues, with no space after the last colon.
        seed: of this request's random draws; they depend on nothing else.
        max_tokens: a text without an end after this many tokens is unfinished.
        temperature: 0 is greedy decoding.
        top_p: nucleus sampling: draw from the smallest set of tokens with this probability.
        min_p: draw from tokens at least this fraction as probable as the most probable one. It and
            `top_p` apply after temperature, each to the whole distribution; a token must pass both.
        frequency_penalty: subtracted from a token's logit for each time that the token is already
            in the text (OpenAI's definition).
        label_prefix: where the text ends and the label begins, such as ` (Sentiment:`. Empty: no
            label is scored.
        choices: the possible labels, each with its leading space, such as ` Positive`.
        beams: 0 generates one text. b > 0 runs a beam search of width b over whole lines, and the
            answer's `hypotheses` hold up to b different lines: the most probable ones at
            temperature 0, a sample without replacement above it. A line contains its label, so
            `label_prefix` and `choices` are empty; `top_p`, `min_p` and `frequency_penalty` are
            ignored.
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
    min_p: float = 0.0


@dataclass(frozen=True)
class Scores:
    """The log-probability of each choice, before temperature, top-p, min-p and penalties.

    Attributes:
        logprobs: natural logarithms, one per choice.
        source: how they were obtained. `exact`: of the choice's whole token sequence, at a local
            LM by a float32 pass; `rounded`: the same by a pass in a lower precision.
            `top_logprobs`: of the likeliest tokens that a server reports, summed over spellings
            that differ in case and spacing. `decision`: a distribution over the choices from
            OpenAI's decisions. `vote`: relative frequencies of generated labels, with half a vote
            added to each.
        bounded: indices of the choices that the server did not report, or only their first tokens;
            their log-probability is an upper bound.
        tokens: read and generated for these scores alone, as the endpoint counts them. None if
            unreported. Excluded from equality.
        usd: price of those tokens. None if unknown. Excluded from equality.
        requests: sent to an endpoint for these scores alone. Excluded from equality.
    """

    logprobs: tuple[float, ...]
    source: Literal["exact", "rounded", "decision", "top_logprobs", "vote"] = "exact"
    bounded: tuple[int, ...] = ()
    tokens: int | None = field(default=None, compare=False)
    usd: float | None = field(default=None, compare=False)
    requests: int = field(default=0, compare=False)

    @property
    def has_mass(self) -> bool:
        """Whether the probabilities are relative to all tokens, not normalized over the choices."""
        return self.source in ("exact", "rounded", "top_logprobs")

    @property
    def is_unknown(self) -> bool:
        """Whether all scores are the same bound, so that they say nothing."""
        is_bounded = bool(self.bounded) and len(self.bounded) == len(self.logprobs)
        return is_bounded and len(set(self.logprobs)) == 1


@dataclass(frozen=True)
class Hypothesis:
    """One line of a beam search.

    Attributes:
        text: the whole line, with its label and without the line end.
        finished: False if the line has no end within `max_tokens`.
        logprob: of all tokens of the line; None if unknown.
    """

    text: str
    finished: bool
    logprob: float | None


@dataclass(frozen=True)
class Completion:
    """The answer to a request.

    Attributes:
        number: the request's.
        text: what the LM generated before the label prefix or the line end, unstripped.
        finish: `label_prefix`; `line`: a line end or the end of the text; `length`: `max_tokens`
            came first; `too_long`: the prompt leaves no space in the context; `refused`: the server
            refuses the prompt, or a filter cut the text; `reasoning`: the model thought, and
            `max_tokens` came before its answer.
        scores: of the choices after the label prefix, which is appended if the line ended without
            it. None after `length`, `too_long`, `refused` and `reasoning`, and if an endpoint
            reported no choice.
        prompt_tokens: read.
        completion_tokens: generated.
        logprob: of all generated tokens, before temperature, top-p, min-p and penalties; None if
            unknown.
        retokenised: whether the tokenizer splits prompt + text + label prefix, as one string, into
            other tokens than those that were read, generated and scored.
        hypotheses: of a beam search: most probable first at temperature 0, in the order of the
            draws above it. `text` is the first one's.
        label_tokens: read and generated by further requests for the label alone.
        requests: sent to an endpoint, those for the label included; 0 for a local LM.
        usd: price of these requests; None if unknown.
        detail: after `refused` and `reasoning`, why.
    """

    number: int
    text: str
    finish: Literal["label_prefix", "line", "length", "too_long", "refused", "reasoning"]
    scores: Scores | None
    prompt_tokens: int
    completion_tokens: int
    logprob: float | None = None
    retokenised: bool = False
    hypotheses: tuple[Hypothesis, ...] = ()
    label_tokens: int = 0
    requests: int = 0
    usd: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class LMInfo:
    """What is known about an LM before the first request.

    Attributes:
        model: its name in the config.
        fingerprint: hash of the weights (or of endpoint and model) and of every setting that can
            change an answer.
        context_length: in tokens; prompt and text share it.
        block_size: the most requests that are answered, and committed to the journal, together;
            see `next_block_start`. 1: every request is independent.
        count_tokens: returns the number of tokens in a prompt, those of a chat template included.
        details: device, dtype and the like, for people.
        is_local: whether it runs in this process, so that a request costs time only.
        count_parameters: returns the number of weights; None if it is unknown, as at an endpoint.
    """

    model: str
    fingerprint: str
    context_length: int
    block_size: int
    count_tokens: Callable[[str], int]
    details: str
    is_local: bool = False
    count_parameters: Callable[[], int | None] = lambda: None


class LM(Protocol):
    """A language model."""

    @property
    def info(self) -> LMInfo:
        """What is known about the LM before the first request."""

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield the answer to each request, in order.

        Equal blocks of requests (see `split_into_blocks`) have equal answers.
        """

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        """Return, for each prompt, the log-probability of each choice as its continuation."""

    def describe(self) -> str:
        """Return one line about what the LM offers, for people; an endpoint is probed for it."""


@runtime_checkable
class ParallelLM(Protocol):
    """An LM that several threads may ask for a block each; others are asked by one."""

    @property
    def parallel_blocks(self) -> int:
        """How many blocks it answers at the same time."""


@runtime_checkable
class JournalAware(Protocol):
    """An LM that stores its raw answers in a journal itself."""

    def with_journal(self, journal: Journal) -> LM:
        """Return the same LM for one journal: it looks answers up there and stores new ones."""


@dataclass(frozen=True)
class CostModel:
    """What one attempt costs, as far as this is known before the first request.

    The defaults describe a local LM, which costs nothing.

    Attributes:
        usd: takes prompt and completion tokens, returns dollars; None if the price is unknown.
        label_requests: further requests for the label of each row; 0 if it comes with the line.
        label_tokens: generated by each of these.
        score_requests: to score the label of one given text.
        whole_line: whether label prefix and label count as generated tokens, as at an endpoint.
        assumptions: what the estimate rests on where no earlier request tells more, for people.
        remarks: what else people should know.
    """

    usd: Callable[[float, float], float | None] = lambda prompt, completion: 0.0
    label_requests: int = 0
    label_tokens: int = 0
    score_requests: int = 0
    whole_line: bool = False
    assumptions: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@runtime_checkable
class Priced(Protocol):
    """An LM whose answers cost money."""

    def cost_model(self, request: Request, journal: Journal) -> CostModel:
        """Return what an attempt like `request` costs; sends nothing.

        Args:
            request: a typical one.
            journal: may hold what an earlier run learned about the endpoint.
        """


def next_block_start(number: int, max_size: int) -> int:
    """Return the number of the first request after the block that holds request `number`.

    Boundaries depend on the number alone: an answer's last digits depend on its block, and must not
    depend on how many rows are wanted. The size doubles, up to `max_size`, once a block of twice
    the size is at most a quarter of the requests before it. So a few missing rows cost at most a
    quarter more, and six rows do not cost hundreds of requests.
    """
    start, size = 0, min(FIRST_BLOCK_SIZE, max_size)
    while size < max_size and number >= 8 * size:
        start, size = 8 * size, min(2 * size, max_size)
    return start + ((number - start) // size + 1) * size


def split_into_blocks(requests: Iterable[Request], max_size: int) -> Iterator[list[Request]]:
    """Yield the requests block by block."""
    for _, block in itertools.groupby(
        requests, lambda request: next_block_start(request.number, max_size)
    ):
        yield list(block)


def open_lm(
    settings: LocalLMSettings | OpenAISettings,
    budget: Budget | None = None,
    journals: Callable[[], Sequence[Path]] = list,
    replay_only: bool = False,
    callbacks: Callbacks = NO_CALLBACKS,
    counts_only: bool = False,
) -> LM:
    """Return the language model for its settings.

    Args:
        settings: from the config.
        budget: limits of what an endpoint may cost.
        journals: returns the paths of all journals that count towards the budget.
        replay_only: answer from a journal and send nothing, so that an endpoint needs no key.
        callbacks: for slow or failing servers, and the conversion of a GGUF file.
        counts_only: no journal has an answer of it, so a local LM may have any fingerprint. Then
            its tokenizer is enough, if it is not known from before.

    Raises:
        UserError: if it cannot be opened.
    """
    match settings:
        case LocalLMSettings():
            from .lazy_lm import LazyLM

            def open_engine() -> LM:
                from .local.engine import LocalLM

                return LocalLM(settings, replay_only, callbacks)

            return LazyLM(settings, open_engine, replay_only, counts_only)
        case OpenAISettings():
            from .openai.engine import OpenAILM

            return OpenAILM(settings, budget, journals, replay_only, callbacks)
        case _:
            assert_never(settings)


def score_labels(lm: LM, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
    """Return the scores of every choice after every prompt, as `lm.score` does.

    Raises:
        UserError: if the server reports no choice after any prompt.
    """
    scores = lm.score(prompts, choices)
    if scores and all(item.is_unknown for item in scores):
        raise UserError(
            f"lm {lm.info.model}: the server reports no probability for any of the labels "
            + ", ".join(choice.strip() for choice in choices),
            "use other label words (task.labels), lm.label_source: vote, or another LM",
        )
    return scores


# Costs -------------------------------------------------------------------------------------------


def costs_money(settings: LocalLMSettings | OpenAISettings | None) -> bool:
    """Return whether requests to this LM are paid for or limited by a budget."""
    return isinstance(settings, OpenAISettings)


def check_prices(settings: LocalLMSettings | OpenAISettings | None) -> None:
    """Check the price file of an endpoint's settings, where they name one.

    Raises:
        UserError: if the file is invalid or lacks the model.
    """
    if isinstance(settings, OpenAISettings):
        from .openai.budget import load_price

        load_price(settings.model, settings.prices)


def cost_model_for(lm: LM, request: Request, journals: Sequence[Path]) -> CostModel:
    """Return what an attempt like `request` costs; sends nothing.

    Args:
        lm: local, or an endpoint.
        request: a typical one.
        journals: of the experiment; any of them may hold what was learned about the endpoint.
    """
    if not isinstance(lm, Priced):
        return CostModel()
    with closing(Journal(IN_MEMORY, journals)) as journal:
        return lm.cost_model(request, journal)
