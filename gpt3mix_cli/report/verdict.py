"""Comparisons with no augmentation -> verdict: which methods are ahead, which harm, how sure it is.

A method is ahead if the 95 % interval of its mean difference is above zero, and harms if it is
below. It only *seems* so where the p of the tables, corrected for all their comparisons, is 0.05 or
more: a table of many comparisons needs many data seeds.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import pandas as pd

from .experiments import experiment_part
from .model import Result
from .statistics import SIGNIFICANCE_LEVELS, min_changed_rows, min_units
from .table import Table, as_percent, can_be_small, interval_cell, list_table, p_cell

# Outcomes, in the order in which a sentence names them.
OUTCOMES = AHEAD, HARMS, DOUBTFUL, UNDECIDED, ONE_SEED = (
    "ahead", "harms", "doubtful", "no difference shown", "one data seed",
)  # fmt: skip
UNSURE = {AHEAD: "seems ahead", HARMS: "seems to harm"}
ALPHA = SIGNIFICANCE_LEVELS[0]
MAX_ONE_CLASS_EXCESS = 0.1  # fraction of trials
MAX_NAMED = 2  # methods of each outcome in a sentence
NOTES = (
    "Each method against no augmentation, paired by data seed; difference in points of accuracy. "
    "Ahead: the 95 % interval is above 0. Harms: it is below 0. Where the corrected p is 0.05 or "
    "more, a method only seems ahead or seems to harm. Doubtful: classes are uneven, and trials of "
    "a method that would be ahead predict one class, or macro-F1 or MCC do not change as accuracy "
    "does."
)


@dataclass(frozen=True)
class Verdict:
    """How a method compares with no augmentation, in one row of the main table or over several.

    Attributes:
        scope: where: `sst2 1%`, or `12 rows of 4 tasks`.
        task: name of the task; empty for several rows.
        level: as the config spells it; empty for several rows.
        classifier: name of the classifier.
        method: the column, with its variant in brackets.
        outcome: one of `OUTCOMES`.
        sure: whether the corrected p is below 0.05, and enough test rows change.
        diff: mean difference to no augmentation.
        ci: its 95 % interval; None for a single data seed.
        p: of the paired permutation test, after Holm's correction over its table.
        smallest_p: the smallest p, uncorrected, that so many data seeds can reach.
        tests: number of comparisons that p is corrected for.
        data_seeds: that both have, of all tasks together.
        test_rows: of all tasks together; None if unknown.
        remark: whether rows contradict each other, whether trials predict one class, and how
            macro-F1 and MCC of uneven classes change; mostly empty.
    """

    scope: str
    task: str
    level: str
    classifier: str
    method: str
    outcome: str
    sure: bool
    diff: float
    ci: tuple[float, float] | None
    p: float | None
    smallest_p: float | None
    tests: int
    data_seeds: int
    test_rows: int | None
    remark: str

    @property
    def word(self) -> str:
        """The outcome, with how sure it is."""
        return self.outcome if self.sure else UNSURE.get(self.outcome, self.outcome)

    @property
    def limit(self) -> str:
        """What so few data seeds or test rows cannot show; empty if they can."""
        if self.outcome in UNSURE and self.few_rows_change:
            least = min_changed_rows()
            return (
                f"a difference of fewer than {least} of {self.test_rows} test rows "
                f"({100 * least / (self.test_rows or 1):.1f} points) may be a chance of these rows"
            )
        if self.smallest_p is None or self.smallest_p * self.tests < ALPHA:
            return ""
        limit = f"too few seeds: {self.data_seeds} data seeds cannot reach p < {ALPHA}"
        if self.tests > 1:
            limit += f" after correction for {self.tests} comparisons"
        return f"{limit} ({min_units(self.tests)} can)"

    @property
    def few_rows_change(self) -> bool:
        """Whether the difference is of so few test rows that it may be a chance of these."""
        changed = abs(self.diff) * (self.test_rows or 0)
        return self.test_rows is not None and changed < min_changed_rows() - 0.5


def judge_methods(
    results: Sequence[Result], comparisons: pd.DataFrame, pooled: pd.DataFrame
) -> tuple[list[str], list[Verdict]]:
    """Return the overall verdict, and that of each task, level, classifier and method.

    Args:
        results: all of them.
        comparisons: of the rows (`compare_results`).
        pooled: the same over all rows.

    Returns:
        sentences, one or more for each classifier; and the verdicts by row.
    """
    over_rows = {_key(item): item for item in pooled.itertuples()}
    groups: dict[tuple[str, ...], list[Any]] = defaultdict(list)
    for item in comparisons.itertuples():
        if _is_none(item.b) and not _is_none(item.a):
            groups[_key(item)].append(item)
    finder = _ResultFinder(results)
    tests = comparisons["p"].count()
    verdicts, sentences = [], []
    overall: dict[str, dict[str, list[Verdict]]] = defaultdict(lambda: defaultdict(list))
    for key, rows in groups.items():
        pairs = [(finder.find(row, row.a), finder.find(row, row.b)) for row in rows]
        of_rows = [_verdict(row, [pair], tests) for row, pair in zip(rows, pairs, strict=True)]
        verdicts += of_rows
        verdict = of_rows[0]
        if key in over_rows:
            verdict = _verdict(over_rows[key], pairs, pooled["p"].count(), of_rows)
        overall[verdict.classifier][verdict.scope].append(verdict)
    for classifier in dict.fromkeys(result.classifier for result in results):
        for scope, members in overall[classifier].items():
            sentences.append(f"{classifier}, {scope}: {'; '.join(_phrases(members))}.")
        if not overall[classifier]:
            methods = {row.method for row in results if row.classifier == classifier and row.n}
            sentences.append(f"{classifier}: nothing to compare, {_reason(methods)}.")
    order = {(row.task, row.level, row.classifier): at for at, row in enumerate(results)}
    verdicts.sort(key=lambda row: order[row.task, row.level, row.classifier])
    return sentences, verdicts


def verdict_table(verdicts: Sequence[Verdict]) -> Table | None:
    """Return the verdicts by task and level; None without any."""
    items = [
        {
            "task": row.task,
            "level": row.level,
            "classifier": row.classifier,
            "method": row.method,
            "verdict": row.word,
            "difference": as_percent(row.diff),
            "95 % interval": interval_cell(row.ci),
            "corrected p": p_cell(row.p, is_reachable=can_be_small(row.smallest_p, row.tests)),
            "data seeds": row.data_seeds,
            "remark": row.remark,
        }
        for row in verdicts
    ]
    return list_table("verdict", "Verdict by task and level", items, 4, NOTES)


def _key(item: Any) -> tuple[str, ...]:
    return item.classifier, item.a, item.b, item.variant


def _is_none(column: str) -> bool:
    # `none [settings 1a2b3c]` too, but not `none (lm.model=x)`: these are variants of a sweep.
    return column == "none" or column.startswith("none [")


def _reason(methods: set[str]) -> str:
    if "none" not in methods:
        return "no augmentation (the method none) has no trials"
    if methods == {"none"}:
        return "only no augmentation has trials"
    return "no method has the test rows and a data seed of no augmentation"


class _ResultFinder:
    """Finds the results of a comparison."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._results: dict[tuple[str, ...], list[Result]] = defaultdict(list)
        for result in results:
            if result.n:
                names = (result.task, result.level, result.classifier, result.column)
                self._results[names].append(result)

    def find(self, item: Any, column: str) -> Result:
        """Return the result of a column; what a sweep does not change has no variant."""
        same = self._results[item.task, item.level, item.classifier, column]
        of_experiment = [row for row in same if experiment_part(row.swept) == item.variant]
        exact = [row for row in same if row.variant == item.variant]
        return (exact or of_experiment or same)[0]


