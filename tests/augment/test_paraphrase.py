"""A paraphrase is GPT3Mix with one example: the same rows under another name, by the same LM,
filter and journal."""

from pathlib import Path

import pytest

from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.grid.check import check
from gpt3mix_cli.layout import journal_path, rejects_path
from gpt3mix_cli.records import Augmented, Example, read_records

NAMES = {"id", "method"}


@pytest.fixture
def grid(config: Path) -> Grid:
    return Grid(
        load_experiments(
            config,
            [
                "baselines=[{kind: paraphrase, name: alone}]",
                "augment.ratio=0.5",
                "subsample.seeds=1",
            ],
        ),
        Path("results"),
        jobs=1,
    )


def test_its_rows_are_those_of_gpt3mix_with_k_1(grid: Grid, config: Path) -> None:
    (cell,) = grid.cells()
    assert grid.experiment(cell).methods == ["none", "gpt3mix", "alone"]
    grid.subsample(cell)
    done = grid.augment(cell, "alone", 0)
    rows = list(read_records(done.output, Augmented))
    one = Grid(
        load_experiments(config, ["augment.k=1", "augment.ratio=0.5", "subsample.seeds=1"]),
        Path("other"),
        jobs=1,
    )
    (other,) = one.cells()
    one.subsample(other)
    expected = list(read_records(one.augment(other, "gpt3mix", 0).output, Augmented))
    assert [row.model_dump(exclude=NAMES) for row in rows] == [
        row.model_dump(exclude=NAMES) for row in expected
    ]
    assert {row.method for row in rows} == {"alone"}
    assert rows[0].id.startswith("alone-")
    assert all(len(row.parents) == 1 and row.label_source == "exact" for row in rows)
    assert len(rows) == len(list(read_records(grid.layout.train_path(cell), Example))) / 2
    assert (done.manifest.settings["k"], done.manifest.settings["method"]) == (1, "alone")
    assert journal_path(done.output).exists()
    assert rejects_path(done.output).exists()
    assert grid.augment(cell, "alone", 0).skipped


def test_check_says_by_which_lm_it_is_written(grid: Grid) -> None:
    (found,) = [finding for finding in check(grid) if finding.what == "baseline alone"]
    assert (found.good, found.detail) == (
        True,
        "GPT3Mix with one example in the prompt, by the LM bundled",
    )
