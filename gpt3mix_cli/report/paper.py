"""The figures that the paper prints, beside ours: Tables 1, 2, 3, 5 and 6 of Yoo et al. (2021), and what they contradict.

`resources/paper.csv` holds every cell as printed, averages included, with its table and its page (counted from the title
page). Averages are recomputed from the cells. Tables 2, 3, 5 and 6 do not name their classifier; their figures without
augmentation are those of DistilBERT in Table 1.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .averages import Group
from .model import CellRow, Table, TableCell
from .tables import percent

SOURCE = Path(__file__).parent.parent / "resources" / "paper.csv"
TITLES = {
    1: "Table 1 (page 5): main results",
    2: "Table 2 (page 6): number of examples k, ratio 10, curie",
    3: "Table 3 (page 6): size of the LM, ratio 5",
    5: "Table 5 (page 7): hard and soft labels, ratio 5, curie",
    6: "Table 6 (page 8): task specification, ratio 3, curie",
}
CLASSIFIERS = {"distilbert": "DistilBERT", "bert": "BERT"}
TASKS = {"trec": "trec6", "sst": "sst2"}
ROUNDING = (
    0.0006  # how far a printed average may be from the mean of cells that are rounded themselves
)
APPENDIX_B = 0.688  # "the non-augmented baseline of 68.80%" on CoLA at 0.1 %


@dataclass(frozen=True)
class PaperRow:
    """A figure that the paper prints, and ours where there is one; all as fractions.

    Attributes:
        table: number of the table in the paper.
        page: its page, counted from the title page.
        task: as the paper names it, in lower case; `average` for the averages.
        level: as the paper names it.
        classifier: `distilbert` or `bert`.
        column: `none`, `eda`, ... or what a table varies: `k=2`, `curie`, `soft`, `generic`.
        ratio: synthetic rows for each real one.
        lm: which GPT-3.
        printed: the mean as it is printed.
        printed_std: the deviation as it is printed.
        best: printed in bold.
        recomputed: of an average: from the cells of the paper.
        mark: what the paper says against this figure elsewhere; empty if nothing.
        our_classifier: what ours is of.
        ours: our mean; None where there is none.
        ours_std: its deviation.
        n: its trials.
        ours_ratio: synthetic rows for each real one with us.
        fitting: how many of our cells would do; ours is the first of those that are nearest in their ratio.
    """

    table: int
    page: int
    task: str
    level: str
    classifier: str
    column: str
    ratio: float | None
    lm: str
    printed: float
    printed_std: float | None
    best: bool
    recomputed: float | None = None
    mark: str = ""
    our_classifier: str = ""
    ours: float | None = None
    ours_std: float | None = None
    n: int = 0
    ours_ratio: float | None = None
    fitting: int = 0

    @property
    def difference(self) -> float | None:
        """Ours less the printed figure; less the recomputed one of an average."""
        theirs = self.printed if self.recomputed is None else self.recomputed
        return None if self.ours is None else self.ours - theirs


def printed() -> list[PaperRow]:
    """Return all printed figures, averages recomputed and contradictions marked."""
    with SOURCE.open(encoding="utf-8", newline="") as stream:
        rows = [_row(line) for line in csv.DictReader(stream)]
    return _marked([_recomputed(row, rows) for row in rows])


def _row(line: Mapping[str, str]) -> PaperRow:
    def share(name: str) -> float | None:
        return round(float(line[name]) / 100, 6) if line[name] else None

    mean = share("mean")
    assert mean is not None
    return PaperRow(
        table=int(line["table"]), page=int(line["page"]), task=line["task"], level=line["level"], classifier=line["classifier"],
        column=line["column"], ratio=float(line["ratio"]) if line["ratio"] else None, lm=line["lm"], printed=mean, printed_std=share("std"),
        best=line["best"] == "1",
    )  # fmt: skip


def _recomputed(row: PaperRow, rows: Sequence[PaperRow]) -> PaperRow:
    if row.task != "average":
        return row
    key = (row.table, row.level, row.classifier, row.column)
    cells = [
        other.printed
        for other in rows
        if other.task != "average"
        and (other.table, other.level, other.classifier, other.column) == key
    ]
    return replace(row, recomputed=sum(cells) / len(cells))


def _marked(rows: Sequence[PaperRow]) -> list[PaperRow]:
    """Return the rows with what the paper says against them elsewhere."""
    deviations = sorted(row.printed_std for row in rows if row.printed_std is not None)
    found = []
    for row in rows:
        mark = ""
        if row.recomputed is not None and abs(row.printed - row.recomputed) > ROUNDING:
            mark = f"its cells average to {100 * row.recomputed:.2f}"
        if row.printed_std is not None and row.printed_std == deviations[-1] > 2 * deviations[-2]:
            mark = f"its deviation is {percent(row.printed_std)}, and the next largest of the paper {percent(deviations[-2])}"
        if row.table != 1 and row.column != "none":
            mark = _elsewhere(row, rows) or mark
        if row.table == 1 and not row.best and row.task != "average":
            line = [
                other
                for other in rows
                if (other.table, other.task, other.level, other.classifier)
                == (1, row.task, row.level, row.classifier)
            ]
            if row.printed == max(other.printed for other in line):
                mark = "that is as high as the bold figure of its line"
        found.append(replace(row, mark=mark))
    return found


def _elsewhere(row: PaperRow, rows: Sequence[PaperRow]) -> str:
    """Return where a figure of an ablation stands again for another ratio, or another figure for the same setting."""
    place = (row.task, row.level)
    others = [
        other
        for other in rows
        if other.table not in (1, row.table)
        and (other.task, other.level) == place
        and other.column != "none"
    ]
    again = [
        other
        for other in others
        if (other.printed, other.printed_std) == (row.printed, row.printed_std)
        and other.ratio != row.ratio
    ]
    against = [
        other for other in others
        if {other.column, row.column} == {"curie", "soft"} and (other.lm, other.ratio) == (row.lm, row.ratio) and other.printed != row.printed
    ]  # fmt: skip
    said = [
        f"the same figures stand in Table {other.table} for ratio {other.ratio:g}"
        for other in again
    ]
    said += [
        f"Table {other.table} has {percent(other.printed)} for {other.lm} at ratio {other.ratio:g}"
        for other in against
    ]
    return "; ".join(dict.fromkeys(said))


def contradictions(rows: Sequence[PaperRow]) -> list[str]:
    """Return what the paper prints against itself, each with its place."""
    marks = [row for row in rows if row.mark]
    unique = list(
        dict.fromkeys(
            (
                row.table,
                row.page,
                row.task,
                row.level,
                row.classifier,
                row.column,
                row.printed,
                row.mark,
            )
            for row in marks
        )
    )
    said = [
        f"Table {table} (page {page}), {task} {level}, {CLASSIFIERS[classifier]}, {column}: {percent(value)} is printed; {mark}."
        for table, page, task, level, classifier, column, value, mark in unique
    ]
    if not any(
        row.table == 1 and row.column == "none" and row.printed == APPENDIX_B for row in rows
    ):
        said.append(
            f"Appendix B gives {100 * APPENDIX_B:.2f} for CoLA at 0.1 % without augmentation; Table 1 has no such figure."
        )
    averages = {
        (row.level, row.classifier, row.column): row.recomputed
        for row in rows
        if row.recomputed is not None
    }
    for (level, classifier, column), value in averages.items():
        plain = averages[level, classifier, "none"]
        if column in ("eda", "backtranslate") and value > plain + ROUNDING:
            said.append(
                f"Section 4.3 (page 6) says that EDA and back-translation are worse than no augmentation on average; {CLASSIFIERS[classifier]} at "
                f"{level} has {100 * value:.2f} with {column} and {100 * plain:.2f} without augmentation."
            )
        if column == "gpt3mix" and value - plain < 0.015:
            gain = f"{CLASSIFIERS[classifier]} at {level} it is {100 * (value - plain):.2f}"
            said.append(
                f"Section 4.3 (page 6) says that GPT3Mix gains 2-3 % on average; with {gain}."
            )
    return said


# Ours ----------------------------------------------------------------------------------------------------------------


def beside(groups: Sequence[Group]) -> list[PaperRow]:
    """Return all printed figures with ours, classifier by classifier; those of another classifier stand beside both of the paper's."""
    rows = printed()
    cells = [group.cell for group in groups if group.cell.mean is not None]
    found: list[PaperRow] = []
    for classifier in dict.fromkeys(cell.classifier for cell in cells):
        mine = [cell for cell in cells if cell.classifier == classifier]
        theirs = paper_classifier(classifier)
        found += _with_ours(
            [row for row in rows if theirs in ("", row.classifier)], mine, classifier
        )
    return found or rows


