"""Several experiments in one report: those on one task are named, and never mixed."""

from pathlib import Path
from typing import Any

import pytest
from rows import inputs, seeds

from gpt3mix_cli.errors import Callbacks
from gpt3mix_cli.layout import Cell, Layout, TrialKey, experiment_folder
from gpt3mix_cli.records import write_records
from gpt3mix_cli.report import ExpectedTrials, Report, report

pytestmark = pytest.mark.usefixtures("without_plots")


def save(
    out: Path,
    name: str,
    method: str,
    accuracies: list[float],
    *,
    task: str = "sst2",
    level: str = "1%",
    variant: dict[str, Any] | None = None,
    one_of_tasks: bool = False,
    **fields: Any,
) -> list[ExpectedTrials]:
    """Write one trial per data seed where an experiment has it; return what a config expects."""
    swept = variant or {}
    common = {"task": task, "level": level, "method": method, "variant": swept}
    files = []
    for seed, row in enumerate(seeds(accuracies, **common, **fields)):
        cell = Cell(task, swept, level, seed, one_of_tasks)
        path = Layout(out, name).trials_path(TrialKey(cell, method, "linear"))
        write_records(path, [row])
        files.append(ExpectedTrials(path, 1, task, level, method, "linear", swept))
    return files


def variants(result: Report) -> set[tuple[str, str, str]]:
    return {(row.task, row.method, row.variant) for row in result.results}


def list_pairs(result: Report) -> list[tuple[str, str, str]]:
    rows = result.comparisons[["variant", "a", "b"]]
    return [*rows.itertuples(index=False, name=None)]


@pytest.mark.parametrize("with_configs", [False, True])
def test_experiments_on_one_task_are_complete_and_compared_within(
    tmp_path: Path, with_configs: bool
) -> None:
    """`none` ran with equal settings in both, the method with others."""
    out = tmp_path / "results"
    expected = save(out, "a", "none", [0.5, 0.5]) + save(out, "b", "none", [0.5, 0.5])
    expected += save(out, "a", "eda", [0.6, 0.6])
    expected += save(out, "b", "eda", [0.7, 0.7], settings="b" * 16)
    warnings: list[str] = []
    given = inputs(expected=expected) if with_configs else inputs(out)
    result = report(given, tmp_path / "report", callbacks=Callbacks(warn=warnings.append))
    assert not warnings
    names = ("experiment=a", "experiment=b")
    assert variants(result) == {("sst2", m, name) for m in ("none", "eda") for name in names}
    assert {(row.n, row.split_by) for row in result.results} == {(2, None)}
    assert {row.expected for row in result.results} == {2 if with_configs else None}
    assert list_pairs(result) == [
        ("experiment=a", "eda", "none"),
        ("experiment=b", "eda", "none"),
        ("", "eda (experiment=b)", "eda (experiment=a)"),
    ]
    assert {row.variant: row.gain for row in result.results if row.method == "eda"} == {
        "experiment=a": pytest.approx(0.1),
        "experiment=b": pytest.approx(0.2),
    }
    text = (tmp_path / "report" / "report.md").read_text("utf-8")
    assert "| task | experiment | level | classifier |" in text
    assert "trials exist" not in text
    assert "are not averaged" not in text
    assert "what is equal in all, then the values of experiment" in text


def test_levels_count_for_the_experiment_that_has_them(tmp_path: Path) -> None:
    """Both have equal trials on one level, and one of them has a further level."""
    for name, levels in (("a", ["1%"]), ("b", ["1%", "3%"])):
        for level in levels:
            save(tmp_path, name, "none", [0.5, 0.5], level=level)
            save(tmp_path, name, "eda", [0.6, 0.6], level=level)
    result = report(inputs(tmp_path), tmp_path / "report")
    (pooled,) = result.pooled.itertuples()
    assert (pooled.variant, pooled.rows, pooled.wins, pooled.losses) == ("experiment=b", 2, 2, 0)
    assert [row.method for row in result.verdicts].count("eda (experiment=b)") == 2


