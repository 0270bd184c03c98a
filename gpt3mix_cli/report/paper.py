"""The values that the paper prints (Yoo et al., 2021, Tables 1, 2, 3, 5 and 6), next to ours.

`resources/paper.csv` has every printed value, averages included, with its table and its page
(counted from the title page). Averages are recomputed from their rows. Tables 2, 3, 5 and 6 do not
name their classifier; their values without augmentation are those of DistilBERT in Table 1.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .model import Result
from .table import percent_text

SOURCE = Path(__file__).parent.parent / "resources" / "paper.csv"
CLASSIFIERS = {"distilbert": "DistilBERT", "bert": "BERT"}
TASK_NAMES = {"trec": "trec6", "sst": "sst2"}
# How far a printed average may be from the mean of values that are rounded themselves.
ROUNDING = 0.0006
OUTLIER_STD = 2  # a standard deviation so many times the next largest is remarked on
APPENDIX_B = 0.688  # "the non-augmented baseline of 68.80%" on CoLA at 0.1 %
CLAIMED_GAIN = 0.015  # section 4.3 claims gains of 2-3 % on average; 1.5 rounds to 2


@dataclass(frozen=True)
class PaperRow:
    """A value that the paper prints, and ours if there is one; all as fractions.

    Attributes:
        table: number of the table in the paper.
        page: its page, counted from the title page.
        task: as the paper names it, in lower case; `average` for the averages.
        level: as the paper names it.
        classifier: `distilbert` or `bert`.
        column: `none`, `eda`, ... or what a table varies: `k=2`, `curie`, `soft`, `generic`.
        ratio: synthetic rows per real row.
        lm: which GPT-3.
        printed: the mean as printed.
        printed_std: the standard deviation as printed.
        best: printed in bold.
        recomputed: of an average: the mean of the printed values.
        mark: what the paper prints elsewhere against this value; empty if nothing.
        our_classifier: the classifier of our value.
        ours: our mean; None if there is none.
        ours_std: its standard deviation.
        n: its trials.
        ours_ratio: our synthetic rows per real row.
        candidates: how many of our results match; ours is the first of those with the nearest
            ratio.
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
    candidates: int = 0

    @property
    def difference(self) -> float | None:
        """Ours minus the printed value; minus the recomputed one of an average."""
        theirs = self.printed if self.recomputed is None else self.recomputed
        return None if self.ours is None else self.ours - theirs


# The paper's values --------------------------------------------------------------------------


def load_paper() -> list[PaperRow]:
    """Return all printed values, with recomputed averages and marked contradictions."""
    with SOURCE.open(encoding="utf-8", newline="") as stream:
        rows = [_parse(line) for line in csv.DictReader(stream)]
    rows = [_recompute(row, rows) for row in rows]
    return [replace(row, mark=_mark(row, rows)) for row in rows]


def _parse(line: Mapping[str, str]) -> PaperRow:
    fractions = {
        name: round(float(line[name]) / 100, 6) if line[name] else None for name in ("mean", "std")
    }
    assert fractions["mean"] is not None
    return PaperRow(
        table=int(line["table"]), page=int(line["page"]), task=line["task"], level=line["level"],
        classifier=line["classifier"], column=line["column"],
        ratio=float(line["ratio"]) if line["ratio"] else None, lm=line["lm"],
        printed=fractions["mean"], printed_std=fractions["std"], best=line["best"] == "1",
    )  # fmt: skip


def _recompute(row: PaperRow, rows: Sequence[PaperRow]) -> PaperRow:
    if row.task != "average":
        return row
    values = [other.printed for other in rows if _is_averaged(other, row)]
    return replace(row, recomputed=sum(values) / len(values))


def _is_averaged(row: PaperRow, average: PaperRow) -> bool:
    """Return whether an average is over this row among others."""
    names = ("table", "level", "classifier", "column")
    return row.task != "average" and all(getattr(row, n) == getattr(average, n) for n in names)


