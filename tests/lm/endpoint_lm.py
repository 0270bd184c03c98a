"""Shared by the tests of endpoints: an LM over a test server, and requests for it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from endpoint_model import ASSISTANT, TinyLM

from gpt3mix_cli.errors import NO_CALLBACKS, Callbacks
from gpt3mix_cli.lm import Request
from gpt3mix_cli.lm.openai.engine import OpenAILM
from gpt3mix_cli.lm.openai.requests import GENERATION_INSTRUCTION, LABEL_INSTRUCTION
from gpt3mix_cli.settings import Budget, OpenAISettings

LABEL_PREFIX = " (Sentiment:"
CHOICES = (" Positive", " Negative")
HEADER = (
    "Each item in the following list contains a movie review and the respective "
    "sentiment. The sentiment is one of 'positive' or 'negative'.\n\n"
    "Movie review: A gorgeous, witty film. (Sentiment: Positive)\nMovie review: so bad "
    "(Sentiment: Negative)\n"
)
PROMPT = f"{HEADER}Movie review:"


@contextmanager
def engine(
    *servers: Any,
    budget: dict[str, Any] | None = None,
    journals: Sequence[Path] = (),
    warn: Callable[[str], None] | None = None,
    **settings: Any,
) -> Iterator[OpenAILM]:
    """Open an LM over servers, or over `base_url`; close it at the end."""
    urls = [server.base_url for server in servers]
    settings = {"model": "tiny", **({"base_url": urls} if urls else {}), **settings}
    lm = OpenAILM(
        OpenAISettings(kind="openai", **settings),
        Budget(**budget) if budget else None,
        lambda: [path for path in journals if path.exists()],
        callbacks=Callbacks(warn=warn) if warn else NO_CALLBACKS,
    )
    try:
        yield lm
    finally:
        lm.close()


def build_requests(count: int = 10, **options: Any) -> list[Request]:
    """Return requests in the form of the paper."""
    known = {"prompt": PROMPT, "max_tokens": 60, "label_prefix": LABEL_PREFIX, "choices": CHOICES}
    return [
        Request(**{"number": number, "seed": number, **known, **options}) for number in range(count)
    ]


def chat_context(text: str, system: str = GENERATION_INSTRUCTION) -> str:
    """Return the text that a test server's model continues in a chat."""
    return f"<|system|>\n{system}\n<|user|>\n{text}\n{ASSISTANT}"


def label_context(text: str) -> str:
    """Return the text that it continues where a chat is asked for the label."""
    return chat_context(text, LABEL_INSTRUCTION + ", ".join(choice.strip() for choice in CHOICES))


def truth(model: TinyLM, context: str, choices: Sequence[str] = CHOICES) -> list[float]:
    """Return the log-probabilities of choices after a context."""
    return [model.score(context, choice) for choice in choices]
