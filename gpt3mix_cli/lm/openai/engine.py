"""A language model behind any endpoint that speaks OpenAI's protocol.

The line is generated to its end, so that the label's distribution comes with it. That is one
request per row wherever the server reports log-probabilities and the line has the expected form.
Otherwise the label needs separate requests, by the best method that `probe` has found. Every
answer is committed to the journal before it is parsed.

Limits: beams are sampled texts, because endpoints have no beam search. If a label is requested
separately, the server may tokenise the line differently from how it was generated.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ...errors import NO_CALLBACKS, Callbacks, UserError
from ...settings import Budget, OpenAISettings, fingerprint
from ..journal import Journal
from ..port import Completion, CostModel, Hypothesis, LMInfo, Request, Scores
from .batch import BatchRunner
from .budget import BudgetTracker, estimate_cost, load_price
from .cached_client import CachedClient, Response, TokenCounter, WarnOnce, total_tokens, total_usd
from .dispatcher import HttpDispatcher
from .event_loop import BackgroundLoop
from .label_scorer import LabelQuery, LabelScorer
from .requests import (
    TOKEN_MARGIN,
    Call,
    Capabilities,
    describe_capabilities,
    generation_body,
    parse_capabilities,
)
from .responses import GeneratedText, Line, parse_line
from .session import Session, capabilities_key

CACHE_VERSION = 1  # increased when the same answers would be parsed differently


class OpenAILM:
    """An endpoint as an `LM`; nothing is sent before it is needed.

    Args:
        settings: of the endpoint.
        budget: what the experiment may spend.
        journals: returns the journals of earlier runs, whose costs count too.
        replay_only: see `open_lm`.
        callbacks: receive warnings about servers that are busy or fail.

    Raises:
        UserError: if the API key, the price or the tokenizer is missing.
    """

    def __init__(
        self,
        settings: OpenAISettings,
        budget: Budget | None = None,
        journals: Callable[[], Sequence[Path]] = list,
        replay_only: bool = False,
        callbacks: Callbacks = NO_CALLBACKS,
    ) -> None:
        self._settings = settings
        price, version = load_price(settings.model, settings.prices)
        self._budget = BudgetTracker(price, budget, journals, replay_only=replay_only)
        self._dispatcher = HttpDispatcher(settings, self._budget, callbacks)
        self._loop = BackgroundLoop(self._dispatcher.close)
        self._endpoint = settings.endpoint or settings.urls[0]
        self._thread = ThreadPoolExecutor(1, "journal")
        self._tokens, self._warn = TokenCounter(settings.tokenizer), WarnOnce(callbacks.warn)
        self._probed: list[Capabilities] = []
        details = f"{self._endpoint}, api {settings.api}, label_source {settings.label_source}"
        # The names in here are part of the fingerprint, so they outlive renamed settings.
        options = {
            "model": settings.model,
            "api": settings.api,
            "label_source": settings.label_source,
            "votes": settings.num_votes,
            "extra": settings.extra,
        }
        self._info = LMInfo(
            model=settings.model,
            fingerprint=fingerprint([self._endpoint, options, CACHE_VERSION]),
            context_length=settings.context,
            block_size=1,
            count_tokens=self._tokens.count,
            details=details + (f", prices of {version}" if version else ""),
        )
        self._open_session(None)

    @property
    def info(self) -> LMInfo:
        """What is known about the LM; once the server was probed, with its own context."""
        limit = self._session.context or self._info.context_length
        shortest = min(limit, self._info.context_length)
        return dataclasses.replace(self._info, context_length=shortest)

    def _open_session(self, journal: Journal | None) -> None:
        self._journal = journal
        thread, tokens, warn = self._thread, self._tokens, self._warn
        self._client = CachedClient(
            self._endpoint, self._dispatcher, self._budget, journal, thread, tokens, warn
        )
        self._session = Session(
            self._settings,
            self._dispatcher,
            self._client,
            self._tokens,
            capabilities_key(self._info.fingerprint),
            self._probed,
        )
        self._completer = Completer(self._settings, self._session)

    def with_journal(self, journal: Journal) -> "OpenAILM":
        """Return the same endpoint for another output; connections and budget are shared."""
        self._budget.reload()
        other = copy.copy(self)
        other._open_session(journal)
        return other

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield the completions in the order of the requests, of which many are in flight.

        Raises:
            StoppedShort: if requests wait for a batch at the provider.
        """
        # Before the first request is made: its prompt depends on the server's context.
        self._loop.submit(self._session.capabilities()).result()
        if not self._budget.replay_only and (self._settings.batch or self._has_open_batches()):
            requests = list(requests)
            self._loop.submit(self._run_batches(requests)).result()
        yield from self._loop.map_ordered(self._completer.complete, requests)

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        """Return the scores of every choice after every prompt.

        Choices have equal bounds after a prompt for which the server reports none of them.

        Raises:
            UserError: if a prompt does not fit the server's context, or the server refuses all.
        """
        if not choices:
            return [Scores(()) for _ in prompts]
        labels = LabelScorer(self._settings, self._session, must_fit=True)

        async def score_prompt(prompt: str) -> tuple[Scores | None, list[Response], str]:
            query = LabelQuery(prompt, choices, await self._session.capabilities())
            scores = await labels.score(query)
            refusal = "" if scores else query.refusal
            responses = [*query.responses, *query.refusals]
            self._session.record_outcome(refusal, responses)
            return scores, responses, refusal

        results = list(self._loop.map_ordered(score_prompt, prompts))
        if results and not self._session.has_accepted:
            total = len(results)
            raise self._session.refusal_error(f"{total} of {total}", results[-1][2])
        count = len(choices)
        unknown = Scores((-math.log(count),) * count, "top_logprobs", tuple(range(count)))
        return [
            dataclasses.replace(
                scores or unknown,
                tokens=total_tokens(responses) or None,
                usd=total_usd(responses),
                requests=len(responses),
            )
            for scores, responses, _ in results
        ]

    def describe(self) -> str:
        """Return in words what the server supports; the server is probed if necessary."""
        capabilities = self._loop.submit(self._session.capabilities()).result()
        text = f"{self._endpoint}, {describe_capabilities(capabilities, self._settings)}"
        if self._client.estimates_usage:
            text += "; tokens are estimated, since the server does not report them"
        return text

    def cost_model(self, request: Request, journal: Journal) -> CostModel:
        """Return what a request such as this one costs; the server is not asked.

        Capabilities come from the journal; before a probe the likely ones are assumed.
        """
        key = capabilities_key(self._info.fingerprint)
        stored = parse_capabilities(journal.lookup([key]).get(key, ""))
        capabilities = stored or (self._probed[0] if self._probed else None)
        return estimate_cost(
            self._settings, self._budget.price, capabilities, self._tokens.count, request
        )

    def close(self) -> None:
        """Close all connections."""
        self._loop.close()
        self._thread.shutdown()

    # Batches ---------------------------------------------------------------------------------

    def _has_open_batches(self) -> bool:
        journal = self._journal
        batches = [*journal.batches(), *journal.sibling_batches()] if journal else []
        return not all(batch.ended for batch in batches)

    async def _run_batches(self, requests: Sequence[Request]) -> None:
        """Have the first round answered by batch.

        Requests that replace rejected rows are sent directly: each further batch takes a day.
        """
        if self._journal is None:
            raise UserError(
                "lm.batch needs an output file, to remember the batch id between runs",
                "name an output file",
            )
        if not requests or requests[0].number:
            return
        capabilities = await self._session.capabilities()
        runner = BatchRunner(
            self._settings,
            self._dispatcher,
            self._budget,
            self._journal,
            self._client.key,
            self._tokens.count,
        )
        await runner.run(
            [
                call
                for request in requests
                for call in await self._completer.calls(request, capabilities)
            ]
        )


