"""Sends requests to an endpoint and retries those that may succeed later.

Retries back off exponentially with jitter, or wait as long as the server asks, also where SDKs
would give up. Errors that only the user can fix stop all work, with the server's own message.
Requests use aiohttp directly, which takes half the CPU time of the openai SDK
(scripts/bench/endpoint.py).
"""

import json
import math
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from ...errors import NO_CALLBACKS, Callbacks, StoppedShort, UserError
from ...settings import OpenAISettings
from .answers import parse_json
from .budget import BudgetTracker
from .http_errors import HttpError, InvalidResponse, parse_error
from .servers import (
    BREAKER_WINDOW,
    MAX_FAILURE_RATE,
    CircuitBreaker,
    Server,
    ServerPool,
    backoff_s,
)

if TYPE_CHECKING:
    import aiohttp
    import openai

MAX_ATTEMPTS = 10  # of one request
MAX_FIRST_ATTEMPTS = 2  # per server and one server more, before any server has answered
MODELS_TIMEOUT_S = 10.0
WARNING_INTERVAL_S = 30.0
MAX_RETRY_WAIT_S = 3600.0  # that a server may ask for, and that retries of one request may take
KEEPALIVE_S = 4  # shorter than the servers' own limit (uvicorn: 5 s)
RETRYABLE_STATUSES = (408, 409, 425, 429)  # and all from 500
MIN_SECRET_CHARS = 8  # of an API key that may be in no answer
JSON_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
RERUN_HINT = "check the server and run again; answers are kept"


