"""An LM whose answers are looked up in a journal first and stored there before anyone sees them.

The key of an answer hashes the LM's fingerprint and the whole request (prompt, parameters, seed,
number), so changed settings never meet old answers.
"""

import contextlib
import functools
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from ..errors import NO_CALLBACKS
from ..settings import fingerprint
from ..stopping import is_stop_requested, stop_if_requested
from .journal import AnswerRow, Journal
from .port import (
    LM,
    Completion,
    JournalAware,
    LMInfo,
    ParallelLM,
    Request,
    Scores,
    split_into_blocks,
)

Answer = TypeVar("Answer", Completion, Scores)


@functools.cache
def _parser(kind: type[Answer]) -> TypeAdapter[Answer]:
    # It checks the type of every field: a journal may have been edited or damaged.
    return TypeAdapter(kind)


class JournaledLM:
    """An LM with a journal; only answers that the journal lacks are computed.

    Args:
        lm: computes what neither this journal nor a sibling holds.
        path: of the journal, which is opened or created.
        siblings: see `Journal`.
        warn: see `Journal`.

    Raises:
        UserError: if the file cannot be written or is not a journal.
    """

    def __init__(
        self,
        lm: LM,
        path: Path,
        siblings: Sequence[Path] = (),
        warn: Callable[[str], None] = NO_CALLBACKS.warn,
    ) -> None:
        self._journal = Journal(path, siblings, warn)
        # An endpoint stores the server's answers as they are, so that parsing them in another way
        # later sends nothing.
        self._raw = lm.with_journal(self._journal) if isinstance(lm, JournalAware) else None
        self._lm = self._raw or lm

    @property
    def info(self) -> LMInfo:
        """What is known about the LM before the first request."""
        return self._lm.info

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield the answers; a block with an answer missing is computed whole.

        The last digits of a local LM's answer depend on its block, so a part would not be the same.
        """
        if self._raw:
            yield from self._raw.complete(requests)
            return
        runner, stopped = _BlockRunner(self._lm), False
        # In order, up to the last one that has begun: several are computed at the same time.
        begun: deque[_Block] = deque()
        try:
            for block in map(self._look_up, split_into_blocks(requests, self.info.block_size)):
                if block.answers is None:
                    if stopped := is_stop_requested():
                        break
                    block.answers = runner.start(block.requests)
                begun.append(block)
                if len(begun) >= runner.parallel_blocks:
                    yield from self._finish(begun.popleft())
            while begun:
                yield from self._finish(begun.popleft())
        except (Exception, GeneratorExit):
            for block in begun:  # they cost time, and the next run needs them
                with contextlib.suppress(Exception):
                    self._finish(block)
            raise
        finally:
            runner.close()
        if stopped:
            stop_if_requested()

    def _look_up(self, requests: Sequence[Request]) -> "_Block":
        """Return a block, with its answers if the journal has all of them."""
        asked = [_request_fields(request) for request in requests]
        block = _Block(requests, asked, list(map(self._key, asked)))
        stored = self._journal.read(block.keys, _parse_completion, all_or_none=True)
        if len(stored) == len(block.keys) and all(
            _fits(stored[key], request) for key, request in zip(block.keys, requests, strict=True)
        ):
            block.answers = [stored[key] for key in block.keys]
        return block

    def _finish(self, block: "_Block") -> Sequence[Completion]:
        """Return the answers of a block that has begun; new ones are stored first."""
        if not isinstance(block.answers, Future):
            return block.answers or []
        completions = block.answers.result()
        self._journal.store(
            [
                _row(key, completion.number, fields, completion)
                for key, fields, completion in zip(
                    block.keys, block.asked, completions, strict=True
                )
            ]
        )
        return completions

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        """Return the scores; only prompts that the journal lacks are computed."""
        if self._raw:
            return self._raw.score(prompts, choices)
        asked = {prompt: {"prompt": prompt, "choices": list(choices)} for prompt in prompts}
        keys = {prompt: self._key("score", request) for prompt, request in asked.items()}
        stored = self._journal.read(
            list(keys.values()), functools.partial(_parse_scores, count=len(choices))
        )
        scores = {prompt: stored[key] for prompt, key in keys.items() if key in stored}
        if missing := [prompt for prompt in asked if prompt not in scores]:
            stop_if_requested()
            scores |= zip(missing, self._lm.score(missing, choices), strict=True)
            self._journal.store(
                [_row(keys[prompt], None, asked[prompt], scores[prompt]) for prompt in missing]
            )
        return [scores[prompt] for prompt in prompts]

    def describe(self) -> str:
        """Return one line about what the LM offers."""
        return self._lm.describe()

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def _key(self, *request: object) -> str:
        return fingerprint([self.info.fingerprint, *request], 32)


@dataclass
class _Block:
    """Requests that are answered together.

    Attributes:
        requests: in order.
        asked: their fields.
        keys: of their answers in the journal.
        answers: from the journal, or being computed; None: neither.
    """

    requests: Sequence[Request]
    asked: Sequence[dict[str, Any]]
    keys: Sequence[str]
    answers: Sequence[Completion] | Future[list[Completion]] | None = None


class _BlockRunner:
    """Lets an LM answer blocks, several at the same time if it can.

    Attributes:
        parallel_blocks: how many may run; 1 until the first one starts, which may load the LM.
    """

    def __init__(self, lm: LM) -> None:
        self._lm, self.parallel_blocks = lm, 1
        self._threads: ThreadPoolExecutor | None = None

    def start(self, requests: Sequence[Request]) -> Future[list[Completion]]:
        """Begin a block; return its answers to come."""
        if self._threads is None and isinstance(self._lm, ParallelLM):
            self.parallel_blocks = self._lm.parallel_blocks
        if self.parallel_blocks == 1:  # in this thread, so that Ctrl-C interrupts it
            future: Future[list[Completion]] = Future()
            future.set_result(list(self._lm.complete(requests)))
            return future
        self._threads = self._threads or ThreadPoolExecutor(self.parallel_blocks)
        return self._threads.submit(lambda: list(self._lm.complete(requests)))

    def close(self) -> None:
        """Wait for the threads."""
        if self._threads:
            self._threads.shutdown()


def _request_fields(request: Request) -> dict[str, Any]:
    # Without min-p where it is off: keys are those of versions that did not have it.
    return {name: value for name, value in asdict(request).items() if value or name != "min_p"}


def _row(
    key: str, number: int | None, request: dict[str, Any], answer: Completion | Scores
) -> AnswerRow:
    return (
        key,
        number,
        json.dumps(request, ensure_ascii=False),
        json.dumps(asdict(answer), ensure_ascii=False),
    )


def _parse_scores(answer: str, count: int) -> Scores:
    scores: Scores = _parser(Scores).validate_json(answer)
    if len(scores.logprobs) != count or any(map(math.isnan, scores.logprobs)):
        raise ValueError(f"no scores of {count} labels")
    return scores


def _parse_completion(answer: str) -> Completion:
    completion: Completion = _parser(Completion).validate_json(answer)
    if completion.scores and any(map(math.isnan, completion.scores.logprobs)):
        raise ValueError("a score is not a number")
    return completion


def _fits(completion: Completion, request: Request) -> bool:
    """Return whether a stored completion can be the answer to a request."""
    scores = completion.scores
    return completion.number == request.number and (
        scores is None or len(scores.logprobs) == len(request.choices)
    )