def _with_ours(
    rows: Sequence[PaperRow], cells: Sequence[CellRow], classifier: str
) -> list[PaperRow]:
    by_place: dict[tuple[str, float | None], list[CellRow]] = {}
    for each in cells:
        by_place.setdefault((_task(each.task), _share(each.level)), []).append(each)
    found = []
    for row in rows:
        fitting = [
            cell for cell in by_place.get((row.task, _share(row.level)), ()) if _is(cell, row)
        ]
        ours = replace(row, our_classifier=classifier)
        if fitting:
            # Of a sweep over the ratio too, the paper's ratio is the one to compare with.
            away = [abs((_ratio(cell) or 0) - (row.ratio or 0)) for cell in fitting]
            cell = fitting[away.index(min(away))]
            ours = replace(
                ours,
                ours=cell.mean,
                ours_std=cell.std,
                n=cell.n,
                ours_ratio=_ratio(cell),
                fitting=len(fitting),
            )
        found.append(ours)
    return [_average(row, found) if row.task == "average" else row for row in found]


def _ratio(cell: CellRow) -> float | None:
    return cell.n_synthetic / cell.n_train if cell.n_synthetic and cell.n_train else None


def _average(row: PaperRow, rows: Sequence[PaperRow]) -> PaperRow:
    """Return an average with ours, if we have all of its cells."""
    key = (row.level, row.classifier, row.column)
    cells = [
        other.ours
        for other in rows
        if other.table == 1
        and other.task != "average"
        and (other.level, other.classifier, other.column) == key
    ]
    known = [value for value in cells if value is not None]
    return replace(row, ours=sum(known) / len(known)) if len(known) == len(cells) else row


