"""The door: parses a command, calls the stage, prints what came of it, and sets the exit code.

Exit codes: 0 done; 1 a bug; 2 the user's input; 3 stopped short, all that was made is kept and a new run goes on;
130 interrupted, likewise. Results go to stdout, everything else to stderr. Nothing heavy is imported here.
"""

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import __version__
from .cli_options import (
    as_overrides,
    configure_workers,
    next_command,
    report_inputs,
    resources,
    select_cells,
    select_trainings,
    with_trials,
)
from .errors import StdoutClosed, StoppedShort, UserError

if TYPE_CHECKING:
    from .console import Display
    from .grid import Grid
    from .records import Done

app = typer.Typer(
    name="gpt3mix",
    help="Turn a handful of labelled sentences into a good text classifier, and prove whether it is one (GPT3Mix, Yoo et al., 2021).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="A whole experiment: gpt3mix run CONFIG. Exit codes: 0 done, 2 wrong input, 3 stopped short but resumable, 130 interrupted.",
)

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
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="override a key of the config; the value is YAML; repeatable",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="redo what is up to date")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="say nothing but warnings and errors")]
Json = Annotated[bool, typer.Option("--json", help="print one summary object on stdout")]
Ratio = Annotated[
    float | None, typer.Option(help="synthetic rows for each real one; overrides augment.ratio")
]
Limit = Annotated[int | None, typer.Option(min=1, help="make at most this many rows")]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1, help="trials side by side; default: what cores and memory allow (on a GPU 1)"
    ),
]
Curves = Annotated[
    Path | None,
    typer.Option(help="folder for TensorBoard: loss and validation score of every epoch"),
]
Show = Annotated[
    int,
    typer.Option(
        min=0, help="print this many of the rows, with parents and soft labels, as in Table 4"
    ),
]
Card = Annotated[
    bool, typer.Option("--card", help="write a data card beside the rows, to publish them with")
]
Licence = Annotated[
    str | None,
    typer.Option(help="licence of the rows, such as cc-by-4.0, for their card; writes one"),
]
RESULTS = Path("results")
ENVIRONMENT = {
    # The libraries' own bars and chatter would break ours.
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Threads that wait by spinning bring each other to a halt where two runs share the cores, as loops over seeds do.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def _version(wanted: bool) -> None:
    if wanted:
        print(f"gpt3mix {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


@app.command()
def subsample(
    config: Config,
    level: Level = None,
    seed: Seed = None,
    output: Output = None,
    out: Out = RESULTS,
    sets: Sets = None,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Draw class-balanced training rows."""
    with resources(config, out, sets, force, quiet, json, output) as (display, grid):
        done = [grid.subsample(spot, output) for spot in select_cells(grid, level, seed, output)]
        display.end(done, next_command("augment", config, level, seed))


@app.command()
def augment(
    config: Config,
    level: Level = None,
    seed: Seed = None,
    source: Input = None,
    output: Output = None,
    ratio: Ratio = None,
    k: Annotated[
        int | None, typer.Option("-k", help="examples in a prompt; overrides augment.k")
    ] = None,
    limit: Limit = None,
    show: Show = 0,
    card: Card = False,
    licence: Licence = None,
    out: Out = RESULTS,
    sets: Sets = None,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write synthetic rows with GPT3Mix."""
    overrides = [*(sets or []), *as_overrides({"augment.ratio": ratio, "augment.k": k})]
    with resources(config, out, overrides, force, quiet, json, output) as (display, grid):
        _augment(
            display,
            grid,
            "gpt3mix",
            config,
            level,
            seed,
            source,
            output,
            limit,
            show,
            card,
            licence,
        )


@app.command()
def baseline(
    config: Config,
    method: Annotated[str, typer.Option(help="name of the baseline, such as eda or backtranslate")],
    level: Level = None,
    seed: Seed = None,
    source: Input = None,
    output: Output = None,
    ratio: Ratio = None,
    limit: Limit = None,
    show: Show = 0,
    card: Card = False,
    licence: Licence = None,
    out: Out = RESULTS,
    sets: Sets = None,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write synthetic rows with a baseline, such as EDA or back-translation."""
    overrides = [*(sets or []), *as_overrides({"augment.ratio": ratio})]
    with resources(config, out, overrides, force, quiet, json, output) as (display, grid):
        from .grid import baseline_of

        baseline_of(grid.experiments[0], method)
        _augment(
            display, grid, method, config, level, seed, source, output, limit, show, card, licence
        )


def _augment(
    display: "Display", grid: "Grid", method: str, config: Path, level: str | None, seed: int | None,
    source: Path | None, output: Path | None, limit: int | None, show: int, card: bool, licence: str | None,
) -> None:  # fmt: skip
    from .augment.card import write_card

    card = card or licence is not None
    if card and output == Path("-"):
        raise UserError(
            "--card describes rows in a file, not on stdout", "leave out -o -, --card and --licence"
        )
    items: list[Done | StoppedShort] = []
    cards = []
    for spot in select_cells(grid, level, seed, output, source):
        real, task, lm = source or spot.real, spot.experiment.task, spot.experiment.lm
        for draw in [0] if output else spot.draws():
            try:
                items.append(made := grid.augment(spot, method, draw, source, output, limit))
            except StoppedShort as error:
                items.append(error)
                if error.done is None:
                    continue
                made = error.done
            display.rows(made.output, real, show, task.labels)
            if card:
                cards.append(
                    write_card(
                        made,
                        task,
                        real,
                        lm.model if lm and spot.experiment.asking(method) else None,
                        licence,
                    )
                )
    if cards:
        display.note(f"{len(cards)} card{'s' * (len(cards) != 1)}: {', '.join(map(str, cards))}")
    display.end(items, next_command("train", config, level, seed))


@app.command()
def train(
    config: Config,
    level: Level = None,
    seed: Seed = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="method to train on; repeatable; default: all of the config"),
    ] = None,
    source: Input = None,
    added: Annotated[
        list[Path] | None,
        typer.Option(
            "--augmented",
            "-a",
            help="synthetic rows (JSONL) in place of the methods' own; repeatable",
        ),
    ] = None,
    output: Output = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="training runs in all; overrides trials")
    ] = None,
    classifier: Annotated[
        list[str] | None,
        typer.Option(help="classifier to train; repeatable; default: all of the config"),
    ] = None,
    save_model: Annotated[
        Path | None,
        typer.Option(
            help="folder for the trial with the best validation score, to use with predict"
        ),
    ] = None,
    jobs: Jobs = None,
    tensorboard: Curves = None,
    out: Out = RESULTS,
    sets: Sets = None,
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train and test the classifiers."""
    with resources(config, out, sets, force, quiet, json, output) as (display, grid):
        configure_workers(grid, jobs, tensorboard)
        if trials:
            grid.experiments = [with_trials(experiment, trials) for experiment in grid.experiments]
        wanted = select_trainings(
            grid,
            config,
            select_cells(grid, level, seed, output, source),
            method,
            classifier,
            source,
            added or (),
            output,
            save_model,
        )
        display.end(
            list(grid.trainings(wanted)),
            f"gpt3mix predict {save_model} -i FILE -o FILE"
            if save_model
            else f"gpt3mix report {output or config}",
        )


@app.command()
def predict(
    model: Annotated[
        Path,
        typer.Argument(
            help="folder that train --save-model wrote, or any classifier of the transformers library",
            metavar="MODEL",
        ),
    ],
    source: Annotated[
        Path, typer.Option("--input", "-i", help="rows with a text (JSONL, - for stdin)")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="where to write the rows with `predicted` and `probs` (- for stdout)",
        ),
    ],
    force: Force = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Label texts with a saved model."""
    from .console import Display

    if json and output == Path("-"):
        raise UserError("--json and -o - both want stdout", "leave one of them out")
    with Display(quiet, json) as display:
        from .train.saved_models import predict as label

        done = label(
            model,
            source,
            output,
            command=["gpt3mix", *sys.argv[1:]],
            force=force,
            callbacks=display.callbacks,
        )
        counts = done.manifest.counts
        if counts["labelled"]:
            display.note(
                f"{counts['right']} of the {counts['labelled']} labels that the file has agree ({counts['right'] / counts['labelled']:.1%})"
            )
        display.end([done])


@app.command()
def report(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            help="configs, or folders and files of trials", metavar="CONFIG|DIR|FILE..."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="folder of the report")
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            help="lines of the main table, of task, level, classifier, method, variant and swept keys: task,level"
        ),
    ] = None,
    columns: Annotated[str | None, typer.Option(help="its columns: classifier,method")] = None,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper", help="print the paper's figures beside ours, and what they contradict"
        ),
    ] = False,
    synthetic: Annotated[
        str | None,
        typer.Option(
            metavar="N|all",
            help="synthetic rows of a cell that report.html shows, and as many rejected ones (200)",
        ),
    ] = None,
    diff: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="compare two runs, each a config, folder or file"),
    ] = None,
    out: Out = RESULTS,
    sets: Sets = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Print and write tables, statistics and tests over all trials."""
    from .console import Display

    with Display(quiet, json) as display:
        from .report import ReportOptions, compare_runs, parse_row_limit
        from .report import report as write_report

        if bool(sources) == bool(diff):
            raise UserError(
                "report needs configs, folders or files, or two of them after --diff",
                "for example gpt3mix report results/sst2",
            )
        if diff:
            a, b = (report_inputs([path], out, sets, display) for path in diff)
            result = compare_runs(a, b, output or b.folder / "report", display.callbacks)
        else:
            inputs = report_inputs(sources or [], out, sets, display)
            options = ReportOptions(rows, columns, paper, parse_row_limit(synthetic))
            folder = output or inputs.folder / "report"
            result = write_report(inputs, folder, options, display.callbacks)
        display.report(result)


@app.command()
def run(
    config: Config, jobs: Jobs = None, tensorboard: Curves = None, out: Out = RESULTS, sets: Sets = None,
    force: Force = False, quiet: Quiet = False, json: Json = False,
) -> None:  # fmt: skip
    """Do a whole experiment: every cell, every stage, then the report; what is up to date is skipped."""
    with resources(config, out, sets, force, quiet, json) as (display, grid):
        configure_workers(grid, jobs, tensorboard)
        done = [display.ended(item) for item in grid.run()]
        display.report(grid.report(), done)


@app.command()
def plan(
    config: Config, level: Level = None, seed: Seed = None, out: Out = RESULTS, sets: Sets = None, quiet: Quiet = False, json: Json = False
) -> None:  # fmt: skip
    """Show what would be asked and cost: rows, requests, tokens, dollars, the first prompt in full; asks nothing."""
    with resources(config, out, sets, False, quiet, json) as (display, grid):
        from .grid.plan import plan as planned

        spots = [
            spot
            for spot in select_cells(grid, level, seed, None)
            if spot.used() or seed is not None
        ]
        named = level is not None or seed is not None
        display.plan(
            planned(grid, spots),
            next_command("augment", config, level, seed) if named else f"gpt3mix run {config}",
        )


@app.command()
def check(
    config: Config, out: Out = RESULTS, sets: Sets = None, quiet: Quiet = False, json: Json = False
) -> None:
    """Look at config, data, models, translators and devices: a tick or the remedy for each."""
    with resources(config, out, sets, False, quiet, json) as (display, grid):
        from .grid.check import check as look

        display.findings(look(grid), f"gpt3mix run {config}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a terminal that has no ± must not end a night's run
    # Imports and settings make many objects that stay: to look for garbage at every 700 new ones is a tenth of a short run.
    gc.set_threshold(10_000)
    # A user's setting wins.
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        _one_of_several(None if argv is None else list(argv))
    except UserError as error:
        _complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        return _interrupted()
    except StdoutClosed:
        # Whoever read our stdout has seen enough; what is still buffered has no reader.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return _interrupted() if code == 130 else code
    except Exception:
        import traceback

        traceback.print_exc()
        print("gpt3mix: this is a bug; what was made so far is kept", file=sys.stderr)
        return 1
    return 0


def _one_of_several(arguments: list[str] | None) -> None:
    """Run the command; of the processes that torchrun or `accelerate launch` started, only the first, the others help it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        app(args=arguments, prog_name="gpt3mix")
        return
    from .train import cached_classifier
    from .train.parallel import follow, group, leave

    if group().rank:
        follow(cached_classifier)
        return
    try:
        app(args=arguments, prog_name="gpt3mix")
    except (UserError, SystemExit):
        leave()
        raise  # any other error may have come in the middle of an exchange: there the launcher ends the others
    leave()


def _complain(error: UserError) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    # What can go on later is no error: a batch that was submitted, a budget that is used up.
    word = (
        ("stopped: ", "bold yellow") if isinstance(error, StoppedShort) else ("error: ", "bold red")
    )
    console.print(Text.assemble(word, error.message))
    if error.hint:
        console.print(
            Text.assemble(
                (" then: " if isinstance(error, StoppedShort) else "  fix: ", "bold green"),
                error.hint,
            )
        )


def _interrupted() -> int:
    print(
        "gpt3mix: interrupted; what was made is kept, and the same command goes on from there",
        file=sys.stderr,
    )
    return 130


def entry() -> None:
    """The console script."""
    code = main()
    if "torch" in sys.modules:
        # Taking torch down takes a second, and under torchrun its threads may outlive the interpreter and abort it after all is
        # written; files are closed and workers gone by now.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
