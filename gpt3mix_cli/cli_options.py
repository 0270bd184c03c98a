"""The options of the commands, and what several commands do; nothing heavy is imported early."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .errors import UserError

if TYPE_CHECKING:
    from .console import Display
    from .grid import Grid

RESULTS = Path("results")
MAX_INT = 2**63 - 1
STREAM = Path("-")  # stdin as an input, stdout as an output

Config = Annotated[Path, typer.Argument(help="the experiment's YAML file", metavar="CONFIG")]
Level = Annotated[
    str | None,
    typer.Option(help="one level, such as 1%, 8/class or full; default: every level of the config"),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=-MAX_INT, max=MAX_INT, help="one data seed; default: every seed of the config"
    ),
]
CheckLabels = Annotated[
    bool, typer.Option("--labels", help="score real rows, each below others: are labels any good?")
]
Specs = Annotated[
    Path | None,
    typer.Option(help="YAML list of text_type, label_type, labels: rank these specifications so"),
]
Input = Annotated[
    Path | None,
    typer.Option("--input", "-i", help="real rows (JSONL, - for stdin) in place of the subsample"),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="where to write (- for stdout) in place of the default"),
]
Out = Annotated[Path, typer.Option(help="folder of all results")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="override a key of the config; the value is YAML; repeatable",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="redo what is up to date")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="show results and warnings only")]
Json = Annotated[bool, typer.Option("--json", help="print one summary object on stdout")]
Ratio = Annotated[
    float | None, typer.Option(help="synthetic rows for each real one; overrides augment.ratio")
]
Limit = Annotated[int | None, typer.Option(min=1, max=MAX_INT, help="write at most this many rows")]
Show = Annotated[
    int,
    typer.Option(
        min=0,
        max=MAX_INT,
        help="print this many rows with their parents and soft labels, as in Table 4",
    ),
]
Card = Annotated[
    bool, typer.Option("--card", help="write a data card for each file of rows, to publish it with")
]
TopUp = Annotated[
    bool,
    typer.Option(
        "--top-up/--no-top-up",
        help="ask the LM for rows that are missing; without, filter and label its earlier answers "
        "anew and ask nothing",
    ),
]
License = Annotated[
    str | None,
    typer.Option(help="license of the rows, such as cc-by-4.0, for their card; implies --card"),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1_024,
        help="trials at the same time; default: as many as cores, memory and resources.gpu allow",
    ),
]
TensorBoard = Annotated[
    Path | None,
    typer.Option(
        "--tensorboard", help="folder for TensorBoard: loss and validation score of every epoch"
    ),
]

# Of train
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", help="method to train with; repeatable; default: all of the config"),
]
Classifiers = Annotated[
    list[str] | None,
    typer.Option("--classifier", help="classifier to train; repeatable; default: all"),
]
AugmentedFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--augmented",
        "-a",
        help="synthetic rows (JSONL) in place of the methods' own; repeatable",
    ),
]
Trials = Annotated[
    int | None, typer.Option(min=1, max=100_000, help="training runs in all; overrides trials")
]
SaveModel = Annotated[
    Path | None,
    typer.Option(help="folder for the trial with the best validation score, to use with predict"),
]

# Of predict
Model = Annotated[
    Path,
    typer.Argument(
        help="folder that fit or train --save-model wrote, or any classifier of transformers",
        metavar="MODEL",
    ),
]
TextInput = Annotated[
    Path,
    typer.Option(
        "--input", "-i", help="JSONL, CSV, TSV, Parquet, Excel or plain text; - for stdin"
    ),
]
LabelOutput = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="where to write the rows with `predicted` and `prob`, in the form of the input (- for "
        "stdout)",
    ),
]
TextColumn = Annotated[
    str | None,
    typer.Option("--text", help="column of the texts; default: that of the training data"),
]
Probs = Annotated[bool, typer.Option("--probs", help="add the probability of every class")]
MinProb = Annotated[
    float,
    typer.Option(min=0, max=1, help="leave `predicted` empty where `prob` is below this"),
]
InputFormat = Annotated[
    Literal["jsonl", "csv", "tsv", "parquet", "text"] | None,
    typer.Option("--format", help="form of the input; default: by its suffix"),
]
Delimiter = Annotated[
    str | None, typer.Option(help="of CSV and TSV; default: the one that fits the header")
]
Quoting = Annotated[
    Literal["auto", "csv", "none"],
    typer.Option(help="of CSV and TSV; none: quotes are plain characters"),
]
ColumnNames = Annotated[
    str | None,
    typer.Option("--columns", help="names of all columns of CSV and TSV without a header: a,b,c"),
]

# Of review
ReviewTable = Annotated[
    Path | None,
    typer.Option("--table", help="a CSV or TSV file; default: review.csv of the experiment"),
]
Apply = Annotated[bool, typer.Option("--apply", help="take the corrected table back")]

# Of plan
Measure = Annotated[
    bool,
    typer.Option(
        help="try for about ten seconds how fast this machine is, where no earlier run has shown it"
    ),
]

# Of cache
ModelName = Annotated[
    str | None,
    typer.Argument(help="name of a GGUF file or of a folder; default: all", metavar="NAME"),
]
Clear = Annotated[bool, typer.Option("--clear", help="remove the models")]

# Of guide
Topic = Annotated[
    str | None,
    typer.Argument(help="a page of the manual; default: list them", metavar="TOPIC"),
]


@dataclass(frozen=True)
class GridOptions:
    """Which experiment a command runs, and what it prints.

    Attributes:
        config: the experiment's file.
        out: folder of all results.
        overrides: `KEY=VALUE`, applied to the config.
        force: redo what is up to date.
        quiet: print only warnings and errors.
        json: print one summary object on stdout.
    """

    config: Path
    out: Path
    overrides: Sequence[str]
    force: bool = False
    quiet: bool = False
    json: bool = False


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Return flags as `KEY=VALUE`; flags that were not given are left out."""
    return [f"{key}={value}" for key, value in values.items() if value is not None]


@contextmanager
def open_grid(options: GridOptions, output: Path | None = None) -> "Iterator[tuple[Display, Grid]]":
    """Open the display and the grid of a command.

    Args:
        options: the experiment, and what is printed.
        output: where the command writes rows, if it has such an option.

    Raises:
        UserError: if the config is invalid, or two outputs want stdout.
    """
    with (
        open_display(options.quiet, options.json, output) as display,
        closing(load_grid(options, display, output is not None)) as grid,
    ):
        yield display, grid


def open_display(quiet: bool, json: bool, output: Path | None = None) -> "Display":
    """Return the display of a command.

    Raises:
        UserError: if both rows and the summary want stdout.
    """
    from .console import Display

    if json and output == STREAM:
        raise UserError("--json and -o - both want stdout", "leave one of them out")
    return Display(quiet, json)


def load_grid(options: GridOptions, display: "Display", own_output: bool = False) -> "Grid":
    """Return the grid of a config's experiments; `own_output`: the command line names its file."""
    from .config import load_experiments
    from .grid import Grid
    from .records import StageOptions

    return Grid(
        load_experiments(options.config, options.overrides),
        options.out,
        StageOptions(["gpt3mix", *sys.argv[1:]], options.force, display.callbacks, own_output),
    )
