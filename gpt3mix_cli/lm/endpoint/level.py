"""How many requests a server is given at once: the level is found by trying, as TCP finds a line's capacity.

It doubles until the server refuses or is no faster for it; from then on a refusal takes a fifth of it, and each round
without one adds a request (additive increase, multiplicative decrease: Chiu and Jain, 1989). A fifth and not half: a
refusal costs no more than one short answer here, an idle slot costs work.
"""

from dataclasses import dataclass, field

FIRST = 8  # requests at once to begin with
MOST = 256
KEPT = 0.8  # of the level after a refusal
FASTER = 1.1  # what half as many requests again must bring in answers a second to be worth it
ROUNDS = 20  # at a level that more requests did not make faster, before more are tried again


@dataclass
class Level:
    """The level of one server.

    Attributes:
        fixed: the user's; 0: to be found.
    """

    fixed: int = 0
    _level: float = field(init=False)
    _doubling: bool = field(init=False, default=True)
    _cut: float = field(init=False, default=-1.0)
    _round: int = field(init=False, default=0)
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
            full: whether as many requests were under way as may be: otherwise nothing is learnt.
        """
        if self.fixed or not full:
            self._since, self._round = None, 0
            return
        if self._since is None:
            self._since = now
            return
        self._round += 1
        if self._doubling:
            self._level = min(self._level + 1, MOST)
        if self._round >= self._level:
            self._end_of_round(now)

    def refused(self, sent: float, now: float) -> None:
        """Hear that the server is overloaded; what was sent before the last cut says nothing new.

        Args:
            sent: when the refused request was sent.
            now: the same clock's time.
        """
        if self.fixed or sent <= self._cut:
            return
        self._level = max(1.0, self._level * KEPT)
        self._doubling, self._cut = False, now
        self._since, self._round, self._best = None, 0, (0.0, 0.0)

    def _end_of_round(self, now: float) -> None:
        assert self._since is not None
        rate = self._round / max(now - self._since, 1e-9)
        self._since, self._round = now, 0
        if self._resting:
            self._resting -= 1
            return
        level, best = self._best
        if self._level >= 1.5 * level:
            if level and rate < FASTER * best:
                # The server only let them wait.
                self._level, self._doubling, self._resting = max(level, FIRST), False, ROUNDS
                return
            self._best = self._level, rate
        if not self._doubling:
            self._level = min(self._level + 1, MOST)
