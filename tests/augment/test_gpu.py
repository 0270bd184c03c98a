"""Everything that runs on a GPU, against the same on the CPU.

`GPT3MIX_TEST_DEVICE=cpu` runs the tests without a GPU: they then compare the CPU with itself, which
checks the tests.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_mlm import bert

from gpt3mix_cli.augment import open_augmenter
from gpt3mix_cli.data import load_splits
from gpt3mix_cli.grid.check import _devices
from gpt3mix_cli.grid.executors.processes import ProcessExecutor
from gpt3mix_cli.layout import Cell, TrialKey
from gpt3mix_cli.lm import Completion, Request, open_lm
from gpt3mix_cli.method import selection
from gpt3mix_cli.method.prompt import label_choices, label_prefix, render_prompt
from gpt3mix_cli.records import Example
from gpt3mix_cli.settings import (
    BacktranslateSettings,
    LocalLMSettings,
    MlmSettings,
    Task,
    TransformerSettings,
)
from gpt3mix_cli.train import TrialData, TrialJob, TrialRunner, cached_classifier

DEVICE = os.environ.get("GPT3MIX_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no GPU"
    ),
]
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="the CPU's memory is not filled")
CLASSES = ["pos", "neg"]
DTYPES = ("float32", "bfloat16")
FREE_BYTES = 300 * 2**20  # that a full GPU has left


@pytest.fixture
def rows(task: Task) -> list[Example]:
    return load_splits(task, 0).train[:16]


@pytest.fixture
def encoder(tiny_encoder: Path, tmp_path: Path) -> Path:
    """The tiny BERT without dropout, whose random numbers differ between devices."""
    folder = tmp_path / "no-dropout"
    shutil.copytree(tiny_encoder, folder)
    config = json.loads((folder / "config.json").read_text())
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps({**config, **dropout}))
    return folder


# Language models ---------------------------------------------------------------------------------


def local_lm(device: str, dtype: str = "float32", batch_size: int = 32) -> Any:
    return open_lm(
        LocalLMSettings(
            kind="local", model="bundled", device=device, dtype=dtype, batch_size=batch_size
        )
    )


def label_requests(task: Task, rows: list[Example], count: int) -> list[Request]:
    return [
        Request(
            number, render_prompt(task, [rows[number % 16], rows[(number + 3) % 16]]), number, 40,
            label_prefix=label_prefix(task), choices=label_choices(task),
        )
        for number in range(count)
    ]  # fmt: skip


def log_probabilities(completions: list[Completion]) -> list[list[float]]:
    return [list(item.scores.logprobs) for item in completions if item.scores]


def test_scores_are_those_of_the_cpu(task: Task, rows: list[Example]) -> None:
    prompts = [render_prompt(task, [row]) + " fine" + label_prefix(task) for row in rows]
    choices = label_choices(task)
    theirs, ours = (local_lm(device).score(prompts, choices) for device in ("cpu", DEVICE))
    for cpu, gpu in zip(theirs, ours, strict=True):
        assert list(gpu.logprobs) == pytest.approx(list(cpu.logprobs), abs=2e-3)


def test_the_labels_of_generated_texts_are_those_of_a_pass_over_them(
    task: Task, rows: list[Example]
) -> None:
    lm, requests = local_lm(DEVICE), label_requests(task, rows, 48)
    completions = list(lm.complete(requests))
    prompts = [
        request.prompt + completion.text + label_prefix(task)
        for request, completion in zip(requests, completions, strict=True)
        if completion.scores
    ]
    assert len(prompts) > 24
    again = local_lm("cpu").score(prompts, label_choices(task))
    for scores, other in zip(log_probabilities(completions), again, strict=True):
        assert scores == pytest.approx(list(other.logprobs), abs=5e-3)


def test_bfloat16_moves_labels_little(task: Task, rows: list[Example]) -> None:
    prompts = [render_prompt(task, [row]) + " fine" + label_prefix(task) for row in rows]
    choices = label_choices(task)
    exact, rounded = (local_lm(DEVICE, dtype).score(prompts, choices) for dtype in DTYPES)
    for a, b in zip(exact, rounded, strict=True):
        p, q = (torch.tensor(scores.logprobs).softmax(0) for scores in (a, b))
        assert float((p - q).abs().max()) < 0.05


@needs_gpu
def test_a_full_gpu_makes_batches_smaller(task: Task, rows: list[Example]) -> None:
    lm = local_lm(DEVICE, batch_size=4096)
    lm.score(["a"], [" b"])  # loads the weights
    free = torch.cuda.mem_get_info()[0]
    filler = torch.empty(max(0, free - FREE_BYTES), dtype=torch.uint8, device=DEVICE)
    completions = list(lm.complete(label_requests(task, rows, 512)))
    assert len(completions) == 512
    del filler
    torch.cuda.empty_cache()


# Baselines and selection -------------------------------------------------------------------------


def test_a_translator_translates_as_on_the_cpu(marian: tuple[Path, Path], task: Task) -> None:
    forward, backward = marian
    parents = [Example(id="a", text="the film was good", label="pos")]
    texts = []
    for device in ("cpu", DEVICE):
        settings = BacktranslateSettings(
            kind="backtranslate", forward=str(forward), backward=str(backward), temperature=0,
            device=device,
        )  # fmt: skip
        texts.append(
            [row.text for row in open_augmenter(settings, task).generate(parents, 0, 1, 0)]
        )
    assert texts[0] == texts[1]


def test_a_masked_lm_replaces_words(
    tmp_path: Path, texts: list[str], task: Task, rows: list[Example]
) -> None:
    settings = MlmSettings(kind="mlm", model=str(bert(tmp_path, texts)), device=DEVICE)
    made = list(open_augmenter(settings, task).generate(rows, 0, len(rows), 0))
    assert len(made) == len(rows)
    assert any(row.text != parent.text for row, parent in zip(made, rows, strict=True))


def test_the_nearest_examples_are_those_of_the_cpu(
    tiny_encoder: Path, rows: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = []
    for device in ("cpu", DEVICE):
        monkeypatch.setattr(selection, "resolve_device", lambda *_, device=device: device)
        selection._facts_of.cache_clear()
        vectors.append(selection.encoder_vectors([row.text for row in rows], str(tiny_encoder)))
    selection._facts_of.cache_clear()
    assert abs(vectors[0] - vectors[1]).max() < 1e-3


# Training ----------------------------------------------------------------------------------------


def runner(model: Path, task: Task, device: str, **options: Any) -> TrialRunner:
    splits = load_splits(task, 0)
    settings = TransformerSettings(
        kind="transformer", model=str(model), device=device, lr=1e-3, max_epochs=3, batch_size=8,
        **options,
    )  # fmt: skip
    classifier = cached_classifier(settings, tuple(CLASSES))
    data = TrialData(splits.train[:24], splits.validation[:40], splits.test[:40])
    key = TrialKey(Cell("demo", {}, "full", 0), "none", "tiny")
    return TrialRunner(classifier, key, CLASSES, data, 42)


def test_a_training_has_the_losses_of_the_cpu(encoder: Path, task: Task) -> None:
    histories = [
        runner(encoder, task, device, dtype="float32").run(TrialJob(0)).epochs
        for device in ("cpu", DEVICE)
    ]
    losses, others = ([epoch.loss for epoch in history] for history in histories)
    assert losses == pytest.approx(others, abs=2e-3)


def test_a_training_is_repeatable(tiny_encoder: Path, task: Task) -> None:
    trial = runner(tiny_encoder, task, DEVICE)
    rows = [trial.run(TrialJob(3)).row.model_copy(update={"seconds": 0.0}) for _ in range(2)]
    assert rows[0] == rows[1]


def test_trials_in_processes_have_the_rows_of_one_process(tiny_encoder: Path, task: Task) -> None:
    trial, jobs = runner(tiny_encoder, task, DEVICE), [TrialJob(number) for number in range(4)]
    with ProcessExecutor(2) as processes:
        results = dict(processes.map(trial.run, jobs, lambda *_: None))  # type: ignore[arg-type]
    for job in jobs:
        expected = trial.run(job).row
        assert results[job].row.model_copy(update={"seconds": expected.seconds}) == expected


@needs_gpu
def test_check_names_the_gpu() -> None:
    assert f"cuda:0 {torch.cuda.get_device_name(0)}" in _devices()
