"""Results -> comparisons: pairs of columns in each row, the same pairs over all rows, and gains.

Within a variant every method is compared with every other; the variants of a method are compared
with the first one of the sweep. A method whose trials are equal in all variants takes part once.
Of several experiments this holds within each one; where they differ, the first variants of a method
in the others are compared with that in the first experiment.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd

from .experiments import experiment_part
from .model import Result, Subsample
from .statistics import (
    by_length,
    holm,
    intervals,
    permutation_p,
    significance_stars,
    smallest_p,
    wilcoxon_p,
)

RANK = {"gpt3mix": -1, "none": 1}  # the method of the paper is `a`, no augmentation is `b`
block_of = attrgetter("task", "level", "classifier")


class Pair(NamedTuple):
    """Two results of a row that can be compared.

    Attributes:
        a: the column of the first one, a method or `method (variant)`.
        b: the column of the second one.
        variant: the variant of both; empty without a sweep or if two variants are compared.
        result: the first one.
        other: the second one.
        differences: subsample of both -> difference of the mean accuracies.
    """

    a: str
    b: str
    variant: str
    result: Result
    other: Result
    differences: Mapping[Subsample, float]


def compare_results(results: Sequence[Result]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the comparisons within each row, and those over all rows.

    Differences are a - b. `p` is two-sided, `p_corrected` after Holm's correction over the table,
    and `smallest_p` what so many pairs or units can reach; all are None for fewer than two.

    Returns:
        Two tables. The first has a row for each pair of columns of a task, level and classifier:
        n_pairs (data seeds that both have), diff (mean), ci (95 %), the p of the paired
        permutation test and of Wilcoxon's.

        The second has a row for each pair of columns of a classifier: the number of tasks and of
        rows that both have, units (task, data seed), the rows that a wins, ties and loses as the
        tables show them, diff (mean over rows), ci (95 %), min_diff and max_diff (of a task). The
        interval's bootstrap draws units with replacement from all tasks at once, each with the
        differences of all its levels and its weight in the mean over rows; tasks are not drawn.
    """
    blocks: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for result in results:
        if result.seed_means:
            blocks[block_of(result)].append(result)
    pairs = [pair for block in blocks.values() for pair in _pairs(block) if pair.differences]
    return _compare_rows(pairs), _pool(pairs)


def shared_results(results: Sequence[Result]) -> list[Result]:
    """Return one result of each method that a sweep does not change."""
    return [results[index] for index in sorted(_repeats(results))]


def _repeats(results: Sequence[Result], *, of_experiment: bool = False) -> dict[int, list[int]]:
    columns: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, result in enumerate(results):
        experiment = experiment_part(result.swept) if of_experiment else ""
        columns[block_of(result), result.column, experiment].append(index)
    return {
        first: others
        for first, *others in columns.values()
        if results[first].seed_means and others
        and all(results[other].scores == results[first].scores for other in others)
    }  # fmt: skip


def _pairs(block: Sequence[Result]) -> Iterator[Pair]:
    repeats = _repeats(block, of_experiment=True)
    copies = set(itertools.chain(*repeats.values()))
    # What stays the same in all variants of an experiment has none.
    parts = [experiment_part(result.swept) for result in block]
    experiments = {part: part for part in parts}
    variants: dict[str, list[Result]] = {name: [] for name in experiments}
    for index, (result, part) in enumerate(zip(block, parts, strict=True)):
        experiments.setdefault(result.variant, part)
        if index not in copies:
            name = part if index in repeats else result.variant
            variants.setdefault(name, []).append(result)
    for variant, members in variants.items():
        experiment = experiments[variant]
        common = variants[experiment] if variant != experiment else []
        for pair in (*itertools.product(common, members), *itertools.combinations(members, 2)):
            a, b = sorted(pair, key=lambda item: RANK.get(item.method, 0))
            if a.column != b.column and a.test_sha == b.test_sha:
                yield Pair(a.column, b.column, variant, a, b, seed_differences(a, b))
    yield from _variant_pairs([row for index, row in enumerate(block) if index not in copies])


def _variant_pairs(results: Sequence[Result]) -> Iterator[Pair]:
    """Yield the pairs of a variant and the first one of its method, and the like of experiments."""
    firsts: dict[tuple[str, ...], Result] = {}
    for result in results:
        first = firsts.setdefault((result.column, experiment_part(result.swept)), result)
        if first is result:  # of its experiment
            first = firsts.setdefault((result.column,), result)
            if first.scores == result.scores:
                continue
        if first.variant != result.variant and first.test_sha == result.test_sha:
            name, of_first = (f"{item.column} ({item.variant})" for item in (result, first))
            yield Pair(name, of_first, "", result, first, seed_differences(result, first))


def seed_differences(a: Result, b: Result) -> dict[Subsample, float]:
    """Return a - b for each subsample of both; its trials are averaged first."""
    return {
        subsample: mean - b.seed_means[subsample]
        for subsample, mean in a.seed_means.items()
        if subsample in b.seed_means
    }


