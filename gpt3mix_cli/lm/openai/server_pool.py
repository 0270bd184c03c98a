"""Decides which server gets the next request, and when.

Each server has its own concurrency limit and gets the next request once it has capacity. So
several servers are used in proportion to their speed. Requests are served in order of arrival.
"""

import asyncio
import contextlib
import time
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Callable
from typing import NoReturn

from ...errors import UserError
from ...settings import OpenAISettings
from .concurrency import AdaptiveConcurrency
from .servers import RateLimiter, Server

RESUME_MARGIN_S = 0.001  # after a server's pause, so that it is surely over


class ServerPool:
    """All servers of an endpoint. Its methods run in one event loop."""

    def __init__(self, settings: OpenAISettings) -> None:
        """Connect to nothing yet."""
        fixed = 0 if settings.concurrency == "auto" else settings.concurrency
        self.servers = [
            Server(url, AdaptiveConcurrency(fixed), _proxy(url)) for url in settings.urls
        ]
        self._request_rate = RateLimiter(settings.requests_per_minute)
        self._token_rate = RateLimiter(settings.tokens_per_minute)
        self._rate_lock, self._stopped = asyncio.Lock(), asyncio.Event()
        self._waiters: deque[asyncio.Future[Server]] = deque()
        self._wake_at = 0.0
        self._error: UserError | None = None

    async def acquire(self, tokens: int) -> Server:
        """Return a server with capacity, as soon as the rate limits allow; the caller releases it.

        Raises:
            UserError: once `stop` was called.
        """
        if not (self._request_rate.per_minute or self._token_rate.per_minute):
            return await self._acquire_server()
        # One request at a time waits for a server and then for the rate limits, so that none
        # reserves a rate that it cannot use yet.
        async with self._rate_lock:
            while True:
                server = await self._acquire_server()
                try:
                    await self.sleep(
                        max(self._request_rate.reserve(1), self._token_rate.reserve(tokens))
                    )
                    if not self._error and server.paused_until <= time.monotonic():
                        return server
                except asyncio.CancelledError:
                    self.release(server)
                    raise
                self.release(server)
                self._request_rate.refund(1)
                self._token_rate.refund(tokens)

    def release(self, server: Server) -> None:
        """End a request, so that the server has capacity for the next one."""
        server.in_flight -= 1
        self._wake_waiters()

    def refund_tokens(self, tokens: int) -> None:
        """Return tokens that were reserved but not used; negative if more were used."""
        self._token_rate.refund(tokens)

    async def sleep(self, seconds: float) -> None:
        """Sleep, but not longer than until `stop` is called."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), seconds)

    def stop(self, error: UserError) -> NoReturn:
        """Raise an error here, in all waiting requests, and in all later ones."""
        self._error = self._error or error
        self._stopped.set()
        self._wake_waiters()
        # Without its context: the SDK's exceptions contain the server's answer, perhaps the key.
        raise self._error from None

    async def _acquire_server(self) -> Server:
        if self._error:
            raise self._error
        if not self._waiters and (server := self._take_server()):
            return server
        waiter: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake_waiters()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release(waiter.result())
            raise

    def _take_server(self) -> Server | None:
        """Return the server with the lowest load, with one more request in flight; None if full."""
        now = time.monotonic()
        free = [server for server in self.servers if server.has_capacity(now)]
        if not free:
            return None
        server = min(free, key=_load)
        server.in_flight += 1
        return server

    def _wake_waiters(self) -> None:
        """Hand free servers to the waiting requests, or the error if work has stopped."""
        while self._waiters:
            if self._waiters[0].done():  # its task was cancelled
                self._waiters.popleft()
            elif self._error:
                self._waiters.popleft().set_exception(self._error)
            elif server := self._take_server():
                self._waiters.popleft().set_result(server)
            else:
                self._wake_after_pause()
                return

    def _wake_after_pause(self) -> None:
        """Call `_wake_waiters` again when the first paused server may be asked."""
        now = time.monotonic()
        pauses = [server.paused_until for server in self.servers if server.paused_until > now]
        if pauses and not now < self._wake_at <= min(pauses) + RESUME_MARGIN_S:
            self._wake_at = min(pauses) + RESUME_MARGIN_S
            _call_later(self._wake_at - now, self._wake_waiters)


def _load(server: Server) -> tuple[int, float]:
    return server.failed_connections, server.in_flight / server.concurrency.limit


def _call_later(seconds: float, callback: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, callback)


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment sets for a URL.

    aiohttp can do that too, but reads the whole environment again for each request.
    """
    parts = urllib.parse.urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)
