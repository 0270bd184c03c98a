"""Trials files -> one pd.DataFrame, a row a trial, with the columns of `records.Trial`.

Whole files are validated by pydantic. A file in which anything is unusual is read again by
`records.read_records`, which accepts what it can and names the line that it cannot. A torn last
line is reported and skipped; a trial that is in two files counts once. Methods are compared only if
they started from the same subsample of each cell.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ConfigDict, TypeAdapter

from ..errors import Callbacks, UserError, shown_value
from ..jsonl import raw_lines
from ..layout import find_trials, variant_name
from ..records import Trial, read_records
from .experiments import name_experiments
from .model import ExpectedTrials, ReportInput

CELL = ["task", "variant", "level", "data_seed"]
METHOD = ["method", "classifier"]
CHUNK_LINES = 1_000  # parsed at a time; the objects of a chunk are freed before the next one
# Fields that become other columns: the swept settings as an object and as text, the confusion
# matrix as an array, and the number of classes.
REPLACED = ("variant", "confusion")
FIELDS = tuple(name for name in Trial.model_fields if name not in REPLACED)
COLUMNS = (*FIELDS, "variant", "swept", "classes", "confusion", "path")
MAX_COUNT = 2**31  # of a confusion matrix; no test set has more rows
# Trials that are equal in these are one trial.
IDENTITY = [
    "task", "variant", "level", "method", "classifier", "settings", "version", "test_sha",
    "train_sha", "data_seed", "trial",
]  # fmt: skip
# Optional integers are no floats: a sum of tokens stays exact.
DTYPES: dict[Any, str] = {
    int: "int64",
    int | None: "Int64",
    float | None: "float64",
    str | None: "str",
}


class _FiniteTrial(Trial):
    """A trial as we write it: NaN and infinity are errors."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


_validate = TypeAdapter(list[_FiniteTrial]).validate_json


def load_trials(
    inputs: ReportInput, callbacks: Callbacks
) -> tuple[pd.DataFrame, Sequence[ExpectedTrials]]:
    """Return the trials of files and folders, each once, and what configs expect.

    Experiments that have a task in common are named in the variants of both (`experiments`).

    Args:
        inputs: the files and folders; expected files that do not exist yet are skipped.
        callbacks: receive warnings about torn lines and repeated trials.

    Returns:
        The columns are the fields of `records.Trial`, with `variant` as text and `confusion` as an
        int array (classes, classes), and `swept` (the variant as an object), `classes` and `path`.
        What is expected has the order of `inputs.expected`.

    Raises:
        UserError: for a broken line, or a trial that is in two files with different results.
    """
    paths = [item.path for item in inputs.expected if item.path.exists()]
    for source in inputs.sources:
        paths += find_trials(source) if source.is_dir() else [source]
    unique = {path.resolve(): path for path in paths}.values()
    files = [_read_file(path, callbacks) for path in unique]
    columns = {name: list(itertools.chain(*map(itemgetter(name), files))) for name in COLUMNS}
    trials, expected = name_experiments(_as_frame(columns), inputs.expected)
    return _without_repeats(trials, callbacks), expected


def _as_frame(columns: Mapping[str, list[Any]]) -> pd.DataFrame:
    dtypes = {name: DTYPES.get(Trial.model_fields[name].annotation) for name in FIELDS}
    dtypes |= {"classes": "Int64", "confusion": "object"}
    series = {}
    for name, values in columns.items():
        try:
            series[name] = pd.Series(values, dtype=dtypes.get(name))
        except OverflowError:
            largest = max(values, key=lambda value: abs(value or 0))
            raise UserError(
                f"{columns['path'][values.index(largest)]}: {name} is {shown_value(largest)}",
                "no trial has such a number; leave the file out",
            ) from None
    return pd.DataFrame(series)


def _read_file(path: Path, callbacks: Callbacks) -> dict[str, list[Any]]:
    try:
        return _as_columns(_validated(path), path)
    except (OSError, ValueError):  # pydantic's errors are ValueErrors
        return _as_columns([list(_read_slowly(path, callbacks))], path)


def _as_columns(chunks: Iterable[list[Trial]], path: Path) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    variants: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for trials in chunks:
        for name in FIELDS:
            columns[name] += [getattr(trial, name) for trial in trials]
        for trial in trials:
            # A file repeats its variant in each row: one text and one object are enough.
            key = str(trial.variant) if trial.variant else ""
            if key not in variants:
                variants[key] = variant_name(trial.variant), trial.variant
            name, swept = variants[key]
            columns["variant"].append(name)
            columns["swept"].append(swept)
        columns["classes"] += [len(trial.confusion or ()) or None for trial in trials]
        columns["confusion"] += [_matrix(trial.confusion) for trial in trials]
        columns["path"] += [path] * len(trials)
    return columns


