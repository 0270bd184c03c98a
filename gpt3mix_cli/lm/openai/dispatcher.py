"""Sends requests to an endpoint and retries those that may succeed later.

Retries back off exponentially with jitter, or wait as long as the server asks, also where SDKs
would give up. Errors that only the user can fix stop all work, with the server's own message.
Requests use aiohttp directly, which takes half the CPU time of the openai SDK
(scripts/bench/endpoint.py).
"""

import json
import os
import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from ...errors import NO_CALLBACKS, Callbacks, StoppedShort, UserError
from ...settings import OpenAISettings
from .budget import BudgetTracker
from .http_errors import HttpError, RequestRefused, RetryableError, parse_error
from .responses import InvalidResponse
from .server_pool import ServerPool
from .servers import BREAKER_WINDOW, MAX_FAILURE_RATE, CircuitBreaker, Server, backoff_s

if TYPE_CHECKING:
    import aiohttp
    import openai

MAX_ATTEMPTS = 10  # of one request
MAX_FIRST_ATTEMPTS = 2  # per server and one server more, before any server has answered
WARNING_INTERVAL_S = 30.0
MAX_RETRY_WAIT_S = 3600.0  # that a server may ask for, and that retries of one request may take
KEEPALIVE_S = 4  # shorter than the servers' own limit (uvicorn: 5 s)
RERUN_HINT = "check the server and run again; answers are kept"


