"""What commands do with their options: open the experiment, select cells and trainings.

Nothing heavy is imported before a command runs.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .cli_options import (
    STREAM,
    AugmentExtras,
    CellSelection,
    GridOptions,
    OutputOptions,
    TrainSelection,
)
from .errors import StoppedShort, UserError

if TYPE_CHECKING:
    from .console import Display
    from .grid import Grid, StepResult, TrainStep
    from .layout import Cell
    from .report import ReportInput
    from .settings import Experiment


# Opening an experiment ---------------------------------------------------------------------------


@contextmanager
def open_grid(
    options: GridOptions, shown: OutputOptions, output: Path | None = None
) -> "Iterator[tuple[Display, Grid]]":
    """Open the display and the grid of a command.

    Args:
        options: the experiment.
        shown: what is printed.
        output: where the command writes rows, if it has such an option.

    Raises:
        UserError: if the config is invalid, or two outputs want stdout.
    """
    with open_display(shown, output) as display:
        grid = load_grid(options, display)
        try:
            yield display, grid
        finally:
            grid.close()


def open_display(shown: OutputOptions, output: Path | None = None) -> "Display":
    """Return the display of a command.

    Raises:
        UserError: if both rows and the summary want stdout.
    """
    from .console import Display

    if shown.json and output == STREAM:
        raise UserError("--json and -o - both want stdout", "leave one of them out")
    return Display(shown.quiet, shown.json)


def load_grid(options: GridOptions, display: "Display") -> "Grid":
    """Return the grid of a config's experiments."""
    from .config import load_experiments
    from .grid import Grid
    from .records import StageOptions

    command = ["gpt3mix", *sys.argv[1:]]
    return Grid(
        load_experiments(options.config, options.overrides),
        options.out,
        StageOptions(command, options.force, display.callbacks),
    )


def configure_training(
    grid: "Grid", jobs: int | None, tensorboard: Path | None, trials: int | None = None
) -> None:
    """Set how trials run: how many at the same time, where TensorBoard finds them, how many in all.

    Raises:
        UserError: if tensorboard is not installed.
    """
    if tensorboard:
        from .train.trials import check_tensorboard

        check_tensorboard()
    grid.jobs, grid.tensorboard = jobs, tensorboard
    if trials:
        grid.experiments = [experiment.with_trials(trials) for experiment in grid.experiments]


# Selecting cells and trainings -------------------------------------------------------------------


def select_cells(grid: "Grid", selection: CellSelection) -> "list[Cell]":
    """Return the selected cells; with an input or output file, exactly one.

    Raises:
        UserError: if the level is invalid, or one file would serve several cells.
    """
    from .settings import parse_level

    level, seed = selection.level, selection.seed
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
    if selection.input and selection.output and len(grid.experiments) == 1:
        return cells[:1]  # with both files given, level and seed are only names
    if (selection.output or selection.input) and len(cells) != 1:
        flag = "-o" if selection.output else "-i"
        raise UserError(
            f"{flag} names one file, but the config has {len(cells)} cells",
            "choose one with --level and --seed",
        )
    return cells


def select_trainings(
    grid: "Grid", selection: CellSelection, training: TrainSelection
) -> "list[TrainStep]":
    """Return the trainings of the selected cells.

    Raises:
        UserError: if there is none, or one file would serve several.
    """
    from .grid import REAL_ROWS_ONLY, TrainStep, check_known

    if not grid.experiments[0].classifiers:
        raise UserError(
            "`classifiers:` is empty, so there is nothing to train",
            "add for example classifiers: [{kind: linear}]",
        )
    for name in training.classifiers:
        check_known("classifier", name, [item.name for item in grid.experiments[0].classifiers])
    files = (selection.input, training.augmented, selection.output, training.save_model)
    steps, skipped = list[TrainStep](), dict[str, None]()
    for cell in select_cells(grid, selection):
        experiment = grid.experiment(cell)
        classifiers = [
            item
            for item in experiment.classifiers
            if (not training.classifiers or item.name in training.classifiers)
            and experiment.trials_for(item, cell.data_seed)
        ]
        methods = _methods(grid, experiment, training)
        for method, classifier in itertools.product(methods, classifiers):
            if not experiment.accepts(method, classifier):
                skipped[classifier.name] = None
                continue
            steps.append(TrainStep(cell, method, classifier, *files))
    _check_single_output("-o names one file", selection.output, steps)
    _check_single_output("--save-model names one folder", training.save_model, steps)
    for name in skipped:
        grid.callbacks.warn(f"classifier '{name}' {REAL_ROWS_ONLY}")
    if not steps:
        raise _nothing_to_train(list(skipped))
    if training.save_model:
        from .train.saved_models import check_save_folder

        check_save_folder(training.save_model)
        if selection.output == STREAM:
            raise UserError(
                "--save-model needs the trials in a file, not on stdout", "leave out -o -"
            )
    return steps


