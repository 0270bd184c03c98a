"""What a classifier is trained towards: each row's distribution, weighted as the settings say.

The loss of a row is the cross-entropy -sum_c t_c log q_c (section 3); here its targets t are made, for every classifier
alike: t_c = w_c v p_c, with the row's distribution p (smoothed, or its argmax), the class weight w and, for a
synthetic row, the weight v.
"""

from collections.abc import Sequence

from ..records import Augmented, Example
from ..settings import SoftLabelTraining


class UntrainableError(ValueError):
    """No trial can be run; the message says why and what to do."""


def one_hot(row: Example, classes: Sequence[str]) -> Augmented:
    """Return a real row with its label as a distribution."""
    return Augmented(
        id=row.id,
        text=row.text,
        label=row.label,
        probs={name: float(name == row.label) for name in classes},
    )


def training_rows(
    settings: SoftLabelTraining,
    real: Sequence[Example],
    synthetic: Sequence[Augmented],
    classes: Sequence[str],
) -> list[Augmented]:
    """Return the rows to train on, real ones first; their `probs` are the targets, which sum to 1 unless rows are weighted.

    Raises:
        Hopeless: if a class of the task has no row.
    """
    rows = [*(one_hot(row, classes) for row in real), *synthetic]
    labels = {row.label for row in rows}
    if missing := [name for name in classes if name not in labels]:
        raise UntrainableError(
            f"no training row has the class '{missing[0]}'; draw rows of every class, or leave the class out of task.labels"
        )
    if not settings.weighted:
        return rows
    distributions = [_distribution(settings, row, classes) for row in rows]
    weights = _class_weights(settings, distributions, classes)
    kinds = [1.0] * len(real) + [settings.synthetic_weight] * len(synthetic)
    return [
        row.model_copy(
            update={"probs": {name: weights[name] * kind * probs[name] for name in classes}}
        )
        for row, probs, kind in zip(rows, distributions, kinds, strict=True)
    ]


def _distribution(
    settings: SoftLabelTraining, row: Augmented, classes: Sequence[str]
) -> dict[str, float]:
    probs = (
        {name: float(name == row.label) for name in classes} if settings.hard_labels else row.probs
    )
    smoothing = settings.label_smoothing
    return {name: (1 - smoothing) * probs[name] + smoothing / len(classes) for name in classes}


def _class_weights(
    settings: SoftLabelTraining, distributions: Sequence[dict[str, float]], classes: Sequence[str]
) -> dict[str, float]:
    """Return the weight of each class; balanced: rows / (classes x the class's share of all rows), which is 1 on average."""
    if settings.class_weights == "none":
        return dict.fromkeys(classes, 1.0)
    if settings.class_weights == "balanced":
        shares = {name: sum(probs[name] for probs in distributions) for name in classes}
        return {name: len(distributions) / (len(classes) * share) for name, share in shares.items()}
    return {name: settings.class_weights.get(name, 1.0) for name in classes}
