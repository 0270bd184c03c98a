"""What earlier requests to an endpoint took, from the journals of an experiment.

A journal holds each request with the tokens that the server counted. So an estimate needs neither
the server's tokenizer nor a guess of how long lines are or how many requests a label takes.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from .journal import open_reader
from .port import Request

MAX_REQUESTS = 50_000  # that are read of one journal
MAX_COUNTED = 1_000  # prompts whose tokens are counted
SELECT = (
    "SELECT key, request, requests, prompt_tokens, completion_tokens"
    " FROM answers JOIN spent USING (key) LIMIT ?"
)


@dataclass(frozen=True)
class Bill:
    """What some attempts, or labels of given texts, took in all.

    Attributes:
        units: attempts, each with its requests for a label; or labels.
        requests: sent, failed ones included.
        counted_tokens: of the units' prompts, one each, as the plan counts them.
        prompt_tokens: of all requests, as the server counts them.
        completion_tokens: written, as the server counts them.
        bytes_per_token: of the prompts.
    """

    units: int
    requests: int
    counted_tokens: float
    prompt_tokens: int
    completion_tokens: int
    bytes_per_token: float

    def take(self, units: float, counted_tokens: float) -> tuple[float, float, float]:
        """Return the requests, prompt tokens and completion tokens of further units.

        Args:
            units: how many.
            counted_tokens: of their prompts in all, as the plan counts them.
        """
        return (
            units * self.requests / self.units,
            counted_tokens * self.prompt_tokens / self.counted_tokens,
            units * self.completion_tokens / self.units,
        )

    def describe(self, unit: str) -> str:
        """Return one line for people."""
        return (
            f"{self.requests / self.units:.2g} requests a {unit}, "
            f"{self.completion_tokens / self.units:.3g} tokens written and "
            f"{self.bytes_per_token:.2g} bytes a token, as {self.units:,} earlier ones took"
        )


@dataclass(frozen=True)
class _Call:
    number: str
    prompt: str  # empty if it is a list of token ids
    has_copies: bool
    requests: int
    prompt_tokens: int
    completion_tokens: int
    num_bytes: int

    @property
    def attempt(self) -> str:
        return self.number.partition(".")[0]

    @property
    def head(self) -> str:
        """The prompt without its last line: the header and the examples."""
        return self.prompt.rpartition("\n")[0]

    @property
    def last_line(self) -> str:
        return self.prompt.rpartition("\n")[2]


def bill_attempts(
    journals: Sequence[Path], model: str, request: Request, count: Callable[[str], int]
) -> Bill | None:
    """Return what the attempts in some journals took, with their labels; None if there are none.

    Requests that belong to no attempt are left out: the probe, labels of real rows.

    Args:
        journals: of synthetic sets.
        model: as the server calls it.
        request: an attempt. Others count if they ask for the same kind of line.
        count: returns the number of tokens in a prompt.
    """
    calls = list(_read(journals, model))
    ending = "\n" + request.prompt.rpartition("\n")[2]
    own = [
        call
        for call in calls
        if call.prompt.endswith(ending)
        and call.attempt.isdigit()
        and call.has_copies == bool(request.beams)
    ]
    prompts = list({(call.attempt, call.prompt): call.prompt for call in own}.values())
    heads, numbers = {call.head for call in own}, {call.attempt for call in own}
    labels = [
        call
        for call in calls
        if not call.prompt.endswith(ending)
        and (call.head in heads if call.prompt else call.attempt in numbers)
    ]
    return _sum(prompts, [*own, *labels], count)


def bill_labels(
    journals: Sequence[Path], model: str, request: Request, count: Callable[[str], int]
) -> Bill | None:
    """Return what the labels of given texts took; None if there are none. See `bill_attempts`."""
    calls = [call for call in _read(journals, model) if request.label_prefix in call.last_line]
    ends = [call.prompt.rindex(request.label_prefix) for call in calls]
    size = len(request.label_prefix)
    pairs = zip(calls, ends, strict=True)
    prompts = list(dict.fromkeys(call.prompt[: end + size] for call, end in pairs))
    return _sum(prompts, calls, count)


def _sum(
    prompts: Sequence[str], calls: Sequence[_Call], count: Callable[[str], int]
) -> Bill | None:
    counted = [count(prompt) for prompt in prompts[:: len(prompts) // MAX_COUNTED + 1]]
    read = sum(call.prompt_tokens for call in calls)
    if not counted or not read or not any(counted):
        return None
    spelled = [call for call in calls if call.prompt]
    return Bill(
        units=len(prompts),
        requests=sum(call.requests for call in calls),
        counted_tokens=fmean(counted) * len(prompts),
        prompt_tokens=read,
        completion_tokens=sum(call.completion_tokens for call in calls),
        bytes_per_token=sum(call.num_bytes for call in spelled)
        / max(1, sum(call.prompt_tokens for call in spelled)),
    )


def _read(journals: Iterable[Path], model: str) -> Iterator[_Call]:
    keys = set[str]()
    for path in journals:
        with suppress(sqlite3.Error), closing(open_reader(path, short_lived=True)) as database:
            for key, text, *spent in database.execute(SELECT, [MAX_REQUESTS]):
                if key not in keys and (call := _parse(text, model, spent)):
                    keys.add(key)
                    yield call


def _parse(text: str, model: str, spent: Sequence[int]) -> _Call | None:
    with suppress(ValueError, TypeError, KeyError, AttributeError, IndexError):
        body: dict[str, Any] = json.loads(text)
        if body["model"] != model or body["number"] == "probe":
            return None
        messages = body.get("messages") or ()
        prompt = messages[-1]["content"] if messages else body.get("prompt", body.get("input"))
        prompt, number = prompt if isinstance(prompt, str) else "", body["number"]
        texts = [message["content"] for message in messages] or [prompt]
        # A draw of a beam search that the server answers on its own has a number such as `3.1`.
        _, dot, draw = number.partition(".")
        has_copies = "n" in body or bool(dot and draw.isdigit())
        num_bytes = sum(len(text.encode()) for text in texts)
        requests, read, written = spent
        return _Call(number, prompt, has_copies, requests, read, written, num_bytes)
    return None
