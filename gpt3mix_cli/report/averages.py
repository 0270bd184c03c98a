"""Trials -> results: means, standard deviations and intervals of each cell's method and classifier.

Trials that ran with different settings, test rows or versions are never averaged: each
combination is a result of its own, named by what it is split by.
"""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

from ..layout import variant_name
from ..records import Trial
from .model import ExpectedTrials, Result
from .statistics import components, intervals

if TYPE_CHECKING:
    from pandas import DataFrame, Series

Key = tuple[str, str, str, str, str]
KEY = ["task", "variant", "level", "classifier", "method"]
# Columns by which the trials of a key are split, and how messages name them.
SPLIT = {"settings": "settings", "test_sha": "test rows", "version": "version"}
SUBSAMPLE = ["data_seed", "train_sha"]
HASH_CHARACTERS = 6  # of a hash in a heading; a version is written whole
# The numbers that trials and results both have are averaged.
AVERAGED = [
    item.name
    for item in fields(Result)
    if item.name in Trial.model_fields and Trial.model_fields[item.name].annotation not in (
        str, str | None, dict[str, Any]
    )
]  # fmt: skip


class Part(NamedTuple):
    """The trials of one result.

    Attributes:
        key: task, variant, level, classifier, method.
        split_by: what distinguishes it from other parts of the same key.
        group: number of its group of trials; None if an expected file has no trial.
    """

    key: Key
    split_by: str | None
    group: int | None


def average_trials(
    trials: "DataFrame", expected: Sequence[ExpectedTrials]
) -> "tuple[DataFrame, list[Result]]":
    """Return the trials in the order of their results, and the results.

    Args:
        trials: as `load_trials` returns them.
        expected: what configs ask for. They set the order of the results; without them results
            are ordered by task, level and method.

    Returns:
        The trials with a column `result`, the index of each trial's result, and the results,
        those of expected files without a trial included.
    """
    asked: dict[Key, int] = {}
    swept = dict(trials.drop_duplicates("variant")[["variant", "swept"]].itertuples(index=False))
    for item in expected:
        name = variant_name(item.variant)
        swept[name] = item.variant
        key = (item.task, name, item.level, item.classifier, item.method)
        asked[key] = asked.get(key, 0) + item.trials
    group = trials.groupby([*KEY, *SPLIT], sort=False, dropna=False).ngroup()
    firsts = trials.assign(group=group)[~group.duplicated()].set_index("group")
    parts = list(_parts(firsts, asked))
    index_of = {part.group: index for index, part in enumerate(parts) if part.group is not None}
    ordered = trials.assign(result=group.map(index_of)).sort_values("result", kind="stable")
    ordered = ordered.reset_index(drop=True)
    values = _average(ordered, len(parts))
    constant = dict(zip(firsts.index, _as_objects(firsts[list(SPLIT)]), strict=True))
    results = []
    for part, averages in zip(parts, values, strict=True):
        same = {"settings": None} if part.group is None else constant[part.group]
        names: dict[str, Any] = dict(zip(KEY, part.key, strict=True))
        results.append(Result(
            **names, **same, **averages, split_by=part.split_by, expected=asked.get(part.key),
            swept=swept.get(part.key[1], {}),
        ))  # fmt: skip
    return ordered, results


def _parts(firsts: "DataFrame", asked: Iterable[Key]) -> Iterable[Part]:
    """Yield the parts of each key in the order of the report.

    Args:
        firsts: the first trial of each group.
        asked: the keys of a config, in its order.
    """
    groups: dict[Key, list[int]] = {key: [] for key in asked}
    ordered = bool(groups)
    for number, *key in firsts[KEY].itertuples(name=None):
        groups.setdefault(tuple(key), []).append(number)
    for key in groups if ordered else sorted(groups, key=_sort_key):
        if not groups[key]:
            yield Part(key, None, None)
        columns = firsts.loc[groups[key], list(SPLIT)] if len(groups[key]) > 1 else None
        for number in groups[key]:
            yield Part(key, _split_by(columns, number), number)


def _split_by(columns: "DataFrame | None", number: int) -> str | None:
    """Return in what a part of a key differs from the others; None if it is the only one."""
    if columns is None:
        return None
    words = []
    for name, title in SPLIT.items():
        if columns[name].nunique(dropna=False) > 1:
            value = columns.loc[number, name]
            text = value if isinstance(value, str) else "unknown"
            words.append(f"{title} {text if name == 'version' else text[:HASH_CHARACTERS]}")
    return ", ".join(words)