class HttpDispatcher:
    """Sends requests to all servers of an endpoint. Its methods run in one event loop."""

    def __init__(
        self, settings: OpenAISettings, budget: BudgetTracker, callbacks: Callbacks = NO_CALLBACKS
    ) -> None:
        """Connect to nothing yet; the budget is checked before each attempt.

        Raises:
            UserError: if the API key is missing.
        """
        self._settings, self._budget, self._callbacks = settings, budget, callbacks
        self._secret = "" if budget.replay_only else _api_key(settings)
        self._name = f"lm {settings.model} at {', '.join(settings.urls)}"
        self._pool, self._breaker = ServerPool(settings), CircuitBreaker()
        self._session: aiohttp.ClientSession | None = None
        self._client: openai.AsyncOpenAI | None = None
        self._last_warning = -WARNING_INTERVAL_S
        self._failed_requests, self._connected = 0, False
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
            validate: raises InvalidResponse for an answer that must be requested again.
            tokens: estimate of prompt and completion tokens, for `tokens_per_minute`.

        Raises:
            RequestRefused: if the server rejects the request.
            StoppedShort: if servers cannot be reached or fail too often, or the quota is used up.
            UserError: if the API key is rejected.
        """
        failures = attempts = 0
        first_failure: float | None = None
        while True:
            server = await self._pool.acquire(tokens)
            attempts += 1
            try:
                text, value = await self._attempt(server, path, body, validate)
            except RetryableError as failure:
                error = failure
            except RequestRefused:
                self._failed_requests += 1
                raise
            else:
                self._breaker.record(True)
                return text, value, 1 + self.take_failed_requests()
            finally:
                self._pool.release(server)
            self._failed_requests += 1
            first_failure = time.monotonic() if first_failure is None else first_failure
            # A server that is merely busy has not failed; it gets time instead of attempts.
            failures += not error.rate_limited
            waited = time.monotonic() - first_failure
            self._stop_if_hopeless(error, failures, attempts, waited)
            self._warn(error, attempts)
            if not error.retry_after:  # some servers send 0 and go on refusing
                await self._pool.sleep(backoff_s(attempts - 1) * self._jitter.uniform(0.5, 1))

    def take_failed_requests(self) -> int:
        """Return the failed requests since the last call; they count towards the budget too."""
        failed, self._failed_requests = self._failed_requests, 0
        return failed

    def refund_tokens(self, tokens: int) -> None:
        """Return tokens to `tokens_per_minute` that `post` reserved but the call did not use."""
        self._pool.refund_tokens(tokens)

    def stop(self, error: UserError) -> NoReturn:
        """Raise an error here, in all waiting requests, and in all later ones."""
        self._pool.stop(error)

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
            escaped = json.dumps(self._secret)[1:-1]
            for form in (self._secret, escaped, self._secret.replace("/", "\\/")):
                text = text.replace(form, "<key>")
        return text

    def raise_for(self, error: "openai.APIStatusError") -> NoReturn:
        """Raise what an error of the SDK's client means; see `post`."""
        text = self.redact_secrets(error.response.text)
        parsed = parse_error(error.status_code, text, error.response.headers)
        try:
            self._raise_http_error(self._pool.servers[0], parsed, time.monotonic())
        except RetryableError as failure:
            raise StoppedShort(f"{self._name}: {failure}", "run again; answers are kept") from None

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
            self.stop(error)
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
            text = self.redact_secrets(raw.decode())
            if status >= 300:
                self._raise_http_error(server, parse_error(status, text, headers), sent)
            value = json.loads(text)
            validate(value)
        except InvalidResponse as error:
            raise RetryableError(str(error)) from None
        except ValueError:
            start = self.redact_secrets(raw.decode(errors="replace"))[:80]
            raise RetryableError(f"the answer is not JSON: {start!r}") from None
        server.concurrency.on_success(sent, time.monotonic(), saturated)
        return text, value

    async def _send(
        self, server: Server, path: str, body: Mapping[str, Any]
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return the status, headers and body of the answer."""
        payload = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        data = payload.encode("utf-8", "surrogatepass")
        url = f"{server.url}{path}"
        if path.startswith("//"):
            url = f"{server.url.removesuffix('/v1')}/{path[2:]}"
        async with self._open_session().post(url, data=data, proxy=server.proxy) as response:
            return response.status, response.headers, await response.read()

    def _open_session(self) -> "aiohttp.ClientSession":
        import aiohttp

        if self._session is None:
            # The pool limits the connections.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S)
            headers = {
                "Authorization": f"Bearer {self._secret or 'none'}",
                "Content-Type": "application/json",
                "User-Agent": "gpt3mix",
            }
            timeout = aiohttp.ClientTimeout(total=self._settings.timeout)
            self._session = aiohttp.ClientSession(
                connector=connector, headers=headers, timeout=timeout
            )
        return self._session

    # Failures --------------------------------------------------------------------------------

    def _raise_http_error(self, server: Server, error: HttpError, sent: float) -> NoReturn:
        """Raise what an error answer means; the server is slowed down or paused if it is busy."""
        message = f"HTTP {error.status}: {error.message}"
        now, wait = time.monotonic(), error.retry_after
        if error.quota_exceeded:
            self.stop(
                StoppedShort(
                    f"{self._name}: the quota is used up: {error.message}",
                    "raise it with the provider, and run again",
                )
            )
        if error.retryable:
            if error.status in (429, 503):
                server.concurrency.on_rate_limit(sent, now)
            if wait is not None and wait > MAX_RETRY_WAIT_S:
                self.stop(
                    StoppedShort(
                        f"{self._name}: the server asks to wait for {wait / 60:.0f} minutes: "
                        f"{error.message}",
                        "run again after that",
                    )
                )
            if wait is not None:
                server.paused_until = max(server.paused_until, now + wait)
            raise RetryableError(message, wait, rate_limited=error.status == 429) from None
        if error.status in (401, 403):
            hint = f"set the environment variable {self._settings.api_key_env} to a valid key"
            self.stop(UserError(f"{self._name}: {message}", hint))
        raise RequestRefused(error.status, error.message, error.code, error.param) from None

    def _stop_if_hopeless(
        self, error: RetryableError, failures: int, attempts: int, waited: float
    ) -> None:
        """Stop all work if a request, or most of the latest ones, have failed for too long."""
        if not self._connected and failures >= MAX_FIRST_ATTEMPTS * (len(self._pool.servers) + 1):
            hint = "check that the server runs and that lm.base_url is right; answers are kept"
            self.stop(StoppedShort(f"{self._name}: cannot be reached: {error}", hint))
        if not error.rate_limited and self._breaker.record(False):
            self.stop(
                StoppedShort(
                    f"{self._name}: more than {MAX_FAILURE_RATE:.0%} of the last {BREAKER_WINDOW} "
                    f"requests failed, the last one with: {error}",
                    RERUN_HINT,
                )
            )
        if failures == MAX_ATTEMPTS or waited > MAX_RETRY_WAIT_S:
            message = (
                f"{self._name}: a request failed {attempts} times, the last time with: {error}"
            )
            self.stop(StoppedShort(message, RERUN_HINT))

    def _warn(self, error: RetryableError, attempts: int) -> None:
        now = time.monotonic()
        if now - self._last_warning > WARNING_INTERVAL_S:
            self._last_warning = now
            self._callbacks.warn(
                f"{self._name}: {error}; retrying, for up to an hour while the server is merely "
                f"busy ({attempts} attempts so far)"
            )


def _api_key(settings: OpenAISettings) -> str:
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key and any("api.openai.com" in url for url in settings.urls):
        raise UserError(
            f"lm.api_key_env: the environment variable {settings.api_key_env} is not set",
            f"export {settings.api_key_env}=...",
        )
    return key
