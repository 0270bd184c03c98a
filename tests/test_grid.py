"""The cells of an experiment, their trials and synthetic sets, and the steps of a run."""

from pathlib import Path

import pytest

from gpt3mix_cli.config import load_experiments
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.files import append
from gpt3mix_cli.grid import (
    AugmentStep,
    Grid,
    Step,
    SubsampleStep,
    TrainStep,
    check_known,
)
from gpt3mix_cli.grid.steps import cell_steps
from gpt3mix_cli.layout import Cell, TrialKey, journal_path
from gpt3mix_cli.records import Augmented, StageOptions, write_records
from gpt3mix_cli.settings import Experiment

SMALL = """\
name: small
task: {data: {kind: demo}, labels: [pos, neg]}
subsample: {levels: [0.1%, 8/class, full], seeds: 3}
baselines: [{kind: eda}]
classifiers: [{kind: linear}, {kind: linear, name: other, trials: 2}]
trials: 7
"""


def grid(tmp_path: Path, *overrides: str, text: str = SMALL) -> Grid:
    (tmp_path / "small.yaml").write_text(text)
    return Grid(load_experiments(tmp_path / "small.yaml", overrides), Path("results"))


def experiment(tmp_path: Path, *overrides: str) -> Experiment:
    return grid(tmp_path, *overrides).experiments[0]


def folders(grid: Grid, level: str | None = None, seed: int | None = None) -> list[str]:
    return [str(grid.layout.folder(cell)) for cell in grid.cells(level, seed)]


# Paths -------------------------------------------------------------------------------------------


def test_levels_and_seeds_make_the_paths_of_the_design(tmp_path: Path) -> None:
    paths = folders(grid(tmp_path))
    levels = ("0.1pct", "8-per-class", "full")
    assert paths == [f"results/small/{level}/seed-{seed}" for level in levels for seed in range(3)]


def test_files_of_a_cell_are_named_by_method_draw_and_classifier(tmp_path: Path) -> None:
    grid_ = grid(tmp_path)
    cell, layout = next(grid_.cells()), grid_.layout
    paths = [
        layout.train_path(cell),
        layout.synthetic_path(cell, "eda"),
        layout.synthetic_path(cell, "eda", 2),
        layout.trials_path(TrialKey(cell, "eda", "linear")),
    ]
    assert [str(path.relative_to(layout.folder(cell))) for path in paths] == [
        "train.jsonl",
        "eda.jsonl",
        "eda.draw-2.jsonl",
        "trials/eda.linear.jsonl",
    ]


def test_a_level_or_seed_that_is_not_listed_can_be_selected(tmp_path: Path) -> None:
    grid_ = grid(tmp_path)
    assert folders(grid_, "5%", 9) == ["results/small/5pct/seed-9"]
    assert [cell.data_seed for cell in grid_.cells("5%")] == [0, 1, 2]
    assert [cell.data_seed for cell in grid_.cells(data_seed=0)] == [0, 0, 0]  # seed 0 is a seed


def test_a_variant_is_key_value_pairs_in_the_order_of_the_sweep(tmp_path: Path) -> None:
    variants = grid(
        tmp_path,
        "sweep={augment.k: [1, 2], augment.selection: [uniform, balanced]}",
        "subsample.levels=[full]",
        "subsample.seeds=1",
    )
    assert folders(variants) == [
        f"results/small/augment.k={k},augment.selection={selection}/full/seed-0"
        for k in (1, 2)
        for selection in ("uniform", "balanced")
    ]


@pytest.mark.parametrize(
    "sweep",
    [
        "task.text_type: [a/b, a_b, a b, 'a,b', 'a=b', 'A:b', ..]",
        "task.labels: [[pos, neg], {pos: positive, neg: negative}, {pos: good, neg: bad}]",
        f"task.text_type: [{'x' * 50}1, {'x' * 50}2]",
        "augment.temperature: [0.1, 0.10000001, 1]",
        "subsample.levels: [[1%], [2%], [1%, 2%]]",
        "task.text_type: ['фильм', 'книга', 'été', 'e']",
    ],
)
def test_no_two_swept_values_have_the_same_folder_or_leave_the_results(
    tmp_path: Path, sweep: str
) -> None:
    swept = grid(tmp_path, f"sweep={{{sweep}}}")
    variants = {Path(folder).parent.parent for folder in folders(swept)}
    assert len(variants) == len(swept.experiments) > 1
    assert {folder.parent for folder in variants} == {Path("results/small")}
    assert all(len(folder.name.encode()) < 200 for folder in variants)


def test_variants_of_two_keys_have_different_folders(tmp_path: Path) -> None:
    swept = grid(
        tmp_path,
        "sweep={task.text_type: [x, 'x,task.label_type=y'], "
        "task.label_type: [z, 'y,task.label_type=z']}",
    )
    assert len(set(folders(swept, "full", 0))) == 4


def test_a_cell_finds_its_variant(tmp_path: Path) -> None:
    swept = grid(tmp_path, "sweep={augment.ratio: [1, 2]}")
    ratios = [swept.experiment(cell).augment.ratio for cell in swept.cells("full", 0)]
    assert ratios == [1, 2]


