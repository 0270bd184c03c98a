"""How many requests a server gets at once: the limit is found by trying, as TCP finds a bandwidth.

It doubles until the server refuses a request or gets no faster. After that, a refusal lowers it by
a fifth, and each round without one raises it by one request, or by more if it is high (additive
increase, multiplicative decrease: Chiu and Jain, 1989). A fifth and not half, because a refusal
costs one short answer, while idle capacity costs work.
"""

import math

INITIAL_LIMIT = 8
MAX_LIMIT = 256
DECREASE_FACTOR = 0.8  # of the limit, after a refusal
INCREASE_FRACTION = 1 / 32  # of the limit, after a round without one; at least one request
MIN_SPEEDUP = 1.1  # in answers per second, for which doubling the limit is worthwhile
HOLD_ROUNDS = 20  # at a limit that doubling did not make faster, before it grows again


class AdaptiveConcurrency:
    """The concurrency limit of one server.

    A round is as many answers as requests may be in flight, all sent since the last change. The
    throughput at a limit is the limit over the mean latency (Little's law). That is more reliable
    than counting answers, which come in bursts.

    Args:
        fixed: the user's limit; 0: adaptive.
    """

    def __init__(self, fixed: int = 0) -> None:
        self.fixed, self._limit = fixed, float(fixed or INITIAL_LIMIT)
        self._last_decrease = self._last_change = -math.inf
        self._best_limit = self._best_throughput = 0.0
        self._doubling, self._hold_rounds = True, 0
        self._start_round()

    @property
    def limit(self) -> int:
        """The most requests in flight."""
        return int(self._limit)

    def on_success(self, sent: float, now: float, saturated: bool) -> None:
        """Take note of an answer.

        Args:
            sent: when the request was sent, in seconds on any clock.
            now: the time on the same clock.
            saturated: whether as many requests were in flight as allowed; otherwise the answer
                says little about the limit.
        """
        if self.fixed or sent < self._last_change:
            return
        self._answers += 1
        self._total_latency += now - sent
        self._saturated += saturated
        if self._answers >= self.limit:
            self._end_round(now)

    def on_rate_limit(self, sent: float, now: float) -> None:
        """Take note that the server is overloaded, unless sent before the last decrease.

        Args:
            sent: when the refused request was sent.
            now: the time on the same clock.
        """
        if self.fixed or sent <= self._last_decrease:
            return
        limit, sustained = self._limit * DECREASE_FACTOR, self._best_limit
        if limit < sustained < self._limit:
            limit, sustained = sustained, 0.0  # back to what the server has sustained
        self._doubling, self._last_decrease, self._hold_rounds = False, now, 0
        self._best_limit, self._best_throughput = sustained, 0.0
        self._set(limit, now)

    def _set(self, limit: float, now: float) -> None:
        self._limit, self._last_change = min(max(limit, 1.0), MAX_LIMIT), now
        self._start_round()

    def _start_round(self) -> None:
        self._answers, self._total_latency, self._saturated = 0, 0.0, 0

    def _end_round(self, now: float) -> None:
        throughput = self.limit * self._answers / max(self._total_latency, 1e-9)
        saturated = 2 * self._saturated > self._answers
        self._start_round()
        if not saturated:
            return
        if self._hold_rounds:
            self._hold_rounds -= 1
        elif not self._doubling:
            increase = max(1.0, self._limit * INCREASE_FRACTION)
            self._limit = min(self._limit + increase, MAX_LIMIT)
        elif throughput < MIN_SPEEDUP * self._best_throughput:
            # The server merely queues the additional requests.
            self._set(self._best_limit, now)
            self._best_limit, self._best_throughput, self._hold_rounds = 0.0, 0.0, HOLD_ROUNDS
        elif self._limit < MAX_LIMIT:
            self._best_limit, self._best_throughput = self._limit, throughput
            self._set(2 * self._limit, now)
