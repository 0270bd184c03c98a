"""OpenAI's protocol as its servers speak it: what is asked, and how the answers are read. Nothing is sent here.

All functions are pure, so that answers in a journal can be read again, and otherwise, for nothing. Where servers differ
the differences stand in `Ways`, which `probe` fills by asking. Log-probabilities are natural logarithms.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..port import Request, Scores

CONTINUES = "You continue lists. Answer with the next item alone, on one line, in the form of the items before it."
LABELS = (
    "You complete the last line of a list. Answer with one of these labels alone, as it stands: "
)
NO_TOKEN = (
    -9999.0
)  # what servers say in place of minus infinity, and of log-probabilities that they do not know
BEYOND = -1e-9  # the highest log-probability of what is not certain
SPELLINGS = (
    6  # of a label: with and without its space, as it stands, in small and in capital letters
)
LEAST = 1e-6  # probability of a label that an answer without log-probabilities leaves out
# What turns off the sampling that servers do by themselves (llama.cpp: 40 tokens, penalties; vLLM: as the model's folder says).
PLAIN = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "repetition_penalty": 1.0}
SEED = 1 << 31  # some servers take seeds of 32 bits with a sign
SLIGHT = 0.01  # a frequency penalty, the default one, that moves a label by no more than that


class BadAnswer(Exception):
    """An answer that is not what the protocol says: half of it, or another thing."""


@dataclass(frozen=True)
class Call:
    """One request to an endpoint.

    Attributes:
        path: below the base URL, such as `/completions`; `//tokenize` stands beside it, at the server's root.
        body: its JSON.
        number: tells calls of equal bodies apart: attempt, and of several draws for one attempt which.
    """

    path: str
    body: Mapping[str, Any]
    number: str = ""


@dataclass(frozen=True)
class Usage:
    """Tokens of an answer; `cached` ones are among those of the prompt."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


@dataclass(frozen=True)
class Capabilities:
    """How a server is asked, found by probing it.

    Attributes:
        api: the paper's prompt as it is, or the same task put as a chat.
        labels: where label scores come from, besides the LM's own line. `ids`: the log-probabilities of the labels' tokens,
            by vLLM's `logprob_token_ids`; `echo`: those of a prompt that ends in the label; `none`: nowhere.
        top: how many log-probabilities a token the server gives; 0: none.
        limit: the name of the parameter that bounds the tokens.
        refused: parameters that the server would not take; they are left out.
        many: whether `n` texts may be asked for at once.
        plain: whether the server is told to leave out sampling of its own kind, which would make other texts than were asked for.
        raw: whether log-probabilities are those before temperature and top-p, as they are at OpenAI; at SGLang they are not.
    """

    api: Literal["completions", "chat"] = "completions"
    labels: Literal["ids", "echo", "decision", "top_logprobs", "vote", "none"] = "none"
    top: int = 0
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    refused: tuple[str, ...] = ()
    many: bool = False
    plain: bool = False
    raw: bool = True

    def tells_raw(self, request: Request) -> bool:
        """Return whether the log-probabilities that come with a request's text are the LM's own, or as good as those."""
        return self.raw or (
            request.temperature == 1
            and request.top_p == 1
            and abs(request.frequency_penalty) <= SLIGHT
        )


@dataclass(frozen=True)
class Position:
    """One token that was written, and what might have stood in its place: token -> log-probability, itself included."""

    token: str
    logprob: float | None
    top: dict[str, float]


@dataclass(frozen=True)
class Text:
    """One text of an answer; `ended` is False where the tokens ran out. Without log-probabilities there are no positions."""

    text: str
    ended: bool
    positions: Sequence[Position] = field(default_factory=list)

    @property
    def logprob(self) -> float | None:
        """Of all its tokens together."""
        found = [position.logprob for position in self.positions]
        known = [value for value in found if value is not None and value > NO_TOKEN]
        return math.fsum(known) if known and len(known) == len(found) else None


# Asking --------------------------------------------------------------------------------------------------------------


