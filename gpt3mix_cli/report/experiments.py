"""Several experiments on one task in a report: each one's name becomes a part of its variants.

Every table, test and remark keeps variants apart, and so these experiments too: the swept key
`experiment` comes first in each of their variants. One experiment, or several on different tasks,
need no name.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..layout import experiment_folder, report_folder, variant_name
from .model import ExpectedTrials

EXPERIMENT = "experiment"  # no key of a config, so no sweep has it


class _Place(NamedTuple):
    """A trials file, and what the folder of its cell is named by."""

    path: Path
    task: str
    level: str
    variant: Mapping[str, Any]


def name_experiments(
    trials: pd.DataFrame, expected: Sequence[ExpectedTrials]
) -> tuple[pd.DataFrame, Sequence[ExpectedTrials]]:
    """Return trials and what is expected, with experiments named if some have a task in common.

    Files that are in no experiment's folder, and variants that sweep `name`, keep their variants.

    Args:
        trials: with the columns of `load_trials`.
        expected: what configs ask for.
    """
    columns = ["path", "task", "level", "swept"]
    firsts = trials.drop_duplicates(["path", "task", "level", "variant"])
    of_rows = [_Place(*row) for row in firsts[columns].itertuples(index=False, name=None)]
    of_files = [_Place(item.path, item.task, item.level, item.variant) for item in expected]
    names = _find_names([*of_rows, *of_files])
    if not names:
        return trials, expected
    new = {
        (place.path, variant_name(place.variant)): {**_named(names, place), **place.variant}
        for place in of_rows
    }
    swept = [new[key] for key in zip(trials["path"], trials["variant"], strict=True)]
    trials = trials.assign(swept=swept, variant=[variant_name(item) for item in swept])
    return trials, [
        replace(item, variant={**_named(names, place), **item.variant})
        for item, place in zip(expected, of_files, strict=True)
    ]


def experiment_part(swept: Mapping[str, Any]) -> str:
    """Return the part of a variant that names the experiment; empty where none is named."""
    return variant_name({EXPERIMENT: swept[EXPERIMENT]}) if EXPERIMENT in swept else ""


def _named(names: Mapping[Path, str], place: _Place) -> dict[str, str]:
    name = names.get(place.path)
    return {EXPERIMENT: name} if name and "name" not in place.variant else {}


def _find_names(places: Iterable[_Place]) -> dict[Path, str]:
    """Return trials file -> name of its experiment; empty if no two have a task in common."""
    folders = {}
    for place in places:
        folder = experiment_folder(place.path, place.variant, place.level)
        if folder and "name" not in place.variant:
            folders[place.path] = folder, place.task
    if len({*folders.values()}) < 2:
        return {}
    common = Path(os.path.commonpath([folder for folder, _ in folders.values()]))
    names = {path: _name(folder, task, common) for path, (folder, task) in folders.items()}
    tasks = {(task, names[path]) for path, (_, task) in folders.items()}
    in_common = len(tasks) > len({task for task, _ in tasks})
    return names if in_common else {}


def _name(folder: Path, task: str, common: Path) -> str:
    """Return the name of the experiment whose cells are in a folder.

    The folder may be that of one of its tasks, but an experiment may have its task's name too:
    then its folder is next to those of others, or has a report.
    """
    is_experiment = folder.name != task or folder.parent == common
    return folder.name if is_experiment or report_folder(folder).is_dir() else folder.parent.name
