"""Requests a label's scores separately, where the generated line does not contain them.

The methods from best to worst: token ids (one request per prefix of the labels' tokens), echo (one
request per label), OpenAI's decisions API, top log-probabilities, votes. `probe` finds out which of
them the server supports.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import UserError
from ...settings import OpenAISettings
from ..port import Request, Scores
from .cached_client import PromptTooLong, Response
from .capabilities import Capabilities
from .label_scores import (
    next_tokens_by_prefix,
    score_decision,
    score_token_sequences,
    score_top_logprobs,
    score_votes,
)
from .requests import Call, decision_body, echo_body, label_body
from .responses import GeneratedText, echo_logprob, parse_texts, token_id_logprobs
from .session import Session

TOKEN_MARGIN = 4  # for a closing bracket, and for labels that the server tokenises differently


@dataclass(frozen=True)
class LabelQuery:
    """Which label follows a text.

    Attributes:
        context: the text up to the label.
        choices: the labels with their leading space.
        capabilities: of the server.
        number: of the request that it belongs to; empty if none.
        responses: the answers that scoring took.
    """

    context: str
    choices: Sequence[str]
    capabilities: Capabilities
    number: str = ""
    responses: list[Response] = field(default_factory=list)


class LabelScorer:
    """Scores labels for one output. Its methods run in the endpoint's event loop."""

    def __init__(self, settings: OpenAISettings, session: Session, must_fit: bool = False) -> None:
        """Send nothing yet.

        Args:
            settings: of the endpoint.
            session: sends the requests.
            must_fit: whether a context that is too long for the server is an error.
        """
        self._settings, self._session, self._must_fit = settings, session, must_fit
        self._label_tokens: dict[tuple[str, ...], asyncio.Future[list[list[int]]]] = {}

    async def score(self, query: LabelQuery) -> Scores | None:
        """Return the scores of the labels; None if the server reports none."""
        match query.capabilities.label_method:
            case "ids":
                return await self._score_by_ids(query)
            case "echo":
                scores = await self._score_by_echo(query)
                if scores or self._settings.label_source == "exact":
                    return scores
                return await self._score_by_top_logprobs(query)
            case "top_logprobs":
                return await self._score_by_top_logprobs(query)
            case "decision":
                return await self._score_by_decision(query)
            case "vote":
                return await self._score_by_votes(query)
            case _:
                return None

    def score_top(self, query: LabelQuery, top: Mapping[str, float]) -> Scores | None:
        """Return the scores of labels from the likeliest tokens at their position; None if none."""
        merge = self._settings.label_source == "top_logprobs"
        return score_top_logprobs(top, query.choices, query.capabilities.api == "chat", merge)

    async def single_token_ids(self, request: Request, capabilities: Capabilities) -> list[int]:
        """Return the labels' token ids if each label is one token; otherwise an empty list.

        The server can then score them together with the generated line.
        """
        if capabilities.label_method != "ids" or not request.choices:
            return []
        labels = await self._tokenize_labels(request.choices, request.label_prefix)
        return [tokens[0] for tokens in labels] if all(len(one) == 1 for one in labels) else []

    async def _score_by_top_logprobs(self, query: LabelQuery) -> Scores | None:
        body = self._body(query, logprobs=query.capabilities.top_logprobs)
        texts = await self._send(query, body)
        return self.score_top(query, texts[0].first_top) if texts else None

    async def _score_by_decision(self, query: LabelQuery) -> Scores | None:
        body = decision_body(query.context, query.choices, self._settings.model)
        response = await self._session.send(
            Call("/decisions", body, query.number),
            lambda value: score_decision(value, query.choices),
            self._session.count_tokens(query.context),
        )
        if isinstance(response, PromptTooLong):
            return None
        query.responses.append(response)
        return score_decision(response.value, query.choices)

    async def _score_by_votes(self, query: LabelQuery) -> Scores | None:
        lengths = map(self._session.count_tokens, query.choices)
        max_tokens = max(lengths) + TOKEN_MARGIN
        copies = self._settings.num_votes if query.capabilities.supports_n else 1
        n = copies if copies > 1 else None
        votes: list[str] = []
        for vote in range(self._settings.num_votes // copies):
            body = self._body(query, max_tokens=max_tokens, temperature=1.0, seed=vote, n=n)
            texts = await self._send(query, body, f".{vote}", max_tokens * copies)
            votes += [text.text for text in texts]
        return score_votes(votes, query.choices)

    async def _score_by_echo(self, query: LabelQuery) -> Scores | None:
        logprobs: list[float] = []
        for choice in query.choices:
            body = echo_body(query.capabilities, self._settings.model, query.context + choice)
            if await self._send(query, body):
                logprob = echo_logprob(query.responses[-1].value, query.context, choice)
                logprobs += [] if logprob is None else [logprob]
        return Scores(tuple(logprobs)) if len(logprobs) == len(query.choices) else None

    async def _score_by_ids(self, query: LabelQuery) -> Scores | None:
        labels = await self._tokenize_labels(query.choices, query.context)
        context_ids: Sequence[int] = ()
        if any(len(tokens) > 1 for tokens in labels):
            context_ids = await self._session.encode(query.context) or ()
        logprobs: dict[tuple[int, ...], dict[int, float]] = {}
        for prefix, ids in next_tokens_by_prefix(labels).items():
            body = self._body(
                query,
                [*context_ids, *prefix] if prefix else query.context,
                logprobs=1,
                logprob_token_ids=ids,
                return_tokens_as_token_ids=True,
            )
            texts = await self._send(query, body)
            known = token_id_logprobs(texts[0], ids) if texts else None
            if known is None:
                return None
            logprobs[prefix] = dict(zip(ids, known, strict=True))
        return score_token_sequences(labels, logprobs)

    def _body(
        self, query: LabelQuery, prompt: str | Sequence[int] = "", **fields: Any
    ) -> dict[str, Any]:
        model = self._settings.model
        return label_body(
            prompt or query.context, query.choices, query.capabilities, model, **fields
        )

    async def _send(
        self, query: LabelQuery, body: dict[str, Any], number: str = "", max_tokens: int = 0
    ) -> list[GeneratedText]:
        """Return the texts of an answer and add it to the query; none if the context is too long.

        `number` distinguishes requests of one query with the same body.
        """
        tokens = self._session.count_tokens(query.context) + max_tokens
        call = self._session.text_call(query.capabilities, body, query.number + number)
        response = await self._session.send_text(call, query.capabilities.api, tokens)
        if isinstance(response, Response):
            query.responses.append(response)
            return parse_texts(response.value, query.capabilities.api)
        if self._must_fit:
            raise UserError(
                f"lm {self._settings.model}: a text to be labelled is longer than the server's "
                f"context: {response.message}",
                f"set lm.context to the server's context (now {self._settings.context})",
            )
        return []

    async def _tokenize_labels(self, choices: Sequence[str], context: str) -> list[list[int]]:
        """Return the tokens of each label after a context; each is requested once.

        Only the last word of the context matters.
        """
        key = (context.rpartition(" ")[2], *choices)
        if key not in self._label_tokens:
            self._label_tokens[key] = asyncio.ensure_future(self._label_suffixes(*key))
        # Shielded, because other requests wait for the same tokens.
        return await asyncio.shield(self._label_tokens[key])

    async def _label_suffixes(self, context: str, *choices: str) -> list[list[int]]:
        texts = [context + choice for choice in ("", *choices)]
        before, *both = await asyncio.gather(*map(self._session.encode, texts))
        return [list((tokens or [])[len(before or []) :]) for tokens in both]
