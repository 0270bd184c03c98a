"""Sends requests to the servers of an endpoint: how many at once, how fast, to whom, and what happens when it goes wrong.

Each server has a level of its own (`level`) and takes the next request as soon as it has room, so that several are used in
proportion to how fast they answer. What the user must mend ends the work with the server's own words; what may pass is
tried again with growing, jittered waits, or when the server says. The SDK's own retries are off: they give up where a
server asks for more than two minutes.
"""

import asyncio
import contextlib
import json
import os
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from ...errors import StoppedShort, UserError
from ...settings import OpenAILM
from .level import Level
from .money import Purse
from .protocol import BadAnswer, words_of

if TYPE_CHECKING:
    import openai

TRIES = 10  # of one request
FIRST_TRIES = 2  # of each server, and of all together, before anything has come from any
WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before the second try, and at most
PATIENCE = 3600.0  # seconds that a server may ask us to stay away
OUTCOMES, FEWEST = 50, 10  # as many of the last ones are what the breaker looks at, and no fewer
FAILED = 0.5  # share of them that opens it
FAILING = 20.0  # seconds for which it must have been so
MINUTE = 60.0
NOT_ITS_FAULT = ("validation error", "is not supported")  # how llama.cpp's Python server says with a 500 that a request is wrong


class Refused(Exception):
    """A server refused a request as it stands: another one may be taken.

    Attributes:
        status: HTTP's.
        words: the server's own.
        code: the protocol's, such as `unsupported_parameter`.
        param: the field that it did not take.
    """

    def __init__(self, status: int, words: str, code: str = "", param: str = "") -> None:
        """Keep what the server said."""
        super().__init__(words)
        self.status, self.words, self.code, self.param = status, words, code, param


class _Again(Exception):
    """A try failed in a way that may pass."""

    def __init__(self, words: str, wait: float | None = None, overload: bool = False) -> None:
        super().__init__(words)
        self.wait, self.overload = wait, overload


@dataclass
class Server:
    """One base URL."""

    url: str
    client: "openai.AsyncOpenAI"
    level: Level
    under_way: int = 0
    rests_until: float = 0.0
    unreached: int = 0

    def not_reached(self, sent: float, now: float) -> None:
        """Hear that a connection failed; after a second one in a row others are given the work for a while."""
        if sent >= self.rests_until:
            self.unreached += 1
            if self.unreached > 1:
                self.rests_until = now + min(WAIT * 2 ** min(self.unreached - 2, 10), LONGEST_WAIT)

    def has_room(self, now: float) -> bool:
        """Return whether it may be given another request."""
        return self.under_way < self.level.at_once and self.rests_until <= now


@dataclass
class Pace:
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
class Health:
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


