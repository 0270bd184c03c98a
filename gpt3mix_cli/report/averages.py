"""Trials -> results: means, standard deviations and intervals of each cell's method and classifier.

Trials that ran with different settings, test rows or versions are never averaged: each
combination is a result of its own, named by what it is split by.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd

from ..layout import variant_name
from ..records import Trial
from ..settings import fingerprint
from .experiments import EXPERIMENT
from .model import ExpectedTrials, Result
from .statistics import by_length, components, intervals, with_test_rows

Key = tuple[str, str, str, str, str]
KEY = ["task", "variant", "level", "classifier", "method"]
# Columns by which the trials of a key are split, and how messages name them.
SPLIT = {"settings": "settings", "test_sha": "test rows", "version": "version"}
SUBSAMPLE = ["data_seed", "train_sha"]
MIN_FOLDS = 3  # two data seeds with other test rows may be two versions of the data
HASH_CHARACTERS = 6  # of a hash in a heading; a version is written whole
# The numbers that trials and results both have are averaged.
AVERAGED = [
    item.name
    for item in fields(Result)
    if item.name in Trial.model_fields and Trial.model_fields[item.name].annotation not in (
        str, str | None, dict[str, Any]
    )
]  # fmt: skip


def average_trials(
    trials: pd.DataFrame, expected: Sequence[ExpectedTrials]
) -> tuple[pd.DataFrame, list[Result]]:
    """Return the trials in the order of their results, and the results.

    Args:
        trials: as `load_trials` returns them.
        expected: what configs ask for. They set the order of the results; without them results
            are ordered by task, level and method.

    Returns:
        The trials with a column `result`, the index of each trial's result, and the results,
        those of expected files without a trial included.
    """
    trials = merge_folds(trials)
    asked: dict[Key, int] = {}
    papers: dict[Key, tuple[int, str] | None] = {}
    swept = dict(trials.drop_duplicates("variant")[["variant", "swept"]].itertuples(index=False))
    for item in expected:
        name = variant_name(item.variant)
        swept[name] = item.variant
        key = (item.task, name, item.level, item.classifier, item.method)
        asked[key] = asked.get(key, 0) + item.trials
        papers[key] = item.paper
    group = trials.groupby([*KEY, *SPLIT], sort=False, dropna=False).ngroup()
    firsts = trials.assign(group=group)[~group.duplicated()].set_index("group")
    groups: dict[Key, list[int | None]] = {key: [] for key in asked}
    for number, *names in firsts[KEY].itertuples(name=None):
        groups.setdefault(tuple(names), []).append(number)
    keys = groups if asked else sorted(groups, key=_sort_key)
    # A key of an expected file without a trial has a result too.
    parts = [(key, number) for key in keys for number in (groups[key] or [None])]
    index_of = {number: index for index, (_, number) in enumerate(parts) if number is not None}
    ordered = trials.assign(result=group.map(index_of))
    ordered = ordered.sort_values("result", kind="stable", ignore_index=True)
    same: dict[int | None, dict[str, Any]] = {None: {"settings": None}}
    same |= with_none(firsts[list(SPLIT)]).to_dict("index")
    results = []
    for (key, number), averages in zip(parts, _average(ordered, len(parts)), strict=True):
        named: dict[str, Any] = dict(zip(KEY, key, strict=True))
        split_by = _split_by(firsts.loc[groups[key]], number) if len(groups[key]) > 1 else None
        results.append(Result(
            **named, **same[number], **averages, split_by=split_by, expected=asked.get(key),
            swept=swept.get(key[1], {}), paper=papers.get(key),
        ))  # fmt: skip
    return ordered, results


def merge_folds(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials, those of a cross-validation with common test rows and settings.

    With `task.data.folds: K` the data seed s is tested on fold s mod K, and a fold's validation
    rows are part of its settings. A task is cross-validated if each of its data seeds has test
    rows of its own, the same for all methods, and there are three folds or more.

    Returns:
        the trials with the further column `own_test_sha`, the hash of a trial's own test rows.
    """
    trials = trials.assign(own_test_sha=trials["test_sha"])
    experiment = trials["swept"].map(lambda swept: swept.get(EXPERIMENT, ""))
    for _, rows in trials.dropna(subset="test_sha").groupby(["task", experiment]):
        folds = rows["test_sha"].nunique()
        pairs = set(zip(rows["data_seed"] % folds, rows["test_sha"], strict=True))
        if folds < MIN_FOLDS or len(pairs) != folds or len({fold for fold, _ in pairs}) != folds:
            continue
        by_key = rows.groupby([*KEY, "data_seed"], sort=False, dropna=False)["settings"]
        if by_key.nunique(dropna=False).max() > 1:
            continue  # a part of the trials ran with other settings
        common = fingerprint(sorted(rows["test_sha"].unique()))
        first = rows.groupby([*KEY, "version"], dropna=False)["settings"].transform("first")
        trials.loc[rows.index, "test_sha"] = common
        trials.loc[rows.index, "settings"] = first
    return trials


