"""Finds out what a server supports by sending a few requests of one token each.

What can be tested is not believed. Log-probabilities must include that of the generated token.
Scores by token id and of echoed prompts must agree with them. An ignored field is noticed by what
is missing from the answer.
"""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from ...errors import UserError
from ...settings import OpenAISettings
from ..port import GENERATION_INSTRUCTION
from .answers import parse_texts
from .http_errors import HttpError
from .label_scores import score_decision
from .requests import NEUTRAL_SAMPLING, Call, Capabilities, decision_body, echo_body, text_body
from .responses import (
    UNKNOWN_LOGPROB,
    GeneratedText,
    echo_logprob,
    token_id_logprobs,
)

PROMPT = (
    "Movie review: A quiet little wonder. (Sentiment: Positive)\n"
    "Movie review: A dull mess. (Sentiment:"
)
DRAW_PROMPT = f"{PROMPT} Negative)\nMovie review:"
CHOICES = (" Positive", " Negative")
SYSTEM = "Answer with the label alone."
TOP_LOGPROBS = (20, 5)  # the limits of servers: vLLM and chats; OpenAI's completions
# For labels alone. llama.cpp returns any number, but each takes 100 bytes of the answer.
LABEL_LOGPROBS = (80, 320)
DRAW_TOKENS = 32  # two draws of so many tokens differ, unless the server decodes greedily
CHANGED_SAMPLING = 0.5  # a temperature and top-p that move log-probabilities computed after them
LOGPROB_TOLERANCE = 0.05  # between two log-probabilities of one token
WORD = re.compile(r" [A-Za-z]+")
UNSUPPORTED_STATUSES = (404, 405, 501)
LOGPROBS_FIELDS = ("top_logprobs", "logprobs")
OPTIONAL_FIELDS = (
    "temperature",
    "top_p",
    "frequency_penalty",
    "seed",
    "stop",
    "logprobs",
    "top_logprobs",
    *NEUTRAL_SAMPLING,
)
APIS: dict[str, tuple[Literal["completions", "chat"], ...]] = {
    "auto": ("completions", "chat"),
    "completions": ("completions",),
    "chat": ("chat",),
    "decisions": ("chat",),
}

Send = Callable[[Call, Callable[[Any], object]], Awaitable[Any]]
Encode = Callable[[str], Awaitable[Sequence[int] | None]]


