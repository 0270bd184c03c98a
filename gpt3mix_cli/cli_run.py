"""The command `run`, added to those of `cli`."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import cli_executors as executors
from . import cli_options as opt
from . import process
from .cli_emit import Form, emitted_lines
from .errors import UserError
from .stopping import Interrupted

if TYPE_CHECKING:
    from .console import Display
    from .grid import Grid, StepResult
    from .report import Report

app = typer.Typer()
Configs = Annotated[
    list[Path],
    typer.Argument(
        help="the experiments' YAML files, or folders of them; several have one report",
        metavar="CONFIG...",
    ),
]
Emit = Annotated[
    Form | None,
    typer.Option(
        help="print the commands of the stages, in the order of dependencies, or a makefile, for "
        "another scheduler; run nothing"
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="list every step and whether it is up to date; run nothing"),
]
JUnit = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="write an XML file with a test case for each cell, as CI systems read"
    ),
]


@app.command()
def run(
    configs: Configs,
    emit: Emit = None,
    dry_run: DryRun = False,
    junit: JUnit = None,
    top_up: opt.TopUp = True,
    jobs: opt.Jobs = None,
    executor: executors.Executor = "processes",
    address: executors.Address = None,
    tensorboard: opt.TensorBoard = None,
    out: opt.Out = opt.RESULTS,
    overrides: opt.Overrides = None,
    force: opt.Force = False,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
) -> None:
    """Run whole experiments: every stage on every cell, then the report."""
    files = [
        opt.GridOptions(path, out, overrides or (), force, quiet, json)
        for path in experiment_files(configs)
    ]
    with opt.open_display(quiet, json) as display:
        # All are read before hours of work begin.
        grids = [opt.load_grid(options, display) for options in files]
        refuse_equal_names(files, grids)
        if emit:
            other = {"--jobs": jobs, "--tensorboard": tensorboard, "--force": force, "--json": json}
            places = {"--executor": executor != "processes", "--address": address}
            refuse_other_flags({**other, **places, "--junit": junit, "--no-top-up": not top_up})
            display.print_lines(emitted_lines(list(zip(grids, files, strict=True)), emit))
            return
        if dry_run:
            show_steps(display, grids, json)
            return
        for grid in grids:
            grid.tops_up = top_up
            grid.configure_training(jobs, tensorboard)
            executors.choose_executor(grid, executor, address)
        with process.finishing_work_in_flight():
            results = run_grids(display, grids, junit)
        display.print_report(report_on(grids), results)


def show_steps(display: "Display", grids: "list[Grid]", as_json: bool) -> None:
    """Print every step of a run, and whether it is up to date."""
    from .grid.recognition import step_states

    states = []
    for grid in grids:
        # The steps of several experiments may be equal but for its name.
        experiment = {"experiment": grid.layout.name} if len(grids) > 1 else {}
        states += [
            {**experiment, "step": str(step), "state": "up to date" if is_done else "to do"}
            for step, is_done in step_states(grid)
        ]
    if not as_json:
        display.print_lines(
            f"{item['state']:<10}  " + ": ".join(list(item.values())[:-1]) for item in states
        )
    finished = sum(item["state"] == "up to date" for item in states)
    display.print_summary((), {"steps": states}, f"{len(states)} steps, {finished} up to date", "")


def run_grids(display: "Display", grids: "list[Grid]", junit: Path | None) -> "list[StepResult]":
    """Run experiments one after the other; return the results of their steps.

    Raises:
        Interrupted: if a signal asked to stop before all was done.
    """
    from .files import resolve_output
    from .grid.junit import write_junit

    if junit:
        resolve_output(junit)  # before hours of work
    results = []
    try:
        for grid in grids:
            with closing(grid):
                results += [display.log_result(result) for result in grid.run()]
    finally:
        if junit:
            write_junit(junit, grids)
    for result in results:
        if isinstance(result, Interrupted):
            raise result
    return results


def refuse_other_flags(flags: Mapping[str, object]) -> None:
    """Check that no flag is given that the printed commands would not repeat.

    Raises:
        UserError: if one is.
    """
    if given := [name for name, value in flags.items() if value]:
        raise UserError(
            f"--emit prints the commands of the stages, which {given[0]} would not reach",
            f"leave out {given[0]}, or add it to the commands that take it",
        )


def report_on(grids: "list[Grid]") -> "Report":
    """Return the report on an experiment, or the one that several have in their common folder."""
    if len(grids) == 1:
        return grids[0].report()
    from .layout import report_folder
    from .report import ReportInput, report

    names = ", ".join(grid.layout.name for grid in grids)
    expected = [trials for grid in grids for trials in grid.expected_trials()]
    inputs = ReportInput(names, [], expected, grids[0].out)
    return report(inputs, report_folder(inputs.folder), callbacks=grids[0].callbacks)


def experiment_files(paths: list[Path]) -> list[Path]:
    """Return the experiments' files: those given, and all YAML files of folders.

    Raises:
        UserError: if a folder has none, or a file is given twice.
    """
    files = []
    for path in paths:
        found = sorted([*path.glob("*.yaml"), *path.glob("*.yml")]) if path.is_dir() else [path]
        if not found:
            raise UserError(f"{path}: no YAML file in this folder", "give the experiments' files")
        files += found
    if twice := [path for path in files if files.count(path) > 1]:
        raise UserError(f"{twice[0]}: is given twice", "give it once")
    return files


def refuse_equal_names(files: "list[opt.GridOptions]", grids: "list[Grid]") -> None:
    """Check that the results of experiments are in folders of their own.

    Raises:
        UserError: if two have one name.
    """
    names: dict[str, Path] = {}
    for options, grid in zip(files, grids, strict=True):
        other = names.setdefault(grid.layout.name, options.config)
        if other != options.config:
            raise UserError(
                f"{options.config}: has the name of {other}, '{grid.layout.name}', and so the same "
                "folder of results",
                "change `name` in one of them",
            )
