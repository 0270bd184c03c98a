"""Trial rows -> cells: means, deviations and their parts, intervals; trials of different settings are told apart, never averaged."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ..records import read_manifest
from .fairness import shortages
from .load_trials import variant_name
from .model import CellRow, ExpectedTrials, Failure, TrialRow
from .statistics import components, intervals

if TYPE_CHECKING:
    from .statistics import Array

Key = tuple[str, str, str, str, str]
Unit = tuple[int, str | None]  # data seed, hash of its rows
KEY = attrgetter("task", "variant", "level", "classifier", "method")
# Trials that differ in one of these are never averaged.
APART = {
    "settings": attrgetter("settings"),
    "test rows": attrgetter("test_sha"),
    "version": attrgetter("version"),
}
MEANS = (
    "accuracy",
    "macro_f1",
    "mcc",
    "majority",
    "ece",
    "n_train",
    "n_synthetic",
    "n_test",
    "tokens",
    "usd",
    "seconds",
    "tokens_per_prediction",
)


@dataclass(frozen=True)
class Group:
    """A cell and the rows that it is made of.

    Attributes:
        cell: the figures.
        rows: the trials, the failed ones included.
        units: subsample -> mean accuracy of its trials. Data seeds of several runs are several subsamples, each with its own hash:
            only the same rows are partners for a pair.
    """

    cell: CellRow
    rows: Sequence[TrialRow]
    units: Mapping[Unit, float]

    @property
    def tested_on(self) -> str | None:
        """Hash of the test rows."""
        return self.rows[0].test_sha if self.rows else None


def group_trials(
    trials: Sequence[TrialRow],
    wanted: Sequence[ExpectedTrials],
    variants: Mapping[str, Mapping[str, Any]],
) -> list[Group]:
    """Return the cells: in the config's order, those that miss included; without a config by task, level and method.

    Args:
        trials: all rows.
        wanted: what configs ask for.
        variants: the swept settings by their name.
    """
    asked: dict[Key, int] = {}
    swept = dict(variants)
    for item in wanted:
        name = variant_name(item.variant)
        swept[name] = item.variant
        key = (item.task, name, item.level, item.classifier, item.method)
        asked[key] = asked.get(key, 0) + item.trials
    found: dict[Key, dict[tuple[Any, ...], list[TrialRow]]] = {key: {} for key in asked}
    for row in trials:
        which = (row.settings, row.test_sha, row.version)
        found.setdefault(KEY(row), {}).setdefault(which, []).append(row)
    keys = list(found) if wanted else sorted(found, key=_order)
    parts = [(key, apart, rows) for key in keys for apart, rows in _named(found[key])]
    figures = _figures([rows for _, _, rows in parts])
    groups = []
    for (key, apart, rows), (values, units) in zip(parts, figures, strict=True):
        task, variant, level, classifier, method = key
        cell = CellRow(
            task=task, variant=variant, level=level, classifier=classifier, method=method, settings=rows[0].settings if rows else None,
            split_by=apart, expected=asked.get(key), swept=swept.get(variant, {}), **values,
        )  # fmt: skip
        groups.append(Group(cell, rows, units))
    return groups


def _order(key: Key) -> tuple[Any, ...]:
    """Return where a cell stands without a config: what all is compared with first, levels by their size."""
    task, variant, level, classifier, method = key
    number = level.rstrip("%").removesuffix("/class")
    size = float(number) if number.replace(".", "", 1).isdigit() else 0.0
    kind = 2 if level == "full" else int(level.endswith("/class"))
    return (
        task,
        variant,
        kind,
        size,
        level,
        classifier,
        {"none": 0, "gpt3mix": 1}.get(method, 2),
        method,
    )


def _named(
    by_settings: Mapping[tuple[Any, ...], list[TrialRow]],
) -> Iterable[tuple[str | None, list[TrialRow]]]:
    """Yield the parts of a cell, each with what sets it apart from the others."""
    if not by_settings:
        yield None, []
        return
    differing = [
        place for place in range(len(APART)) if len({which[place] for which in by_settings}) > 1
    ]
    names = list(APART)
    for which, rows in by_settings.items():
        # Of a hash six letters tell which; of a version all are needed.
        words = [
            f"{names[place]} {(which[place] or 'unknown')[: None if names[place] == 'version' else 6]}"
            for place in differing
        ]
        yield ", ".join(words) or None, rows


def _figures(parts: Sequence[Sequence[TrialRow]]) -> list[tuple[dict[str, Any], dict[Unit, float]]]:
    """Return the figures of each part and the mean accuracy of each of its subsamples, all parts in one go."""
    import numpy as np

    count = len(parts)
    good, of, unit_of = [], [], []
    units: dict[tuple[int, Unit], int] = {}
    for place, rows in enumerate(parts):
        for row in rows:
            if row.status == "ok" and row.accuracy is not None:
                good.append(row)
                of.append(place)
                unit_of.append(
                    units.setdefault((place, (row.data_seed, row.train_sha)), len(units))
                )
    cell_of = np.array(of, dtype=int)
    fields = dict(zip(TrialRow._fields, zip(*good, strict=True), strict=True)) if good else {}
    columns = {name: np.array(fields.get(name, ()), dtype=float) for name in MEANS}
    means = {name: _mean(values, cell_of, count) for name, values in columns.items()}
    accuracy, units_of = columns["accuracy"], np.array(unit_of, dtype=int)
    n = np.bincount(cell_of, minlength=count)
    squares = np.bincount(cell_of, (accuracy - means["accuracy"][cell_of]) ** 2, minlength=count)
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.where(n > 1, np.sqrt(squares / (n - 1)), np.nan)
    cell_of_unit = np.array([place for place, _ in units], dtype=int)
    sums, counts = (
        np.bincount(units_of, accuracy, minlength=len(units)),
        np.bincount(units_of, minlength=len(units)),
    )
    apart = _parts(accuracy, units_of, cell_of_unit, count)
    limits = _limits(sums, counts, cell_of_unit, count)
    means_of: list[dict[Unit, float]] = [{} for _ in parts]
    for (place, unit), total, number in zip(units, sums.tolist(), counts.tolist(), strict=True):
        means_of[place][unit] = total / number
    columns_of = {
        **means,
        "mean": means["accuracy"],
        "std": deviation,
        "between": apart[0],
        "within": apart[1],
    }
    del columns_of["accuracy"]
    plain = {
        name: [None if value != value else value for value in values.tolist()]
        for name, values in columns_of.items()
    }
    low, high = limits.T.tolist()
    found = []
    for place, rows in enumerate(parts):
        values: dict[str, Any] = {name: column[place] for name, column in plain.items()}
        values["ci"] = None if low[place] != low[place] else (low[place], high[place])
        values |= {
            "n": int(n[place]),
            "failed": len(rows) - int(n[place]),
            "data_seeds": len(means_of[place]),
        }
        values["classes"] = next((row.classes for row in rows if row.classes), None)
        values["one_class"] = sum(row.predicted_classes == 1 for row in rows)
        found.append((values, means_of[place]))
    return found


def _mean(values: "Array", cell_of: "Array", count: int) -> "Array":
    """Return the mean of each cell over the trials that have a value; NaN where none has."""
    import numpy as np

    known = ~np.isnan(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.bincount(cell_of[known], values[known], minlength=count)
        return np.asarray(total / np.bincount(cell_of[known], minlength=count))


def _parts(
    accuracy: "Array", unit_of: "Array", cell_of_unit: "Array", count: int
) -> "tuple[Array, Array]":
    """Return the deviation between and within the data seeds of each cell; NaN for a cell without trials."""
    import numpy as np

    found = np.full((2, count), np.nan)
    used = np.unique(cell_of_unit)  # cells without trials have no units
    if len(used):
        found[:, used] = components(accuracy, unit_of, np.searchsorted(used, cell_of_unit))
    return found[0], found[1]


def _limits(sums: "Array", counts: "Array", cell_of_unit: "Array", count: int) -> "Array":
    """Return the intervals of each cell, those of equally many data seeds in one go."""
    import numpy as np

    found = np.full((count, 2), np.nan)
    units = np.bincount(cell_of_unit, minlength=count)
    order = np.argsort(cell_of_unit, kind="stable")
    first = np.concatenate([[0], np.cumsum(units)])
    for size in set(units.tolist()) - {0, 1}:
        cells = np.flatnonzero(units == size)
        places = order[first[cells][:, None] + np.arange(size)]
        found[cells] = intervals(sums[places], counts[places].astype(float))
    return found


# What a reader must know ---------------------------------------------------------------------------------------------


def list_failures(groups: Sequence[Group]) -> list[Failure]:
    """Return the trials that came to nothing."""
    return [
        Failure(
            row.task,
            row.variant,
            row.level,
            row.classifier,
            row.method,
            row.data_seed,
            row.trial,
            row.error or "no reason is given",
        )
        for group in groups
        if group.cell.failed
        for row in group.rows
        if row.status != "ok" or row.accuracy is None
    ]


def remarks_on(groups: Sequence[Group]) -> Iterable[str]:
    """Yield what is missing, has failed, is told apart, is unequal or has learnt nothing."""
    for group in groups:
        cell = group.cell
        if cell.expected is not None and cell.n + cell.failed < cell.expected:
            yield f"{cell.place}: {cell.n + cell.failed} of {cell.expected} trials are there"
        if cell.failed:
            yield f"{cell.place}: {cell.failed} trials failed and are left out of the mean"
        if cell.tokens_per_prediction is not None:
            yield f"{cell.place}: each prediction costs {cell.tokens_per_prediction:,.0f} tokens of the LM, where a trained classifier asks none"
        if cell.split_by:
            yield f"{cell.place}: trials of different settings, test rows or versions are told apart ({cell.split_by}; {_folder(group.rows)})"
    yield from _differing(groups)
    yield from shortages([row for group in groups for row in group.rows])
    one_class = [
        row
        for group in groups
        if group.cell.one_class
        for row in group.rows
        if row.predicted_classes == 1
    ]
    if one_class:
        first = one_class[0]
        where = (
            f"{first.method} + {first.classifier}, data seed {first.data_seed}, trial {first.trial}"
        )
        yield f"{len(one_class)} trials predict one class only, such as {where}"


def _folder(rows: Sequence[TrialRow]) -> str:
    """Return the folder that holds all files of some rows."""
    return os.path.commonpath([path.parent for path in {row.path for row in rows}])


def _differing(groups: Sequence[Group]) -> Iterable[str]:
    """Yield the keys in which settings that are told apart differ, where the manifests of the trials are there."""
    cells: dict[Key, list[Group]] = {}
    for group in groups:
        if group.cell.split_by and "settings" in group.cell.split_by:
            cells.setdefault(KEY(group.cell), []).append(group)
    for parts in cells.values():
        found = [
            _flat(manifest.settings)
            for part in parts
            if (manifest := read_manifest(part.rows[0].path))
        ]
        if len(found) < len(parts):
            continue
        keys = sorted(
            {
                key
                for each in found
                for key in each
                if len({str(other.get(key)) for other in found}) > 1
            }
            - {"trials", "master_seed"}
        )
        named = "; ".join(
            f"{key}: {', '.join(_short(each.get(key)) for each in found)}" for key in keys[:5]
        )
        yield f"{parts[0].cell.place}: the settings differ in {named or 'what no key callbackss'}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if prefix + key == "trials":  # how many there are makes no trial another one
            continue
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
        )
    return flat


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def describe_design(groups: Sequence[Group]) -> list[str]:
    """Return sentences that say which seeds vary between the trials of a cell."""
    cells = [group for group in groups if group.cell.n]
    if not cells:
        return []

    def spans(name: str) -> str:
        return _span([len({getattr(row, name) for row in group.rows}) for group in cells])

    said = [
        f"The trials of a cell are of {spans('data_seed')} data seeds, {spans('seed')} training seeds and {spans('draw')} synthetic sets a data seed."
    ]
    repeated = [group.cell.within for group in cells if group.cell.within is not None]
    if not repeated:
        said.append(
            "No data seed has two trials: what comes of the subsample and what of the training cannot be told apart."
        )
    elif not any(repeated):
        said.append("Trials of one data seed are equal: only the subsample varies.")
    return said


def _span(values: Sequence[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def with_gains(groups: Sequence[Group], gains: Mapping[int, float]) -> list[Group]:
    """Return the groups, some cells with their gain over no augmentation (by place)."""
    return [
        replace(group, cell=replace(group.cell, gain=gains[place])) if place in gains else group
        for place, group in enumerate(groups)
    ]
