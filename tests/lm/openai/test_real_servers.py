"""Labels of every kind at llama.cpp's own server and `transformers serve`, by the packaged LM."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from endpoint_lm import CHOICES, LABEL_PREFIX, PROMPT, build_requests, engine
from llama_server import (
    CONVERTER,
    Server,
    model_as_gguf,
    native_llama_server,
    needs_native_server,
    needs_transformers_serve,
    transformers_serve,
)

from gpt3mix_cli.lm.local.engine import LocalLM
from gpt3mix_cli.method.prompt import label_choices, render_label_prompt
from gpt3mix_cli.records import Example
from gpt3mix_cli.settings import LocalLMSettings, Task

pytestmark = pytest.mark.slow

LM = CONVERTER.parents[1] / "gpt3mix_cli/resources/lm"
SLOTS, CONTEXT = 2, 512
LABELS = {
    "of one token": ["positive", "negative"],
    "of several tokens": ["quite positive", "not positive"],
    "that share a token": ["very positive", "very negative"],
    "of which one begins another": ["positive", "positively neutral"],
    "of short words": ["a good film", "a bad film"],
    "of six classes": ["abbreviation", "location", "description", "numeric", "entity", "human"],
}
TEXTS = ["A sweet and funny little film.", "I nearly fell asleep twice.", "dull , but warm"]


def prompts_for(labels: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Return prompts for the label of each text, and the labels as they follow."""
    task = Task.model_validate(
        {
            "name": "t",
            "data": {"kind": "demo"},
            "labels": list(labels),
            "text_type": "movie review",
            "label_type": "sentiment",
        }
    )
    examples = [Example(id=label, text=f"This is {label}.", label=label) for label in labels[:2]]
    return [render_label_prompt(task, examples, text) for text in TEXTS], label_choices(task)


def probabilities(logprobs: Sequence[float]) -> list[float]:
    total = math.fsum(map(math.exp, logprobs))
    return [math.exp(logprob) / total for logprob in logprobs]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("native")
    model = model_as_gguf(folder / "reviews.gguf")
    # All slots share the context.
    options = ["-np", str(SLOTS), "-c", str(SLOTS * CONTEXT), "--alias", "reviews"]
    with native_llama_server(model, folder / "log", *options) as running:
        yield running


@needs_native_server
@pytest.mark.parametrize("name", LABELS)
def test_labels_at_llama_server_are_those_of_a_float32_pass(name: str, server: Server) -> None:
    prompts, choices = prompts_for(LABELS[name])
    expected = LocalLM(LocalLMSettings(kind="local", model="bundled")).score(prompts, choices)
    with engine(base_url=server.url, model="reviews") as lm:
        for scores, known in zip(lm.score(prompts, choices), expected, strict=True):
            if not scores.bounded:
                assert probabilities(scores.logprobs) == pytest.approx(
                    probabilities(known.logprobs), abs=1e-2
                )
            if scores.source == "exact":
                assert scores.logprobs == pytest.approx(known.logprobs, abs=2e-2)
            # Of labels that the packaged LM hardly knows, the likeliest tokens give a bound.
            for index in scores.bounded:
                assert scores.logprobs[index] > known.logprobs[index] - 2e-2


@needs_native_server
def test_llama_server_is_asked_for_completions_within_its_slots(server: Server) -> None:
    with engine(base_url=server.url, model="reviews", label_source="vote", num_votes=5) as lm:
        described = lm.describe()
        assert "completions, label scores vote of 5" in described
        assert f"the server's context of {CONTEXT} tokens is used" in described
        assert lm.info.context_length == CONTEXT
        (scores,) = lm.score([f"{PROMPT} a fine film{LABEL_PREFIX}"], CHOICES)
        assert (scores.source, scores.requests) == ("vote", 3)  # 2, 2 and 1 of 5
    with engine(base_url=server.url, model="reviews") as lm:
        rows = [row for row in lm.complete(build_requests(6)) if row.scores]
    assert {row.scores.source for row in rows if row.scores} == {"exact"}
    assert min(row.requests for row in rows) == 1


@needs_transformers_serve
def test_votes_of_a_greedy_server_are_one_and_that_is_said(tmp_path: Path) -> None:
    with (
        transformers_serve(LM, tmp_path / "log") as server,
        # Its other API fails with HTTP 500, since the model has no chat template.
        engine(base_url=server.url, model=str(LM), api="completions") as lm,
    ):
        described = lm.describe()
        assert "label scores vote of 1; the server decodes greedily" in described
        assert "do_sample: true" in described
        (scores,) = lm.score([f"{PROMPT} a fine film{LABEL_PREFIX}"], CHOICES)
        assert (scores.source, scores.requests) == ("vote", 1)
