"""Retries, rate limits, adaptive concurrency and the choice of servers."""

import asyncio
import heapq
import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import pytest
from endpoint_lm import LABEL_PREFIX, build_requests, engine
from endpoint_server import serving
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt3mix_cli.errors import StoppedShort, UserError
from gpt3mix_cli.lm import Completion, JournaledLM, total_spent
from gpt3mix_cli.lm.openai import dispatcher, event_loop, servers
from gpt3mix_cli.lm.openai.concurrency import (
    GROWTH_FACTOR,
    INITIAL_LIMIT,
    MAX_LIMIT,
    AdaptiveConcurrency,
)
from gpt3mix_cli.lm.openai.engine import OpenAILM
from gpt3mix_cli.lm.openai.http_errors import HttpError
from gpt3mix_cli.lm.openai.servers import CircuitBreaker, RateLimiter


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "INITIAL_BACKOFF_S", 0.005)


def texts(lm: OpenAILM, count: int = 10) -> list[str]:
    return [result.text for result in lm.complete(build_requests(count))]


@pytest.fixture(scope="module")
def expected() -> list[str]:
    """The texts without any fault."""
    with serving() as server, engine(server) as lm:
        return texts(lm, 40)


# Retries --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "server_error",
        "bad_gateway",
        "overloaded",
        "rate_limit",
        "reset",
        "reset_body",
        "half",
        "garbage",
        "no_choices",
    ],
)
def test_retryable_errors_are_retried(kind: str, expected: list[str]) -> None:
    with serving() as server, engine(server) as lm:
        lm.describe()
        # Three answers to one request that are no answers are a reject.
        server.fault(kind, p=0.1 if kind == "no_choices" else 0.3, path="completions")
        before = server.requests
        results = list(lm.complete(build_requests(40)))
        assert [result.text for result in results] == expected
        assert server.requests > before + 40
        assert not server.twice()


def test_timeouts_are_retried(expected: list[str]) -> None:
    with serving() as server, engine(server, timeout=0.5) as lm:
        lm.describe()
        server.fault("hang", next=3, path="completions")
        assert texts(lm) == expected[:10]


def test_a_request_that_always_fails_stops_all_work() -> None:
    with serving() as server, engine(server) as lm:
        lm.describe()
        before = server.requests
        server.fault("server_error", contains='"seed":3,', p=1.0)
        with pytest.raises(
            StoppedShort,
            match="a request failed 10 times, the last time with: HTTP 500: The server had",
        ):
            texts(lm)
        assert server.requests - before <= 10 + dispatcher.MAX_ATTEMPTS + 10
        assert server.statuses[500] == dispatcher.MAX_ATTEMPTS


def test_answers_before_the_stop_are_yielded() -> None:
    with serving() as server, engine(server, concurrency=4) as lm:
        lm.describe()
        server.fault("server_error", contains='"seed":30,', p=1.0)
        given_out = []
        with pytest.raises(StoppedShort):
            given_out.extend(result.number for result in _each(lm, 40, given_out))
        assert given_out == list(range(30))


def _each(lm: OpenAILM, count: int, into: list[int]) -> Sequence[Completion]:
    for result in lm.complete(build_requests(count)):
        into.append(result.number)
    return []


# Outages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["reset", "bad_gateway", "overloaded"])
def test_a_server_that_restarts_is_waited_for(
    kind: str, monkeypatch: pytest.MonkeyPatch, expected: list[str]
) -> None:
    """However many attempts that takes; a lost connection is tried by one request at a time."""
    monkeypatch.setattr(servers, "MAX_BACKOFF_S", 0.01)
    monkeypatch.setattr(servers, "MIN_FAILURE_PERIOD_S", 0.01)
    warnings: list[str] = []
    with serving() as server, engine(server, warn=warnings.append) as lm:
        lm.describe()
        server.fault(kind, next=60, path="completions")
        assert texts(lm) == expected[:10]
    assert "waiting for the server for up to 5 minutes" in warnings[0]


