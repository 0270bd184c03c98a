"""table.tex: booktabs tables, mean with the standard deviation as a subscript, the best in bold."""

import itertools
from collections.abc import Iterator, Sequence

from ..document import Report
from ..table import Table, TableCell

HEADER = """\
% Written by gpt3mix. Put \\usepackage{booktabs} in the preamble, and \\usepackage[T1]{fontenc} for
% accented characters; then \\input{table.tex} where the tables should be.
"""
LEFT_OUT = ("comparisons", "intervals", "classes", "failures")
# At the start of a row a bracket or star would belong to the \\ before it; \textquotedbl needs T1.
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "#": r"\#", "$": r"\$", "%": r"\%",
    "&": r"\&", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\char34{}",
    "±": r"$\pm$", "[": "{[}", "]": "{]}", "*": "{*}", "†": r"\textdagger{}", "…": r"\ldots{}",
    "–": "--", "’": "'",
}  # fmt: skip
LAST_CODE_POINT = 0x17F  # of what pdfTeX sets without a further package


def latex_tables(report: Report) -> str:
    """Return table.tex: the main table, uneven classes, ablations, pooled tests, the paper."""
    chosen = [table for table in report.latex_tables if table.name not in LEFT_OUT]
    return HEADER + "".join("\n" + "\n".join(_lines(table)) + "\n" for table in chosen)


def _lines(table: Table) -> Iterator[str]:
    labels = table.labels
    alignments = ["r" if table.has_numbers(index) else "l" for index in range(labels)]
    columns = "".join(alignments) + "c" * (len(table.headings) - labels)
    yield from (
        r"\begin{table*}[t]",
        r"\centering",
        r"\small",
        r"\setlength{\tabcolsep}{4pt}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
    )
    yield from _headings(table)
    yield r"\midrule"
    yield from _body(table)
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in table.name)
    yield from (
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{tex(table.title)}. {tex(table.notes)}}}",
        rf"\label{{tab:{name}}}",
        r"\end{table*}",
    )


def _headings(table: Table) -> Iterator[str]:
    depth = len(table.headings[0])
    for level in range(depth):
        texts, rules, start = [], [], 0
        # Labels and the lowest row have a heading a column.
        keys: list[object] = [heading[: level + 1] for heading in table.headings]
        if level == depth - 1:
            keys = list(range(len(keys)))
        keys[: table.labels] = range(table.labels)
        for _, group in itertools.groupby(keys):
            width = len(list(group))
            text = tex(table.headings[start][level])
            texts.append(rf"\multicolumn{{{width}}}{{c}}{{{text}}}" if width > 1 else text)
            if level < depth - 1 and text:
                rules.append(rf"\cmidrule(lr){{{start + 1}-{start + width}}}")
            start += width
        yield " & ".join(texts) + r" \\"
        if rules:
            yield " ".join(rules)


def _body(table: Table) -> Iterator[str]:
    before: Sequence[TableCell] = ()
    for number, row in enumerate(table.rows):
        if number == len(table.rows) - table.footer and number:
            yield r"\midrule"
            before = ()
        # As in the paper, a first label is not repeated, and its rows are a block.
        is_block = bool(before) and table.labels > 2
        repeats = is_block and row[0].text == before[0].text
        if is_block and not repeats:
            yield r"\addlinespace"
        labels = ["" if repeats else tex(row[0].text)]
        labels += [tex(cell.text) for cell in row[1 : table.labels]]
        yield " & ".join([*labels, *map(_value, row[table.labels :])]) + r" \\"
        before = row


def _value(cell: TableCell) -> str:
    if cell.value is None or not (cell.note or cell.std is not None or cell.best):
        return tex(cell.text)
    mean = f"{cell.value:.1f}"
    if not cell.note and cell.text != mean:
        return rf"\textbf{{{tex(cell.text)}}}"
    std = "" if cell.std is None else f"_{{{cell.std:.1f}}}"
    missing = f"^{{{cell.note.split()[0]}}}" if "/" in cell.note else ""
    return rf"$\mathbf{{{mean}}}{std}{missing}$" if cell.best else f"${mean}{std}{missing}$"


def tex(text: str) -> str:
    """Return a text as TeX sets it; characters without a font in pdfTeX become question marks."""
    plain = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return "".join(SPECIAL.get(c, c if ord(c) <= LAST_CODE_POINT else "?") for c in plain)
