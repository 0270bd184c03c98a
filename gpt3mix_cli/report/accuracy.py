"""Results -> the tables that have a column a method: accuracies, and scores of uneven classes.

Values are in percent with one decimal. The best mean of each row and classifier is marked.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace

import pandas as pd

from ..errors import UserError, did_you_mean
from ..layout import value_name, variant_name
from .averages import KEY
from .comparisons import block_of, shared_results
from .experiments import EXPERIMENT
from .model import Result
from .remarks import span_text
from .table import EMPTY, MISSING, Table, TableCell, as_percent, percent_text

Words = tuple[str, ...]
MAX_HEADING = 48  # characters of a swept value
NOTES = (
    "Test accuracy in percent: mean ± sample standard deviation over trials (number of trials); "
    "the best mean of a row is bold."
)
UNEVEN_NOTES = (
    "Means over trials; a classifier that always predicts the most frequent class reaches the "
    "majority's accuracy and an MCC of 0."
)
UNEVEN_TITLE = "Uneven classes: macro-F1 in percent, and Matthews' correlation (MCC)"


@dataclass(frozen=True)
class TableLayout:
    """Which keys of a result are rows of a table and which are columns."""

    rows: Words = ("task", "variant", "level", "classifier")
    columns: Words = ("method",)

    def without_empty(self, results: Sequence[Result]) -> "TableLayout":
        """Return the layout without the variant if no result has one."""
        if any(self._word(result, "variant") for result in results):
            return self
        rows = tuple(key for key in self.rows if key != "variant")
        return TableLayout(rows, tuple(key for key in self.columns if key != "variant"))

    def row_of(self, result: Result) -> Words:
        """Return the labels of a result's row."""
        return tuple(self._word(result, key) for key in self.rows)

    def column_of(self, result: Result) -> Words:
        """Return the heading of a result's column."""
        return tuple(self._word(result, key) for key in self.columns)

    def _word(self, result: Result, key: str) -> str:
        if key == "method":
            return result.column
        if key == "variant":
            # Swept keys that are rows or columns of their own are left out of it.
            keys = (*self.rows, *self.columns)
            return variant_name({k: v for k, v in result.swept.items() if k not in keys})
        if key in KEY:
            return str(getattr(result, key))
        return value_name(result.swept[key]) if key in result.swept else ""


# In print, a block of columns a classifier, as in Table 1 of the paper.
PRINT_LAYOUT = TableLayout(("task", "variant", "level"), ("classifier", "method"))
SWEEP = TableLayout(("task", "level", "classifier"))


def table_layout(
    rows: str | None, columns: str | None, results: Sequence[Result], default: TableLayout
) -> TableLayout:
    """Return the layout that the user asks for; a key that is not named becomes a row.

    Args:
        rows: keys separated by commas: task, level, classifier, method, variant, or a swept key.
        columns: keys as well.
        results: whose swept keys may be named.
        default: if neither is given.

    Raises:
        UserError: for an unknown key, or one that is named twice.
    """
    if not rows and not columns:
        if not any(EXPERIMENT in result.swept for result in results):
            return default
        # A column of its own is narrower than `experiment=NAME` in that of variants.
        at = default.rows.index("variant")
        return TableLayout((*default.rows[:at], EXPERIMENT, *default.rows[at:]), default.columns)
    known = [*KEY, *sorted({key for result in results for key in result.swept})]
    row_keys = _named_keys("--rows", rows, known)
    column_keys = _named_keys("--columns", columns, known)
    named = [*row_keys, *column_keys]
    if twice := [key for key in named if named.count(key) > 1]:
        raise UserError(f"--rows and --columns: '{twice[0]}' is named twice", "name each key once")
    rest = [key for key in ("task", "variant", "level", "classifier", "method") if key not in named]
    if not columns:
        # Methods in columns are easier to compare than in a long list of rows.
        column_keys = [key for key in rest if key == "method"] or rest
        rest = [key for key in rest if key not in column_keys]
    return TableLayout((*row_keys, *rest), tuple(column_keys))


def _named_keys(flag: str, text: str | None, known: Sequence[str]) -> list[str]:
    keys = [key.strip() for key in (text or "").split(",") if key.strip()]
    for key in keys:
        if key not in known:
            raise UserError(
                f"{flag}: there is no key '{key}'{did_you_mean(key, known)}",
                f"choose among {', '.join(known)}",
            )
    return keys


# Tables --------------------------------------------------------------------------------------


def accuracy_table(results: Sequence[Result], layout: TableLayout) -> Table:
    """Return the main table."""
    return _pivot("accuracy", "Accuracy", NOTES, score_cell, results, layout)


