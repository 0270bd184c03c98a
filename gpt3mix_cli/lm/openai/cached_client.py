"""Asks an endpoint once for each answer: looks in the journal first, and commits what comes before anybody reads it.

Answers that arrive together are committed together, in a thread of their own; a request counts as under way until its
answer is on the disk, so that a killed run asks again for no more than were under way.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from ..journal import AnswerRow, Journal, SpendingRow
from .budget import BudgetTracker
from .dispatcher import HttpDispatcher, Refused
from .protocol import Call, Usage, usage

TOO_LONG = (
    "context_length_exceeded",
    "maximum context length",
    "context window",
    "exceed context",
    "context size",
    "longer than the maximum",
)


@dataclass(frozen=True)
class Answer:
    """What came, from the endpoint or from the journal.

    Attributes:
        value: the answer's JSON.
        usage: its tokens, as the server told them.
        usd: what it cost; None if that is unknown.
    """

    value: Any
    usage: Usage
    usd: float | None


@dataclass(frozen=True)
class TooLong:
    """The server's word that a prompt does not fit its context."""

    words: str


class CachedClient:
    """The calls of one output; its methods are called in the endpoint's event loop."""

    def __init__(
        self,
        endpoint: str,
        traffic: HttpDispatcher,
        purse: BudgetTracker,
        journal: Journal | None,
        thread: Executor,
    ) -> None:
        """Keep where to ask and where to keep.

        Args:
            endpoint: its name in the journal.
            traffic: sends.
            purse: pays.
            journal: None: nothing is kept.
            thread: writes the journal.
        """
        self._endpoint, self._traffic, self._purse, self._journal = (
            endpoint,
            traffic,
            purse,
            journal,
        )
        self._arrived: list[tuple[AnswerRow, SpendingRow, asyncio.Future[None]]] = []
        self._thread = thread
        self._committing = False
        self._under_way: dict[str, asyncio.Future[Any]] = {}

    def key(self, call: Call) -> str:
        """Return the key of a call's answer: neither the server that answered nor the run stands in it."""
        return self._key(_asked(call))

    def _key(self, asked: str) -> str:
        return hashlib.sha256(
            f"openai\n{self._endpoint}\n{asked}".encode("utf-8", "surrogatepass")
        ).hexdigest()[:32]

    def known(self, key: str) -> str | None:
        """Return the answer of a key, as it came."""
        return self._journal.lookup([key]).get(key) if self._journal else None

    async def ask(
        self, call: Call, sound: Callable[[Any], object], tokens: int = 0
    ) -> Answer | TooLong:
        """Return the answer to a call.

        Args:
            call: what is asked.
            sound: raises BadAnswer at an answer that must be asked for again.
            tokens: estimate of those read and written.

        Raises:
            Refused: if the server does not take the call.
            UserError: see `Traffic.post`.
        """
        value = await self._value(call, sound, tokens)
        if "refused" in value:
            return TooLong(value["refused"])
        used = usage(value)
        return Answer(value, used, self._purse.costs(used, batch=bool(value.get("batch"))))

    async def keep(
        self, key: str, number: str, asked: str, text: str, spent: tuple[int, Usage, float | None]
    ) -> None:
        """Commit an answer; it is on the disk when this returns."""
        requests, used, usd = spent
        self._purse.pay(used, usd)
        if self._journal is None:
            return
        row = (key, int(number.partition(".")[0]) if number[:1].isdigit() else None, asked, text)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrived.append((row, (key, requests, used.prompt, used.completion, usd), done))
        if not self._committing:
            self._committing = True
            self._flushing = asyncio.create_task(self._flush())
        await done

    async def _value(self, call: Call, sound: Callable[[Any], object], tokens: int) -> Any:
        """Return the answer of the journal, of an equal call that is under way, or a new one."""
        asked = _asked(call)
        key = self._key(asked)
        while other := self._under_way.get(key):
            await asyncio.wait([other])
            if not other.cancelled():
                return other.result()
        text = self.known(key)
        if text is not None and self._journal is not None:
            return self._journal.parse(json.loads, text)
        own = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            own.set_result(await self._new(key, asked, call, sound, tokens))
        finally:
            del self._under_way[key]
            own.cancel()  # others ask for themselves if this has failed
        return own.result()

    async def _new(
        self, key: str, asked: str, call: Call, sound: Callable[[Any], object], tokens: int
    ) -> Any:
        try:
            text, value, sent = await self._traffic.post(call.path, call.body, sound, tokens)
        except Refused as error:
            if not any(words in f"{error.code} {error.words}".lower() for words in TOO_LONG):
                raise
            # Kept, since it would be refused again.
            value, sent = {"refused": error.words}, self._traffic.take_failed()
            text = json.dumps(value)
        used = usage(value)
        self._traffic.settle(tokens, used.prompt + used.completion)
        await self.keep(key, call.number, asked, text, (sent, used, self._purse.costs(used)))
        return value

    async def _flush(self) -> None:
        """Commit whatever has arrived, until nothing has."""
        loop, journal = asyncio.get_running_loop(), self._journal
        assert journal is not None
        while self._arrived:
            together, self._arrived = self._arrived, []
            error: BaseException | None = None
            try:
                await loop.run_in_executor(
                    self._thread,
                    journal.store,
                    [row for row, _, _ in together],
                    [spent for _, spent, _ in together],
                )
            except BaseException as failed:
                error = failed
            for _, _, done in together:
                if not done.done():
                    done.set_exception(error) if error else done.set_result(None)
        self._committing = False


def _asked(call: Call) -> str:
    """Return a call as the journal keeps it, and as its key is made of it."""
    return json.dumps(
        {"path": call.path, "number": call.number, **call.body}, ensure_ascii=False, sort_keys=True
    )
