"""What one output shares: its client, the server's capabilities and the tokenizer."""

import asyncio
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import UserError
from ...pretrained import lm_path, load_pretrained
from ...settings import OpenAISettings, fingerprint
from .cached_client import CachedClient, PromptTooLong, Response
from .capabilities import Capabilities, parse_capabilities
from .dispatcher import HttpDispatcher
from .http_errors import RequestRefused
from .probe import Probe
from .requests import Call
from .responses import parse_texts

BYTES_PER_TOKEN = 4.0  # of English text; estimates are within 25 %


class TokenCounter:
    """Counts tokens with the user's tokenizer; without one it estimates them from bytes."""

    def __init__(self, name: str) -> None:
        """Load nothing yet; `name` is `lm.tokenizer`, empty if the user gave none."""
        self.name = name

    def count(self, text: str) -> int:
        """Return the number of tokens."""
        if self.name:
            return len(self.encode(text))
        return round(len(text.encode()) / BYTES_PER_TOKEN)

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
    """Sends the requests of one output. Its methods run in the endpoint's event loop."""

    def __init__(
        self,
        settings: OpenAISettings,
        dispatcher: HttpDispatcher,
        client: CachedClient,
        tokens: TokenCounter,
        key: str,
        probed: list[Capabilities],
    ) -> None:
        """Send nothing yet.

        Args:
            settings: of the endpoint.
            dispatcher: is stopped by a refused request.
            client: sends requests.
            tokens: counts tokens.
            key: the journal key of the capabilities.
            probed: the capabilities once they are known; all outputs share this list, so that
                the server is probed once.
        """
        self._settings, self._dispatcher, self._client = settings, dispatcher, client
        self._tokens, self._key, self._probed = tokens, key, probed
        self._probing: asyncio.Task[Capabilities] | None = None

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, possibly an estimate."""
        return self._tokens.count(text)

    async def capabilities(self) -> Capabilities:
        """Return what the server supports, from the journal or by a probe.

        A resumed run uses the capabilities in its journal, so that it sends the same requests.
        """
        if self._probing is None:
            self._probing = asyncio.create_task(self._load_capabilities())
        return await asyncio.shield(self._probing)

    async def _load_capabilities(self) -> Capabilities:
        stored = self._client.cached(self._key)
        if stored is not None and (capabilities := parse_capabilities(stored)):
            return capabilities
        if not self._probed:
            probe = Probe(self._settings, self._send_probe, self.encode)
            self._probed.append(await probe.detect())
        request = json.dumps({"probe": self._settings.endpoint or self._settings.urls[0]})
        text = json.dumps(dataclasses.asdict(self._probed[0]))
        await self._client.commit((self._key, None, request, text), (self._key, 0, 0, 0, None))
        return self._probed[0]

    async def _send_probe(self, call: Call, validate: Callable[[Any], object]) -> Any:
        response = await self._client.ask(dataclasses.replace(call, number="probe"), validate)
        if isinstance(response, PromptTooLong):
            raise RequestRefused(400, response.message)
        return response.value

    async def send(
        self, call: Call, validate: Callable[[Any], object], tokens: int
    ) -> Response | PromptTooLong:
        """Return the answer to a call; see `CachedClient.ask`.

        Raises:
            UserError: if the server refuses it; all other work stops too.
        """
        try:
            return await self._client.ask(call, validate, tokens)
        except RequestRefused as error:
            urls = ", ".join(self._settings.urls)
            self._dispatcher.stop(
                UserError(
                    f"lm {self._settings.model} at {urls}: HTTP {error.status}: {error.message}",
                    "see the server's message; `gpt3mix check` shows what the server supports",
                )
            )

    def text_call(self, capabilities: Capabilities, body: dict[str, Any], number: str) -> Call:
        """Return the call that asks for text, with the user's additional fields (`lm.extra`)."""
        return Call(capabilities.path, body | self._settings.extra, number)

    async def send_text(self, call: Call, api: str, tokens: int) -> Response | PromptTooLong:
        """Return the answer to a call that asks for text; see `send`."""
        return await self.send(call, functools.partial(parse_texts, api=api), tokens)

    async def encode(self, text: str) -> Sequence[int] | None:
        """Return the token ids of a text by the user's or the server's tokenizer; None if neither.

        A server tokenises at `/tokenize`, which vLLM offers.
        """
        if self._tokens.name:
            return self._tokens.encode(text)
        call = Call("//tokenize", {"model": self._settings.model, "prompt": text})
        try:
            response = await self._client.ask(call, _require_tokens)
        except RequestRefused:
            return None
        return response.value["tokens"] if isinstance(response, Response) else None


def _require_tokens(value: Any) -> None:
    # Some servers answer unknown paths with something else; sending it again would not help.
    if not (isinstance(value, dict) and isinstance(value.get("tokens"), list)):
        raise RequestRefused(404, "no tokens")
