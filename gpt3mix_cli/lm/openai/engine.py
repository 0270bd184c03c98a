"""Any endpoint that speaks OpenAI's protocol: how a request becomes calls, and their answers a completion.

The line is asked for to its end, so that the label's distribution comes with it: one call a row wherever the server tells
log-probabilities and the LM keeps to the form. Otherwise the label is asked for by itself, in the best way that `probe` has
found. All that comes is in the journal before it is read; `protocol` reads it. Limits: beams are texts drawn one by one,
since no endpoint searches; a server's tokenizer may cut a text anew where a label is asked for by itself.
"""

import asyncio
import copy
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ...errors import NO_CALLBACKS, Callbacks, UserError
from ...pretrained import lm_path, load_pretrained
from ...settings import Budget, OpenAISettings, fingerprint
from ..journal import Journal
from ..port import Completion, CostModel, Hypothesis, LMInfo, Request, Scores
from .batch import Batches
from .budget import BudgetTracker, price_of
from .cached_client import Answer, CachedClient, TooLong
from .cost_model import cost_model
from .dispatcher import HttpDispatcher, Refused
from .event_loop import Loop
from .label_scores import TOKEN_MARGIN, Labels
from .probe import SOURCES, Probe, from_json, path
from .protocol import (  # fmt: skip
    PLAIN,
    Call,
    Capabilities,
    Line,
    Usage,
    label_scores,
    line,
    texts,
    writing,
)

CACHE_VERSION = 1  # raised when the same answers would be read otherwise
BYTES_A_TOKEN = 4.0  # of English, where no tokenizer is known; right within a quarter


