"""The forms of a report that are text: report.md, table.csv, report.json and tables for the terminal."""

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from ..model import CellRow, Comparison, Report, Sample, Table, TableCell

if TYPE_CHECKING:
    from rich import table as rich_table

FEW = 20  # comparisons that a terminal shows where there is nothing to pool
SPARE = (
    "smallest p",
    "Wilcoxon p",
    "tasks",
    "p",
    "units",
    "pairs",
    "95 % interval",
    "remark",
)  # what a narrow terminal leaves out first
LONGEST = 200  # lines of a table in report.md; report.json has all
NUMBER = re.compile(r"[+-][0-9]+(\.[0-9]+)?")
NOT_IN_CSV = {
    "ci",
    "swept",
    "seconds",
}  # what the clock says would make the file another one each time


# Markdown ------------------------------------------------------------------------------------------------------------


def markdown_page(report: Report) -> str:
    """Return report.md."""
    first, *others = report.sheets
    cells = [cell for cell in report.cells if cell.n]
    tests = sorted({round(cell.n_test) for cell in cells if cell.n_test})
    text = [
        f"# {escaped(report.title)}",
        "",
        first.caption,
        "",
        markdown_table(first),
        "",
        f"Data seeds in a cell: {_span(sorted({cell.data_seeds for cell in cells}))}. Test rows: {_span(tests)}. "
        "`majority` is the share of the most frequent class of the test set.",
        *map(escaped, report.design),
        "A difference between two means is no finding by itself: see the comparisons.",
    ]
    if report.remarks:
        text += ["", "## Remarks", "", *(f"- {escaped(remark)}" for remark in report.remarks)]
    for sheet in others:
        text += [
            "",
            f"## {escaped(sheet.title)}",
            "",
            escaped(sheet.caption),
            "",
            markdown_table(sheet),
        ]
    if report.paper_remarks:
        text += [
            "",
            "## What the paper prints against itself",
            "",
            *(f"- {escaped(remark)}" for remark in report.paper_remarks),
        ]
    if report.samples:
        text += [
            "",
            "## Samples",
            "",
            "Synthetic rows below the real ones that they were made from, with their soft labels (Table 4).",
            "",
        ]
        text += [line for sample in report.samples for line in [*_sample(sample), ""]][:-1]
    return "\n".join(text) + "\n"


def _span(values: Sequence[int]) -> str:
    return (
        "none"
        if not values
        else str(values[0])
        if len(values) == 1
        else f"{values[0]} to {values[-1]}"
    )


def markdown_table(sheet: Table) -> str:
    """Return a table; of a long one the beginning."""
    names = [escaped(" ".join(part for part in heading if part)) for heading in sheet.headings]
    numeric = [
        any(row[place].value is not None for row in sheet.rows)
        or (sheet.across and place >= sheet.stubs)
        for place in range(len(names))
    ]
    lines = [names, ["---:" if right else "---" for right in numeric]]
    for row in sheet.rows[:LONGEST]:
        lines.append(
            [f"**{escaped(entry.text)}**" if entry.best else escaped(entry.text) for entry in row]
        )
    found = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    more = len(sheet.rows) - LONGEST
    return found + (f"\n\nAnd {more} more lines, in report.json." if more > 0 else "")


def _sample(sample: Sample) -> Iterable[str]:
    variant = f", {sample.variant}" if sample.variant else ""
    yield f"{escaped(f'{sample.task} {sample.level}, {sample.method}{variant}, data seed {sample.data_seed}')}:"
    yield ""
    for number, (text, label) in enumerate(sample.parents, 1):
        name = "Original" if sample.edited else f"Example {number}"
        yield f"- {name}: {escaped(text)} (*{escaped(label)}*)"
    labels = [
        f"**{escaped(name)}**" if name == sample.label else f"*{escaped(name)}*"
        for name in sample.probs
    ]
    shares = [
        label if sample.edited else f"{label}: {share:.0%}"
        for label, share in zip(labels, sample.probs.values(), strict=True)
    ]
    shown = (
        [shares[list(sample.probs).index(sample.label)]]
        if sample.edited and sample.label in sample.probs
        else shares
    )
    yield f"- **{escaped(sample.method)}**: {escaped(sample.text)} ({', '.join(shown)})"


