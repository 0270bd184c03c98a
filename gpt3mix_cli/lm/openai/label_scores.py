"""Asks an endpoint for a label by itself, where the line's own answer does not tell it: one way for each rung of the ladder.

Exact scores come from the labels' token ids or from an echo, in as many calls as a label has tokens or as there are labels;
then OpenAI's decisions, the likeliest tokens, and votes. `probe` has found which of them the server offers.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ...settings import OpenAISettings
from ..port import Request, Scores
from .cached_client import Answer, TooLong
from .probe import echo
from .protocol import (
    Call,
    Capabilities,
    by_ids,
    decided,
    decision,
    echoed,
    label_scores,
    labelling,
    texts,
    voted,
)

TOKEN_MARGIN = 4  # tokens for a closing bracket and for a label that is cut otherwise than counted

Ask = Callable[[Capabilities, dict[str, Any], str, int], Awaitable[Answer | TooLong]]
Decide = Callable[[Call, Callable[[Any], object], int], Awaitable[Answer | TooLong]]
Encode = Callable[[str], Awaitable[Sequence[int] | None]]


class Labels:
    """The labels of one output; its methods are called in the endpoint's event loop."""

    def __init__(
        self,
        settings: OpenAISettings,
        ask: Ask,
        decide: Decide,
        encode: Encode,
        count: Callable[[str], int],
    ) -> None:
        """Keep how to ask.

        Args:
            settings: of the endpoint.
            ask: sends what asks for a text.
            decide: sends what asks for a decision.
            encode: returns the tokens of a text; None if nobody knows them.
            count: estimates how many they are.
        """
        self._settings, self._ask, self._decide, self._encode, self._count = (
            settings,
            ask,
            decide,
            encode,
            count,
        )
        self._known: dict[tuple[str, ...], asyncio.Future[list[list[int]]]] = {}

    async def scores(
        self, context: str, choices: Sequence[str], ways: Capabilities, number: str
    ) -> tuple[Scores | None, list[Answer]]:
        """Return the scores of labels after a context, and the answers that they cost."""
        match ways.labels:
            case "ids":
                return await self._by_ids(context, choices, ways, number)
            case "echo":
                scores, answers = await self._echoed(context, choices, ways, number)
                if scores or self._settings.label_source == "exact":
                    return scores, answers
                scores, more = await self._top(context, choices, ways, number)
                return scores, [*answers, *more]
            case "top_logprobs":
                return await self._top(context, choices, ways, number)
            case "decision":
                call = Call("/decisions", decision(context, choices, self._settings.model), number)
                answer = await self._decide(
                    call, lambda value: decided(value, choices), self._count(context)
                )
                return (
                    (decided(answer.value, choices), [answer])
                    if isinstance(answer, Answer)
                    else (None, [])
                )
            case "vote":
                return await self._votes(context, choices, ways, number)
            case _:
                return None, []

    async def _top(
        self, context: str, choices: Sequence[str], ways: Capabilities, number: str
    ) -> tuple[Scores | None, list[Answer]]:
        answer = await self._ask(
            ways,
            labelling(context, choices, ways, self._settings.model, logprobs=ways.top),
            number,
            self._count(context),
        )
        if isinstance(answer, TooLong):
            return None, []
        positions = texts(answer.value, ways.api)[0].positions
        merge = self._settings.label_source == "top_logprobs"
        return label_scores(
            positions[0].top if positions else {}, choices, ways.api == "chat", merge
        ), [answer]

    async def _votes(
        self, context: str, choices: Sequence[str], ways: Capabilities, number: str
    ) -> tuple[Scores | None, list[Answer]]:
        room = max(self._count(choice) for choice in choices) + TOKEN_MARGIN
        copies = self._settings.num_votes if ways.many else 1
        answers: list[Answer] = []
        for vote in range(self._settings.num_votes // copies):
            fields = {
                "max_tokens": room,
                "temperature": 1.0,
                "seed": vote,
                "n": copies if copies > 1 else None,
            }
            asked = labelling(context, choices, ways, self._settings.model, **fields)
            answer = await self._ask(
                ways, asked, f"{number}.{vote}", self._count(context) + room * copies
            )
            if isinstance(answer, Answer):
                answers.append(answer)
        written = [text.text for answer in answers for text in texts(answer.value, ways.api)]
        return voted(written, choices), answers

    async def _echoed(
        self, context: str, choices: Sequence[str], ways: Capabilities, number: str
    ) -> tuple[Scores | None, list[Answer]]:
        asked = [echo(ways, self._settings.model, context + choice) for choice in choices]
        answers = [await self._ask(ways, one, number, self._count(context)) for one in asked]
        good = [answer for answer in answers if isinstance(answer, Answer)]
        found = [
            echoed(answer.value, context, choice)
            for answer, choice in zip(good, choices, strict=False)
        ]
        known = [value for value in found if value is not None]
        return Scores(tuple(known)) if len(known) == len(choices) else None, good

    async def _by_ids(
        self, context: str, choices: Sequence[str], ways: Capabilities, number: str
    ) -> tuple[Scores | None, list[Answer]]:
        """Return the scores by token ids: a question for each beginning of a label."""
        tokens = await self._tokens_of(choices, context)
        whole = await self._encode(context) if any(len(one) > 1 for one in tokens) else None
        found: dict[tuple[int, ...], dict[int, float]] = {}
        answers: list[Answer] = []
        for begun, following in tries(tokens).items():
            prompt: str | list[int] = [*(whole or ()), *begun] if begun else context
            fields = {
                "logprobs": 1,
                "logprob_token_ids": following,
                "return_tokens_as_token_ids": True,
            }
            answer = await self._ask(
                ways,
                labelling(prompt, choices, ways, self._settings.model, **fields),
                number,
                self._count(context),
            )
            if not isinstance(answer, Answer):
                return None, answers
            answers.append(answer)
            known = by_ids(texts(answer.value, ways.api)[0], following)
            if known is None:
                return None, answers
            found[begun] = dict(zip(following, known, strict=True))
        return spelled_out(tokens, found), answers

    async def single_ids(self, request: Request, ways: Capabilities) -> list[int]:
        """Return the labels' tokens if each is one token, to have them scored beside the text; else none."""
        if ways.labels != "ids" or not request.choices:
            return []
        tokens = await self._tokens_of(request.choices, request.label_prefix)
        return [one[0] for one in tokens] if all(len(one) == 1 for one in tokens) else []

    async def _tokens_of(self, choices: Sequence[str], context: str) -> list[list[int]]:
        """Return the tokens of each choice behind a context, of which the last word decides; they are asked for once."""
        key = (context.rpartition(" ")[2], *choices)
        if key not in self._known:
            self._known[key] = asyncio.ensure_future(self._cut(*key))
        return await asyncio.shield(
            self._known[key]
        )  # others wait for them too, and later ones will

    async def _cut(self, context: str, *choices: str) -> list[list[int]]:
        before, *both = await asyncio.gather(
            *(self._encode(context + choice) for choice in ("", *choices))
        )
        return [list((one or [])[len(before or []) :]) for one in both]


def tries(choices: Sequence[Sequence[int]]) -> dict[tuple[int, ...], list[int]]:
    """Return for each beginning of the choices the tokens that may follow it: one question each gives all choices' scores."""
    following: dict[tuple[int, ...], list[int]] = {}
    for tokens in choices:
        for place, token in enumerate(tokens):
            known = following.setdefault(tuple(tokens[:place]), [])
            if token not in known:
                known.append(token)
    return following


def spelled_out(
    choices: Sequence[Sequence[int]], found: Mapping[tuple[int, ...], Mapping[int, float]]
) -> Scores:
    """Return the scores of choices from those of their tokens after each beginning."""
    return Scores(
        tuple(
            math.fsum(found[tuple(tokens[:place])][token] for place, token in enumerate(tokens))
            for tokens in choices
        )
    )
