"""report.md and diff.md."""

from collections.abc import Iterator, Sequence

from ..artifacts import Sample
from ..document import Report
from ..remarks import span_text
from ..table import Table, TableCell

MAX_ROWS = 200  # of a table; report.json has all
SPECIAL = "\\`*_|<>[]#&~$"  # punctuation that means something in Markdown


def report_page(report: Report) -> str:
    """Return report.md."""
    first, *others = report.tables
    data_seeds = span_text(result.data_seeds for result in report.results if result.n)
    tested = [result.tested or result.n_test for result in report.results]  # of all folds together
    test_rows = span_text(round(count) for count in tested if count)
    blocks = [
        f"# {escape(report.title)}",
        "\n".join(map(escape, report.verdict)),
        first.notes,
        markdown_table(first),
        "\n".join([
            f"Data seeds per result: {data_seeds}. Test rows: {test_rows}. `majority` is the "
            "fraction of the most frequent class of the test set.",
            *map(escape, report.design),
            "A difference between two means alone shows nothing: see the comparisons.",
        ]),
    ]  # fmt: skip
    blocks += _list("Remarks", report.remarks)
    for table in others:
        blocks += [f"## {escape(table.title)}", escape(table.notes), markdown_table(table)]
    blocks += _list("Contradictions in the paper", report.paper_remarks)
    if report.samples:
        blocks += [
            "## Samples",
            "Synthetic rows below the real rows that they were generated from, with their soft "
            "labels (as in Table 4).",
        ]
    for sample in report.samples:
        blocks += _sample(sample)
    return "\n\n".join(blocks) + "\n"


def diff_page(report: Report) -> str:
    """Return diff.md."""
    (table,) = report.tables
    remarks = "\n".join(f"- {escape(remark)}" for remark in report.remarks)
    blocks = [f"# {escape(report.title)}", escape(table.notes), markdown_table(table), remarks]
    return "\n\n".join(blocks) + "\n"


def _list(title: str, items: Sequence[str]) -> list[str]:
    return [f"## {title}", "\n".join(f"- {escape(item)}" for item in items)] if items else []


def markdown_table(table: Table) -> str:
    """Return a table; of a long one the beginning."""
    rules = ["---:" if right else "---" for right in table.numeric]
    rows = [map(escape, table.titles), rules, *map(_texts, table.rows[:MAX_ROWS])]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    more = len(table.rows) - MAX_ROWS
    return text + (f"\n\nAnd {more} more rows, in report.json." if more > 0 else "")


def _texts(row: Sequence[TableCell]) -> list[str]:
    texts = ((escape(cell.text), cell.best) for cell in row)
    return [f"**{text}**" if best else text for text, best in texts]


def _sample(sample: Sample) -> Iterator[str]:
    yield f"{escape(sample.title)}:"
    lines = []
    for number, parent in enumerate(sample.parents, 1):
        name = "Original" if sample.edited else f"Example {number}"
        lines.append(f"- {name}: {escape(parent.text)} (*{escape(parent.label)}*)")
    labels, row = [], sample.row
    for name, probability in sample.labels:
        mark = "**" if name == row.label else "*"
        label = f"{mark}{escape(name)}{mark}"
        if not sample.edited:
            labels.append(f"{label}: {probability:.0%}")
        elif name == row.label:  # an edited row has the label of its parent, with certainty
            labels.append(label)
    lines.append(f"- **{escape(sample.file.method)}**: {escape(row.text)} ({', '.join(labels)})")
    yield "\n".join(lines)


def escape(text: str) -> str:
    """Return a text on one line that Markdown shows as it is."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return "".join(f"\\{c}" if c in SPECIAL else c for c in " ".join(plain.split()))
