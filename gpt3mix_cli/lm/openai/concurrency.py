"""How many requests a server is given at once: the level is found by trying, as TCP finds a line's capacity.

It doubles until the server refuses or is no faster for it; from then on a refusal takes a fifth of it, and each round
without one adds a request (additive increase, multiplicative decrease: Chiu and Jain, 1989), or some where it is high. A fifth and not half: a
refusal costs no more than one short answer here, an idle slot costs work.
"""

import math
from dataclasses import dataclass, field

FIRST = 8  # requests at once to begin with
MOST = 256
KEPT = 0.8  # of the level after a refusal
MORE = 1 / 32  # of the level is added after a round without one, one request at least
FASTER = 1.1  # what twice as many requests must bring in answers a second to be worth it
ROUNDS = 20  # at a level that more requests did not make faster, before more are tried again


@dataclass
class AdaptiveConcurrency:
    """The level of one server.

    A round is as many answers as requests may be under way, all sent since the last change. How many answers a second a level
    brings is the level over the mean time of an answer (Little's law), which is surer than counting answers that come in bursts.

    Attributes:
        fixed: the user's; 0: to be found.
    """

    fixed: int = 0
    _level: float = field(init=False)
    _doubling: bool = field(init=False, default=True)
    _cut: float = field(init=False, default=-math.inf)
    _changed: float = field(init=False, default=-math.inf)
    _answers: int = field(init=False, default=0)
    _waited: float = field(init=False, default=0.0)
    _full: int = field(init=False, default=0)
    _best: tuple[float, float] = field(init=False, default=(0.0, 0.0))
    _resting: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Begin low."""
        self._level = self.fixed or FIRST

    @property
    def at_once(self) -> int:
        """How many requests may be under way."""
        return int(self._level)

    def on_success(self, sent: float, now: float, full: bool) -> None:
        """Hear that an answer came.

        Args:
            sent: when it was asked for, in seconds on any clock.
            now: the same clock's time.
            full: whether as many requests were under way as may be: otherwise little is learnt.
        """
        if self.fixed or sent < self._changed:
            return
        self._answers += 1
        self._waited += now - sent
        self._full += full
        if self._answers >= self.at_once:
            self._end_of_round(now)

    def on_rate_limit(self, sent: float, now: float) -> None:
        """Hear that the server is overloaded; what was sent before the last cut says nothing new.

        Args:
            sent: when the refused request was sent.
            now: the same clock's time.
        """
        if self.fixed or sent <= self._cut:
            return
        kept, borne = self._level * KEPT, self._best[0]
        if kept < borne < self._level:
            kept, borne = borne, 0.0  # the way down from too many ends at what it has borne
        self._doubling, self._cut, self._best, self._resting = False, now, (borne, 0.0), 0
        self._set(kept, now)

    def _set(self, level: float, now: float) -> None:
        self._level, self._changed = min(max(level, 1.0), MOST), now
        self._answers, self._waited, self._full = 0, 0.0, 0

    def _end_of_round(self, now: float) -> None:
        rate, full = (
            self.at_once * self._answers / max(self._waited, 1e-9),
            2 * self._full > self._answers,
        )
        self._answers, self._waited, self._full = 0, 0.0, 0
        if not full:
            return
        if self._resting:
            self._resting -= 1
        elif not self._doubling:
            self._level = min(self._level + max(1.0, self._level * MORE), MOST)
        elif rate < FASTER * self._best[1]:
            # The server only lets them wait.
            self._set(self._best[0], now)
            self._best, self._resting = (0.0, 0.0), ROUNDS
        elif self._level < MOST:
            self._best = self._level, rate
            self._set(2 * self._level, now)
