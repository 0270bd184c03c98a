"""Sends each request of an output once: the journal comes first, then the server.

The journal is searched first, and new answers are committed before use.
Answers that arrive together are committed together, in a separate thread. A request stays in
flight until its answer is on disk. So a killed run repeats at most the requests in flight.
"""

import asyncio
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from ...errors import UserError
from ...pretrained import lm_path, load_pretrained
from ...settings import OpenAISettings, fingerprint
from ..journal import AnswerRow, Journal, SpendingRow
from .budget import BudgetTracker
from .dispatcher import HttpDispatcher
from .probe import Probe
from .requests import Call, Capabilities, parse_capabilities
from .responses import HttpError, Usage, parse_context, parse_texts, parse_usage

BYTES_PER_TOKEN = 4.0  # of English text; estimates are within 25 %
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
        refusal: the server's message if the prompt does not fit its context; otherwise empty.
    """

    value: Any
    usage: Usage
    usd: float | None
    refusal: str = ""


class CachedClient:
    """Sends the calls of one output. Its methods run in the endpoint's event loop.

    Args:
        endpoint: its name in the journal's keys.
        dispatcher: sends the calls.
        budget: records what they cost.
        journal: None: nothing is stored.
        thread: writes the journal.
    """

    def __init__(
        self,
        endpoint: str,
        dispatcher: HttpDispatcher,
        budget: BudgetTracker,
        journal: Journal | None,
        thread: Executor,
    ) -> None:
        self._endpoint, self._dispatcher, self._budget = endpoint, dispatcher, budget
        self._journal, self._thread = journal, thread
        self._pending: list[tuple[AnswerRow, SpendingRow, asyncio.Future[None]]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._in_flight: dict[str, asyncio.Future[Any]] = {}

    def key(self, call: Call) -> str:
        """Return the journal key of a call; it depends neither on the server nor on the run."""
        text = f"openai\n{self._endpoint}\n{_request_json(call)}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def cached(self, key: str) -> str | None:
        """Return the stored answer of a key as it came; None if there is none."""
        return self._journal.lookup([key]).get(key) if self._journal else None

    async def ask(self, call: Call, validate: Callable[[Any], object], tokens: int = 0) -> Response:
        """Return the answer to a call.

        Args:
            call: the request.
            validate: raises InvalidResponse for an answer that must be requested again.
            tokens: estimate of prompt and completion tokens.

        Raises:
            HttpError: if the server rejects the call.
            UserError: see `HttpDispatcher.post`.
        """
        value = await self._value(call, validate, tokens)
        usage, refusal = parse_usage(value), value.get("refused", "")
        usd = self._budget.cost(usage, batch=bool(value.get("batch")))
        return Response(value, usage, usd, refusal)

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

    async def _value(self, call: Call, validate: Callable[[Any], object], tokens: int) -> Any:
        key = self.key(call)
        while other := self._in_flight.get(key):
            await asyncio.wait([other])
            if not other.cancelled():
                return other.result()
        text = self.cached(key)
        if text is not None and self._journal is not None:
            return self._journal.parse(json.loads, text)
        own = self._in_flight[key] = asyncio.get_running_loop().create_future()
        try:
            own.set_result(await self._fetch(key, call, validate, tokens))
        finally:
            del self._in_flight[key]
            own.cancel()  # after a failure, equal calls are sent on their own
        return own.result()

    async def _fetch(
        self, key: str, call: Call, validate: Callable[[Any], object], tokens: int
    ) -> Any:
        try:
            text, value, sent = await self._dispatcher.post(call.path, call.body, validate, tokens)
        except HttpError as error:
            message = f"{error.code} {error.message}".lower()
            if not any(pattern in message for pattern in CONTEXT_ERRORS):
                raise
            # Stored, because it would be refused again.
            value, sent = {"refused": error.message}, self._dispatcher.take_failed_requests()
            text = json.dumps(value)
        usage = parse_usage(value)
        self._dispatcher.pool.token_rate.refund(tokens - usage.prompt - usage.completion)
        attempt = call.number.partition(".")[0]
        await self.commit(
            (key, int(attempt) if attempt.isdigit() else None, _request_json(call), text),
            (key, sent, usage.prompt, usage.completion, self._budget.cost(usage)),
        )
        return value

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
        return load_pretrained(
            "AutoTokenizer",
            lm_path(self.name),
            f"lm.tokenizer {self.name}: cannot be loaded",
            "give `bundled`, a folder, or a hub id that can be reached",
        )


def capabilities_key(lm_fingerprint: str) -> str:
    """Return the journal key of an endpoint's capabilities."""
    return fingerprint(["openai", "ways", lm_fingerprint], 32)


