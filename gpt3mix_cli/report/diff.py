"""How two runs differ, result by result: `gpt3mix report --diff A B`.

A test is made only if both runs drew the same rows for a data seed and scored the same test rows;
otherwise only the two means are shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from .accuracy import score_cell
from .averages import KEY
from .comparisons import seed_differences
from .model import Result
from .statistics import by_length, holm, intervals, permutation_p, smallest_p
from .table import (
    MISSING,
    POINTS,
    Table,
    as_percent,
    interval_cell,
    list_table,
    p_cell,
    result_names,
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """A result in both runs, or in one of them.

    Attributes:
        a: the result of the first run; None if it has none.
        b: the result of the second run.
        n_pairs: data seeds with the same rows in both.
        diff: b - a, over these data seeds; of the means if there are none.
        ci: 95 % interval of a paired difference.
        p: two-sided, of the paired permutation test.
        p_corrected: after Holm's correction over all results.
        note: what is not the same in both.
    """

    a: Result | None
    b: Result | None
    n_pairs: int = 0
    diff: float | None = None
    ci: tuple[float, float] | None = None
    p: float | None = None
    p_corrected: float | None = None
    note: str = ""

    @property
    def result(self) -> Result:
        """The result of one of the runs, for its names."""
        result = self.a or self.b
        assert result
        return result


def find_differences(a: Sequence[Result], b: Sequence[Result]) -> list[Difference]:
    """Return the results of both runs in the order of the first, then those of the second only.

    Two configs on one data set may name their task differently: tasks with the same test rows are
    one, and so are two runs' only tasks.
    """
    b = _with_names_of(a, b)
    name_of = attrgetter(*KEY, "split_by")
    first, second = ({name_of(result): result for result in results} for results in (a, b))
    differences = [_difference(result, second.pop(key, None)) for key, result in first.items()]
    differences += [_difference(None, result) for result in second.values()]
    corrected = holm([item.p for item in differences])
    return [replace(item, p_corrected=p) for item, p in zip(differences, corrected, strict=True)]


def _with_names_of(a: Sequence[Result], b: Sequence[Result]) -> list[Result]:
    """Return results with the names that the first run has for their tasks."""
    names: dict[str, str] = {}
    known, others = (list(dict.fromkeys(result.task for result in results)) for results in (a, b))
    free = [task for task in known if task not in others]
    for task in others:
        if task in known:
            continue
        rows = {result.test_sha for result in b if result.task == task} - {None}
        same = {result.task for result in a if result.test_sha in rows} & set(free)
        if len(known) == len(others) == 1:
            same = set(free)
        if len(same) == 1:
            names[task] = same.pop()
            free.remove(names[task])
    return [replace(result, task=names.get(result.task, result.task)) for result in b]


def _difference(a: Result | None, b: Result | None) -> Difference:
    if a is None or b is None:
        return Difference(a, b, note="only in the second" if a is None else "only in the first")
    if a.mean is None or b.mean is None:
        missing = [name for name, row in (("the first", a), ("the second", b)) if row.mean is None]
        return Difference(a, b, note=f"without a trial in {' and '.join(missing)}")
    notes = _changes(a, b)
    paired = seed_differences(b, a) if a.test_sha == b.test_sha else {}
    values = [paired[subsample] for subsample in a.seed_means if subsample in paired]
    if len(values) < len(a.seed_means):
        notes.append("some other subsamples" if values else "other subsamples")
    if not values:
        return Difference(a, b, diff=b.mean - a.mean, note=", ".join(notes))
    if not any(values) and a.n == b.n:
        notes.append("equal")
    ci, p = (by_length(statistic, [values])[0] for statistic in (intervals, permutation_p))
    return Difference(a, b, len(values), sum(values) / len(values), ci, p, None, ", ".join(notes))


def _changes(a: Result, b: Result) -> list[str]:
    notes = []
    if a.settings != b.settings:
        notes.append(f"settings {(a.settings or 'unknown')[:6]}, {(b.settings or 'unknown')[:6]}")
    if a.test_sha != b.test_sha:
        notes.append("other test rows")
    if a.version != b.version:
        notes.append(f"versions {a.version or 'unknown'}, {b.version or 'unknown'}")
    return notes


def diff_table(differences: Sequence[Difference], a: str, b: str) -> Table:
    """Return the differences of the runs named a and b as a table."""
    items = [
        {
            **result_names(item.result),
            a: score_cell(item.a) if item.a else MISSING,
            b: score_cell(item.b) if item.b else MISSING,
            "difference": as_percent(item.diff),
            "95 % interval": interval_cell(item.ci, POINTS),
            "pairs": item.n_pairs or None,
            "p": p_cell(item.p),
            "corrected p": p_cell(item.p_corrected),
            "remark": item.note,
        }
        for item in differences
    ]
    tested = [item.n_pairs for item in differences if item.p is not None]
    smallest = smallest_p(min(tested)) if tested else None
    limit = f" The smallest p that all can reach is {smallest:.4f}." if smallest else ""
    notes = (
        f"Test accuracy in percent and the difference {b} - {a} in points, paired by data seed "
        "where both runs drew the same rows. p: two-sided permutation test, corrected by Holm's "
        f"method for all results.{limit}"
    )
    table = list_table("diff", f"{a} and {b}", items, 5, notes)
    assert table, "a run without a result is an error"
    return table


def diff_remarks(differences: Sequence[Difference], a: str, b: str) -> list[str]:
    """Return how many results are equal, changed, or in one run only."""
    both = [item for item in differences if item.diff is not None]
    equal = sum("equal" in item.note.split(", ") for item in both)
    remarks = [f"{len(both)} results are in both runs; {equal} are equal to the last digit"]
    for name, missing in (
        (a, [item.b for item in differences]),
        (b, [item.a for item in differences]),
    ):
        if count := missing.count(None):
            remarks.append(f"{count} results are only in {name}")
    if changed := sum("settings" in item.note for item in both):
        remarks.append(
            f"{changed} results ran with other settings: chance is not the only reason for their "
            "difference"
        )
    return remarks
