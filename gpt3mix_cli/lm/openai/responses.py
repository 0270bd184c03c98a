"""What answers of OpenAI's protocol say: texts, tokens, lines and their log-probabilities.

`answers` makes these records. Log-probabilities are natural logarithms.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

UNKNOWN_LOGPROB = -9999.0  # what servers send for minus infinity and for unknown log-probabilities


@dataclass(frozen=True)
class Usage:
    """Tokens of an answer.

    Attributes:
        prompt: read.
        completion: generated.
        cached: of `prompt`, those that the server had cached.
        estimated: whether the server reports no count, so that ours takes its place.
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    estimated: bool = False


@dataclass(frozen=True)
class TokenLogprobs:
    """One generated token and its alternatives.

    Attributes:
        token: its text.
        logprob: its log-probability; None if unreported.
        top: token -> log-probability of the likeliest tokens at this position.
        offset: index of its first character in the text, as the server reports it; None if it does
            not.
    """

    token: str
    logprob: float | None
    top: dict[str, float]
    offset: int | None = None


@dataclass(frozen=True)
class GeneratedText:
    """One text of an answer.

    Attributes:
        text: the text, without what the model thought before it.
        finished: False if max_tokens was reached.
        tokens: its tokens; empty if the server reported no log-probabilities.
        blocked: why the text must not be used, such as a content filter; empty if it may be.
        only_reasoning: whether the model thought and did not get to its answer.
        generated: all that the model generated, for a count of its tokens.
    """

    text: str
    finished: bool
    tokens: Sequence[TokenLogprobs] = field(default_factory=list)
    blocked: str = ""
    only_reasoning: bool = False
    generated: str = ""

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


def join_tokens(tokens: Sequence[TokenLogprobs]) -> str:
    """Return the text that tokens spell."""
    return "".join(token.token for token in tokens)


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
    end = start + len(re.split(r"[\n\r]", whole[start:], maxsplit=1)[0])
    finished = text.finished or end < len(whole)
    words = [re.escape(word) for word in re.findall(r"\w+|[^\w\s]", label_prefix)]
    pattern = re.compile(r"\s*".join(["", *words]), re.IGNORECASE)
    prefix = pattern.search(whole, start, end) if label_prefix else None
    if not prefix:
        return Line(whole[start:end], "line" if finished else "length", {})
    if not finished and not whole[prefix.end() : end].strip(" )"):
        return Line(whole[start:end], "length", {})
    label_logprobs = _logprobs_at(text.tokens, whole, prefix.end())
    return Line(whole[start : prefix.start()], "label_prefix", label_logprobs)


def _logprobs_at(tokens: Sequence[TokenLogprobs], whole: str, index: int) -> Mapping[str, float]:
    """Return the distribution of the token that begins at an index of the text, or after a space.

    Returns an empty one if no token begins there.
    """
    if join_tokens(tokens)[: len(whole)] != whole:
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


def echo_logprob(text: GeneratedText, context: str, choice: str) -> float | None:
    """Return the log-probability of a choice at the end of an echoed prompt; None if unknown.

    Tokens are assigned by character offset. It is unknown if a token spans the end of the context
    and the start of the choice.
    """
    begin, end = len(context), len(context) + len(choice)
    tokens = [
        token for token in text.tokens if token.offset is not None and begin <= token.offset < end
    ]
    logprobs = [token.logprob for token in tokens if token.logprob is not None]
    spelled = "".join(token.token for token in tokens)
    if not tokens or tokens[0].offset != begin or spelled != choice or len(logprobs) < len(tokens):
        return None
    return math.fsum(logprobs)
