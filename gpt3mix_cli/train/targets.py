"""The training targets of each row, the same for all classifiers.

The loss of a row is the cross-entropy -sum_c t_c log q_c (section 3). Its targets are
t_c = w_c v p_c, with the row's distribution p (smoothed, or one-hot at its argmax), the class
weight w and, for a synthetic row, the weight v: `synthetic_weight` times that of `row_weights`.
"""

from collections.abc import Sequence

from ..records import Augmented, Example
from ..settings import SoftLabelTraining


class UntrainableError(ValueError):
    """A trial cannot run; the message says why and what to do."""


def to_one_hot(row: Example, classes: Sequence[str]) -> Augmented:
    """Return a real row with its label as a one-hot distribution."""
    probs = {name: float(name == row.label) for name in classes}
    return Augmented(id=row.id, text=row.text, label=row.label, probs=probs)


def target_rows(rows: Sequence[Augmented], classes: Sequence[str]) -> list[list[float]]:
    """Return the targets of training rows as a list (rows, classes)."""
    return [list(map(row.probs.__getitem__, classes)) for row in rows]


def assign_targets(
    settings: SoftLabelTraining,
    real: Sequence[Example],
    synthetic: Sequence[Augmented],
    classes: Sequence[str],
) -> list[Augmented]:
    """Return the training rows, real ones first, with their targets as `probs`.

    Targets sum to 1 unless rows or classes are weighted.

    Raises:
        UntrainableError: if a class of the task has no row.
    """
    if settings.synthetic_weight == 0:
        synthetic = ()
    rows = [*(to_one_hot(row, classes) for row in real), *synthetic]
    labels = {row.label for row in rows}
    if missing := [name for name in classes if name not in labels]:
        raise UntrainableError(
            f"no training row has the class '{missing[0]}'; "
            "draw rows of every class, or leave the class out of task.labels"
        )
    if not settings.weighted:
        return rows
    distributions = [_distribution(settings, row, classes) for row in rows]
    class_weights = _class_weights(settings, distributions, classes)
    row_weights = [1.0] * len(real) + _synthetic_weights(settings, rows, len(real), classes)
    weighted = []
    for row, probs, weight in zip(rows, distributions, row_weights, strict=True):
        targets = {name: class_weights[name] * weight * probs[name] for name in classes}
        weighted.append(row.model_copy(update={"probs": targets}))
    return weighted


def _synthetic_weights(
    settings: SoftLabelTraining, rows: Sequence[Augmented], num_real: int, classes: Sequence[str]
) -> list[float]:
    real, synthetic, weight = rows[:num_real], rows[num_real:], settings.synthetic_weight
    assert weight != "auto", "a trial has one weight"
    weights = [1.0] * len(synthetic)
    if settings.row_weights == "dimp" and synthetic:
        from .row_weights import dimp_weights

        if settings.hard_labels:
            synthetic = [to_one_hot(row, classes) for row in synthetic]
        weights = dimp_weights(real, synthetic, classes)
    return [weight * value for value in weights]


def _distribution(
    settings: SoftLabelTraining, row: Augmented, classes: Sequence[str]
) -> dict[str, float]:
    probs = to_one_hot(row, classes).probs if settings.hard_labels else row.probs
    smoothing = settings.label_smoothing
    return {name: (1 - smoothing) * probs[name] + smoothing / len(classes) for name in classes}


def _class_weights(
    settings: SoftLabelTraining, distributions: Sequence[dict[str, float]], classes: Sequence[str]
) -> dict[str, float]:
    """Return the weight of each class.

    Balanced weights are rows / (classes x the class's probability mass in all rows): 1 on average.
    """
    if settings.class_weights == "none":
        return dict.fromkeys(classes, 1.0)
    if settings.class_weights == "balanced":
        masses = {name: sum(probs[name] for probs in distributions) for name in classes}
        return {name: len(distributions) / (len(classes) * mass) for name, mass in masses.items()}
    return {name: settings.class_weights.get(name, 1.0) for name in classes}
