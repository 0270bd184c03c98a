"""Results -> precision, recall and F1 of each class, and confusion matrices.

The confusion matrices of a result's trials are added up, and all values are computed from the sum:
they say how often a row of a class was recognised over all trials.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import clip
from ..records import read_manifest
from .model import Result
from .table import Table, list_table, result_names

Array = np.ndarray[Any, np.dtype[Any]]
MAX_MISTAKES = 2  # wrong classes that are named for a class
MIN_NAME = 12  # characters of a class in a terminal
NUMBERS_WIDTH = 43  # columns of a terminal's table besides its two columns of names
MAX_SHOWN_CLASSES = 20  # of a result in a terminal; the page has all
MAX_MATRIX_CLASSES = 12  # of a confusion matrix that fits 80 columns
MAX_SHOWN_RESULTS = 8  # in a terminal
NOTES = (
    "Precision, recall and F1 in percent, from the predictions of all trials together; rows: test "
    "rows of the class. Taken for: the classes that its rows were given most often by mistake, in "
    "percent of its rows."
)


@dataclass(frozen=True)
class ClassScores:
    """How well a classifier recognises each class, over the trials of one result.

    Attributes:
        result: whose trials these are.
        classes: names of the classes.
        confusion: int array (classes, classes), the sum over trials; rows are the true classes.
        trials: number of trials.
    """

    result: Result
    classes: Sequence[str]
    confusion: Array
    trials: int

    @cached_property
    def support(self) -> Array:
        """Test rows of each class, mean over trials."""
        support: Array = self.confusion.sum(axis=1) / self.trials
        return support

    @cached_property
    def precision(self) -> Array:
        """Of the rows that were given a class, the fraction that is of it; 0 without any."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(axis=0))

    @cached_property
    def recall(self) -> Array:
        """Of the rows of a class, the fraction that was given it; 0 without any."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(axis=1))

    @cached_property
    def f1(self) -> Array:
        """Harmonic mean of precision and recall."""
        both = self.confusion.sum(axis=0) + self.confusion.sum(axis=1)
        return _ratio(2 * self.confusion.diagonal(), both)

    def mistakes(self, index: int) -> list[tuple[str, float]]:
        """Return the classes that rows of a class were given by mistake, with their fractions."""
        row = self.confusion[index] / max(1, self.confusion[index].sum())
        order = sorted(range(len(row)), key=lambda other: -row[other])
        return [(self.classes[at], float(row[at])) for at in order if at != index and row[at]]


def _ratio(part: Array, whole: Array) -> Array:
    ratio: Array = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return ratio


def class_scores(trials: pd.DataFrame, results: Sequence[Result]) -> list[ClassScores]:
    """Return the scores of each result whose trials have confusion matrices of one size.

    Args:
        trials: with the column `result`, the index of each trial's result.
        results: all of them.
    """
    used = trials[trials["confusion"].notna() & (trials["status"] == "ok")]
    names: dict[Path, list[str]] = {}
    scores = []
    for index, rows in used.groupby("result"):
        matrices = rows["confusion"].tolist()
        if len({matrix.shape for matrix in matrices}) > 1:
            continue
        path = rows["path"].iloc[0]
        if path not in names:
            names[path] = _class_names(path)
        size = len(matrices[0])
        classes = names[path]
        if len(classes) != size:
            classes = [f"class {number}" for number in range(1, size + 1)]
        result = results[int(str(index))]
        scores.append(ClassScores(result, classes, np.sum(matrices, axis=0), len(matrices)))
    return scores


def _class_names(path: Path) -> list[str]:
    """Return the classes that the manifest of a trials file lists; none without a manifest."""
    manifest = read_manifest(path)
    classes = manifest.settings.get("classes") if manifest else None
    return list(map(str, classes)) if isinstance(classes, list) else []


# Tables --------------------------------------------------------------------------------------


def classes_table(scores: Sequence[ClassScores]) -> Table | None:
    """Return a row for each class of each result; None without any."""
    items = [{**result_names(item.result), **row} for item in scores for row in _rows(item)]
    return list_table("classes", "Classes", items, 6, NOTES)


def shown_tables(scores: Sequence[ClassScores], width: int) -> Iterator[Table]:
    """Yield the tables of some results for a terminal: scores, and the matrix where it fits.

    The classes with the lowest F1 come first; long names are cut.
    """
    space = max(MIN_NAME, (width - NUMBERS_WIDTH) // 2)
    for number, item in enumerate(scores[:MAX_SHOWN_RESULTS], 1):
        is_last = number == min(len(scores), MAX_SHOWN_RESULTS)
        rows = sorted(_rows(item, space), key=_by_f1)[:MAX_SHOWN_CLASSES]
        notes = []
        if more := len(item.classes) - len(rows):
            notes.append(f"{more} classes with a higher F1 are in report.html.")
        if is_last:
            notes.append(NOTES)
        if is_last and len(scores) > number:
            notes.append(f"{len(scores) - number} more results are in report.html.")
        table = list_table("classes", item.result.title, rows, 1, " ".join(notes))
        if table:
            yield table
        if len(item.classes) <= min(MAX_MATRIX_CLASSES, width // 8):
            yield _matrix_table(item)


def _rows(scores: ClassScores, space: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the row of each class; with `space`, names and mistakes have at most that length.

    Where two mistakes do not fit, the more frequent one is named.
    """
    for index, name in enumerate(scores.classes):
        mistakes = scores.mistakes(index)[:MAX_MISTAKES]
        texts = [f"{other} {fraction:.0%}" for other, fraction in mistakes]
        if space and len(", ".join(texts)) > space:
            texts = [f"{clip(other, space - 4)} {fraction:.0%}" for other, fraction in mistakes[:1]]
        yield {
            "class": clip(name, space) if space else name,
            "rows": float(scores.support[index]),
            "precision": 100 * float(scores.precision[index]),
            # Without a test row nothing is known.
            "recall": 100 * float(scores.recall[index]) if scores.support[index] else None,
            "F1": 100 * float(scores.f1[index]) if scores.support[index] else None,
            "taken for": ", ".join(texts),
        }


def _by_f1(row: dict[str, Any]) -> float:
    return math.inf if row["F1"] is None else float(row["F1"])


def _matrix_table(scores: ClassScores) -> Table:
    size = len(scores.classes)
    percent = 100 * scores.confusion / np.maximum(1, scores.confusion.sum(axis=1, keepdims=True))
    items = [
        {
            "true class": f"{index + 1} {clip(name, 2 * MIN_NAME)}",
            **{str(other + 1): f"{percent[index, other]:.0f}" for other in range(size)},
        }
        for index, name in enumerate(scores.classes)
    ]
    data = pd.DataFrame(items)
    return Table("confusion", "Given class, in % of a row", data, 1, "", is_grid=True)