def test_an_outage_of_minutes_stops_all_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "MAX_BACKOFF_S", 0.01)
    monkeypatch.setattr(dispatcher, "MAX_OUTAGE_S", 0.3)
    with serving() as server, engine(server) as lm:
        lm.describe()
        server.fault("reset", p=1.0, path="completions")
        with pytest.raises(StoppedShort, match=r"no answer for .* minutes: the connection failed"):
            texts(lm)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ('{"error": "Model m is currently loading", "estimated_time": 20.5}', 20.5),
        ("Rate limit reached for m. Please try again in 1m30s. Visit ...", 90.0),
        ("Limit 3, Used 3. Please try again in 250ms.", 0.25),
        ('{"retryDelay": "26s"}', 26.0),
        ("Retry after 2 hours", 7200.0),
        ("Loading model", None),
        ("Please try again in a few minutes", None),
    ],
)
def test_waits_are_read_from_messages(text: str, seconds: float | None) -> None:
    assert dispatcher.requested_wait(text) == seconds


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (503, "Loading model", "busy"),
        (503, "The model m is starting up", "busy"),
        (529, "Overloaded", "busy"),
        (429, "Slow down", "busy"),
        (503, "Service Temporarily Unavailable", "outage"),
        (502, "Bad Gateway", "outage"),
        (500, "Loading failed", "failure"),
    ],
)
def test_a_server_that_is_busy_has_not_failed(status: int, message: str, kind: str) -> None:
    assert dispatcher._kind(HttpError(status, message)) == kind


def test_a_model_that_loads_is_waited_for() -> None:
    with serving(dialect="llamacpp") as server, engine(server) as lm:
        lm.describe()
        reference = texts(lm, 3)
    with serving(dialect="llamacpp") as server, engine(server) as lm:
        lm.describe()
        server.fault("status", status=503, message="Loading model", next=12, path="completions")
        started = time.monotonic()
        server.fault(
            "status",
            status=503,
            message="m is loading, please try again in 400ms",
            next=1,
            path="completions",
        )
        assert texts(lm, 3) == reference
        assert time.monotonic() - started >= 0.4


# Pauses that servers ask for ------------------------------------------------------------------


def test_retry_after_is_followed(expected: list[str]) -> None:
    with serving() as server, engine(server) as lm:
        lm.describe()
        server.fault("rate_limit", next=1, retry_after=0.4, path="completions")
        started = time.monotonic()
        assert texts(lm) == expected[:10]
        assert time.monotonic() - started >= 0.4


def test_retry_after_beyond_the_sdks_limit_is_followed(
    monkeypatch: pytest.MonkeyPatch, expected: list[str]
) -> None:
    """The SDK fails at once for 200 s. Here a second of the clock lasts 2 ms."""
    start = time.monotonic()
    clock = lambda: start + (time.monotonic_real() - start) * 500  # type: ignore[attr-defined]  # noqa: E731
    fast = type("fast", (), {"monotonic": staticmethod(clock), "time": staticmethod(time.time)})
    monkeypatch.setattr(time, "monotonic_real", time.monotonic, raising=False)
    wait = asyncio.wait_for
    monkeypatch.setattr(dispatcher, "time", fast)
    monkeypatch.setattr(servers, "time", fast)
    monkeypatch.setattr(
        servers.asyncio,
        "wait_for",
        lambda what, seconds: wait(what, None if seconds is None else seconds / 500),
    )
    later = servers._call_later
    monkeypatch.setattr(servers, "_call_later", lambda seconds, call: later(seconds / 500, call))
    with serving() as server, engine(server) as lm:
        lm.describe()
        server.fault("rate_limit", next=1, retry_after=200, path="completions")
        began = fast.monotonic()  # type: ignore[attr-defined]
        assert texts(lm, 3) == expected[:3]
        assert fast.monotonic() - began >= 200  # type: ignore[attr-defined]


def test_a_pause_of_hours_stops_all_work() -> None:
    with serving() as server, engine(server) as lm:
        lm.describe()
        server.fault("rate_limit", next=1, retry_after=7200, path="completions")
        with pytest.raises(StoppedShort, match="asks to wait for 120 minutes") as error:
            texts(lm)
        assert error.value.exit_code == 3


# Errors that retries do not solve -------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words", "code"),
    [
        ("no_quota", "the quota is used up: You exceeded your current quota", 3),
        ("no_credits", "the quota is used up: Insufficient credits", 3),
        ("bad_key", "HTTP 401: Incorrect API key provided", 2),
        ("forbidden", "HTTP 403: Country, region, or territory not supported", 2),
        ("no_model", "HTTP 404: The model `tiny` does not exist", 2),
    ],
)
@pytest.mark.parametrize("dialect", ["openai", "vllm"])
def test_errors_that_retries_do_not_solve_stop_all_work_at_once(
    kind: str, words: str, code: int, dialect: str
) -> None:
    with serving(dialect=dialect, delay=0.005) as server, engine(server, concurrency=4) as lm:
        lm.describe()
        before = server.requests
        server.fault(kind, contains='"seed":10,', p=1.0)
        with pytest.raises(UserError, match=words) as error:
            texts(lm, 200)
        assert error.value.exit_code == code
        assert server.requests - before < 40
        again = server.requests
        with pytest.raises(UserError, match=words):
            texts(lm)
        assert (
            server.requests <= again + 4
        )  # those in flight; later requests fail without being sent