class Completer:
    """Completes the requests of one output. Its methods run in the endpoint's event loop.

    Args:
        settings: of the endpoint.
        session: sends the requests.
    """

    def __init__(self, settings: OpenAISettings, session: Session) -> None:
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
        response = await self._session.send_text(calls[0], self._total_tokens(request))
        texts: list[GeneratedText] = response.value or []
        if response.refusal:
            return self._refused(request, [response], texts)
        text = texts[0]
        line = parse_line(text, request.label_prefix, chat=capabilities.api == "chat")
        context = f"{request.prompt}{line.text}{request.label_prefix}"
        query = LabelQuery(context, request.choices, capabilities, str(request.number))
        scores = await self._score_label(request, line, query)
        refusal = "" if scores else query.refusal
        label_responses = [*query.responses, *query.refusals]
        self._session.record_outcome(refusal, [response, *label_responses])
        raw = capabilities.returns_raw_logprobs(request)
        return Completion(
            number=request.number,
            text=line.text,
            finish="refused" if refusal else line.finish,
            scores=scores,
            prompt_tokens=response.usage.prompt,
            completion_tokens=response.usage.completion,
            logprob=round(text.logprob, 4) if raw and text.logprob is not None else None,
            label_tokens=total_tokens(label_responses),
            requests=1 + len(label_responses),
            usd=total_usd([response, *label_responses]),
            detail=refusal,
        )

    async def calls(self, request: Request, capabilities: Capabilities) -> list[Call]:
        """Return the calls that generate a request's text: one, or for beams one per draw.

        Returns none if the request is known not to fit the context.
        """
        needed, context = self._total_tokens(request), self._settings.context
        context = min(capabilities.context or context, context)
        if self._settings.tokenizer and needed > context:
            return []
        if request.beams:
            return self._beam_calls(request, capabilities)
        label_ids = await self._labels.single_token_ids(request, capabilities)
        label = request.label_prefix + max(request.choices, key=len, default="")
        label_tokens = self._session.tokens.count(label) + TOKEN_MARGIN
        if self._settings.tokenizer:
            label_tokens = min(label_tokens, context - needed)
        body = generation_body(request, capabilities, self._settings.model, label_tokens, label_ids)
        return [self._session.text_call(capabilities, body, _call_number(request, capabilities))]

    def _beam_calls(self, request: Request, capabilities: Capabilities) -> list[Call]:
        calls = []
        for draw, copies in enumerate(capabilities.split_draws(request.beams)):
            drawn = dataclasses.replace(request, seed=request.seed + draw)
            number = _call_number(drawn, capabilities) + (f".{draw}" if draw else "")
            body = generation_body(drawn, capabilities, self._settings.model, 0, (), copies)
            calls.append(self._session.text_call(capabilities, body, number))
        return calls

    def _too_long(self, request: Request, requests: int) -> Completion:
        prompt_tokens = self._session.tokens.count(request.prompt)
        return Completion(request.number, "", "too_long", None, prompt_tokens, 0, requests=requests)

    def _refused(
        self, request: Request, responses: Sequence[Response], texts: Sequence[GeneratedText]
    ) -> Completion:
        """Return the completion of a prompt that was refused, or whose text must not be used."""
        if responses[0].too_long:
            return self._too_long(request, len(responses))
        refused = GeneratedText("", finished=False, blocked=responses[0].refusal)
        text = texts[0] if texts else refused
        self._session.record_outcome(text.blocked, responses)
        return Completion(
            number=request.number,
            text=text.text,
            finish="reasoning" if text.only_reasoning else "refused",
            scores=None,
            prompt_tokens=sum(response.usage.prompt for response in responses),
            completion_tokens=sum(response.usage.completion for response in responses),
            requests=len(responses),
            usd=total_usd(responses),
            detail=text.blocked,
        )

    async def _score_label(self, request: Request, line: Line, query: LabelQuery) -> Scores | None:
        # A chat's answer may have no line: a greeting before a list that was cut off.
        has_line = query.capabilities.api == "completions" or line.text.strip()
        if not request.choices or line.finish == "length" or not has_line:
            return None
        method = query.capabilities.label_method
        if (
            method in ("ids", "echo", "top_logprobs")
            and line.label_logprobs
            and query.capabilities.returns_raw_logprobs(request)
        ):
            if method == "top_logprobs":
                return await self._labels.score_top(query, line.label_tokens)
            scores = self._labels.score_tokens(query, {"": line.label_logprobs})
            if scores and scores.source == "exact":
                return scores
        return await self._labels.score(query)

    async def _complete_beams(
        self, request: Request, capabilities: Capabilities, calls: Sequence[Call]
    ) -> Completion:
        draws_per_call = math.ceil(request.beams / len(calls))
        tokens = self._session.tokens.count(request.prompt) + request.max_tokens * draws_per_call
        sent = [await self._session.send_text(call, tokens) for call in calls]
        responses = [response for response in sent if not response.refusal]
        texts: list[GeneratedText] = [text for response in responses for text in response.value]
        usable = [text for text in texts if not text.blocked]
        if not usable:
            return self._refused(request, responses or sent, texts)
        self._session.record_outcome("", responses)
        raw = capabilities.returns_raw_logprobs(request)
        hypotheses: dict[str, Hypothesis] = {}
        for text in usable:
            line = parse_line(text, "", chat=capabilities.api == "chat")
            hypotheses.setdefault(
                line.text,
                Hypothesis(line.text, line.finish != "length", text.logprob if raw else None),
            )
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
        return self._session.tokens.count(request.prompt) + request.max_tokens


def _call_number(request: Request, capabilities: Capabilities) -> str:
    """Return what distinguishes calls of equal prompts.

    That includes the seed if the server refuses it: otherwise two draws would be one call.
    """
    refused = "seed" in capabilities.refused_fields
    return f"{request.number}.s{request.seed}" if refused else str(request.number)
