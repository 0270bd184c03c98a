"""Keeps requests in flight within the budget: each reserves the most that it can cost.

What a request costs is known when it is answered. Without reservations, all that are in flight when
a limit is reached would exceed it. A mean cost would not do either: short answers arrive first, and
those in flight are then the long ones. A request that does not fit waits for those in flight, which
mostly cost less than they reserved. Once none is in flight, it is enough that its likely cost fits;
if that does not fit either, the run stops short.
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
STANDARD_DEVIATIONS = 2.0  # above the mean, of a likely cost


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
    """The most that the requests in flight can cost. All methods run in one event loop.

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
        kind = self._kind(highest)
        kind.prompt.add(usage.prompt / max(1, highest.prompt))
        kind.completion.add(usage.completion / max(1, highest.completion))

    async def acquire(self, highest: HighestUsage) -> Usage:
        """Return what a request reserves, once it fits into the budget; it is to be released.

        Raises:
            StoppedShort: if it does not fit although nothing is in flight.
        """
        while self._error_if_exceeded(self._reserved(highest)):
            if not self._in_flight:
                error = self._error_if_exceeded(self._likely(highest))
                # Before anything but its highest cost is known, it is worth a try.
                if not error or not self._kind(highest).prompt.count:
                    break
                self._wake()
                raise error
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        reserved = self._reserved(highest)
        self._add(reserved, 1)
        return reserved

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

    def _reserved(self, highest: HighestUsage) -> Usage:
        # The length of a prompt is known but for the tokenizer, so its likely fraction is enough.
        fraction = self._kind(highest).prompt.likely(MIN_ANSWERS)
        return Usage(math.ceil(highest.prompt * fraction), highest.completion)

    def _likely(self, highest: HighestUsage) -> Usage:
        kind = self._kind(highest)
        fraction = min(1.0, kind.completion.likely(1))
        return Usage(
            math.ceil(highest.prompt * kind.prompt.likely(1)),
            math.ceil(highest.completion * fraction),
        )

    def _kind(self, highest: HighestUsage) -> _Kind:
        return self._kinds.setdefault(highest.kind, _Kind())

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