def _mark(row: PaperRow, rows: Sequence[PaperRow]) -> str:
    """Return what the paper prints elsewhere against a value."""
    if row.table == 1 and not row.best and row.task != "average":
        rivals = [
            other.printed for other in rows
            if (other.table, other.task, other.level, other.classifier)
            == (1, row.task, row.level, row.classifier)
        ]  # fmt: skip
        if row.printed == max(rivals):
            return "that is as high as the bold value of its row"
    if row.table != 1 and row.column != "none" and (mark := _ablation_mark(row, rows)):
        return mark
    stds = sorted(other.printed_std for other in rows if other.printed_std is not None)
    if row.printed_std is not None and row.printed_std == stds[-1] > OUTLIER_STD * stds[-2]:
        return (
            f"its standard deviation is {percent_text(row.printed_std)}, and the next largest of "
            f"the paper {percent_text(stds[-2])}"
        )
    if row.recomputed is not None and abs(row.printed - row.recomputed) > ROUNDING:
        return f"the mean of its rows is {100 * row.recomputed:.2f}"
    return ""


def _ablation_mark(row: PaperRow, rows: Sequence[PaperRow]) -> str:
    """Return where an ablation's value is printed for another ratio, or differently."""
    remarks = []
    others = [
        other for other in rows
        if other.table not in (1, row.table) and (other.task, other.level) == (row.task, row.level)
        and other.column != "none"
    ]  # fmt: skip
    for other in others:
        same = (other.printed, other.printed_std) == (row.printed, row.printed_std)
        if same and other.ratio != row.ratio:
            remarks.append(f"Table {other.table} has the same values for ratio {other.ratio:g}")
    for other in others:
        same_setting = {other.column, row.column} == {"curie", "soft"} and (
            (other.lm, other.ratio) == (row.lm, row.ratio)
        )
        if same_setting and other.printed != row.printed:
            remarks.append(
                f"Table {other.table} has {percent_text(other.printed)} for {other.lm} at ratio "
                f"{other.ratio:g}"
            )
    return "; ".join(dict.fromkeys(remarks))


def find_contradictions(rows: Sequence[PaperRow]) -> list[str]:
    """Return where the paper contradicts itself, each with its table and page."""
    remarks = []
    for row in rows:
        if row.mark:
            remarks.append(
                f"Table {row.table} (page {row.page}), {row.task} {row.level}, "
                f"{CLASSIFIERS[row.classifier]}, {row.column}: {percent_text(row.printed)} is "
                f"printed; {row.mark}."
            )
    plain = [row.printed for row in rows if row.table == 1 and row.column == "none"]
    if APPENDIX_B not in plain:
        remarks.append(
            f"Appendix B gives {100 * APPENDIX_B:.2f} for CoLA at 0.1 % without augmentation; "
            "Table 1 has no such value."
        )
    averages = {
        (row.level, row.classifier, row.column): row.recomputed
        for row in rows
        if row.recomputed is not None
    }
    for (level, classifier, column), value in averages.items():
        baseline = averages[level, classifier, "none"]
        where = f"{CLASSIFIERS[classifier]} at {level}"
        if column in ("eda", "backtranslate") and value > baseline + ROUNDING:
            remarks.append(
                "Section 4.3 (page 6) says that EDA and back-translation are worse than no "
                f"augmentation on average; {where} has {100 * value:.2f} with {column} and "
                f"{100 * baseline:.2f} without augmentation."
            )
        if column == "gpt3mix" and value - baseline < CLAIMED_GAIN:
            remarks.append(
                "Section 4.3 (page 6) says that GPT3Mix gains 2-3 % on average; with "
                f"{where} it is {100 * (value - baseline):.2f}."
            )
    return list(dict.fromkeys(remarks))


# Ours ----------------------------------------------------------------------------------------


def compare_with_paper(results: Sequence[Result]) -> list[PaperRow]:
    """Return all printed values with ours, classifier by classifier.

    A classifier that the paper does not have is compared with both of the paper's.
    """
    rows = load_paper()
    compared: list[PaperRow] = []
    known = [result for result in results if result.mean is not None]
    for classifier in dict.fromkeys(result.classifier for result in known):
        ours = [result for result in known if result.classifier == classifier]
        theirs = paper_classifier(classifier)
        matching = [row for row in rows if theirs in ("", row.classifier)]
        compared += _with_ours(matching, ours, classifier)
    return compared or rows