def _sort_key(key: Key) -> tuple[Any, ...]:
    """Return where a result is without a config: levels by size, no augmentation first."""
    task, variant, level, classifier, method = key
    number = level.rstrip("%").removesuffix("/class")
    size = float(number) if number.replace(".", "", 1).isdigit() else 0.0
    kind = 2 if level == "full" else int(level.endswith("/class"))
    rank = {"none": 0, "gpt3mix": 1}.get(method, 2)
    return task, variant, kind, size, level, classifier, rank, method


def _average(trials: "DataFrame", count: int) -> list[dict[str, Any]]:
    """Return the averages of each of `count` results, all results at once."""
    import pandas as pd

    succeeded = trials[(trials["status"] == "ok") & trials["accuracy"].notna()]
    columns = succeeded[["result", *SUBSAMPLE]].join(
        succeeded[["accuracy", *AVERAGED]].astype("float64")
    )
    by_result = columns.groupby("result")
    averages = by_result[["accuracy", *AVERAGED]].mean().rename(columns={"accuracy": "mean"})
    averages["std"] = by_result["accuracy"].std()
    by_unit = columns.groupby(["result", *SUBSAMPLE], sort=False, dropna=False)["accuracy"]
    units = by_unit.agg(["sum", "size"]).reset_index()
    parts = _components(columns["accuracy"], by_unit.ngroup(), units)
    averages = averages.join(parts).reindex(range(count))
    every = trials.groupby("result")
    counts = pd.DataFrame({
        "n": by_result.size(),
        "failed": every.size().sub(by_result.size(), fill_value=0),
        "data_seeds": units.groupby("result").size(),
        "one_class": (trials["predicted_classes"] == 1).groupby(trials["result"]).sum(),
    })  # fmt: skip
    counts = counts.reindex(range(count)).fillna(0).astype(int)
    classes = every["classes"].first().reindex(range(count))
    values = _as_objects(averages.join(counts).assign(classes=classes))
    units["mean"] = units["sum"] / units["size"]
    means = _mappings(units, SUBSAMPLE, "mean", count)
    scores = _mappings(trials, ["data_seed", "trial"], "accuracy", count)
    for index, ci in enumerate(_intervals(units, count)):
        values[index] |= {"ci": ci, "seed_means": means[index], "scores": scores[index]}
    return values


def _components(
    accuracies: "Series[float]", unit_of: "Series[int]", units: "DataFrame"
) -> "DataFrame":
    """Return the standard deviations between and within the data seeds of each result."""
    import pandas as pd

    index_of, results = pd.factorize(units["result"])
    if units.empty:
        return pd.DataFrame(columns=["between", "within"], dtype=float)
    between, within = components(accuracies.to_numpy(), unit_of.to_numpy(), index_of)
    return pd.DataFrame({"between": between, "within": within}, index=results)


def _intervals(units: "DataFrame", count: int) -> list[tuple[float, float] | None]:
    """Return the interval of each result, those of equally many data seeds at once."""
    limits: list[tuple[float, float] | None] = [None] * count
    sizes = units.groupby("result")["size"].transform("size")
    for size, rows in units.groupby(sizes):
        if size > 1:
            sums = rows["sum"].to_numpy().reshape(-1, size)
            counts = rows["size"].to_numpy(dtype=float).reshape(-1, size)
            ends = intervals(sums, counts).tolist()
            for index, (low, high) in zip(rows["result"].iloc[::size], ends, strict=True):
                limits[index] = (low, high)
    return limits


def _mappings(
    rows: "DataFrame", keys: Sequence[str], value: str, count: int
) -> list[dict[tuple[Any, ...], Any]]:
    """Return, for each result, the values of its rows by two keys."""
    mappings: list[dict[tuple[Any, ...], Any]] = [{} for _ in range(count)]
    columns = [_or_none(rows[name]) for name in ("result", *keys, value)]
    for index, *key, number in zip(*columns, strict=True):
        mappings[index][tuple(key)] = number
    return mappings


def _or_none(column: "Series[Any]") -> list[Any]:
    """Return a column as Python's values, None for what is missing."""
    values: list[Any] = column.astype(object).where(column.notna(), None).tolist()
    return values


def _as_objects(table: "DataFrame") -> list[dict[str, Any]]:
    """Return the rows of a table, None for what is missing."""
    names = list(table.columns)
    columns = [_or_none(table[name]) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
