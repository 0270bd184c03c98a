"""The `next:` of a command: the command line that comes after it, with the same options."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .cli_options import RESULTS, STREAM, GridOptions

if TYPE_CHECKING:
    from .grid import Grid
    from .layout import Cell

Flags = Sequence[tuple[str, object]]


def command_line(
    stage: str, options: GridOptions, flags: Flags = (), *, others: Sequence[Path] = ()
) -> str:
    """Return a command on the config of another one, with its `--out` and `--set`.

    Args:
        stage: name of the command.
        options: of the command that was given.
        flags: name and value of further options; those without a value are left out.
        others: further configs, for a command that takes several.
    """
    out = options.out if options.out != RESULTS else None
    words = ["gpt3mix", stage, str(options.config), *map(str, others)]
    common = [("--out", out), *(("--set", value) for value in options.overrides)]
    for name, value in [*flags, *common]:
        if value is not None:
            words += [name, str(value)]
    return shlex.join(words)


def next_command(
    grid: "Grid",
    options: GridOptions,
    cells: "Sequence[Cell]",
    level: str | None = None,
    seed: int | None = None,
) -> str:
    """Return the command of the first stage that some cells still lack; `report` if they have all.

    Args:
        grid: the grid.
        options: of the command that was given.
        cells: the cells that it was for.
        level: as it was given.
        seed: as it was given.
    """
    chosen: Flags = [("--level", level), ("--seed", seed)]
    if any(not grid.layout.train_path(cell).exists() for cell in cells):
        return command_line("subsample", options, chosen)
    for method in grid.experiments[0].methods:
        if any(_lacks_rows(grid, cell, method) for cell in cells):
            if method == "gpt3mix":
                return command_line("augment", options, chosen)
            return command_line("baseline", options, [("--method", method), *chosen])
    if any(_lacks_trials(grid, cell) for cell in cells):
        return command_line("train", options, chosen)
    return command_line("report", options) if grid.experiments[0].classifiers else ""


def after_rows(
    grid: "Grid",
    options: GridOptions,
    cells: "Sequence[Cell]",
    method: str,
    chosen: tuple[str | None, int | None],
    files: tuple[Path | None, Path | None],
) -> str:
    """Return the command after `augment` and `baseline`.

    Args:
        grid: the grid.
        options: of the command.
        cells: that it was for.
        method: that wrote the rows.
        chosen: its `--level` and `--seed`.
        files: its `-i` and `-o`; rows in a file of their own are given to `train`.
    """
    level, seed = chosen
    input, output = files
    if output is None and input is None:
        return next_command(grid, options, cells, level, seed)
    if STREAM in (input, output) or not grid.experiments[0].classifiers:
        return ""
    output = output or grid.layout.synthetic_path(cells[0], method, 0)
    own: Flags = [("-i", input), ("-a", output), ("--level", level), ("--seed", seed)]
    return command_line("train", options, own)


def after_train(
    options: GridOptions, trials: int | None, output: Path | None, model: Path | None
) -> str:
    """Return the command after `train`.

    Args:
        options: of the command.
        trials: its `--trials`.
        output: its `-o`.
        model: its `--save-model`.
    """
    if model:
        return f"gpt3mix predict {shlex.quote(str(model))} -i FILE -o FILE"
    if output is None:
        return command_line("report", options, [("--set", trials and f"trials={trials}")])
    return "" if output == STREAM else shlex.join(["gpt3mix", "report", str(output)])


def after_subsample(
    grid: "Grid",
    options: GridOptions,
    cells: "Sequence[Cell]",
    chosen: tuple[str | None, int | None],
    output: Path | None,
) -> str:
    """Return the command after `subsample`; `output` is its `-o`, which the next one reads."""
    level, seed = chosen
    if output is None:
        return next_command(grid, options, cells, level, seed)
    experiment = grid.experiments[0]
    own: Flags = [("-i", output), ("--level", level), ("--seed", seed)]
    if output == STREAM:
        return ""
    if experiment.lm:
        return command_line("augment", options, own)
    if experiment.baselines:
        return command_line("baseline", options, [("--method", experiment.baselines[0].name), *own])
    return command_line("train", options, own) if experiment.classifiers else ""


def _lacks_rows(grid: "Grid", cell: "Cell", method: str) -> bool:
    experiment, seed = grid.experiment(cell), cell.data_seed
    if method not in experiment.methods or not experiment.needs_augmentation(method, seed):
        return False
    draws = experiment.draws_for(seed)
    return any(not grid.layout.synthetic_path(cell, method, draw).exists() for draw in draws)


def _lacks_trials(grid: "Grid", cell: "Cell") -> bool:
    from .layout import TrialKey

    experiment, seed = grid.experiment(cell), cell.data_seed
    return any(
        not grid.layout.trials_path(TrialKey(cell, method, classifier.name)).exists()
        for method in experiment.methods
        for classifier in experiment.classifiers_for(method, seed)
    )
