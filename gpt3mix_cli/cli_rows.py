"""The commands that write synthetic rows, and the one that lists an LM's answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import cli_hints as hints
from . import cli_options as opt
from . import process
from .errors import StoppedShort, UserError

if TYPE_CHECKING:
    from .console import Display
    from .grid import Grid, StepResult
    from .layout import Cell

app = typer.Typer()
JournalFile = Annotated[
    Path,
    typer.Argument(help="a .journal.sqlite file, or the rows next to it", metavar="FILE"),
]
JournalLimit = Annotated[
    int | None, typer.Option("--limit", min=1, max=opt.MAX_INT, help="list at most this many")
]


@dataclass(frozen=True)
class AugmentFlags:
    """The files of a command that writes rows, and what they do besides writing rows.

    Attributes:
        input: real rows in place of the subsample.
        output: where to write in place of the default.
        limit: at most this many rows of a file.
        show: number of rows to print.
        card: whether to write a data card.
        license: of the rows; a card is written for it.
    """

    input: Path | None
    output: Path | None
    limit: int | None
    show: int
    card: bool
    license: str | None


@app.command()
def augment(
    config: opt.Config,
    level: opt.Level = None,
    seed: opt.Seed = None,
    input: opt.Input = None,
    output: opt.Output = None,
    ratio: opt.Ratio = None,
    k: Annotated[
        int | None, typer.Option("-k", help="examples in a prompt; overrides augment.k")
    ] = None,
    limit: opt.Limit = None,
    top_up: opt.TopUp = True,
    show: opt.Show = 0,
    card: opt.Card = False,
    license: opt.License = None,
    out: opt.Out = opt.RESULTS,
    overrides: opt.Overrides = None,
    force: opt.Force = False,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
) -> None:
    """Write synthetic rows with GPT3Mix."""
    overrides = [*(overrides or ()), *opt.as_overrides({"augment.ratio": ratio, "augment.k": k})]
    options = opt.GridOptions(config, out, overrides, force, quiet, json)
    with process.finishing_work_in_flight(), opt.open_grid(options, output) as (display, grid):
        from .grid import select_cells

        grid.tops_up = top_up
        cells = select_cells(grid, level, seed, input, output)
        extras = AugmentFlags(input, output, limit, show, card, license)
        results = augment_cells(display, grid, "gpt3mix", cells, extras)
        chosen, files = (level, seed), (input, output)
        following = hints.after_rows(grid, options, cells, "gpt3mix", chosen, files)
        display.finish(results, following)


@app.command()
def baseline(
    config: opt.Config,
    method: Annotated[str, typer.Option(help="name of the baseline, such as eda or backtranslate")],
    level: opt.Level = None,
    seed: opt.Seed = None,
    input: opt.Input = None,
    output: opt.Output = None,
    ratio: opt.Ratio = None,
    limit: opt.Limit = None,
    top_up: opt.TopUp = True,
    show: opt.Show = 0,
    card: opt.Card = False,
    license: opt.License = None,
    out: opt.Out = opt.RESULTS,
    overrides: opt.Overrides = None,
    force: opt.Force = False,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
) -> None:
    """Write synthetic rows with a baseline, such as EDA or back-translation."""
    overrides = [*(overrides or ()), *opt.as_overrides({"augment.ratio": ratio})]
    options = opt.GridOptions(config, out, overrides, force, quiet, json)
    with process.finishing_work_in_flight(), opt.open_grid(options, output) as (display, grid):
        from .grid import select_cells

        grid.tops_up = top_up
        grid.experiments[0].baseline(method)  # raises if there is none
        cells = select_cells(grid, level, seed, input, output)
        extras = AugmentFlags(input, output, limit, show, card, license)
        results = augment_cells(display, grid, method, cells, extras)
        chosen, files = (level, seed), (input, output)
        following = hints.after_rows(grid, options, cells, method, chosen, files)
        display.finish(results, following)


@app.command()
def journal(file: JournalFile, limit: JournalLimit = None) -> None:
    """List prompts, raw answers, tokens and cost of a synthetic set as JSON lines."""
    with opt.open_display(quiet=False, json=False) as display:
        import json

        from .layout import journal_path
        from .lm import list_answers

        path = file if file.suffix == ".sqlite" else journal_path(file)
        answers = list_answers(path, limit)
        display.print_lines(json.dumps(answer, ensure_ascii=False) for answer in answers)


def augment_cells(
    display: "Display",
    grid: "Grid",
    method: str,
    cells: "Sequence[Cell]",
    options: AugmentFlags,
) -> "list[StepResult]":
    """Write the synthetic rows of some cells, their examples and cards; return the results."""
    from .augment.card import write_card
    from .records import IncompleteOutput

    output, writes_card = options.output, options.card or options.license is not None
    if writes_card and output == opt.STREAM:
        raise UserError(
            "--card describes rows in a file, not on stdout", "leave out -o -, --card and --license"
        )
    results, cards = list["StepResult"](), []
    for cell in cells:
        experiment = grid.experiment(cell)
        real, task = options.input or grid.layout.train_path(cell), experiment.task
        lm = experiment.lm if experiment.lm_settings_for(method) else None
        for draw in [0] if output else experiment.draws_for(cell.data_seed):
            try:
                result = grid.augment(cell, method, draw, options.input, output, options.limit)
            except StoppedShort as error:
                results.append(error)
                if not isinstance(error, IncompleteOutput):
                    continue
                result = error.result
            else:
                results.append(result)
            display.print_examples(result.output, real, options.show, task.labels)
            if writes_card:
                cards.append(
                    write_card(result, task, real, lm.model if lm else None, options.license)
                )
    if cards:
        display.note(f"{len(cards)} card{'s' * (len(cards) != 1)}: {', '.join(map(str, cards))}")
    return results