@pytest.mark.parametrize(("kind", "status"), [("server_error", 500), ("bad_gateway", 502)])
def test_an_error_rate_opens_the_breaker(
    kind: str, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also of errors that would be an outage if no request were answered."""
    monkeypatch.setattr(servers, "MIN_FAILURE_PERIOD_S", 0.3)
    monkeypatch.setattr(dispatcher, "MAX_ATTEMPTS", 10**6)
    with serving() as server, engine(server) as lm:
        journal = JournaledLM(lm, tmp_path / "a.sqlite")
        list(journal.complete(build_requests(20)))
        server.fault(kind, p=0.9)
        with pytest.raises(
            StoppedShort,
            match=f"more than 50% of the last 50 requests failed, the last one with: HTTP {status}",
        ) as error:
            list(journal.complete(build_requests(400)))
        journal.close()
        assert error.value.exit_code == 3
        assert "answers are kept" in error.value.hint


def test_a_few_errors_do_not_open_it(monkeypatch: pytest.MonkeyPatch, expected: list[str]) -> None:
    """Two requests that time out, one after the other, are no error rate."""
    monkeypatch.setattr(servers, "MIN_FAILURE_PERIOD_S", 0.01)
    with serving() as server, engine(server, concurrency=1) as lm:
        lm.describe()
        lm._dispatcher._breaker = CircuitBreaker()
        server.fault("server_error", next=5, path="completions")
        assert texts(lm, 3) == expected[:3]


def test_answers_under_way_are_kept_when_the_work_stops_short(tmp_path: Path) -> None:
    """They are paid, so they are kept."""
    path = tmp_path / "a.sqlite"
    with serving(delay=0.1) as server, engine(server, concurrency=20) as lm:
        journal = JournaledLM(lm, path)
        list(journal.complete(build_requests(1)))
        server.fault("no_quota", contains='"seed":5,', p=1.0)
        with pytest.raises(StoppedShort):
            list(journal.complete(build_requests(60)))
        journal.close()
        on_success = server.statuses[200]
    with engine(server) as lm:
        journal = JournaledLM(lm, path)
        assert total_spent(path)[0] >= on_success - 3  # /tokenize answers too
        journal.close()


# Rate limits ----------------------------------------------------------------------------------


def test_requests_per_minute_are_not_exceeded() -> None:
    with (
        serving(per_minute=40, window=0.5) as server,
        engine(server, requests_per_minute=60 * 70) as lm,
    ):
        lm.describe()
        time.sleep(0.5)
        server.reset()
        started = time.monotonic()
        texts(lm, 40)
        assert time.monotonic() - started > 0.5
        assert server.statuses[429] == 0


def test_tokens_per_minute_are_not_exceeded() -> None:
    with serving() as server, engine(server) as lm:
        used = sum(
            result.prompt_tokens + result.completion_tokens
            for result in lm.complete(build_requests(20))
        )
    with serving() as server, engine(server, tokens_per_minute=used * 60) as lm:
        started = time.monotonic()
        texts(lm, 20)
        assert (
            0.5 < time.monotonic() - started < 3
        )  # a second, whatever the estimates before each answer


@given(amounts=st.lists(st.floats(0.1, 50), min_size=2, max_size=30), a_minute=st.floats(1, 1e6))
def test_a_rate_is_kept_in_every_window(amounts: list[float], a_minute: float) -> None:
    limiter = RateLimiter(a_minute)
    now = time.monotonic()
    times = [now + limiter.reserve(amount) for amount in amounts]
    for first in range(len(times)):
        for last in range(first + 1, len(times)):
            taken = sum(amounts[first:last])  # between their beginnings
            assert times[last] - times[first] >= taken * 60 / a_minute - 0.05


def test_without_a_limit_there_is_no_wait() -> None:
    assert [RateLimiter(None).reserve(1e9) for _ in range(3)] == [0.0] * 3


# Several servers ------------------------------------------------------------------------------


def test_servers_are_used_in_proportion_to_their_speed() -> None:
    with (
        serving(delay=0.05) as fast,
        serving(delay=0.25) as slow,
        engine(fast, slow, concurrency=4) as lm,
    ):
        lm.describe()
        fast.reset(), slow.reset()
        texts(lm, 120)
        assert 2 < fast.requests / slow.requests < 8
        assert fast.requests + slow.requests >= 120
        assert max(fast.most_at_once, slow.most_at_once) <= 4


def test_a_server_that_dies_leaves_its_work_to_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "INITIAL_BACKOFF_S", 0.1)
    monkeypatch.setattr(servers, "MIN_FAILURE_PERIOD_S", 1.0)
    with (
        serving(delay=0.01) as good,
        serving(delay=0.01) as bad,
        engine(good, bad, concurrency=8) as lm,
    ):
        lm.describe()
        results: list[int] = []
        worker = threading.Thread(
            target=lambda: results.extend(
                result.number for result in lm.complete(build_requests(400))
            )
        )
        worker.start()
        while bad.requests < 40:
            time.sleep(0.005)
        bad.fault("reset", p=1.0)
        worker.join(30)
        assert results == list(range(400))
        assert bad.requests < 200  # what it fails at it is not given for long


def test_one_of_two_servers_is_not_there() -> None:
    with serving() as gone:
        pass
    with serving() as good, engine(good, gone) as lm:
        assert len(texts(lm, 30)) == 30
    with serving() as good, engine(gone, good) as lm:
        assert len(texts(lm, 30)) == 30


def test_requests_go_out_in_order() -> None:
    with serving(delay=0.002) as server, engine(server, concurrency=3) as lm:
        lm.describe()
        server.reset()
        texts(lm, 60)
        seeds = [body["seed"] for body in server.bodies("/completions") if body["max_tokens"] > 1]
    assert all(abs(seed - place) <= 3 for place, seed in enumerate(seeds))


# Adaptive concurrency -------------------------------------------------------------------------


def simulated(
    capacity: int, queues: bool, jitter: float, count: int, seed: int
) -> tuple[float, AdaptiveConcurrency]:
    """Return the utilisation of the server's slots, and the concurrency at the end."""
    level, noise = AdaptiveConcurrency(), random.Random(seed)
    now, ends, waiting, under_way, used, done = 0.0, [], deque(), 0, 0.0, 0
    starts = 0.0
    free = capacity

    def latency() -> float:
        return 1 + jitter * (2 * noise.random() - 1)

    while done < count:
        while under_way < level.limit:
            under_way += 1
            full = under_way >= level.limit
            if free:
                free -= 1
                heapq.heappush(ends, (now + latency(), noise.random(), now, full, True))
            elif queues:
                waiting.append((now, full))
            else:
                heapq.heappush(ends, (now + 0.02, noise.random(), now, full, False))
        now, _, sent, full, good = heapq.heappop(ends)
        full = under_way >= level.limit
        under_way -= 1
        if not good:
            level.on_rate_limit(sent, now)
            continue
        done += 1
        used += 1
        free += 1
        if waiting:
            sent_then, full_then = waiting.popleft()
            free -= 1
            heapq.heappush(ends, (now + latency(), noise.random(), sent_then, full_then, True))
        level.on_success(sent, now, full)
        assert 1 <= level.limit <= MAX_LIMIT
        starts = now
    return used / (capacity * starts), level


@settings(max_examples=12, deadline=None)
@given(
    capacity=st.integers(1, 100),
    queues=st.booleans(),
    jitter=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 10**6),
)
def test_concurrency_uses_nine_tenths_of_any_server(
    capacity: int, queues: bool, jitter: float, seed: int
) -> None:
    """From the start, over 75 answers per slot; a refusal takes 1/50 of an answer's time."""
    utilisation, level = simulated(capacity, queues, jitter, 75 * capacity, seed)
    assert utilisation >= 0.9
    assert queues or level.limit <= 1.3 * capacity + 1
    # A queue hides behind answers of very different lengths; it costs waiting there, not answers.
    queue = max(GROWTH_FACTOR**2 * capacity, GROWTH_FACTOR * INITIAL_LIMIT)
    assert not queues or jitter > 0.1 or level.limit <= queue