def test_a_sweep_is_compared_with_the_first_variant_of_its_experiment(tmp_path: Path) -> None:
    for name, scores in (("a", {1: 0.5, 2: 0.6}), ("b", {1: 0.7, 2: 0.9})):
        for k, score in scores.items():
            save(tmp_path, name, "gpt3mix", [score, score], variant={"augment.k": k})
            save(tmp_path, name, "none", [0.4, 0.4], variant={"augment.k": k})
    save(tmp_path, "c", "none", [0.4, 0.4])
    save(tmp_path, "c", "gpt3mix", [0.55, 0.55])
    across = [row[1:] for row in list_pairs(report(inputs(tmp_path), tmp_path / "r")) if not row[0]]
    assert across == [
        (f"gpt3mix (experiment={a})", f"gpt3mix (experiment={b})")
        for a, b in (
            ("a, augment.k=2", "a, augment.k=1"),
            ("b, augment.k=1", "a, augment.k=1"),
            ("b, augment.k=2", "b, augment.k=1"),
            ("c", "a, augment.k=1"),
        )
    ]


def test_the_verdict_on_what_a_sweep_does_not_change_is_of_its_experiment(tmp_path: Path) -> None:
    for name, rows in (("a", 1000), ("b", 2000)):
        for k in (1, 2):
            for method, score in (("none", 0.4), ("eda", 0.5)):
                test = {"variant": {"augment.k": k}, "n_test": rows, "test_sha": name}
                save(tmp_path, name, method, [score, score], **test)
    result = report(inputs(tmp_path), tmp_path / "r")
    assert [(row.method, row.test_rows) for row in result.verdicts] == [
        ("eda (experiment=a)", 1000),
        ("eda (experiment=b)", 2000),
    ]


def test_no_name_is_shown_without_a_common_task(tmp_path: Path) -> None:
    save(tmp_path, "a", "none", [0.5, 0.5])
    save(tmp_path, "b", "none", [0.5, 0.5], task="rt20")
    result = report(inputs(tmp_path), tmp_path / "r")
    assert variants(result) == {("sst2", "none", ""), ("rt20", "none", "")}


def test_tasks_of_one_experiment_are_not_experiments(tmp_path: Path) -> None:
    """`sst2` is an experiment with the name of its task, `many` has a folder for each task."""
    save(tmp_path, "many", "none", [0.5, 0.5], one_of_tasks=True)
    save(tmp_path, "many", "none", [0.6, 0.6], task="rt20", one_of_tasks=True)
    alone = report(inputs(tmp_path), tmp_path / "report")
    assert {variant for _, _, variant in variants(alone)} == {""}
    save(tmp_path, "sst2", "none", [0.7, 0.7])
    assert variants(report(inputs(tmp_path), tmp_path / "r")) == {
        ("sst2", "none", "experiment=many"),
        ("rt20", "none", "experiment=many"),
        ("sst2", "none", "experiment=sst2"),
    }


def test_parts_of_one_experiment_on_two_machines_are_one(tmp_path: Path) -> None:
    save(tmp_path / "one", "films", "none", [0.5, 0.5])
    save(tmp_path / "two", "films", "none", [0.6, 0.6, 0.6], version="0.2")
    assert {variant for *_, variant in variants(report(inputs(tmp_path), tmp_path / "r"))} == {""}


def test_folds_of_experiments_are_merged_on_their_own(tmp_path: Path) -> None:
    for name, folds in (("a", 3), ("b", 4)):
        for seed in range(folds):
            save_fold(tmp_path, name, seed)
    result = report(inputs(tmp_path), tmp_path / "r")
    assert [(row.variant, row.n) for row in result.results] == [
        ("experiment=a", 3),
        ("experiment=b", 4),
    ]


def save_fold(out: Path, name: str, seed: int) -> None:
    cell = Cell("sst2", {}, "1%", seed)
    (row,) = seeds([0.5], test_sha=f"{name}{seed}")
    path = Layout(out, name).trials_path(TrialKey(cell, "none", "linear"))
    write_records(path, [row.model_copy(update={"data_seed": seed, "train_sha": f"s{seed}"})])


def test_one_copied_trial_is_singular(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_records(tmp_path / folder / "trials" / "none.linear.jsonl", seeds([0.5]))
    warnings: list[str] = []
    report(inputs(tmp_path), tmp_path / "r", callbacks=Callbacks(warn=warnings.append))
    assert warnings == ["1 trial is in two files; it counts once"]


def test_the_folder_of_an_experiment_is_that_of_the_layout(tmp_path: Path) -> None:
    layout = Layout(tmp_path, "films")
    for variant in ({}, {"augment.k": 2}):
        key = TrialKey(Cell("sst2", variant, "8/class", 0), "none", "linear")
        assert experiment_folder(layout.trials_path(key), variant, "8/class") == layout.root
    assert experiment_folder(tmp_path / "trials" / "all.jsonl", {}, "8/class") is None
