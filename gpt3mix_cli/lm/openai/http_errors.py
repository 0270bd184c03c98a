"""What an HTTP error means: the request is wrong, may be retried, or all work must stop."""

import email.utils
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

RETRYABLE_STATUSES = (408, 409, 425, 429)  # and all from 500
REQUEST_ERRORS = ("validation error", "is not supported")  # llama-cpp-python sends these as a 500


class RequestRefused(Exception):
    """A server rejected a request; another one may be accepted.

    Attributes:
        status: the HTTP status.
        message: the server's message.
        code: the protocol's error code, such as `unsupported_parameter`.
        param: the field that was rejected.
    """

    def __init__(self, status: int, message: str, code: str = "", param: str = "") -> None:
        """Keep the server's answer."""
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


class RetryableError(Exception):
    """A request failed in a way that a retry may solve.

    Attributes:
        retry_after: seconds that the server asks to wait; None if it does not say.
        rate_limited: whether the server is merely busy.
    """

    def __init__(
        self, message: str, retry_after: float | None = None, rate_limited: bool = False
    ) -> None:
        """Keep the message and the server's wish."""
        super().__init__(message)
        self.retry_after, self.rate_limited = retry_after, rate_limited


@dataclass(frozen=True)
class HttpError:
    """An answer with an error status.

    Attributes:
        status: the HTTP status; 400 for a 500 that blames the request.
        message: the server's message, on one line.
        code: the protocol's error code.
        type: the protocol's error type.
        param: the field that the error is about.
        retry_after: seconds that the server asks to wait; None if it does not say.
    """

    status: int
    message: str
    code: str = ""
    type: str = ""
    param: str = ""
    retry_after: float | None = None

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in RETRYABLE_STATUSES or self.status >= 500

    @property
    def quota_exceeded(self) -> bool:
        """Whether the account has no money left; waiting does not help."""
        return self.status == 429 and "insufficient_quota" in (self.code, self.type)


def parse_error(status: int, text: str, headers: Mapping[str, str]) -> HttpError:
    """Return what an error answer says; `text` is its body without secrets."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    outer = value if isinstance(value, Mapping) else {}
    error = outer.get("error", outer)
    fields = error if isinstance(error, Mapping) else {}
    message = " ".join((error_message(value) or text or "no message").split())[:1000]
    if status == 500 and any(pattern in message for pattern in REQUEST_ERRORS):
        status = 400
    code, type_, param = (str(fields.get(name) or "") for name in ("code", "type", "param"))
    return HttpError(status, message, code, type_, param, _retry_after(headers))


def error_message(value: object) -> str:
    """Return the message in the JSON of an error; empty if there is none."""
    if not isinstance(value, Mapping):
        return ""
    error = value.get("error", value)
    if not isinstance(error, Mapping):
        return str(error)
    return str(error.get("message") or error.get("detail") or "")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait; None if it does not say."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if not value:
            continue
        try:
            return max(float(value) * unit, 0.0)
        except ValueError:
            pass
        if date := email.utils.parsedate_tz(value):
            return max(email.utils.mktime_tz(date) - time.time(), 0.0)
    return None
