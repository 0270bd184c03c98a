"""The options of the commands: their types and help, and what several commands share, bundled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

RESULTS = Path("results")
STREAM = Path("-")  # stdin as an input, stdout as an output

Config = Annotated[Path, typer.Argument(help="the experiment's YAML file", metavar="CONFIG")]
Level = Annotated[
    str | None,
    typer.Option(help="one level, such as 1%, 8/class or full; default: every level of the config"),
]
Seed = Annotated[int | None, typer.Option(help="one data seed; default: every seed of the config")]
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
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="show only warnings and errors")]
Json = Annotated[bool, typer.Option("--json", help="print one summary object on stdout")]
Ratio = Annotated[
    float | None, typer.Option(help="synthetic rows for each real one; overrides augment.ratio")
]
Limit = Annotated[int | None, typer.Option(min=1, help="write at most this many rows")]
Show = Annotated[
    int,
    typer.Option(
        min=0, help="print this many rows with their parents and soft labels, as in Table 4"
    ),
]
Card = Annotated[
    bool, typer.Option("--card", help="write a data card for each file of rows, to publish it with")
]
License = Annotated[
    str | None,
    typer.Option(help="license of the rows, such as cc-by-4.0, for their card; implies --card"),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="trials at the same time; default: as many as cores and memory allow (on a GPU 1)",
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
Trials = Annotated[int | None, typer.Option(min=1, help="training runs in all; overrides trials")]
SaveModel = Annotated[
    Path | None,
    typer.Option(help="folder for the trial with the best validation score, to use with predict"),
]

# Of predict
Model = Annotated[
    Path,
    typer.Argument(
        help="folder that train --save-model wrote, or any classifier of transformers",
        metavar="MODEL",
    ),
]
TextInput = Annotated[
    Path, typer.Option("--input", "-i", help="rows with a text (JSONL, - for stdin)")
]
LabelOutput = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="where to write the rows with `predicted` and `probs` (- for stdout)",
    ),
]

# Of report
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


@dataclass(frozen=True)
class GridOptions:
    """Which experiment a command runs.

    Attributes:
        config: the experiment's file.
        out: folder of all results.
        overrides: `KEY=VALUE`, applied to the config.
        force: redo what is up to date.
    """

    config: Path
    out: Path = RESULTS
    overrides: Sequence[str] = ()
    force: bool = False


@dataclass(frozen=True)
class OutputOptions:
    """What a command prints.

    Attributes:
        quiet: only warnings and errors.
        json: one summary object on stdout.
    """

    quiet: bool = False
    json: bool = False


@dataclass(frozen=True)
class CellSelection:
    """Which cells a command works on.

    Attributes:
        level: one level; None for every level of the config.
        seed: one data seed; None for every seed of the config.
        input: real rows in place of the subsample; selects one cell.
        output: where to write in place of the default; selects one cell.
    """

    level: str | None = None
    seed: int | None = None
    input: Path | None = None
    output: Path | None = None


@dataclass(frozen=True)
class AugmentExtras:
    """What `augment` and `baseline` do besides writing rows.

    Attributes:
        limit: at most this many rows of a file.
        show: number of rows to print.
        card: whether to write a data card.
        license: of the rows; a card is written for it.
    """

    limit: int | None = None
    show: int = 0
    card: bool = False
    license: str | None = None


@dataclass(frozen=True)
class TrainSelection:
    """What `train` runs on the selected cells.

    Attributes:
        methods: names of methods; empty for all of the config.
        classifiers: names of classifiers; empty for all of the config.
        augmented: files of synthetic rows in place of the methods' own.
        save_model: folder for the best trial's model.
    """

    methods: Sequence[str] = ()
    classifiers: Sequence[str] = ()
    augmented: Sequence[Path] = ()
    save_model: Path | None = None


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Return flags as `KEY=VALUE`; flags that were not given are left out."""
    return [f"{key}={value}" for key, value in values.items() if value is not None]


def next_command(stage: str, config: Path, selection: CellSelection) -> str:
    """Return the command that comes after this one."""
    flags = (("level", selection.level), ("seed", selection.seed))
    chosen = "".join(f" --{name} {value}" for name, value in flags if value is not None)
    return f"gpt3mix {stage} {config}{chosen}"
