"""A table before it is rendered: a DataFrame, and how its columns are shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pandas import DataFrame

COUNT, PERCENT, POINTS = "{:.0f}", "{:.1f}", "{:+.1f}"  # how numbers become text


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
    data: "DataFrame"
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
    formats: Mapping[str, str],
) -> Table | None:
    """Return a table with one row an item, without its empty columns; None without an item.

    Args:
        name: of the table.
        title: its heading.
        items: column -> number, text or cell; None and "" are empty.
        labels: how many columns from the left name the row.
        notes: what the values are.
        formats: column -> the format string of its numbers.
    """
    import pandas as pd

    if not items:
        return None
    columns = [key for key in items[0] if any(item[key] not in (None, "") for item in items)]
    labels = sum(key in columns for key in list(items[0])[:labels])
    data = pd.DataFrame(items, columns=columns)
    return Table(name, title, data, labels, notes, 0, formats, is_grid=False)


# Numbers as text -----------------------------------------------------------------------------


def as_percent(fraction: float | None) -> float | None:
    """Return a fraction in percent."""
    return None if fraction is None else 100 * fraction


def percent_text(fraction: float | None) -> str:
    """Return a fraction as text in percent with one decimal; empty for None."""
    return "" if fraction is None else PERCENT.format(100 * fraction)


def interval_cell(interval: tuple[float, float] | None, form: str = PERCENT) -> TableCell | None:
    """Return an interval of fractions in percent, sorted by its lower end."""
    if interval is None:
        return None
    low, high = 100 * interval[0], 100 * interval[1]
    return TableCell(f"[{form.format(low)}, {form.format(high)}]", low)


def p_cell(p: float | None, stars: str = "") -> TableCell | None:
    """Return a p-value with four decimals."""
    if p is None:
        return None
    return TableCell((f"{p:.4f}" if p >= 0.0001 else "< 0.0001") + stars, p)
