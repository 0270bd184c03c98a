"""The values that the paper prints (Yoo et al., 2021, Tables 1, 2, 3, 5, 6, section 4.3) and ours.

`resources/paper.csv` has every printed value, averages included, with its table and its page
(counted from the title page). Averages are recomputed from their rows. Tables 2, 3, 5 and 6 do not
name their classifier; their values without augmentation are those of DistilBERT in Table 1.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .averages import with_none
from .experiments import EXPERIMENT
from .model import Result
from .table import Table, TableCell, percent_text

SOURCE = Path(__file__).parent.parent / "resources" / "paper.csv"
CLASSIFIERS = {"distilbert": "DistilBERT", "bert": "BERT"}
TASK_NAMES = {"trec": "trec6", "sst": "sst2"}
# How far a printed average may be from the mean of values that are rounded themselves.
ROUNDING = 0.0006
OUTLIER_STD = 2  # a standard deviation so many times the next largest is remarked on
APPENDIX_B = 0.688  # "the non-augmented baseline of 68.80%" on CoLA at 0.1 %
FULL_DATA = 0  # the "table" of section 4.3's four values
CLAIMED_GAIN = 0.015  # section 4.3 claims gains of 2-3 % on average; 1.5 rounds to 2
TITLES = {
    1: "Table 1 (page 5): main results",
    2: "Table 2 (page 6): number of examples k, ratio 10, curie",
    3: "Table 3 (page 6): size of the LM, ratio 5",
    5: "Table 5 (page 7): hard and soft labels, ratio 5, curie",
    6: "Table 6 (page 8): task specification, ratio 3, curie",
    FULL_DATA: "Section 4.3 (page 6): all of SST-2, ratio 1",
}
RATIO_TOLERANCE = 0.05  # of the paper's ratio
COLUMN = ["table", "level", "classifier", "column"]  # what an average has in common with its rows


# The paper's values --------------------------------------------------------------------------


def load_paper() -> pd.DataFrame:
    """Return all printed values as fractions, with recomputed averages and marked contradictions.

    Returns:
        A row a value. Its columns are table (0 for section 4.3), page, task (in lower case;
        `average` for the averages), level, classifier, column (`none`, `eda`, ... or what a table
        varies: `k=2`, `curie`, `soft`, `generic`), ratio (synthetic rows per real row), lm (which
        GPT-3), printed, printed_std, best (printed in bold), recomputed (of an average: the mean of
        the printed values) and mark (what the paper prints elsewhere against the value).
    """
    paper = pd.read_csv(SOURCE, dtype={"best": bool}).fillna({"lm": ""})
    fractions = (paper[["mean", "std"]] / 100).round(6)
    paper.insert(8, "printed", fractions["mean"])
    paper.insert(9, "printed_std", fractions["std"])
    paper["recomputed"] = _averages(paper, "printed")
    row_of_table = ["table", "task", "level", "classifier"]
    highest = paper["printed"] == paper.groupby(row_of_table)["printed"].transform("max")
    paper["tied"] = highest & (paper["table"] == 1) & ~paper["best"] & (paper["task"] != "average")
    rows = list(paper.itertuples())
    stds = paper["printed_std"].nlargest(2).tolist()
    marks = [_mark(row, rows, stds) for row in rows]
    return with_none(paper.assign(mark=marks).drop(columns=["mean", "std", "tied"]))


def _averages(rows: pd.DataFrame, name: str) -> "pd.Series[float]":
    tasks = rows[rows["task"] != "average"].astype({name: float})
    means = tasks.groupby(COLUMN)[name].agg(lambda values: values.mean(skipna=False))
    averages = rows[["task", *COLUMN]].join(means, on=COLUMN)
    return averages[name].where(rows["task"] == "average")


def _mark(row: Any, rows: Sequence[Any], stds: Sequence[float]) -> str:
    """Return what the paper prints elsewhere against a value.

    Args:
        row: of the paper.
        rows: all of the paper.
        stds: the two largest standard deviations.
    """
    if row.tied:
        return "that is as high as the bold value of its row"
    if row.table != 1 and row.column != "none" and (mark := _ablation_mark(row, rows)):
        return mark
    if row.printed_std == stds[0] > OUTLIER_STD * stds[1]:
        return (
            f"its standard deviation is {percent_text(row.printed_std)}, and the next largest of "
            f"the paper {percent_text(stds[1])}"
        )
    if abs(row.printed - row.recomputed) > ROUNDING:  # False for NaN
        return f"the mean of its rows is {100 * row.recomputed:.2f}"
    return ""


def _ablation_mark(row: Any, rows: Sequence[Any]) -> str:
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


def find_contradictions(paper: pd.DataFrame) -> list[str]:
    """Return where the paper contradicts itself, each with its table and page."""
    rows = list(paper.itertuples())
    remarks = [
        f"Table {row.table} (page {row.page}), {row.task} {row.level}, "
        f"{CLASSIFIERS[row.classifier]}, {row.column}: {percent_text(row.printed)} is "
        f"printed; {row.mark}."
        for row in rows
        if row.mark
    ]
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


def compare_with_paper(results: Sequence[Result]) -> pd.DataFrame:
    """Return all printed values with ours, classifier by classifier.

    A classifier that the paper does not have is compared with both of the paper's.

    Returns:
        The columns of `load_paper`, and our_classifier, ours (our mean; None if there is none),
        ours_std, n (its trials), ours_ratio (synthetic rows per real row), candidates (how many of
        our results match; ours is the first of those with the nearest ratio) and difference (ours
        minus the printed value; minus the recomputed one of an average).
    """
    paper = load_paper()
    known = [result for result in results if result.mean is not None]
    parts = []
    for classifier in dict.fromkeys(result.classifier for result in known) or [""]:
        theirs = paper_classifier(classifier)
        rows = paper[(paper["classifier"] == theirs) | (not theirs)]
        ours = [result for result in known if result.classifier == classifier]
        values = [_our_value(row, ours) for row in rows.itertuples()]
        part = rows.assign(our_classifier=classifier).join(pd.DataFrame(values, rows.index))
        part["ours"] = part["ours"].fillna(_averages(part, "ours"))
        part["difference"] = part["ours"] - part["recomputed"].fillna(part["printed"])
        parts.append(with_none(part))
    return pd.concat(parts, ignore_index=True)


def _our_value(row: Any, results: Sequence[Result]) -> dict[str, Any]:
    key = row.task, _normal_level(row.level)
    matching = [
        result for result in results
        if (_task(result.task), _normal_level(result.level)) == key and _matches(result, row)
    ]  # fmt: skip
    if not matching:
        return {"ours": None, "ours_std": None, "n": 0, "ours_ratio": None, "candidates": 0}
    # A sweep may include other ratios; the paper's is the one to compare with.
    best = min(matching, key=lambda item: abs((_ratio(item) or 0) - (row.ratio or 0)))
    return {
        "ours": best.mean, "ours_std": best.std, "n": best.n, "ours_ratio": _ratio(best),
        "candidates": len(matching),
    }  # fmt: skip


def _ratio(result: Result) -> float | None:
    return result.n_synthetic / result.n_train if result.n_synthetic and result.n_train else None


def paper_classifier(name: str) -> str:
    """Return which of the paper's classifiers a name means; empty for another one."""
    plain = re.sub(r"[^a-z]", "", name.lower()).removesuffix("uncased").removesuffix("base")
    return plain if plain in CLASSIFIERS else ""


