"""An LM whose answers are looked up in a journal first and stored there before anyone sees them.

The key of an answer hashes the LM's fingerprint and the whole request (prompt, parameters, seed,
number), so changed settings never meet old answers.
"""

import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from ..errors import NO_CALLBACKS
from ..settings import fingerprint
from ..stopping import stop_if_requested
from .journal import AnswerRow, Journal
from .port import (
    LM,
    Completion,
    JournalAware,
    LMInfo,
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
        for block in split_into_blocks(requests, self.info.block_size):
            asked = [_request_fields(request) for request in block]
            keys = list(map(self._key, asked))
            stored = self._journal.read(keys, _parse_completion, all_or_none=True)
            if len(stored) == len(keys) and all(
                _fits(stored[key], request) for key, request in zip(keys, block, strict=True)
            ):
                yield from map(stored.__getitem__, keys)
                continue
            stop_if_requested()
            completions = list(self._lm.complete(block))
            self._journal.store(
                [
                    _row(key, completion.number, fields, completion)
                    for key, fields, completion in zip(keys, asked, completions, strict=True)
                ]
            )
            yield from completions

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