# One verdict ---------------------------------------------------------------------------------


def _verdict(
    item: Any,
    pairs: Sequence[tuple[Result, Result]],
    tests: int,
    of_rows: Sequence[Verdict] = (),
) -> Verdict:
    """Return the verdict of a row of either table.

    Args:
        item: of the comparisons, or of the pooled ones.
        pairs: the results of a method and of no augmentation in each row of the main table.
        tests: comparisons that its table has.
        of_rows: the verdicts of these rows, if there are several.
    """
    single = not of_rows
    first = pairs[0][0]
    remarks = [_reversal([row.outcome for row in of_rows]), _one_class(pairs)]
    outcome = ONE_SEED if item.ci is None else UNDECIDED
    if item.ci is not None and not item.ci[0] <= 0 <= item.ci[1]:
        uneven = [pair for pair in pairs if pair[0].uneven]
        remarks.append(_contradiction(item.diff, uneven))
        collapses = item.diff > 0 and _one_class_excess(uneven) > MAX_ONE_CLASS_EXCESS
        outcome = AHEAD if item.diff > 0 else HARMS
        if collapses or remarks[-1]:
            outcome = DOUBTFUL
    against = "" if item.b == "none" else f" against {item.b}"
    verdict = Verdict(
        scope=f"{first.task} {first.level}" if single else _scope(item, first.task),
        task=first.task if single else "",
        level=first.level if single else "",
        classifier=item.classifier,
        method=item.a + (f" ({item.variant})" if item.variant else "") + against,
        outcome=outcome,
        sure=item.p_corrected is not None and item.p_corrected < ALPHA,
        diff=item.diff,
        ci=item.ci,
        p=item.p_corrected,
        smallest_p=item.smallest_p,
        tests=int(tests),
        data_seeds=item.n_pairs if single else item.units,
        test_rows=_count_test_rows(pairs),
        remark=" and ".join(filter(None, remarks)),
    )
    return replace(verdict, sure=verdict.sure and not verdict.few_rows_change)


def _count_test_rows(pairs: Sequence[tuple[Result, Result]]) -> int | None:
    """Return the number of test rows of all tasks; levels of a task share them."""
    counts = {(pair[0].task, pair[0].test_sha): pair[0].tested for pair in pairs}
    known = [round(count) for count in counts.values() if count]
    return sum(known) if len(known) == len(counts) else None


