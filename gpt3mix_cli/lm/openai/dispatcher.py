"""Sends requests to the servers of an endpoint: how many at once, how fast, to whom, and what happens when it goes wrong.

Each server has a level of its own (`level`) and takes the next request as soon as it has room, so that several are used in
proportion to how fast they answer. What the user must mend ends the work with the server's own words; what may pass is
tried again with growing, jittered waits, or when the server says, also where that is later than SDKs wait. Requests go
over bare aiohttp, at half of what the openai SDK takes of the processor (scripts/bench/endpoint.py).
"""

import asyncio
import contextlib
import json
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from ...errors import NO_CALLBACKS, Callbacks, StoppedShort, UserError
from ...settings import OpenAISettings
from .budget import BudgetTracker
from .concurrency import AdaptiveConcurrency
from .protocol import BadAnswer
from .servers import FAILED, LONGEST_WAIT, OUTCOMES, WAIT, CircuitBreaker, RateLimiter, Server

if TYPE_CHECKING:
    import aiohttp
    import openai

TRIES = 10  # of one request
FIRST_TRIES = 2  # of each server, and of all together, before anything has come from any
SILENCE = 30.0  # seconds between two words about what goes wrong
PATIENCE = 3600.0  # seconds that a server may ask us to stay away
REST = 0.001  # seconds after a server's rest at which it is asked again
NOT_ITS_FAULT = (
    "validation error",
    "is not supported",
)  # how llama.cpp's Python server says with a 500 that a request is wrong


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


