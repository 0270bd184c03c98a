"""Tables for a terminal, which is narrow."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table as RichTable

from ..table import Table, TableCell

MAX_COMPARISONS = 20  # shown if there is nothing to pool
# What a narrow terminal leaves out, the first ones first.
OPTIONAL_COLUMNS = (
    "smallest p", "Wilcoxon p", "tasks", "p", "units", "pairs", "95 % interval", "remark",
)  # fmt: skip
PADDING = 3  # characters that a column takes besides its text


def terminal_tables(tables: Sequence[Table]) -> list[Table]:
    """Return the tables that answer the question; the others are in the files only."""
    names = ["accuracy", "pooled", "diff"]
    if not any(table.name == "pooled" for table in tables):
        names.append("comparisons")
    return [
        table
        for table in tables
        if table.name.startswith(("ablation", "chosen", "paper"))
        or (
            table.name in names
            and (table.name != "comparisons" or len(table.rows) <= MAX_COMPARISONS)
        )
    ]


def terminal_table(table: Table, width: int) -> RichTable:
    """Return a table for a terminal; one that is too wide has a row a value."""
    titles, numeric, rows = table.titles, table.numeric, table.rows
    if _needed(titles, rows) >= width:
        titles, numeric, rows = (_long if table.is_grid else _narrow)(table, width)
    shown = RichTable(
        title=escape(printable(table.title)),
        caption=escape(printable(table.notes)),
        caption_justify="left",
    )
    for title, right in zip(titles, numeric, strict=True):
        # Numbers are not broken; names may be.
        shown.add_column(
            escape(printable(title)),
            justify="right" if right else "left",
            no_wrap=right,
            overflow="fold",
        )
    first_footer = len(table.rows) - table.footer if table.footer and rows is table.rows else 0
    for number, row in enumerate(rows, 1):
        texts = []
        for cell in row:
            text = escape(printable(cell.text))
            texts.append(f"[bold green]{text}[/]" if cell.best else text)
        shown.add_row(*texts, end_section=number == first_footer)
    return shown


Columns = tuple[list[str], list[bool], list[tuple[TableCell, ...]]]  # titles, numeric, rows


def _long(table: Table, width: int) -> Columns:
    labels = table.labels
    rows = []
    for row in table.rows:
        named = zip(table.titles[labels:], row[labels:], strict=True)
        rows += [
            (*row[:labels], TableCell(title), cell)
            for title, cell in named
            if cell.text not in ("", "-")
        ]
    titles = [*table.titles[:labels], "column", "value"]
    return titles, [*table.numeric[:labels], False, True], rows


def _narrow(table: Table, width: int) -> Columns:
    labels = table.labels
    titles = [" ".join(table.titles[:labels]), *table.titles[labels:]]
    numeric = [False, *table.numeric[labels:]]
    rows = []
    for row in table.rows:
        label = " ".join(cell.text for cell in row[:labels] if cell.text)
        rows.append((TableCell(label), *row[labels:]))
    for name in OPTIONAL_COLUMNS:
        if name in titles and _needed(titles, rows) >= width:
            index = titles.index(name)
            del titles[index], numeric[index]
            rows = [(*row[:index], *row[index + 1 :]) for row in rows]
    return titles, numeric, rows


def _needed(titles: Sequence[str], rows: Sequence[Sequence[TableCell]]) -> int:
    widths = [len(title) for title in titles]
    for row in rows:
        widths = [max(width, len(cell.text)) for width, cell in zip(widths, row, strict=True)]
    return sum(width + PADDING for width in widths) + 1


def printable(text: str) -> str:
    """Return a text without characters that move a cursor or change colours."""
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)
