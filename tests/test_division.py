"""Test rows and folds that are taken from one file, and the file that keeps them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.data import SplitChoice, Splits, load_splits
from gpt3mix_cli.division import TEST, divide_rows, read_division, write_division
from gpt3mix_cli.errors import Callbacks, UserError
from gpt3mix_cli.grid import Grid, TrainStep
from gpt3mix_cli.records import Example
from gpt3mix_cli.settings import Task


def make_rows(**counts: int) -> list[Example]:
    return [
        Example(id=f"{label}{number}", text=f"text {number} of {label}", label=label)
        for label, count in counts.items()
        for number in range(count)
    ]


def write_csv(path: Path, rows: list[Example]) -> None:
    lines = ["id,text,label", *(f"{row.id},{row.text},{row.label}" for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def make_task(path: Path, **data: Any) -> Task:
    data = {"kind": "files", "train": path, **data}
    return Task.model_validate({"name": "t", "data": data, "labels": ["p", "n"]})


def ids(rows: list[Example]) -> set[str]:
    return {row.id for row in rows}


def test_a_fifth_of_each_class_is_test_rows(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", make_rows(p=40, n=11))
    splits = load_splits(make_task(tmp_path / "a.csv"), 0)
    assert Counter(row.label for row in splits.test) == {"p": 8, "n": 2}
    parts = [ids(splits.train), ids(splits.validation), ids(splits.test)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 51


def test_each_row_is_tested_in_one_fold_and_folds_are_stratified(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", make_rows(p=23, n=12))
    task = make_task(tmp_path / "a.csv", folds=5)
    tests = [load_splits(task, 0, choice=SplitChoice(seed)).test for seed in range(6)]
    assert tests[5] == tests[0]
    assert sorted(row.id for test in tests[:5] for row in test) == sorted(
        ids(make_rows(p=23, n=12))
    )
    for test in tests:
        counts = Counter(row.label for row in test)
        assert counts["p"] in (4, 5)
        assert counts["n"] in (2, 3)
        assert len(test) == 7


@pytest.mark.parametrize("folds", [0, 5])
def test_copies_of_a_text_are_in_one_part(folds: int) -> None:
    """The odds that 20 pairs of copies are each in one of 5 folds by chance are 1 in 10^13."""
    rows = make_rows(p=20, n=20)
    copies = [
        row.model_copy(update={"id": f"{row.id}-copy", "text": row.text.upper() + "!"})
        for row in rows
        if row.label == "p"
    ]
    division = divide_rows([*rows, *copies], ["p", "n"], folds, 0)
    for seed in range(folds or 1):
        test = ids(division.split([*rows, *copies], seed)[1])
        assert test
        for copy in copies:
            assert (copy.id in test) == (copy.id.removesuffix("-copy") in test)


@pytest.mark.parametrize("folds", [0, 3])
def test_known_rows_keep_their_part_when_rows_are_added_or_corrected(folds: int) -> None:
    rows = make_rows(p=15, n=15)
    first = divide_rows(rows, ["p", "n"], folds, 0)
    more = [*rows[5:], *make_rows(p=40, n=20)[15:]]
    more[0] = more[0].model_copy(update={"label": "n"})
    second = divide_rows(more, ["p", "n"], folds, 7, first.parts)
    common = first.parts.keys() & second.parts.keys()
    assert len(common) == 25
    assert {key: first.parts[key] for key in common} == {key: second.parts[key] for key in common}
    if not folds:  # new rows train: the test set stays as it was
        new = second.parts.keys() - first.parts.keys()
        assert not [key for key in new if second.parts[key] == TEST]


def test_another_seed_divides_otherwise() -> None:
    rows = make_rows(p=40, n=40)
    assert divide_rows(rows, ["p", "n"], 0, 0) == divide_rows(rows, ["p", "n"], 0, 0)
    assert divide_rows(rows, ["p", "n"], 0, 0) != divide_rows(rows, ["p", "n"], 0, 1)


def test_a_division_is_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    assert read_division(path, 0) is None
    division = divide_rows(make_rows(p=9, n=9), ["p", "n"], 3, 0)
    write_division(path, division)
    assert read_division(path, 3) == division
    with pytest.raises(UserError, match="divided with 3 folds; the config asks for no folds"):
        read_division(path, 0)
    path.write_text("{")
    with pytest.raises(UserError, match="its content makes no sense"):
        read_division(path, 3)


def test_too_few_rows_to_take_a_test_split(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", make_rows(p=2, n=2))
    with pytest.raises(UserError, match="no class has three rows"):
        load_splits(make_task(tmp_path / "a.csv"), 0)


def test_no_fold_is_empty(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", make_rows(p=2, n=2))
    with pytest.raises(UserError, match="4 different texts are too few for 5 folds"):
        load_splits(make_task(tmp_path / "a.csv", folds=5), 0)


def test_test_rows_and_folds_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="either `test` or `folds`"):
        make_task(tmp_path / "a.csv", test=tmp_path / "b.csv", folds=5)


# The grid -----------------------------------------------------------------------------------------

CONFIG = """\
task:
  data: {{kind: files, train: a.csv{data}}}
  labels: [p, n]
