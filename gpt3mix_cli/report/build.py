"""Trials -> report: read, averaged, compared, laid out as tables and charts, and written.

    load_trials   files -> trials                accuracy, table, paper    results -> tables
    averages      trials -> results              charts                    results -> charts
    comparisons   results -> tests and gains     verdict                   tests -> sentences
    artifacts     what is next to the trials     render                    tables, charts -> files

The data seed is the unit of every test and interval (`statistics`). Trials that ran with different
settings, test rows or versions are never averaged.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pandas import DataFrame

from ..errors import NO_CALLBACKS, Callbacks, UserError
from ..files import write_shared
from . import accuracy, table
from .artifacts import (
    copy_remarks,
    label_mass_remarks,
    load_artifacts,
    review_remarks,
    select_samples,
)
from .averages import average_trials
from .charts import build_charts, series_styles
from .choose_variant import choose_variants
from .classes import class_scores, classes_table
from .comparisons import average_over_tasks, compare_results, with_gains
from .diff import diff_remarks, diff_table, find_differences
from .document import Report
from .load_trials import load_trials, refuse_unfair
from .model import ExpectedTrials, ReportInput, ReportOptions, Result
from .paper import (
    compare_with_paper,
    find_contradictions,
    is_in_paper,
    paper_tables,
    unknown_to_paper,
)
from .remarks import describe_design, find_remarks, list_failures
from .render import data, latex, markdown, page, plot_files
from .row_measures import measure_charts, measures_table
from .verdict import judge_methods, verdict_table

# Text files of a report; the first one is named at the end of a run.
REPORT_FILES: dict[str, Callable[[Report], str]] = {
    "report.md": markdown.report_page,
    "table.csv": data.results_csv,
    "table.tex": latex.latex_tables,
    "report.json": data.report_json,
    "report.html": page.html_page,
}
DIFF_FILES: dict[str, Callable[[Report], str]] = {
    "diff.md": markdown.diff_page,
    "diff.csv": data.diff_csv,
    "diff.json": data.diff_json,
}
DEFAULT_OPTIONS = ReportOptions()


def report(
    inputs: ReportInput,
    output: Path,
    options: ReportOptions = DEFAULT_OPTIONS,
    callbacks: Callbacks = NO_CALLBACKS,
) -> Report:
    """Write a report over all trials, and return it.

    Args:
        inputs: the trials, and what configs expect of them.
        output: the folder of the report.
        options: what the user may choose.
        callbacks: receive warnings.

    Raises:
        UserError: if there is no trial, a line is broken, or a key of the options is unknown.
    """
    result = build_report(inputs, output, options, callbacks)
    _write(output, REPORT_FILES, result)
    plot_files.write_plots(result.charts, result.styles, output)
    return result


def build_report(
    inputs: ReportInput, output: Path, options: ReportOptions, callbacks: Callbacks
) -> Report:
    """Return a report without writing it; the arguments are those of `report`."""
    trials, expected = _load(inputs, callbacks)
    choice = choose_variants(trials, expected) if options.by_validation else None
    trials, results = analyze(*choice[:2] if choice else (trials, expected))
    comparisons, pooled = compare_results(results)
    verdict, verdicts = judge_methods(results, comparisons, pooled)
    failures = list_failures(trials)
    artifacts = load_artifacts(trials, options.synthetic_limit, callbacks)
    remarks = [choice.remark] if choice else []
    remarks += [*find_remarks(results, trials), *label_mass_remarks(artifacts)]
    remarks += review_remarks(artifacts)
    remarks += copy_remarks(artifacts)
    classes = class_scores(trials, results)
    paper = compare_with_paper(results) if options.with_paper and is_in_paper(results) else None
    unknown = [*unknown_to_paper(results)] if options.with_paper else []
    remarks = [*remarks, *unknown] if paper is not None else [*unknown, *remarks]
    shown, printed = (
        accuracy.table_layout(options.rows, options.columns, results, default)
        for default in (accuracy.TableLayout(), accuracy.PRINT_LAYOUT)
    )
    optional: list[table.Table | None] = [
        choice.table if choice else None,
        *accuracy.ablation_tables(results),
        accuracy.uneven_table(results, shown),
        table.pooled_table(pooled),
        table.comparisons_table(comparisons),
        table.intervals_table(results),
        classes_table(classes),
        table.cost_table(results),
        measures_table(artifacts),
        table.failures_table(failures),
        *(paper_tables(paper) if paper is not None else ()),
    ]
    others = list(filter(None, optional))
    by_row = verdict_table(verdicts)
    charts = build_charts(results, comparisons, artifacts)
    charts += [chart for chart in measure_charts(results, artifacts) if chart.points]
    return Report(
        title=inputs.name,
        files=[output / name for name in (*REPORT_FILES, *plot_files.file_names(charts))],
        remarks=remarks,
        verdict=verdict,
        verdicts=verdicts,
        tables=[accuracy.accuracy_table(results, shown), *filter(None, [by_row]), *others],
        latex_tables=[accuracy.print_table(results, printed), *others],
        results=results,
        trials=trials,
        comparisons=comparisons,
        pooled=pooled,
        averages=average_over_tasks(results),
        failures=failures,
        samples=select_samples(trials, callbacks),
        classes=classes,
        design=describe_design(results, trials),
        paper=paper,
        paper_remarks=find_contradictions(paper) if paper is not None else [],
        artifacts=artifacts,
        charts=charts,
        styles=series_styles(charts, [result.column for result in results]),
    )


def analyze(
    trials: DataFrame, expected: Sequence[ExpectedTrials]
) -> tuple[DataFrame, list[Result]]:
    """Return the trials, with the index of their results, and the results.

    Raises:
        UserError: if methods had different subsamples.
    """
    trials, results = average_trials(trials, expected)
    refuse_unfair(trials)
    return trials, with_gains(results)


def compare_runs(
    a: ReportInput, b: ReportInput, output: Path, callbacks: Callbacks = NO_CALLBACKS
) -> Report:
    """Write how two runs differ, result by result, as diff.md, diff.csv and diff.json.

    Args:
        a: the first run.
        b: the second one; differences are b - a.
        output: the folder.
        callbacks: receive warnings.

    Raises:
        UserError: if one of them has no trial, or a line is broken.
    """
    first_results, second_results = (
        average_trials(*_load(inputs, callbacks))[1] for inputs in (a, b)
    )
    differences = find_differences(first_results, second_results)
    first, second = (a.name, b.name) if a.name != b.name else (f"{a.name} (A)", f"{b.name} (B)")
    result = Report(
        title=f"{first} and {second}",
        files=[output / name for name in DIFF_FILES],
        remarks=diff_remarks(differences, first, second),
        tables=[diff_table(differences, first, second)],
        differences=differences,
    )
    _write(output, DIFF_FILES, result)
    return result


def _load(inputs: ReportInput, callbacks: Callbacks) -> tuple[DataFrame, Sequence[ExpectedTrials]]:
    trials, expected = load_trials(inputs, callbacks)
    if trials.empty:
        searched = [*map(str, inputs.sources)]
        if inputs.expected:
            searched.append(os.path.commonpath([item.path.parent for item in inputs.expected]))
        raise UserError(
            f"{', '.join(searched)}: no trials found",
            "train first: gpt3mix train CONFIG, or gpt3mix run CONFIG",
        )
    return trials, expected


def _write(output: Path, files: Mapping[str, Callable[[Report], str]], result: Report) -> None:
    for name, render in files.items():
        write_shared(output / name, render(result).encode())
