"""`plan` estimates what a run will ask; it asks nothing, writes nothing and needs no key."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from endpoint_server import Server, serving

from gpt3mix_cli.augment.gpt3mix import GPT3Mix
from gpt3mix_cli.cli import main
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import StoppedShort
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.grid.plan import _Planner
from gpt3mix_cli.layout import TrialKey
from gpt3mix_cli.lm import Request, bill_attempts, bill_labels, total_spent
from gpt3mix_cli.records import Trial, read_manifest, read_records

CONFIG = """\
name: small
task:
  data: {{kind: demo}}
  labels: {{pos: positive, neg: negative}}
  text_type: movie review
  label_type: sentiment
subsample: {{levels: [4/class, 8/class], seeds: 2, validation: 4}}
lm: {{kind: openai, base_url: {url}, model: tiny, prices: prices.yaml}}
augment: {{ratio: 2, max_tokens: 40}}
classifiers: [{{kind: linear}}, {{kind: linear, name: other, trials: 4}}]
trials: 2
"""
FIGURES = ("generations", "requests", "prompt_tokens", "completion_tokens", "usd")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(dialect="vllm") as running:
        yield running


@pytest.fixture
def small(server: Server, tmp_path: Path) -> Path:
    (tmp_path / "prices.yaml").write_text(
        "version: 2026-01\nmodels: {tiny: {prompt: 100, completion: 200}}\n"
    )
    (tmp_path / "small.yaml").write_text(CONFIG.format(url=server.base_url))
    return tmp_path / "small.yaml"


@pytest.fixture
def planned(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(*arguments: object) -> Any:
        capsys.readouterr()
        assert main(["plan", *map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return call


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(config: Path, *overrides: str, seeds: tuple[int, ...] = (0, 1)) -> None:
    grid = Grid(load_experiments(config, overrides), config.parent / "results", jobs=1)
    try:
        for cell in grid.cells():
            if cell.data_seed in seeds:
                grid.subsample(cell)
                grid.augment(cell, "gpt3mix", 0)
    finally:
        grid.close()


def test_nothing_is_asked_and_nothing_is_written(
    small: Path, server: Server, planned: Callable[..., Any]
) -> None:
    before = everything(small.parent)
    result = planned(small)
    assert server.requests == 0
    assert everything(small.parent) == before
    assert result["generations"] == 2 * 2 * (8 + 16)
    # Two methods; of `linear` each seed has one trial a level, of `other` two.
    assert result["trainings"] == 2 * (2 + 4) * 2
    assert sum(cell["generations"] for cell in result["cells"]) == result["generations"]
    assert result["usd"] == pytest.approx(
        result["prompt_tokens"] * 100e-6 + result["completion_tokens"] * 200e-6, rel=1e-3
    )
    assert result["budget"]["usd"] == {"limit": None, "spent": 0, "left": None}


def test_the_prompt_is_the_first_that_is_asked(
    small: Path, server: Server, planned: Callable[..., Any]
) -> None:
    result = planned(small)
    run(small, seeds=(0,))
    asked = [body for body in server.bodies("completions") if body.get("max_tokens", 0) > 16]
    assert result["prompt"] in [body["prompt"] for body in asked]


def test_answers_in_journals_cost_nothing(
    small: Path, server: Server, planned: Callable[..., Any]
) -> None:
    run(small, seeds=(0,))
    server.reset()
    before = everything(small.parent)
    result = planned(small)
    assert server.requests == 0
    assert everything(small.parent) == before
    manifests = [read_manifest(path) for path in (small.parent / "results").rglob("gpt3mix.jsonl")]
    assert result["held"]["requests"] == sum(item.counts["requests"] for item in manifests if item)
    assert result["held"]["completion_tokens"] == sum(
        item.counts["completion_tokens"] for item in manifests if item
    )
    assert result["held"]["usd"] == pytest.approx(
        sum(item.usd or 0 for item in manifests if item), abs=1e-4
    )
    for cell in result["cells"]:
        assert cell["held"]["generations"] == (cell["generations"] if cell["seed"] == 0 else 0)
        assert (cell["requests"] == 0) == (cell["seed"] == 0)
    assert result["budget"]["requests"]["spent"] >= result["held"]["requests"]


def test_the_bills_of_one_cell_tell_what_the_next_one_takes(
    small: Path, planned: Callable[..., Any]
) -> None:
    """The server's tokens are not those of the estimate, and a label has several of them."""
    small.write_text(small.read_text().replace("pos: positive", "pos: very positive"))
    one_level = "subsample.levels=[4/class]"
    grid = Grid(load_experiments(small, [one_level]), small.parent / "results", jobs=1)

    def run_seed(seed: int) -> list[float]:
        """Return what it took; one grid probes the server once."""
        before = total_spent(*grid.layout.journals())
        for cell in grid.cells():
            if cell.data_seed == seed:
                grid.subsample(cell)
                grid.augment(cell, "gpt3mix", 0)
        after = total_spent(*grid.layout.journals())
        return [b - a for a, b in zip(before, after, strict=True)]

    run_seed(0)
    result = planned(small, "--seed", "1", "--set", one_level)
    assert any("earlier ones took" in remark for remark in result["remarks"])
    assert not any("within 25 %" in remark for remark in result["remarks"])
    # The lines of the server's tiny LM differ more in length than those of a real one.
    assert [result[name] for name in FIGURES[1:]] == pytest.approx(run_seed(1), rel=0.2)
    grid.close()


