"""Runs over HTTP against llama.cpp's real server: labels are those of the local engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint_lm import engine
from llama_server import Server, llama_server, model_as_gguf, needs_llama_server

from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.data import load_splits
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.lm.local.engine import LocalLM
from gpt3mix_cli.method.prompt import label_choices, label_prefix, render_prompt
from gpt3mix_cli.records import Augmented, read_records
from gpt3mix_cli.settings import LocalLMSettings, Task

pytestmark = [pytest.mark.slow, needs_llama_server]

KEY = "a-key-of-the-tests"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("llama")
    options = ["--n_ctx", "1024", "--model_alias", "reviews"]
    with llama_server(
        model_as_gguf(folder / "reviews.gguf"), folder / "log", *options, key=KEY
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def test_its_shifted_echo_is_seen_and_its_labels_are_exact(server: Server, task: Task) -> None:
    rows = load_splits(task, 0).train
    prompts = [
        f"{render_prompt(task, rows[i : i + 2])} {rows[-1 - i].text}{label_prefix(task)}"
        for i in range(10)
    ]
    expected = LocalLM(LocalLMSettings(kind="local", model="bundled")).score(
        prompts, label_choices(task)
    )
    with engine(base_url=server.url, model="reviews", context=1024, tokenizer="bundled") as lm:
        assert "completions, label scores top_logprobs (20 a token)" in lm.describe()
        for scores, known in zip(lm.score(prompts, label_choices(task)), expected, strict=True):
            assert (scores.source, scores.bounded) == ("exact", ())
            assert scores.logprobs == pytest.approx(known.logprobs, abs=1e-2)


def test_a_whole_run_makes_rows_whose_labels_are_the_local_engines(
    server: Server, task: Task, tmp_path: Path
) -> None:
    path = tmp_path / "served.yaml"
    path.write_text(
        "name: served\n"
        "task: {data: {kind: demo}, labels: {pos: positive, neg: negative},\n"
        "  text_type: movie review, label_type: sentiment}\n"
        "subsample: {levels: [10/class], seeds: 1}\n"
        f"lm: {{kind: openai, model: reviews, base_url: '{server.url}',\n"
        "  context: 1024, tokenizer: bundled}\n"
        "augment: {ratio: 1, temperature: 0.9}\nclassifiers: [{kind: linear}]\ntrials: 1\n",
        encoding="utf-8",
    )
    grid = Grid(load_experiments(path), tmp_path / "results", jobs=1)
    try:
        assert not [item for item in grid.run() if isinstance(item, Exception)]
        (cell,) = grid.cells()
    finally:
        grid.close()
    rows = list(read_records(grid.layout.synthetic_path(cell, "gpt3mix"), Augmented))
    real = {row.id: row for row in load_splits(task, 0).train}
    assert len(rows) == 20
    assert {row.label_source for row in rows} == {"exact"}
    local = LocalLM(LocalLMSettings(kind="local", model="bundled"))
    # Nearly all rows begin with a space and have one space between words.
    contexts = []
    for row in rows:
        prompt = render_prompt(task, [real[name] for name in row.parents])
        contexts.append(f"{prompt} {row.text}{label_prefix(task)}")
    close = 0
    for row, scores in zip(rows, local.score(contexts, label_choices(task)), strict=True):
        probability = 1 / (1 + 2.718281828459045 ** (scores.logprobs[1] - scores.logprobs[0]))
        close += abs(row.probs["pos"] - probability) < 1e-2
    assert close >= 18
    manifest = grid.out / "served"
    assert not [
        file for file in manifest.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()
    ]
