"""Results -> comparisons: pairs of columns in each row, the same pairs over all rows, and gains.

Within a variant every method is compared with every other; the variants of a method are compared
with the first one of the sweep. A method whose trials are equal in all variants takes part once.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from .model import Comparison, PooledComparison, Result, Subsample, TaskAverage
from .statistics import holm, intervals, permutation_p, smallest_p, wilcoxon_p

Indexed = tuple[int, Result]  # a result and its index among all
RANK = {"gpt3mix": -1, "none": 1}  # the method of the paper is `a`, no augmentation is `b`


@dataclass(frozen=True)
class Pair:
    """Two results of a row that can be compared.

    Attributes:
        result: the first one.
        other: the second one.
        names: the columns a and b, and the variant of both.
        differences: subsample of both -> difference of the mean accuracies.
    """

    result: Result
    other: Result
    names: tuple[str, str, str]
    differences: Mapping[Subsample, float]


def compare_results(
    results: Sequence[Result],
) -> tuple[list[Comparison], list[PooledComparison]]:
    """Return the comparisons within each row, and those over all rows."""
    pairs = [pair for block in _blocks(results) for pair in _pairs(block) if pair.differences]
    return _compare_rows(pairs), _pool(pairs)


def _blocks(results: Iterable[Result]) -> list[list[Indexed]]:
    """Return the results with trials, grouped by task, level and classifier."""
    blocks: dict[tuple[str, str, str], list[Indexed]] = defaultdict(list)
    for index, result in enumerate(results):
        if result.seed_means:
            blocks[result.task, result.level, result.classifier].append((index, result))
    return list(blocks.values())


def shared_results(results: Sequence[Result]) -> list[Result]:
    """Return one result of each method that a sweep does not change."""
    return [results[index] for index in sorted(_repeats(enumerate(results)))]


def _repeats(results: Iterable[Indexed]) -> dict[int, list[int]]:
    """Return the first result of each method that is equal in all variants, with its repeats."""
    alike: dict[tuple[str, str, str, str], list[Indexed]] = defaultdict(list)
    for index, result in results:
        key = result.task, result.level, result.classifier, result.column
        alike[key].append((index, result))
    repeats = {}
    for (index, first), *others in alike.values():
        equal = [other for other, result in others if result.scores == first.scores]
        if first.seed_means and others and len(equal) == len(others):
            repeats[index] = equal
    return repeats


def _pairs(block: Sequence[Indexed]) -> Iterator[Pair]:
    """Yield what is compared within a task, level and classifier."""
    repeats = _repeats(block)
    copies = {copy for others in repeats.values() for copy in others}
    # What stays the same in all variants has none.
    variants: dict[str, list[Result]] = {"": []}
    originals = []
    for index, result in block:
        if index not in copies:
            variant = "" if index in repeats else result.variant
            variants.setdefault(variant, []).append(result)
            originals.append((variant, result))
    common = variants.pop("")
    yield from _pairs_within("", common, [])
    for variant, members in variants.items():
        yield from _pairs_within(variant, members, common)
    firsts: dict[str, tuple[str, Result]] = {}
    for variant, result in originals:
        first_variant, first = firsts.setdefault(result.column, (variant, result))
        if variant != first_variant and first.test_sha == result.test_sha:
            a, b = (f"{result.column} ({item.variant})" for item in (result, first))
            yield _pair(result, first, (a, b, ""))


def _pairs_within(
    variant: str, members: Sequence[Result], common: Sequence[Result]
) -> Iterator[Pair]:
    """Yield each pair of a variant's results, and of these with the results of all variants."""
    every = [*common, *members]
    for index, result in enumerate(every):
        for other in every[max(index + 1, len(common)) :]:
            if result.column != other.column and result.test_sha == other.test_sha:
                a, b = sorted((result, other), key=lambda item: RANK.get(item.method, 0))
                yield _pair(a, b, (a.column, b.column, variant))


def _pair(a: Result, b: Result, names: tuple[str, str, str]) -> Pair:
    return Pair(a, b, names, seed_differences(a, b))


def seed_differences(a: Result, b: Result) -> dict[Subsample, float]:
    """Return a - b for each subsample of both; its trials are averaged first."""
    return {
        subsample: mean - b.seed_means[subsample]
        for subsample, mean in a.seed_means.items()
        if subsample in b.seed_means
    }


def _by_length(
    rows: Sequence[Sequence[float]],
) -> Iterable[tuple[list[int], list[Sequence[float]]]]:
    """Yield the indexes of equally many values, more than one, and these values."""
    indexes: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        indexes[len(row)].append(index)
    for length, chosen in indexes.items():
        if length > 1:
            yield chosen, [rows[index] for index in chosen]