subsample: {{levels: [full]}}
classifiers: [{{kind: linear}}]
"""


def open_grid(folder: Path, data: str = "", *overrides: str) -> Grid:
    path = folder / "t.yaml"
    path.write_text(CONFIG.format(data=data))
    return Grid(load_experiments(path, overrides), folder / "results")


def forced(grid: Grid) -> Grid:
    return Grid(grid.experiments, grid.out, options=type(grid.options)(force=True))


def splits_of(grid: Grid, seed: int = 0) -> Splits:
    return grid.resources.keep_splits(grid.experiments[0], seed)


def test_one_data_seed_for_each_fold_unless_the_config_lists_them(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", make_rows(p=10, n=10))
    assert open_grid(tmp_path, ", folds: 3").experiments[0].subsample.seeds == [0, 1, 2]
    grid = open_grid(tmp_path, ", folds: 3", "subsample.seeds=[2, 1, 0]")
    assert grid.experiments[0].subsample.seeds == [2, 1, 0]


def test_test_rows_stay_the_same_when_the_file_grows(tmp_path: Path) -> None:
    """The kept division counts, not the seed: another seed has other rows with odds of 10^-9."""
    write_csv(tmp_path / "a.csv", make_rows(p=40, n=40))
    before = splits_of(open_grid(tmp_path)).test
    write_csv(tmp_path / "a.csv", make_rows(p=60, n=50))
    grid = open_grid(tmp_path, "", "subsample.master_seed=9")
    assert splits_of(grid).test == before
    assert splits_of(forced(grid)).test == before


def test_rows_that_come_back_keep_their_part(tmp_path: Path) -> None:
    rows = make_rows(p=50, n=50)
    write_csv(tmp_path / "a.csv", rows)
    before = splits_of(open_grid(tmp_path)).test
    write_csv(tmp_path / "a.csv", rows[:35] + rows[50:85])
    assert 10 < len(splits_of(open_grid(tmp_path)).test) < 20
    write_csv(tmp_path / "a.csv", rows)
    assert splits_of(open_grid(tmp_path)).test == before


def test_force_replaces_a_division_that_cannot_be_followed(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", make_rows(p=20, n=20))
    splits_of(open_grid(tmp_path))
    old = (tmp_path / "results" / "t" / "split.json").read_text()
    grid = forced(open_grid(tmp_path, ", folds: 4"))
    tests = [splits_of(grid, seed).test for seed in range(4)]
    assert len(set().union(*map(ids, tests))) == 40
    assert (tmp_path / "results" / "t" / "split.json.bak").read_text() == old
    assert [splits_of(open_grid(tmp_path, ", folds: 4"), s).test for s in range(4)] == tests


def test_looking_writes_no_division(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", make_rows(p=10, n=10))
    grid = open_grid(tmp_path)
    grid.resources.splits(grid.experiments[0])
    assert not (tmp_path / "results").exists()


def test_a_division_of_other_rows_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", make_rows(p=20, n=20))
    splits_of(open_grid(tmp_path))
    other = [row.model_copy(update={"text": f"other {row.text}"}) for row in make_rows(p=20, n=20)]
    write_csv(tmp_path / "a.csv", other)
    with pytest.raises(UserError, match="8 of its 8 test rows are not in the data") as error:
        splits_of(open_grid(tmp_path))
    assert "--force" in error.value.hint


# Rows that are left out ---------------------------------------------------------------------------

BAD = """\
text,label
good,p
,p
  ,n
