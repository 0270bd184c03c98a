"""A local LM that is opened when it is first asked, if what it says of itself is known already.

`import torch` alone takes two seconds, which a stage that is up to date does not need.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from ..pretrained import lm_path
from ..settings import LocalLMSettings
from ..user_cache import OpenedModel
from .port import LM, LOCAL_VERSION, Completion, LMInfo, Request, Scores

INFO_FIELDS = ("fingerprint", "context_length", "block_size", "details")


class KnownLM:
    """See the top of this file, and `port.LM`.

    Args:
        settings: of the LM.
        open_engine: opens it.
        replay_only: see `open_lm`.

    Raises:
        UserError: if it is not known and cannot be opened.
    """

    def __init__(
        self,
        settings: LocalLMSettings,
        open_engine: Callable[[], LM],
        replay_only: bool,
    ) -> None:
        self._open_engine = open_engine
        self._opened = OpenedModel(
            {"lm": settings.model_dump(), "version": LOCAL_VERSION},
            lm_path(settings.model),
            settings.revision,
            lambda: _describe(self._engine.info),
            # It measures nothing, so it may choose another dtype.
            read_only=replay_only,
        )
        about = self._opened.about
        self.info = LMInfo(
            model=settings.model,
            **{name: about[name] for name in INFO_FIELDS},
            count_tokens=lambda text: self._engine.info.count_tokens(text),
            count_parameters=lambda: about["parameters"],
            is_local=True,
        )

    @cached_property
    def _engine(self) -> LM:
        engine = self._open_engine()
        if hasattr(self, "info"):  # otherwise it is opened to learn that
            self._opened.check(_describe(engine.info))
        return engine

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield the answer to each request, in order."""
        return self._engine.complete(requests)

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        """Return the scores of every choice after every prompt."""
        return self._engine.score(prompts, choices)

    def describe(self) -> str:
        """Return one line about what the LM offers, for people."""
        return self._engine.describe()


def _describe(info: LMInfo) -> dict[str, Any]:
    about = {name: getattr(info, name) for name in INFO_FIELDS}
    return about | {"parameters": info.count_parameters()}
