"""How many requests a server is given at once: the level is found by trying, as TCP finds a line's capacity.

It doubles until the server refuses or is no faster for it; from then on a refusal takes a fifth of it, and each round
without one adds a request (additive increase, multiplicative decrease: Chiu and Jain, 1989). A fifth and not half: a
refusal costs no more than one short answer here, an idle slot costs work.
"""

from dataclasses import dataclass, field

FIRST = 8  # requests at once to begin with
MOST = 256
KEPT = 0.8  # of the level after a refusal
FASTER = 1.1  # what twice as many requests must bring in answers a second to be worth it
ROUNDS = 20  # at a level that more requests did not make faster, before more are tried again


@dataclass
class Level:
    """The level of one server.

    A round is as many answers as requests may be under way, twice as many after a change: the first of those were sent before it.

    Attributes:
        fixed: the user's; 0: to be found.
    """

    fixed: int = 0
    _level: float = field(init=False)
    _doubling: bool = field(init=False, default=True)
    _cut: float = field(init=False, default=-1.0)
    _answers: int = field(init=False, default=0)  # in this round; below 0: before it
    _full: int = field(init=False, default=0)
    _since: float | None = field(init=False, default=None)
    _best: tuple[float, float] = field(init=False, default=(0.0, 0.0))
    _resting: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Begin low."""
        self._level = self.fixed or FIRST

    @property
    def at_once(self) -> int:
        """How many requests may be under way."""
        return int(self._level)

    def answered(self, now: float, full: bool) -> None:
        """Hear that an answer came.

        Args:
            now: seconds on any clock.
            full: whether as many requests were under way as may be: otherwise little is learnt.
        """
        if self.fixed:
            return
        self._answers += 1
        self._full += full
        if self._since is None:
            if self._answers >= 0:
                self._begin(now)
        elif self._answers >= self.at_once:
            self._end_of_round(now)

    def refused(self, sent: float, now: float) -> None:
        """Hear that the server is overloaded; what was sent before the last cut says nothing new.

        Args:
            sent: when the refused request was sent.
            now: the same clock's time.
        """
        if self.fixed or sent <= self._cut:
            return
        self._doubling, self._cut, self._best, self._resting = False, now, (0.0, 0.0), 0
        self._set(self._level * KEPT)

    def _set(self, level: float) -> None:
        """Change the level; what was sent before is not measured."""
        self._level = min(max(level, 1.0), MOST)
        self._since, self._answers = None, -self.at_once

    def _begin(self, now: float) -> None:
        self._since, self._answers, self._full = now, 0, 0

    def _end_of_round(self, now: float) -> None:
        assert self._since is not None
        rate, full = self._answers / max(now - self._since, 1e-9), 2 * self._full > self._answers
        self._begin(now)
        if not full:
            return
        if self._resting:
            self._resting -= 1
        elif not self._doubling:
            self._level = min(self._level + 1, MOST)
        elif rate < FASTER * self._best[1]:
            # The server only lets them wait.
            self._set(self._best[0])
            self._best, self._resting = (0.0, 0.0), ROUNDS
        elif self._level < MOST:
            self._best = self._level, rate
            self._set(2 * self._level)
