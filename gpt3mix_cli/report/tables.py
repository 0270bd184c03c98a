"""Tables of cells as Markdown, CSV and for the terminal; figures in percent with one decimal, the best mean bold."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class CellRow:
    """Means over the trials of a cell, as fractions; `std` is the sample standard deviation of accuracy."""

    task: str
    variant: str
    level: str
    classifier: str
    method: str
    settings: str | None
    told_apart: str | None
    n: int
    failed: int
    expected: int | None
    data_seeds: int
    mean: float | None
    std: float | None
    macro_f1: float | None
    mcc: float | None
    majority: float | None
    ece: float | None
    n_train: float | None
    n_synthetic: float | None
    n_test: float | None
    tokens_per_prediction: float | None = None

    @property
    def line(self) -> tuple[str, str, str, str]:
        """The line of the table in which the cell stands."""
        return self.task, self.variant, self.level, self.classifier

    @property
    def column(self) -> str:
        """The column in which the cell stands."""
        return f"{self.method} [{self.told_apart}]" if self.told_apart else self.method

    def ratios_differ(self, cells: "Sequence[CellRow]") -> bool:
        """Return whether another method of this line has another number of synthetic rows."""
        return any(cell.line == self.line and cell.n_synthetic and cell.n_synthetic != self.n_synthetic for cell in cells)


@dataclass(frozen=True)
class Grid:
    """Lines and columns of the table, with the best cells of each line."""

    lines: list[tuple[str, str, str, str]]
    columns: list[str]
    cells: dict[tuple[tuple[str, str, str, str], str], CellRow]

    def best(self, line: tuple[str, str, str, str]) -> float | None:
        """Return the highest mean of a line, as it is shown."""
        shown = [percent(cell.mean) for (other, _), cell in self.cells.items() if other == line and cell.mean is not None]
        return max(map(float, shown)) if len(shown) > 1 else None

    def headings(self) -> list[str]:
        """Return the headings of the table; a variant only where one is swept."""
        return ["task", *(["variant"] if self.swept else []), "level", "classifier", "majority", *self.columns]

    @property
    def swept(self) -> bool:
        """Whether any line is of a variant."""
        return any(line[1] for line in self.lines)

    def head(self, line: tuple[str, str, str, str]) -> list[str]:
        """Return the first entries of a line, the majority share last."""
        shares = [cell.majority for (other, _), cell in self.cells.items() if other == line and cell.majority is not None]
        return [line[0], *([line[1]] if self.swept else []), line[2], line[3], percent(shares[0]) if shares else ""]


def grid(cells: Sequence[CellRow]) -> Grid:
    """Return the table of cells, in their order."""
    return Grid(
        lines=list(dict.fromkeys(cell.line for cell in cells)),
        # Without a config files come in the order of their names; what all is compared with stands first.
        columns=sorted(dict.fromkeys(cell.column for cell in cells), key=lambda column: column != "none"),
        cells={(cell.line, cell.column): cell for cell in cells},
    )


def percent(value: float | None) -> str:
    """Return a fraction in percent with one decimal."""
    return "" if value is None else f"{100 * value:.1f}"


def variant_name(variant: Mapping[str, Any]) -> str:
    """Return the swept settings as one word: `augment.k=2, augment.ratio=10`."""
    return ", ".join(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in variant.items())


def figure(cell: CellRow | None) -> str:
    """Return `mean ± std (n)`; a missing cell is a dash with what is missing."""
    if cell is None or cell.mean is None:
        return "-" if cell is None or not cell.failed else f"failed ({cell.failed})"
    spread = f" ± {percent(cell.std)}" if cell.std is not None else ""
    short = f"/{cell.expected}" if cell.expected and cell.n < cell.expected else ""
    return f"{percent(cell.mean)}{spread} ({cell.n}{short})"


def markdown_page(title: str, cells: Sequence[CellRow], remarks: Sequence[str]) -> str:
    """Return report.md."""
    table = grid(cells)
    seeds = sorted({cell.data_seeds for cell in cells if cell.n})
    tests = sorted({round(cell.n_test) for cell in cells if cell.n_test})
    text = [
        f"# {_escaped(title)}",
        "",
        "Test accuracy in percent: mean ± sample standard deviation over trials (number of trials); the best mean of a line is bold.",
        "",
        _markdown_table(table),
        "",
        f"Data seeds in a cell: {_span(seeds)}. Test rows: {_span(tests)}. `majority` is the share of the most frequent class of the test set.",
        "A trial differs from the next by data seed and training seed (a linear classifier has no training seed: its trials on",
        "one data seed and one synthetic set are equal), so the deviation mixes both. A difference between two means is no finding by itself.",
    ]
    if remarks:
        text += ["", "## Remarks", "", *(f"- {_escaped(remark)}" for remark in remarks)]
    return "\n".join(text) + "\n"


def _span(values: Sequence[int]) -> str:
    return "none" if not values else str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _markdown_table(table: Grid) -> str:
    rows = [
        [*map(_escaped, table.headings())],
        ["---", *["---"] * (len(table.headings()) - len(table.columns) - 2), "---:", *["---:"] * len(table.columns)],
    ]
    for line in table.lines:
        best = table.best(line)
        entries = []
        for column in table.columns:
            cell = table.cells.get((line, column))
            shown = figure(cell)
            entries.append(f"**{shown}**" if _is_best(cell, best) else shown)
        rows.append([*map(_escaped, table.head(line)), *entries])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _is_best(cell: CellRow | None, best: float | None) -> bool:
    return cell is not None and cell.mean is not None and best is not None and float(percent(cell.mean)) == best


def _escaped(text: str) -> str:
    """Return a name that can do no harm in a Markdown table."""
    return "".join(f"\\{letter}" if letter in "\\`*_|<>[]#" else letter for letter in " ".join(text.split()))


def csv_text(cells: Sequence[CellRow]) -> str:
    """Return table.csv: a line a cell, all figures as fractions."""
    names = [item.name for item in fields(CellRow) if item.name != "told_apart"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    for cell in cells:
        writer.writerow([_plain(getattr(cell, name)) for name in names])
    return stream.getvalue()


def _plain(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}"
    # A leading sign would make a spreadsheet take a name for a formula.
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def terminal_table(title: str, cells: Sequence[CellRow], width: int) -> "Table":
    """Return the table for a terminal: a column a method, or a line a method where that is too wide for it."""
    from rich.markup import escape
    from rich.table import Table

    table = grid(cells)
    best = {line: table.best(line) for line in table.lines}
    headings, lines = table.headings(), []
    for line in table.lines:
        found = [table.cells.get((line, column)) for column in table.columns]
        lines.append([*((text, False) for text in table.head(line)), *((figure(cell), _is_best(cell, best[line])) for cell in found)])
    if sum(max(len(entry[0]) for entry in [(name, False), *column]) + 3 for name, *column in zip(headings, *lines, strict=True)) >= width:
        headings = [*headings[: -len(table.columns)], "method", "accuracy"]
        lines = [
            [*((text, False) for text in table.head(line)), (column, False), (figure(cell), _is_best(cell, best[line]))]
            for line in table.lines
            for column in table.columns
            if (cell := table.cells.get((line, column)))
        ]
    shown = Table(title=escape(title), caption="test accuracy in %, mean ± standard deviation over trials (number of trials)")
    for heading in headings:
        right = heading in (*table.columns, "majority", "accuracy")
        shown.add_column(escape(heading), justify="right" if right else "left", no_wrap=right)
    for entries in lines:
        shown.add_row(*(f"[bold green]{escape(text)}[/]" if is_best else escape(text) for text, is_best in entries))
    return shown