def body(
    ways: Capabilities, model: str, prompt: str | Sequence[int], system: str = "", **fields: Any
) -> dict[str, Any]:
    """Return what is asked for a text.

    Args:
        ways: of the server.
        model: as the server calls it.
        prompt: what is to be continued.
        system: in a chat, what is to be done with it.
        fields: `max_tokens`, `temperature` and so on; `logprobs` is a number of them; None leaves a field out.
    """
    asked: dict[str, Any] = {"model": model}
    if ways.api == "completions":
        asked["prompt"] = prompt
    else:
        asked["messages"] = [
            {"role": "system", "content": system},
            {"role": "user", "content": prompt},
        ]
        if fields.get("logprobs"):
            fields["top_logprobs"], fields["logprobs"] = fields["logprobs"], True
        fields.pop("stop", None)  # a chat may begin with an empty line
    fields[ways.limit] = fields.pop("max_tokens")
    asked |= PLAIN if ways.plain else {}
    return {
        name: value
        for name, value in (asked | fields).items()
        if value is not None and name not in ways.refused
    }


def writing(
    request: Request,
    ways: Capabilities,
    model: str,
    seam_tokens: int,
    label_ids: Sequence[int],
    copies: int = 1,
) -> dict[str, Any]:
    """Return the body that asks for a request's text.

    The line is written to its end: so the label's distribution stands in the same answer, at the place behind the label prefix.

    Args:
        request: what is wanted.
        ways: of the server.
        model: as the server calls it.
        seam_tokens: room for the label prefix and the label behind it.
        label_ids: the labels' tokens, where the server scores tokens by their ids.
        copies: how many texts.
    """
    scored = bool(request.choices)
    fields: dict[str, Any] = {
        "max_tokens": request.max_tokens + (seam_tokens if scored else 0),
        "temperature": request.temperature,
        # Always told, since servers have defaults of their own.
        "top_p": request.top_p,
        "frequency_penalty": request.frequency_penalty,
        "seed": request.seed % SEED,
        "stop": ["\n"],
        "n": copies if copies > 1 else None,
    }
    if scored and ways.top:
        fields["logprobs"] = 1 if label_ids else ways.top
        if label_ids:
            fields["logprob_token_ids"] = list(label_ids)
    elif ways.top:
        fields["logprobs"] = 1
    return body(ways, model, request.prompt, CONTINUES, **fields)


def labelling(
    context: str | Sequence[int],
    choices: Sequence[str],
    ways: Capabilities,
    model: str,
    **fields: Any,
) -> dict[str, Any]:
    """Return the body that asks for the label after a context, one token of it unless `fields` say otherwise.

    Temperature and top-p are 1, whatever the server's own are: so log-probabilities are the raw ones even where a server tells
    them after sampling's changes, and votes are drawn from the whole distribution.
    """
    named = ", ".join(choice.strip() for choice in choices)
    return body(
        ways,
        model,
        context,
        LABELS + named,
        **{"max_tokens": 1, "temperature": 1.0, "top_p": 1.0, **fields},
    )


def decision(context: str, choices: Sequence[str], model: str) -> dict[str, Any]:
    """Return the body that asks OpenAI's decisions for the label after a context."""
    question = {
        "type": "choice",
        "name": "label",
        "instructions": "The label with which the last line goes on.",
        "choices": [{"value": choice.strip()} for choice in choices],
    }
    return {"model": model, "input": context, "questions": [question]}


# Reading -------------------------------------------------------------------------------------------------------------


def texts(answer: Mapping[str, Any], api: str) -> list[Text]:
    """Return the texts of an answer.

    Raises:
        BadAnswer: if there is none.
    """
    try:
        if found := [_text(choice, api) for choice in answer["choices"]]:
            return found
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadAnswer(
            f"the answer has no choices as the protocol has them ({type(error).__name__}: {error})"
        ) from None
    raise BadAnswer("the answer has no choices")


