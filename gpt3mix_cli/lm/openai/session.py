"""Sends the requests of one output in a form that the server supports."""

import asyncio
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import StoppedShort, UserError
from ...settings import OpenAISettings, fingerprint
from ..port import THINKING_REMEDY
from .answers import ONLY_REASONING, parse_texts
from .cached_client import CachedClient, Response, TokenCounter
from .dispatcher import HttpDispatcher
from .http_errors import HttpError
from .probe import Probe
from .requests import Call, Capabilities, parse_capabilities
from .responses import parse_context

SERVER_HINT = "see the server's message; `gpt3mix check` shows what the server supports"
MIN_REFUSALS = 20  # before a run ends because most prompts are refused


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
        self._accepted = self._refused = 0

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

    async def _send_probe(self, call: Call, read: Callable[[Any], Any]) -> Any:
        response = await self._client.ask(dataclasses.replace(call, number="probe"), read)
        if response.refusal:
            raise HttpError(400, response.refusal)
        return response.value

    async def send(self, call: Call, read: Callable[[Any], Any], tokens: int) -> Response:
        """Return the answer to a call, or why the server refuses it; see `CachedClient.ask`.

        Raises:
            UserError: if the server would refuse any call; all other work stops too.
        """
        try:
            return await self._client.ask(call, read, tokens)
        except HttpError as error:
            # Not stored: a filter, or a server that is set up otherwise, may accept it later.
            if error.is_about_request:
                return self._client.refused(f"HTTP {error.status}: {error.message}")
            message = f"{self._dispatcher.name}: HTTP {error.status}: {error.message}"
            self._dispatcher.pool.stop(UserError(message, SERVER_HINT))

    @property
    def has_accepted(self) -> bool:
        """Whether the server has answered any prompt of this output."""
        return self._accepted > 0

    def record_outcome(self, refusal: str, responses: Sequence[Response]) -> None:
        """Record whether a prompt was refused; all work stops if most of them are.

        Refusals in the journal do not count: the server may have been set up otherwise since.

        Args:
            refusal: the server's message; empty if the prompt was accepted.
            responses: to the requests that the prompt took.

        Raises:
            StoppedShort: if most prompts are refused; a UserError if none was accepted.
        """
        self._accepted += not refusal
        self._refused += bool(refusal) and not all(response.stored for response in responses)
        if refusal and self._refused >= max(MIN_REFUSALS, self._accepted + 1):
            count = f"{self._refused} of {self._refused + self._accepted}"
            self._dispatcher.pool.stop(self.refusal_error(count, refusal))

    def refusal_error(self, count: str, refusal: str) -> UserError:
        """Return the error of a server that refuses so many prompts, the last with a message."""
        error = StoppedShort if self._accepted else UserError
        return error(
            f"{self._dispatcher.name}: {count} prompts were refused, the last with: {refusal}",
            THINKING_REMEDY if refusal == ONLY_REASONING else SERVER_HINT,
        )

    def text_call(self, capabilities: Capabilities, body: dict[str, Any], number: str) -> Call:
        """Return the call that asks for text, with the user's additional fields (`lm.extra`)."""
        return Call(capabilities.path, body | self._settings.extra, number)

    async def send_text(self, call: Call, tokens: int) -> Response:
        """Return the answer to a call that asks for text, as its texts; see `send`.

        If a filter cut all of them, or the model did not get to its answer, it is a refusal.
        """
        prompt = "" if call.body.get("echo") or not isinstance(call.prompt, str) else call.prompt
        response = await self.send(call, functools.partial(parse_texts, prompt=prompt), tokens)
        blocked = [text.blocked for text in response.value or ()]
        # That a filter cut one of several texts is no refusal.
        refusal = blocked[0] if blocked and all(blocked) else response.refusal
        return dataclasses.replace(response, refusal=refusal)

    async def encode(self, text: str) -> Sequence[int] | None:
        """Return the token ids of a text by the user's or the server's tokenizer; None if neither.

        A server tokenises at `/tokenize`, which vLLM offers.
        """
        if self.tokens.name:
            return self.tokens.encode(text)
        call = Call("//tokenize", {"model": self._settings.model, "prompt": text})
        try:
            response = await self._client.ask(call, _parse_tokens)
        except HttpError:
            return None
        tokens: list[int] = response.value
        return tokens


def _parse_tokens(answer: Any) -> list[int]:
    tokens = answer.get("tokens") if isinstance(answer, dict) else None
    # Some servers answer unknown paths with something else; sending it again would not help.
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise HttpError(404, "no tokens")
    return tokens
