"""How long an experiment takes: from earlier runs, from a measurement, unknown."""

import json
from pathlib import Path

import pytest

from gpt3mix_cli.cli import main
from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.grid.estimates import CellEstimate, Plan, duration
from gpt3mix_cli.grid.times import Times, estimate_times
from gpt3mix_cli.layout import Cell

CONFIG = """\
name: demo
task: {data: {kind: demo}, labels: [pos, neg], text_type: movie review, label_type: sentiment}
subsample: {levels: [3/class], seeds: 2, validation: 20}
baselines: [{kind: eda}]
classifiers: [{kind: linear}]
trials: 2
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("c.yaml")
    path.write_text(CONFIG, "utf-8")
    return path


def times(config: Path, *overrides: str, measure: bool = True) -> Times:
    grid = Grid(load_experiments(config, overrides), Path("results"))
    return estimate_times(grid, list(grid.cells()), measure)


def test_a_measurement_tells_the_time_of_a_machine_without_runs(config: Path) -> None:
    measured = times(config)
    assert set(measured.stages) == {"augment eda", "train linear"}
    assert 0 < (measured.total or 0) < 60
    assert all("measured on" in source for source in measured.sources)
    assert not Path("results").exists()


def test_without_a_measurement_and_without_runs_it_is_unknown(config: Path) -> None:
    unknown = times(config, measure=False)
    assert set(unknown.stages.values()) == {None}
    assert unknown.total is None


def test_earlier_runs_tell_the_time_and_what_is_done_takes_none(config: Path) -> None:
    assert main(["run", "c.yaml", "--jobs", "1", "-q"]) == 0
    assert times(config, measure=False).total == 0
    for path in Path("results").rglob("trials/*.linear.jsonl"):
        rows = [json.loads(line) | {"seconds": 30.0} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = times(config, "subsample.seeds=4", "trials=4", measure=False)
    assert more.stages["train linear"] == pytest.approx(4 * 30, rel=0.1)
    assert more.sources[0] == "train linear: 4 earlier trials"


def test_the_plan_shows_the_time_and_json_has_it_by_stage(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "c.yaml", "--no-measure"]) == 0
    shown = "time on this machine, one trial at a time: train linear unknown, augment eda unknown"
    assert shown in capsys.readouterr().out
    assert main(["plan", "c.yaml", "--no-measure", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] == {
        "train linear": None, "augment eda": None,
    }  # fmt: skip
    plan = Plan([], seconds={"augment eda": 0.2, "train minilm": 700.0, "train done": 0.0})
    assert plan.notes()[-1] == (
        "time on this machine, one trial at a time: augment eda under 1 s, train minilm 12 min; "
        "12 min in all"
    )
    partial = Plan([], seconds={"augment gpt3mix": None, "train minilm": 700.0})
    assert partial.notes()[-1].endswith("train minilm 12 min; at least 12 min in all")


def test_the_plan_explains_x2_only_where_it_is_shown() -> None:
    once, twice = (
        Plan([CellEstimate(Cell("demo", {}, "full", 0), draws, 6)]).notes() for draws in (1, 2)
    )
    assert twice == ["x2: two synthetic sets", *once]


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.1, 8.2, 100, 9_000)] == [
        "under 1 s", "8 s", "2 min", "2.5 h",
    ]  # fmt: skip
