"""The package's own page: what it exports, and that its import is fast."""

import subprocess
import sys
from pathlib import Path

import pytest

import gpt3mix_cli
from gpt3mix_cli import Augmented, Grid, load_experiments, read_records

CONFIG = """\
name: api
task: {data: {kind: demo}, labels: [pos, neg]}
subsample: {levels: [4/class], seeds: 1, validation: 20}
baselines: [{kind: eda}]
classifiers: [{kind: linear}]
trials: 1
"""
HEAVY = ("torch", "transformers", "numpy", "pydantic", "sklearn", "pandas", "gpt3mix_cli.grid")


@pytest.mark.parametrize("name", gpt3mix_cli.__all__)
def test_every_exported_name_is_there(name: str) -> None:
    assert getattr(gpt3mix_cli, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'augmenter'"):
        _ = gpt3mix_cli.augmenter


def test_the_import_loads_nothing_heavy() -> None:
    code = f"import sys, gpt3mix_cli; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_experiment_runs_from_python(tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(CONFIG)
    grid = Grid(load_experiments(tmp_path / "api.yaml"), tmp_path / "results", jobs=1)
    results = list(grid.run())
    assert [result.output.name for result in results] == [
        "train.jsonl",
        "none.linear.jsonl",
        "eda.jsonl",
        "eda.linear.jsonl",
    ]
    (cell,) = grid.cells("4/class", 0)
    result = grid.augment(cell, "eda", draw=0)
    assert result.skipped
    assert len(list(read_records(result.output, Augmented))) == 8
    assert len(grid.report().trials) == 2
    grid.close()
