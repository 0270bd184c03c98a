"""The command `init`, added to those of `cli`."""

import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import cli_options as opt
from .errors import UserError

if TYPE_CHECKING:
    from .console import Display

app = typer.Typer()


@app.command()
def init(
    data: Annotated[
        Path,
        typer.Argument(
            help="CSV, TSV, JSONL, Parquet or Excel file, a folder with a folder per class, or one "
            "that save_to_disk wrote",
            metavar="DATA",
        ),
    ],
    text: Annotated[str | None, typer.Option(help="column of the text; default: guessed")] = None,
    label: Annotated[str | None, typer.Option(help="column of the label; default: guessed")] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="names of all columns, with commas, of a CSV file without a header"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", "--out", help="the config; default: NAME.yaml"),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="of the experiment; default: that of the data")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace a config that exists")] = False,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
) -> None:
    """Write a commented config for a file of labelled texts; list every row that is bad."""
    with opt.open_display(quiet, json) as display:
        from .grid import init as stage
        from .grid.data_profile import DataOptions, profile_data

        named, path = stage.config_path(data, stage.InitOptions(output, name, force))
        parts = [part.strip() for part in columns.split(",")] if columns else ()
        profile = profile_data(data, DataOptions(text, label, parts))
        asks = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
        ask = _ask if asks and not quiet and not json else _default
        config = stage.write_config(profile, named, path, ask)
        lines = stage.describe(config)
        again = shlex.join(["gpt3mix", "fit", str(path)])
        if not quiet and not json:
            lines += _time_of_fit(path, display)
        display.print_summary(lines, config.as_json(), f"{path}: written", again)


def _time_of_fit(path: Path, display: "Display") -> list[str]:
    """Return a line on how long the trials of a config take; none if it cannot be known."""
    from .config import load_experiments
    from .errors import Callbacks
    from .grid import Grid
    from .grid.estimates import duration
    from .grid.times import estimate_times
    from .records import StageOptions

    # Without warnings: the bad rows are listed anyway.
    silent = StageOptions(callbacks=Callbacks(display.progress))
    try:
        with closing(Grid(load_experiments(path), opt.RESULTS, silent)) as grid:
            times = estimate_times(grid, list(grid.cells()))
    except UserError:  # `fit` says what is wrong
        return []
    if not times.stages or times.total is None:
        return []
    about = "at least" if None in times.stages.values() else "about"
    return [f"fit: {about} {duration(times.total)} on this machine (gpt3mix plan {path})"]


def _ask(question: str, default: str) -> str:
    answer: str = typer.prompt(question, default=default, err=True)
    return " ".join(answer.split()) or default


def _default(question: str, default: str) -> str:
    return default