def _methods(grid: "Grid", experiment: "Experiment", training: TrainSelection) -> Sequence[str]:
    from .grid import check_known, check_method_name

    if not training.augmented:
        for name in training.methods:
            check_known("method", name, experiment.methods)
        return training.methods or experiment.methods
    for name in training.methods:
        check_method_name(name)
    return training.methods or [grid.method_of(training.augmented)]


def _check_single_output(problem: str, path: Path | None, steps: Sequence["TrainStep"]) -> None:
    if path and len(steps) > 1:
        raise UserError(
            f"{problem}, but {len(steps)} are to be written",
            "choose one cell with --level, --seed, --method and --classifier",
        )


def _nothing_to_train(skipped: Sequence[str]) -> UserError:
    from .grid import REAL_ROWS_ONLY

    if skipped:
        return UserError(
            f"nothing to do: classifier '{skipped[0]}' {REAL_ROWS_ONLY}",
            "give --method none, or another --classifier",
        )
    return UserError(
        "this data seed has no trials: trials are assigned to the data seeds round-robin",
        "raise trials, or list fewer seeds",
    )


# Stages -------------------------------------------------------------------------------------------


def augment_cells(
    display: "Display",
    grid: "Grid",
    method: str,
    selection: CellSelection,
    extras: AugmentExtras,
) -> "list[StepResult]":
    """Write the synthetic sets of a method; print examples and write cards as `extras` say."""
    from .augment.card import write_card
    from .records import IncompleteOutput

    writes_card = extras.card or extras.license is not None
    if writes_card and selection.output == STREAM:
        raise UserError(
            "--card describes rows in a file, not on stdout", "leave out -o -, --card and --license"
        )
    results: list[StepResult] = []
    cards = []
    for cell in select_cells(grid, selection):
        experiment = grid.experiment(cell)
        real, task = selection.input or grid.layout.train_path(cell), experiment.task
        model = experiment.lm.model if experiment.lm else None
        for draw in [0] if selection.output else experiment.draws_for(cell.data_seed):
            try:
                result = grid.augment(
                    cell, method, draw, selection.input, selection.output, extras.limit
                )
                results.append(result)
            except IncompleteOutput as error:
                results.append(error)
                result = error.result
            except StoppedShort as error:
                results.append(error)
                continue
            display.print_examples(result.output, real, extras.show, task.labels)
            if writes_card:
                lm = model if experiment.lm_settings_for(method) else None
                cards.append(write_card(result, task, real, lm, extras.license))
    if cards:
        display.note(f"{len(cards)} card{'s' * (len(cards) != 1)}: {', '.join(map(str, cards))}")
    return results


def report_inputs(
    paths: Sequence[Path], out: Path, overrides: Sequence[str], display: "Display"
) -> "ReportInput":
    """Return the trials of configs, folders and files.

    Raises:
        UserError: if a path does not exist.
    """
    from .report import ReportInput

    if missing := [path for path in paths if not path.exists()]:
        raise UserError(
            f"{missing[0]}: no such file or folder",
            "give a config, a results folder, or trials files",
        )
    configs = [path for path in paths if path.suffix.lower() in (".yaml", ".yml")]
    sources = [path for path in paths if path not in configs]
    grids = [load_grid(GridOptions(path, out, overrides), display) for path in configs]
    names = [grid.experiments[0].name for grid in grids] + [_name(path) for path in sources]
    if grids:
        folder = out / names[0] if len(paths) == 1 else out
    else:
        folder = sources[0] if sources[0].is_dir() else sources[0].parent
    expected = [trials for grid in grids for trials in grid.expected_trials()]
    return ReportInput(", ".join(dict.fromkeys(names)), sources, expected, folder)


def _name(path: Path) -> str:
    """Return the name of a folder or file of trials; `trials.jsonl` has that of its folder."""
    if path.is_dir():
        return path.resolve().name
    return path.resolve().parent.name if path.stem == "trials" else path.stem


# Errors -------------------------------------------------------------------------------------------


def print_error(error: UserError) -> None:
    """Print what is wrong and how to fix it."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    stopped = isinstance(error, StoppedShort)  # not an error: the same command resumes later
    title = ("stopped: ", "bold yellow") if stopped else ("error: ", "bold red")
    console.print(Text.assemble(title, error.message))
    if error.hint:
        label = " then: " if stopped else "  fix: "
        console.print(Text.assemble((label, "bold green"), error.hint))