def _matrix(confusion: list[list[int]] | None) -> np.ndarray[Any, np.dtype[Any]] | None:
    """Return a confusion matrix as an array; None for what is not square, or no counts."""
    if not confusion or any(len(row) != len(confusion) for row in confusion):
        return None
    if any(not 0 <= count <= MAX_COUNT for row in confusion for count in row):
        return None
    return np.array(confusion, dtype=np.int64)


def _validated(path: Path) -> Iterator[list[Trial]]:
    """Yield the trials of a file, some at a time.

    Raises:
        ValueError: at anything that `records.write_records` would not have written.
    """
    with path.open("rb") as stream:
        bounded = raw_lines(stream, path)
        while lines := list(itertools.islice(bounded, CHUNK_LINES)):
            text = b",".join(lines)
            trials = _validate(b"[" + text + b"]")
            # pydantic accepts NaN inside of `variant`, and a line may hold two objects.
            if b"NaN" in text or b"Infinity" in text or len(trials) != len(lines):
                raise ValueError("not one JSON object a line")
            yield [*trials]


def _read_slowly(path: Path, callbacks: Callbacks) -> Iterator[Trial]:
    """Yield the trials of a file, each line on its own.

    Raises:
        UserError: for a broken line, with its number.
    """
    try:
        yield from read_records(path, Trial)
    except UserError as error:
        if not path.is_file():  # a pipe is empty now, and a device may be endless
            raise
        number, last = 0, b"\n"
        with path.open("rb") as stream:
            for number, last in enumerate(raw_lines(stream, path), 1):  # noqa: B007 - the last ones are needed
                pass
        if last.endswith(b"\n") or f"{path}, line {number}:" not in error.message:
            raise
        callbacks.warn(f"{error.message}; skipped, because the last line is torn")


def _without_repeats(trials: pd.DataFrame, callbacks: Callbacks) -> pd.DataFrame:
    """Return the trials, each once; a successful one wins over its failures.

    Raises:
        UserError: if a trial succeeded twice with different accuracies.
    """
    repeats = int(trials.duplicated(IDENTITY).sum())
    if not repeats:
        return trials
    succeeded = trials[trials["status"] == "ok"]
    first = succeeded.groupby(IDENTITY, dropna=False)["accuracy"].transform("first")
    different = succeeded[(succeeded["accuracy"] != first) & first.notna()]
    if len(different):
        row = different.iloc[0]
        raise UserError(
            f"{row.path}: trial {row.trial} of data seed {row.data_seed} is in another file too, "
            "with another accuracy",
            "leave out one of the two runs",
        )
    callbacks.warn(
        "1 trial is in two files; it counts once"
        if repeats == 1
        else f"{repeats} trials are in two files; each counts once"
    )
    by_success = trials.sort_values("status", key=lambda column: column != "ok", kind="stable")
    return by_success.drop_duplicates(IDENTITY).sort_index(ignore_index=True)


def refuse_unfair(trials: pd.DataFrame) -> None:
    """Refuse trials of one cell whose methods or classifiers started from different subsamples.

    Failed trials have no scores to compare, and rows without `train_sha` are not checked. Several
    runs of one data seed, each with its own subsample, may be pooled if every method has trials
    of each.

    Raises:
        UserError: naming two that differ.
    """
    used = trials[(trials["status"] == "ok") & trials["train_sha"].notna()]
    several = used.groupby(CELL)["train_sha"].transform("nunique") > 1
    for (task, _, level, seed), cell in used[several].groupby(CELL, sort=False):
        shas = cell.groupby(METHOD, sort=False)["train_sha"].agg(lambda column: sorted({*column}))
        first = shas.index[0]
        for other in shas.index[1:]:
            if shas[other] != shas[first]:
                names = " and ".join(f"{method} + {name}" for method, name in (first, other))
                values = "; ".join(", ".join(shas[key]) for key in (first, other))
                raise UserError(
                    f"{task} {level}, data seed {seed}: {names} started from different subsamples "
                    f"(train_sha {values})",
                    "they cannot be compared: `gpt3mix run CONFIG` repeats what is out of date; or "
                    "report on each of them alone",
                )
