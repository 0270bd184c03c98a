"""From trial rows to tables, tests and the paper's figures: what is read, computed and written, in this order.

    reading   files -> rows               comparing  cells -> comparisons, averages, gains      tables, latex  sheets -> forms
    cells     rows -> means, intervals    sheets     cells -> tables in no form yet             paper, samples, differing, ablations
    beside    what stands beside trials   charts     cells -> plots in no form yet              plots, page

The data seed is the unit of every test and interval (`statistics`). Trials that ran under different settings, test rows or
versions are never averaged: they are told apart by hash. A torn last line of a file is reported and passed over.
"""

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import NO_CALLBACKS, Callbacks, UserError
from ..files import atomic_write
from . import ablations, diff, paper, tables
from .artifacts import ROWS, load_artifacts
from .averages import Group, describe_design, group_trials, list_failures, remarks_on, with_gains
from .charts import build_charts, looks
from .comparisons import average_over_tasks, compared
from .fairness import refuse_unfair
from .load_trials import load_trials
from .model import ExpectedTrials, Report, ReportInput
from .render import latex, page, plots, text
from .samples import select_samples

# Every form, by the name of its file; report.md first, as it is the one that is named at the end of a run.
FORMS: dict[str, Callable[[Report], str]] = {
    "report.md": text.markdown_page,
    "table.csv": lambda report: text.csv_text(report.cells),
    "table.tex": latex.latex_text,
    "report.json": text.json_text,
    "report.html": page.html_text,
}


def report(
    sources: Sequence[Path],
    output: Path,
    *,
    title: str,
    wanted: Sequence[ExpectedTrials] = (),
    rows: str | None = None,
    columns: str | None = None,
    with_paper: bool = False,
    synthetic: int | None = ROWS,
    callbacks: Callbacks = NO_CALLBACKS,
) -> Report:
    """Write every form of the report over the trials of files and folders.

    Args:
        sources: trials files, or folders in which they are looked for.
        output: the folder of the report.
        title: its heading.
        wanted: what configs ask for, so that missing trials are told; gives the order of lines and columns too.
        rows: keys of the main table's lines with commas between them, such as `task,level`.
        columns: keys of its columns.
        with_paper: print the paper's figures beside ours.
        synthetic: how many synthetic rows of a cell the page shows, and as many rejected ones; None for all.
        callbacks: take warnings.

    Raises:
        UserError: if there is no trial at all, a line is broken, or a key is unknown.
    """
    made = analyze(
        sources,
        title=title,
        wanted=wanted,
        with_paper=with_paper,
        synthetic=synthetic,
        callbacks=callbacks,
    )
    return written(made, output, rows, columns)


def analyze(
    sources: Sequence[Path],
    *,
    title: str,
    wanted: Sequence[ExpectedTrials] = (),
    with_paper: bool = False,
    synthetic: int | None = ROWS,
    callbacks: Callbacks = NO_CALLBACKS,
) -> Report:
    """Return everything but tables and plots; the arguments are those of `report`."""
    with _uncollected():
        groups = _groups(sources, wanted, callbacks)
        refuse_unfair([row for group in groups for row in group.rows])
        comparisons, pooled, gains = compared(groups)
        groups = with_gains(groups, gains)
        made = Report(
            title, [group.cell for group in groups], list(remarks_on(groups)), groups=groups
        )
        made.trials = [row for group in groups for row in group.rows]
        made.comparisons, made.pooled, made.averages = (
            comparisons,
            pooled,
            average_over_tasks(groups),
        )
        made.failures, made.design, made.samples = (
            list_failures(groups),
            describe_design(groups),
            select_samples(groups, callbacks),
        )
        made.beside = load_artifacts(made.trials, synthetic, callbacks)
        if with_paper:
            made.paper = paper.beside(groups)
            made.paper_remarks = paper.contradictions(made.paper)
            made.remarks += paper.unmatched(groups)
    return made


def written(
    made: Report, output: Path, rows: str | None = None, columns: str | None = None
) -> Report:
    """Lay out the tables and plots of a report, write every form of it into a folder, and return it with tables and files."""
    with _uncollected():
        layouts = [
            tables.layout_of(rows, columns, made.cells, default)
            for default in (tables.SHOWN, tables.PRINTED)
        ]
        found = [
            *ablations.ablation_sheets(made.groups),
            tables.uneven_sheet(made.cells, layouts[0]),
            tables.pooled_sheet(made.pooled),
            tables.comparisons_sheet(made.comparisons),
            tables.spread_sheet(made.cells),
            tables.cost_sheet(made.cells),
            tables.failures_sheet(made),
            *(paper.paper_sheets(made.paper) if made.paper else []),
        ]
        others = [sheet for sheet in found if sheet]
        made.sheets = [tables.main_sheet(made.cells, layouts[0]), *others]
        made.printed = [tables.printed_sheet(made.cells, layouts[1]), *others]
        made.charts = build_charts(made, made.beside)
        made.looks = looks(made.charts, [cell.column for cell in made.cells])
        for name, form in FORMS.items():
            _write(output / name, form(made).encode(), made)
        for name, content in plots.plot_files(made.charts, made.looks):
            _write(output / name, content, made)
    return made


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage: of a million small objects all stay, and to find that out again and again would double the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()  # what is there now stays until the report goes
            gc.enable()


def compare(
    a: ReportInput, b: ReportInput, output: Path, callbacks: Callbacks = NO_CALLBACKS
) -> Report:
    """Write how two runs differ, cell by cell, as diff.md, diff.csv and diff.json.

    Args:
        a: the first run.
        b: the second one; differences are b - a.
        output: the folder.
        callbacks: take warnings.

    Raises:
        UserError: if one of them has no trial, or a line is broken.
    """
    lines = diff.differences(
        _groups(a.sources, a.wanted, callbacks), _groups(b.sources, b.wanted, callbacks)
    )
    first, second = (a.name, b.name) if a.name != b.name else (f"{a.name} (A)", f"{b.name} (B)")
    made = Report(
        f"{first} and {second}", [], diff.remarks(lines, first, second), differences=lines
    )
    made.sheets = [diff.sheet(lines, first, second)]
    for name, content in diff.forms(made).items():
        _write(output / name, content.encode(), made)
    return made


def _groups(
    sources: Sequence[Path], wanted: Sequence[ExpectedTrials], callbacks: Callbacks
) -> list[Group]:
    variants: dict[str, Mapping[str, Any]] = {}
    trials = load_trials(sources, wanted, variants, callbacks)
    if not trials:
        places = [
            *sources,
            *([Path(os.path.commonpath([item.path.parent for item in wanted]))] if wanted else []),
        ]
        raise UserError(
            f"{', '.join(map(str, places))}: no trials found",
            "train first: gpt3mix train CONFIG, or gpt3mix run CONFIG",
        )
    return group_trials(trials, wanted, variants)


def _write(path: Path, content: bytes, made: Report) -> None:
    with atomic_write(path) as stream:
        stream.write(content)
    made.files.append(path)