def test_a_bill_is_of_requests_of_one_kind(small: Path) -> None:
    """The journals of an experiment hold attempts of other tasks, and labels of given texts."""
    run(small, seeds=(0,))
    grid = Grid(load_experiments(small), small.parent / "results", jobs=1)
    planner, (experiment,) = _Planner(grid), grid.experiments
    review = Request(0, "Reviews.\n\nMovie review:", 0, 40, label_prefix=" (Sentiment:")
    question = replace(review, prompt="Questions.\n\nQuestion:")
    assert planner._bill(bill_attempts, experiment, [], review)
    assert planner._bill(bill_attempts, experiment, [], question) is None
    assert planner._bill(bill_labels, experiment, [], review) is None
    grid.close()


def test_variants_whose_requests_are_the_same_pay_once(
    small: Path, planned: Callable[..., Any]
) -> None:
    alone = planned(small, "--set", "augment.ratio=4")
    swept = planned(small, "--set", "sweep={augment.ratio: [1, 4, 2]}")
    assert swept["requests"] == pytest.approx(alone["requests"], abs=4)
    assert swept["prompt_tokens"] == pytest.approx(alone["prompt_tokens"], rel=0.1)
    assert (
        planned(small, "--set", "sweep={augment.k: [2, 4]}")["requests"]
        == 2 * planned(small)["requests"]
    )