def _scope(item: Any, task: str) -> str:
    if item.tasks == 1:
        return f"{item.rows} levels of {task}"
    return f"{item.tasks} tasks" if item.rows == item.tasks else (
        f"{item.rows} rows of {item.tasks} tasks"
    )  # fmt: skip


def _reversal(outcomes: Sequence[str]) -> str:
    """Return in how many rows a method is ahead and in how many it harms, if it does both."""
    ahead, harms = outcomes.count(AHEAD), outcomes.count(HARMS)
    both = f"is ahead in {ahead} and harms in {harms} of {len(outcomes)} rows"
    return both if ahead and harms else ""


def _one_class(pairs: Sequence[tuple[Result, Result]]) -> str:
    count, trials = sum(a.one_class for a, _ in pairs), sum(a.n for a, _ in pairs)
    return f"predicts one class in {count} of {trials} trials" if count else ""


def _one_class_excess(pairs: Sequence[tuple[Result, Result]]) -> float:
    """Return by how much a method's fraction of one-class trials is above that of `none`."""
    fractions = [
        sum(result.one_class for result in column) / sum(result.n for result in column)
        for column in zip(*pairs, strict=True)
    ]
    return fractions[0] - fractions[1] if fractions else 0.0


def _contradiction(diff: float, uneven: Sequence[tuple[Result, Result]]) -> str:
    """Return how macro-F1 and MCC change if one of them does not change as accuracy does."""
    changes = [
        (a.macro_f1 - b.macro_f1, a.mcc - b.mcc)
        for a, b in uneven
        if a.macro_f1 is not None and b.macro_f1 is not None
        and a.mcc is not None and b.mcc is not None
    ]  # fmt: skip
    if not changes:
        return ""
    f1, mcc = map(fmean, zip(*changes, strict=True))
    text = f"changes macro-F1 by {_points(f1)} points and MCC by {mcc:+z.3f}"
    return text if min(f1 * diff, mcc * diff) <= 0 else ""


# Sentences -----------------------------------------------------------------------------------


def _phrases(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield the parts of a sentence; only the first one says what its numbers are."""
    ordered = sorted(verdicts, key=lambda row: (OUTCOMES.index(row.outcome), -abs(row.diff)))
    named: list[Verdict] = []
    for _, members in itertools.groupby(ordered, key=lambda row: row.outcome):
        named += itertools.islice(members, MAX_NAMED)
    for outcome, members in itertools.groupby(named, key=lambda row: row.outcome):
        texts = []
        for row in members:
            texts.append(_phrase(row, is_first=row is named[0]))
        if outcome == UNDECIDED:
            against = " from no augmentation" * (named[0].outcome == outcome)
            yield f"no difference{against} shown: {', '.join(texts)}"
        elif outcome == ONE_SEED:
            yield f"one data seed shows nothing, whatever the difference: {', '.join(texts)}"
        else:
            yield "; ".join(texts)
    if others := Counter(row.word for row in ordered if row not in named):
        counts = ", ".join(
            word + f" ({count})" * (len(others) > 1) for word, count in others.items()
        )
        yield f"{others.total()} other{'s' * (others.total() > 1)}: {counts}"
    yield from dict.fromkeys(row.limit for row in named if row.limit and not row.sure)


def _phrase(row: Verdict, is_first: bool) -> str:
    points, against, seeds, interval = ("",) * 4
    if is_first:
        points, against, interval = " points", " against no augmentation", "95 % interval "
        seeds = f" with {row.data_seeds} data seeds"
    difference = f"{_points(row.diff)}{points}"
    if row.ci is None:
        return f"{row.method} {difference}{against}"
    low, high = (f"{100 * end:z.1f}" for end in row.ci)
    # A p that no difference can make small says nothing of this one.
    can_be_small = row.smallest_p is not None and row.smallest_p < ALPHA
    p = f", {_p_text(row)}" * (can_be_small and row.outcome != UNDECIDED)
    details = f"({interval}{low} to {high}{p}{seeds})"
    remark = f", but {row.remark}" if row.remark else ""
    if row.outcome == UNDECIDED:
        inner = f"; {row.remark}" if row.remark else ""
        return f"{row.method} {difference} {details[:-1]}{inner})"
    if row.outcome == AHEAD:
        verb = "is ahead" if row.sure else row.word
        of = " of no augmentation" * is_first
        return f"{row.method} {verb}{of} by {100 * row.diff:.1f}{points} {details}{remark}"
    word = f" {row.word}" if row.outcome == HARMS else ""
    return f"{row.method}{word}: {difference}{against} {details}{remark}"


def _points(fraction: float) -> str:
    return f"{100 * fraction:+z.1f}"


def _p_text(row: Verdict) -> str:
    name = "corrected p" if row.tests > 1 else "p"
    return f"{name} < 0.0001" if row.p is None or row.p < 0.0001 else f"{name} = {row.p:.2g}"
