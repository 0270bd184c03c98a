"""The command `fit`, added to those of `cli`."""

from pathlib import Path
from typing import Annotated

import typer

from . import cli_executors as executors
from . import cli_options as opt
from . import process
from .errors import StoppedShort

app = typer.Typer()
ModelFolder = Annotated[
    Path,
    typer.Option(
        "--output", "-o", help="folder of the model; a model of the experiment is replaced"
    ),
]


@app.command()
def fit(
    config: opt.Config,
    output: ModelFolder = Path("model"),
    jobs: opt.Jobs = None,
    executor: executors.Executor = "processes",
    address: executors.Address = None,
    out: opt.Out = opt.RESULTS,
    overrides: opt.Overrides = None,
    force: opt.Force = False,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
) -> None:
    """Choose the best method and classifier by validation, train on all rows, save the model."""
    options = opt.GridOptions(config, out, overrides or (), force, quiet, json)
    with process.finishing_work_in_flight(), opt.open_grid(options) as (display, grid):
        from .grid.fit import fit as run_fit

        grid.configure_training(jobs, None)
        executors.choose_executor(grid, executor, address)
        model = run_fit(grid, output, display.log_result)
        display.print_model(model)
        if unfinished := model.about["unfinished"]:
            raise StoppedShort(
                f"{output}: saved, but {len(unfinished)} combinations of method and classifier "
                f"have not finished, such as {unfinished[0]}",
                "fix the cause and run again, or remove them from the config",
            )
