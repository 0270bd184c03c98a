"""The metrics of a trial, as fractions rounded to six digits."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..records import Example

CALIBRATION_BINS = 15  # of equal width, as Guo et al. (2017)


def majority(labels: Sequence[str]) -> float:
    """Return the fraction of the most frequent label: the accuracy of always predicting it."""
    return round(max(Counter(labels).values()) / len(labels), 6)


def accuracy(probabilities: Any, rows: Sequence[Example], classes: Sequence[str]) -> float:
    """Return the fraction of rows whose most probable class is their label, unrounded.

    Args:
        probabilities: float array (rows, classes).
        rows: the labelled rows.
        classes: the task's classes, in the order of the columns.
    """
    truth = [classes.index(row.label) for row in rows]
    return float((probabilities.argmax(1) == truth).mean())


def macro_f1(confusion: Mapping[tuple[str, str], int]) -> float:
    """Return the mean F1 of all classes that are a label or a prediction.

    Args:
        confusion: (label, predicted class) -> number of rows; at least one.
    """
    from sklearn.metrics import f1_score

    labels, predicted = zip(*confusion, strict=True)
    counts = list(confusion.values())
    value = f1_score(labels, predicted, average="macro", sample_weight=counts, zero_division=0)
    return round(float(value), 6)


def score(probabilities: Any, labels: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """Return accuracy, macro_f1, mcc, ece, predicted_classes and confusion.

    Args:
        probabilities: float array (rows, classes).
        labels: the true label of each row.
        classes: the task's classes, in the order of the columns; macro-F1 averages over all of
            them.
    """
    import numpy as np
    from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef

    probabilities = np.asarray(probabilities, dtype=np.float64)
    truth = np.array([classes.index(label) for label in labels])
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    indices = list(range(len(classes)))
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    # In each bin the confidence minus the accuracy, times the bin's rows.
    gaps = np.bincount(bins, confidence - (predicted == truth))
    with warnings.catch_warnings():
        # A test set of one class is allowed; `predicted_classes` and `confusion` show it.
        warnings.filterwarnings("ignore", "A single label was found")
        mcc = matthews_corrcoef(truth, predicted)
    values = {
        "accuracy": (predicted == truth).mean(),
        "macro_f1": f1_score(truth, predicted, labels=indices, average="macro", zero_division=0),
        "mcc": mcc,
        "ece": np.abs(gaps).sum() / len(labels),
    }
    return {
        **{name: round(float(value), 6) for name, value in values.items()},
        "predicted_classes": len(np.unique(predicted)),
        "confusion": confusion_matrix(truth, predicted, labels=indices).tolist(),
    }