class RetryableError(Exception):
    """A request failed in a way that a retry may solve.

    Attributes:
        retry_after: seconds that the server asks to wait; None if it does not say.
        rate_limited: whether the server is merely busy.
    """

    def __init__(
        self, message: str, retry_after: float | None = None, rate_limited: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after, self.rate_limited = retry_after, rate_limited


class HttpDispatcher:
    """Sends requests to all servers of an endpoint. Its methods run in one event loop.

    The budget is checked before each attempt.

    Attributes:
        name: model and URLs, for messages.
        pool: its servers.

    Raises:
        UserError: if the API key is missing.
    """

    def __init__(
        self, settings: OpenAISettings, budget: BudgetTracker, callbacks: Callbacks = NO_CALLBACKS
    ) -> None:
        self._settings, self._budget, self._callbacks = settings, budget, callbacks
        self._secret = "" if budget.replay_only else _api_key(settings)
        self.name = f"lm {settings.model} at {', '.join(settings.urls)}"
        self.pool, self._breaker = ServerPool(settings), CircuitBreaker()
        self._session: aiohttp.ClientSession | None = None
        self._client: openai.AsyncOpenAI | None = None
        self._last_warning, self._failed_requests = -WARNING_INTERVAL_S, 0
        self._connected = False
        self._jitter = random.Random()  # noqa: S311 - neither a secret nor part of any result

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        validate: Callable[[Any], object],
        tokens: int = 0,
    ) -> tuple[str, Any, int]:
        """Return the answer's text, its JSON value, and the requests it took, failures included.

        Args:
            path: below the base URL; with two slashes at the root of the server.
            body: the JSON body.
            validate: raises InvalidResponse for an answer that must be requested again, and
                HttpError for one that holds an error, which then counts as the answer's status.
            tokens: estimate of prompt and completion tokens, for `tokens_per_minute`.

        Raises:
            HttpError: if the server rejects the request.
            StoppedShort: if servers cannot be reached or fail too often, or the quota is used up.
            UserError: if the API key is rejected.
        """
        attempts, failures, first_failure = 0, 0, math.inf
        while True:
            server = await self.pool.acquire(tokens)
            attempts += 1
            try:
                text, value = await self._attempt(server, path, body, validate)
            except RetryableError as failure:
                error = failure
            except HttpError:
                self._failed_requests += 1
                raise
            else:
                self._breaker.record(True)
                return text, value, 1 + self.take_failed_requests()
            finally:
                self.pool.release(server)
            self._failed_requests += 1
            first_failure = min(first_failure, time.monotonic())
            # A server that is merely busy has not failed; it gets time instead of attempts.
            failures += not error.rate_limited
            self._stop_if_hopeless(error, failures, attempts, time.monotonic() - first_failure)
            self._warn(error, attempts)
            if not error.retry_after:  # some servers send 0 and go on refusing
                await self.pool.sleep(backoff_s(attempts - 1) * self._jitter.uniform(0.5, 1))

    def take_failed_requests(self) -> int:
        """Return the failed requests since the last call; they count towards the budget too."""
        failed, self._failed_requests = self._failed_requests, 0
        return failed

    @property
    def client(self) -> "openai.AsyncOpenAI":
        """The SDK's client of the first server, for uploads, batches and downloads."""
        import openai

        if self._client is None:
            self._client = openai.AsyncOpenAI(
                api_key=self._secret or "none",
                base_url=self._settings.urls[0],
                max_retries=0,
                timeout=self._settings.timeout,
            )
        return self._client

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
        if self._client:
            await self._client.close()
        if self._session:
            await self._session.close()
        self._client = self._session = None

    def redact_secrets(self, text: str) -> str:
        """Return a text without the API key."""
        if len(self._secret) > 3:
            in_json = json.dumps(self._secret)[1:-1], self._secret.replace("/", "\\/")
            for form in (self._secret, *in_json):
                text = text.replace(form, "<key>")
        return text

    def holds_secret(self, text: str) -> bool:
        """Return whether a text, JSON included, holds the API key.

        Servers that take any key are given plain words (`none`, `film`), which texts may hold.
        """
        if len(self._secret) < MIN_SECRET_CHARS or self._secret.isalpha():
            return False
        return self._secret in JSON_ESCAPE.sub(_unescape, text)

    def raise_for(self, error: "openai.APIStatusError") -> NoReturn:
        """Raise what an error of the SDK's client means; see `post`."""
        answer = error.response
        text = self.redact_secrets(answer.text)
        parsed = parse_error(error.status_code, text, answer.headers, self.redact_secrets)
        try:
            self._raise_http_error(self.pool.servers[0], parsed, time.monotonic())
        except RetryableError as failure:
            raise StoppedShort(f"{self.name}: {failure}", "run again; answers are kept") from None

    # One attempt -----------------------------------------------------------------------------

    async def _attempt(
        self,
        server: Server,
        path: str,
        body: Mapping[str, Any],
        validate: Callable[[Any], object],
    ) -> tuple[str, Any]:
        import aiohttp

        try:
            self._budget.count_request()
        except StoppedShort as error:
            self.pool.stop(error)
        sent = time.monotonic()
        saturated = server.in_flight >= server.concurrency.limit
        try:
            status, headers, raw = await self._send(server, path, body)
        except TimeoutError:
            server.concurrency.on_rate_limit(sent, time.monotonic())
            raise RetryableError(f"no answer within {self._settings.timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            server.on_connection_error(sent, time.monotonic())
            reason = self.redact_secrets(str(error) or type(error).__name__)
            raise RetryableError(f"the connection failed: {reason}") from None
        self._connected, server.failed_connections = True, 0
        try:
            text = raw.decode()
            if status >= 300:
                text = self.redact_secrets(text)
                raise parse_error(status, text, headers, self.redact_secrets)
            value = parse_json(text)
            validate(value)
            if self.holds_secret(text):
                # Rows are meant for publication, and an edited answer is none.
                raise HttpError(400, "the answer contains the API key")
        except HttpError as error:
            error.message = self.redact_secrets(error.message)
            self._raise_http_error(server, error, sent)
        except InvalidResponse as error:
            raise RetryableError(self.redact_secrets(str(error))) from None
        except ValueError:
            start = self.redact_secrets(raw.decode(errors="replace"))[:80]
            raise RetryableError(f"the answer is not JSON: {start!r}") from None
        server.concurrency.on_success(sent, time.monotonic(), saturated)
        return text, value

    async def _send(
        self, server: Server, path: str, body: Mapping[str, Any]
    ) -> tuple[int, Mapping[str, str], bytes]:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                # Not limited here: the pool limits the connections.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
                headers={
                    "Authorization": f"Bearer {self._secret or 'none'}",
                    "Content-Type": "application/json",
                    "User-Agent": "gpt3mix",
                },
                timeout=aiohttp.ClientTimeout(total=self._settings.timeout),
            )
        payload = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        data = payload.encode("utf-8", "surrogatepass")
        root = server.url.removesuffix("/v1")
        url = f"{root}{path[1:]}" if path.startswith("//") else f"{server.url}{path}"
        async with self._session.post(url, data=data, proxy=server.proxy) as response:
            return response.status, response.headers, await response.read()

    # Failures --------------------------------------------------------------------------------

    def _raise_http_error(self, server: Server, error: HttpError, sent: float) -> NoReturn:
        """Raise what an error answer means; the server is slowed down or paused if it is busy."""
        now, wait = time.monotonic(), error.retry_after
        message = f"HTTP {error.status}: {error.message}"
        if error.status == 429 and "insufficient_quota" in (error.code, error.type):
            reason = f"{self.name}: the quota is used up: {error.message}"
            self.pool.stop(StoppedShort(reason, "raise it with the provider, and run again"))
        if error.status in RETRYABLE_STATUSES or error.status >= 500:
            if error.status in (429, 503):
                server.concurrency.on_rate_limit(sent, now)
            if wait is not None and wait > MAX_RETRY_WAIT_S:
                minutes = f"{wait / 60:.0f} minutes"
                reason = f"{self.name}: the server asks to wait for {minutes}: {error.message}"
                self.pool.stop(StoppedShort(reason, "run again after that"))
            if wait is not None:
                server.paused_until = max(server.paused_until, now + wait)
            raise RetryableError(message, wait, rate_limited=error.status == 429) from None
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
        reason, hint = "", RERUN_HINT
        if not self._connected and failures >= MAX_FIRST_ATTEMPTS * (len(self.pool.servers) + 1):
            reason = "cannot be reached"
            hint = "check that the server runs and that lm.base_url is right; answers are kept"
        elif not error.rate_limited and self._breaker.record(False):
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
            self._callbacks.warn(
                f"{self.name}: {error}; retrying, for up to an hour while the server is merely "
                f"busy ({attempts} attempts so far)"
            )


def _unescape(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else escape[0][1]


def _api_key(settings: OpenAISettings) -> str:
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key and any("api.openai.com" in url for url in settings.urls):
        raise UserError(
            f"lm.api_key_env: the environment variable {settings.api_key_env} is not set",
            f"export {settings.api_key_env}=...",
        )
    return key
