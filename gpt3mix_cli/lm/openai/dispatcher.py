"""Sends requests to an endpoint and retries those that may succeed later.

Retries back off exponentially with jitter, or wait as long as the server asks, also where SDKs
would give up. A server that restarts is waited for. Errors that only the user can fix stop all
work, with the server's own message. Requests go through the openai SDK (`clients`).
"""

import math
import random
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from ...errors import NO_CALLBACKS, Callbacks, StoppedShort, UserError
from ...settings import OpenAISettings
from .answers import parse_json
from .budget import BudgetTracker
from .clients import Clients
from .http_errors import HttpError, InvalidResponse, parse_error
from .reservations import HighestUsage, Reservations
from .responses import Usage
from .servers import (
    BREAKER_WINDOW,
    MAX_FAILURE_RATE,
    CircuitBreaker,
    Server,
    ServerPool,
    backoff_s,
)

if TYPE_CHECKING:
    import openai

MAX_ATTEMPTS = 10  # of one request
MAX_FIRST_ATTEMPTS = 2  # per server and one server more, before any server has answered
MODELS_TIMEOUT_S = 10.0
WARNING_INTERVAL_S = 30.0
MAX_RETRY_WAIT_S = 3600.0  # that a server may ask for, and that retries of one request may take
MAX_OUTAGE_S = 300.0  # in which no server answers; a vLLM restarts in one or two minutes
RETRYABLE_STATUSES = (408, 409, 425, 429)  # and all from 500
OVERLOADED = 529  # not registered; Anthropic and proxies
OUTAGE_STATUSES = (502, 503, 504)  # of a proxy whose server is not there
QUOTA_ERRORS = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
LOADING = re.compile(r"\b(load|start|warm)ing\b", re.IGNORECASE)  # a model or a server
# Such as `"estimated_time": 20.0` (Hugging Face) and `try again in 1m30s` (OpenAI).
WAIT = re.compile(
    r"(?:estimated_time|retry[ _-]?(?:after|delay|in)|try again in)\W{1,5}"
    r"((?:\d+(?:\.\d+)?(?![\d,.-]*\d)\s*(?:(?:ms|milli|s|m|h)[a-z]*)?\s*)+)",
    re.IGNORECASE,
)
UNIT_SECONDS = {"ms": 0.001, "milli": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
Kind = Literal["busy", "outage", "failure"]
RERUN_HINT = "check the server and run again; answers are kept"


class RetryableError(Exception):
    """A request failed in a way that a retry may solve.

    Attributes:
        retry_after: seconds that the server asks to wait; None if it does not say.
        kind: `busy`: the server is merely busy, so the request gets time instead of attempts;
            `outage`: no server answers, which is waited for; `failure`: anything else.
    """

    def __init__(
        self, message: str, retry_after: float | None = None, kind: Kind = "failure"
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.kind: Kind = kind


class HttpDispatcher:
    """Sends requests to all servers of an endpoint. Its methods run in one event loop.

    The budget is checked before each attempt.

    Attributes:
        name: model and URLs, for messages.
        pool: its servers.
        reservations: the most that the requests in flight can cost.

    Raises:
        UserError: if the API key is missing or cannot be sent.
    """

    def __init__(
        self, settings: OpenAISettings, budget: BudgetTracker, callbacks: Callbacks = NO_CALLBACKS
    ) -> None:
        self._settings, self._budget, self._callbacks = settings, budget, callbacks
        self._clients = Clients(settings, budget.replay_only)
        self.name = f"lm {settings.model} at {', '.join(settings.urls)}"
        self.pool, self._breaker = ServerPool(settings), CircuitBreaker()
        self.reservations = Reservations(budget)
        self._last_warning, self._failed_requests = -WARNING_INTERVAL_S, 0
        self._connected, self._outage_since, self._answers = False, math.inf, 0
        self._jitter = random.Random()  # noqa: S311 - neither a secret nor part of any result

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        validate: Callable[[Any], object],
        tokens: int = 0,
        highest: HighestUsage | None = None,
    ) -> tuple[str, Any, int]:
        """Return the answer's text, its JSON value, and the requests it took, failures included.

        Args:
            path: below the base URL; with two slashes at the root of the server.
            body: the JSON body.
            validate: raises InvalidResponse for an answer that must be requested again, and
                HttpError for one that holds an error, which then counts as the answer's status.
            tokens: estimate of prompt and completion tokens, for `tokens_per_minute`.
            highest: the most that it can take; None if nothing is reserved for it.

        Raises:
            HttpError: if the server rejects the request.
            StoppedShort: if servers cannot be reached or fail too often, or the quota is used up.
            UserError: if the API key is rejected.
        """
        attempts, failures, first_failure = 0, 0, math.inf
        while True:
            server, answers = await self.pool.acquire(tokens), self._answers
            attempts += 1
            reserved = None
            try:
                reserved = await self._reserve(highest)
                text, value = await self._attempt(server, path, body, validate)
            except RetryableError as failure:
                error = failure
            except HttpError:
                self._failed_requests += 1
                raise
            else:
                self._answers += 1
                self._breaker.record(True)
                return text, value, 1 + self.take_failed_requests()
            finally:
                self.pool.release(server)
                if reserved:
                    self.reservations.release(reserved)
            self._failed_requests += 1
            first_failure = min(first_failure, time.monotonic())
            if error.kind == "outage" and self._answers > answers:
                error.kind = "failure"  # of this request, since others are answered
            failures += error.kind == "failure" or not self._connected
            self._stop_if_hopeless(error, failures, attempts, time.monotonic() - first_failure)
            self._warn(error, attempts)
            # Some servers ask for 0 s and go on refusing. A pause is for all requests.
            if not error.retry_after and server.paused_until <= time.monotonic():
                await self.pool.sleep(backoff_s(attempts - 1) * self._jitter.uniform(0.5, 1))

    def take_failed_requests(self) -> int:
        """Return the failed requests since the last call; they count towards the budget too."""
        failed, self._failed_requests = self._failed_requests, 0
        return failed

    @property
    def client(self) -> "openai.AsyncOpenAI":
        """The SDK's client of the first server, for uploads, batches and downloads."""
        return self._clients.get(self._settings.urls[0])

    async def models(self) -> Any:
        """Return what the first server says about its models; None if it says nothing."""
        import openai

        if self._budget.replay_only:
            return None
        try:
            return await self.client.with_options(timeout=MODELS_TIMEOUT_S).get(
                "/models", cast_to=object
            )
        except (openai.OpenAIError, ValueError):
            return None

    async def close(self) -> None:
        """Close all connections."""
        await self._clients.close()

    def redact_secrets(self, text: str) -> str:
        """Return a text to be shown, or an error to be stored, without the API key."""
        return self._clients.redact(text)

    def holds_secret(self, text: str) -> bool:
        """Return whether an answer holds the API key."""
        return self._clients.holds_secret(text)

    def raise_for(self, error: "openai.APIStatusError") -> NoReturn:
        """Raise what an error of the SDK's client means; see `post`."""
        answer = error.response
        parsed = self._parse_error(error.status_code, answer.text, answer.headers)
        try:
            self._raise_http_error(self.pool.servers[0], parsed, time.monotonic())
        except RetryableError as failure:
            raise StoppedShort(f"{self.name}: {failure}", "run again; answers are kept") from None

    # One attempt -----------------------------------------------------------------------------

    async def _reserve(self, highest: HighestUsage | None) -> Usage | None:
        if highest is None:
            return None
        try:
            reserved = await self.reservations.acquire(highest)
        except StoppedShort as error:
            self.pool.stop(error)
        if self.pool.error:  # while this request waited for the budget
            self.reservations.release(reserved)
            self.pool.stop(self.pool.error)
        return reserved

    async def _attempt(
        self,
        server: Server,
        path: str,
        body: Mapping[str, Any],
        validate: Callable[[Any], object],
    ) -> tuple[str, Any]:
        try:
            self._budget.count_request()
        except StoppedShort as error:
            self.pool.stop(error)
        sent = time.monotonic()
        try:
            response = await self._clients.post(server.url, path, body)
        except TimeoutError:
            server.concurrency.on_timeout(sent, time.monotonic())
            # Fewer requests at once may be answered in time.
            kind: Kind = "failure" if server.concurrency.fixed else "outage"
            message = f"no answer within {self._settings.timeout:g} s (lm.timeout)"
            raise RetryableError(message, kind=kind) from None
        except ConnectionError as error:
            server.on_outage(sent, time.monotonic())
            raise RetryableError(f"the connection failed: {error}", kind="outage") from None
        self._connected, server.failed_connections = True, 0
        try:
            text = response.content.decode(errors="replace")
            if response.status_code >= 300:
                raise self._parse_error(response.status_code, text, response.headers)
            value = parse_json(text)
            validate(value)
            if self.holds_secret(text):
                # Rows are meant for publication, and an edited answer is none.
                raise HttpError(400, "the answer contains the API key")
        except HttpError as error:  # perhaps of a 200 with an error in it
            self._raise_http_error(server, error, sent)
        except InvalidResponse as error:
            start = self.redact_secrets(text)[:80]
            raise RetryableError(f"{self.redact_secrets(str(error))}: {start!r}") from None
        self._outage_since = math.inf
        saturated = server.in_flight >= server.capacity
        server.concurrency.on_success(sent, time.monotonic(), saturated)
        return text, value

    # Failures --------------------------------------------------------------------------------

    def _parse_error(self, status: int, text: str, headers: Mapping[str, str]) -> HttpError:
        error = parse_error(status, self.redact_secrets(text), headers, self.redact_secrets)
        if error.retry_after is None:
            error.retry_after = requested_wait(text)
        return error

    def _raise_http_error(self, server: Server, error: HttpError, sent: float) -> NoReturn:
        """Raise what an error answer means; the server is slowed down or paused if it is busy."""
        error.message = self.redact_secrets(error.message)
        wait = error.retry_after
        if wait is None:
            wait = error.retry_after = requested_wait(error.message)
        now = time.monotonic()
        if error.status not in OUTAGE_STATUSES:
            self._outage_since = math.inf
        message = f"HTTP {error.status}: {error.message}"
        if error.status == 402 or not QUOTA_ERRORS.isdisjoint((error.code, error.type)):
            reason = f"{self.name}: the quota is used up: {error.message}"
            self.pool.stop(StoppedShort(reason, "raise it with the provider, and run again"))
        if error.status in RETRYABLE_STATUSES or error.status >= 500:
            if error.status in (429, 503, OVERLOADED):
                server.concurrency.on_rate_limit(sent, now)
            if wait is not None and wait > MAX_RETRY_WAIT_S:
                minutes = f"{wait / 60:.0f} minutes"
                reason = f"{self.name}: the server asks to wait for {minutes}: {error.message}"
                self.pool.stop(StoppedShort(reason, "run again after that"))
            if wait is not None:
                server.paused_until = max(server.paused_until, now + wait)
            raise RetryableError(message, wait, _kind(error)) from None
        if error.status in (401, 403):
            self.pool.stop(
                UserError(
                    f"{self.name}: {message}",
                    f"set the environment variable {self._settings.api_key_env} to a valid key",
                )
            )
        raise error from None

    def _stop_if_hopeless(
        self, error: RetryableError, failures: int, attempts: int, waited: float
    ) -> None:
        """Stop all work if a request, or most of the latest ones, have failed for too long."""
        reason, hint, now = "", RERUN_HINT, time.monotonic()
        self._outage_since = min(self._outage_since, now) if error.kind == "outage" else math.inf
        if not self._connected and failures >= MAX_FIRST_ATTEMPTS * (len(self.pool.servers) + 1):
            reason = "cannot be reached"
            hint = "check that the server runs and that lm.base_url is right; answers are kept"
        elif now - self._outage_since > MAX_OUTAGE_S:
            reason = f"no answer for {MAX_OUTAGE_S / 60:g} minutes"
        elif error.kind == "failure" and self._breaker.record(False):
            reason = (
                f"more than {MAX_FAILURE_RATE:.0%} of the last {BREAKER_WINDOW} requests failed, "
                "the last one with"
            )
        elif failures == MAX_ATTEMPTS or waited > MAX_RETRY_WAIT_S:
            reason = f"a request failed {attempts} times, the last time with"
        if reason:
            self.pool.stop(StoppedShort(f"{self.name}: {reason}: {error}", hint))

    def _warn(self, error: RetryableError, attempts: int) -> None:
        if time.monotonic() - self._last_warning > WARNING_INTERVAL_S:
            self._last_warning = time.monotonic()
            limit = {
                "busy": "retrying for up to an hour",
                "outage": f"waiting for the server for up to {MAX_OUTAGE_S / 60:g} minutes",
                "failure": f"retrying, up to {MAX_ATTEMPTS} times",
            }[error.kind]
            self._callbacks.warn(f"{self.name}: {error}; {limit} ({attempts} attempts so far)")


def _kind(error: HttpError) -> Kind:
    if error.status in (429, OVERLOADED):
        return "busy"
    if error.status == 503 and (error.retry_after is not None or LOADING.search(error.message)):
        return "busy"
    return "outage" if error.status in OUTAGE_STATUSES else "failure"


def requested_wait(text: str) -> float | None:
    """Return the seconds that an error's text asks to wait; None if it does not say."""
    if not (wait := WAIT.search(text)):
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(ms|milli|s|m|h|)", wait[1].lower())
    return sum(float(number) * UNIT_SECONDS[unit] for number, unit in parts)
