"""A local LM that is opened when it is first asked, if its facts are known already.

`import torch` alone takes two seconds, which a stage that is up to date does not need.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from ..pretrained import lm_path
from ..settings import LocalLMSettings
from ..user_cache import ModelFacts
from .port import LM, LOCAL_VERSION, Completion, LMInfo, ParallelLM, Request, Scores

INFO_FIELDS = ("fingerprint", "context_length", "block_size", "details")


class LazyLM:
    """See the top of this file, `port.LM` and `port.ParallelLM`.

    Args:
        settings: of the LM.
        open_engine: opens it.
        replay_only: see `open_lm`.

    Raises:
        UserError: if its facts are not known and it cannot be opened.
    """

    def __init__(
        self,
        settings: LocalLMSettings,
        open_engine: Callable[[], LM],
        replay_only: bool,
    ) -> None:
        self._open_engine = open_engine
        self._opening = threading.RLock()  # several threads may ask first
        self._facts = ModelFacts(
            {"lm": settings.model_dump(), "version": LOCAL_VERSION},
            lm_path(settings.model),
            settings.revision,
            lambda: _facts_of(self._engine.info),
            # It measures nothing, so it may choose another dtype.
            read_only=replay_only,
        )
        values = self._facts.values
        self.info = LMInfo(
            model=settings.model,
            **{name: values[name] for name in INFO_FIELDS},
            count_tokens=lambda text: self._checked_engine.info.count_tokens(text),
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


def _facts_of(info: LMInfo) -> dict[str, Any]:
    values = {name: getattr(info, name) for name in INFO_FIELDS}
    return values | {"parameters": info.count_parameters()}
