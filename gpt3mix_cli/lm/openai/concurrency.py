"""How many requests a server gets at once: the limit is found by trying, as TCP finds a bandwidth.

It is multiplied until the server refuses a request or gets no faster. Then the limit is searched by
halving the interval between the highest limit without a refusal and the lowest with one (as BIC
does: Xu, Harfoush and Rhee, 2004). A limit that holds is raised again after some rounds, because
the server may have become free. Requests that wait at the server for too long would time out, so
the limit also follows the server's rate of answers.
"""

import math

INITIAL_LIMIT = 8
MAX_LIMIT = 256
GROWTH_FACTOR = 4  # at the start, after each round that was faster than the one before
DECREASE_FACTOR = 0.8  # of the limit, after a refusal at a limit that worked before
ROUND = 0.75  # of the limit: the answers to requests that a higher limit added
STEPS = 32  # from 0 to the limit: it is found, and raised, to within one step
MIN_SPEEDUP = 1.1  # in answers per second, that make a higher limit worthwhile
HOLD_ROUNDS, MAX_HOLD_ROUNDS = 20, 160  # at a limit that is found, before it is raised; doubled
MAX_WAIT = 0.5  # of the timeout, for the answer of a server whose requests queue
MIN_INTERVALS = 2  # between answers, that make a rate
QUEUE_FACTOR = 1.5  # of the shortest latency: a longer one shows a queue


class AdaptiveConcurrency:
    """The concurrency limit of one server.

    A round is nearly as many answers as requests may be in flight, sent since the last change. The
    throughput at a limit is the limit over the mean latency (Little's law). That is more reliable
    than counting answers, which come in bursts.

    Args:
        fixed: the user's limit; 0: adaptive.
        timeout: seconds after which a request is given up.
    """

    def __init__(self, fixed: int = 0, timeout: float = math.inf) -> None:
        self.fixed, self.limit = fixed, fixed or INITIAL_LIMIT
        self._max_wait = MAX_WAIT * timeout
        self._last_decrease = self._last_change = -math.inf
        self._sustained, self._ceiling = 0, math.inf  # limits without and with refusals
        self._multiplies, self._throughput, self._hold_rounds = True, 0.0, 0
        self._shortest = math.inf  # latency
        self._first_answer, self._next_hold = math.inf, HOLD_ROUNDS
        self._start_round()

    def on_success(self, sent: float, now: float, saturated: bool) -> None:
        """Take note of an answer.

        Args:
            sent: when the request was sent, in seconds on any clock.
            now: the time on the same clock.
            saturated: whether as many requests are in flight as allowed; otherwise the answer says
                little about the limit.
        """
        latency = now - sent
        self._shortest = min(self._shortest, latency)
        if self.fixed or sent < self._last_change:
            return
        self._first_answer = min(self._first_answer, now)
        self._answers += 1
        self._total_latency += latency
        self._saturated += saturated
        interval = (now - self._first_answer) / max(self._answers - 1, 1)
        if (
            self._answers > MIN_INTERVALS
            and latency > QUEUE_FACTOR * self._shortest
            and self.limit * interval > self._max_wait
        ):
            self._decrease(self._max_wait / interval, now)
            self._hold_rounds = HOLD_ROUNDS
        elif self._answers >= ROUND * self.limit:
            self._end_round(now)

    def on_rate_limit(self, sent: float, now: float) -> None:
        """Take note that the server is overloaded, unless sent before the last decrease.

        Args:
            sent: when the refused request was sent.
            now: the time on the same clock.
        """
        if self.fixed or sent <= self._last_decrease:
            return
        if self._sustained >= self.limit:
            self._sustained, self._next_hold = 0, HOLD_ROUNDS
        self._ceiling = self.limit
        if not self._sustained:
            limit = DECREASE_FACTOR * self.limit
        elif self.limit - self._sustained <= self._step():
            limit = self._sustained
        else:
            limit = (self._sustained + self.limit) / 2
        self._decrease(limit, now)

    def on_timeout(self, sent: float, now: float) -> None:
        """Take note that no answer came in time, unless sent before the last decrease."""
        if not self.fixed and sent > self._last_decrease:
            self._sustained, self._ceiling = 0, self.limit
            self._decrease(min(self.limit / 2, self._answers), now)

    def _step(self) -> int:
        return max(1, self.limit // STEPS)

    def _decrease(self, limit: float, now: float) -> None:
        self._multiplies, self._hold_rounds, self._last_decrease = False, 0, now
        self._set(limit, now)

    def _set(self, limit: float, now: float) -> None:
        self.limit, self._last_change = int(min(max(limit, 1), MAX_LIMIT)), now
        self._start_round()

    def _start_round(self) -> None:
        self._answers, self._total_latency, self._saturated = 0, 0.0, 0
        self._first_answer = math.inf

    def _end_round(self, now: float) -> None:
        latency = max(self._total_latency / self._answers, 1e-9)
        throughput = self.limit / latency
        saturated = 2 * self._saturated > self._answers
        queues = latency > QUEUE_FACTOR * self._shortest
        self._start_round()
        if not saturated:
            return
        if self._hold_rounds:
            self._hold_rounds -= 1
            return
        if self._multiplies and throughput < MIN_SPEEDUP * self._throughput:
            # The server merely queues the additional requests.
            self._multiplies, self._hold_rounds = False, HOLD_ROUNDS
            self._set(self._sustained, now)
            return
        self._sustained, self._throughput = self.limit, throughput
        if self._multiplies:
            limit: float = GROWTH_FACTOR * self.limit
        elif self._ceiling == math.inf:
            limit = self.limit + self._step()
        elif self._ceiling - self.limit > self._step():
            limit = (self.limit + self._ceiling) / 2
        else:
            self._ceiling, self._hold_rounds = math.inf, self._next_hold
            self._next_hold = min(2 * self._next_hold, MAX_HOLD_ROUNDS)
            return
        longest = self._max_wait * throughput if queues else math.inf
        self._set(max(min(limit, longest), self.limit), now)