class Session:
    """Sends the requests of one output. Its methods run in the endpoint's event loop.

    Args:
        settings: of the endpoint.
        dispatcher: is stopped by a refused request.
        client: sends requests.
        tokens: counts tokens.
        key: the journal key of the capabilities.
        probed: the capabilities once they are known; all outputs share this list, so that the
            server is probed once.
    """

    def __init__(
        self,
        settings: OpenAISettings,
        dispatcher: HttpDispatcher,
        client: CachedClient,
        tokens: TokenCounter,
        key: str,
        probed: list[Capabilities],
    ) -> None:
        self._settings, self._dispatcher, self._client = settings, dispatcher, client
        self.tokens, self._key, self._probed = tokens, key, probed
        self._probing: asyncio.Task[Capabilities] | None = None

    @property
    def context(self) -> int:
        """The server's own context in tokens; 0 if unknown or before the probe."""
        probing = self._probing
        known = probing and probing.done() and not (probing.cancelled() or probing.exception())
        return probing.result().context if probing and known else 0

    async def capabilities(self) -> Capabilities:
        """Return what the server supports, from the journal or by a probe.

        A resumed run uses the capabilities in its journal, so that it sends the same requests.
        """
        if self._probing is None:
            self._probing = asyncio.create_task(self._load_capabilities())
        return await asyncio.shield(self._probing)

    async def _load_capabilities(self) -> Capabilities:
        if capabilities := parse_capabilities(self._client.cached(self._key) or ""):
            return capabilities
        if not self._probed:
            found = await Probe(self._settings, self._send_probe, self.encode).detect()
            context = parse_context(await self._dispatcher.models(), self._settings.model)
            self._probed.append(dataclasses.replace(found, context=context))
        request = json.dumps({"probe": self._settings.endpoint or self._settings.urls[0]})
        text = json.dumps(dataclasses.asdict(self._probed[0]))
        await self._client.commit((self._key, None, request, text), (self._key, 0, 0, 0, None))
        return self._probed[0]

    async def _send_probe(self, call: Call, validate: Callable[[Any], object]) -> Any:
        response = await self._client.ask(dataclasses.replace(call, number="probe"), validate)
        if response.refusal:
            raise HttpError(400, response.refusal)
        return response.value

    async def send(self, call: Call, validate: Callable[[Any], object], tokens: int) -> Response:
        """Return the answer to a call; see `CachedClient.ask`.

        Raises:
            UserError: if the server refuses it; all other work stops too.
        """
        try:
            return await self._client.ask(call, validate, tokens)
        except HttpError as error:
            self._dispatcher.pool.stop(
                UserError(
                    f"{self._dispatcher.name}: HTTP {error.status}: {error.message}",
                    "see the server's message; `gpt3mix check` shows what the server supports",
                )
            )

    def text_call(self, capabilities: Capabilities, body: dict[str, Any], number: str) -> Call:
        """Return the call that asks for text, with the user's additional fields (`lm.extra`)."""
        return Call(capabilities.path, body | self._settings.extra, number)

    async def send_text(self, call: Call, api: str, tokens: int) -> Response:
        """Return the answer to a call that asks for text; see `send`."""
        return await self.send(call, functools.partial(parse_texts, api=api), tokens)

    async def encode(self, text: str) -> Sequence[int] | None:
        """Return the token ids of a text by the user's or the server's tokenizer; None if neither.

        A server tokenises at `/tokenize`, which vLLM offers.
        """
        if self.tokens.name:
            return self.tokens.encode(text)
        call = Call("//tokenize", {"model": self._settings.model, "prompt": text})
        try:
            response = await self._client.ask(call, _require_tokens)
        except HttpError:
            return None
        return None if response.refusal else response.value["tokens"]


def _require_tokens(value: Any) -> None:
    # Some servers answer unknown paths with something else; sending it again would not help.
    if not (isinstance(value, dict) and isinstance(value.get("tokens"), list)):
        raise HttpError(404, "no tokens")
