"""The command `report`, added to those of `cli`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import cli_options as opt
from .errors import UserError

if TYPE_CHECKING:
    from .console import Display
    from .report import ReportInput

app = typer.Typer()
Sources = Annotated[
    list[Path] | None,
    typer.Argument(help="configs, or folders and files of trials", metavar="CONFIG|DIR|FILE..."),
]
ReportFolder = Annotated[Path | None, typer.Option("--output", "-o", help="folder of the report")]
TableRows = Annotated[
    str | None,
    typer.Option(
        "--rows",
        help="rows of the main table: any of task, level, classifier, method, variant and swept "
        "keys; default: task,level",
    ),
]
TableColumns = Annotated[
    str | None, typer.Option("--columns", help="its columns; default: classifier,method")
]
Paper = Annotated[
    bool,
    typer.Option("--paper", help="print the paper's values next to ours, and what they contradict"),
]
ByValidation = Annotated[
    Literal["validation"] | None,
    typer.Option("--by", help="of a sweep's variants, the one that validation accuracy chooses"),
]
PerClass = Annotated[
    bool,
    typer.Option("--per-class", help="print precision, recall and F1 of each class, and mistakes"),
]
SyntheticShown = Annotated[
    str | None,
    typer.Option(
        "--synthetic",
        metavar="N|all",
        help="synthetic rows of a cell that report.html shows, and as many rejected ones; "
        "default: 200",
    ),
]
Diff = Annotated[
    tuple[Path, Path] | None,
    typer.Option(metavar="A B", help="compare two runs, each a config, folder or file"),
]


@app.command()
def report(
    sources: Sources = None,
    output: ReportFolder = None,
    rows: TableRows = None,
    columns: TableColumns = None,
    paper: Paper = False,
    synthetic: SyntheticShown = None,
    by: ByValidation = None,
    per_class: PerClass = False,
    diff: Diff = None,
    out: opt.Out = opt.RESULTS,
    overrides: opt.Overrides = None,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
) -> None:
    """Print and write tables, statistics and tests over all trials."""
    from .layout import report_folder

    with opt.open_display(quiet, json) as display:
        from . import report as stage

        if bool(sources) == bool(diff):
            raise UserError(
                "report needs configs, folders or files, or two of them after --diff",
                "for example gpt3mix report results/sst2",
            )
        if diff:
            a, b = (report_inputs([path], out, overrides or (), display) for path in diff)
            result = stage.compare_runs(a, b, output or report_folder(b.folder), display.callbacks)
        else:
            inputs = report_inputs(sources or [], out, overrides or (), display)
            limit = stage.parse_row_limit(synthetic)
            options = stage.ReportOptions(rows, columns, paper, limit, by is not None)
            folder = output or report_folder(inputs.folder)
            result = stage.report(inputs, folder, options, display.callbacks)
        display.print_report(result, per_class=per_class)


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
    grids = [opt.load_grid(opt.GridOptions(path, out, overrides), display) for path in configs]
    names = [grid.experiments[0].name for grid in grids] + [_name(path) for path in sources]
    if grids:
        folder = out / names[0] if len(paths) == 1 else out
    else:
        folder = sources[0] if sources[0].is_dir() else sources[0].parent
    expected = [trials for grid in grids for trials in grid.expected_trials()]
    return ReportInput(", ".join(dict.fromkeys(names)), sources, expected, folder)


def _name(path: Path) -> str:
    if path.is_dir():
        return path.resolve().name
    return path.resolve().parent.name if path.stem == "trials" else path.stem
