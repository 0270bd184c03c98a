"""Where files stand, how trials are dealt, and which cells an experiment has."""

from pathlib import Path
from typing import Any

import pytest

from gpt3mix_cli.config import load
from gpt3mix_cli.errors import UserError
from gpt3mix_cli.files import append
from gpt3mix_cli.grid import Grid, Spot, baseline_of, method_known
from gpt3mix_cli.records import Augmented, write_records

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
    return Grid(load(tmp_path / "small.yaml", overrides), Path("results"))


def spot(tmp_path: Path, *overrides: str, seed: int = 0) -> Spot:
    return next(grid(tmp_path, *overrides).spots(seed=seed))


# Paths ---------------------------------------------------------------------------------------------------------------


def test_levels_and_seeds_make_the_paths_of_the_design(tmp_path: Path) -> None:
    found = [str(one.folder) for one in grid(tmp_path).spots()]
    levels = ("0.1pct", "8-per-class", "full")
    assert found == [f"results/small/{level}/seed-{seed}" for level in levels for seed in range(3)]


def test_files_of_a_cell_are_named_by_method_draw_and_classifier(tmp_path: Path) -> None:
    one = spot(tmp_path)
    names = [
        one.real,
        one.synthetic("eda", 0),
        one.synthetic("eda", 2),
        one.trials("eda", "linear"),
    ]
    assert [str(path.relative_to(one.folder)) for path in names] == [
        "train.jsonl",
        "eda.jsonl",
        "eda.draw-2.jsonl",
        "trials/eda.linear.jsonl",
    ]


def test_a_level_or_seed_that_is_not_listed_can_be_asked_for(tmp_path: Path) -> None:
    assert [str(one.folder) for one in grid(tmp_path).spots("5%", 9)] == [
        "results/small/5pct/seed-9"
    ]
    assert [one.seed for one in grid(tmp_path).spots("5%")] == [0, 1, 2]
    assert [one.seed for one in grid(tmp_path).spots(seed=0)] == [0, 0, 0]  # seed 0 is a seed