class Probe:
    """One probe of an endpoint.

    Args:
        settings: of the endpoint; they may exclude some ways of asking.
        send: sends a call and returns what a function makes of the JSON of its answer.
        encode: returns the token ids of a text; None if no tokenizer is known.
    """

    def __init__(self, settings: OpenAISettings, send: Send, encode: Encode) -> None:
        self._settings, self._send, self._encode = settings, send, encode
        self._refusals: list[str] = []

    async def detect(self) -> Capabilities:
        """Return the best capabilities that the server has and the settings allow.

        Raises:
            UserError: if the server supports none of them, with its own messages.
        """
        supported: list[Capabilities] = []
        on_openai = any("api.openai.com" in url for url in self._settings.urls)
        for api in APIS[self._settings.api]:
            capabilities = await self._detect_text(
                Capabilities(api=api, neutral_sampling=not on_openai)
            )
            if capabilities:
                capabilities = replace(
                    capabilities,
                    raw_logprobs=await self._has_raw_logprobs(capabilities),
                    label_method=await self._label_method(capabilities),
                )
                supported.append(await self._count_copies(capabilities))
                if capabilities.top_logprobs:
                    break  # completions with log-probabilities: the paper's own prompt
        if not supported:
            raise UserError(
                f"lm {self._settings.model} at {self._settings.urls[0]}: the server does not "
                f"support {' or '.join(APIS[self._settings.api])}: "
                f"{'; '.join(self._refusals) or 'no answer'}",
                "check lm.model, lm.base_url (it usually ends in /v1) and lm.api",
            )
        best = supported[-1] if supported[-1].top_logprobs else supported[0]
        if best.label_method == "top_logprobs":
            best = replace(best, label_logprobs=await self._most_label_logprobs(best))
        elif best.label_method == "vote":
            best = replace(best, is_greedy=await self._is_greedy(best))
        if self._settings.label_source not in ("auto", best.label_source):
            raise UserError(
                f"lm.label_source: {self._settings.label_source}: the server does not offer it; "
                f"the best available: {best.label_source}",
                "use label_source: auto, or a server that offers it (`gpt3mix guide endpoints`)",
            )
        return best

    # Text and log-probabilities --------------------------------------------------------------

    async def _detect_text(self, capabilities: Capabilities) -> Capabilities | None:
        for top_logprobs in (*TOP_LOGPROBS, 0):
            texts, capabilities = await self._send_tolerantly(capabilities, top_logprobs)
            if texts is None:
                return None
            if "logprobs" in capabilities.refused_fields:
                break
            if texts and _has_valid_logprobs(texts[0]):
                return replace(capabilities, top_logprobs=top_logprobs)
            if texts and top_logprobs == TOP_LOGPROBS[-1]:
                break
        return replace(capabilities, top_logprobs=0)

    async def _send_tolerantly(
        self, capabilities: Capabilities, top_logprobs: int
    ) -> tuple[list[GeneratedText] | None, Capabilities]:
        """Ask for a token, and again without each field that the server refuses.

        Returns:
            The texts and the capabilities. The texts are None if the server lacks the API, and
            empty if it does not return so many log-probabilities.
        """
        fields = {
            "temperature": 0.9,
            "top_p": 0.9,
            "frequency_penalty": 0.01,
            "seed": 1,
            "logprobs": top_logprobs or None,
            "stop": ["\n"],
        }
        for _ in range(len(OPTIONAL_FIELDS) + 2):
            try:
                return await self._texts(capabilities, **fields), capabilities
            except HttpError as error:
                field = _refused_field(error, capabilities)
                if field is None:
                    self._refusals.append(
                        f"{capabilities.api}: HTTP {error.status}: {error.message}"
                    )
                    return None, capabilities
            if field == "max_tokens":
                capabilities = replace(capabilities, max_tokens_field="max_completion_tokens")
                continue
            refused: tuple[str, ...] = (field,)
            if field in LOGPROBS_FIELDS:
                if top_logprobs in TOP_LOGPROBS[:-1]:
                    return [], capabilities
                refused = LOGPROBS_FIELDS
            capabilities = replace(
                capabilities, refused_fields=(*capabilities.refused_fields, *refused)
            )
        return None, capabilities

    async def _has_raw_logprobs(self, capabilities: Capabilities) -> bool:
        """Return whether log-probabilities stay the same at another temperature.

        The gap between the likeliest and the least likely token is compared.
        """
        if not capabilities.top_logprobs:
            return True
        gaps: list[dict[str, float]] = []
        for value in (1.0, CHANGED_SAMPLING):
            texts = await self._try_texts(
                capabilities, temperature=value, top_p=value, logprobs=capabilities.top_logprobs
            )
            if not texts:
                return False
            top = texts[0].first_top.items()
            best = max((logprob for _, logprob in top), default=0.0)
            gaps.append(
                {token: best - logprob for token, logprob in top if logprob > UNKNOWN_LOGPROB}
            )
        common = gaps[0].keys() & gaps[1].keys()
        furthest = max(common, key=lambda token: gaps[0][token], default="")
        # Halving the temperature doubles the gap. The log-probabilities of a hosted model differ
        # far less between calls.
        limit = gaps[0].get(furthest, 0.0) * (1 + CHANGED_SAMPLING) + LOGPROB_TOLERANCE
        return len(common) > 1 and gaps[1][furthest] < limit

    async def _count_copies(self, capabilities: Capabilities) -> Capabilities:
        """Return the capabilities with how many texts one request may ask for."""
        wanted = max(self._settings.num_votes, 2)
        for copies in dict.fromkeys((wanted, min(4, wanted), 2)):
            if len(await self._try_texts(capabilities, n=copies)) == copies:
                limit = copies if copies < wanted else 0
                return replace(capabilities, supports_n=True, max_copies=limit)
        return capabilities

    async def _most_label_logprobs(self, capabilities: Capabilities) -> int:
        most = 0
        for count in LABEL_LOGPROBS:
            texts = await self._try_texts(capabilities, temperature=1.0, logprobs=count)
            if not texts or len(texts[0].first_top) < count:
                break
            most = count
        return most

    async def _is_greedy(self, capabilities: Capabilities) -> bool:
        """Return whether two draws of a text are alike, as they are at `transformers serve`."""
        texts = []
        for seed in (1, 2):
            body = text_body(
                capabilities,
                self._settings.model,
                DRAW_PROMPT,
                GENERATION_INSTRUCTION,
                # Not equal, so that these are two requests where the server takes no seed.
                max_tokens=DRAW_TOKENS + seed,
                temperature=1.0,
                top_p=1.0,
                seed=seed,
            )
            try:
                texts += (await self._send_text(body, capabilities))[:1]
            except HttpError:
                return False
        first, second = (text.text for text in texts)
        return bool(first.strip()) and second.startswith(first)

    # Labels ----------------------------------------------------------------------------------

    async def _label_method(
        self, capabilities: Capabilities
    ) -> Literal["ids", "echo", "decision", "top_logprobs", "vote", "none"]:
        wanted = self._settings.label_source
        if self._settings.api == "decisions" or wanted == "decision":
            return "decision" if await self._supports_decisions() else "none"
        if wanted == "vote":
            return "vote"
        if capabilities.top_logprobs:
            if capabilities.api == "completions" and wanted in ("auto", "exact"):
                known = await self._known_logprobs(capabilities)
                if known and await self._supports_ids(capabilities, known):
                    return "ids"
                if known and await self._supports_echo(capabilities, known):
                    return "echo"
            return "top_logprobs"
        if wanted != "auto":
            return "none"
        on_openai = "api.openai.com" in self._settings.urls[0]
        return "decision" if on_openai and await self._supports_decisions() else "vote"

    async def _supports_decisions(self) -> bool:
        call = Call("/decisions", decision_body(PROMPT, CHOICES, self._settings.model))
        try:
            scores = await self._send(call, lambda answer: score_decision(answer, CHOICES))
        except HttpError:
            return False
        return scores is not None

    async def _supports_ids(self, capabilities: Capabilities, known: Mapping[str, float]) -> bool:
        prompts = [PROMPT + token for token in ("", *known)]
        before, *both = await asyncio.gather(*map(self._encode, prompts))
        if not before:
            return False
        ids = [tokens[-1] for tokens in both if tokens and len(tokens) == len(before) + 1]
        if len(ids) < len(both):
            return False
        texts = await self._try_texts(
            capabilities,
            temperature=1.0,
            logprobs=1,
            logprob_token_ids=ids,
            return_tokens_as_token_ids=True,
        )
        logprobs = token_id_logprobs(texts[0], ids) if texts else None
        return logprobs is not None and all(
            abs(logprob - expected) < LOGPROB_TOLERANCE
            for logprob, expected in zip(logprobs, known.values(), strict=True)
        )

    async def _supports_echo(self, capabilities: Capabilities, known: Mapping[str, float]) -> bool:
        for token, expected in known.items():
            body = echo_body(capabilities, self._settings.model, PROMPT + token)
            try:
                texts = await self._send_text(body, capabilities)
            except HttpError:
                return False
            logprob = echo_logprob(texts[0], PROMPT, token)
            if logprob is None or abs(logprob - expected) > LOGPROB_TOLERANCE:
                return False
        return True

    async def _known_logprobs(self, capabilities: Capabilities) -> dict[str, float]:
        logprobs = capabilities.top_logprobs
        texts = await self._try_texts(capabilities, temperature=1.0, logprobs=logprobs)
        top = texts[0].first_top if texts else {}
        # Whole words only, because no tokenizer joins them to the prompt.
        words = [word for word in top if top[word] > UNKNOWN_LOGPROB and WORD.fullmatch(word)]
        words.sort(key=top.__getitem__)
        return {word: top[word] for word in (words[-1], words[0])} if len(words) > 1 else {}

    # Sending ---------------------------------------------------------------------------------

    async def _texts(self, capabilities: Capabilities, **fields: Any) -> list[GeneratedText]:
        fields["max_tokens"] = 1 if capabilities.api == "completions" else 16
        body = text_body(capabilities, self._settings.model, PROMPT, SYSTEM, **fields)
        return await self._send_text(body, capabilities)

    async def _try_texts(self, capabilities: Capabilities, **fields: Any) -> list[GeneratedText]:
        try:
            return await self._texts(capabilities, **fields)
        except HttpError:
            return []

    async def _send_text(
        self, body: Mapping[str, Any], capabilities: Capabilities
    ) -> list[GeneratedText]:
        call = Call(capabilities.path, {**body, **self._settings.extra})
        texts: list[GeneratedText] = await self._send(call, parse_texts)
        return texts


