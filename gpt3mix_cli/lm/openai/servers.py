"""The state of an endpoint's servers: load and health of each, rate limits, circuit breaker."""

import time
from collections import deque
from dataclasses import dataclass, field

from .concurrency import AdaptiveConcurrency

INITIAL_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
BREAKER_WINDOW, BREAKER_MIN_OUTCOMES = 50, 10  # latest requests that the breaker looks at
MAX_FAILURE_RATE = 0.5  # above which the breaker opens
MIN_FAILURE_PERIOD_S = 20.0  # for which the rate must have been that high
SECONDS_PER_MINUTE = 60.0


@dataclass
class Server:
    """One base URL.

    Attributes:
        url: the base URL.
        concurrency: how many requests it gets at once.
        proxy: the proxy to use; None for none.
        in_flight: requests without an answer so far.
        paused_until: no request before this time of `time.monotonic`.
        failed_connections: in a row.
    """

    url: str
    concurrency: AdaptiveConcurrency
    proxy: str | None = None
    in_flight: int = 0
    paused_until: float = 0.0
    failed_connections: int = 0

    def on_connection_error(self, sent: float, now: float) -> None:
        """Take note of a failed connection; from the second in a row, pause with backoff."""
        if sent >= self.paused_until:
            self.failed_connections += 1
            if self.failed_connections > 1:
                self.paused_until = now + backoff_s(self.failed_connections - 2)

    def has_capacity(self, now: float) -> bool:
        """Return whether it may get another request."""
        return self.in_flight < self.concurrency.limit and self.paused_until <= now


def backoff_s(retries: int) -> float:
    """Return the exponential backoff after so many earlier retries, without jitter."""
    return min(INITIAL_BACKOFF_S * 2.0 ** min(retries, 10), MAX_BACKOFF_S)


@dataclass
class RateLimiter:
    """Spreads a quantity per minute evenly; None: no limit."""

    per_minute: float | None
    _next: float = 0.0

    def reserve(self, amount: float) -> float:
        """Reserve an amount and return the seconds until it may be used."""
        if not self.per_minute:
            return 0.0
        now = time.monotonic()
        start = max(now, self._next)
        self._next = start + amount * SECONDS_PER_MINUTE / self.per_minute
        return start - now

    def refund(self, amount: float) -> None:
        """Return what was reserved but not used; negative if more was used."""
        if self.per_minute:
            self._next -= amount * SECONDS_PER_MINUTE / self.per_minute


@dataclass
class CircuitBreaker:
    """Opens if too many of the latest requests failed, over all servers."""

    _outcomes: deque[bool] = field(default_factory=lambda: deque(maxlen=BREAKER_WINDOW))
    _failing_since: float | None = None

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