def print_table(results: Sequence[Result], layout: TableLayout) -> Table:
    """Return the main table for print, whose note has the number of trials."""
    trials = span_text(result.n for result in results if result.n)
    notes = (
        "Test accuracy in percent, mean and sample standard deviation over "
        f"{trials.replace('none', 'no')} trials; the best mean of a row is bold."
    )
    return replace(accuracy_table(results, layout), notes=notes)


def uneven_table(results: Sequence[Result], layout: TableLayout) -> Table | None:
    """Return macro-F1 and Matthews' correlation of tasks with uneven classes; None without any."""
    uneven = [result for result in results if result.uneven]
    pivot = _pivot("uneven", UNEVEN_TITLE, UNEVEN_NOTES, _uneven_cell, uneven, layout)
    return pivot if uneven else None


def score_cell(result: Result) -> TableCell:
    """Return `mean ± std (n)`, `(n/expected)` if trials are missing."""
    missing = bool(result.expected and result.n < result.expected)
    of = f"/{result.expected}" if missing else ""
    if result.mean is None and result.failed:
        return TableCell(
            f"failed ({result.failed}{of if result.failed < (result.expected or 0) else ''})"
        )
    if result.mean is None:
        return TableCell(f"- (0{of})") if of else MISSING
    std = f" ± {percent_text(result.std)}" if result.std is not None else ""
    note = f"{result.n}{of}"
    text = f"{percent_text(result.mean)}{std} ({note})"
    return TableCell(text, 100 * result.mean, False, as_percent(result.std), note)


def _uneven_cell(result: Result) -> TableCell:
    if result.macro_f1 is None or result.mcc is None:
        return score_cell(result) if result.mean is None else MISSING
    return TableCell(
        f"{percent_text(result.macro_f1)}, MCC {result.mcc:.3f}", 100 * result.macro_f1
    )


# Results by row and column -------------------------------------------------------------------


def _pivot(
    name: str,
    title: str,
    notes: str,
    show: Callable[[Result], TableCell],
    results: Sequence[Result],
    layout: TableLayout,
) -> Table:
    """Return a table with a row for each combination of labels, and averages over the tasks.

    Args:
        name: of the table.
        title: its heading.
        notes: what the values are.
        show: returns a result's cell.
        results: the first one of a row and column is shown.
        layout: which keys are rows and which are columns.
    """  # fmt: skip
    layout = layout.without_empty(results)
    cells = pd.DataFrame({
        "row": [layout.row_of(result) for result in results],
        "column": [layout.column_of(result) for result in results],
        "block": [(result.task, result.level, result.classifier) for result in results],
        "cell": [show(result) for result in results],
        "mean": pd.Series([result.mean for result in results], dtype=float),
        "majority": pd.Series([result.majority for result in results], dtype=float),
    }).drop_duplicates(["row", "column"])  # fmt: skip
    columns = _ordered_columns(cells["column"])
    body, footer = _rows(cells, columns), []
    if show is score_cell and "task" in layout.rows:
        averages = _task_averages(cells, layout.rows.index("task"))
        footer = _rows(averages, columns) if len(averages) else []
    depth = max((len(column) for column in columns), default=1)
    headings = [(*[""] * (depth - 1), label) for label in (*layout.rows, "majority")]
    data = pd.DataFrame([*body, *footer], columns=pd.MultiIndex.from_tuples([*headings, *columns]))
    return Table(name, title, data, len(headings), notes, len(footer))


def _ordered_columns(columns: Iterable[Words]) -> list[Words]:
    unique = list(dict.fromkeys(columns))
    blocks = list(dict.fromkeys(column[:-1] for column in unique))
    return sorted(unique, key=lambda column: (blocks.index(column[:-1]), column[-1] != "none"))


def _rows(cells: pd.DataFrame, columns: Sequence[Words]) -> list[list[str | TableCell]]:
    """Return the rows of a table, the best cell of each row and block marked.

    Args:
        cells: row, column and block of each cell, the cell, and the majority of its test rows.
        columns: of the table.
    """
    # An average over some of the tasks, which its note says, is not compared with the others.
    values = cells["cell"].map(lambda cell: None if "tasks" in cell.note else cell.value)
    shown = values.astype(float).map(lambda value: float(f"{value:.1f}"))
    rivals = shown.groupby([cells["row"], cells["block"]])
    best = (shown == rivals.transform("max")) & (rivals.transform("count") > 1)
    # Without pandas, for which ten thousand small groups take seconds.
    marked: dict[Words, dict[Words, TableCell]] = {}
    majorities: dict[Words, set[float]] = {}
    majority = cells["majority"].round(6)
    for row, column, cell, is_best, rate in zip(
        cells["row"], cells["column"], cells["cell"], best, majority, strict=True
    ):
        marked.setdefault(row, {})[column] = cell._replace(best=bool(is_best))
        majorities.setdefault(row, set()).update([] if math.isnan(rate) else [rate])
    return [
        [*row, _majority_cell(sorted(majorities[row])), *(of_row.get(c, MISSING) for c in columns)]
        for row, of_row in marked.items()
    ]


