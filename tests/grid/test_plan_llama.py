"""The estimates of `plan` on real servers: llama.cpp's, two of them, with the packaged LM."""

import json
from pathlib import Path

import pytest
from llama_server import (
    llama_server,
    model_as_gguf,
    native_llama_server,
    needs_llama_server,
    needs_native_server,
)

from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.grid.plan import plan
from gpt3mix_cli.lm import total_spent
from gpt3mix_cli.records import StageResult

pytestmark = pytest.mark.slow

CONFIG = """\
name: real
task:
  data: {{kind: demo}}
  labels: {{pos: positive, neg: negative}}
  text_type: movie review
  label_type: sentiment
subsample: {{levels: [8/class], seeds: 3, validation: 4}}
lm:
  {{kind: openai, base_url: {url}, model: reviews, tokenizer: bundled, context: 1024,
   concurrency: 2, prices: prices.yaml}}
augment: {{ratio: 6, temperature: 0.9, max_tokens: 80}}
trials: 3
"""
VALUES = ("requests", "prompt_tokens", "completion_tokens", "usd")
PRICES = "version: 2026-01\nmodels: {reviews: {prompt: 2, completion: 8}}\n"


@needs_llama_server
def test_the_plan_is_within_a_tenth_of_what_the_run_then_takes(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(PRICES)
    options = ["--n_ctx", "1024", "--model_alias", "reviews"]
    with llama_server(
        model_as_gguf(tmp_path / "reviews.gguf"), tmp_path / "log", *options
    ) as server:
        (tmp_path / "real.yaml").write_text(CONFIG.format(url=server.url))

        def grid() -> Grid:
            return Grid(load_experiments(tmp_path / "real.yaml"), tmp_path / "results")

        asking = grid()

        def run(seeds: list[int]) -> None:
            for cell in asking.cells():
                if cell.data_seed in seeds:
                    asking.subsample(cell)
                    assert isinstance(asking.augment(cell, "gpt3mix", 0), StageResult)

        def spent() -> list[float]:
            return [
                sum(column)
                for column in zip(
                    *map(total_spent, (tmp_path / "results").rglob("*.journal.sqlite")), strict=True
                )
            ] or [0, 0, 0, 0]

        def planned() -> list[float]:
            again = grid()
            total = plan(again, list(again.cells())).total
            again.close()
            return [total[name] for name in VALUES]

        first = planned()
        run([0])
        before, then = spent(), planned()
        run([1, 2])
        whole = spent()
        asking.close()
    rest = [after - earlier for after, earlier in zip(whole, before, strict=True)]
    print(
        json.dumps(
            {
                "planned": first,
                "taken": whole,
                "planned after the first cell": then,
                "taken then": rest,
            }
        )
    )
    assert first == pytest.approx(whole, rel=0.1)
    assert then == pytest.approx(rest, rel=0.1)


@needs_native_server
@pytest.mark.parametrize(
    "labels", ["pos: positive, neg: negative", "pos: very good, neg: very bad"]
)
def test_from_the_second_cell_on_the_plan_knows_a_server_without_its_tokenizer(
    labels: str, tmp_path: Path
) -> None:
    """Each cell is planned on its own, from the bills of those before it."""
    (tmp_path / "prices.yaml").write_text(PRICES)
    model = model_as_gguf(tmp_path / "reviews.gguf")
    options = ["-np", "2", "-c", "2048", "--alias", "reviews"]
    with native_llama_server(model, tmp_path / "log", *options) as server:
        config = CONFIG.format(url=server.url).replace("tokenizer: bundled, ", "")
        config = config.replace("pos: positive, neg: negative", labels)
        (tmp_path / "real.yaml").write_text(config.replace("ratio: 6", "ratio: 4"))
        grid = Grid(load_experiments(tmp_path / "real.yaml"), tmp_path / "results")

        def spent() -> list[float]:
            total = total_spent(*grid.layout.journals())
            return [total.requests, total.prompt_tokens, total.completion_tokens, total.usd]

        for cell in grid.cells():
            estimate, before = plan(grid, [cell]), spent()
            grid.subsample(cell)
            grid.augment(cell, "gpt3mix", 0)
            taken = [after - earlier for after, earlier in zip(spent(), before, strict=True)]
            planned = [estimate.total[name] for name in VALUES]
            print(json.dumps({"cell": str(cell), "planned": planned, "taken": taken}))
            if cell.data_seed:
                assert (planned[:2], planned[3]) == (
                    pytest.approx(taken[:2], rel=0.1),
                    pytest.approx(taken[3], rel=0.1),
                )
                # Lines differ so much in length that the mean of 64 has an error of 7 %.
                assert planned[2] == pytest.approx(taken[2], rel=0.25)
                assert any("earlier ones took" in remark for remark in estimate.remarks)
        grid.close()
