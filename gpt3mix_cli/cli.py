"""The commands: each parses its options, calls a stage, prints the result and sets the exit code.

Exit codes: 0 done; 1 a bug; 2 the user's input is wrong; 3 stopped short; 130 interrupted, 129 and
143 by SIGHUP and SIGTERM. After all but 1 and 2 the same command resumes. Results go to stdout,
everything else to stderr. Nothing heavy is imported here.
"""

import gc
import os
import sys
import threading
from collections.abc import Sequence
from itertools import chain
from typing import Annotated

import typer

from . import (
    __version__,
    cli_fit,
    cli_init,
    cli_labels,
    cli_report,
    cli_rows,
    cli_run,
    cli_tasks,
    process,
)
from . import cli_executors as executors
from . import cli_hints as hints
from . import cli_options as opt
from .errors import StdoutClosed, StoppedShort, UserError, path_problem, shown_value
from .stopping import Interrupted, is_stop_requested

OLD_FLAGS = {"licence": "license"}  # old name -> name; not shown in the help

app = typer.Typer(
    name="gpt3mix",
    help="Augment a few labelled texts with a language model, train classifiers on them, and test "
    "whether it helps (GPT3Mix, Yoo et al., 2021).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: OLD_FLAGS.get(name, name),
    },
    epilog="A whole experiment: gpt3mix run CONFIG. The manual: gpt3mix guide. Exit codes: 0 done, "
    "2 wrong input, 3 stopped short but resumable, 130 interrupted, 143 terminated.",
)
ENVIRONMENT = {
    # The progress bars and messages of libraries would break ours.
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # It would look for plugins in every installed package.
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
    # If two runs share the cores, threads that wait by spinning slow both down to a halt.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"gpt3mix {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="print the version"),
    ] = False,
) -> None:
    pass


@app.command()
def subsample(
    config: opt.Config,
    level: opt.Level = None,
    seed: opt.Seed = None,
    output: opt.Output = None,
    out: opt.Out = opt.RESULTS,
    overrides: opt.Overrides = None,
    force: opt.Force = False,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
) -> None:
    """Draw class-balanced training rows."""
    options = opt.GridOptions(config, out, overrides or (), force, quiet, json)
    with opt.open_grid(options, output) as (display, grid):
        from .grid import select_cells

        cells = select_cells(grid, level, seed, output=output)
        results = [grid.subsample(cell, output) for cell in cells]
        display.finish(results, hints.after_subsample(grid, options, cells, (level, seed), output))


app.add_typer(cli_rows.app)


