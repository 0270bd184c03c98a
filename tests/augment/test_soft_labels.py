"""The soft label of a row is that of exactly its text, by a pass of the model that reads it."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt3mix_cli.augment.gpt3mix import GPT3Mix
from gpt3mix_cli.lm import Completion, JournaledLM, Request, Scores, open_lm
from gpt3mix_cli.method.prompt import label_choices, render_label_prompt
from gpt3mix_cli.pretrained import lm_path
from gpt3mix_cli.records import Augmented, Example
from gpt3mix_cli.settings import AugmentSettings, LocalLMSettings, Task

TASK = Task.model_validate(
    {
        "name": "demo",
        "data": {"kind": "demo"},
        "labels": {"pos": "positive", "neg": "negative"},
        "text_type": "movie review",
        "label_type": "sentiment",
    }
)
# What the LM adds to every third line: nothing, another annotation, spaces.
ENDINGS = ("", " (sentiment: Negative) [Positive]", "   ")


class Annotating:
    """The packaged LM, with lines that end as those of other LMs do."""

    def __init__(self) -> None:
        self._lm = open_lm(LocalLMSettings(kind="local", model="bundled", batch_size=16))
        self.info, self.describe = self._lm.info, self._lm.describe

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for completion in self._lm.complete(requests):
            ending = ENDINGS[completion.number % len(ENDINGS)]
            yield replace(completion, text=completion.text + ending)

    def score(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        return self._lm.score(prompts, choices)


@functools.cache
def load() -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = lm_path("bundled")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return AutoTokenizer.from_pretrained(folder), model


def independent_probabilities(prompt: str, choices: Sequence[str]) -> list[float]:
    import torch

    tokenizer, model = load()
    start = len(tokenizer(prompt)["input_ids"])
    logprobs = []
    for choice in choices:
        ids = torch.tensor([tokenizer(prompt + choice)["input_ids"]])
        with torch.no_grad():
            steps = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
        logprobs.append(steps.gather(1, ids[0, start:, None]).sum())
    probabilities: list[float] = torch.stack(logprobs).softmax(0).tolist()
    return probabilities


def test_every_label_is_that_of_the_kept_text(texts: list[str], tmp_path: Path) -> None:
    examples = [
        Example(id=f"r{number}", text=text, label="pos" if number % 2 else "neg")
        for number, text in enumerate(texts[:8])
    ]
    lm = Annotating()
    settings = AugmentSettings(k=1, max_tokens=50)
    journal = JournaledLM(lm, tmp_path / "journal.sqlite")
    made = GPT3Mix(settings, TASK, journal, "gpt3mix")
    rows = list(made.generate(examples, 0, 16, 0))
    kept = [row for row in rows if isinstance(row, Augmented)]
    by_id = {example.id: example for example in examples}
    assert len(kept) > 7
    for row in kept:
        prompt = render_label_prompt(TASK, [by_id[name] for name in row.parents], row.text)
        expected = independent_probabilities(prompt, label_choices(TASK))
        assert list(row.probs.values()) == pytest.approx(expected, abs=1e-5)
    assert made.usage()["rescored"] > 5
    # From the journal alone the rows are the same.
    again = GPT3Mix(settings, TASK, journal, "gpt3mix")
    assert list(again.generate(examples, 0, 16, 0)) == rows
    journal.close()