def _text(choice: Mapping[str, Any], api: str) -> Text:
    ended = choice.get("finish_reason") != "length"
    logprobs = choice.get("logprobs") or {}
    if api == "completions":
        tops = logprobs.get("top_logprobs") or []
        positions = [
            Position(
                token,
                _value(value),
                {name: max(float(known), NO_TOKEN) for name, known in (top or {}).items()},
            )
            for token, value, top in zip(
                logprobs.get("tokens") or [],
                logprobs.get("token_logprobs") or [],
                tops,
                strict=False,
            )
        ]
        return Text(_words(choice["text"]), ended, positions)
    content = logprobs.get("content") or []
    positions = [
        Position(
            one["token"],
            _value(one["logprob"]),
            {other["token"]: float(other["logprob"]) for other in one.get("top_logprobs") or ()},
        )
        for one in content
    ]
    return Text(_words(choice["message"]["content"] or ""), ended, positions)


def _value(told: Any) -> float | None:
    return None if told is None else float(told)


def _words(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"its text is {value!r}")
    return value


def usage(answer: Mapping[str, Any]) -> Usage:
    """Return the tokens that an answer says it has cost; those it does not tell are 0."""
    told, cached = answer.get("usage"), 0
    if not isinstance(told, Mapping):
        return Usage()
    if isinstance(
        details := told.get("prompt_tokens_details", told.get("input_tokens_details")), Mapping
    ):
        cached = details.get("cached_tokens", 0)
    counts = [
        told.get("prompt_tokens", told.get("input_tokens")),
        told.get("completion_tokens", told.get("output_tokens")),
        cached,
    ]
    return Usage(*(count if isinstance(count, int) else 0 for count in counts))


@dataclass(frozen=True)
class Line:
    """The line that an LM wrote.

    Attributes:
        text: what stands before the label prefix, or all of it.
        finish: as in `Completion`.
        label: what might have stood at the label's place: token -> log-probability; empty where that is unknown.
    """

    text: str
    finish: Literal["label_prefix", "line", "length"]
    label: Mapping[str, float]


def line(text: Text, label_prefix: str) -> Line:
    """Return the line of a text: a chat's may stand below empty ones, and its label prefix may be spelled otherwise."""
    whole = text.text
    start = len(whole) - len(whole.lstrip("\n\r"))
    end = next(
        (start + match.start() for match in re.finditer(r"[\n\r]", whole[start:])), len(whole)
    )
    ended = text.ended or end < len(whole)
    found = _label_prefix(label_prefix).search(whole, start, end) if label_prefix else None
    if not found:
        return Line(whole[start:end], "line" if ended else "length", {})
    behind = whole[found.end() : end].strip(" )")
    if not behind and not ended:
        return Line(whole[start:end], "length", {})
    return Line(
        whole[start : found.start()], "label_prefix", _at(text.positions, whole, found.end())
    )


def _label_prefix(label_prefix: str) -> re.Pattern[str]:
    """Return what finds a label prefix in any case and spacing."""
    words = re.findall(r"\w+|[^\w\s]", label_prefix)
    return re.compile(r"\s*".join(["", *map(re.escape, words)]), re.IGNORECASE)


def _at(positions: Sequence[Position], whole: str, place: int) -> Mapping[str, float]:
    """Return the distribution of the token that begins at a place of the text, or at the space there."""
    if "".join(position.token for position in positions)[: len(whole)] != whole:
        return {}  # tokens that spell something else, such as ids or parts of letters
    offset = 0
    for position in positions:
        if offset >= place and position.token.strip():
            # A space of its own before the label is a token that the prompt does not have.
            return position.top if whole[place:offset].strip() == "" else {}
        offset += len(position.token)
        if offset > place and position.token.strip():
            return {}  # one token holds the label prefix's end and the label's beginning
    return {}


# Labels --------------------------------------------------------------------------------------------------------------


