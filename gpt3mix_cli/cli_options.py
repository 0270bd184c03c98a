"""What the commands share: opening the experiment of a command line, and reading its cells and files out of the flags.

Like the rest of the door it loads nothing heavy before a command runs.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError

if TYPE_CHECKING:
    from .console import Display
    from .grid import Grid, Spot, Training
    from .report import ReportInput
    from .settings import Experiment


class resources:
    """The display and the grid of a command."""

    def __init__(
        self,
        config: Path,
        out: Path,
        sets: Sequence[str] | None,
        force: bool,
        quiet: bool,
        json: bool,
        output: Path | None = None,
    ) -> None:
        """Keep the flags that every command has; `output` is that of rows."""
        from .console import Display

        if json and output == Path("-"):
            raise UserError("--json and -o - both want stdout", "leave one of them out")
        self._display = Display(quiet, json)
        self._arguments = config, out, sets, force

    def __enter__(self) -> "tuple[Display, Grid]":
        config, out, sets, force = self._arguments
        self._grid = grid_of(config, out, sets, force, self._display)
        return self._display.__enter__(), self._grid

    def __exit__(self, *error: Any) -> None:
        self._grid.close()
        self._display.__exit__(*error)


def grid_of(
    config: Path, out: Path, sets: Sequence[str] | None, force: bool, display: "Display"
) -> "Grid":
    """Return the grid of a config's experiments."""
    from .config import load_experiments
    from .grid import Grid

    return Grid(
        load_experiments(config, sets or ()),
        out,
        ["gpt3mix", *sys.argv[1:]],
        force,
        display.callbacks,
    )


def report_inputs(
    paths: Sequence[Path], out: Path, sets: Sequence[str] | None, display: "Display"
) -> "ReportInput":
    """Return what is to be reported on: the trials of configs, folders and files.

    Raises:
        UserError: for a path that is not there.
    """
    from .report import ReportInput

    if missing := [path for path in paths if not path.exists()]:
        raise UserError(
            f"{missing[0]}: no such file or folder",
            "give a config, a results folder, or trials files",
        )
    configs = [path for path in paths if path.suffix.lower() in (".yaml", ".yml")]
    others = [path for path in paths if path not in configs]
    grids = [grid_of(path, out, sets, False, display) for path in configs]
    names = [grid.experiments[0].name for grid in grids] + [_name(path) for path in others]
    wanted = [item for grid in grids for item in grid.wanted()]
    if grids:
        return ReportInput(
            ", ".join(dict.fromkeys(names)),
            others,
            wanted,
            out / names[0] if len(paths) == 1 else out,
        )
    return ReportInput(
        ", ".join(dict.fromkeys(names)),
        others,
        [],
        others[0] if others[0].is_dir() else others[0].parent,
    )


def _name(path: Path) -> str:
    """Return what a folder or file of trials is called; one that is named like all others is called by its folder."""
    return (
        path.resolve().name
        if path.is_dir()
        else path.stem
        if path.stem != "trials"
        else path.resolve().parent.name
    )


def configure_workers(grid: "Grid", jobs: int | None, curves: Path | None) -> None:
    """Say where trials run and who watches them."""
    if curves:
        from .train.tensorboard import probe

        probe()
    grid.jobs, grid.curves = jobs, curves


def as_overrides(values: dict[str, Any]) -> list[str]:
    """Return the flags that were given as `--set` has them."""
    return [f"{key}={value}" for key, value in values.items() if value is not None]


def with_trials(experiment: "Experiment", trials: int) -> "Experiment":
    """Return the experiment with so many trials for every classifier."""
    # The flag wins over a classifier's own `trials` too.
    classifiers = [
        classifier.model_copy(update={"trials": None}) for classifier in experiment.classifiers
    ]
    return experiment.model_copy(update={"trials": trials, "classifiers": classifiers})


def select_cells(
    grid: "Grid",
    level: str | None,
    seed: int | None,
    output: Path | None,
    source: Path | None = None,
) -> "list[Spot]":
    """Return the cells that the flags name; where one file is named there is but one."""
    from .settings import parse_level

    try:
        _ = level and parse_level(level)
    except ValueError as error:
        raise UserError(f"--level {level}: {error}", "write 0.1%, 8/class or full") from None
    spots = list(grid.spots(level, seed))
    if seed is not None and seed not in grid.experiments[0].subsample.seeds:
        grid.callbacks.warn(
            f"data seed {seed} is not listed in subsample.seeds; it is used all the same, but `run` and `report CONFIG` leave it out"
        )
    if source and output and len(grid.experiments) == 1:
        return spots[:1]  # both ends are given, so that level and seed are but their name
    if (output or source) and len(spots) != 1:
        flag = "-o" if output else "-i"
        raise UserError(
            f"{flag} names one file, but the config has {len(spots)} cells",
            "choose one with --level and --seed",
        )
    return spots


def next_command(stage: str, config: Path, level: str | None, seed: int | None) -> str:
    """Return the next command."""
    chosen = "".join(
        f" --{name} {value}"
        for name, value in (("level", level), ("seed", seed))
        if value is not None
    )
    return f"gpt3mix {stage} {config}{chosen}"


def select_trainings(
    grid: "Grid", config: Path, spots: "list[Spot]", methods: Sequence[str] | None, classifiers: Sequence[str] | None,
    source: Path | None, added: Sequence[Path], output: Path | None, save: Path | None,
) -> "list[Training]":  # fmt: skip
    """Return what `train` is to do."""
    from .grid import ONLY_REAL, Training, as_method, classifier_known, method_known

    if not grid.experiments[0].classifiers:
        raise UserError(
            f"{config}: `classifiers:` is empty, so there is nothing to train",
            "add for example classifiers: [{kind: linear}]",
        )
    chosen = [classifier_known(grid.experiments[0], name) for name in classifiers or ()]
    found, passed = [], list[str]()
    for spot in spots:
        if added:
            names = [as_method(name) for name in methods or [grid.added_method(added)]]
        else:
            names = [
                method_known(spot.experiment, name) for name in methods or spot.experiment.methods
            ]
        kinds = [one for one in spot.experiment.classifiers if not chosen or one.name in chosen]
        pairs = [(name, one) for name in names for one in kinds if spot.dealt(one)]
        found += [
            Training(spot, name, one, source, added, output, save)
            for name, one in pairs
            if spot.experiment.accepts(name, one)
        ]
        passed += [one.name for name, one in pairs if not spot.experiment.accepts(name, one)]
    for flag, place in (("-o names one file", output), ("--save-model names one folder", save)):
        if place and len(found) > 1:
            raise UserError(
                f"{flag}, but {len(found)} are to be written",
                "choose one cell with --level, --seed, --method and --classifier",
            )
    for name in dict.fromkeys(passed):
        grid.callbacks.warn(f"classifier '{name}' {ONLY_REAL}; the other methods are left out")
    if passed and not found:
        raise UserError(
            f"nothing to do: classifier '{passed[0]}' {ONLY_REAL}",
            "give --method none, or another --classifier",
        )
    if not found:
        raise UserError(
            "no trial falls on this data seed: trials are dealt over the seeds in turn",
            "raise trials, or name fewer seeds",
        )
    if save:
        from .train.saved_models import check_save_folder

        check_save_folder(save)
        if output == Path("-"):
            raise UserError(
                "--save-model needs the trials in a file, not on stdout", "leave out -o -"
            )
    return found
