"""Keeps requests in flight within the budget: each reserves what it is likely to cost.

What a request costs is known when it is answered. Without reservations, all that are in flight when
a limit is reached would exceed it. A request that does not fit waits for those in flight, which
mostly cost less than they reserved; if none is in flight, the run stops short.
"""

import asyncio
import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from ...errors import StoppedShort
from .budget import BudgetTracker
from .responses import Usage

MIN_ANSWERS = 5  # to requests of one kind, before their costs tell about the next ones
STANDARD_DEVIATIONS = 2.0  # above the mean, that a request reserves


@dataclass(frozen=True)
class HighestUsage:
    """The most tokens that a request can take.

    Attributes:
        kind: requests of one kind take similar fractions of their highest usage.
        prompt: to be read.
        completion: to be generated.
    """

    kind: Hashable
    prompt: int
    completion: int


@dataclass
class _Fractions:
    """Mean and variance of fractions that arrive one by one (Welford, 1962)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        before = value - self.mean
        self.mean += before / self.count
        self.squares += before * (value - self.mean)

    def likely(self, min_answers: int) -> float:
        """Return a fraction that few exceed; 1 before there are so many answers."""
        if self.count < min_answers:
            return 1.0
        return self.mean + STANDARD_DEVIATIONS * math.sqrt(self.squares / self.count)


@dataclass
class _Kind:
    prompt: _Fractions = field(default_factory=_Fractions)
    completion: _Fractions = field(default_factory=_Fractions)


class Reservations:
    """What the requests in flight are likely to cost. All methods run in one event loop.

    Args:
        budget: whose limits of tokens and dollars must not be exceeded.
    """

    def __init__(self, budget: BudgetTracker) -> None:
        self._budget = budget
        self._kinds: dict[Hashable, _Kind] = {}
        self._in_flight, self._prompt, self._completion = 0, 0, 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def are_needed(self) -> bool:
        """Whether tokens or dollars have a limit; without one nothing needs to be reserved."""
        limits = self._budget.budget
        return limits is not None and (limits.tokens is not None or limits.usd is not None)

    def learn(self, highest: HighestUsage, usage: Usage) -> None:
        """Take note of what a request took."""
        kind = self._kinds.setdefault(highest.kind, _Kind())
        kind.prompt.add(usage.prompt / max(1, highest.prompt))
        kind.completion.add(usage.completion / max(1, highest.completion))

    async def acquire(self, highest: HighestUsage) -> Usage:
        """Return what a request reserves, once it fits into the budget; it is to be released.

        Raises:
            StoppedShort: if it does not fit although nothing is in flight.
        """
        while self._error_if_exceeded(likely := self._likely(highest, MIN_ANSWERS)):
            if not self._in_flight:
                # Alone, it is worth a try before anything but its highest cost is known.
                error = self._error_if_exceeded(self._likely(highest, 1))
                if not error or not self._num_answers(highest):
                    break
                self._wake()
                raise error
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        self._add(likely, 1)
        return likely

    def release(self, reserved: Usage) -> None:
        """End a reservation. What the request took is added to the budget before any other runs."""
        self._add(reserved, -1)
        self._wake()

    def _add(self, usage: Usage, sign: int) -> None:
        self._in_flight += sign
        self._prompt += sign * usage.prompt
        self._completion += sign * usage.completion

    def _error_if_exceeded(self, usage: Usage) -> StoppedShort | None:
        total = Usage(self._prompt + usage.prompt, self._completion + usage.completion)
        return self._budget.error_if_exceeded(total)

    def _likely(self, highest: HighestUsage, min_answers: int) -> Usage:
        kind = self._kinds.get(highest.kind, _Kind())
        return Usage(
            math.ceil(highest.prompt * kind.prompt.likely(min_answers)),
            math.ceil(highest.completion * min(1.0, kind.completion.likely(min_answers))),
        )

    def _num_answers(self, highest: HighestUsage) -> int:
        return self._kinds.get(highest.kind, _Kind()).prompt.count

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
