"""Parses the answers of OpenAI's protocol, errors included; nothing is sent here.

So answers in a journal can be parsed again, also differently, at no cost. Log-probabilities are
natural logarithms.
"""

import email.utils
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

UNKNOWN_LOGPROB = -9999.0  # what servers send for minus infinity and for unknown log-probabilities
REQUEST_ERRORS = ("validation error", "is not supported")  # llama-cpp-python sends these as a 500


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
    try:
        texts = [_parse_text(choice, api) for choice in answer["choices"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidResponse(
            f"the answer has no valid choices ({type(error).__name__}: {error})"
        ) from None
    if not texts:
        raise InvalidResponse("the answer has no choices")
    return texts


def _parse_text(choice: Mapping[str, Any], api: str) -> GeneratedText:
    logprobs = choice.get("logprobs") or {}
    if api == "completions" and "content" not in logprobs:
        text = choice["text"]
        columns = [
            logprobs.get(name) or [] for name in ("tokens", "token_logprobs", "top_logprobs")
        ]
        tokens = [
            _parse_token(token, logprob, (top or {}).items())
            for token, logprob, top in zip(*columns, strict=False)
        ]
    else:
        # llama-server reports log-probabilities of completions in this form too.
        text = choice["text"] if api == "completions" else choice["message"]["content"] or ""
        tokens = []
        for entry in logprobs.get("content") or []:
            top = [(other["token"], other["logprob"]) for other in entry.get("top_logprobs") or ()]
            tokens.append(_parse_token(entry["token"], entry["logprob"], top))
    if not isinstance(text, str):
        raise TypeError(f"its text is {text!r}")
    return GeneratedText(text, choice.get("finish_reason") != "length", tokens)


def _parse_token(token: Any, logprob: Any, top: Iterable[tuple[str, Any]]) -> TokenLogprobs:
    if not isinstance(token, str):
        raise TypeError(f"one of its tokens is {token!r}")
    return TokenLogprobs(
        token,
        None if logprob is None else float(logprob),
        {other: max(float(value), UNKNOWN_LOGPROB) for other, value in top},
    )


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


def parse_context(answer: Any, model: str) -> int:
    """Return the context in tokens that a server's list of models tells of one; 0 if none.

    vLLM has it as `max_model_len`, llama.cpp as `n_ctx`, which is that of one slot.
    """
    entries = answer.get("data") if isinstance(answer, Mapping) else None
    models = [entry for entry in entries or () if isinstance(entry, Mapping)]
    named = [entry for entry in models if entry.get("id") == model] or models[:1]
    for entry in named:
        meta = entry.get("meta")
        values = [entry.get("max_model_len"), meta.get("n_ctx") if isinstance(meta, Mapping) else 0]
        known = [value for value in values if isinstance(value, int) and value > 0]
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
    if "".join(token.token for token in tokens)[: len(whole)] != whole:
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


# Errors ------------------------------------------------------------------------------------------


class HttpError(Exception):
    """An answer with an error status; raised if the server rejects the request itself.

    Attributes:
        status: the HTTP status; 400 for a 500 that blames the request.
        message: the server's message, on one line.
        code: the protocol's error code, such as `unsupported_parameter`.
        param: the field that was rejected.
        type: the protocol's error type.
        retry_after: seconds that the server asks to wait; None if it does not say.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str = "",
        param: str = "",
        type: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after
        self.code, self.param, self.type = code, param, type


def parse_error(
    status: int, text: str, headers: Mapping[str, str], redact: Callable[[str], str] = str
) -> HttpError:
    """Return what an error answer says.

    Args:
        status: of the answer.
        text: its body without secrets.
        headers: of the answer.
        redact: removes secrets from decoded fields: JSON may spell them with escapes in the body.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    error = value.get("error", value) if isinstance(value, Mapping) else None
    fields = error if isinstance(error, Mapping) else {"message": error}
    message = str(fields.get("message") or fields.get("detail") or text or "no message")
    message = redact(" ".join(message.split()))[:1000]
    if status == 500 and any(pattern in message for pattern in REQUEST_ERRORS):
        status = 400
    code, param, type_ = (redact(str(fields.get(name) or "")) for name in ("code", "param", "type"))
    return HttpError(status, message, code, param, type_, _retry_after(headers))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        try:
            return max(float(value) * unit, 0.0)
        except ValueError:  # missing, or a date
            if date := email.utils.parsedate_tz(value):
                return max(email.utils.mktime_tz(date) - time.time(), 0.0)
    return None