def slow_server(service_s: float, timeout: float, count: int) -> tuple[float, int]:
    """Return the utilisation of a server of one slot, and how many requests timed out.

    It goes on with requests that were given up.
    """
    level, numbers = AdaptiveConcurrency(0, timeout), itertools.count()
    now, free_at, done, timeouts, under_way = 0.0, 0.0, 0, 0, 0
    events: list[tuple[float, int, float, bool, bool]] = []
    while done < count:
        while under_way < level.limit:
            under_way += 1
            free_at = max(free_at, now) + service_s
            in_time = free_at <= now + timeout
            end = free_at if in_time else now + timeout
            full = under_way >= level.limit
            heapq.heappush(events, (end, next(numbers), now, full, in_time))
        now, _, sent, full, in_time = heapq.heappop(events)
        under_way -= 1
        done, timeouts = done + in_time, timeouts + (not in_time)
        level.on_success(sent, now, full) if in_time else level.on_timeout(sent, now)
    return count * service_s / now, timeouts


@pytest.mark.parametrize(
    ("service_s", "timeout", "utilisation"),
    [(15.0, 120.0, 0.95), (15.0, 100.0, 0.8), (50.0, 120.0, 0.6), (0.3, 2.0, 0.8)],
)
def test_a_slow_server_of_one_slot_is_kept_at_work(
    service_s: float, timeout: float, utilisation: float
) -> None:
    """At eight requests of 15 s, and a timeout of 120 s, each would time out."""
    used, timeouts = slow_server(service_s, timeout, 20)
    assert used >= utilisation
    assert timeouts <= 13
    assert slow_server(service_s, timeout, 200)[1] <= 13  # none after the start