def escaped(text: str) -> str:
    """Return a text that can do no harm in Markdown: on one line, without control characters, every sign with its backslash."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return "".join(
        f"\\{letter}" if letter in "\\`*_|<>[]#&~$" else letter
        for letter in " ".join(plain.split())
    )


# CSV and JSON --------------------------------------------------------------------------------------------------------


def csv_text(cells: Sequence[CellRow]) -> str:
    """Return table.csv: a line a cell, all figures as fractions."""
    names = [item.name for item in fields(CellRow) if item.name not in NOT_IN_CSV]
    derived = ("ci_low", "ci_high", "gain_per_usd", "gain_per_1k_tokens")
    found: list[list[object]] = [[*names, *derived]]
    for cell in cells:
        found.append(
            [
                *(getattr(cell, name) for name in names),
                *(cell.ci or (None, None)),
                cell.gain_per_usd,
                cell.gain_per_1k_tokens,
            ]
        )
    return csv_lines(found)


def csv_lines(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV in which no text is a formula."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(
        [_plain(value) for value in row] for row in rows
    )
    return stream.getvalue()


def _plain(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}"
    # A leading sign would make a spreadsheet take a name for a formula; a number with a sign is none.
    risky = (
        isinstance(value, str)
        and value[:1] in ("=", "+", "-", "@", "\t", "\r")
        and not NUMBER.fullmatch(value)
    )
    return f"'{value}" if risky else value


def cell_object(cell: CellRow) -> dict[str, Any]:
    """Return a cell as report.json has it: the swept settings as an object."""
    values = {item.name: getattr(cell, item.name) for item in fields(CellRow)}
    swept = values.pop("swept")
    rates = {"gain_per_usd": cell.gain_per_usd, "gain_per_1k_tokens": cell.gain_per_1k_tokens}
    return {**values, "variant": dict(swept), "ci": list(cell.ci) if cell.ci else None, **rates}


def comparison_object(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as report.json has it."""
    return {
        **vars(comparison),
        "ci": list(comparison.ci) if comparison.ci else None,
        "stars": comparison.stars,
    }


