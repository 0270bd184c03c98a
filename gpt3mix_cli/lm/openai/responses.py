"""Parses the answers of OpenAI's protocol; all functions are pure.

So answers in a journal can be parsed again, also differently, at no cost. Log-probabilities are
natural logarithms.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

UNKNOWN_LOGPROB = -9999.0  # what servers send for minus infinity and for unknown log-probabilities


class InvalidResponse(Exception):
    """An answer that does not follow the protocol, for example because it was cut off."""


@dataclass(frozen=True)
class Usage:
    """Tokens of an answer; `cached` counts those of `prompt` that the server had cached."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


@dataclass(frozen=True)
class TokenLogprobs:
    """One generated token and its alternatives.

    Attributes:
        token: its text.
        logprob: its log-probability; None if unreported.
        top: token -> log-probability of the likeliest tokens at this position.
    """

    token: str
    logprob: float | None
    top: dict[str, float]


@dataclass(frozen=True)
class GeneratedText:
    """One text of an answer.

    Attributes:
        text: the text.
        finished: False if max_tokens was reached.
        tokens: its tokens; empty if the server reported no log-probabilities.
    """

    text: str
    finished: bool
    tokens: Sequence[TokenLogprobs] = field(default_factory=list)

    @property
    def logprob(self) -> float | None:
        """The log-probability of the whole text; None if that of any token is unknown."""
        logprobs = [token.logprob for token in self.tokens]
        known = [value for value in logprobs if value is not None and value > UNKNOWN_LOGPROB]
        return math.fsum(known) if known and len(known) == len(logprobs) else None

    @property
    def first_top(self) -> Mapping[str, float]:
        """The likeliest first tokens and their log-probabilities; empty if unknown."""
        return self.tokens[0].top if self.tokens else {}


def parse_texts(answer: Mapping[str, Any], api: str) -> list[GeneratedText]:
    """Return the texts of an answer; `api` is that of `Capabilities`.

    Raises:
        InvalidResponse: if there is none.
    """
    parse = _completion_text if api == "completions" else _chat_text
    try:
        texts = [parse(choice) for choice in answer["choices"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidResponse(
            f"the answer has no valid choices ({type(error).__name__}: {error})"
        ) from None
    if not texts:
        raise InvalidResponse("the answer has no choices")
    return texts


def _completion_text(choice: Mapping[str, Any]) -> GeneratedText:
    logprobs = choice.get("logprobs") or {}
    columns = [logprobs.get(name) or [] for name in ("tokens", "token_logprobs", "top_logprobs")]
    tokens = [
        TokenLogprobs(
            token,
            _float_or_none(logprob),
            {name: max(float(value), UNKNOWN_LOGPROB) for name, value in (top or {}).items()},
        )
        for token, logprob, top in zip(*columns, strict=False)
    ]
    return GeneratedText(_checked_text(choice["text"]), _is_finished(choice), tokens)


def _chat_text(choice: Mapping[str, Any]) -> GeneratedText:
    tokens = [
        TokenLogprobs(
            entry["token"],
            _float_or_none(entry["logprob"]),
            {other["token"]: float(other["logprob"]) for other in entry.get("top_logprobs") or ()},
        )
        for entry in (choice.get("logprobs") or {}).get("content") or []
    ]
    text = _checked_text(choice["message"]["content"] or "")
    return GeneratedText(text, _is_finished(choice), tokens)


def _is_finished(choice: Mapping[str, Any]) -> bool:
    return choice.get("finish_reason") != "length"


def _float_or_none(value: Any) -> float | None:
    return None if value is None else float(value)


def _checked_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"its text is {value!r}")
    return value


def parse_usage(answer: Mapping[str, Any]) -> Usage:
    """Return the tokens that an answer reports; unreported counts are 0."""
    usage = answer.get("usage")
    if not isinstance(usage, Mapping):
        return Usage()
    details = usage.get("prompt_tokens_details", usage.get("input_tokens_details"))
    counts = [
        usage.get("prompt_tokens", usage.get("input_tokens")),
        usage.get("completion_tokens", usage.get("output_tokens")),
        details.get("cached_tokens", 0) if isinstance(details, Mapping) else 0,
    ]
    return Usage(*(count if isinstance(count, int) else 0 for count in counts))


@dataclass(frozen=True)
class Line:
    """A generated line.

    Attributes:
        text: what precedes the label prefix; the whole line if there is none.
        finish: as in `Completion`.
        label_logprobs: token -> log-probability of the token after the label prefix; empty if
            unknown.
    """

    text: str
    finish: Literal["label_prefix", "line", "length"]
    label_logprobs: Mapping[str, float]


def parse_line(text: GeneratedText, label_prefix: str) -> Line:
    """Return the first line of a text that is not empty.

    The label prefix may differ in case and spacing, as it often does in chats.
    """
    whole = text.text
    start = len(whole) - len(whole.lstrip("\n\r"))
    line_end = re.compile(r"[\n\r]").search(whole, start)
    end = line_end.start() if line_end else len(whole)
    finished = text.finished or line_end is not None
    prefix = _prefix_pattern(label_prefix).search(whole, start, end) if label_prefix else None
    if not prefix:
        return Line(whole[start:end], "line" if finished else "length", {})
    if not finished and not whole[prefix.end() : end].strip(" )"):
        return Line(whole[start:end], "length", {})
    logprobs = _logprobs_at(text.tokens, whole, prefix.end())
    return Line(whole[start : prefix.start()], "label_prefix", logprobs)


def _prefix_pattern(label_prefix: str) -> re.Pattern[str]:
    """Return a pattern that matches the label prefix in any case and spacing."""
    words = re.findall(r"\w+|[^\w\s]", label_prefix)
    return re.compile(r"\s*".join(["", *map(re.escape, words)]), re.IGNORECASE)


def _logprobs_at(tokens: Sequence[TokenLogprobs], whole: str, index: int) -> Mapping[str, float]:
    """Return the distribution of the token that begins at an index of the text, or after a space.

    Returns an empty one if no token begins there.
    """
    if "".join(token.token for token in tokens)[: len(whole)] != whole:
        return {}  # tokens do not spell the text, for example ids or parts of characters
    offset = 0
    for token in tokens:
        if offset >= index and token.token.strip():
            # A separate space before the label is a token that the prompt does not have.
            return token.top if whole[index:offset].strip() == "" else {}
        offset += len(token.token)
        if offset > index and token.token.strip():
            return {}  # one token spans the end of the label prefix and the start of the label
    return {}


def token_id_logprobs(text: GeneratedText, ids: Sequence[int]) -> list[float] | None:
    """Return log-probabilities by token id; None if the server ignored `logprob_token_ids`."""
    logprobs = [text.first_top.get(f"token_id:{token}") for token in ids]
    known = [value for value in logprobs if value is not None]
    return known if len(known) == len(ids) else None


def echo_logprob(answer: Mapping[str, Any], context: str, choice: str) -> float | None:
    """Return the log-probability of a choice at the end of an echoed prompt; None if unknown.

    Tokens are assigned by character offset. It is unknown if a token spans the end of the context
    and the start of the choice.
    """
    try:
        logprobs = answer["choices"][0]["logprobs"]
        columns = [logprobs[name] for name in ("text_offset", "tokens", "token_logprobs")]
        begin, end = len(context), len(context) + len(choice)
        tokens = [row for row in zip(*columns, strict=True) if begin <= row[0] < end]
        if tokens[0][0] != begin or "".join(token for _, token, _ in tokens) != choice:
            return None
        return math.fsum(float(value) for _, _, value in tokens)
    except (KeyError, TypeError, IndexError, ValueError):
        return None
