"""Finds out by asking how a server is to be asked: a few requests of one token each.

Nothing is believed that can be tried: log-probabilities must be those of the token that was chosen, scores by ids and of
echoed prompts must agree with them, and a field that a server passes over is noticed by what is missing from its answer.
"""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...errors import UserError
from ...settings import OpenAISettings
from .dispatcher import Refused
from .protocol import (
    NO_TOKEN,
    PLAIN,
    Call,
    Capabilities,
    Text,
    body,
    by_ids,
    decided,
    decision,
    echoed,
    texts,
)

PROMPT = "Movie review: A quiet little wonder. (Sentiment: Positive)\nMovie review: A dull mess. (Sentiment:"
CHOICES = (" Positive", " Negative")
SHORT = "Answer with the label alone."  # what a chat is told
TOPS = (20, 5)  # what servers allow at most: vLLM, chats; OpenAI's completions
CHANGED = 0.5  # temperature and top-p that move log-probabilities where a server tells them after sampling's changes
NEAR = 0.05  # by how much two log-probabilities of one token may differ
WORD = re.compile(r" [A-Za-z]+")
NOT_THERE = (404, 405, 501)
DROPPABLE = (
    "temperature",
    "top_p",
    "frequency_penalty",
    "seed",
    "stop",
    "logprobs",
    "top_logprobs",
    *PLAIN,
)

Post = Callable[[Call, Callable[[Any], object]], Awaitable[Any]]
Encode = Callable[[str], Awaitable[Sequence[int] | None]]