def test_after_a_timeout_the_limit_soon_returns() -> None:
    """One request that was lost says little about the server."""
    level, now = AdaptiveConcurrency(0, 10.0), 0.0
    for _ in range(5):
        for _ in range(level.limit):
            level.on_success(now, now + 1.0, True)
        now += 1.0
    before = level.limit
    level.on_timeout(now, now + 0.5)
    assert level.limit <= before / 2
    for _ in range(8):
        now += 1.0
        for _ in range(level.limit):
            level.on_success(now, now + 1.0, True)
    assert level.limit >= 0.9 * before


def test_concurrency_that_is_given_stays() -> None:
    level = AdaptiveConcurrency(5)
    for now in range(100):
        level.on_success(float(now), now + 1.0, True)
        level.on_rate_limit(float(now), float(now))
        level.on_timeout(float(now), float(now))
    assert level.limit == 5


def test_refusals_of_one_moment_are_one() -> None:
    level = AdaptiveConcurrency()
    for place in range(60):
        level.on_rate_limit(sent=1.0, now=2.0 + place / 100)
    assert level.limit == int(0.8 * INITIAL_LIMIT)
    level.on_rate_limit(sent=3.0, now=4.0)
    assert level.limit == int(0.8 * int(0.8 * INITIAL_LIMIT))


def test_concurrency_is_never_below_one() -> None:
    level = AdaptiveConcurrency()
    for now in range(1, 100):
        level.on_rate_limit(float(now), now + 0.5)
    assert level.limit == 1
    for now in range(1000):
        level.on_success(1000.0 + now, 1001.0 + now, True)
    assert level.limit > 1


@pytest.mark.parametrize("queue", [True, False])
def test_a_real_server_is_used(queue: bool) -> None:
    with serving(delay=0.15, at_once=24, queue=queue) as server, engine(server) as lm:
        lm.describe()
        server.reset()
        assert len(texts(lm, 150)) == 150
        assert server.most_at_once > INITIAL_LIMIT
        assert 1 <= lm._dispatcher.pool.servers[0].concurrency.limit <= MAX_LIMIT


# The event loop -------------------------------------------------------------------------------


def test_closing_the_iterator_early_leaves_nothing_behind(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with serving(delay=0.05) as server, engine(server) as lm:
        for result in lm.complete(build_requests(100)):
            assert LABEL_PREFIX not in result.text
            break
    assert capfd.readouterr().err == ""
    assert not [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith(("endpoint", "journal")) and "asyncio" in str(thread)
    ]


def test_threads_that_need_the_loop_at_the_same_time_get_the_same_one() -> None:
    async def nothing() -> None:
        pass

    def start() -> None:
        barrier.wait()
        loops.append(loop._start())

    for _ in range(20):
        loop, loops = event_loop.BackgroundLoop(nothing), list[asyncio.AbstractEventLoop]()
        barrier = threading.Barrier(8)
        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(loops)) == 1
        loop.close()


def test_results_come_in_order_while_others_are_under_way() -> None:
    async def nothing() -> None:
        pass

    async def work(item: int) -> int:
        await asyncio.sleep(random.random() / 100)
        return item

    loop = event_loop.BackgroundLoop(nothing)
    try:
        assert list(loop.map_ordered(work, range(200))) == list(range(200))
    finally:
        loop.close()