def _split_by(firsts: pd.DataFrame, number: int | None) -> str:
    """Return in what a group of trials differs from the others of its key.

    Args:
        firsts: the first trial of each group.
        number: of the group.
    """
    words = []
    for name, title in SPLIT.items():
        if firsts[name].nunique(dropna=False) > 1:
            value = firsts.loc[number, name]
            text = value if isinstance(value, str) else "unknown"
            words.append(f"{title} {text if name == 'version' else text[:HASH_CHARACTERS]}")
    return ", ".join(words)


def _sort_key(key: Key) -> tuple[Any, ...]:
    task, variant, level, classifier, method = key
    number = level.rstrip("%").removesuffix("/class")
    size = float(number) if number.replace(".", "", 1).isdigit() else 0.0
    kind = 2 if level == "full" else int(level.endswith("/class"))
    rank = {"none": 0, "gpt3mix": 1}.get(method, 2)
    return task, variant, kind, size, level, classifier, rank, method


def _average(trials: pd.DataFrame, count: int) -> list[dict[str, Any]]:
    succeeded = trials[(trials["status"] == "ok") & trials["accuracy"].notna()]
    columns = succeeded[["result", *SUBSAMPLE]].join(
        succeeded[["accuracy", *AVERAGED]].astype("float64")
    )
    by_result = columns.groupby("result")
    averages = by_result[["accuracy", *AVERAGED]].mean().rename(columns={"accuracy": "mean"})
    averages["std"] = by_result["accuracy"].std()
    by_unit = columns.groupby(["result", *SUBSAMPLE], sort=False, dropna=False)["accuracy"]
    units = by_unit.agg(["sum", "size"]).reset_index()
    result_of, _ = pd.factorize(units["result"])
    averages["between"], averages["within"] = components(
        columns["accuracy"].to_numpy(), by_unit.ngroup().to_numpy(), result_of
    )
    every = trials.groupby("result")
    counts = pd.DataFrame({
        "n": by_result.size(),
        "failed": every.size().sub(by_result.size(), fill_value=0),
        "data_seeds": units.groupby("result").size(),
        "one_class": (trials["predicted_classes"] == 1).groupby(trials["result"]).sum(),
    })  # fmt: skip
    counts = counts.reindex(range(count)).fillna(0).astype(int)
    counts["classes"] = every["classes"].first()
    table = with_none(averages.reindex(range(count)).join(counts))
    values: list[dict[str, Any]] = table.to_dict("records")
    units["mean"] = units["sum"] / units["size"]
    means = _mappings(units, SUBSAMPLE, "mean", count)
    scores = _mappings(trials, ["data_seed", "trial"], "accuracy", count)
    ends = counts["data_seeds"].cumsum()[:-1]
    of_results = np.split(units[["sum", "size"]].to_numpy(dtype=float), ends)
    limits = by_length(lambda parts: intervals(parts[..., 0], parts[..., 1]), of_results)
    tested = succeeded.drop_duplicates(["result", "own_test_sha"]).groupby("result")["n_test"].sum()
    tested = tested.reindex(range(count))
    has_folds = succeeded["own_test_sha"].notna() & (
        succeeded["own_test_sha"] != succeeded["test_sha"]
    )
    merged = has_folds.groupby(succeeded["result"]).any().reindex(range(count), fill_value=False)
    limits = _with_test_rows(table["mean"], tested, limits, merged)
    totals = with_none(tested.to_frame())["n_test"]
    for row, *objects in zip(values, limits, totals, means, scores, strict=True):
        row |= zip(("ci", "tested", "seed_means", "scores"), objects, strict=True)
    return values


def _with_test_rows(
    mean: "pd.Series[float]",
    tested: "pd.Series[float]",
    limits: Sequence[tuple[float, float] | None],
    merged: "pd.Series[bool]",
) -> list[tuple[float, float] | None]:
    """Return intervals over data seeds and test rows; None for a result without a trial.

    Args:
        mean: of each result.
        tested: test rows of each result.
        limits: intervals over data seeds.
        merged: whether the trials are of a cross-validation.
    """
    means, counts = (column.astype(float).to_numpy() for column in (mean, tested))
    over_seeds = np.array([item or (np.nan, np.nan) for item in limits], dtype=float)
    combined = with_test_rows(means, over_seeds.reshape(-1, 2), counts, merged.to_numpy())
    return [None if np.isnan(low) else (float(low), float(high)) for low, high in combined]


def _mappings(
    rows: pd.DataFrame, keys: Sequence[str], value: str, count: int
) -> list[dict[tuple[Any, ...], Any]]:
    """Return, for each result, the values of its rows by two keys."""
    mappings: list[dict[tuple[Any, ...], Any]] = [{} for _ in range(count)]
    columns = with_none(rows[["result", *keys, value]])
    for index, *key, number in columns.itertuples(index=False, name=None):
        mappings[index][tuple(key)] = number
    return mappings


def with_none(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of Python's values, None for what is missing."""
    return table.astype(object).where(table.notna(), None)
