"""The form table.tex: booktabs tables for a paper, mean with the deviation as a subscript, the best in bold as in Table 1."""

from collections.abc import Iterable, Sequence

from ..model import Report, Table, TableCell

HEADER = """\
% Written by gpt3mix. In the preamble: \\usepackage{booktabs} (and, for letters with accents, \\usepackage[T1]{fontenc}).
% Then, where a table is to stand: \\input{table.tex}
"""
# At the head of a line a bracket or star would belong to the \\ before it; \textquotedbl needs T1.
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "#": r"\#", "$": r"\$", "%": r"\%", "&": r"\&", "_": r"\_", "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\char34{}", "±": r"$\pm$",
    "[": "{[}", "]": "{]}", "*": "{*}", "†": r"\textdagger{}", "…": r"\ldots{}", "–": "--", "’": "'",
}  # fmt: skip
LAST_LETTER = 0x17F  # of what pdfTeX sets without a further package


def latex_text(report: Report) -> str:
    """Return table.tex: the main table, uneven classes, ablations, pooled tests and the paper's figures."""
    chosen = [
        sheet for sheet in report.printed if sheet.name not in ("comparisons", "spread", "failures")
    ]
    return HEADER + "".join("\n" + "\n".join(_lines(sheet)) + "\n" for sheet in chosen)


def _lines(sheet: Table) -> Iterable[str]:
    """Yield the lines of a table; it is as wide as the page where a text has two columns."""
    right = [
        any(row[place].value is not None for row in sheet.rows) for place in range(sheet.stubs)
    ]
    columns = "".join("r" if number else "l" for number in right) + "c" * (
        len(sheet.headings) - sheet.stubs
    )
    yield from (
        r"\begin{table*}[t]",
        r"\centering",
        r"\small",
        r"\setlength{\tabcolsep}{4pt}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
    )
    yield from _headings(sheet)
    yield r"\midrule"
    before: Sequence[TableCell] = ()
    for number, row in enumerate(sheet.rows):
        if number == len(sheet.rows) - sheet.foot and number:
            yield r"\midrule"
            before = ()
        # A name that goes on from the line above is not repeated, as in the paper; its block stands apart.
        again = bool(before) and sheet.stubs > 2 and row[0].text == before[0].text
        if before and sheet.stubs > 2 and not again:
            yield r"\addlinespace"
        yield (
            " & ".join(
                [
                    "" if again else _name(row[0]),
                    *map(_name, row[1 : sheet.stubs]),
                    *map(_figure, row[sheet.stubs :]),
                ]
            )
            + r" \\"
        )
        before = row
    yield from (r"\bottomrule", r"\end{tabular}")
    yield rf"\caption{{{tex(sheet.title)}. {tex(sheet.caption)}}}"
    yield from (
        rf"\label{{tab:{''.join(letter if letter.isascii() and letter.isalnum() else '-' for letter in sheet.name)}}}",
        r"\end{table*}",
    )


def _headings(sheet: Table) -> Iterable[str]:
    depth = max(len(heading) for heading in sheet.headings)
    parts = [(*[""] * (depth - len(heading)), *heading) for heading in sheet.headings]
    for level in range(depth):
        names, rules, place = [], [], 0
        while place < len(parts):
            # Neighbours of the same name share one heading; the lowest part is each column's own.
            end = place + 1
            while (
                level < depth - 1
                and place >= sheet.stubs
                and end < len(parts)
                and parts[end][: level + 1] == parts[place][: level + 1]
            ):
                end += 1
            text = tex(parts[place][level])
            names.append(
                rf"\multicolumn{{{end - place}}}{{c}}{{{text}}}" if end - place > 1 else text
            )
            if level < depth - 1 and text:
                rules.append(rf"\cmidrule(lr){{{place + 1}-{end}}}")
            place = end
        yield " & ".join(names) + r" \\"
        if rules:
            yield " ".join(rules)


def _name(entry: TableCell) -> str:
    return tex(entry.text)


def _figure(entry: TableCell) -> str:
    """Return `$61.0_{6.0}$`; a figure that is not over all of its trials or tasks says so above."""
    if entry.value is None or not (entry.note or entry.spread is not None or entry.best):
        return tex(entry.text)
    mean = f"{entry.value:.1f}"
    spread = "" if entry.spread is None else f"_{{{entry.spread:.1f}}}"
    short = f"^{{{entry.note.split()[0]}}}" if "/" in entry.note else ""
    if not entry.note and entry.text != mean:
        return rf"\textbf{{{tex(entry.text)}}}"
    return rf"$\mathbf{{{mean}}}{spread}{short}$" if entry.best else f"${mean}{spread}{short}$"


def tex(text: str) -> str:
    """Return a text as TeX sets it; letters that pdfTeX has no fonts for become question marks."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return "".join(
        SPECIAL.get(letter, letter if ord(letter) <= LAST_LETTER else "?") for letter in plain
    )
