"""Which cells and trainings a command works on; one file can serve one of them only."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from ..errors import UserError
from ..files import STDIO
from ..layout import Cell
from ..settings import Experiment, parse_level
from .row_reader import check_method_name
from .runner import Grid
from .steps import REAL_ROWS_ONLY, TrainStep


def select_cells(
    grid: Grid,
    level: str | None = None,
    seed: int | None = None,
    input: Path | None = None,
    output: Path | None = None,
) -> list[Cell]:
    """Return the selected cells; with an input or output file, exactly one.

    Args:
        grid: the grid.
        level: one level; None for every level of the config.
        seed: one data seed; None for every seed of the config.
        input: real rows in place of the subsample.
        output: where to write in place of the default.

    Raises:
        UserError: if the level is invalid, or one file would serve several cells.
    """
    try:
        _ = level and parse_level(level)
    except ValueError as error:
        raise UserError(f"--level {level}: {error}", "write 0.1%, 8/class or full") from None
    cells = list(grid.cells(level, seed))
    if seed is not None and seed not in grid.experiments[0].subsample.seeds:
        grid.callbacks.warn(
            f"data seed {seed} is not listed in subsample.seeds; "
            "it is used now, but `run` and `report CONFIG` leave it out"
        )
    if input and output and len(grid.experiments) == 1:
        return cells[:1]  # with both files given, level and seed are only names
    if (output or input) and len(cells) != 1:
        tasks = grid.experiments[0].tasks
        of_task = f", and a task with --set tasks=[{tasks[0]}]" if len(tasks) > 1 else ""
        raise UserError(
            f"{'-o' if output else '-i'} names one file, but the config has {len(cells)} cells",
            f"choose one with --level and --seed{of_task}",
        )
    return cells


def select_trainings(
    grid: Grid,
    cells: Sequence[Cell],
    methods: Sequence[str] = (),
    classifiers: Sequence[str] = (),
    augmented: Sequence[Path] = (),
) -> list[TrainStep]:
    """Return the trainings of some cells.

    Args:
        grid: the grid.
        cells: the cells.
        methods: names of methods; empty for all of the config.
        classifiers: names of classifiers; empty for all of the config.
        augmented: files of synthetic rows in place of the methods' own.

    Raises:
        UserError: if there is none, or a name is unknown.
    """
    known = [item.name for variant in grid.experiments for item in variant.classifiers]
    if not known:
        raise UserError(
            "`classifiers:` is empty, so there is nothing to train",
            "add for example classifiers: [{kind: linear}]",
        )
    for name in classifiers:
        check_known("classifier", name, known)
    steps, skipped = list[TrainStep](), dict[str, None]()
    for cell in cells:
        experiment = grid.experiment(cell)
        names = _methods(grid, experiment, methods, augmented)
        for method, classifier in itertools.product(names, experiment.classifiers):
            chosen = not classifiers or classifier.name in classifiers
            if not chosen or not experiment.trials_for(classifier, cell.data_seed):
                continue
            if experiment.accepts(method, classifier):
                steps.append(TrainStep(cell, method, classifier, augmented=augmented))
            else:
                skipped[classifier.name] = None
    for name in skipped:
        grid.callbacks.warn(f"classifier '{name}' {REAL_ROWS_ONLY}")
    if not steps:
        _refuse_empty(list(skipped))
    return steps


def _refuse_empty(skipped: Sequence[str]) -> NoReturn:
    if skipped:
        raise UserError(
            f"nothing to do: classifier '{skipped[0]}' {REAL_ROWS_ONLY}",
            "give --method none, or another --classifier",
        )
    raise UserError(
        "this data seed has no trials: trials are assigned to the data seeds round-robin",
        "raise trials, or list fewer seeds",
    )


def with_files(
    steps: Sequence[TrainStep], input: Path | None, output: Path | None, save_model: Path | None
) -> list[TrainStep]:
    """Return the trainings with files in place of the default ones.

    Raises:
        UserError: if one file would serve several, or the model cannot be saved.
    """
    outputs = (("-o names one file", output), ("--save-model names one folder", save_model))
    for problem, path in outputs:
        if path and len(steps) > 1:
            raise UserError(
                f"{problem}, but {len(steps)} trials files are selected",
                "select one with --level, --seed, --method and --classifier",
            )
    if save_model:
        from ..train.saved_models import check_save_folder

        check_save_folder(save_model)
        if output == STDIO:
            raise UserError(
                "--save-model needs the trials in a file, not on stdout", "leave out -o -"
            )
    return [replace(step, input=input, output=output, save_model=save_model) for step in steps]


def check_known(kind: str, name: str, names: Sequence[str]) -> None:
    """Check that the config has a method or classifier of this name.

    Raises:
        UserError: if it does not.
    """
    if name not in names:
        listed = ", ".join(dict.fromkeys(names))
        raise UserError(f"the config has no {kind} '{name}'", f"its {kind}s: {listed}")


def _methods(
    grid: Grid, experiment: Experiment, names: Sequence[str], augmented: Sequence[Path]
) -> Sequence[str]:
    known = [method for variant in grid.experiments for method in variant.methods]
    for name in names:
        if augmented:
            check_method_name(name)
        else:
            check_known("method", name, known)
    if augmented:
        return names or [grid.method_of(augmented)]
    return [name for name in names or experiment.methods if name in experiment.methods]
