"""A table before it is rendered: a DataFrame, and how its columns are shown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pandas import DataFrame

Format = Callable[[Any], str]


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
        formats: column -> how its numbers become text.
        is_grid: whether all columns right of the labels hold values of one kind, so that a narrow
            terminal may show them below each other.
    """

    name: str
    title: str
    data: "DataFrame"
    labels: int
    notes: str
    footer: int = 0
    formats: Mapping[str, Format] = field(default_factory=dict)
    is_grid: bool = True

    @cached_property
    def headings(self) -> list[tuple[str, ...]]:
        """The parts of each column's heading, from top to bottom; equally many for all."""
        return [name if isinstance(name, tuple) else (name,) for name in self.data.columns]

    @property
    def titles(self) -> list[str]:
        """The heading of each column in one line."""
        return [" ".join(part for part in heading if part) for heading in self.headings]

    @cached_property
    def rows(self) -> list[tuple[TableCell, ...]]:
        """The cells as they are shown."""
        columns = []
        for index, heading in enumerate(self.headings):
            show = self.formats.get(heading[-1], str)
            columns.append([_as_cell(value, show) for value in self.data.iloc[:, index].tolist()])
        return list(zip(*columns, strict=True))

    @cached_property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers, which are aligned on the right."""
        return [
            (self.is_grid and index >= self.labels)
            or any(row[index].value is not None for row in self.rows)
            for index in range(len(self.headings))
        ]


def _as_cell(value: Any, show: Format) -> TableCell:
    if isinstance(value, TableCell):
        return value
    if isinstance(value, str):
        return TableCell(value)
    if value is None or value != value:
        return EMPTY
    return TableCell(show(value), value)


def list_table(
    name: str,
    title: str,
    items: Sequence[Mapping[str, Any]],
    labels: int,
    notes: str,
    formats: Mapping[str, Format],
) -> Table | None:
    """Return a table with one row an item, without its empty columns; None without an item.

    Args:
        name: of the table.
        title: its heading.
        items: column -> number, text or cell; None and "" are empty.
        labels: how many columns from the left name the row.
        notes: what the values are.
        formats: column -> how its numbers become text.
    """
    import pandas as pd

    if not items:
        return None
    columns = [key for key in items[0] if any(item[key] not in (None, "") for item in items)]
    labels = sum(key in columns for key in list(items[0])[:labels])
    data = pd.DataFrame(items, columns=columns)
    return Table(name, title, data, labels, notes, 0, formats, is_grid=False)


# How numbers become text ---------------------------------------------------------------------


def show_count(value: float) -> str:
    """Return a whole number."""
    return f"{value:.0f}"


def show_percent(value: float) -> str:
    """Return a percentage with one decimal."""
    return f"{value:.1f}"


def show_points(value: float) -> str:
    """Return a difference in percentage points with its sign."""
    return f"{value:+.1f}"


def show_p(value: float) -> str:
    """Return a p-value with four decimals."""
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def as_percent(fraction: float | None) -> float | None:
    """Return a fraction in percent."""
    return None if fraction is None else 100 * fraction


def percent_text(fraction: float | None) -> str:
    """Return a fraction as text in percent with one decimal; empty for None."""
    return "" if fraction is None else f"{100 * fraction:.1f}"


def interval_cell(
    interval: tuple[float, float] | None, show: Format = show_percent
) -> TableCell | None:
    """Return an interval of fractions in percent, sorted by its lower end."""
    if interval is None:
        return None
    low, high = 100 * interval[0], 100 * interval[1]
    return TableCell(f"[{show(low)}, {show(high)}]", low)