def _task(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return TASK_NAMES.get(plain, plain)


def _normal_level(level: str) -> float | str:
    """Return a percentage as a number: `1%` and `1.0%` are one level."""
    number = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)%?", level)
    return float(number[1]) if number else level


def _matches(result: Result, row: Any) -> bool:
    if row.column == "none":
        return result.method == "none"
    if row.table in (1, FULL_DATA):
        is_main = result.paper[0] == 1 if result.paper else not {*result.swept} - {EXPERIMENT}
        return is_main and bool(result.method == row.column)
    if result.method != "gpt3mix":
        return False
    if result.paper:
        return result.paper == (row.table, row.column)
    # Without a config that names the column, the swept settings tell; which GPT-3 an LM takes the
    # place of in Table 3 they do not.
    swept: Mapping[str, Any] = result.swept
    match row.table:
        case 2:
            return bool(row.column == f"k={swept.get('augment.k')}")
        case 5:
            return bool(swept.get("augment.labels") == row.column)
        case 6:
            task = {k: v for k, v in swept.items() if k == "task" or k.startswith("task.")}
            return bool(task) and row.column == ("generic" if _is_generic(task) else "optimal")
        case _:
            return False


def _is_generic(swept: Mapping[str, Any]) -> bool:
    if any("generic" in str(value).lower() for value in swept.values()):
        return True
    task = swept.get("task")
    values = {key.removeprefix("task."): value for key, value in swept.items()}
    if isinstance(task, Mapping):
        values = dict(task)
    return values.get("text_type") == "text" and values.get("label_type", "label") == "label"


def is_in_paper(results: Sequence[Result]) -> bool:
    """Return whether any of our tasks is the paper's."""
    return not {_task(result.task) for result in results}.isdisjoint(load_paper()["task"])


