"""Decides which server gets the next request, and when.

Each server has its own concurrency limit and gets the next request once it has capacity. So
several servers are used in proportion to their speed. Requests are served in order of arrival.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from ...errors import UserError
from ...settings import OpenAISettings
from .concurrency import AdaptiveConcurrency

INITIAL_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
BREAKER_WINDOW, BREAKER_MIN_OUTCOMES = 50, 10  # latest requests that the breaker looks at
MAX_FAILURE_RATE = 0.5  # above which the breaker opens
MIN_FAILURE_PERIOD_S = 20.0  # for which the rate must have been that high
RESUME_MARGIN_S = 0.001  # after a server's pause, so that it is surely over
SECONDS_PER_MINUTE = 60.0


@dataclass
class Server:
    """One base URL.

    Attributes:
        url: the base URL.
        concurrency: how many requests it gets at once while it answers.
        in_flight: requests without an answer so far.
        paused_until: no request before this time of `time.monotonic`.
        failed_connections: in a row.
    """

    url: str
    concurrency: AdaptiveConcurrency
    in_flight: int = 0
    paused_until: float = 0.0
    failed_connections: int = 0

    @property
    def capacity(self) -> int:
        """The most requests in flight: a server that does not answer gets one at a time."""
        return 1 if self.failed_connections else self.concurrency.limit

    def on_outage(self, sent: float, now: float) -> None:
        """Take note of a failed connection; from the second in a row, pause with backoff."""
        if sent >= self.paused_until:
            self.failed_connections += 1
            if self.failed_connections > 1:
                self.paused_until = now + backoff_s(self.failed_connections - 2)

    def load(self) -> tuple[int, float]:
        """Return a key that sorts servers: those that work first, then those with free capacity."""
        return self.failed_connections, self.in_flight / self.capacity


def backoff_s(retries: int) -> float:
    """Return the exponential backoff after so many earlier retries, without jitter."""
    return min(INITIAL_BACKOFF_S * 2.0 ** min(retries, 10), MAX_BACKOFF_S)


class RateLimiter:
    """Spreads a quantity per minute evenly; None: no limit."""

    def __init__(self, per_minute: float | None) -> None:
        self.interval_s = SECONDS_PER_MINUTE / per_minute if per_minute else 0.0
        self._next = 0.0

    def reserve(self, amount: float) -> float:
        """Reserve an amount and return the seconds until it may be used."""
        now = time.monotonic()
        start = max(now, self._next)
        self._next = start + amount * self.interval_s
        return start - now

    def refund(self, amount: float) -> None:
        """Return what was reserved but not used; negative if more was used."""
        self._next -= amount * self.interval_s


class CircuitBreaker:
    """Opens if too many of the latest requests failed, over all servers."""

    def __init__(self) -> None:
        self._outcomes: deque[bool] = deque(maxlen=BREAKER_WINDOW)
        self._failing_since: float | None = None

    def record(self, success: bool) -> bool:
        """Record the outcome of a request; return whether the breaker is open."""
        self._outcomes.append(success)
        rate = 1 - sum(self._outcomes) / len(self._outcomes)
        if rate <= MAX_FAILURE_RATE or len(self._outcomes) < BREAKER_MIN_OUTCOMES:
            self._failing_since = None
            return False
        now = time.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        return now - self._failing_since >= MIN_FAILURE_PERIOD_S


class ServerPool:
    """All servers of an endpoint. Its methods run in one event loop.

    Attributes:
        servers: one for each base URL.
        token_rate: tokens per minute.
        error: what stopped all work; None while it goes on.
    """

    def __init__(self, settings: OpenAISettings) -> None:
        fixed = 0 if settings.concurrency == "auto" else settings.concurrency
        self.servers = [
            Server(url, AdaptiveConcurrency(fixed, settings.timeout)) for url in settings.urls
        ]
        self.token_rate = RateLimiter(settings.tokens_per_minute)
        self._request_rate = RateLimiter(settings.requests_per_minute)
        self._rate_lock, self._stopped = asyncio.Lock(), asyncio.Event()
        self._waiters: deque[asyncio.Future[Server]] = deque()
        self._wake_at = 0.0
        self.error: UserError | None = None

    async def acquire(self, tokens: int) -> Server:
        """Return a server with capacity, as soon as the rate limits allow; the caller releases it.

        Raises:
            UserError: once `stop` was called.
        """
        if not (self._request_rate.interval_s or self.token_rate.interval_s):
            return await self._acquire_server()
        # One request at a time waits for a server and then for the rate limits, so that none
        # reserves a rate that it cannot use yet.
        async with self._rate_lock:
            while True:
                server = await self._acquire_server()
                try:
                    await self.sleep(
                        max(self._request_rate.reserve(1), self.token_rate.reserve(tokens))
                    )
                except asyncio.CancelledError:
                    self.release(server)
                    raise
                if not self.error and server.paused_until <= time.monotonic():
                    return server
                self.release(server)
                self._request_rate.refund(1)
                self.token_rate.refund(tokens)

    def release(self, server: Server) -> None:
        """End a request, so that the server has capacity for the next one."""
        server.in_flight -= 1
        self._wake_waiters()

    async def sleep(self, seconds: float) -> None:
        """Sleep, but not longer than until `stop` is called."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), seconds)

    def stop(self, error: UserError) -> NoReturn:
        """Raise an error here, in all waiting requests, and in all later ones."""
        self.error = self.error or error
        self._stopped.set()
        self._wake_waiters()
        # Without its context: the SDK's exceptions contain the server's answer, perhaps the key.
        raise self.error from None

    async def _acquire_server(self) -> Server:
        waiter: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake_waiters()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release(waiter.result())
            raise

    def _wake_waiters(self) -> None:
        """Hand free servers to the waiting requests, or the error if work has stopped."""
        while self._waiters:
            if self._waiters[0].done():  # its task was cancelled
                self._waiters.popleft()
            elif self.error:
                self._waiters.popleft().set_exception(self.error)
            elif server := self._free_server():
                server.in_flight += 1
                self._waiters.popleft().set_result(server)
            else:
                self._wake_after_pause()
                return

    def _free_server(self) -> Server | None:
        now = time.monotonic()
        free = (
            server
            for server in self.servers
            if server.in_flight < server.capacity and server.paused_until <= now
        )
        return min(free, key=Server.load, default=None)

    def _wake_after_pause(self) -> None:
        now = time.monotonic()
        pauses = [server.paused_until for server in self.servers if server.paused_until > now]
        if pauses and not now < self._wake_at <= min(pauses) + RESUME_MARGIN_S:
            self._wake_at = min(pauses) + RESUME_MARGIN_S
            _call_later(self._wake_at - now, self._wake_waiters)


def _call_later(seconds: float, callback: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, callback)