class Traffic:
    """All servers of an endpoint. Its methods are called in one event loop."""

    def __init__(self, settings: OpenAILM, purse: Purse) -> None:
        """Connect to nothing yet; the purse is asked before each try.

        Raises:
            UserError: if the key is missing.
        """
        self._settings = settings
        self._secret, self._purse = _key(settings), purse
        self._servers: list[Server] = []
        # Whoever is next waits for room and for the pace, so that requests go out in the order in which they came.
        self._gate, self._room, self._ended = asyncio.Lock(), asyncio.Event(), asyncio.Event()
        self._failed, self._reached = 0, False
        self._requests, self._tokens = Pace(settings.requests_per_minute), Pace(settings.tokens_per_minute)
        self._health = Health()
        self._stopped: UserError | None = None
        self._jitter = random.Random()  # noqa: S311 - neither a secret nor a number that anybody reports

    async def post(self, path: str, body: Mapping[str, Any], sound: Callable[[Any], object], tokens: int = 0) -> tuple[str, Any, int]:
        """Return the answer, as text and as what its JSON says, and how many requests it took, failed ones before it included.

        Args:
            path: below the base URL; with two slashes at the server's root.
            body: the request's JSON.
            sound: raises BadAnswer at an answer that must be asked for again.
            tokens: estimate of those read and written, for `tokens_per_minute`.

        Raises:
            Refused: if the server does not take the request as it stands.
            StoppedShort: if the servers cannot be reached, fail too often, or the quota is used up.
            UserError: if the key or the model is refused.
        """
        failed, sent = 0, 0
        since: float | None = None
        while True:
            server = await self._turn(tokens)
            sent += 1
            try:
                text, value = await self._once(server, path, body, sound)
            except _Again as error:
                failure = error
            except Refused:
                self._failed += 1
                raise
            else:
                self._health.note(True)
                return text, value, 1 + self.take_failed()
            finally:
                server.under_way -= 1
                self._room.set()
            self._failed += 1
            since = time.monotonic() if since is None else since
            # A server that is merely busy has not failed; its patience is counted in time.
            failed += not failure.overload
            self._give_up(failure, failed, sent, time.monotonic() - since)
            if failure.wait is None:
                await self._pause(min(WAIT * 2 ** min(sent - 1, 10), LONGEST_WAIT) * self._jitter.uniform(0.5, 1))

    def take_failed(self) -> int:
        """Return how many requests came to nothing since this was last asked: they count too."""
        failed, self._failed = self._failed, 0
        return failed

    def settle(self, taken: int, used: int) -> None:
        """Hear how many tokens a call has used of those that it took from the pace."""
        self._tokens.give_back(taken - used)

    async def get(self, path: str) -> dict[str, Any] | None:
        """Return what the first server that answers says at a path; None where it says nothing."""
        import openai

        for server in self._open():
            try:
                response: Any = await server.client.get(path, cast_to=_response_type())
                value = json.loads(response.text)
            except (openai.OpenAIError, ValueError):
                continue
            return value if isinstance(value, dict) else None
        return None

    @property
    def client(self) -> "openai.AsyncOpenAI":
        """The SDK's client of the first server."""
        return self._open()[0].client

    async def close(self) -> None:
        """Close all connections."""
        for server in self._servers:
            await server.client.close()
        self._servers.clear()

    def without_secret(self, text: str) -> str:
        """Return a text in which the key stands nowhere."""
        return text.replace(self._secret, "<key>") if len(self._secret) > 3 else text

    def means(self, error: "openai.APIStatusError") -> NoReturn:
        """Raise what the error of a call that the SDK made by itself means; see `post`."""
        try:
            self._status(self._open()[0], error, time.monotonic())
        except _Again as failure:
            raise StoppedShort(f"{self._named()}: {failure}", "run again; answers are kept") from None

    # One try ---------------------------------------------------------------------------------------------------------

    async def _once(self, server: Server, path: str, body: Mapping[str, Any], sound: Callable[[Any], object]) -> tuple[str, Any]:
        import openai

        try:
            self._purse.send()
        except StoppedShort as error:
            self.stop(error)
        sent = time.monotonic()
        full = server.under_way >= server.level.at_once
        place = path if not path.startswith("//") else f"{server.url.removesuffix('/v1')}/{path[2:]}"
        try:
            response: Any = await server.client.post(place, body=body, cast_to=_response_type())
            self._reached, server.unreached = True, 0
            text = self.without_secret(response.text)
            value = json.loads(text)
            sound(value)
        except openai.APIStatusError as error:
            self._status(server, error, sent)
        except openai.APITimeoutError:
            server.level.refused(sent, time.monotonic())
            raise _Again(f"no answer within {self._settings.timeout:g} s") from None
        except openai.APIConnectionError as error:
            server.not_reached(sent, time.monotonic())
            raise _Again(f"the connection failed: {self.without_secret(str(error.__cause__ or error))}") from None
        except ValueError:
            raise _Again(f"an answer that is no JSON: {text[:80]!r}") from None
        except BadAnswer as error:
            raise _Again(str(error)) from None
        server.level.answered(time.monotonic(), full)
        return text, value

    def _status(self, server: Server, error: "openai.APIStatusError", sent: float) -> NoReturn:
        """Raise what an HTTP error means."""
        self._reached, server.unreached = True, 0
        status = error.status_code
        body = error.body if isinstance(error.body, Mapping) else {}
        inner = body.get("error", body)
        inner = inner if isinstance(inner, Mapping) else {}
        code, param = str(inner.get("code") or ""), str(inner.get("param") or "")
        said = next(words_of(error.body), "") or error.response.text or "no words"
        words = " ".join(self.without_secret(said).split())[:1000]
        if status == 500 and any(mark in words for mark in NOT_ITS_FAULT):
            status = 400
        if status == 429 and "insufficient_quota" in (code, str(inner.get("type"))):
            self.stop(StoppedShort(f"{self._named()}: the quota is used up: {words}", "raise it with the provider, and run again"))
        if status in (408, 409, 425, 429) or status >= 500:
            wait = _retry_after(error.response.headers)
            if status in (429, 503):
                server.level.refused(sent, time.monotonic())
            if wait is not None and wait > PATIENCE:
                message = f"{self._named()}: the server asks to stay away for {wait / 60:.0f} minutes: {words}"
                self.stop(StoppedShort(message, "run again after that"))
            if wait is not None:
                server.rests_until = max(server.rests_until, time.monotonic() + wait)
            raise _Again(f"HTTP {status}: {words}", wait, overload=status == 429) from None
        if status in (401, 403):
            hint = f"put a valid key into the environment variable {self._settings.api_key_env}"
            self.stop(UserError(f"{self._named()}: HTTP {status}: {words}", hint))
        raise Refused(status, words, code, param) from None

    # Which server, and when ------------------------------------------------------------------------------------------

    async def _turn(self, tokens: int) -> Server:
        """Return a server that has room, once the pace allows it; the request counts as under way."""
        async with self._gate:
            while True:
                server = await self._server()
                try:
                    await self._pause(max(self._requests.take(1), self._tokens.take(tokens)))
                    if not self._stopped and server.rests_until <= time.monotonic():
                        return server
                except asyncio.CancelledError:
                    server.under_way -= 1
                    raise
                server.under_way -= 1
                self._requests.give_back(1)
                self._tokens.give_back(tokens)

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the work ends before."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), seconds)

    async def _server(self) -> Server:
        """Return the server with the most room, once one has any."""
        while True:
            if self._stopped:
                raise self._stopped
            now = time.monotonic()
            free = [server for server in self._open() if server.has_room(now)]
            if free:
                chosen = min(free, key=lambda server: server.under_way / server.level.at_once)
                chosen.under_way += 1
                return chosen
            self._room.clear()
            resting = [server.rests_until - now for server in self._servers if server.rests_until > now]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._room.wait(), min(resting) if resting else None)

    def _open(self) -> list[Server]:
        if not self._servers:
            import openai

            fixed = 0 if self._settings.concurrency == "auto" else self._settings.concurrency
            for url in self._settings.urls:
                client = openai.AsyncOpenAI(api_key=self._secret or "none", base_url=url, max_retries=0, timeout=self._settings.timeout)
                self._servers.append(Server(url, client, Level(fixed)))
        return self._servers

    # Giving up -------------------------------------------------------------------------------------------------------

    def stop(self, error: UserError) -> NoReturn:
        """End all that is still waiting, and whatever is asked later, with an error."""
        self._stopped = self._stopped or error
        self._ended.set()
        self._room.set()
        # What the SDK says of a failure holds what the server said, the key perhaps.
        raise self._stopped from None

    def _give_up(self, failure: _Again, failed: int, sent: int, seconds: float) -> None:
        """End the work if a request, or most of them, have failed for too long."""
        if not self._reached and failed >= FIRST_TRIES * (len(self._servers) + 1):
            hint = "see that the server runs, and that lm.base_url is right; answers are kept"
            self.stop(StoppedShort(f"{self._named()}: cannot be reached: {failure}", hint))
        hint = "see to the server, and run again; answers are kept"
        if not failure.overload and self._health.note(False):
            message = f"{self._named()}: more than {FAILED:.0%} of the last {OUTCOMES} requests failed, the last one: {failure}"
            self.stop(StoppedShort(message, hint))
        if failed == TRIES or seconds > PATIENCE:
            self.stop(StoppedShort(f"{self._named()}: {sent} tries of a request failed, the last one: {failure}", hint))

    def _named(self) -> str:
        return f"lm {self._settings.model} at {', '.join(self._settings.urls)}"


def _key(settings: OpenAILM) -> str:
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key and any("api.openai.com" in url for url in settings.urls):
        raise UserError(f"lm.api_key_env: the environment variable {settings.api_key_env} holds no key", f"export {settings.api_key_env}=...")
    return key


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks us to wait; None if it does not."""
    import email.utils

    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if not value:
            continue
        try:
            return max(float(value) * unit, 0.0)
        except ValueError:
            pass
        if date := email.utils.parsedate_tz(value):
            return max(email.utils.mktime_tz(date) - time.time(), 0.0)
    return None


def _response_type() -> type[Any]:
    import httpx2

    return httpx2.Response
