"""Turns a request of the port into calls, and their answers into a completion."""

import dataclasses
from collections.abc import Sequence

from ...settings import OpenAISettings
from ..port import Completion, Hypothesis, Request, Scores
from .cached_client import PromptTooLong, Response
from .capabilities import Capabilities
from .label_scorer import TOKEN_MARGIN, LabelQuery, LabelScorer
from .requests import Call, generation_body
from .responses import Line, parse_line, parse_texts
from .session import Session


class Completer:
    """Completes the requests of one output. Its methods run in the endpoint's event loop."""

    def __init__(self, settings: OpenAISettings, session: Session) -> None:
        """Send nothing yet.

        Args:
            settings: of the endpoint.
            session: sends the requests.
        """
        self._settings, self._session = settings, session
        self._labels = LabelScorer(settings, session)

    async def complete(self, request: Request) -> Completion:
        """Return the completion of a request."""
        capabilities = await self._session.capabilities()
        calls = await self.calls(request, capabilities)
        if not calls:
            return self._too_long(request, requests=0)
        if request.beams:
            return await self._complete_beams(request, capabilities, calls)
        response = await self._session.send_text(
            calls[0], capabilities.api, self._total_tokens(request)
        )
        if isinstance(response, PromptTooLong):
            return self._too_long(request, requests=1)
        text = parse_texts(response.value, capabilities.api)[0]
        line = parse_line(text, request.label_prefix)
        context = f"{request.prompt}{line.text}{request.label_prefix}"
        query = LabelQuery(context, request.choices, capabilities, str(request.number))
        scores = await self._score_label(request, line, query)
        raw = capabilities.returns_raw_logprobs(request)
        return Completion(
            number=request.number,
            text=line.text,
            finish=line.finish,
            scores=scores,
            prompt_tokens=response.usage.prompt,
            completion_tokens=response.usage.completion,
            logprob=round(text.logprob, 4) if raw and text.logprob is not None else None,
            label_tokens=total_tokens(query.responses),
            requests=1 + len(query.responses),
            usd=total_usd([response, *query.responses]),
        )

    async def calls(self, request: Request, capabilities: Capabilities) -> list[Call]:
        """Return the calls that generate a request's text: one, or for beams one per draw.

        Returns none if the request is known not to fit the context.
        """
        needed = self._total_tokens(request)
        if self._settings.tokenizer and needed > self._settings.context:
            return []
        if request.beams:
            return self._beam_calls(request, capabilities)
        label_ids = await self._labels.single_token_ids(request, capabilities)
        longest_label = max(request.choices, key=len, default="")
        label_tokens = self._session.count_tokens(request.label_prefix + longest_label)
        label_tokens += TOKEN_MARGIN
        if self._settings.tokenizer:
            label_tokens = min(label_tokens, self._settings.context - needed)
        body = generation_body(request, capabilities, self._settings.model, label_tokens, label_ids)
        number = _call_number(request, capabilities)
        return [self._session.text_call(capabilities, body, number)]

    def _beam_calls(self, request: Request, capabilities: Capabilities) -> list[Call]:
        copies = request.beams if capabilities.supports_n else 1
        calls = []
        for draw in range(request.beams // copies):
            drawn = dataclasses.replace(request, seed=request.seed + draw)
            number = _call_number(drawn, capabilities) + (f".{draw}" if draw else "")
            body = generation_body(drawn, capabilities, self._settings.model, 0, (), copies)
            calls.append(self._session.text_call(capabilities, body, number))
        return calls

    def _too_long(self, request: Request, requests: int) -> Completion:
        tokens = self._session.count_tokens(request.prompt)
        return Completion(request.number, "", "too_long", None, tokens, 0, requests=requests)

    async def _score_label(self, request: Request, line: Line, query: LabelQuery) -> Scores | None:
        """Return the label's scores, from the line's own answer if no request gives better ones."""
        if not request.choices or line.finish == "length":
            return None
        method = query.capabilities.label_method
        if (
            method in ("ids", "echo", "top_logprobs")
            and line.label_logprobs
            and query.capabilities.returns_raw_logprobs(request)
        ):
            scores = self._labels.score_top(query, line.label_logprobs)
            if method == "top_logprobs" or (scores and scores.source == "exact"):
                return scores
        return await self._labels.score(query)

    async def _complete_beams(
        self, request: Request, capabilities: Capabilities, calls: Sequence[Call]
    ) -> Completion:
        """Return the different lines among sampled texts; endpoints have no beam search."""
        draws_per_call = request.beams // len(calls)
        tokens = self._session.count_tokens(request.prompt) + request.max_tokens * draws_per_call
        sent = [await self._session.send_text(call, capabilities.api, tokens) for call in calls]
        responses = [response for response in sent if isinstance(response, Response)]
        if not responses:
            return self._too_long(request, requests=len(calls))
        raw = capabilities.returns_raw_logprobs(request)
        hypotheses: dict[str, Hypothesis] = {}
        for response in responses:
            for text in parse_texts(response.value, capabilities.api):
                line = parse_line(text, "")
                logprob = text.logprob if raw else None
                hypothesis = Hypothesis(line.text, line.finish != "length", logprob)
                hypotheses.setdefault(line.text, hypothesis)
        best = next(iter(hypotheses.values()))
        return Completion(
            number=request.number,
            text=best.text,
            finish="line" if best.finished else "length",
            scores=None,
            prompt_tokens=sum(response.usage.prompt for response in responses),
            completion_tokens=sum(response.usage.completion for response in responses),
            logprob=best.logprob,
            hypotheses=tuple(hypotheses.values()),
            requests=len(responses),
            usd=total_usd(responses),
        )

    def _total_tokens(self, request: Request) -> int:
        return self._session.count_tokens(request.prompt) + request.max_tokens


def _call_number(request: Request, capabilities: Capabilities) -> str:
    """Return what distinguishes calls of equal prompts.

    That includes the seed if the server refuses it: otherwise two draws would be one call.
    """
    seed = f".s{request.seed}" if "seed" in capabilities.refused_fields else ""
    return f"{request.number}{seed}"


def total_tokens(responses: Sequence[Response]) -> int:
    """Return the prompt and completion tokens of responses."""
    return sum(response.usage.prompt + response.usage.completion for response in responses)


def total_usd(responses: Sequence[Response]) -> float | None:
    """Return the cost of responses in dollars; None if that of any is unknown."""
    known = [response.usd for response in responses if response.usd is not None]
    return sum(known) if len(known) == len(responses) else None
