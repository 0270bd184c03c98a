"""The tables of the paper with our values: `printed / ours (trials): difference`."""

from collections.abc import Sequence
from dataclasses import replace

from .paper import CLASSIFIERS, PaperRow, paper_classifier
from .table import Table, TableCell, percent_text

TITLES = {
    1: "Table 1 (page 5): main results",
    2: "Table 2 (page 6): number of examples k, ratio 10, curie",
    3: "Table 3 (page 6): size of the LM, ratio 5",
    5: "Table 5 (page 7): hard and soft labels, ratio 5, curie",
    6: "Table 6 (page 8): task specification, ratio 3, curie",
}
RATIO_TOLERANCE = 0.05  # of the paper's ratio


def paper_tables(rows: Sequence[PaperRow]) -> list[Table]:
    """Return a table for each of the paper's, with the rows of the tasks that we have."""
    tasks = {row.task for row in rows if row.ours is not None}
    shown = [row for row in rows if row.task in tasks or not tasks]
    # An ablation that we have not run is shown once, as printed.
    varied = {
        (row.table, row.our_classifier)
        for row in shown
        if row.ours is not None and (row.table == 1 or row.column != "none")
    }
    tables: dict[tuple[int, str, str], dict[tuple[str, str, str], PaperRow]] = {}
    for row in shown:
        if (row.table, row.our_classifier) not in varied:
            row = replace(row, our_classifier="", ours=None)
        cells = tables.setdefault((row.table, row.classifier, row.our_classifier), {})
        cells.setdefault((row.task, row.level, row.column), row)
    built = [_paper_table(*key, list(cells.values())) for key, cells in tables.items()]
    return sorted(built, key=lambda table: table.title.split(" (")[0])


def _paper_table(number: int, theirs: str, ours: str, rows: Sequence[PaperRow]) -> Table:
    import pandas as pd

    columns = list(dict.fromkeys(row.column for row in rows))
    by_label: dict[tuple[str, str], dict[str, PaperRow]] = {}
    for row in rows:
        by_label.setdefault((row.task, row.level), {})[row.column] = row
    body = [
        [*label, *map(_paper_cell, map(cells.__getitem__, columns))]
        for label, cells in by_label.items()
    ]
    other = bool(ours) and not paper_classifier(ours)
    title = f"{TITLES[number]}, {CLASSIFIERS[theirs]}" + (f"; ours: {ours}" if other else "")
    name = f"paper-table-{number}-{theirs}-{ours}".rstrip("-")
    data = pd.DataFrame(body, columns=["task", "level", *columns])
    footer = sum(task == "average" for task, _ in by_label)
    return Table(name, title, data, 2, _notes(rows, ours if other else ""), footer)


def _notes(rows: Sequence[PaperRow], other_classifier: str) -> str:
    notes = [
        "Printed mean ± standard deviation / ours (trials) and the difference; of an average, to "
        "the recomputed one. †: see where the paper contradicts itself."
    ]
    if other_classifier:
        notes.append(f"Our classifier is another one ({other_classifier}).")
    ratios = {f"{row.ours_ratio:g}" for row in rows if _is_other_ratio(row)}
    if ratios:
        names = ", ".join(sorted(ratios))
        notes.append(f"Our ratio of synthetic to real rows is another one: {names}.")
    if any(row.candidates > 1 and row.column != "none" for row in rows):
        notes.append(
            "Where several of our results match, ours is the first of those nearest in their ratio."
        )
    return " ".join(notes)


def _is_other_ratio(row: PaperRow) -> bool:
    if not (row.ours_ratio and row.ratio):
        return False
    return abs(row.ours_ratio - row.ratio) > RATIO_TOLERANCE * row.ratio


def _paper_cell(row: PaperRow) -> TableCell:
    mark = "†" if row.mark else ""
    theirs = f"{percent_text(row.printed)}{_std_text(row.printed_std)}{mark}"
    if row.ours is None or row.difference is None:
        return TableCell(f"{theirs} / -" if row.our_classifier else theirs)
    count = f" ({row.n})" if row.n else ""
    ours = f"{percent_text(row.ours)}{_std_text(row.ours_std)}{count}"
    difference = 100 * row.difference
    return TableCell(f"{theirs} / {ours}: {difference:+.1f}", difference)


def _std_text(std: float | None) -> str:
    return f" ± {percent_text(std)}" if std is not None else ""
