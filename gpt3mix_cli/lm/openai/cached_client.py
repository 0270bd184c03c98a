"""Sends each call of an output once: the journal comes first, then the server.

The journal is searched first, and new answers are committed before use.
Answers that arrive together are committed together, in a separate thread. A request stays in
flight until its answer is on disk. So a killed run repeats at most the requests in flight.
"""

import asyncio
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from ...pretrained import lm_path, load_tokenizer
from ..journal import AnswerRow, Journal, SpendingRow
from .answers import parse_json, parse_usage
from .budget import BudgetTracker
from .dispatcher import HttpDispatcher
from .http_errors import CONTEXT_ERRORS, HttpError, InvalidResponse
from .requests import Call
from .reservations import HighestUsage
from .responses import GeneratedText, Usage

BYTES_PER_TOKEN = 4.0  # of English text; estimates are within 25 %
MAX_TOKENS_PER_ESTIMATED = 2  # of a prompt, for each token of an estimate
MAX_INVALID_ANSWERS = 3  # to one request; after that it is refused like one of a bad prompt
# Below this fraction of our own count of a prompt's tokens, the server did not read all of it. The
# first holds for the user's tokenizer, the second for estimates.
MIN_READ, MIN_READ_ESTIMATED, MIN_PROMPT_TOKENS = 0.75, 0.5, 100


class WarnOnce:
    """Passes each warning on once, however often it is given; all outputs have one in common."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._kinds: set[str] = set()

    def once(self, kind: str, message: str) -> None:
        """Give a warning, unless there was one of its kind."""
        if kind not in self._kinds:
            self._kinds.add(kind)
            self._warn(message)


class TokenCounter:
    """Counts tokens with the user's tokenizer; without one it estimates them from bytes.

    Attributes:
        name: `lm.tokenizer`; empty if the user gave none.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def count(self, text: str) -> int:
        """Return the number of tokens."""
        return len(self.encode(text)) if self.name else round(len(text.encode()) / BYTES_PER_TOKEN)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, by the user's tokenizer."""
        return list(self._tokenizer(text)["input_ids"])

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(
            lm_path(self.name),
            f"lm.tokenizer {self.name}: cannot be loaded",
            "give `bundled`, a folder, or a hub id that can be reached",
        )


@dataclass(frozen=True)
class Response:
    """An answer from the endpoint or from the journal.

    Attributes:
        value: what its reader made of it; None if the request was refused.
        usage: its tokens.
        usd: its cost; None if unknown.
        refusal: the server's message if it refuses this prompt; otherwise empty.
        too_long: whether it is refused because it does not fit the context.
        stored: whether it comes from the journal.
    """

    value: Any
    usage: Usage
    usd: float | None
    refusal: str = ""
    too_long: bool = False
    stored: bool = False


def total_tokens(responses: Sequence[Response]) -> int:
    """Return the prompt and completion tokens of responses."""
    return sum(response.usage.prompt + response.usage.completion for response in responses)


def total_usd(responses: Sequence[Response]) -> float | None:
    """Return the cost of responses in dollars; None if that of any is unknown."""
    known = [response.usd for response in responses if response.usd is not None]
    return sum(known) if len(known) == len(responses) else None