def difference_objects(lines: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the differences of two runs as diff.json has them; figures are fractions."""
    found = []
    for each in lines:
        cells = {
            name: group and cell_object(group.cell)
            for name, group in (("a", each.a), ("b", each.b))
        }
        names = {
            name: getattr((each.a or each.b).cell, name)
            for name in ("task", "level", "classifier", "method")
        }
        rest = {
            name: getattr(each, name) for name in ("n_pairs", "diff", "p", "p_corrected", "note")
        }
        found.append({**names, **rest, "ci": list(each.ci) if each.ci else None, **cells})
    return found


def json_text(report: Report) -> str:
    """Return report.json; figures are fractions."""
    return json_lines(json_object(report))


def json_lines(value: Any) -> str:
    """Return an object as JSON, its figures without the noise of their last bits."""
    return json.dumps(_rounded(value), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def json_object(report: Report) -> dict[str, Any]:
    """Return what report.json holds."""
    return {
        "title": report.title,
        "cells": [cell_object(cell) for cell in report.cells],
        "comparisons": [comparison_object(each) for each in report.comparisons],
        "pooled": [{**vars(each), "stars": each.stars} for each in report.pooled],
        "averages": [vars(each) for each in report.averages],
        "failures": [vars(each) for each in report.failures],
        "samples": [asdict(each) for each in report.samples],
        "paper": [{**vars(each), "difference": each.difference} for each in report.paper],
        "paper_remarks": report.paper_remarks,
        "design": report.design,
        "remarks": report.remarks,
    }


# The terminal --------------------------------------------------------------------------------------------------------


def terminal_table(sheet: Table, width: int) -> "rich_table.Table":
    """Return a table for a terminal: a line an entry where the columns are too wide for it."""
    from rich import table as rich_table
    from rich.markup import escape

    headings = [" ".join(part for part in heading if part) for heading in sheet.headings]
    rows: Sequence[Sequence[TableCell]] = sheet.rows
    numeric = [
        any(row[place].value is not None for row in rows) or (sheet.across and place >= sheet.stubs)
        for place in range(len(headings))
    ]
    if not sheet.across and _needed(headings, rows) >= width:
        headings, numeric, rows = _narrow(headings, numeric, rows, sheet.stubs, width)
    elif _needed(headings, rows) >= width:
        columns = headings[sheet.stubs :]
        headings, numeric = (
            [*headings[: sheet.stubs], "column", "figure"],
            [*numeric[: sheet.stubs], False, True],
        )
        nothing = ("", "-")
        pairs = [
            (row, name, entry)
            for row in rows
            for name, entry in zip(columns, row[sheet.stubs :], strict=True)
            if entry.text not in nothing
        ]
        rows = [[*row[: sheet.stubs], TableCell(name), entry] for row, name, entry in pairs]
    shown = rich_table.Table(
        title=escape(printable(sheet.title)),
        caption=escape(printable(sheet.caption)),
        caption_justify="left",
    )
    for place, heading in enumerate(headings):
        # What is short stays whole; names may break.
        right = numeric[place]
        shown.add_column(
            escape(printable(heading)),
            justify="right" if right else "left",
            no_wrap=right,
            overflow="fold",
        )
    for number, row in enumerate(rows, 1):
        texts = [escape(printable(entry.text)) for entry in row]
        last = number == len(sheet.rows) - sheet.foot and sheet.foot > 0 and rows is sheet.rows
        shown.add_row(
            *(
                f"[bold green]{text}[/]" if entry.best else text
                for text, entry in zip(texts, row, strict=True)
            ),
            end_section=last,
        )
    return shown


def _narrow(
    headings: list[str],
    numeric: list[bool],
    rows: Sequence[Sequence[TableCell]],
    stubs: int,
    width: int,
) -> tuple[list[str], list[bool], Sequence[Sequence[TableCell]]]:
    """Return a list with its first columns in one, and without columns that one can do without, until it fits."""
    headings = [" ".join(headings[:stubs]), *headings[stubs:]]
    numeric = [False, *numeric[stubs:]]
    rows = [
        [TableCell(" ".join(entry.text for entry in row[:stubs] if entry.text)), *row[stubs:]]
        for row in rows
    ]
    for name in SPARE:
        if name in headings and _needed(headings, rows) >= width:
            place = headings.index(name)
            headings, numeric = (
                headings[:place] + headings[place + 1 :],
                numeric[:place] + numeric[place + 1 :],
            )
            rows = [[*row[:place], *row[place + 1 :]] for row in rows]
    return headings, numeric, rows


def _needed(headings: Sequence[str], rows: Sequence[Sequence[TableCell]]) -> int:
    return (
        sum(
            max(len(heading), *(len(row[place].text) for row in rows), 0) + 3
            for place, heading in enumerate(headings)
        )
        + 1
    )


def printable(text: str) -> str:
    """Return a text without characters that would move a terminal's cursor or change its colours."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


def terminal_sheets(sheets: Sequence[Table]) -> list[Table]:
    """Return the tables that a terminal shows: those that answer the question; the others stand in the files."""
    found = [
        sheet
        for sheet in sheets
        if sheet.name in ("accuracy", "pooled", "diff")
        or sheet.name.startswith(("ablation", "paper"))
    ]
    if not any(sheet.name == "pooled" for sheet in found):
        found += [
            sheet for sheet in sheets if sheet.name == "comparisons" and len(sheet.rows) <= FEW
        ]
    return found


def summary(report: Report) -> dict[str, Any]:
    """Return what `--json` prints of a report."""
    if report.differences:
        return {"differences": difference_objects(report.differences)}
    return {
        "cells": [cell_object(cell) for cell in report.cells],
        "comparisons": [comparison_object(each) for each in report.comparisons],
    }