def _compare_rows(pairs: Sequence[Pair]) -> pd.DataFrame:
    rows = [list(pair.differences.values()) for pair in pairs]
    statistics = zip(
        pairs, rows, by_length(intervals, rows), by_length(wilcoxon_p, rows), strict=True
    )
    names = [
        {
            "a": pair.a, "b": pair.b, "task": pair.result.task, "variant": pair.variant,
            "level": pair.result.level, "classifier": pair.result.classifier,
            "n_pairs": len(row), "diff": sum(row) / len(row), "ci": ci, "p_wilcoxon": p_wilcoxon,
        }
        for pair, row, ci, p_wilcoxon in statistics
    ]  # fmt: skip
    return _with_tests(names, rows)


def _pool(pairs: Sequence[Pair]) -> pd.DataFrame:
    pools: dict[tuple[str, str, str, str], list[Pair]] = defaultdict(list)
    for pair in pairs:
        pools[pair.result.classifier, pair.a, pair.b, pair.variant].append(pair)
    several = {names: members for names, members in pools.items() if len(members) > 1}
    parts = [_pooled_units(members) for members in several.values()]
    units = [[difference for difference, _ in part] for part in parts]
    limits = by_length(lambda rows: intervals(rows[..., 0], rows[..., 1]), parts)
    return _with_tests(list(map(_pooled, several, several.values(), units, limits)), units)


def _pooled_units(pairs: Sequence[Pair]) -> list[tuple[float, float]]:
    """Return the weighted difference and the weight of each (task, data seed).

    Levels of a data seed share rows: they flip, and are drawn, together. The differences sum to the
    mean over rows, the weights to 1; weights differ where rows have unequal numbers of data seeds.
    """
    units: dict[tuple[str, int], tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for pair in pairs:
        weight = 1 / len(pair.differences) / len(pairs)
        for (seed, _), difference in pair.differences.items():
            total, weights = units[pair.result.task, seed]
            units[pair.result.task, seed] = total + difference * weight, weights + weight
    return list(units.values())


def _pooled(
    names: tuple[str, str, str, str],
    pairs: Sequence[Pair],
    units: Sequence[float],
    ci: tuple[float, float] | None,
) -> dict[str, Any]:
    tasks: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        tasks[pair.result.task].append(fmean(pair.differences.values()))
    margins = [_shown_mean(pair.result) - _shown_mean(pair.other) for pair in pairs]
    of_tasks = [fmean(values) for values in tasks.values()]
    return {
        **dict(zip(("classifier", "a", "b", "variant"), names, strict=True)),
        "tasks": len(tasks), "rows": len(pairs), "units": len(units),
        "wins": sum(margin > 0 for margin in margins), "ties": margins.count(0),
        "losses": sum(margin < 0 for margin in margins), "diff": sum(units), "ci": ci,
        "min_diff": min(of_tasks), "max_diff": max(of_tasks),
    }  # fmt: skip


def _shown_mean(result: Result) -> float:
    return float(f"{100 * (result.mean or 0):.1f}")


def _with_tests(
    names: Sequence[Mapping[str, Any]], differences: Sequence[Sequence[float]]
) -> pd.DataFrame:
    """Return a table with the permutation test of each row's differences; None if there is none."""
    p = by_length(permutation_p, differences)
    corrected, units = holm(p), list(map(len, differences))
    tests = {
        "p": p, "p_corrected": corrected, "smallest_p": list(map(smallest_p, units)),
        "stars": list(map(significance_stars, units, corrected)),
    }  # fmt: skip
    return pd.concat([pd.DataFrame(table, dtype=object) for table in (names, tests)], axis=1)


def with_gains(results: Sequence[Result]) -> list[Result]:
    """Return the results with their gain over no augmentation; None if there are two of these."""
    baselines: dict[tuple[Any, str], list[Result]] = defaultdict(list)
    for result in results:
        if result.method == "none" and result.seed_means:
            baselines[block_of(result), result.variant].append(result)
    return [
        replace(result, gain=_gain(result, baselines[block_of(result), result.variant]))
        for result in results
    ]


def _gain(result: Result, baselines: Sequence[Result]) -> float | None:
    if result.method == "none" or len(baselines) != 1 or baselines[0].test_sha != result.test_sha:
        return None
    differences = seed_differences(result, baselines[0]).values()
    return sum(differences) / len(differences) if differences else None


def average_over_tasks(results: Sequence[Result]) -> pd.DataFrame:
    """Return each column's mean over the tasks of a level; none if there is a single task.

    Returns:
        variant, level, classifier, column, tasks, all_tasks, mean. Only averages over all tasks
        (`tasks == all_tasks`) can be compared with each other.
    """
    names = ["variant", "level", "classifier", "column"]
    rows = pd.DataFrame(map(attrgetter(*names, "task", "mean"), results))
    rows = rows.set_axis([*names, "task", "mean"], axis=1).astype({"mean": float})
    rows["all_tasks"] = rows.groupby(["level", "classifier"])["task"].transform("nunique")
    known = rows[(rows["all_tasks"] > 1) & rows["mean"].notna()]
    return known.groupby(names, sort=False, as_index=False).agg(
        tasks=("task", "size"), all_tasks=("all_tasks", "first"), mean=("mean", "mean")
    )