def _compare_rows(pairs: Sequence[Pair]) -> list[Comparison]:
    differences = [list(pair.differences.values()) for pair in pairs]
    limits: dict[int, list[float]] = {}
    p: dict[int, float] = {}
    ranks: dict[int, float] = {}
    for indexes, values in _by_length(differences):
        limits |= zip(indexes, intervals(values).tolist(), strict=True)
        p |= zip(indexes, permutation_p(values).tolist(), strict=True)
        ranks |= zip(indexes, wilcoxon_p(values).tolist(), strict=True)
    corrected = dict(zip(p, holm(list(p.values())), strict=True))
    comparisons = []
    for index, (pair, own) in enumerate(zip(pairs, differences, strict=True)):
        result, (a, b, variant) = pair.result, pair.names
        low, high = limits.get(index, (None, None))
        comparisons.append(Comparison(
            a=a, b=b, task=result.task, variant=variant, level=result.level,
            classifier=result.classifier, n_pairs=len(own), diff=sum(own) / len(own),
            ci=None if low is None or high is None else (low, high), p=p.get(index),
            p_wilcoxon=ranks.get(index), p_corrected=corrected.get(index),
            smallest_p=smallest_p(len(own)),
        ))  # fmt: skip
    return comparisons


def _pool(pairs: Sequence[Pair]) -> list[PooledComparison]:
    """Return each pair that several rows have, over all of them."""
    rows: dict[tuple[str, str, str, str], list[Pair]] = defaultdict(list)
    for pair in pairs:
        rows[pair.result.classifier, *pair.names].append(pair)
    pools = {names: members for names, members in rows.items() if len(members) > 1}
    units = [_pooled_units(members) for members in pools.values()]
    p: dict[int, float] = {}
    for indexes, values in _by_length(units):
        p |= zip(indexes, permutation_p(values).tolist(), strict=True)
    corrected = dict(zip(p, holm(list(p.values())), strict=True))
    return [
        replace(
            _pooled(names, members, units[index]), p=p.get(index), p_corrected=corrected.get(index)
        )
        for index, (names, members) in enumerate(pools.items())
    ]


def _pooled_units(pairs: Sequence[Pair]) -> list[float]:
    """Return the difference of each (task, data seed): levels share its rows and flip together."""
    units: dict[tuple[str, int], float] = defaultdict(float)
    for pair in pairs:
        for (seed, _), difference in pair.differences.items():
            key = pair.result.task, seed
            units[key] += difference / len(pair.differences) / len(pairs)
    return list(units.values())


def _pooled(
    names: tuple[str, str, str, str], pairs: Sequence[Pair], units: Sequence[float]
) -> PooledComparison:
    """Return a pooled comparison without its p-values."""
    classifier, a, b, variant = names
    tasks: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        tasks[pair.result.task].append(fmean(pair.differences.values()))
    margins = [_shown_mean(pair.result) - _shown_mean(pair.other) for pair in pairs]
    of_tasks = [fmean(values) for values in tasks.values()]
    return PooledComparison(
        a=a, b=b, variant=variant, classifier=classifier, tasks=len(tasks), rows=len(pairs),
        units=len(units), wins=sum(margin > 0 for margin in margins), ties=margins.count(0),
        losses=sum(margin < 0 for margin in margins), diff=sum(units), min_diff=min(of_tasks),
        max_diff=max(of_tasks), p=None, p_corrected=None, smallest_p=smallest_p(len(units)),
    )  # fmt: skip


def _shown_mean(result: Result) -> float:
    """Return a mean as tables show it."""
    return float(f"{100 * (result.mean or 0):.1f}")


def with_gains(results: Sequence[Result]) -> list[Result]:
    """Return the results with their gain over no augmentation; None if there are two of these."""
    gains: dict[int, float] = {}
    for block in _blocks(results):
        baselines: dict[str, list[Result]] = defaultdict(list)
        for _, result in block:
            if result.method == "none":
                baselines[result.variant].append(result)
        for index, result in block:
            partners = baselines[result.variant]
            if result.method == "none" or len(partners) != 1:
                continue
            differences = seed_differences(result, partners[0])
            if differences and partners[0].test_sha == result.test_sha:
                gains[index] = sum(differences.values()) / len(differences)
    return [
        replace(result, gain=gains[index]) if index in gains else result
        for index, result in enumerate(results)
    ]


def average_over_tasks(results: Sequence[Result]) -> list[TaskAverage]:
    """Return each column's mean over the tasks of a level; none if there is a single task."""
    tasks: dict[tuple[str, str], set[str]] = defaultdict(set)
    means: dict[tuple[str, str, str, str], dict[str, float]] = defaultdict(dict)
    for result in results:
        tasks[result.level, result.classifier].add(result.task)
        if result.mean is not None:
            key = result.variant, result.level, result.classifier, result.column
            means[key][result.task] = result.mean
    averages = []
    for (variant, level, classifier, column), of_tasks in means.items():
        count = len(tasks[level, classifier])
        if count > 1:
            mean = sum(of_tasks.values()) / len(of_tasks)
            averages.append(
                TaskAverage(variant, level, classifier, column, len(of_tasks), count, mean)
            )
    return averages