def test_a_variant_is_key_value_pairs_in_the_order_of_the_sweep(tmp_path: Path) -> None:
    variants = grid(
        tmp_path,
        "sweep={augment.k: [1, 2], augment.selection: [uniform, balanced]}",
        "subsample.levels=[full]",
        "subsample.seeds=1",
    )
    assert [str(one.folder) for one in variants.spots()] == [
        f"results/small/augment.k={k},augment.selection={how}/full/seed-0"
        for k in (1, 2)
        for how in ("uniform", "balanced")
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
def test_no_two_swept_values_share_a_folder_or_leave_the_results(
    tmp_path: Path, sweep: str
) -> None:
    found = grid(tmp_path, f"sweep={{{sweep}}}")
    folders = {one.folder.parent.parent for one in found.spots()}
    assert len(folders) == len(found.experiments) > 1
    assert {folder.parent for folder in folders} == {Path("results/small")}
    assert all(len(folder.name.encode()) < 200 for folder in folders)


def test_the_variants_of_two_keys_are_told_apart(tmp_path: Path) -> None:
    sweep = "sweep={task.text_type: [x, 'x,task.label_type=y'], task.label_type: [z, 'y,task.label_type=z']}"
    found = grid(tmp_path, sweep)
    assert len({one.folder for one in found.spots("full", 0)}) == 4


# Trials and draws ----------------------------------------------------------------------------------------------------


def test_trials_go_round_the_seeds(tmp_path: Path) -> None:
    one = grid(tmp_path)
    first = one.experiments[0].classifiers[0]
    found = {each.seed: [trial for trial, _ in each.dealt(first)] for each in one.spots("full")}
    assert found == {0: [0, 3, 6], 1: [1, 4], 2: [2, 5]}
    assert sorted(trial for trials in found.values() for trial in trials) == list(range(7))


def test_a_classifiers_own_trials_win(tmp_path: Path) -> None:
    one = grid(tmp_path)
    other = one.experiments[0].classifiers[1]
    assert [each.dealt(other) for each in one.spots("full")] == [[(0, 0)], [(1, 0)], []]


def test_a_seed_that_is_not_listed_gets_as_many_trials_as_a_listed_one(tmp_path: Path) -> None:
    one = spot(tmp_path, seed=99)
    assert [trial for trial, _ in one.dealt(one.experiment.classifiers[0])] == [0, 3, 6]


def test_seeds_given_as_a_list_keep_their_places(tmp_path: Path) -> None:
    one = grid(tmp_path, "subsample.seeds=[5, 0]")
    found = {each.seed: [trial for trial, _ in each.dealt(None)] for each in one.spots("full")}
    assert found == {5: [0, 2, 4, 6], 0: [1, 3, 5]}


@pytest.mark.parametrize(
    ("draws", "expected"),
    [("1", [0, 0, 0]), ("2", [0, 1, 0]), ("3", [0, 1, 2]), ("per-trial", [0, 1, 2])],
)
def test_draws_say_which_trials_share_a_synthetic_set(
    tmp_path: Path, draws: str, expected: list[int]
) -> None:
    one = spot(tmp_path, f"augment.synthetic_sets={draws}")
    assert [draw for _, draw in one.dealt(one.experiment.classifiers[0])] == expected
    assert one.draws() == sorted(set(expected))


def test_no_draw_is_made_that_no_trial_uses(tmp_path: Path) -> None:
    assert spot(tmp_path, "augment.synthetic_sets=3", "trials=2").draws() == [0]
    assert spot(tmp_path, "augment.synthetic_sets=3", "trials=2", "classifiers=[]").draws() == [0]


# Methods -------------------------------------------------------------------------------------------------------------


def test_an_unknown_method_or_baseline_names_the_known_ones(tmp_path: Path) -> None:
    experiment = grid(tmp_path).experiments[0]
    assert method_known(experiment, "none") == "none"
    assert baseline_of(experiment, "eda").kind == "eda"
    with pytest.raises(UserError, match="no method 'gpt3mix'") as caught:
        method_known(experiment, "gpt3mix")
    assert "none, eda" in caught.value.hint
    with pytest.raises(UserError, match="no baseline 'edaa'") as caught:
        baseline_of(experiment, "edaa")
    assert "eda" in caught.value.hint


def test_rows_of_a_file_name_their_method_or_the_file_does(tmp_path: Path) -> None:
    row = Augmented(id="a", text="b", label="pos", probs={"pos": 1.0, "neg": 0.0})
    write_records(tmp_path / "mine.jsonl", [row])
    write_records(tmp_path / "theirs.jsonl", [row.model_copy(update={"method": "eda"})])
    append(tmp_path / "empty.jsonl", "")
    assert [
        grid(tmp_path).added_method([tmp_path / f"{name}.jsonl"])
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
        grid(tmp_path).added_method([tmp_path / "mine.jsonl"])


# Steps ---------------------------------------------------------------------------------------------------------------


def test_a_run_makes_every_stage_of_every_cell_in_order(tmp_path: Path) -> None:
    one = grid(
        tmp_path,
        "subsample.levels=[full]",
        "subsample.seeds=3",
        "trials=2",
        "augment.synthetic_sets=per-trial",
        "classifiers=[{kind: linear}]",
    )
    found = [
        (stage, each.seed, *((a[0].method, a[0].classifier.name) if stage == "train" else a[1:]))
        for each in one.spots()
        for stage, a in one._steps(each)
    ]
    first = [
        ("subsample", 0),
        ("train", 0, "none", "linear"),
        ("augment", 0, "eda", 0),
        ("train", 0, "eda", "linear"),
    ]
    assert found[:4] == first
    assert [step[1] for step in found if step[0] == "train"] == [0, 0, 1, 1]


def test_a_missing_subsample_names_the_command_that_draws_it(tmp_path: Path) -> None:
    one = grid(tmp_path)
    with pytest.raises(UserError, match="no such file") as caught:
        one.augment(next(one.spots("8/class", 1)), "eda", 0)
    assert "gpt3mix subsample CONFIG --level 8/class --seed 1" in caught.value.hint


def test_a_sweep_over_the_ratio_asks_the_lm_once_and_lower_ratios_are_the_beginning_of_higher_ones(
    tmp_path: Path, config: Path
) -> None:
    """The learning curve: what the highest ratio was answered serves the others."""
    sweep = [
        "sweep={augment.ratio: [2, 1]}",
        "lm.batch_size=4",
        "subsample.seeds=1",
        "classifiers=[{kind: linear}]",
        "trials=1",
        "baselines=[]",
    ]
    one = Grid(load(config, sweep), tmp_path / "results")
    high, low = one.spots()
    for spot in (high, low):
        one.subsample(spot)
    one.augment(high, "gpt3mix", 0)
    lm = one.resources.lm(low.experiment)

    def unasked(requests: object) -> object:
        raise AssertionError("the LM was asked again")

    lm.complete = unasked  # type: ignore[method-assign,assignment]
    one.augment(low, "gpt3mix", 0)
    rows = low.synthetic("gpt3mix", 0).read_text().splitlines()
    assert len(rows) == 8
    assert rows == high.synthetic("gpt3mix", 0).read_text().splitlines()[:8]
    # Its journal stands on its own: with the sibling gone the same rows come out.
    one.augment(high, "gpt3mix", 0)
    high.synthetic("gpt3mix", 0).with_name("gpt3mix.journal.sqlite").unlink()
    one.force = True
    one.augment(low, "gpt3mix", 0)
    assert low.synthetic("gpt3mix", 0).read_text().splitlines() == rows


def test_labels_that_are_asked_for_come_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a budget ends, the rows were paid for before the classifier that they are compared with."""
    steps: list[tuple[str, tuple[Any, ...]]] = []
    monkeypatch.setattr(Grid, "_all", lambda self, found, name: iter(steps.extend(found) or []))
    list(
        grid(
            tmp_path,
            "lm.kind=local",
            "subsample.seeds=2",
            "classifiers=[{kind: prompt}, {kind: linear}]",
        ).run()
    )
    kinds = [
        arguments[0].classifier.kind if stage == "train" else stage for stage, arguments in steps
    ]
    assert "augment" in kinds
    assert kinds.index("prompt") == len(kinds) - kinds.count("prompt")