@app.command()
def train(
    config: opt.Config,
    level: opt.Level = None,
    seed: opt.Seed = None,
    method: opt.Methods = None,
    input: opt.Input = None,
    augmented: opt.AugmentedFiles = None,
    output: opt.Output = None,
    trials: opt.Trials = None,
    classifier: opt.Classifiers = None,
    save_model: opt.SaveModel = None,
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
    """Train and test the classifiers."""
    options = opt.GridOptions(config, out, overrides or (), force, quiet, json)
    with process.finishing_work_in_flight(), opt.open_grid(options, output) as (display, grid):
        from .grid import select_cells, select_trainings, warn_of_stale_sets, with_files

        grid.configure_training(jobs, tensorboard, trials)
        executors.choose_executor(grid, executor, address)
        cells = select_cells(grid, level, seed, input, output)
        steps = select_trainings(grid, cells, method or (), classifier or (), augmented or ())
        steps = with_files(steps, input, output, save_model)
        warn_of_stale_sets(grid, steps)
        following = hints.after_train(options, trials, output, save_model)
        display.finish(list(grid.run_steps(steps, "train steps")), following)


app.add_typer(cli_labels.app)


app.add_typer(cli_report.app)
app.add_typer(cli_run.app)
app.add_typer(cli_fit.app)
app.add_typer(cli_init.app)
app.add_typer(cli_tasks.app)


@app.command()
def plan(
    config: opt.Config,
    level: opt.Level = None,
    seed: opt.Seed = None,
    measure: opt.Measure = True,
    out: opt.Out = opt.RESULTS,
    overrides: opt.Overrides = None,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
) -> None:
    """Show what a run would ask, cost and take, with the first prompt in full; ask nothing."""
    options = opt.GridOptions(config, out, overrides or (), quiet=quiet, json=json)
    with opt.open_grid(options) as (display, grid):
        from .grid import select_cells
        from .grid.plan import plan as make_plan

        cells = [
            cell
            for cell in select_cells(grid, level, seed)
            if seed is not None or grid.experiment(cell).has_trials(cell.data_seed)
        ]
        following = hints.command_line("run", options)
        if level is not None or seed is not None:
            following = hints.next_command(grid, options, cells, level, seed)
        result = make_plan(grid, cells, measure)
        if result.lacks_data:
            following = hints.command_line("check", options)
        display.print_plan(result, following)


@app.command()
def check(
    config: opt.Config,
    labels: opt.CheckLabels = False,
    specs: opt.Specs = None,
    level: opt.Level = None,
    seed: opt.Seed = None,
    out: opt.Out = opt.RESULTS,
    overrides: opt.Overrides = None,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
) -> None:
    """Check config, data, models, translators and devices; name a remedy for each problem."""
    options = opt.GridOptions(config, out, overrides or (), quiet=quiet, json=json)
    with opt.open_grid(options) as (display, grid):
        from .grid.check import check as run_checks
        from .grid.check_labels import label_findings

        findings = run_checks(grid)
        if labels or specs or level is not None or seed is not None:
            findings = chain(findings, label_findings(grid, level, seed, specs))
        display.print_findings(findings, hints.command_line("run", options))


@app.command()
def cache(
    name: opt.ModelName = None,
    clear: opt.Clear = False,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
) -> None:
    """List the models that were converted from GGUF files, or remove them."""
    with opt.open_display(quiet, json) as display:
        from .lm.local.model_cache import converted_models, remove_models

        models = remove_models(name) if clear else converted_models(name)
        display.print_models(models, removed=clear)


@app.command()
def guide(topic: opt.Topic = None) -> None:
    """Show a page of the manual, or list its pages."""
    from .console_guide import show_guide

    show_guide(topic)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal whose encoding lacks `±` must not end a long run.
            stream.reconfigure(errors="backslashreplace")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # the user's own value wins
    try:
        arguments = sys.argv[1:] if argv is None else list(argv)
        for argument in arguments:
            if any("\ud800" <= char <= "\udfff" for char in argument):
                raise UserError(f"{shown_value(argument)}: not UTF-8", "rename it, or give UTF-8")
        app(args=arguments, prog_name="gpt3mix")
    except Interrupted:
        return process.interrupted()
    except UserError as error:
        from .console import print_error

        print_error(error)
        return process.interrupted() if is_stop_requested() else error.exit_code
    except KeyboardInterrupt:
        return process.interrupted()
    except StdoutClosed:
        process.discard_stdout()
        return 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return process.interrupted() if code == 130 else code
    except Exception as error:
        from .pretrained import MEMORY_HINT, out_of_memory

        problem: UserError | None = path_problem(error)
        if out_of_memory(error):
            problem = StoppedShort("not enough memory; finished work is kept", MEMORY_HINT)
        if problem:
            from .console import print_error

            print_error(problem)
            return problem.exit_code
        import traceback

        traceback.print_exc()
        print("gpt3mix: this is a bug; finished work is kept", file=sys.stderr)
        return 1
    return 0


def entry() -> None:
    """Run the console script."""
    # Start-up creates many objects that stay: the default of 700 takes a sixth of its time.
    gc.set_threshold(100_000)
    process.open_streams()
    process.handle_signals()
    code = main()
    process.flush_streams()
    if "torch" in sys.modules or threading.active_count() == 1:
        # Unloading modules takes a fifth of a start, and torch a second. All files are closed and
        # all workers have ended.
        os._exit(code)
    sys.exit(code)