def _majority_cell(majorities: Sequence[float]) -> TableCell:
    if not majorities:
        return EMPTY
    low, high = percent_text(majorities[0]), percent_text(majorities[-1])
    return TableCell(low if len(majorities) == 1 else f"{low} to {high}", 100 * majorities[0])


def _task_averages(cells: pd.DataFrame, task: int) -> pd.DataFrame:
    """Return the means over the tasks as cells; every task counts once.

    Args:
        cells: of the table.
        task: index of the task among the labels of a row.
    """
    own = cells["row"].map(lambda row: (*row[:task], "average", *row[task + 1 :]))
    rows = cells.assign(own=cells["row"], row=own).groupby("row", sort=False)
    tasks = rows["own"].nunique()
    # The majority of an average is known if it is known for every task.
    majorities = cells.drop_duplicates("row").assign(row=own).groupby("row")["majority"]
    majority = majorities.agg(lambda column: column.mean(skipna=False))
    means = cells.dropna(subset="mean").assign(row=own).groupby(["row", "column"], sort=False)
    averages = means["mean"].agg(["mean", "size"]).reset_index()
    averages["tasks"] = averages["row"].map(tasks)
    averages = averages[averages["tasks"] > 1]
    return averages.assign(
        block=averages["column"].map(lambda column: column[:-1]),
        cell=list(map(_average_cell, averages["mean"], averages["size"], averages["tasks"])),
        majority=averages["row"].map(majority),
    )


def _average_cell(mean: float, count: int, tasks: int) -> TableCell:
    note = f"{count}/{tasks} tasks" if count < tasks else ""
    text = f"{100 * mean:.1f}"
    return TableCell(f"{text} ({note})" if note else text, 100 * mean, note=note)


# Sweeps: variants in columns, as in Tables 2, 3, 5 and 6 of the paper -------------------------


def ablation_tables(results: Sequence[Result]) -> list[Table]:
    """Return a table for each method that a sweep changes."""
    swept = [result for result in results if result.swept]
    if len({result.variant for result in swept}) < 2:
        return []
    shared = shared_results(results)
    constant = {_method_of(result) for result in shared} - _varied_methods(results)
    changed = [result for result in swept if _method_of(result) not in constant]
    unchanged = [result for result in shared if _method_of(result) in constant]
    keys = ", ".join(dict.fromkeys(key for result in swept for key in result.swept))
    tables = []
    for method in dict.fromkeys(result.column for result in changed):
        chosen = [result for result in changed if result.column == method]
        rows = {block_of(result) for result in chosen}
        baselines = [result for result in unchanged if block_of(result) in rows]
        headings = _variant_headings(chosen, {result.column for result in baselines})
        # Each variant has a column of its own, as if it were a method.
        named = [replace(row, method=headings[row.variant], split_by=None) for row in chosen]
        same = "is equal in all" if keys == EXPERIMENT else "the sweep does not change"
        first = f"what {same}, then " if baselines else ""
        notes = f"{NOTES} Columns: {first}the values of {keys}."
        results = [*baselines, *named]
        tables.append(
            _pivot(f"ablation-{method}", f"{method} by {keys}", notes, score_cell, results, SWEEP)
        )
    return tables


def _method_of(result: Result) -> tuple[str, str, str]:
    return result.task, result.classifier, result.column


def _varied_methods(results: Sequence[Result]) -> set[tuple[str, str, str]]:
    """Return the methods of which some trial differs between variants.

    On a single level all variants may be equal by chance, if all trials predict one class.
    """
    first: dict[tuple[object, ...], float | None] = {}
    varied = set()
    for result in results:
        for trial, accuracy in result.scores.items():
            key = (block_of(result), result.column, trial)
            if first.setdefault(key, accuracy) != accuracy:
                varied.add(_method_of(result))
    return varied


def _variant_headings(results: Sequence[Result], taken: Set[str]) -> dict[str, str]:
    headings: dict[str, str] = {}
    used = {*taken}
    for result in results:
        if result.variant in headings:
            continue
        name = heading = _heading(result)
        for number in itertools.count(2):
            if heading not in used:
                break
            heading = f"{name} ({number})"
        headings[result.variant] = heading
        used.add(heading)
    return headings


def _heading(result: Result) -> str:
    single = len(result.swept) == 1
    text = value_name(next(iter(result.swept.values()))) if single else result.variant
    return text if len(text) <= MAX_HEADING else f"{text[: MAX_HEADING - 1]}…"
