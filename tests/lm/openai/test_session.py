"""Journal keys of paid answers, as every version so far has computed them.

A key that changes means that users pay again for answers that their journals hold.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gpt3mix_cli.lm import Request
from gpt3mix_cli.lm.openai.budget import BudgetTracker
from gpt3mix_cli.lm.openai.cached_client import CachedClient, TokenCounter, WarnOnce
from gpt3mix_cli.lm.openai.dispatcher import HttpDispatcher
from gpt3mix_cli.lm.openai.engine import OpenAILM
from gpt3mix_cli.lm.openai.requests import (
    Call,
    Capabilities,
    decision_body,
    echo_body,
    generation_body,
    label_body,
)
from gpt3mix_cli.lm.openai.session import capabilities_key
from gpt3mix_cli.settings import OpenAISettings

CHOICES = (" Positive", " Negative")
PROMPT = "Movie review: a witty, moving café film (Sentiment: Positive)\nMovie review:"
CONTEXT = f"{PROMPT} a dull film (Sentiment:"
REQUEST = Request(7, PROMPT, 11, 60, 0.9, 0.8, 0.01, label_prefix=" (Sentiment:", choices=CHOICES)
BEAMS = Request(7, PROMPT, 2**40 + 11, 60, temperature=0.9, beams=3)
PLAIN = Capabilities(top_logprobs=5, neutral_sampling=True)
IDS = Capabilities(label_method="ids", top_logprobs=20, neutral_sampling=True, supports_n=True)
CHAT = Capabilities(
    api="chat",
    label_method="top_logprobs",
    top_logprobs=20,
    max_tokens_field="max_completion_tokens",
    refused_fields=("seed",),
)
REASONING = {"reasoning_effort": "none"}
BY_ID = {"logprob_token_ids": [4], "return_tokens_as_token_ids": True}
VOTES = {"max_tokens": 6, "temperature": 1.0, "seed": 0, "n": 10}


def text_call(capabilities: Capabilities, body: dict[str, Any], number: str = "7") -> Call:
    return Call(capabilities.path, body, number)


# Call -> key, computed with the version before modules and fields got their present names.
KEYS = [
    (
        text_call(PLAIN, generation_body(REQUEST, PLAIN, "tiny", 9, ())),
        "c13136fc89c88599c59e9ddf44d499fe",
    ),
    (
        text_call(IDS, generation_body(REQUEST, IDS, "tiny", 9, (4, 5))),
        "1bc3aa4057763c9a3d4ecb51ba043fae",
    ),
    (
        text_call(CHAT, generation_body(REQUEST, CHAT, "tiny", 9, ()) | REASONING, "7.s11"),
        "27e2eb605028e2a6df180001919124d3",
    ),
    (
        text_call(IDS, generation_body(BEAMS, IDS, "tiny", 0, (), 3)),
        "d86bd69fa0ab5b8d75559d902c27fa86",
    ),
    (
        text_call(PLAIN, label_body(CONTEXT, CHOICES, PLAIN, "tiny", logprobs=5)),
        "8c2727d200a49bfed481d4e39f7f4a80",
    ),
    (
        text_call(CHAT, label_body(CONTEXT, CHOICES, CHAT, "tiny", logprobs=20)),
        "bc102fb62b919a6f100bb0da096ca7d6",
    ),
    (
        text_call(IDS, label_body([1, 2, 3], CHOICES, IDS, "tiny", logprobs=1, **BY_ID)),
        "87284158487c1fc9772dc76bd6e484f8",
    ),
    (
        text_call(IDS, label_body(CONTEXT, CHOICES, IDS, "tiny", **VOTES), "7.0"),
        "f2f72e7898e70351870d5406841bd60d",
    ),
    (
        text_call(PLAIN, echo_body(PLAIN, "tiny", f"{CONTEXT} Positive")),
        "4fbc85432f8a414afe2e6b3878f344ae",
    ),
    (
        Call("/decisions", decision_body(CONTEXT, CHOICES, "tiny"), "7"),
        "37f253307cdc8a8d331d41fcec554fcd",
    ),
    (
        Call("//tokenize", {"model": "tiny", "prompt": CONTEXT}),
        "dd2380c9a98929b10a450bf6da7e2d06",
    ),
]


@pytest.mark.parametrize(("call", "key"), KEYS)
def test_keys_of_paid_answers_do_not_change(call: Call, key: str) -> None:
    settings = OpenAISettings(kind="openai", model="tiny", base_url="https://api.example/v1")
    budget = BudgetTracker(replay_only=True)
    with ThreadPoolExecutor(1) as thread:
        client = CachedClient(
            settings.urls[0],
            HttpDispatcher(settings, budget),
            budget,
            None,
            thread,
            TokenCounter(""),
            WarnOnce(print),
        )
        assert client.key(call) == key


def test_the_key_of_the_capabilities_does_not_change() -> None:
    lm = OpenAILM(
        OpenAISettings(kind="openai", model="tiny", base_url="http://localhost:1/v1", endpoint="e")
    )
    try:
        assert lm.info.fingerprint == "1ff8da5c836906c9"
        assert capabilities_key(lm.info.fingerprint) == "97d1c013e1735efd01be77d17ead246e"
    finally:
        lm.close()