fine,
odd,q
Twice!,p
twice,n
bad,n
poor,n
great,p
awful,n
super,p
"""


def test_all_bad_rows_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(BAD)
    with pytest.raises(UserError) as error:
        load_splits(make_task(path), 0)
    assert error.value.message.split("\n  ") == [
        f"{path}, line 3: the text (column 'text') is empty",
        f"{path}, line 4: the text (column 'text') is empty",
        f"{path}, line 5: the label (column 'label') is empty",
        f"{path}, line 6: label 'q' is not one of the task's classes ('p', 'n')",
    ]
    assert error.value.hint.endswith("task.data.on_bad_rows: skip")


def test_bad_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(BAD)
    warnings: list[str] = []
    task = make_task(path, on_bad_rows="skip")
    splits = load_splits(task, 0, callbacks=Callbacks(warn=warnings.append))
    rows = [*splits.train, *splits.validation, *splits.test]
    assert {row.text for row in rows} == {"good", "bad", "poor", "great", "awful", "super"}
    assert warnings == [
        "task 't': 6 rows are left out: 2 with empty text, 2 with two labels, 1 with empty label, "
        "1 with a label that is not in task.labels"
    ]


def test_test_rows_with_two_labels_stay(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(BAD)
    (tmp_path / "b.csv").write_text("text,label\nso so,p\nso so,n\n")
    splits = load_splits(
        make_task(tmp_path / "a.csv", test=tmp_path / "b.csv", on_bad_rows="skip"), 0
    )
    assert len(splits.test) == 2


def test_rows_that_are_left_out_are_listed_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(BAD)
    splits_of(open_grid(tmp_path, ", on_bad_rows: skip"))
    lines = (tmp_path / "results" / "t" / "skipped.csv").read_text().splitlines()
    assert lines[0] == "where,problem,text,label"
    assert lines[4] == f'"{tmp_path}/a.csv, line 6",a label that is not in task.labels,odd,q'
    assert sorted(line.split('",')[1] for line in lines if "two" in line) == [
        "two labels ('n' in line 8),Twice!,p",
        "two labels ('p' in line 7),twice,n",
    ]
    assert len(lines) == 7
    kept = json.loads((tmp_path / "results" / "t" / "split.json").read_text())
    assert len(kept["parts"]) == 6


def test_a_subsample_of_another_division_is_not_trained_on(tmp_path: Path) -> None:
    """`train --force` alone, after `folds` has changed."""
    write_csv(tmp_path / "a.csv", make_rows(p=10, n=10))
    cell = next((before := open_grid(tmp_path)).cells())
    before.subsample(cell)
    split = tmp_path / "results" / "t" / "split.json"
    content = split.read_bytes()
    after = forced(open_grid(tmp_path, ", folds: 3"))
    classifier = after.experiments[0].classifiers[0]
    with pytest.raises(UserError, match="of its rows are test rows now") as error:
        after.train(TrainStep(cell, "none", classifier))
    assert "subsample CONFIG --force" in error.value.hint
    assert split.read_bytes() == content
    after.subsample(cell)
    after.train(TrainStep(cell, "none", classifier))
