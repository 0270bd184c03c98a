"""Paths of results, and the way back from a trials file to its cell."""

import os
from pathlib import Path

import pytest

from gpt3mix_cli.layout import (
    Cell,
    Layout,
    TrialKey,
    card_path,
    cell_folder,
    find_trials,
    history_path,
    journal_path,
    level_name,
    manifest_path,
    rejects_path,
    synthetic_paths,
    tensorboard_folder,
    variant_name,
)

LAYOUT = Layout(Path("results"), "sst2")
CELL = Cell("sst2", {}, "1%", 3)
SWEPT = Cell("sst2", {"augment.k": 2, "augment.selection": "nearest"}, "8/class", 0)


@pytest.mark.parametrize(
    ("level", "name"), [("0.1%", "0.1pct"), ("8/class", "8-per-class"), ("full", "full")]
)
def test_a_level_is_a_folder_name(level: str, name: str) -> None:
    assert level_name(level) == name


@pytest.mark.parametrize(
    ("variant", "text"),
    [
        ({}, ""),
        ({"augment.k": 2, "augment.ratio": 0.5}, "augment.k=2, augment.ratio=0.5"),
        ({"lm": {"kind": "local"}}, 'lm={"kind": "local"}'),
        ({"task.text_type": "Kritik ä"}, "task.text_type=Kritik ä"),
    ],
)
def test_a_variant_as_text(variant: dict[str, object], text: str) -> None:
    assert variant_name(variant) == text


def test_the_files_of_a_cell() -> None:
    folder = Path("results/sst2/1pct/seed-3")
    assert LAYOUT.folder(CELL) == folder
    assert LAYOUT.train_path(CELL) == folder / "train.jsonl"
    assert LAYOUT.synthetic_path(CELL, "eda") == folder / "eda.jsonl"
    assert LAYOUT.synthetic_path(CELL, "eda", 4) == folder / "eda.draw-4.jsonl"
    assert LAYOUT.trials_path(TrialKey(CELL, "eda", "linear")) == folder / "trials/eda.linear.jsonl"
    assert LAYOUT.report_folder == Path("results/sst2/report")


def test_a_variant_is_a_folder_between_experiment_and_level() -> None:
    variant = "augment.k=2,augment.selection=nearest"
    assert LAYOUT.folder(SWEPT) == Path("results/sst2") / variant / "8-per-class/seed-0"


def test_companion_files_are_named_after_their_file() -> None:
    path = Path("a/eda.draw-1.jsonl")
    names = [
        companion(path).name
        for companion in (manifest_path, rejects_path, journal_path, card_path, history_path)
    ]
    assert names == [
        "eda.draw-1.jsonl.manifest.json",
        "eda.draw-1.rejects.jsonl",
        "eda.draw-1.journal.sqlite",
        "eda.draw-1.card.md",
        "eda.draw-1.history.jsonl",
    ]


def test_cells_are_equal_by_value_and_have_a_hash() -> None:
    same = Cell("sst2", {"augment.k": 2, "augment.selection": "nearest"}, "8/class", 0)
    assert same == SWEPT
    assert {SWEPT: 1}[same] == 1
    assert CELL != SWEPT


def test_names_in_progress_bars() -> None:
    assert str(CELL) == "1% seed 3"
    assert str(TrialKey(CELL, "eda", "linear")) == "1% seed 3 eda + linear"
    assert str(SWEPT) == "augment.k=2, augment.selection=nearest 8/class seed 0"


def test_trials_are_found_below_a_folder_without_their_histories(tmp_path: Path) -> None:
    layout = Layout(tmp_path, "sst2")
    paths = [layout.trials_path(TrialKey(cell, "eda", "linear")) for cell in (CELL, SWEPT)]
    paths.append(tmp_path / "published" / "trials.jsonl")
    for path in paths:
        path.parent.mkdir(parents=True)
        path.touch()
        history_path(path).touch()
    layout.train_path(CELL).touch()
    assert find_trials(tmp_path) == sorted(paths)
    assert find_trials(paths[0].parent) == [paths[0]]


