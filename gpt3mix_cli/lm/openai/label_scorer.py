"""Requests a label's scores separately, where the generated line does not contain them.

The methods from best to worst: token ids (one request per prefix of the labels' tokens), echo (one
request per label), OpenAI's decisions API, top log-probabilities (one request, and one more for
each beginning of labels that is more than one token), votes. `probe` finds out which of them the
server supports.

A chat cannot be asked what follows the beginning of a label. Where labels share their first token,
answers are drawn until their tokens tell these labels apart.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import UserError
from ...settings import OpenAISettings
from ..port import Request, Scores
from .cached_client import Response
from .label_scores import (
    Tops,
    likeliest_beginning,
    next_tokens_by_prefix,
    score_decision,
    score_token_sequences,
    score_top_logprobs,
    score_votes,
    tops_by_text,
)
from .requests import TOKEN_MARGIN, Call, Capabilities, decision_body, echo_body, label_body
from .responses import GeneratedText, TokenLogprobs, echo_logprob, token_id_logprobs
from .session import Session

MAX_FURTHER_REQUESTS = 4  # per label, for what follows the beginnings of labels


@dataclass(frozen=True)
class LabelQuery:
    """Which label follows a text.

    Attributes:
        context: the text up to the label.
        choices: the labels with their leading space.
        capabilities: of the server.
        number: of the request that it belongs to; empty if none.
        responses: the answers that scoring took.
        refusals: the responses to requests of it that the server refused.
    """

    context: str
    choices: Sequence[str]
    capabilities: Capabilities
    number: str = ""
    responses: list[Response] = field(default_factory=list)
    refusals: list[Response] = field(default_factory=list)

    @property
    def refusal(self) -> str:
        """The server's message about the first request that it refused; empty if none."""
        return self.refusals[0].refusal if self.refusals else ""