class CachedClient:
    """Sends the calls of one output. Its methods run in the endpoint's event loop.

    Args:
        endpoint: its name in the journal's keys.
        dispatcher: sends the calls.
        budget: records what they cost.
        journal: None: nothing is stored.
        thread: writes the journal.
        tokens: counts tokens where a server does not report them.
        warn: receives each kind of warning once.

    Attributes:
        estimates_usage: whether the server left out a count, so that ours took its place.
    """

    def __init__(
        self,
        endpoint: str,
        dispatcher: HttpDispatcher,
        budget: BudgetTracker,
        journal: Journal | None,
        thread: Executor,
        tokens: TokenCounter,
        warn: WarnOnce,
    ) -> None:
        self._endpoint, self._dispatcher, self._budget = endpoint, dispatcher, budget
        self._journal, self._thread = journal, thread
        self._tokens, self._warn, self.estimates_usage = tokens, warn, False
        self._pending: list[tuple[AnswerRow, SpendingRow, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._in_flight: dict[str, asyncio.Future[Response]] = {}

    def key(self, call: Call) -> str:
        """Return the journal key of a call; it depends neither on the server nor on the run."""
        text = f"openai\n{self._endpoint}\n{_request_json(call)}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def cached(self, key: str) -> str | None:
        """Return the stored answer of a key as it came; None if there is none."""
        return self._journal.lookup([key]).get(key) if self._journal else None

    async def ask(self, call: Call, read: Callable[[Any], Any], tokens: int = 0) -> Response:
        """Return the answer to a call, from the journal or the server.

        A stored answer that `read` does not accept is set aside, and the call is sent again.

        Args:
            call: the request.
            read: turns the JSON of an answer into a typed value. It raises InvalidResponse for an
                answer that must be requested again, and HttpError for one that refuses the call.
            tokens: estimate of prompt and completion tokens.

        Raises:
            HttpError: if the server rejects the call.
            UserError: see `HttpDispatcher.post`.
        """
        key = self.key(call)
        while other := self._in_flight.get(key):
            await asyncio.wait([other])
            if not other.cancelled():
                return other.result()
        if self._journal:
            parse = functools.partial(self._parse_stored, call, read)
            stored: Response | None = self._journal.read([key], parse).get(key)
            if stored:
                return stored
        own = self._in_flight[key] = asyncio.get_running_loop().create_future()
        try:
            response = await self._fetch(key, call, read, tokens)
            own.set_result(response)
        finally:
            del self._in_flight[key]
            own.cancel()  # after a failure, equal calls are sent on their own
        return response

    async def commit(self, row: AnswerRow, spent: SpendingRow) -> None:
        """Add what an answer cost to the budget and store it; it is on disk when this returns."""
        _, _, prompt_tokens, completion_tokens, usd = spent
        self._budget.add_usage(Usage(prompt_tokens, completion_tokens), usd)
        if self._journal is None:
            return
        committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((row, spent, committed))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush(self._journal))
        await committed

    def refused(self, message: str, too_long: bool = False, stored: bool = False) -> Response:
        """Return the response to a call that the server refuses, which costs nothing."""
        usd = self._budget.cost(Usage())
        return Response(None, Usage(), usd, message, too_long, stored)

    def _parse_stored(self, call: Call, read: Callable[[Any], Any], text: str) -> Response:
        answer = parse_json(text)
        if not isinstance(answer, dict):
            raise InvalidResponse("it is no JSON object")
        if isinstance(refusal := answer.get("refused"), str):
            return self.refused(refusal, too_long=True, stored=True)
        try:
            response = self._response(call, answer, read(answer))
        except HttpError as error:
            raise InvalidResponse(error.message) from None
        if highest := self._highest_usage(call):
            self._dispatcher.reservations.learn(highest, response.usage)
        usd = self._budget.cost(response.usage, batch=answer.get("batch") is True)
        return dataclasses.replace(response, usd=usd, stored=True)

    async def _fetch(
        self, key: str, call: Call, read: Callable[[Any], Any], tokens: int
    ) -> Response:
        values: list[Any] = []
        failures: list[InvalidResponse] = []

        def validate(answer: Any) -> None:
            try:
                values.append(read(answer))
            except InvalidResponse as error:
                failures.append(error)
                if len(failures) < MAX_INVALID_ANSWERS:
                    raise
                # A server that answers this prompt so may be fine with others.
                raise HttpError(400, f"{error}, {MAX_INVALID_ANSWERS} times") from None

        try:
            highest = self._highest_usage(call)
            text, answer, sent = await self._dispatcher.post(
                call.path, call.body, validate, tokens, highest
            )
            response = self._response(call, answer, values[-1])
            if highest:
                self._dispatcher.reservations.learn(highest, response.usage)
            self._check_read(call, response.usage)
        except HttpError as error:
            message = f"{error.code} {error.message}".lower()
            if not any(pattern in message for pattern in CONTEXT_ERRORS):
                raise
            # Stored, because it would be refused again.
            text = json.dumps({"refused": error.message})
            sent = self._dispatcher.take_failed_requests()
            response = self.refused(error.message, too_long=True)
        usage = response.usage
        self._dispatcher.pool.token_rate.refund(tokens - usage.prompt - usage.completion)
        attempt = call.number.partition(".")[0]
        await self.commit(
            (key, int(attempt) if attempt.isdigit() else None, _request_json(call), text),
            (key, sent, usage.prompt, usage.completion, response.usd),
        )
        return response

    def _response(self, call: Call, answer: Mapping[str, Any], value: Any) -> Response:
        if call.path.startswith("//"):  # not the protocol's: it generates nothing and costs nothing
            return Response(value, Usage(), self._budget.cost(Usage()))
        usage = parse_usage(answer, lambda: self._own_count(call, value))
        if usage.estimated:
            self.estimates_usage = True
            self._warn.once(
                "usage",
                f"{self._dispatcher.name}: the server does not report how many tokens it used; "
                "budgets and costs rest on estimates"
                + ("" if self._tokens.name else " (set lm.tokenizer for better ones)"),
            )
        return Response(value, usage, self._budget.cost(usage))

    def _highest_usage(self, call: Call) -> HighestUsage | None:
        if call.path.startswith("//") or not self._dispatcher.reservations.are_needed:
            return None
        count = call.count_tokens(self._tokens.count)
        prompt = count if self._tokens.name else count * MAX_TOKENS_PER_ESTIMATED
        completion = call.max_completion_tokens
        return HighestUsage((call.path, completion), prompt, completion)

    def _own_count(self, call: Call, value: Any) -> tuple[int, int]:
        texts = value if isinstance(value, list) else []
        generated = [text.generated for text in texts if isinstance(text, GeneratedText)]
        return call.count_tokens(self._tokens.count), sum(map(self._tokens.count, generated))

    def _check_read(self, call: Call, usage: Usage) -> None:
        if usage.estimated or not usage.prompt:
            return
        expected = call.count_tokens(self._tokens.count)
        limit = MIN_READ if self._tokens.name else MIN_READ_ESTIMATED
        if expected >= MIN_PROMPT_TOKENS and usage.prompt < limit * expected:
            self._warn.once(
                "context",
                f"{self._dispatcher.name}: the server read {usage.prompt} tokens of a prompt that "
                f"has about {expected}: it cuts prompts to its context; raise the server's "
                "context, or lower lm.context or augment.k",
            )

    async def _flush(self, journal: Journal) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            batch, self._pending = self._pending, []
            rows, spent, waiting = zip(*batch, strict=True)
            error: BaseException | None = None
            try:
                await loop.run_in_executor(self._thread, journal.store, rows, spent)
            except BaseException as failure:
                error = failure
            for committed in waiting:
                if not committed.done():
                    committed.set_exception(error) if error else committed.set_result(None)
        self._flushing = None


def _request_json(call: Call) -> str:
    request = {"path": call.path, "number": call.number, **call.body}
    return json.dumps(request, ensure_ascii=False, sort_keys=True)