def _refused_field(error: HttpError, capabilities: Capabilities) -> str | None:
    """Return the field that a refusal is about; None if it cannot be omitted.

    `max_tokens` means that the server calls that field `max_completion_tokens`.
    """
    if error.status in UNSUPPORTED_STATUSES:
        return None
    message = f"{error.param} {error.message}".lower()
    if "max_completion_tokens" in message and capabilities.max_tokens_field == "max_tokens":
        return "max_tokens"
    if error.status not in (400, 422):
        return None
    optional = [name for name in OPTIONAL_FIELDS if name not in capabilities.refused_fields]
    if error.param in optional:
        return error.param
    # The longest first: `top_logprobs` contains `logprobs`.
    longest_first = sorted(optional, key=len, reverse=True)
    return next((name for name in longest_first if name in error.message), None)


def _has_valid_logprobs(text: GeneratedText) -> bool:
    top = text.first_top
    if len(top) < 2 or (logprob := text.tokens[0].logprob) is None:
        return False
    if math.fsum(math.exp(value) for value in top.values() if value > UNKNOWN_LOGPROB) > 1.01:
        return False
    # A chat may have sampled a token that is not among the likeliest.
    reported = top.get(text.tokens[0].token, logprob)
    is_likeliest = logprob <= max(top.values()) + LOGPROB_TOLERANCE
    return abs(reported - logprob) < LOGPROB_TOLERANCE and is_likeliest
