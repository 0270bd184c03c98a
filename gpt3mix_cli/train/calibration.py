"""Temperature scaling (Guo et al., 2017): probabilities that can be read as the chance to be right.

The temperature T is fitted on held-out rows. Targets are smoothed as those of Platt (1999), so that
a few rows that are all right do not make the model certain.
"""

from collections.abc import Sequence
from typing import Any

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.1, 10.0
SMALLEST_PROBABILITY = 1e-12  # a class that no training row had keeps the loss finite


def apply_temperature(probabilities: Any, temperature: float) -> Any:
    """Return softmax(log p / T) of each row, a float array (rows, classes); zeros stay zeros."""
    import numpy as np

    with np.errstate(divide="ignore"):
        logits = np.log(np.asarray(probabilities, dtype=np.float64)) / temperature
    scaled = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scaled / scaled.sum(axis=1, keepdims=True)


def fit_temperature(probabilities: Any, labels: Sequence[str], classes: Sequence[str]) -> float:
    """Return the temperature with the smallest cross-entropy on held-out rows.

    Args:
        probabilities: float array (rows, classes), of rows that the model was not trained on.
        labels: the true label of each row.
        classes: the task's classes, in the order of the columns.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar

    num_rows, num_classes = len(labels), len(classes)
    targets = np.full((num_rows, num_classes), 1 / (num_rows + num_classes))
    truth = [classes.index(label) for label in labels]
    targets[np.arange(num_rows), truth] = (num_rows + 1) / (num_rows + num_classes)

    def cross_entropy(log_temperature: float) -> float:
        scaled = apply_temperature(probabilities, float(np.exp(log_temperature)))
        return float(-(targets * np.log(scaled.clip(SMALLEST_PROBABILITY))).sum(1).mean())

    bounds = (np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE))
    best = minimize_scalar(cross_entropy, bounds=bounds, method="bounded")
    return round(float(np.exp(best.x)), 4)
