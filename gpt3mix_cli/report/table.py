"""Tables before they are rendered: DataFrames, and how their columns are shown.

Those with one row an item are built here: tests, intervals, costs, failures.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd

from .model import Result
from .statistics import SIGNIFICANCE_LEVELS, min_units

COUNT, PERCENT, POINTS = "{:.0f}", "{:.1f}", "{:+.1f}"  # how numbers become text
FORMATS = {
    **dict.fromkeys(("difference", "gain", "gain per USD"), POINTS),
    **dict.fromkeys(("mean", "std", "between seeds", "within a seed"), PERCENT),
    **dict.fromkeys(("precision", "recall", "F1"), PERCENT),
    **dict.fromkeys(
        (
            "pairs",
            "tasks",
            "units",
            "trials",
            "data seeds",
            "data seed",
            "trial",
            "rows",
            "test rows",
        ),
        COUNT,
    ),
    **dict.fromkeys(("tokens", "tokens per prediction"), "{:,.0f}"),
    "USD": "{:.4g}",
    "gain per 1,000 tokens": "{:+.3f}",
}
POOLED_NOTES = (
    "Mean difference a - b over all rows that both have, in points; rows won, tied (equal as "
    "shown) and lost; p of a two-sided permutation test stratified by task: the signs of a data "
    "seed flip together on all levels of its task, because these share rows. A unit is a (task, "
    "data seed). Interval: bootstrap over units, expanded for their small number. Corrected by "
    "Holm's method for the comparisons of this table; smallest p is what so many units can reach. "
    "The test asks whether the two differ on these tasks, not whether they would on others, nor "
    "whether it matters: a consistent half-point gain is significant; a larger mean gain that "
    "reverses on one task is not."
)
COST_NOTES = (
    "Gain over no augmentation in points; tokens and US dollars of one synthetic set (mean over "
    "the sets of a result)."
)
PROMPT_NOTES = (
    " A classifier that prompts makes none: its tokens are those of a trial's predictions."
)
TOO_FEW_SEEDS = "too few seeds"  # in place of a p that cannot be small
MANY_SEEDS = 5  # from here on a bootstrap interval is wider than the range of the data seeds


class TableCell(NamedTuple):
    """A cell whose text is more than one formatted number, such as `61.0 ± 6.0 (10)`.

    Attributes:
        text: what is shown, not escaped.
        value: a number to sort by; None for a text.
        best: whether it is the best of its row.
        std: standard deviation of the value, in the same unit.
        note: what follows in brackets, such as the number of trials.
    """

    text: str
    value: float | None = None
    best: bool = False
    std: float | None = None
    note: str = ""


EMPTY = TableCell("")
MISSING = TableCell("-")


@dataclass(frozen=True)
class Table:
    """A table that every renderer can show.

    Attributes:
        name: part of a file name or anchor: `accuracy`, `ablation-augment.k`.
        title: its heading.
        data: the rows, in the units that are shown. A column of one heading over several columns
            has a tuple as its name, with empty parts where there is no heading.
        labels: how many columns from the left name the row.
        notes: what the values are, with their limits.
        footer: how many rows at the end are averages.
        formats: column -> the format string of its numbers.
        is_grid: whether all columns right of the labels hold values of one kind, so that a narrow
            terminal may show them below each other.
    """

    name: str
    title: str
    data: pd.DataFrame
    labels: int
    notes: str
    footer: int = 0
    formats: Mapping[str, str] = field(default_factory=dict)
    is_grid: bool = True

    @cached_property
    def headings(self) -> list[tuple[str, ...]]:
        """The parts of each column's heading, from top to bottom; equally many for all."""
        return [name if isinstance(name, tuple) else (name,) for name in self.data.columns]

    @property
    def titles(self) -> list[str]:
        """The heading of each column in one line."""
        return [" ".join(filter(None, heading)) for heading in self.headings]

    @cached_property
    def rows(self) -> list[tuple[TableCell, ...]]:
        """The cells as they are shown."""
        columns = []
        for index, heading in enumerate(self.headings):
            form = self.formats.get(heading[-1], "{}")
            values = self.data.iloc[:, index].tolist()
            columns.append([_as_cell(value, form) for value in values])
        return list(zip(*columns, strict=True))

    @cached_property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers, which are aligned on the right."""
        return [
            (self.is_grid and index >= self.labels) or self.has_numbers(index)
            for index in range(len(self.headings))
        ]

    def has_numbers(self, index: int) -> bool:
        """Return whether any cell of a column is a number."""
        return any(row[index].value is not None for row in self.rows)


def _as_cell(value: Any, form: str) -> TableCell:
    if isinstance(value, TableCell):
        return value
    if isinstance(value, str):
        return TableCell(value)
    if value is None or value != value:
        return EMPTY
    return TableCell(form.format(value), value)


def list_table(
    name: str,
    title: str,
    items: Sequence[Mapping[str, Any]],
    labels: int,
    notes: str,
) -> Table | None:
    """Return a table with one row an item, without its empty columns; None without an item.

    Args:
        name: of the table.
        title: its heading.
        items: column -> number, text or cell; None and "" are empty.
        labels: how many columns from the left name the row.
        notes: what the values are.
    """
    if not items:
        return None
    columns = [key for key in items[0] if any(item[key] not in (None, "") for item in items)]
    labels = sum(key in columns for key in list(items[0])[:labels])
    data = pd.DataFrame(items, columns=columns)
    return Table(name, title, data, labels, notes, 0, FORMATS, is_grid=False)


# Numbers as text -----------------------------------------------------------------------------


def as_percent(fraction: float | None) -> float | None:
    """Return a fraction in percent."""
    return None if fraction is None else 100 * fraction


def percent_text(fraction: float | None) -> str:
    """Return a fraction as text in percent with one decimal; empty for None."""
    return "" if fraction is None else PERCENT.format(100 * fraction)


def can_be_small(smallest: float | None, tests: int) -> bool:
    """Return whether a p, corrected for so many tests, can be below 0.05."""
    return smallest is None or smallest * tests < SIGNIFICANCE_LEVELS[0]


def few_seeds_note(smallest: Iterable[float | None], tests: int) -> str:
    """Return the sentence about p-values that cannot be small, and how many seeds would do."""
    if all(can_be_small(p, tests) for p in smallest if p is not None):
        return ""
    return (
        f" {TOO_FEW_SEEDS[0].upper()}{TOO_FEW_SEEDS[1:]}: however large the difference, so few "
        f"data seeds cannot reach p < {SIGNIFICANCE_LEVELS[0]} in {tests} "
        f"comparison{'s' * (tests > 1)} ({min_units(tests)} can)."
    )


def interval_cell(interval: tuple[float, float] | None, form: str = PERCENT) -> TableCell | None:
    """Return an interval of fractions in percent, sorted by its lower end."""
    if interval is None:
        return None
    low, high = 100 * interval[0], 100 * interval[1]
    return TableCell(f"[{form.format(low)}, {form.format(high)}]", low)


def p_cell(p: float | None, stars: str = "", is_reachable: bool = True) -> TableCell | None:
    """Return a p-value with four decimals, or that so few data seeds can never make it small."""
    if p is None:
        return None
    if not is_reachable:
        return TableCell(TOO_FEW_SEEDS, p)
    return TableCell((f"{p:.4f}" if p >= 0.0001 else "< 0.0001") + stars, p)


# Tables with one row an item -----------------------------------------------------------------


def pooled_table(pooled: pd.DataFrame) -> Table | None:
    """Return the comparisons over all tasks and levels."""
    tests = int(pooled["p"].count())
    items = [
        {
            "classifier": item.classifier,
            "variant": item.variant,
            "a": item.a,
            "b": item.b,
            "difference": as_percent(item.diff),
            "95 % interval": interval_cell(item.ci),
            "by task": (
                f"{100 * item.min_diff:+.1f} to {100 * item.max_diff:+.1f}"
                if item.tasks > 1 else ""
            ),
            "win/tie/loss": f"{item.wins}/{item.ties}/{item.losses}",
            "tasks": item.tasks,
            "units": item.units,
            "p": p_cell(item.p),
            "corrected p": p_cell(
                item.p_corrected, item.stars, can_be_small(item.smallest_p, tests)
            ),
            "smallest p": p_cell(item.smallest_p),
        }
        for item in pooled.itertuples()
    ]  # fmt: skip
    notes = POOLED_NOTES + few_seeds_note(pooled["smallest_p"], tests)
    return list_table("pooled", "Methods over all tasks and levels", items, 4, notes)


def comparisons_table(comparisons: pd.DataFrame) -> Table | None:
    """Return the comparisons within each task, level and classifier."""
    tests = int(comparisons["p"].count())
    items = [
        {
            "task": item.task,
            "variant": item.variant,
            "level": item.level,
            "classifier": item.classifier,
            "a": item.a,
            "b": item.b,
            "difference": as_percent(item.diff),
            "95 % interval": interval_cell(item.ci),
            "pairs": item.n_pairs,
            "p": p_cell(item.p),
            "Wilcoxon p": p_cell(item.p_wilcoxon),
            "corrected p": p_cell(
                item.p_corrected, item.stars, can_be_small(item.smallest_p, tests)
            ),
            "smallest p": p_cell(item.smallest_p),
        }
        for item in comparisons.itertuples()
    ]
    notes = (
        "Mean difference a - b in points, paired by data seed: the trials of a data seed share its "
        "rows, so they are averaged first."
    )
    if tests:  # one data seed has no p and no interval
        few = few_seeds_note(comparisons["smallest_p"], tests)
        of = "comparison" if tests == 1 else f"{tests} comparisons"
        notes += (
            " p: two-sided paired permutation test (sign flips), with Wilcoxon's signed-rank test "
            f"next to it. Corrected by Holm's method for the {of} of this table.{few} Stars "
            "(* 0.05, ** 0.01, *** 0.001, of the corrected p) are shown from six pairs on. "
            "Intervals: bootstrap over data seeds, expanded for their small number; they hold for "
            "these test rows."
        )
    return list_table("comparisons", "Comparisons", items, 6, notes)


def intervals_table(results: Sequence[Result]) -> Table | None:
    """Return the interval of each mean, and the parts of its standard deviation."""
    items = [
        {
            **result_names(result),
            "mean": as_percent(result.mean),
            "95 % interval": interval_cell(result.ci),
            "trials": result.n,
            "data seeds": result.data_seeds,
            "test rows": result.tested or result.n_test,
            "std": as_percent(result.std),
            "between seeds": as_percent(result.between),
            "within a seed": as_percent(result.within),
        }
        for result in results
        if result.n
    ]
    few = [result.data_seeds for result in results if 1 < result.data_seeds < MANY_SEEDS]
    limit = (
        f" With {min(few)} data seeds its part over data seeds is at most their range, and "
        f"contains their mean in less than {1 - 2.0 ** (1 - min(few)):.0%} of cases." if few else ""
    )  # fmt: skip
    notes = (
        "Interval: counts the choice of data seeds (a bootstrap, expanded for their small number) "
        "and of test rows (Wilson's interval), combined by MOVER (Zou and Donner, 2008); of one "
        f"data seed it counts test rows only.{limit} The standard deviation over trials (std) has "
        "a part between data seeds (another subsample) and a part within them (another training "
        "seed and synthetic set); they are separated where a data seed has several trials."
    )
    title = "Intervals and parts of the standard deviation"
    return list_table("intervals", title, items, 5, notes)


def result_names(result: Result) -> dict[str, str]:
    """Return the columns that name a result."""
    return {
        "task": result.task,
        "variant": result.variant,
        "level": result.level,
        "classifier": result.classifier,
        "method": result.column,
    }


def cost_table(results: Sequence[Result]) -> Table | None:
    """Return what synthetic sets cost and gain; None if no cost is known."""
    items = [
        {
            **result_names(result),
            "gain": as_percent(result.gain),
            "tokens": result.tokens,
            "USD": result.usd,
            "gain per USD": as_percent(result.gain_per_usd),
            "gain per 1,000 tokens": as_percent(result.gain_per_1k_tokens),
            "tokens per prediction": result.tokens_per_prediction or None,
        }
        for result in results
        if result.n and (result.tokens or result.usd)
    ]
    prompts = any(result.tokens_per_prediction for result in results)
    notes = COST_NOTES + PROMPT_NOTES * prompts
    return list_table("cost", "Cost of a gain", items, 5, notes)


def failures_table(failures: pd.DataFrame) -> Table | None:
    """Return the trials that failed, with their reasons."""
    names = {"data_seed": "data seed", "error": "reason"}
    items = [{**row} for row in failures.rename(columns=names).to_dict("records")]
    notes = "They are left out of every average."
    return list_table("failures", "Failed trials", items, 5, notes)