class LabelScorer:
    """Scores labels for one output. Its methods run in the endpoint's event loop.

    Args:
        settings: of the endpoint.
        session: sends the requests.
        must_fit: whether a context that is too long for the server is an error.
    """

    def __init__(self, settings: OpenAISettings, session: Session, must_fit: bool = False) -> None:
        self._settings, self._session, self._must_fit = settings, session, must_fit
        self._label_tokens: dict[tuple[str, ...], asyncio.Future[list[list[int]]]] = {}

    async def score(self, query: LabelQuery) -> Scores | None:
        """Return the scores of the labels; None if the server reports none."""
        score = {
            "ids": self._score_by_ids,
            "echo": self._score_by_echo,
            "decision": self._score_by_decision,
            "top_logprobs": self.score_top,
            "vote": self._score_by_votes,
        }.get(query.capabilities.label_method)
        return await score(query) if score else None

    async def score_top(
        self, query: LabelQuery, tokens: Sequence[TokenLogprobs] = ()
    ) -> Scores | None:
        """Return the scores of labels from the likeliest tokens; None if they do not tell them.

        Args:
            query: which labels, after which text.
            tokens: of a generated label, if there is one.
        """
        choices, capabilities = query.choices, query.capabilities
        tops, most = tops_by_text(tokens, choices), capabilities.most_logprobs
        if capabilities.api == "chat":
            if not tops and (texts := await self._send(query, self._body(query, logprobs=most))):
                tops = tops_by_text(texts[0].tokens, choices)
            if tops and likeliest_beginning(tops, choices, chat=True) is not None:
                return await self._score_by_drawn_tokens(query)
            return self.score_tokens(query, tops)
        # The tokens of a line have fewer log-probabilities than a request for the label gets.
        may_ask_first = not tops or most > capabilities.top_logprobs
        scores = self.score_tokens(query, tops)
        for _ in range(MAX_FURTHER_REQUESTS * len(choices)):
            if scores and scores.source == "exact":
                break
            text = likeliest_beginning(tops, choices) if tops else None
            if text is None and may_ask_first and (scores is None or scores.bounded):
                text, may_ask_first = "", False
            if text is None:
                break
            body = self._body(query, query.context + text, logprobs=most)
            if not (texts := await self._send(query, body)) or not texts[0].first_top:
                break
            tops[text] = texts[0].first_top
            scores = self.score_tokens(query, tops)
        return scores

    def score_tokens(self, query: LabelQuery, tops: Tops) -> Scores | None:
        """Return the scores of labels from the likeliest tokens; see `score_top_logprobs`."""
        return score_top_logprobs(
            tops.get("", {}),
            query.choices,
            chat=query.capabilities.api == "chat",
            merge=self._settings.label_source == "top_logprobs",
            further=tops,
        )

    async def single_token_ids(self, request: Request, capabilities: Capabilities) -> list[int]:
        """Return the labels' token ids if each label is one token; otherwise an empty list.

        The server can then score them together with the generated line.
        """
        if capabilities.label_method != "ids" or not request.choices:
            return []
        labels = await self._tokenize_labels(request.choices, request.label_prefix)
        single = all(len(tokens) == 1 for tokens in labels)
        return [tokens[0] for tokens in labels] if single else []

    async def _score_by_drawn_tokens(self, query: LabelQuery) -> Scores | None:
        """Return the scores of labels from the tokens of as many drawn answers as it takes."""
        tops: dict[str, Mapping[str, float]] = {}
        drawn: list[str] = []
        for vote in range(self._settings.num_votes):
            body = self._body(
                query,
                max_tokens=self._max_label_tokens(query),
                seed=vote,
                logprobs=query.capabilities.most_logprobs,
            )
            for text in await self._send(query, body, f".{vote}"):
                drawn.append(text.text)
                for spelled, top in tops_by_text(text.tokens, query.choices).items():
                    tops.setdefault(spelled, top)
            if tops and likeliest_beginning(tops, query.choices, chat=True) is None:
                break
        return self.score_tokens(query, tops) or score_votes(drawn, query.choices)

    async def _score_by_decision(self, query: LabelQuery) -> Scores | None:
        body = decision_body(query.context, query.choices, self._settings.model)
        response = await self._session.send(
            Call("/decisions", body, query.number),
            lambda answer: score_decision(answer, query.choices),
            self._session.tokens.count(query.context),
        )
        (query.refusals if response.refusal else query.responses).append(response)
        scores: Scores | None = response.value
        return scores

    async def _score_by_votes(self, query: LabelQuery) -> Scores | None:
        max_tokens = self._max_label_tokens(query)
        votes: list[str] = []
        for vote, copies in enumerate(query.capabilities.split_draws(self._settings.num_votes)):
            body = self._body(
                query,
                max_tokens=max_tokens,
                temperature=1.0,
                seed=vote,
                n=copies if copies > 1 else None,
            )
            texts = await self._send(query, body, f".{vote}", max_tokens * copies)
            votes += [text.text for text in texts]
        return score_votes(votes, query.choices)

    def _max_label_tokens(self, query: LabelQuery) -> int:
        return max(map(self._session.tokens.count, query.choices)) + TOKEN_MARGIN

    async def _score_by_echo(self, query: LabelQuery) -> Scores | None:
        logprobs: list[float] = []
        for choice in query.choices:
            body = echo_body(query.capabilities, self._settings.model, query.context + choice)
            if texts := await self._send(query, body):
                logprob = echo_logprob(texts[0], query.context, choice)
                logprobs += [] if logprob is None else [logprob]
        if len(logprobs) == len(query.choices):
            return Scores(tuple(logprobs))
        exact = self._settings.label_source == "exact"
        return None if exact else await self.score_top(query)

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
        return label_body(
            prompt or query.context,
            query.choices,
            query.capabilities,
            self._settings.model,
            **fields,
        )

    async def _send(
        self, query: LabelQuery, body: dict[str, Any], number: str = "", max_tokens: int = 0
    ) -> list[GeneratedText]:
        """Return the texts of an answer and add it to the query; none if the server refuses it.

        `number` distinguishes requests of one query with the same body.
        """
        tokens = self._session.tokens.count(query.context) + max_tokens
        call = self._session.text_call(query.capabilities, body, query.number + number)
        response = await self._session.send_text(call, tokens)
        if not response.refusal:
            query.responses.append(response)
            texts: list[GeneratedText] = response.value
            return texts
        query.refusals.append(response)
        if self._must_fit and response.too_long:
            raise UserError(
                f"lm {self._settings.model}: a text to be labelled is longer than the server's "
                f"context: {response.refusal}",
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
        before, *both = await asyncio.gather(
            *(self._session.encode(context + choice) for choice in ("", *choices))
        )
        return [list((tokens or [])[len(before or []) :]) for tokens in both]