def test_without_data_only_the_trainings_are_known(
    small: Path, planned: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    data = "task.data={kind: files, train: a.csv, test: b.csv}"
    result = planned(small, "--set", data)
    assert result["trainings"] == 24
    assert all(result[name] is None for name in FIGURES)
    assert result["prompt"] is None
    assert "a.csv" in result["remarks"][0]
    assert main(["plan", str(small), "--set", data]) == 0
    output = capsys.readouterr()
    assert "?" in output.out
    assert "warning: nothing is known before the data can be read: " in output.err
    assert "a.csv" not in output.out  # said once
    assert "next: gpt3mix check" in output.err


def test_without_a_key_a_hosted_model_can_be_planned(
    small: Path, planned: Callable[..., Any]
) -> None:
    result = planned(small, "--set", "lm={kind: openai, model: some-base}")
    assert result["requests"] > 0
    assert result["usd"] is None
    assert any("dollars are unknown" in remark for remark in result["remarks"])
    assert any("not probed" in remark for remark in result["remarks"])


def test_other_label_sources_take_more_requests(small: Path, planned: Callable[..., Any]) -> None:
    once = planned(small)
    for source, factor in (("decision", 2), ("top_logprobs", 1)):
        assert planned(small, "--set", f"lm.label_source={source}")["requests"] == pytest.approx(
            factor * once["requests"]
        )


def test_a_local_lm_costs_no_money(config: Path, planned: Callable[..., Any]) -> None:
    result = planned(config)
    assert result["usd"] == 0
    assert result["budget"] is None
    # Whole blocks of 8 requests for 2 x 8 rows each.
    assert result["requests"] % 8 == 0
    assert result["trainings"] == 3 * 2 * 2


def test_without_an_lm_there_are_only_trainings(small: Path, planned: Callable[..., Any]) -> None:
    result = planned(small, "--set", "lm=null")
    assert [result[name] for name in FIGURES] == [0, 0, 0, 0, 0]
    assert result["trainings"] == 12


def test_large_cells_are_sampled_with_a_remark(
    small: Path, planned: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = planned(small)
    asked: list[int] = []
    original = GPT3Mix.attempts

    def counted(self: GPT3Mix, examples: Any, first: int, count: int, seed: int) -> Any:
        asked.append(count)
        return original(self, examples, first, count, seed)

    monkeypatch.setattr(GPT3Mix, "attempts", counted)
    large = planned(small, "--set", "augment.ratio=200")
    assert max(asked) == 256
    assert any("a part of" in remark for remark in large["remarks"])
    assert not any("a part of" in remark for remark in whole["remarks"])
    assert large["prompt_tokens"] / large["requests"] == pytest.approx(
        whole["prompt_tokens"] / whole["requests"], rel=0.1
    )


def test_a_budget_that_will_be_exceeded_is_reported(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(small), "--set", "budget={requests: 5, usd: 1000}"]) == 0
    shown = capsys.readouterr()
    assert "budget.requests: 0 spent, 5 of 5 left" in shown.out
    assert "end it early: budget.requests;" in shown.err
    assert f"next: gpt3mix run {small} --set 'budget=" in shown.err.splitlines()[-1]


def test_a_budget_holds_over_runs(small: Path) -> None:
    with serving(dialect="llamacpp") as server:
        limit = ["budget={requests: 30}", f"lm.base_url={server.base_url}", "lm.concurrency=1"]
        for _ in range(3):
            with pytest.raises(StoppedShort, match=r"budget\.requests"):
                run(small, *limit)
            assert server.paths["/v1/completions"] <= 30


def test_trials_have_the_cost_of_their_rows(small: Path) -> None:
    overrides = [
        "subsample.levels=[4/class]",
        "subsample.seeds=1",
        "trials=1",
        "classifiers=[{kind: linear}]",
    ]
    grid = Grid(load_experiments(small, overrides), small.parent / "results", jobs=1)
    assert not [item for item in grid.run() if isinstance(item, StoppedShort)]
    grid.close()
    (cell,) = grid.cells()
    manifest = read_manifest(grid.layout.synthetic_path(cell, "gpt3mix"))
    (trial,) = read_records(grid.layout.trials_path(TrialKey(cell, "gpt3mix", "linear")), Trial)
    assert manifest
    assert manifest.usd
    assert (trial.tokens, trial.usd) == (manifest.tokens, manifest.usd)
    (without,) = read_records(grid.layout.trials_path(TrialKey(cell, "none", "linear")), Trial)
    assert without.usd is None


def test_a_paraphrase_is_planned_too(
    small: Path, server: Server, planned: Callable[..., Any]
) -> None:
    alone = planned(small)
    both = planned(small, "--set", "baselines=[{kind: paraphrase}, {kind: aeda}]")
    assert (both["generations"], both["requests"]) == (
        2 * alone["generations"],
        2 * alone["requests"],
    )
    assert (
        alone["prompt_tokens"] < both["prompt_tokens"] < 2 * alone["prompt_tokens"]
    )  # one example, not two
    grid = Grid(
        load_experiments(small, ["baselines=[{kind: paraphrase}]"]),
        small.parent / "results",
        jobs=1,
    )
    for cell in grid.cells():
        grid.subsample(cell)
        grid.augment(cell, "paraphrase", 0)
    grid.close()
    after = planned(small, "--set", "baselines=[{kind: paraphrase}]")
    assert after["held"]["generations"] == alone["generations"]
    assert planned(small)["held"]["generations"] == 0  # GPT3Mix reads none of its answers


def test_labels_of_a_classifier_that_prompts_are_counted(
    small: Path, server: Server, planned: Callable[..., Any]
) -> None:
    """One for each test row and trial, none that a journal holds; no row that no trial reads."""
    prompting = [
        "classifiers=[{kind: prompt, examples: 2}]",
        "subsample.levels=[4/class]",
        "subsample.test=20/class",
        "trials=3",
    ]
    sets = [word for item in prompting for word in ("--set", item)]
    grid = Grid(load_experiments(small, prompting), small.parent / "results", jobs=1)
    labels = 3 * len(grid.resources.splits(grid.experiments[0]).test)
    before = everything(small.parent)
    result = planned(small, *sets)
    assert server.requests == 0
    assert everything(small.parent) == before
    assert (result["trainings"], result["generations"], result["requests"]) == (3, 0, labels)
    assert result["usd"] == pytest.approx(
        result["prompt_tokens"] * 100e-6 + result["completion_tokens"] * 200e-6, rel=1e-3
    )
    assert (
        f"classifier 'prompt' asks for {labels:,} labels, one for each test row and trial"
        in result["remarks"]
    )
    assert not [item for item in grid.run() if isinstance(item, StoppedShort)]
    grid.close()
    asked = [str(body["prompt"]) for body in server.bodies("completions")]
    assert sum(len(text) for text in asked if text.endswith("(Sentiment:")) / 4 == pytest.approx(
        result["prompt_tokens"], rel=0.05
    )
    after = planned(small, *sets)
    assert (after["requests"], after["usd"]) == (0, 0)
    assert after["held"]["requests"] == pytest.approx(labels, abs=2)  # and the first tries