def _with_ours(
    rows: Sequence[PaperRow], results: Sequence[Result], classifier: str
) -> list[PaperRow]:
    by_task: dict[tuple[str, float | None], list[Result]] = defaultdict(list)
    for result in results:
        by_task[_task(result.task), _percentage(result.level)].append(result)
    compared = []
    for row in rows:
        candidates = by_task.get((row.task, _percentage(row.level)), [])
        matching = [result for result in candidates if _matches(result, row)]
        ours = replace(row, our_classifier=classifier)
        if matching:
            # A sweep may include other ratios; the paper's is the one to compare with.
            best = min(matching, key=lambda item: abs((_ratio(item) or 0) - (row.ratio or 0)))
            ours = replace(
                ours, ours=best.mean, ours_std=best.std, n=best.n, ours_ratio=_ratio(best),
                candidates=len(matching),
            )  # fmt: skip
        compared.append(ours)
    return [_average(row, compared) if row.task == "average" else row for row in compared]


def _ratio(result: Result) -> float | None:
    return result.n_synthetic / result.n_train if result.n_synthetic and result.n_train else None


def _average(average: PaperRow, rows: Sequence[PaperRow]) -> PaperRow:
    """Return an average with ours, if we have a value for all of its rows."""
    values = [row.ours for row in rows if _is_averaged(row, average)]
    known = [value for value in values if value is not None]
    complete = len(known) == len(values)
    return replace(average, ours=sum(known) / len(known)) if complete else average


def paper_classifier(name: str) -> str:
    """Return which of the paper's classifiers a name means; empty for another one."""
    plain = re.sub(r"[^a-z]", "", name.lower()).removesuffix("uncased").removesuffix("base")
    return plain if plain in CLASSIFIERS else ""


def _task(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return TASK_NAMES.get(plain, plain)


def _percentage(level: str) -> float | None:
    try:
        return float(level.removesuffix("%"))
    except ValueError:
        return None


def _matches(result: Result, row: PaperRow) -> bool:
    """Return whether a result of the right task and level is what a column of the paper holds."""
    swept: Mapping[str, Any] = result.swept
    if row.column == "none" or row.table == 1:
        return result.method == row.column and (not swept or row.column == "none")
    if result.method != "gpt3mix":
        return False
    match row.table:
        case 2:
            return f"k={swept.get('augment.k')}" == row.column
        case 3:
            return bool(re.search(rf"\b{row.column}\b", str(swept.get("lm.model", "")).lower()))
        case 5:
            return bool(swept.get("augment.labels") == row.column)
        case _:
            task = {k: v for k, v in swept.items() if k == "task" or k.startswith("task.")}
            return bool(task) and row.column == ("generic" if _is_generic(task) else "optimal")


def _is_generic(swept: Mapping[str, Any]) -> bool:
    """Return whether swept task settings are the generic specification: a text and its label."""
    if any("generic" in str(value).lower() for value in swept.values()):
        return True
    task = swept.get("task")
    values = {key.removeprefix("task."): value for key, value in swept.items()}
    if isinstance(task, Mapping):
        values = dict(task)
    return values.get("text_type") == "text" and values.get("label_type", "label") == "label"


def unknown_to_paper(results: Sequence[Result]) -> Iterable[str]:
    """Yield which of our tasks and levels the paper does not have."""
    rows = load_paper()
    tasks = {row.task for row in rows}
    ours = dict.fromkeys(result.task for result in results)
    if missing := [task for task in ours if _task(task) not in tasks]:
        known = ", ".join(sorted(tasks - {"average"}))
        yield f"the paper has no task {', '.join(missing)}; its tasks are {known}"
    levels = {_percentage(row.level) for row in rows}
    our_levels = dict.fromkeys(result.level for result in results)
    if missing := [level for level in our_levels if _percentage(level) not in levels]:
        names = ", ".join(missing)
        yield f"the paper's tables have no level {names}; theirs are 0.1%, 0.3% and 1%"
