"""Why an answer of OpenAI's protocol is no result: an error status, or a form that it never has.

Nothing is sent here. What a message says is text: it is decoded, put on one line and cut.
"""

import email.utils
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

REQUEST_ERRORS = ("validation error", "is not supported")  # llama-cpp-python sends these as a 500
# Of a 403 that is about the prompt, not about the key (OpenRouter's).
MODERATION_ERRORS = ("moderation", "flagged", "content_filter", "content policy", "content_policy")
CONTEXT_ERRORS = (  # how servers say that a prompt is too long
    "context_length_exceeded",
    "maximum context length",
    "context window",
    "exceed context",
    "context size",
    "longer than the maximum",
)
PROMPT_STATUSES = (400, 413, 422, 451)  # about the request itself, not about the key or the path
# Part of the code or type of an error without a status -> the status that it would have.
STATUS_BY_WORD = {
    "quota": 429,
    "rate_limit": 429,
    "insufficient": 402,
    "auth": 401,
    "api_key": 401,
    "invalid": 400,
    "unsupported": 400,
    "context": 400,
    "content": 400,
}
BAD_GATEWAY = 502  # of an error that does not say what it is: it may pass
MAX_MESSAGE_CHARS = 1000
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # NULs and halves of characters


class InvalidResponse(ValueError):
    """An answer that does not follow the protocol, for example because it was cut off."""


class HttpError(Exception):
    """An answer with an error status; raised if the server rejects the request itself.

    Attributes:
        status: the HTTP status; 400 for a 500 or 403 that blames the request.
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

    @property
    def is_about_request(self) -> bool:
        """Whether another prompt may be answered: the key, the path and the server are right."""
        return self.status in PROMPT_STATUSES


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
    except (ValueError, RecursionError):
        value = None
    error = value.get("error", value) if isinstance(value, Mapping) else None
    return _build_error(status, error, text, redact, _retry_after(headers))


def raise_error_in(answer: Mapping[str, Any]) -> None:
    """Raise the error that an answer with the status 200, or one of its choices, holds instead.

    Raises:
        HttpError: its status is the error's code, if that is one.
    """
    error = answer.get("error")
    if not error and "error" in (answer.get("object"), answer.get("type")):
        error = answer
    if error:
        raise _build_error(None, error, "", str, None)


def _build_error(
    status: int | None,
    error: Any,
    text: str,
    redact: Callable[[str], str],
    retry_after: float | None,
) -> HttpError:
    fields = error if isinstance(error, Mapping) else {"message": error}
    words = _shown(fields.get("message") or fields.get("detail")) or text
    message, code, param, type_ = (
        redact(replace_unstorable(" ".join(value.split())))[:MAX_MESSAGE_CHARS]
        for value in (words, *(_shown(fields.get(name)) for name in ("code", "param", "type")))
    )
    words = f"{code} {type_} {message}".lower()
    if status is None:
        status = _status_of(code, type_, words)
    if (status == 500 and any(pattern in message for pattern in REQUEST_ERRORS)) or (
        status == 403 and any(pattern in words for pattern in MODERATION_ERRORS)
    ):
        status = 400
    return HttpError(status, message or "no message", code, param, type_, retry_after)


def _shown(value: Any) -> str:
    try:
        return str(value or "")
    except RecursionError:
        return ""


def replace_unstorable(text: str) -> str:
    """Return a text that every file can hold: U+FFFD replaces NULs and halves of characters."""
    return UNSTORABLE.sub("\ufffd", text)


def _status_of(code: str, type_: str, words: str) -> int:
    """Return the status that an error without one would have; `words` are all that it says."""
    if re.fullmatch("[45][0-9]{2}", code):
        return int(code)
    if any(pattern in words for pattern in (*CONTEXT_ERRORS, *MODERATION_ERRORS)):
        return 400
    name = f"{code} {type_}".lower()
    return next((status for word, status in STATUS_BY_WORD.items() if word in name), BAD_GATEWAY)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        try:
            seconds = float(value) * unit
        except ValueError:  # missing, or a date
            date = email.utils.parsedate_tz(value)
            try:
                seconds = email.utils.mktime_tz(date) - time.time() if date else math.nan
            except (ValueError, OverflowError):
                continue
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    return None
