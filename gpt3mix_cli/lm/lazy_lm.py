"""A local LM that is opened when it is first asked, if its facts are known already.

`import torch` alone takes two seconds, which a stage that is up to date or a plan does not need.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from ..pretrained import lm_path
from ..settings import LocalLMSettings, fingerprint
from ..user_cache import ModelFacts
from .port import LM, LOCAL_VERSION, Completion, LMInfo, ParallelLM, Request, Scores

# Texts that show whether two tokenizers count alike: ends, spaces, digits, other scripts.
PROBES = (
    "",
    "a",
    " A first  try,\n\nMovie review: it's 10.50 (Sentiment: Positive)\nMovie review:",
    "\tCafé naïve — 你好 Привет 🙂 don't e\u0301\r\n <s></s>",
)
FACTS_VERSION = 2  # raised when other facts are stored
INFO_FIELDS = ("fingerprint", "context_length", "block_size", "details")


class LazyLM:
    """See the top of this file, `port.LM` and `port.ParallelLM`.

    Args:
        settings: of the LM.
        open_engine: opens it.
        replay_only: see `open_lm`.
        counts_only: see `open_lm`.

    Raises:
        UserError: if its facts are not known and it cannot be opened.
    """

    def __init__(
        self,
        settings: LocalLMSettings,
        open_engine: Callable[[], LM],
        replay_only: bool,
        counts_only: bool = False,
    ) -> None:
        self._settings, self._open_engine = settings, open_engine
        self._counts_only = counts_only
        self._opening = threading.RLock()  # several threads may ask first
        self._facts = ModelFacts(
            {"lm": settings.model_dump(), "version": [LOCAL_VERSION, FACTS_VERSION]},
            lm_path(settings.model),
            settings.revision,
            self._compute_facts,
            # It measures nothing, so it may choose another dtype.
            read_only=replay_only,
        )
        values = self._facts.values
        self.info = LMInfo(
            model=settings.model,
            **{name: values[name] for name in INFO_FIELDS},
            count_tokens=lambda text: self._count_tokens(text),
            count_parameters=lambda: values["parameters"],
            is_local=True,
        )

    @property
    def _checked_engine(self) -> LM:
        with self._opening:
            self._facts.check()
            return self._engine

    @cached_property
    def _engine(self) -> LM:
        return self._open_engine()

    @cached_property
    def _count_tokens(self) -> Callable[[str], int]:
        counter = None
        if "_engine" not in vars(self) and self._facts.values["counts_alike"]:
            counter = _open_counter(self._settings)
        return counter or self._checked_engine.info.count_tokens

    def _compute_facts(self) -> dict[str, Any]:
        if self._counts_only and (facts := _facts_without_engine(self._settings)):
            return facts
        info = self._engine.info
        values = {name: getattr(info, name) for name in INFO_FIELDS}
        counter = _open_counter(self._settings)
        alike = counter is not None and all(
            counter(text) == info.count_tokens(text) for text in PROBES
        )
        return values | {"parameters": info.count_parameters(), "counts_alike": alike}

    @property
    def parallel_blocks(self) -> int:
        """How many blocks it answers at the same time."""
        engine = self._checked_engine
        return engine.parallel_blocks if isinstance(engine, ParallelLM) else 1

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield the answer to each request, in order."""
        return self._checked_engine.complete(requests)

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        """Return the scores of every choice after every prompt."""
        return self._checked_engine.score(prompts, choices)

    def describe(self) -> str:
        """Return one line about what the LM offers, for people."""
        return self._checked_engine.describe()


def _open_counter(settings: LocalLMSettings) -> Callable[[str], int] | None:
    from .local.token_counter import open_token_counter

    return open_token_counter(settings)


def _facts_without_engine(settings: LocalLMSettings) -> dict[str, Any] | None:
    """Return the facts of an LM that only counts tokens; None if its files do not have them.

    Device and dtype stay unknown, so no answer has this fingerprint.
    """
    from .local.token_counter import read_context_length

    context_length = read_context_length(settings)
    if context_length is None or not _open_counter(settings):
        return None
    return {
        "fingerprint": fingerprint(["not opened", settings.model_dump()]),
        "context_length": context_length,
        "block_size": settings.batch_size,
        "details": "not opened",
        "parameters": None,
        "counts_alike": True,
    }