class OpenAILM:
    """The engine; see `lm.LM`."""

    def __init__(
        self,
        settings: OpenAISettings,
        budget: Budget | None = None,
        journals: Callable[[], Sequence[Path]] = list,
        replay_only: bool = False,
        callbacks: Callbacks = NO_CALLBACKS,
    ) -> None:
        """Connect to nothing yet.

        Args:
            settings: of the endpoint.
            budget: what may be spent.
            journals: names the files that hold what was spent before.
            replay_only: see `open_lm`.
            callbacks: take servers that are busy or fail.

        Raises:
            UserError: if the key, the price or the tokenizer is missing.
        """
        self._settings = settings
        price, version = price_of(settings.model, settings.prices)
        self._purse = BudgetTracker(price, budget, journals, closed=replay_only)
        self._traffic = HttpDispatcher(settings, self._purse, callbacks)
        self._loop = Loop(self._traffic.close)
        self._endpoint = settings.endpoint or settings.urls[0]
        self._thread = ThreadPoolExecutor(1, "journal")
        self._exchange = CachedClient(
            self._endpoint, self._traffic, self._purse, None, self._thread
        )
        self._journal: Journal | None = None
        self._probed: list[Capabilities] = []  # shared by all outputs: the server is probed once
        self._probing: asyncio.Task[Capabilities] | None = None
        self._labels = self._asking()
        asked = settings.model_dump(include={"model", "api", "label_source", "num_votes", "extra"})
        self.info = LMInfo(
            model=settings.model,
            fingerprint=fingerprint([self._endpoint, asked, CACHE_VERSION]),
            context_length=settings.context,
            block_size=1,
            count_tokens=self._count,
            details=f"{self._endpoint}, api {settings.api}, label_source {settings.label_source}"
            + (f", prices of {version}" if version else ""),
        )

    def with_journal(self, journal: Journal) -> "OpenAILM":
        """Return the same endpoint for another output: connections, levels and purse are shared."""
        self._purse.recount()
        other = copy.copy(self)
        other._journal, other._probing = journal, None
        other._exchange = CachedClient(
            self._endpoint, self._traffic, self._purse, journal, self._thread
        )
        other._labels = other._asking()
        return other

    def _asking(self) -> Labels:
        return Labels(self._settings, self._ask, self._told, self._encode, self._count)

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield the answers in the order of the requests; a thousand of them are begun before the first is waited for.

        Raises:
            StoppedShort: where they come by batch, until the batch has ended.
        """
        if not self._purse.closed and (self._settings.batch or self._waits_for_batches()):
            requests = list(requests)
            self._loop.submit(self._batched(requests)).result()
        yield from self._loop.in_order(requests, self._complete)

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        """Return the scores of every choice after every prompt; equal bounds where the server tells nothing of any.

        Raises:
            UserError: if it does so after every prompt, or if one does not fit the server's context.
        """
        if not choices:
            return [Scores(()) for _ in prompts]

        async def one(prompt: str) -> tuple[Scores | None, list[Answer]]:
            return await labels.scores(prompt, choices, await self._ways(), "")

        labels = Labels(self._settings, self._fitting, self._told, self._encode, self._count)
        found = list(self._loop.in_order(prompts, one))
        if found and not any(scores for scores, _ in found):
            raise UserError(
                f"lm {self.info.model}: none of the labels {', '.join(choices)} is among what the server tells",
                "use another LM",
            )
        unknown = Scores(
            (-math.log(len(choices)),) * len(choices), "top_logprobs", tuple(range(len(choices)))
        )
        return [
            dataclasses.replace(scores or unknown, tokens=_tokens(paid) or None, usd=_sum(paid))
            for scores, paid in found
        ]

    def describe(self) -> str:
        """Return how the server is asked, by asking it."""
        ways = self._loop.submit(self._ways()).result()
        how = {
            "ids": " (by token ids)",
            "echo": " (of echoed prompts)",
            "top_logprobs": f" ({ways.top} a token)",
            "vote": f" of {self._settings.num_votes}",
        }
        left_out = [name for name in ways.refused if name not in PLAIN]
        dropped = f"; left out, since refused: {', '.join(left_out)}" if left_out else ""
        apart = (
            ""
            if ways.raw
            else "; its log-probabilities follow temperature and top_p: labels are asked for apart unless both are 1"
        )
        return f"{self._endpoint}, {ways.api}, label scores {SOURCES[ways.labels]}{how.get(ways.labels, '')}{dropped}{apart}"

    def cost_model(self, request: Request, journal: Journal) -> CostModel:
        """Return what an attempt takes, by the ways that the journal holds or, before any probe, by those that are likely."""
        kept = journal.lookup([self._ways_key]).get(self._ways_key)
        ways = None if kept is None else from_json(json.loads(kept))
        return cost_model(self._settings, self._purse.price, ways, self._count, request)

    def close(self) -> None:
        """Close all connections."""
        self._loop.close()
        self._thread.shutdown()

    # One request -----------------------------------------------------------------------------------------------------

    def _waits_for_batches(self) -> bool:
        """Return whether there are batches under way: they are paid for, whether further ones are wanted or not."""
        return self._journal is not None and any(
            not batch.ended
            for batch in (*self._journal.batches(), *self._journal.sibling_batches())
        )

    async def _batched(self, requests: Sequence[Request]) -> None:
        """Have the first round's lines answered by batch. What rejects leave missing is asked for directly: each further batch takes a day."""
        if self._journal is None:
            raise UserError(
                "lm.batch: what a batch answers comes hours later, and nothing keeps its name",
                "name an output file",
            )
        if requests and requests[0].number == 0:
            ways = await self._ways()
            calls = [call for request in requests for call in await self._calls(request, ways)]
            await Batches(
                self._settings,
                self._traffic,
                self._purse,
                self._journal,
                self._exchange.key,
                self._count,
            ).settle(calls)

    async def _calls(self, request: Request, ways: Capabilities) -> list[Call]:
        """Return what asks for a request's text: one call, or for beams one a draw; none if it is known not to fit the context."""
        needed = self._count(request.prompt) + request.max_tokens
        if self._settings.tokenizer and needed > self.info.context_length:
            return []
        if request.beams:
            return self._draws(request, ways)
        label_ids = await self._labels.single_ids(request, ways)
        room = (
            self._count(request.label_prefix + max(request.choices, key=len, default=""))
            + TOKEN_MARGIN
        )
        if self._settings.tokenizer:
            room = min(room, self.info.context_length - needed)
        return [
            self._call(
                ways,
                writing(request, ways, self._settings.model, room, label_ids),
                _number(request, ways),
            )
        ]

    async def _complete(self, request: Request) -> Completion:
        ways = await self._ways()
        calls = await self._calls(request, ways)
        if not calls:
            return self._too_long(request, requests=0)
        if request.beams:
            return await self._drawn(request, ways, calls)
        answer = await self._told(
            calls[0],
            functools.partial(texts, api=ways.api),
            self._count(request.prompt) + request.max_tokens,
        )
        if isinstance(answer, TooLong):
            return self._too_long(request, requests=1)
        written = texts(answer.value, ways.api)[0]
        found = line(written, request.label_prefix)
        scores, paid = await self._scored(request, found, ways)
        return Completion(
            number=request.number,
            text=found.text,
            finish=found.finish,
            scores=scores,
            prompt_tokens=answer.usage.prompt,
            completion_tokens=answer.usage.completion,
            logprob=round(written.logprob, 4)
            if written.logprob is not None and ways.tells_raw(request)
            else None,
            label_tokens=_tokens(paid),
            requests=1 + len(paid),
            usd=_sum([answer, *paid]),
        )

    def _too_long(self, request: Request, requests: int) -> Completion:
        return Completion(
            request.number, "", "too_long", None, self._count(request.prompt), 0, requests=requests
        )

    async def _scored(
        self, request: Request, found: Line, ways: Capabilities
    ) -> tuple[Scores | None, list[Answer]]:
        """Return the label's scores, from the line's own answer where they are as good as any."""
        if not request.choices or found.finish == "length":
            return None, []
        if (
            ways.labels in ("ids", "echo", "top_logprobs")
            and found.label
            and ways.tells_raw(request)
        ):
            merge = self._settings.label_source == "top_logprobs"
            scores = label_scores(
                found.label, request.choices, chat=ways.api == "chat", merge=merge
            )
            if ways.labels == "top_logprobs" or (scores and scores.source == "exact"):
                return scores, []
        return await self._labels.scores(
            f"{request.prompt}{found.text}{request.label_prefix}",
            request.choices,
            ways,
            str(request.number),
        )

    def _draws(self, request: Request, ways: Capabilities) -> list[Call]:
        copies = request.beams if ways.many else 1
        calls = []
        for copy_ in range(request.beams // copies):
            again = dataclasses.replace(request, seed=request.seed + copy_)
            number = f"{_number(again, ways)}.{copy_}" if copy_ else _number(again, ways)
            calls.append(
                self._call(ways, writing(again, ways, self._settings.model, 0, (), copies), number)
            )
        return calls

    async def _drawn(
        self, request: Request, ways: Capabilities, calls: Sequence[Call]
    ) -> Completion:
        """Return the lines of a request for beams: texts that were drawn, each different one once."""
        tokens = self._count(request.prompt) + request.max_tokens * (request.beams // len(calls))
        answers = [
            await self._told(call, functools.partial(texts, api=ways.api), tokens) for call in calls
        ]
        good = [answer for answer in answers if isinstance(answer, Answer)]
        if not good:
            return self._too_long(request, requests=len(answers))
        lines: dict[str, Hypothesis] = {}
        for answer in good:
            for text in texts(answer.value, ways.api):
                one = line(text, "")
                lines.setdefault(
                    one.text,
                    Hypothesis(
                        one.text,
                        one.finish != "length",
                        text.logprob if ways.tells_raw(request) else None,
                    ),
                )
        found = tuple(lines.values())
        return Completion(
            number=request.number,
            text=found[0].text,
            finish="line" if found[0].finished else "length",
            scores=None,
            prompt_tokens=sum(answer.usage.prompt for answer in good),
            completion_tokens=sum(answer.usage.completion for answer in good),
            logprob=found[0].logprob,
            hypotheses=found,
            requests=len(good),
            usd=_sum(good),
        )

    # Tokens ----------------------------------------------------------------------------------------------------------

    async def _encode(self, text: str) -> Sequence[int] | None:
        """Return the tokens of a text, by the user's tokenizer or the server's; None if neither is there."""
        if self._settings.tokenizer:
            found: list[int] = self._tokenizer(text)["input_ids"]
            return found
        try:
            answer = await self._exchange.ask(
                Call("//tokenize", {"model": self._settings.model, "prompt": text}), _has_tokens
            )
        except Refused:
            return None
        tokens: list[int] | None = answer.value["tokens"] if isinstance(answer, Answer) else None
        return tokens

    def _count(self, text: str) -> int:
        if self._settings.tokenizer:
            return len(self._tokenizer(text)["input_ids"])
        return round(len(text.encode()) / BYTES_A_TOKEN)

    @functools.cached_property
    def _tokenizer(self) -> Any:
        name = self._settings.tokenizer
        return load_pretrained(
            "AutoTokenizer",
            lm_path(name),
            f"lm.tokenizer {name}: cannot be loaded",
            "give `bundled`, a folder, or a hub id that can be reached",
        )

    # Asking ----------------------------------------------------------------------------------------------------------

    async def _ask(
        self, ways: Capabilities, asked: dict[str, Any], number: str, tokens: int
    ) -> Answer | TooLong:
        return await self._told(
            self._call(ways, asked, number), functools.partial(texts, api=ways.api), tokens
        )

    async def _fitting(
        self, ways: Capabilities, asked: dict[str, Any], number: str, tokens: int
    ) -> Answer:
        """Ask for what must fit the server's context."""
        answer = await self._ask(ways, asked, number, tokens)
        if isinstance(answer, TooLong):
            message = f"lm {self.info.model}: a text to be labelled is longer than the server's context: {answer.words}"
            raise UserError(
                message, f"set lm.context to what the server has; it says {self._settings.context}"
            )
        return answer

    def _call(self, ways: Capabilities, asked: dict[str, Any], number: str) -> Call:
        return Call(path(ways), asked | self._settings.extra, number)

    async def _told(
        self, call: Call, sound: Callable[[Any], object], tokens: int
    ) -> Answer | TooLong:
        try:
            return await self._exchange.ask(call, sound, tokens)
        except Refused as error:
            message = f"lm {self.info.model} at {', '.join(self._settings.urls)}: HTTP {error.status}: {error.words}"
            self._traffic.stop(
                UserError(message, "see the server's words; `gpt3mix check` probes what it takes")
            )

    async def _post(self, call: Call, sound: Callable[[Any], object]) -> Any:
        """Ask for the probe."""
        answer = await self._exchange.ask(dataclasses.replace(call, number="probe"), sound)
        if isinstance(answer, TooLong):
            raise Refused(400, answer.words)
        return answer.value

    async def _ways(self) -> Capabilities:
        if self._probing is None:
            self._probing = asyncio.create_task(self._look())
        return await asyncio.shield(self._probing)

    async def _look(self) -> Capabilities:
        """Return the ways that this output's journal holds, or those that are found now: a resumed run asks as it did before."""
        key = self._ways_key
        if (kept := self._exchange.known(key)) is not None:
            return from_json(json.loads(kept))
        if not self._probed:
            self._probed.append(await Probe(self._settings, self._post, self._encode).ways())
        await self._exchange.keep(
            key,
            "",
            json.dumps({"probe": self._endpoint}),
            json.dumps(dataclasses.asdict(self._probed[0])),
            (0, Usage(), None),
        )
        return self._probed[0]

    @property
    def _ways_key(self) -> str:
        """Under which key journals hold how the server is asked."""
        return fingerprint(["openai", "ways", self.info.fingerprint], 32)


def _number(request: Request, ways: Capabilities) -> str:
    """Return what tells a request from one of an equal prompt: its seed too where the server takes none."""
    return f"{request.number}.s{request.seed}" if "seed" in ways.refused else str(request.number)


def _has_tokens(value: Any) -> None:
    # There are servers that answer any path, with something else; asking again would not help.
    if not (isinstance(value, dict) and isinstance(value.get("tokens"), list)):
        raise Refused(404, "no tokens")


def _tokens(answers: Sequence[Answer]) -> int:
    return sum(answer.usage.prompt + answer.usage.completion for answer in answers)


def _sum(answers: Sequence[Answer]) -> float | None:
    known = [answer.usd for answer in answers if answer.usd is not None]
    return sum(known) if len(known) == len(answers) else None