def unknown_to_paper(results: Sequence[Result]) -> Iterable[str]:
    """Yield which of our tasks and levels the paper does not have."""
    paper = load_paper()
    tasks = set(paper["task"])
    ours = dict.fromkeys(result.task for result in results)
    if missing := [task for task in ours if _task(task) not in tasks]:
        known = ", ".join(sorted(tasks - {"average"}))
        no_tables = "" if len(missing) < len(ours) else ", so none of its tables is shown"
        yield f"the paper has no task {', '.join(missing)}; its tasks are {known}{no_tables}"
    if len(missing) == len(ours):
        return
    levels = {*paper["level"].map(_normal_level)}
    our_levels = dict.fromkeys(result.level for result in results)
    if missing := [level for level in our_levels if _normal_level(level) not in levels]:
        names = ", ".join(missing)
        yield f"the paper has no level {names}; it has 0.1%, 0.3% and 1%, of SST-2 also full"
    swept = any("lm.model" in result.swept and not result.paper for result in results)
    if swept:
        yield (
            "Table 3: the config says which GPT-3 each LM takes the place of, with "
            "paper: {table: 3, column: ...}; give the config, gpt3mix report CONFIG --paper"
        )


# Tables: `printed / ours (trials): difference` -----------------------------------------------


def paper_tables(rows: pd.DataFrame) -> list[Table]:
    """Return a table for each of the paper's, with the rows of the tasks that we have."""
    has_ours = rows["ours"].notna()
    names = ["table", "classifier", "our_classifier"]
    shown = rows[rows["task"].isin(rows["task"][has_ours]) | (not has_ours.any())]
    # An ablation that we have not run is shown once, as printed.
    varied = shown["ours"].notna() & ((shown["table"] == 1) | (shown["column"] != "none"))
    is_run = varied.groupby([shown["table"], shown["our_classifier"]]).transform("any")
    shown = shown.assign(
        our_classifier=shown["our_classifier"].where(is_run, ""),
        ours=shown["ours"].where(is_run, None),
    ).drop_duplicates([*names, "task", "level", "column"])
    tables = [_paper_table(key, part) for key, part in shown.groupby(names, sort=False)]
    order = ["Table", "Section"]
    return sorted(tables, key=lambda table: (order.index(table.title.split()[0]), table.title[:7]))


def _paper_table(key: Any, rows: pd.DataFrame) -> Table:
    number, theirs, ours = key
    columns = rows["column"].unique().tolist()
    labels = ["task", "level"]
    body = [
        [*label, *map(_paper_cell, part.set_index("column").loc[columns].itertuples())]
        for label, part in rows.groupby(labels, sort=False)
    ]
    other = ours if ours and not paper_classifier(ours) else ""
    title = f"{TITLES[number]}, {CLASSIFIERS[theirs]}" + (f"; ours: {ours}" if other else "")
    where = f"table-{number}" if number != FULL_DATA else "section-4.3"
    name = f"paper-{where}-{theirs}-{ours}".rstrip("-")
    data = pd.DataFrame(body, columns=[*labels, *columns])
    notes = _notes(list(rows.itertuples()), other)
    return Table(name, title, data, 2, notes, sum(data["task"] == "average"))


def _notes(rows: Sequence[Any], other_classifier: str) -> str:
    notes = [
        "Printed mean ± standard deviation / ours (trials) and the difference; of an average, to "
        "the recomputed one. †: see where the paper contradicts itself."
    ]
    if other_classifier:
        notes.append(f"Our classifier is another one ({other_classifier}).")
    ratios = {
        f"{row.ours_ratio:g}" for row in rows
        if row.ours_ratio and row.ratio
        and abs(row.ours_ratio - row.ratio) > RATIO_TOLERANCE * row.ratio
    }  # fmt: skip
    if ratios:
        names = ", ".join(sorted(ratios))
        notes.append(f"Our ratio of synthetic to real rows is another one: {names}.")
    if any(row.candidates > 1 and row.column != "none" for row in rows):
        notes.append(
            "Where several of our results match, ours is the first of those nearest in their ratio."
        )
    return " ".join(notes)


def _paper_cell(row: Any) -> TableCell:
    mark = "†" if row.mark else ""
    # Section 4.3 has two decimals.
    printed = f"{100 * row.printed:.2f}" if row.table == FULL_DATA else percent_text(row.printed)
    theirs = f"{printed}{_std_text(row.printed_std)}{mark}"
    if row.ours is None or row.difference is None:
        return TableCell(f"{theirs} / -" if row.our_classifier else theirs)
    count = f" ({row.n})" if row.n else ""
    ours = f"{percent_text(row.ours)}{_std_text(row.ours_std)}{count}"
    difference = 100 * row.difference
    return TableCell(f"{theirs} / {ours}: {difference:+.1f}", difference)


def _std_text(std: float | None) -> str:
    return f" ± {percent_text(std)}" if std is not None else ""
