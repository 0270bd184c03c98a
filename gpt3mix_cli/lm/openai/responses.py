"""What answers of OpenAI's protocol say: texts, tokens, lines and their log-probabilities.

`answers` makes these records. Log-probabilities are natural logarithms.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

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


def parse_context(answer: Any, model: str) -> int:
    """Return the context in tokens that a server's list of models reports; 0 if none.

    vLLM has it as `max_model_len`, llama.cpp as `n_ctx`, which is that of one slot.
    """
    entries = answer.get("data") if isinstance(answer, Mapping) else None
    entries = entries if isinstance(entries, list) else ()
    models = [entry for entry in entries if isinstance(entry, Mapping)]
    named = [entry for entry in models if entry.get("id") == model] or (
        models if len(models) == 1 else []
    )
    for entry in named:
        meta = entry.get("meta")
        values = [entry.get("max_model_len"), meta.get("n_ctx") if isinstance(meta, Mapping) else 0]
        known = [value for value in values if type(value) is int and value > 0]
        if known:
            return min(known)
    return 0


@dataclass(frozen=True)
class Line:
    """A generated line.

    Attributes:
        text: what precedes the label prefix; the whole line if there is none.
        finish: as in `Completion`.
        label_tokens: the tokens after the label prefix; empty if unknown.
    """

    text: str
    finish: Literal["label_prefix", "line", "length"]
    label_tokens: Sequence[TokenLogprobs] = ()

    @property
    def label_logprobs(self) -> Mapping[str, float]:
        """Token -> log-probability of the first token after the prefix; empty if unknown."""
        return self.label_tokens[0].top if self.label_tokens else {}


def parse_line(text: GeneratedText, label_prefix: str, chat: bool = False) -> Line:
    """Return the first line of a text that is not empty.

    The label prefix may differ in case and spacing, as it often does in chats. Of a chat's answer,
    it is the first line with the label prefix, wherever it is; or else the first that does not end
    in a colon, as `Sure! Here is another movie review:` does.
    """
    whole = text.text
    words = [re.escape(word) for word in re.findall(r"\w+|[^\w\s]", label_prefix)]
    pattern = re.compile(r"\s*".join(["", *words]) if words else r"(?!)", re.IGNORECASE)
    start, end = _find_line(whole, pattern, chat)
    finished = text.finished or end < len(whole)
    prefix = pattern.search(whole, start, end)
    if not prefix:
        return Line(whole[start:end], "line" if finished else "length")
    if not finished and not whole[prefix.end() : end].strip(" )"):
        return Line(whole[start:end], "length")
    label_tokens = _tokens_from(text.tokens, whole, prefix.end())
    return Line(whole[start : prefix.start()], "label_prefix", label_tokens)


def _find_line(whole: str, pattern: re.Pattern[str], chat: bool) -> tuple[int, int]:
    """Return where the line begins and ends; see `parse_line`."""
    lines = [match.span() for match in re.finditer(r"[^\n\r]+", whole)]
    if chat:
        rows = [line for line in lines if pattern.search(whole, *line)]
        others = (line for line in lines if not whole[slice(*line)].rstrip().endswith(":"))
        lines = rows or list(others)
    return lines[0] if lines else (len(whole), len(whole))


def _tokens_from(
    tokens: Sequence[TokenLogprobs], whole: str, index: int
) -> Sequence[TokenLogprobs]:
    """Return the tokens from the one that begins at an index of the text, or after a space.

    Returns none if no token begins there.
    """
    if join_tokens(tokens)[: len(whole)] != whole:
        return ()  # tokens do not spell the text, for example ids or parts of characters
    offset = 0
    for number, token in enumerate(tokens):
        if offset >= index and token.token.strip():
            # A separate space before the label is a token that the prompt does not have.
            return tokens[number:] if whole[index:offset].strip() == "" else ()
        offset += len(token.token)
        if offset > index and token.token.strip():
            return ()  # one token spans the end of the label prefix and the start of the label
    return ()


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