# Trials and synthetic sets -----------------------------------------------------------------------


def test_trials_are_assigned_to_the_seeds_round_robin(tmp_path: Path) -> None:
    experiment_ = experiment(tmp_path)
    trials = {
        seed: [trial for trial, _ in experiment_.trials_for(experiment_.classifiers[0], seed)]
        for seed in range(3)
    }
    assert trials == {0: [0, 3, 6], 1: [1, 4], 2: [2, 5]}
    assert sorted(trial for numbers in trials.values() for trial in numbers) == list(range(7))


def test_a_classifiers_own_trials_win(tmp_path: Path) -> None:
    experiment_ = experiment(tmp_path)
    other = experiment_.classifiers[1]
    assert [experiment_.trials_for(other, seed) for seed in range(3)] == [[(0, 0)], [(1, 0)], []]


def test_a_seed_that_is_not_listed_gets_as_many_trials_as_a_listed_one(tmp_path: Path) -> None:
    experiment_ = experiment(tmp_path)
    assert [trial for trial, _ in experiment_.trials_for(experiment_.classifiers[0], 99)] == [
        0,
        3,
        6,
    ]


def test_seeds_given_as_a_list_keep_their_order(tmp_path: Path) -> None:
    experiment_ = experiment(tmp_path, "subsample.seeds=[5, 0]")
    trials = {seed: [trial for trial, _ in experiment_.trials_for(None, seed)] for seed in (5, 0)}
    assert trials == {5: [0, 2, 4, 6], 0: [1, 3, 5]}


@pytest.mark.parametrize(
    ("sets", "expected"),
    [("1", [0, 0, 0]), ("2", [0, 1, 0]), ("3", [0, 1, 2]), ("per-trial", [0, 1, 2])],
)
def test_synthetic_sets_say_which_trials_have_the_same_draw(
    tmp_path: Path, sets: str, expected: list[int]
) -> None:
    experiment_ = experiment(tmp_path, f"augment.synthetic_sets={sets}")
    assert [draw for _, draw in experiment_.trials_for(experiment_.classifiers[0], 0)] == expected
    assert experiment_.draws_for(0) == sorted(set(expected))


def test_no_synthetic_set_is_written_that_no_trial_reads(tmp_path: Path) -> None:
    few = "augment.synthetic_sets=3", "trials=2"
    assert experiment(tmp_path, *few).draws_for(0) == [0]
    assert experiment(tmp_path, *few, "classifiers=[]").draws_for(0) == [0]


# Methods -----------------------------------------------------------------------------------------


def test_an_unknown_method_or_baseline_names_the_known_ones(tmp_path: Path) -> None:
    experiment_ = experiment(tmp_path)
    check_known("method", "none", experiment_.methods)
    assert experiment_.baseline("eda").kind == "eda"
    with pytest.raises(UserError, match="no method 'gpt3mix'") as caught:
        check_known("method", "gpt3mix", experiment_.methods)
    assert "none, eda" in caught.value.hint
    with pytest.raises(UserError, match="no baseline 'edaa'") as caught:
        experiment_.baseline("edaa")
    assert "eda" in caught.value.hint


def test_rows_of_a_file_name_their_method_or_the_file_does(tmp_path: Path) -> None:
    row = Augmented(id="a", text="b", label="pos", probs={"pos": 1.0, "neg": 0.0})
    write_records(tmp_path / "mine.jsonl", [row])
    write_records(tmp_path / "theirs.jsonl", [row.model_copy(update={"method": "eda"})])
    append(tmp_path / "empty.jsonl", "")
    assert [
        grid(tmp_path).method_of([tmp_path / f"{name}.jsonl"])
        for name in ("mine", "theirs", "empty")
    ] == ["mine", "eda", "empty"]


def test_a_method_that_a_row_names_cannot_leave_the_results(tmp_path: Path) -> None:
    row = Augmented(
        id="a",
        text="b",
        label="pos",
        probs={"pos": 1.0, "neg": 0.0},
        method="../../../../../outside",
    )
    write_records(tmp_path / "mine.jsonl", [row])
    with pytest.raises(UserError, match="cannot be the name of a method"):
        grid(tmp_path).method_of([tmp_path / "mine.jsonl"])


# Steps -------------------------------------------------------------------------------------------


def test_a_run_has_every_stage_of_every_cell_in_order(tmp_path: Path) -> None:
    grid_ = grid(
        tmp_path,
        "subsample.levels=[full]",
        "subsample.seeds=3",
        "trials=2",
        "augment.synthetic_sets=per-trial",
        "classifiers=[{kind: linear}]",
    )
    steps = [step for cell in grid_.cells() for step in cell_steps(grid_.experiment(cell), cell)]
    first, *_ = grid_.cells()
    linear = grid_.experiments[0].classifiers[0]
    assert steps[:4] == [
        SubsampleStep(first),
        TrainStep(first, "none", linear),
        AugmentStep(first, "eda", 0),
        TrainStep(first, "eda", linear),
    ]
    trained = [step.cell.data_seed for step in steps if isinstance(step, TrainStep)]
    assert trained == [0, 0, 1, 1]