class Probe:
    """One look at a server."""

    def __init__(self, settings: OpenAISettings, post: Post, encode: Encode) -> None:
        """Ask nothing yet.

        Args:
            settings: which ways are allowed.
            post: sends a call and returns the answer's JSON.
            encode: returns the tokens of a text; None if nobody knows the model's tokenizer.
        """
        self._settings, self._post, self._encode = settings, post, encode

    async def ways(self) -> Capabilities:
        """Return the best ways that the server offers and the settings allow.

        Raises:
            UserError: if there is none, with the server's words.
        """
        found: list[Capabilities] = []
        refusals: list[str] = []
        wanted = {
            "auto": ["completions", "chat"],
            "completions": ["completions"],
            "chat": ["chat"],
            "decisions": ["chat"],
        }[self._settings.api]
        for api in wanted:
            plain = not any("api.openai.com" in url for url in self._settings.urls)
            ways = await self._texts(
                Capabilities(api="completions" if api == "completions" else "chat", plain=plain),
                refusals,
            )
            if ways:
                ways = replace(ways, raw=not ways.top or await self._raw(ways))
                found.append(await self._labels(ways))
                if found[-1].top:
                    break  # the paper's own prompt, where it gives log-probabilities
        if not found:
            said = "; ".join(refusals) or "no answer"
            message = f"lm {self._settings.model} at {self._settings.urls[0]}: cannot be asked as {' or '.join(wanted)}: {said}"
            raise UserError(
                message, "check lm.model, lm.base_url (it ends in /v1 as a rule) and lm.api"
            )
        best = next((ways for ways in found if ways.top), found[0])
        self._refuse_less(best)
        return best

    def _refuse_less(self, ways: Capabilities) -> None:
        """Refuse ways that give other label scores than the user asked for."""
        source, wanted = SOURCES[ways.labels], self._settings.label_source
        if wanted not in ("auto", source):
            message = f"lm.label_source: {wanted}: the server does not offer it; the best that was found: {source}"
            raise UserError(message, "use label_source: auto, or a server that does (see README)")

    async def _texts(self, ways: Capabilities, refusals: list[str]) -> Capabilities | None:
        """Return how texts can be asked for; None if they cannot."""
        for top in (*TOPS, 0):
            answer, ways = await self._tolerant(ways, top, refusals)
            if answer is None:
                return None
            if ways.refused and "logprobs" in ways.refused:
                return replace(ways, top=0)
            if answer and _sound(texts(answer, ways.api)[0]):
                return replace(ways, top=top)
            if answer and top == TOPS[-1]:
                break
        return replace(ways, top=0)

    async def _tolerant(
        self, ways: Capabilities, top: int, refusals: list[str]
    ) -> tuple[Any, Capabilities]:
        """Ask for a token without whatever the server refuses.

        Returns the answer (None: no such API; empty: not with so many log-probabilities) and the ways.
        """
        for _ in range(len(DROPPABLE) + 2):
            fields = {
                "max_tokens": 1 if ways.api == "completions" else 16,
                "temperature": 0.9,
                "top_p": 0.9,
                "frequency_penalty": 0.01,
                "seed": 1,
            }
            asked = body(
                ways,
                self._settings.model,
                PROMPT,
                SHORT,
                **fields,
                logprobs=top or None,
                stop=["\n"],
            )
            try:
                return await self._asked(asked, ways), ways
            except Refused as error:
                words = f"{error.param} {error.words}".lower()
                if error.status in NOT_THERE:
                    refusals.append(f"{ways.api}: HTTP {error.status}: {error.words}")
                    return None, ways
                if "max_completion_tokens" in words and ways.limit == "max_tokens":
                    ways = replace(ways, limit="max_completion_tokens")
                    continue
                named = _named(error, ways)
                if named is None:
                    refusals.append(f"{ways.api}: HTTP {error.status}: {error.words}")
                    return None, ways
                if named in ("logprobs", "top_logprobs"):
                    if top in TOPS[:-1]:
                        return {}, ways
                    named = "logprobs"
                    ways = replace(ways, refused=(*ways.refused, "top_logprobs"))
                ways = replace(ways, refused=(*ways.refused, named))
        return None, ways

    async def _raw(self, ways: Capabilities) -> bool:
        """Return whether the likeliest and the least likely token stay as far apart when others are drawn."""
        gaps: list[dict[str, float]] = []
        for changed in (1.0, CHANGED):
            fields = {
                "max_tokens": 1 if ways.api == "completions" else 16,
                "temperature": changed,
                "top_p": changed,
                "logprobs": ways.top,
            }
            try:
                (first, *_) = texts(
                    await self._asked(
                        body(ways, self._settings.model, PROMPT, SHORT, **fields), ways
                    ),
                    ways.api,
                )
            except Refused:
                return False
            top = first.positions[0].top if first.positions else {}
            gaps.append(
                {
                    token: max(top.values()) - value
                    for token, value in top.items()
                    if value > NO_TOKEN
                }
            )
        both = gaps[0].keys() & gaps[1].keys()
        furthest = max(both, key=lambda token: gaps[0][token], default="")
        # Halving the temperature doubles the gap; what a hosted model's figures differ by from call to call is far less.
        return len(both) > 1 and gaps[1][furthest] < gaps[0][furthest] * (1 + CHANGED) + NEAR

    async def _labels(self, ways: Capabilities) -> Capabilities:
        """Return the ways with the best source of label scores."""
        wanted = self._settings.label_source
        ways = replace(ways, many=await self._many(ways))
        if self._settings.api == "decisions" or wanted == "decision":
            return replace(ways, labels="decision" if await self._decides() else "none")
        if wanted == "vote":
            return replace(ways, labels="vote")
        if ways.top and ways.api == "completions" and wanted in ("auto", "exact"):
            if await self._by_ids(ways):
                return replace(ways, labels="ids")
            if await self._echoes(ways):
                return replace(ways, labels="echo")
        if ways.top:
            return replace(ways, labels="top_logprobs")
        if (
            wanted == "auto"
            and "api.openai.com" in self._settings.urls[0]
            and await self._decides()
        ):
            return replace(ways, labels="decision")
        return replace(ways, labels="vote" if wanted == "auto" else "none")

    async def _many(self, ways: Capabilities) -> bool:
        asked = body(
            ways,
            self._settings.model,
            PROMPT,
            SHORT,
            max_tokens=1 if ways.api == "completions" else 16,
            n=2,
        )
        try:
            return len(texts(await self._asked(asked, ways), ways.api)) == 2
        except Refused:
            return False

    async def _asked(self, asked: Mapping[str, Any], ways: Capabilities) -> Any:
        return await self._post(
            Call(path(ways), {**asked, **self._settings.extra}),
            lambda value: texts(value, ways.api),
        )

    async def _decides(self) -> bool:
        asked = decision(PROMPT, CHOICES, self._settings.model)
        try:
            return (
                decided(
                    await self._post(
                        Call("/decisions", asked), lambda value: decided(value, CHOICES)
                    ),
                    CHOICES,
                )
                is not None
            )
        except Refused:
            return False

    async def _known(self, ways: Capabilities) -> dict[str, float]:
        """Return the log-probabilities of two tokens after the prompt: the likeliest, and the least likely that the server tells."""
        asked = body(
            ways, self._settings.model, PROMPT, max_tokens=1, temperature=1.0, logprobs=ways.top
        )
        positions = texts(await self._asked(asked, ways), "completions")[0].positions
        top = positions[0].top if positions else {}
        # Words of their own, which no tokenizer joins to what stands before them.
        told = sorted(
            (token for token, value in top.items() if value > NO_TOKEN and WORD.fullmatch(token)),
            key=lambda one: top[one],
        )
        return {token: top[token] for token in (told[-1], told[0])} if len(told) > 1 else {}

    async def _by_ids(self, ways: Capabilities) -> bool:
        """Return whether the server scores tokens by their ids, and rightly."""
        known = await self._known(ways)
        before, *both = await asyncio.gather(
            *(self._encode(PROMPT + token) for token in ("", *known))
        )
        if not known or not before or not all(one and len(one) == len(before) + 1 for one in both):
            return False
        ids = [one[-1] for one in both if one]
        extra = {"logprob_token_ids": ids, "return_tokens_as_token_ids": True}
        asked = (
            body(ways, self._settings.model, PROMPT, max_tokens=1, temperature=1.0, logprobs=1)
            | extra
        )
        try:
            answer = await self._asked(asked, ways)
        except Refused:
            return False
        found = by_ids(texts(answer, "completions")[0], ids)
        return found is not None and all(
            abs(one - other) < NEAR for one, other in zip(found, known.values(), strict=True)
        )

    async def _echoes(self, ways: Capabilities) -> bool:
        """Return whether the log-probabilities of an echoed prompt are those of its tokens: there are servers that shift them."""
        known = await self._known(ways)
        for token, logprob in known.items():
            try:
                found = echoed(
                    await self._asked(echo(ways, self._settings.model, PROMPT + token), ways),
                    PROMPT,
                    token,
                )
            except Refused:
                return False
            if found is None or abs(found - logprob) > NEAR:
                return False
        return bool(known)


