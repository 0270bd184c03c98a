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
from ..port import Completion, CostModel, LMInfo, Request, Scores
from .batch import BatchRunner
from .budget import BudgetTracker, load_price
from .cached_client import CachedClient, Response
from .capabilities import Capabilities, parse_capabilities
from .completion import Completer, total_tokens, total_usd
from .cost_model import estimate_cost
from .dispatcher import HttpDispatcher
from .event_loop import BackgroundLoop
from .label_scorer import LabelQuery, LabelScorer
from .requests import NEUTRAL_SAMPLING
from .session import Session, TokenCounter, capabilities_key

CACHE_VERSION = 1  # increased when the same answers would be parsed differently


class OpenAILM:
    """An endpoint as an `LM`."""

    def __init__(
        self,
        settings: OpenAISettings,
        budget: Budget | None = None,
        journals: Callable[[], Sequence[Path]] = list,
        replay_only: bool = False,
        callbacks: Callbacks = NO_CALLBACKS,
    ) -> None:
        """Send nothing yet.

        Args:
            settings: of the endpoint.
            budget: what the experiment may spend.
            journals: returns the journals of earlier runs, whose costs count too.
            replay_only: see `open_lm`.
            callbacks: receive warnings about servers that are busy or fail.

        Raises:
            UserError: if the API key, the price or the tokenizer is missing.
        """
        self._settings = settings
        price, version = load_price(settings.model, settings.prices)
        self._budget = BudgetTracker(price, budget, journals, replay_only=replay_only)
        self._dispatcher = HttpDispatcher(settings, self._budget, callbacks)
        self._loop = BackgroundLoop(self._dispatcher.close)
        self._endpoint = settings.endpoint or settings.urls[0]
        self._thread = ThreadPoolExecutor(1, "journal")
        self._tokens = TokenCounter(settings.tokenizer)
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
        self.info = LMInfo(
            model=settings.model,
            fingerprint=fingerprint([self._endpoint, options, CACHE_VERSION]),
            context_length=settings.context,
            block_size=1,
            count_tokens=self._tokens.count,
            details=details + (f", prices of {version}" if version else ""),
        )
        self._open_session(None)

    def _open_session(self, journal: Journal | None) -> None:
        self._journal = journal
        self._client = CachedClient(
            self._endpoint, self._dispatcher, self._budget, journal, self._thread
        )
        self._session = Session(
            self._settings,
            self._dispatcher,
            self._client,
            self._tokens,
            capabilities_key(self.info.fingerprint),
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
        if not self._budget.replay_only and (self._settings.batch or self._has_open_batches()):
            requests = list(requests)
            self._loop.submit(self._run_batches(requests)).result()
        yield from self._loop.map_ordered(self._completer.complete, requests)

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        """Return the scores of every choice after every prompt.

        Choices have equal bounds after a prompt for which the server reports none of them.

        Raises:
            UserError: if that is so for every prompt, or if one does not fit the server's context.
        """
        if not choices:
            return [Scores(()) for _ in prompts]
        labels = LabelScorer(self._settings, self._session, must_fit=True)

        async def score_prompt(prompt: str) -> tuple[Scores | None, list[Response]]:
            query = LabelQuery(prompt, choices, await self._session.capabilities())
            return await labels.score(query), query.responses

        results = list(self._loop.map_ordered(score_prompt, prompts))
        if results and not any(scores for scores, _ in results):
            names = ", ".join(choice.strip() for choice in choices)
            raise UserError(
                f"lm {self.info.model}: the server reports no probability for any of the labels "
                f"{names}",
                "use another LM",
            )
        count = len(choices)
        unknown = Scores((-math.log(count),) * count, "top_logprobs", tuple(range(count)))
        return [
            dataclasses.replace(
                scores or unknown, tokens=total_tokens(responses) or None, usd=total_usd(responses)
            )
            for scores, responses in results
        ]

    def describe(self) -> str:
        """Return in words what the server supports; the server is probed if necessary."""
        capabilities = self._loop.submit(self._session.capabilities()).result()
        method = {
            "ids": " (by token ids)",
            "echo": " (of echoed prompts)",
            "top_logprobs": f" ({capabilities.top_logprobs} a token)",
            "vote": f" of {self._settings.num_votes}",
        }.get(capabilities.label_method, "")
        refused = [name for name in capabilities.refused_fields if name not in NEUTRAL_SAMPLING]
        parts = [
            f"{self._endpoint}, {capabilities.api}, "
            f"label scores {capabilities.label_source}{method}"
        ]
        if refused:
            parts.append(f"omitted fields, since the server refuses them: {', '.join(refused)}")
        if not capabilities.raw_logprobs:
            parts.append(
                "its log-probabilities depend on temperature and top_p: "
                "labels take a separate request unless both are 1"
            )
        return "; ".join(parts)

    def cost_model(self, request: Request, journal: Journal) -> CostModel:
        """Return what a request such as this one costs; the server is not asked.

        Capabilities come from the journal; before a probe the likely ones are assumed.
        """
        key = capabilities_key(self.info.fingerprint)
        stored = journal.lookup([key]).get(key)
        capabilities = parse_capabilities(stored) if stored else None
        price = self._budget.price
        return estimate_cost(self._settings, price, capabilities, self._tokens.count, request)

    def close(self) -> None:
        """Close all connections."""
        self._loop.close()
        self._thread.shutdown()

    # Batches ---------------------------------------------------------------------------------

    def _has_open_batches(self) -> bool:
        """Return whether batches are in progress: they are paid, even if `lm.batch` is now off."""
        if self._journal is None:
            return False
        batches = [*self._journal.batches(), *self._journal.sibling_batches()]
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
        calls = []
        for request in requests:
            calls += await self._completer.calls(request, capabilities)
        runner = BatchRunner(
            self._settings,
            self._dispatcher,
            self._budget,
            self._journal,
            self._client.key,
            self._tokens.count,
        )
        await runner.run(calls)