def label_scores(
    top: Mapping[str, float], choices: Sequence[str], chat: bool = False, merge: bool = False
) -> Scores | None:
    """Return the scores of labels from the likeliest tokens at their place; None if none of the labels is there.

    Each label that is there as one whole token, spelled as in the prompt, is exact if all are. Otherwise its spellings in
    other case and spacing are added up, with its beginnings of more than a letter. A label that is not there has the highest
    log-probability that its spellings can have, and so has one with a beginning that fits another label too: no label is
    certain because the others were cut off.

    Args:
        top: token -> log-probability.
        choices: the labels with their leading space.
        chat: there the label begins the answer, and no spelling of it is the right one.
        merge: add spellings up in any case.
    """
    if not (chat or merge) and all(top.get(choice, NO_TOKEN) > NO_TOKEN for choice in choices):
        return Scores(tuple(min(top[choice], 0.0) for choice in choices))
    folded = [choice.strip().casefold() for choice in choices]
    own, shared = [0.0] * len(choices), [0.0] * len(choices)
    for token, logprob in top.items():
        spelled = token.strip().casefold()
        whole = [place for place, label in enumerate(folded) if label == spelled]
        fitting = whole or [
            place
            for place, label in enumerate(folded)
            if len(spelled) > 1 and label.startswith(spelled)
        ]
        for place in fitting:
            (own if len(fitting) == 1 else shared)[place] += math.exp(logprob)
    if not any(own):
        return None
    told = [value for value in top.values() if value > NO_TOKEN]
    rest = max(1 - math.fsum(map(math.exp, told)), LEAST)
    unseen = min(rest, SPELLINGS * math.exp(min(told)))
    masses = [(mass or unseen) + also for mass, also in zip(own, shared, strict=True)]
    bounded = tuple(place for place in range(len(choices)) if shared[place] or not own[place])
    return Scores(tuple(min(math.log(mass), BEYOND) for mass in masses), "top_logprobs", bounded)


def by_ids(text: Text, ids: Sequence[int]) -> list[float] | None:
    """Return the log-probabilities of tokens by their ids; None if the server has passed over the question."""
    top = text.positions[0].top if text.positions else {}
    found = [top.get(f"token_id:{token}") for token in ids]
    return (
        [value for value in found if value is not None]
        if all(value is not None for value in found)
        else None
    )


def echoed(answer: Mapping[str, Any], context: str, choice: str) -> float | None:
    """Return the log-probability of a choice in a prompt that was echoed; None where that cannot be told.

    The tokens are told apart by their offsets in characters; one that holds the context's end and the choice's beginning
    belongs to neither.
    """
    try:
        logprobs = answer["choices"][0]["logprobs"]
        places = list(
            zip(
                logprobs["text_offset"], logprobs["tokens"], logprobs["token_logprobs"], strict=True
            )
        )
        begin, end = len(context), len(context) + len(choice)
        inside = [
            (offset, token, value) for offset, token, value in places if begin <= offset < end
        ]
        if (
            not inside
            or inside[0][0] != begin
            or "".join(token for _, token, _ in inside) != choice
        ):
            return None
        return math.fsum(float(value) for _, _, value in inside)
    except (KeyError, TypeError, IndexError, ValueError):
        return None


def decided(answer: Mapping[str, Any], choices: Sequence[str]) -> Scores | None:
    """Return the scores of a decision; None if the model refused.

    Raises:
        BadAnswer: if it is no decision.
    """
    try:
        told = answer["answers"][0]
        if told.get("type") == "refusal":
            return None
        shares = {one["value"]: float(one["probability"]) for one in told["probabilities"]}
        found = [shares[choice.strip()] for choice in choices]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise BadAnswer(
            f"the decision has no probabilities ({type(error).__name__}: {error})"
        ) from None
    missing = tuple(place for place, share in enumerate(found) if share < LEAST)
    return Scores(tuple(math.log(max(share, LEAST)) for share in found), "decision", missing)


def voted(written: Sequence[str], choices: Sequence[str]) -> Scores | None:
    """Return the shares of labels that were drawn, half a vote added to each (Krichevsky and Trofimov); None without any vote."""
    counts = [0] * len(choices)
    folded = sorted(
        ((choice.strip().casefold(), place) for place, choice in enumerate(choices)),
        key=lambda one: -len(one[0]),
    )
    for text in written:
        said = text.strip().casefold()
        place = next((place for label, place in folded if said.startswith(label)), None)
        if place is not None:
            counts[place] += 1
    if not any(counts):
        return None
    whole = sum(counts) + len(choices) / 2
    return Scores(tuple(math.log((count + 0.5) / whole) for count in counts), "vote")
