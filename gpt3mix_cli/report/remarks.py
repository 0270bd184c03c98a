"""What a reader of a report must know: missing and failed trials, splits, and which seeds vary."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pandas import DataFrame

from ..records import read_manifest
from .averages import KEY
from .load_trials import CELL, METHOD
from .model import Result

MAX_KEYS = 5  # named where settings differ
MAX_VALUE_LENGTH = 40  # characters of a setting
# They change how many trials there are, not what a trial does.
IGNORED_SETTINGS = {"trials", "master_seed"}


def find_remarks(results: Sequence[Result], trials: DataFrame) -> Iterable[str]:
    """Yield what is missing, failed, split, unequal, or has learnt nothing.

    Args:
        results: all of them.
        trials: with the column `result`.
    """
    split = trials[trials["result"].isin([i for i, row in enumerate(results) if row.split_by])]
    paths = split.groupby("result")["path"].unique()
    for index, result in enumerate(results):
        present = result.n + result.failed
        if result.expected is not None and present < result.expected:
            yield f"{result.title}: {present} of {result.expected} trials exist"
        if result.failed:
            yield f"{result.title}: {result.failed} trials failed and are left out of the mean"
        if result.tokens_per_prediction is not None:
            yield (
                f"{result.title}: each prediction costs {result.tokens_per_prediction:,.0f} tokens "
                "of the LM; a trained classifier uses none"
            )
        if result.split_by:
            folder = os.path.commonpath([path.parent for path in paths[index]])
            yield (
                f"{result.title}: trials with different settings, test rows or versions are not "
                f"averaged (split by {result.split_by}; {folder})"
            )
    yield from _different_settings(results, paths.str[0].to_dict())
    folds = trials[trials["own_test_sha"] != trials["test_sha"]].dropna(subset="own_test_sha")
    for task, rows in folds.groupby("task", sort=False):
        yield (
            f"{task}: cross-validation over {rows['own_test_sha'].nunique()} folds: each data seed "
            "has test rows of its own"
        )
    yield from _partial_tests(trials)
    yield from find_shortages(trials)
    yield from _chosen_weights(trials)
    if len(one_class := trials[trials["predicted_classes"] == 1]):
        row = one_class.iloc[0]
        yield (
            f"{len(one_class)} trials predict one class only, such as {row.method} + "
            f"{row.classifier}, data seed {row.data_seed}, trial {row.trial}"
        )


def _partial_tests(trials: DataFrame) -> Iterator[str]:
    """Yield which tasks were tested on a part of their test rows."""
    parts = trials[trials["n_test_all"].notna()]
    for task, rows in parts.groupby("task", sort=False):
        part, whole = span_text(rows["n_test"]), span_text(rows["n_test_all"])
        yield (
            f"{task}: tested on {part} of {whole} test rows (subsample.test), so these are not "
            "final values"
        )


def _chosen_weights(trials: DataFrame) -> Iterator[str]:
    """Yield which weights `synthetic_weight: auto` chose, for each method and classifier."""
    chosen = trials[trials["synthetic_weight"].notna()]
    for (variant, method, classifier), rows in chosen.groupby(["variant", *METHOD], sort=False):
        counts = rows["synthetic_weight"].value_counts().sort_index()
        weights = ", ".join(f"{weight:g} in {count}" for weight, count in counts.items())
        of_variant = f" ({variant})" if variant else ""
        yield f"{method} + {classifier}{of_variant}: chose synthetic_weight {weights} trials"


def _different_settings(results: Sequence[Result], paths: Mapping[int, Any]) -> Iterable[str]:
    """Yield the keys in which split settings differ, if the manifests of the trials exist.

    Args:
        results: all of them.
        paths: index of a split result -> its first trials file.
    """
    parts: dict[tuple[str, ...], list[int]] = {}
    for index, result in enumerate(results):
        if result.split_by and "settings" in result.split_by:
            key = tuple(getattr(result, name) for name in KEY)
            parts.setdefault(key, []).append(index)
    for indexes in parts.values():
        manifests = [read_manifest(paths[index]) for index in indexes]
        settings = [_flatten(manifest.settings) for manifest in manifests if manifest]
        if len(settings) < len(indexes):
            continue
        named = []
        for name in sorted(set().union(*settings)):
            values = [str(flat.get(name)) for flat in settings]
            if len(set(values)) > 1:
                named.append(f"{name}: {', '.join(map(_shorten, values))}")
        keys = "; ".join(named[:MAX_KEYS]) or "no key of the manifests"
        yield f"{results[indexes[0]].title}: the settings differ in {keys}"


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = prefix + key
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{name}.")
        elif name not in IGNORED_SETTINGS:
            flat[name] = value
    return flat


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 1]}…"


def find_shortages(trials: DataFrame) -> Iterator[str]:
    """Yield how many synthetic rows a method has fewer than the method with most in its cell."""
    used = trials[(trials["status"] == "ok") & (trials["method"] != "none")]
    most = used.groupby(CELL)["n_synthetic"].transform("max")
    short = used.assign(most=most, missing=most - used["n_synthetic"])[used["n_synthetic"] < most]
    for (task, level, method, classifier), rows in short.groupby(
        ["task", "level", *METHOD], sort=False
    ):
        worst = rows.loc[rows["missing"].idxmax()]
        others = rows["data_seed"].nunique() - 1
        more = f"; also on {others} more" if others else ""
        yield (
            f"{task} {level} {method} + {classifier}: {worst['n_synthetic']} synthetic rows on "
            f"data seed {worst['data_seed']}, {worst['missing']} short of {worst['most']}{more}"
        )


def list_failures(trials: DataFrame) -> DataFrame:
    """Return the trials that failed: their names, seeds and errors."""
    failed = trials[(trials["status"] != "ok") | trials["accuracy"].isna()]
    names = ["task", "variant", "level", "classifier", "method", "data_seed", "trial", "error"]
    return failed[names].fillna({"error": "no reason is given"})


def describe_design(results: Sequence[Result], trials: DataFrame) -> list[str]:
    """Return sentences that say which seeds vary between the trials of a result."""
    used = [index for index, result in enumerate(results) if result.n]
    if not used:
        return []
    rows = trials[trials["result"].isin(used)]
    counts = rows.groupby("result")[["data_seed", "seed", "draw"]].nunique()
    data_seeds, seeds, sets = (span_text(counts[name]) for name in counts)
    sentences = [
        f"The trials of a result use {data_seeds} data seeds, {seeds} training seeds and {sets} "
        "synthetic sets per data seed."
    ]
    repeated = [result.within for result in results if result.within is not None]
    if not repeated:
        sentences.append(
            "No data seed has two trials, so that the effects of the subsample and of the training "
            "seed cannot be separated."
        )
    elif not any(repeated):
        sentences.append("Trials of one data seed are equal: only the subsample varies.")
    return sentences


def span_text(values: Iterable[int]) -> str:
    """Return whole numbers as text: `5`, `2 to 5`, or `none`."""
    ordered = sorted(set(values))
    if not ordered:
        return "none"
    return str(ordered[0]) if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"
