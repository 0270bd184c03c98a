"""The figures of a trial, as fractions rounded to six digits."""

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

BINS = 15  # of confidence, for the calibration error (Guo et al., 2017)


def majority(labels: Sequence[str]) -> float:
    """Return the share of the most frequent label: the accuracy of a classifier that has learnt nothing."""
    return round(max(Counter(labels).values()) / len(labels), 6)


def score(probabilities: Any, labels: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """Return accuracy, macro_f1, mcc, ece, predicted_classes and confusion.

    Args:
        probabilities: float array (rows, classes).
        labels: the true label of each row.
        classes: the task's classes, in the order of the columns; macro-F1 averages over all of them.
    """
    import numpy as np
    from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef

    probabilities = np.asarray(probabilities, dtype=np.float64)
    truth = np.array([classes.index(label) for label in labels])
    predicted = probabilities.argmax(1)
    numbers = list(range(len(classes)))
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "A single label was found"
        )  # one class only is a finding, and reported as such
        mcc = matthews_corrcoef(truth, predicted)
    figures = {
        "accuracy": (predicted == truth).mean(),
        "macro_f1": f1_score(truth, predicted, labels=numbers, average="macro", zero_division=0),
        "mcc": mcc,
        "ece": _calibration_error(probabilities.max(1), predicted == truth),
    }
    return {
        **{name: round(float(value), 6) for name, value in figures.items()},
        "predicted_classes": len(np.unique(predicted)),
        "confusion": confusion_matrix(truth, predicted, labels=numbers).tolist(),
    }


def _calibration_error(confidence: Any, right: Any) -> float:
    """Return the expected calibration error over equal-width bins of confidence."""
    import numpy as np

    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [
        abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    return float(sum(gaps))
