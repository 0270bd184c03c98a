"""The commands about labels: those that a model predicts, and those that a person corrects."""

import sys

import typer

from . import cli_hints as hints
from . import cli_options as opt

app = typer.Typer()


@app.command()
def predict(
    model: opt.Model,
    input: opt.TextInput,
    output: opt.LabelOutput,
    text: opt.TextColumn = None,
    probs: opt.Probs = False,
    min_prob: opt.MinProb = 0.0,
    format: opt.InputFormat = None,
    delimiter: opt.Delimiter = None,
    quoting: opt.Quoting = "auto",
    columns: opt.ColumnNames = None,
    force: opt.Force = False,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
) -> None:
    """Label texts with a saved model."""
    with opt.open_display(quiet, json, output) as display:
        from .records import StageOptions
        from .train.predict import PredictOptions, table_format
        from .train.predict import predict as run_predict

        written = table_format(delimiter, quoting, columns.split(",") if columns else [])
        options = StageOptions(["gpt3mix", *sys.argv[1:]], force, display.callbacks)
        wanted = PredictOptions(text, format or "", written, min_prob, probs)
        result = run_predict(model, input, output, options, wanted)
        counts, column = result.manifest.counts, result.manifest.settings["label"]
        if scored := counts["scored"]:
            right = counts["right"]
            display.note(
                f"{right:,} of the {scored:,} labels in column '{column}' agree: accuracy "
                f"{right / scored:.1%}, macro-F1 {counts['macro_f1']:.1%}"
            )
        if unscored := counts["labelled"] - scored:
            display.note(f"rows with a label, but without a prediction: {unscored:,}")
        if empty := counts["empty"]:
            display.note(f"rows without a prediction, since their texts are empty: {empty:,}")
        if abstained := counts["abstained"]:
            display.note(
                f"rows without a prediction, since no prob reaches {min_prob:g}: {abstained:,}"
            )
        display.finish([result])


@app.command()
def review(
    config: opt.Config,
    table: opt.ReviewTable = None,
    apply: opt.Apply = False,
    out: opt.Out = opt.RESULTS,
    overrides: opt.Overrides = None,
    force: opt.Force = False,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
) -> None:
    """Write synthetic rows as a table for a spreadsheet, and take the corrections back."""
    options = opt.GridOptions(config, out, overrides or (), force, quiet, json)
    with opt.open_grid(options) as (display, grid):
        from .grid.review import apply_review, write_review

        path = table or grid.layout.review_path
        if apply:
            results = apply_review(grid, path)
            if not results:
                display.note(f"{path}: changes nothing")
            display.finish(results, hints.command_line("run", options))
        else:
            again = hints.command_line("review", options, [("--table", table)])
            display.finish([write_review(grid, path)], f"{again} --apply")