def test_a_missing_subsample_names_the_command_that_draws_it(tmp_path: Path) -> None:
    grid_ = grid(tmp_path)
    with pytest.raises(UserError, match="no such file") as caught:
        grid_.augment(next(grid_.cells("8/class", 1)), "eda", 0)
    assert "gpt3mix subsample CONFIG --level 8/class --seed 1" in caught.value.hint


def test_a_sweep_over_the_ratio_asks_the_lm_once_and_low_ratios_begin_high_ones(
    tmp_path: Path, config: Path
) -> None:
    """The learning curve: the answers for the highest ratio serve the others."""
    sweep = [
        "sweep={augment.ratio: [2, 1]}",
        "lm.batch_size=4",
        "subsample.seeds=1",
        "classifiers=[{kind: linear}]",
        "trials=1",
        "baselines=[]",
        "augment.label_prior=none",  # matched labels depend on the number of rows
        "augment.label_check=0",
    ]
    grid_ = Grid(load_experiments(config, sweep), tmp_path / "results")
    high, low = grid_.cells()
    for cell in (high, low):
        grid_.subsample(cell)
    grid_.augment(high, "gpt3mix", 0)
    lm = grid_.resources.lm(grid_.experiment(low))

    def fail(requests: object) -> object:
        raise AssertionError("the LM was asked again")

    lm.complete = fail  # type: ignore[method-assign,assignment]
    grid_.augment(low, "gpt3mix", 0)
    high_path, low_path = (grid_.layout.synthetic_path(cell, "gpt3mix") for cell in (high, low))
    rows = low_path.read_text().splitlines()
    assert len(rows) == 8
    assert rows == high_path.read_text().splitlines()[:8]
    # Its journal is complete: without the other one the same rows are written.
    grid_.augment(high, "gpt3mix", 0)
    journal_path(high_path).unlink()
    grid_.options = StageOptions(force=True)
    grid_.augment(low, "gpt3mix", 0)
    assert low_path.read_text().splitlines() == rows


def test_labels_by_the_lm_come_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the budget ends, rows were paid for before the classifier they are compared with."""
    steps: list[Step] = []
    monkeypatch.setattr(Grid, "run_steps", lambda self, all_, name: iter(steps.extend(all_) or []))
    list(
        grid(
            tmp_path,
            "lm.kind=local",
            "subsample.seeds=2",
            "classifiers=[{kind: prompt}, {kind: linear}]",
        ).run()
    )
    prompts = [isinstance(step, TrainStep) and step.classifier.uses_lm for step in steps]
    assert any(isinstance(step, AugmentStep) for step in steps)
    assert any(prompts)
    assert prompts == sorted(prompts)


# Sweeps ------------------------------------------------------------------------------------------


def test_a_sweep_may_change_the_methods_and_the_name(tmp_path: Path) -> None:
    sweep = "sweep: {baselines.0.kind: [eda, aeda], name: [a, b]}"
    grid_ = grid(tmp_path, "subsample.levels=[8/class]", text=f"{SMALL}{sweep}\n")
    eda = next(cell for cell in grid_.cells() if cell.variant["baselines.0.kind"] == "eda")
    paths = grid_.synthetic_paths_of_variants(eda, "eda", 0)
    assert {path.parts[1] for path in paths} == {"a", "b"}
    assert all("baselines.0.kind=eda" in str(path) for path in paths)


# Finished trials ---------------------------------------------------------------------------------

RESIZED = "augment.ratio=2"


@pytest.mark.parametrize(
    ("overrides", "change"),
    [
        ([RESIZED], "augment.ratio 1 -> 2"),
        (["augment.ratio=0.5"], "augment.ratio 1 -> 0.5"),
        (["augment.synthetic_sets=2"], "trial 1 has read set 0 and is to read set 1"),
        (["trials=3"], ""),
        (["name=other", RESIZED], ""),
        (["sweep={augment.ratio: [1, 2]}"], ""),
    ],
)
def test_rows_that_finished_trials_have_read_are_kept_before_anything_is_made(
    tmp_path: Path, overrides: list[str], change: str
) -> None:
    small = ("subsample={levels: [2/class], seeds: 1}", "trials=2", "classifiers=[{kind: linear}]")

    def run(*more: str, force: bool = False) -> None:
        grid_ = grid(tmp_path, *small, *more)
        grid_ = Grid(grid_.experiments, tmp_path, StageOptions(force=force), jobs=1)
        list(grid_.run_steps([step for cell in grid_.cells() for step in steps(grid_, cell)], ""))

    def steps(grid_: Grid, cell: Cell) -> list[Step]:
        return [*cell_steps(grid_.experiment(cell), cell)]

    run()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    if not change:
        run(*overrides)
        assert len(set(tmp_path.rglob("*.jsonl"))) >= len(before)
        return
    with pytest.raises(UserError, match=change) as caught:
        run(*overrides)
    assert "--force" in caught.value.hint
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")} == before
    run(*overrides, force=True)
    changed = [path for path, content in before.items() if path.read_bytes() != content]
    assert any(path.parent.name == "trials" for path in changed)
