"""What is known of an endpoint's servers: how busy and how well each is, how fast all may be asked, and whether it is time to stop."""

import time
from collections import deque
from dataclasses import dataclass, field

from .concurrency import AdaptiveConcurrency

WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before the second try, and at most
OUTCOMES, FEWEST = 50, 10  # as many of the last ones are what the breaker looks at, and no fewer
FAILED = 0.5  # share of them that opens it
FAILING = 20.0  # seconds for which it must have been so
MINUTE = 60.0


@dataclass
class Server:
    """One base URL."""

    url: str
    level: AdaptiveConcurrency
    proxy: str | None = None
    under_way: int = 0
    rests_until: float = 0.0
    unreached: int = 0

    def not_reached(self, sent: float, now: float) -> None:
        """Hear that a connection failed; after a second one in a row others are given the work for a while."""
        if sent >= self.rests_until:
            self.unreached += 1
            if self.unreached > 1:
                self.rests_until = now + min(WAIT * 2 ** min(self.unreached - 2, 10), LONGEST_WAIT)

    def has_capacity(self, now: float) -> bool:
        """Return whether it may be given another request."""
        return self.under_way < self.level.at_once and self.rests_until <= now


@dataclass
class RateLimiter:
    """At most so much a minute, in equal steps."""

    a_minute: float | None
    _next: float = 0.0

    def take(self, amount: float) -> float:
        """Return the seconds until it may be had; it is taken."""
        if not self.a_minute:
            return 0.0
        now = time.monotonic()
        at = max(now, self._next)
        self._next = at + amount * MINUTE / self.a_minute
        return at - now

    def give_back(self, amount: float) -> None:
        """Take note that it was less (or, below 0, more) than was taken."""
        if self.a_minute:
            self._next -= amount * MINUTE / self.a_minute


@dataclass
class CircuitBreaker:
    """What became of the last tries of all servers together: the breaker."""

    _outcomes: deque[bool] = field(default_factory=lambda: deque(maxlen=OUTCOMES))
    _failing_since: float | None = None

    def note(self, good: bool) -> bool:
        """Return whether so many have failed for so long that the work is to stop."""
        self._outcomes.append(good)
        share = 1 - sum(self._outcomes) / len(self._outcomes)
        if share <= FAILED or len(self._outcomes) < FEWEST:
            self._failing_since = None
            return False
        now = time.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        return now - self._failing_since >= FAILING