class HttpDispatcher:
    """All servers of an endpoint. Its methods are called in one event loop."""

    def __init__(
        self, settings: OpenAISettings, purse: BudgetTracker, callbacks: Callbacks = NO_CALLBACKS
    ) -> None:
        """Connect to nothing yet; the purse is asked before each try.

        Raises:
            UserError: if the key is missing.
        """
        self._settings, self._callbacks, self._told = settings, callbacks, -SILENCE
        self._secret, self._purse = "" if purse.closed else _key(settings), purse
        fixed = 0 if settings.concurrency == "auto" else settings.concurrency
        self._servers = [
            Server(url, AdaptiveConcurrency(fixed), _proxy(url)) for url in settings.urls
        ]
        self._session: aiohttp.ClientSession | None = None
        self._client: openai.AsyncOpenAI | None = None
        self._gate, self._ended = asyncio.Lock(), asyncio.Event()
        self._waiting: deque[asyncio.Future[Server]] = deque()
        self._alarm = 0.0
        self._failed, self._reached = 0, False
        self._requests, self._tokens = (
            RateLimiter(settings.requests_per_minute),
            RateLimiter(settings.tokens_per_minute),
        )
        self._health = CircuitBreaker()
        self._stopped: UserError | None = None
        self._jitter = random.Random()  # noqa: S311 - neither a secret nor a number that anybody reports

    async def post(
        self, path: str, body: Mapping[str, Any], sound: Callable[[Any], object], tokens: int = 0
    ) -> tuple[str, Any, int]:
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
                self._leave(server)
            self._failed += 1
            since = time.monotonic() if since is None else since
            # A server that is merely busy has not failed; its patience is counted in time.
            failed += not failure.overload
            self._give_up(failure, failed, sent, time.monotonic() - since)
            if time.monotonic() - self._told > SILENCE:
                self._told = time.monotonic()
                self._callbacks.warn(
                    f"{self._named()}: {failure}; tried again, for up to an hour where it is merely busy ({sent} tries so far)"
                )
            if not failure.wait:  # some servers say 0 and go on refusing
                await self._pause(
                    min(WAIT * 2 ** min(sent - 1, 10), LONGEST_WAIT) * self._jitter.uniform(0.5, 1)
                )

    def take_failed(self) -> int:
        """Return how many requests came to nothing since this was last asked: they count too."""
        failed, self._failed = self._failed, 0
        return failed

    def settle(self, taken: int, used: int) -> None:
        """Hear how many tokens a call has used of those that it took from the pace."""
        self._tokens.give_back(taken - used)

    @property
    def client(self) -> "openai.AsyncOpenAI":
        """The SDK's client of the first server, for what is more than a request and its answer."""
        import openai

        if self._client is None:
            self._client = openai.AsyncOpenAI(
                api_key=self._secret or "none",
                base_url=self._settings.urls[0],
                max_retries=0,
                timeout=self._settings.timeout,
            )
        return self._client

    async def close(self) -> None:
        """Close all connections."""
        if self._client:
            await self._client.close()
        if self._session:
            await self._session.close()
        self._client = self._session = None

    def without_secret(self, text: str) -> str:
        """Return a text in which the key stands nowhere."""
        if len(self._secret) > 3:
            for form in (
                self._secret,
                json.dumps(self._secret)[1:-1],
                self._secret.replace("/", "\\/"),
            ):
                text = text.replace(form, "<key>")
        return text

    def means(self, error: "openai.APIStatusError") -> NoReturn:
        """Raise what the error of a call that the SDK made by itself means; see `post`."""
        try:
            self._status(
                self._servers[0],
                error.status_code,
                error.response.text,
                error.response.headers,
                time.monotonic(),
            )
        except _Again as failure:
            raise StoppedShort(
                f"{self._named()}: {failure}", "run again; answers are kept"
            ) from None

    # One try ---------------------------------------------------------------------------------------------------------

    async def _once(
        self, server: Server, path: str, body: Mapping[str, Any], sound: Callable[[Any], object]
    ) -> tuple[str, Any]:
        import aiohttp

        try:
            self._purse.send()
        except StoppedShort as error:
            self.stop(error)
        payload = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "surrogatepass"
        )
        sent = time.monotonic()
        full = server.under_way >= server.level.at_once
        place = (
            f"{server.url}{path}"
            if not path.startswith("//")
            else f"{server.url.removesuffix('/v1')}/{path[2:]}"
        )
        try:
            async with self._open_session().post(
                place, data=payload, proxy=server.proxy
            ) as response:
                raw = await response.read()
            self._reached, server.unreached = True, 0
            text = self.without_secret(raw.decode())
            if response.status >= 300:
                self._status(server, response.status, text, response.headers, sent)
            value = json.loads(text)
            sound(value)
        except TimeoutError:
            server.level.on_rate_limit(sent, time.monotonic())
            raise _Again(f"no answer within {self._settings.timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            server.not_reached(sent, time.monotonic())
            raise _Again(
                f"the connection failed: {self.without_secret(str(error) or type(error).__name__)}"
            ) from None
        except ValueError:
            shown = self.without_secret(raw.decode(errors="replace"))[:80]
            raise _Again(f"an answer that is no JSON: {shown!r}") from None
        except BadAnswer as error:
            raise _Again(str(error)) from None
        server.level.on_success(sent, time.monotonic(), full)
        return text, value

    def _status(
        self, server: Server, status: int, text: str, headers: Mapping[str, str], sent: float
    ) -> NoReturn:
        """Raise what an HTTP error means."""
        try:
            told = json.loads(text)
        except ValueError:
            told = {}
        body = told if isinstance(told, Mapping) else {}
        inner = body.get("error", body)
        inner = inner if isinstance(inner, Mapping) else {}
        code, param = str(inner.get("code") or ""), str(inner.get("param") or "")
        said = next(_words_of(told), "") or text or "no words"
        words = " ".join(self.without_secret(said).split())[:1000]
        if status == 500 and any(mark in words for mark in NOT_ITS_FAULT):
            status = 400
        if status == 429 and "insufficient_quota" in (code, str(inner.get("type"))):
            self.stop(
                StoppedShort(
                    f"{self._named()}: the quota is used up: {words}",
                    "raise it with the provider, and run again",
                )
            )
        if status in (408, 409, 425, 429) or status >= 500:
            wait = _retry_after(headers)
            if status in (429, 503):
                server.level.on_rate_limit(sent, time.monotonic())
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
        if not (self._requests.a_minute or self._tokens.a_minute):
            return await self._server()
        # Whoever is next waits for room and then for the pace, so that nobody hoards what the pace gives.
        async with self._gate:
            while True:
                server = await self._server()
                try:
                    await self._pause(max(self._requests.take(1), self._tokens.take(tokens)))
                    if not self._stopped and server.rests_until <= time.monotonic():
                        return server
                except asyncio.CancelledError:
                    self._leave(server)
                    raise
                self._leave(server)
                self._requests.give_back(1)
                self._tokens.give_back(tokens)

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the work ends before."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), seconds)

    async def _server(self) -> Server:
        """Return the server with the most room, once one has any; first come, first served."""
        if self._stopped:
            raise self._stopped
        if not self._waiting and (server := self._with_room()):
            return server
        turn: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._wake()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._leave(turn.result())
            raise

    def _with_room(self) -> Server | None:
        now = time.monotonic()
        free = [server for server in self._servers if server.has_capacity(now)]
        if not free:
            return None
        chosen = min(
            free, key=lambda server: (server.unreached, server.under_way / server.level.at_once)
        )
        chosen.under_way += 1
        return chosen

    def _leave(self, server: Server) -> None:
        """Give a server's place to whoever is next."""
        server.under_way -= 1
        self._wake()

    def _wake(self) -> None:
        """Give those who wait what room there is; end their waiting if all has stopped."""
        while self._waiting:
            if self._waiting[0].done():  # its task was cancelled
                self._waiting.popleft()
            elif self._stopped:
                self._waiting.popleft().set_exception(self._stopped)
            elif server := self._with_room():
                self._waiting.popleft().set_result(server)
            else:
                self._wake_after_rest()
                return

    def _wake_after_rest(self) -> None:
        """Look again when the first server that rests may be asked again."""
        now = time.monotonic()
        resting = [server.rests_until for server in self._servers if server.rests_until > now]
        if resting and not now < self._alarm <= min(resting) + REST:
            self._alarm = min(resting) + REST
            _later(self._alarm - now, self._wake)

    def _open_session(self) -> "aiohttp.ClientSession":
        import aiohttp

        if self._session is None:
            # How many at once is the levels' business. Idle connections go before servers cut them off (uvicorn: 5 s).
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4)
            headers = {
                "Authorization": f"Bearer {self._secret or 'none'}",
                "Content-Type": "application/json",
                "User-Agent": "gpt3mix",
            }
            timeout = aiohttp.ClientTimeout(total=self._settings.timeout)
            self._session = aiohttp.ClientSession(
                connector=connector, headers=headers, timeout=timeout
            )
        return self._session

    # Giving up -------------------------------------------------------------------------------------------------------

    def stop(self, error: UserError) -> NoReturn:
        """End all that is still waiting, and whatever is asked later, with an error."""
        self._stopped = self._stopped or error
        self._ended.set()
        self._wake()
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
            self.stop(
                StoppedShort(
                    f"{self._named()}: {sent} tries of a request failed, the last one: {failure}",
                    hint,
                )
            )

    def _named(self) -> str:
        return f"lm {self._settings.model} at {', '.join(self._settings.urls)}"


def _later(seconds: float, call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, call)


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for a URL; aiohttp would look through all of it anew for each request."""
    import urllib.parse
    import urllib.request

    parts = urllib.parse.urlsplit(url)
    return (
        None
        if urllib.request.proxy_bypass(parts.hostname or "")
        else urllib.request.getproxies().get(parts.scheme)
    )


def _key(settings: OpenAISettings) -> str:
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key and any("api.openai.com" in url for url in settings.urls):
        raise UserError(
            f"lm.api_key_env: the environment variable {settings.api_key_env} holds no key",
            f"export {settings.api_key_env}=...",
        )
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


def _words_of(error: object) -> Iterator[str]:
    """Yield what an error's JSON says: message, code, parameter."""
    if isinstance(error, Mapping):
        inner = error.get("error", error)
        if isinstance(inner, Mapping):
            yield from (str(inner[name]) for name in ("message", "detail") if inner.get(name))
        else:
            yield str(inner)
