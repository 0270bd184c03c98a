"""`row_weights: dimp`: synthetic rows weighted by how much the real rows say of their labels.

The importance weights of Kuo et al. (2024), "Not all LLM-generated data are equal": the weight of a
row is P(label | text) / Q(label | text). P is trained on the real rows: is the label right? Q is
trained on the synthetic rows: does the row only repeat what they all say? Both are linear
classifiers here, so Q does not change during a training, and every kind of classifier can use the
weights. A soft label is read as the expectation over its classes.
"""

from collections.abc import Sequence

from ..records import Augmented
from ..settings import LinearSettings
from .linear import LinearClassifier
from .targets import target_rows


def dimp_weights(
    real: Sequence[Augmented], synthetic: Sequence[Augmented], classes: Sequence[str]
) -> list[float]:
    """Return the weight of each synthetic row; 1 on average.

    Args:
        real: the real rows with one-hot labels.
        synthetic: the synthetic rows, at least one.
        classes: the task's classes, in order.
    """
    targets = target_rows(synthetic, classes)
    right = _expected_probability(real, synthetic, targets, classes)
    repeated = _expected_probability(synthetic, synthetic, targets, classes)
    ratios = [p / max(q, 1e-6) for p, q in zip(right, repeated, strict=True)]
    mean = sum(ratios) / len(ratios)
    return [ratio / mean for ratio in ratios]


def _expected_probability(
    train: Sequence[Augmented],
    rows: Sequence[Augmented],
    targets: Sequence[Sequence[float]],
    classes: Sequence[str],
) -> list[float]:
    masses = [sum(column) for column in zip(*target_rows(train, classes), strict=True)]
    if sum(mass > 0 for mass in masses) == 1:  # there is nothing to learn
        only = max(range(len(masses)), key=masses.__getitem__)
        return [target[only] for target in targets]
    classifier = LinearClassifier(LinearSettings(kind="linear"), classes)
    classifier.fit(train, train[:1], 0)
    probabilities = classifier.predict_proba([row.text for row in rows])
    return [
        sum(a * b for a, b in zip(target, probs, strict=True))
        for target, probs in zip(targets, probabilities.tolist(), strict=True)
    ]