SOURCES = {
    "ids": "exact",
    "echo": "exact",
    "decision": "decision",
    "top_logprobs": "top_logprobs",
    "vote": "vote",
    "none": "none",
}


def path(ways: Capabilities) -> str:
    """Return where texts are asked for."""
    return "/completions" if ways.api == "completions" else "/chat/completions"


def echo(ways: Capabilities, model: str, text: str) -> dict[str, Any]:
    """Return the body that asks for the log-probabilities of a text's own tokens."""
    # One token more than is wanted: some servers take 0 for no limit.
    return body(ways, model, text, max_tokens=1, temperature=1.0, logprobs=1, echo=True)


def _named(error: Refused, ways: Capabilities) -> str | None:
    """Return the parameter that a refusal is about; None if it is about none that can be left out."""
    if error.status not in (400, 422):
        return None
    left = [name for name in DROPPABLE if name not in ways.refused]
    if error.param in left:
        return error.param
    return next((name for name in sorted(left, key=len, reverse=True) if name in error.words), None)


def _sound(text: Text) -> bool:
    """Return whether the log-probabilities of a text are any: those of likely tokens, the chosen one among them."""
    if not text.positions:
        return False
    first = text.positions[0]
    total = math.fsum(math.exp(value) for value in first.top.values() if value > NO_TOKEN)
    if len(first.top) < 2 or first.logprob is None or total > 1.01:
        return False
    # A chat may have drawn a token that is none of the likeliest.
    return (
        abs(first.top.get(first.token, first.logprob) - first.logprob) < NEAR
        and first.logprob <= max(first.top.values()) + NEAR
    )


def from_json(value: Mapping[str, Any]) -> Capabilities:
    """Return ways that were kept."""
    return Capabilities(**{**value, "refused": tuple(value["refused"])})
