"""`subsample.test`: trials on a part of the test rows."""

from pathlib import Path

import pytest

from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.grid import Grid
from gpt3mix_cli.records import StageResult, Trial, read_records
from gpt3mix_cli.report import Report, ReportInput, report

CONFIG = """\
name: quick
task: demo
subsample: {levels: [4/class], seeds: 1, validation: 20}
baselines: [{kind: eda}]
classifiers: [{kind: linear}]
trials: 1
"""


def run(folder: Path, *overrides: str) -> tuple[list[Trial], list[StageResult], Report]:
    path = folder / "quick.yaml"
    path.write_text(CONFIG)
    grid = Grid(load_experiments(path, overrides), folder / "out", jobs=1)
    results = [result for result in grid.run() if isinstance(result, StageResult)]
    files = [item.path for item in grid.expected_trials()]
    trials = [row for file in files for row in read_records(file, Trial)]
    inputs = ReportInput("quick", [folder / "out"], [], folder)
    return trials, results, report(inputs, folder / "report")


def test_a_quick_try_is_on_fewer_test_rows_and_says_so(tmp_path: Path) -> None:
    trials, _, made = run(tmp_path, "subsample.test=20", "name=quick")
    assert {(row.n_test, row.n_test_all) for row in trials} == {(20, 370)}
    remark = "demo: tested on 20 of 370 test rows (subsample.test), so these are not final values"
    assert remark in made.remarks
    whole, results, made = run(tmp_path, "name=whole")
    assert {(row.n_test, row.n_test_all) for row in whole} == {(370, None)}
    line = results[-1].output.read_text()
    assert "n_test_all" not in line  # rows are as they were before the key existed
    # Both runs have the same subsample and synthetic rows, and are never averaged.
    out = tmp_path / "out"
    for name in ("train.jsonl", "eda.jsonl"):
        paths = [out / run / "4-per-class/seed-0" / name for run in ("quick", "whole")]
        assert paths[0].read_bytes() == paths[1].read_bytes()
    assert {row.test_sha for row in trials}.isdisjoint({row.test_sha for row in whole})
    assert sorted(item.n for item in made.results) == [1, 1, 1, 1]


def test_trials_on_another_part_of_the_test_rows_are_other_results(tmp_path: Path) -> None:
    run(tmp_path, "subsample.test=20")
    path = tmp_path / "quick.yaml"
    grid = Grid(load_experiments(path, ["subsample.test=10/class"]), tmp_path / "out", jobs=1)
    same = list(grid.run())
    assert all(isinstance(result, StageResult) and result.skipped for result in same)
    # Finished trials on other rows are results: they are not replaced without --force.
    grid = Grid(load_experiments(path, ["subsample.test=30"]), tmp_path / "out", jobs=1)
    with pytest.raises(UserError, match="is finished, with other settings or rows: other test"):
        list(grid.run())


def test_synthetic_rows_are_no_copies_of_any_test_row(tmp_path: Path) -> None:
    path = tmp_path / "quick.yaml"
    path.write_text(CONFIG)
    grids = [
        Grid(load_experiments(path, [f"subsample.test={rows}"]), tmp_path) for rows in (20, "full")
    ]
    part, whole = (grid.resources.augment_options(grid.experiments[0], 0, 0) for grid in grids)
    assert len(part.test) == 370
    assert part == whole


def test_unlabelled_texts_are_no_copies_of_any_test_row(tmp_path: Path) -> None:
    path, texts = tmp_path / "quick.yaml", tmp_path / "texts.txt"
    path.write_text(CONFIG)
    lm = "lm={kind: local, model: bundled}"
    overrides = ["subsample.test=20", lm, f"augment={{unlabelled: {texts}}}"]
    texts.write_text("So dull\n")
    grid = Grid(load_experiments(path, overrides), tmp_path)
    (experiment,) = grid.experiments
    rows = grid.resources.splits(experiment, 0).all_test
    texts.write_text("".join(f"{row.text}\n" for row in rows) + "So dull\n")
    assert grid.resources.unlabelled_texts(experiment, "gpt3mix") == ("So dull",)