def paper_classifier(name: str) -> str:
    """Return which of the paper's classifiers a name means; empty for another one."""
    plain = re.sub(r"[^a-z]", "", name.lower()).removesuffix("uncased").removesuffix("base")
    return plain if plain in CLASSIFIERS else ""


def _task(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return TASKS.get(plain, plain)


def _share(level: str) -> float | None:
    try:
        return float(level.removesuffix("%"))
    except ValueError:
        return None


def _is(cell: CellRow, row: PaperRow) -> bool:
    """Return whether a cell of the right task and level is what a column of the paper holds."""
    if row.column == "none" or row.table == 1:
        return cell.method == row.column and (not cell.swept or row.column == "none")
    if cell.method != "gpt3mix":
        return False
    swept: Mapping[str, Any] = cell.swept
    match row.table:
        case 2:
            return f"k={swept.get('augment.k')}" == row.column
        case 3:
            return bool(re.search(rf"\b{row.column}\b", str(swept.get("lm.model", "")).lower()))
        case 5:
            return swept.get("augment.labels") == row.column
        case _:
            specified = {
                key: value
                for key, value in swept.items()
                if key == "task" or key.startswith("task.")
            }
            return (
                bool(specified) and ("generic" if _generic(specified) else "optimal") == row.column
            )


def _generic(swept: Mapping[str, Any]) -> bool:
    """Return whether swept task settings are those of the generic specification: a text and its label."""
    if any("generic" in str(value).lower() for value in swept.values()):
        return True
    task = swept.get("task")
    values = (
        task
        if isinstance(task, Mapping)
        else {key.removeprefix("task."): value for key, value in swept.items()}
    )
    return values.get("text_type") == "text" and values.get("label_type", "label") == "label"


def paper_sheets(rows: Sequence[PaperRow]) -> list[Table]:
    """Return a table for each of the paper's, with the lines of tasks that we have; `printed / ours (difference)`."""
    tasks = {row.task for row in rows if row.ours is not None}
    shown = [row for row in rows if row.task in tasks or not tasks]
    # What an ablation varies, we may not have varied: then it stands once, as printed.
    ours = {
        (row.table, row.our_classifier)
        for row in shown
        if row.ours is not None and (row.table == 1 or row.column != "none")
    }
    kinds: dict[tuple[int, str, str], dict[tuple[str, str, str], PaperRow]] = {}
    for row in shown:
        beside_ours = (row.table, row.our_classifier) in ours
        place = (row.task, row.level, row.column)
        plain = row if beside_ours else replace(row, our_classifier="", ours=None)
        kinds.setdefault((row.table, row.classifier, plain.our_classifier), {}).setdefault(
            place, plain
        )
    found = [_sheet(*kind, list(cells.values())) for kind, cells in kinds.items()]
    return sorted(found, key=lambda sheet: sheet.title.split(" (")[0])


def _sheet(table: int, theirs: str, ours: str, rows: Sequence[PaperRow]) -> Table:
    columns = list(dict.fromkeys(row.column for row in rows))
    lines: dict[tuple[str, str], dict[str, PaperRow]] = {}
    for row in rows:
        lines.setdefault((row.task, row.level), {})[row.column] = row
    other = ours and not paper_classifier(ours)
    title = TITLES[table] + f", {CLASSIFIERS[theirs]}" + (f"; ours: {ours}" if other else "")
    said = [
        "Printed mean ± deviation / ours (trials) and the difference; an average counts as recomputed. † : see what the paper prints against itself."
    ]
    if other:
        said.append(f"Our classifier is another one ({ours}).")
    ratios = sorted(
        {
            f"{row.ours_ratio:g}"
            for row in rows
            if row.ours_ratio and row.ratio and abs(row.ours_ratio - row.ratio) > 0.05 * row.ratio
        }
    )
    if ratios:
        said.append(f"Our ratio of synthetic to real rows is another one: {', '.join(ratios)}.")
    if any(row.fitting > 1 and row.column != "none" for row in rows):
        said.append(
            "Where several of our cells would do, it is the first of those nearest in their ratio."
        )
    body = [
        [TableCell(task), TableCell(level), *(_entry(found[name]) for name in columns)]
        for (task, level), found in lines.items()
    ]
    foot = sum(task == "average" for task, _ in lines)
    stubs = [("task",), ("level",)]
    return Table(
        f"paper-table-{table}-{theirs}-{ours}".rstrip("-"),
        title,
        [*stubs, *((name,) for name in columns)],
        2,
        body,
        foot,
        " ".join(said),
    )


def _entry(row: PaperRow) -> TableCell:
    theirs = (
        percent(row.printed)
        + (f" ± {percent(row.printed_std)}" if row.printed_std is not None else "")
        + ("†" if row.mark else "")
    )
    if row.ours is None or row.difference is None:
        return TableCell(f"{theirs} / -" if row.our_classifier else theirs, value=None)
    count = f" ({row.n})" if row.n else ""
    spread = f" ± {percent(row.ours_std)}" if row.ours_std is not None else ""
    return TableCell(
        f"{theirs} / {percent(row.ours)}{spread}{count}: {100 * row.difference:+.1f}",
        value=100 * row.difference,
    )


def unmatched(groups: Sequence[Group]) -> Iterable[str]:
    """Yield what of ours the paper does not have."""
    known = {row.task for row in printed()}
    tasks = dict.fromkeys(group.cell.task for group in groups)
    if missing := [task for task in tasks if _task(task) not in known]:
        yield f"the paper has no task {', '.join(missing)}; its tasks are {', '.join(sorted(known - {'average'}))}"
    levels = {_share(row.level) for row in printed()}
    if missing := [
        level
        for level in dict.fromkeys(group.cell.level for group in groups)
        if _share(level) not in levels
    ]:
        yield f"the paper's tables have no level {', '.join(missing)}; theirs are 0.1%, 0.3% and 1%"
