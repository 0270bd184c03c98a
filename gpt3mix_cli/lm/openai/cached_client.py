"""Pays for each answer once: looks in the journal first, and commits new answers before use.

Answers that arrive together are committed together, in a separate thread. A request stays in
flight until its answer is on disk. So a killed run repeats at most the requests in flight.
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
from .dispatcher import HttpDispatcher
from .http_errors import RequestRefused
from .requests import Call
from .responses import Usage, parse_usage

CONTEXT_ERRORS = (  # how servers say that a prompt is too long
    "context_length_exceeded",
    "maximum context length",
    "context window",
    "exceed context",
    "context size",
    "longer than the maximum",
)


@dataclass(frozen=True)
class Response:
    """An answer from the endpoint or from the journal.

    Attributes:
        value: its JSON.
        usage: the tokens that it reports.
        usd: its cost; None if unknown.
    """

    value: Any
    usage: Usage
    usd: float | None


@dataclass(frozen=True)
class PromptTooLong:
    """The server's message that a prompt does not fit its context."""

    message: str


class CachedClient:
    """Sends the calls of one output. Its methods run in the endpoint's event loop."""

    def __init__(
        self,
        endpoint: str,
        dispatcher: HttpDispatcher,
        budget: BudgetTracker,
        journal: Journal | None,
        thread: Executor,
    ) -> None:
        """Send nothing yet.

        Args:
            endpoint: its name in the journal's keys.
            dispatcher: sends the calls.
            budget: records what they cost.
            journal: None: nothing is stored.
            thread: writes the journal.
        """
        self._endpoint, self._dispatcher, self._budget = endpoint, dispatcher, budget
        self._journal, self._thread = journal, thread
        self._pending: list[tuple[AnswerRow, SpendingRow, asyncio.Future[None]]] = []
        self._committing = False
        self._in_flight: dict[str, asyncio.Future[Any]] = {}

    def key(self, call: Call) -> str:
        """Return the journal key of a call; it depends neither on the server nor on the run."""
        return self._key(_request_json(call))

    def _key(self, request: str) -> str:
        text = f"openai\n{self._endpoint}\n{request}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def cached(self, key: str) -> str | None:
        """Return the stored answer of a key as it came; None if there is none."""
        return self._journal.lookup([key]).get(key) if self._journal else None

    async def ask(
        self, call: Call, validate: Callable[[Any], object], tokens: int = 0
    ) -> Response | PromptTooLong:
        """Return the answer to a call.

        Args:
            call: the request.
            validate: raises InvalidResponse for an answer that must be requested again.
            tokens: estimate of prompt and completion tokens.

        Raises:
            RequestRefused: if the server rejects the call.
            UserError: see `HttpDispatcher.post`.
        """
        value = await self._value(call, validate, tokens)
        if "refused" in value:
            return PromptTooLong(value["refused"])
        usage = parse_usage(value)
        return Response(value, usage, self._budget.cost(usage, batch=bool(value.get("batch"))))

    async def commit(self, row: AnswerRow, spent: SpendingRow) -> None:
        """Add what an answer cost to the budget and store it; it is on disk when this returns."""
        _, _, prompt_tokens, completion_tokens, usd = spent
        self._budget.add_usage(Usage(prompt_tokens, completion_tokens), usd)
        if self._journal is None:
            return
        committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((row, spent, committed))
        if not self._committing:
            self._committing = True
            self._flushing = asyncio.create_task(self._flush())
        await committed

    async def _value(self, call: Call, validate: Callable[[Any], object], tokens: int) -> Any:
        """Return the answer from the journal, from an equal call in flight, or a new one."""
        request = _request_json(call)
        key = self._key(request)
        while other := self._in_flight.get(key):
            await asyncio.wait([other])
            if not other.cancelled():
                return other.result()
        text = self.cached(key)
        if text is not None and self._journal is not None:
            return self._journal.parse(json.loads, text)
        own = self._in_flight[key] = asyncio.get_running_loop().create_future()
        try:
            own.set_result(await self._fetch(key, request, call, validate, tokens))
        finally:
            del self._in_flight[key]
            own.cancel()  # after a failure, equal calls are sent on their own
        return own.result()

    async def _fetch(
        self, key: str, request: str, call: Call, validate: Callable[[Any], object], tokens: int
    ) -> Any:
        """Send a call and commit its answer."""
        try:
            text, value, sent = await self._dispatcher.post(call.path, call.body, validate, tokens)
        except RequestRefused as error:
            message = f"{error.code} {error.message}".lower()
            if not any(pattern in message for pattern in CONTEXT_ERRORS):
                raise
            # Stored, because it would be refused again.
            value, sent = {"refused": error.message}, self._dispatcher.take_failed_requests()
            text = json.dumps(value)
        usage = parse_usage(value)
        self._dispatcher.refund_tokens(tokens - usage.prompt - usage.completion)
        attempt = call.number.partition(".")[0]
        row = (key, int(attempt) if attempt.isdigit() else None, request, text)
        spent = (key, sent, usage.prompt, usage.completion, self._budget.cost(usage))
        await self.commit(row, spent)
        return value

    async def _flush(self) -> None:
        """Commit pending answers until there are none."""
        loop, journal = asyncio.get_running_loop(), self._journal
        assert journal is not None
        while self._pending:
            batch, self._pending = self._pending, []
            rows, spent = [row for row, _, _ in batch], [spent for _, spent, _ in batch]
            error: BaseException | None = None
            try:
                await loop.run_in_executor(self._thread, journal.store, rows, spent)
            except BaseException as failure:
                error = failure
            for _, _, committed in batch:
                if not committed.done():
                    committed.set_exception(error) if error else committed.set_result(None)
        self._committing = False


def _request_json(call: Call) -> str:
    """Return a call as the journal stores it; its key is a hash of this."""
    request = {"path": call.path, "number": call.number, **call.body}
    return json.dumps(request, ensure_ascii=False, sort_keys=True)