def test_a_trials_file_leads_to_its_cell_and_its_synthetic_sets(tmp_path: Path) -> None:
    layout = Layout(tmp_path, "sst2")
    trials = layout.trials_path(TrialKey(CELL, "eda", "linear"))
    trials.parent.mkdir(parents=True)
    names = ["eda", "eda.draw-2", "eda.draw-x", "eda.rejects", "eda2"]
    for name in names:
        (layout.folder(CELL) / f"{name}.jsonl").touch()
    folder = cell_folder(trials)
    assert folder == layout.folder(CELL)
    assert list(synthetic_paths(folder, "eda")) == [
        (0, layout.synthetic_path(CELL, "eda")),
        (2, layout.synthetic_path(CELL, "eda", 2)),
    ]
    assert cell_folder(tmp_path / "published" / "trials.jsonl") is None


@pytest.mark.parametrize(
    "method", ["../eda", "../../private/rows", "/etc/rows", "*", "", "a" * 300]
)
def test_a_method_that_is_no_name_has_no_synthetic_sets(tmp_path: Path, method: str) -> None:
    """Trials may come from others: their method must not lead to another folder."""
    for path in ("a/b/seed-0/eda.draw-1.jsonl", "a/b/eda.jsonl", "a/private/rows.jsonl"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert list(synthetic_paths(tmp_path / "a/b/seed-0", method)) == []


def test_a_pipe_or_a_link_in_a_circle_is_no_trials_file(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    os.mkfifo(tmp_path / "trials" / "eda.linear.jsonl")
    (tmp_path / "trials" / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "trials" / "zero.jsonl").symlink_to("/dev/zero")
    assert find_trials(tmp_path) == []


def test_a_variant_is_one_folder_of_a_possible_length(tmp_path: Path) -> None:
    keys = {f"lm.extra.{'key' * 10}-{number}/../x": number for number in range(20)}
    names = [variant_name(keys | {"trials": trials}, as_path=True) for trials in (1, 2)]
    assert names[0] != names[1]
    for name in names:
        (tmp_path / name).mkdir()
    assert len(list(tmp_path.iterdir())) == 2


def test_journals_of_all_cells_are_found(tmp_path: Path) -> None:
    layout = Layout(tmp_path, "sst2")
    paths = [
        journal_path(layout.synthetic_path(SWEPT, "gpt3mix")),
        journal_path(layout.trials_path(TrialKey(CELL, "none", "prompt"))),
    ]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.touch()
    assert layout.journals() == sorted(paths)
    assert Layout(tmp_path, "other").journals() == []


def test_tensorboard_has_a_folder_for_each_trial() -> None:
    folder = tensorboard_folder(Path("runs"), TrialKey(SWEPT, "eda", "linear"), 7)
    variant = "augment.k=2,augment.selection=nearest"
    assert folder == Path("runs") / variant / "eda/linear/8-per-class-trial-7"


def test_journals_like_an_outputs_are_those_of_other_levels_seeds_and_draws(tmp_path: Path) -> None:
    layout = Layout(tmp_path, "x")
    cells = [Cell("t", {}, level, seed) for level in ("1%", "full") for seed in (0, 1)]
    other = Cell("t", {"augment.k": 4}, "1%", 0)
    sets = [layout.synthetic_path(cell, "gpt3mix", draw) for cell in cells for draw in (0, 1)]
    trials = [layout.trials_path(TrialKey(cell, "none", "prompt")) for cell in cells]
    elsewhere = [
        layout.synthetic_path(other, "gpt3mix"),
        layout.synthetic_path(cells[0], "paraphrase"),
    ]
    for path in map(journal_path, (*sets, *trials, *elsewhere)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert sorted(layout.journals_like(sets[0])) == sorted(map(journal_path, sets))
    assert sorted(layout.journals_like(trials[0])) == sorted(map(journal_path, trials))
    assert layout.journals_like(elsewhere[0]) == [journal_path(elsewhere[0])]
