"""From log-probabilities to the label of a row: equation (1) of section 3.

Label temperature and contextual calibration are off by default. No generation request depends on
them, so changing them relabels stored answers; only calibration scores further prompts.

Contextual calibration (Zhao et al., 2021, "Calibrate Before Use", section 5) divides each label's
probability by its probability for texts without content. A label that the LM prefers whatever the
text says loses its advantage.
"""

import math
from collections.abc import Sequence

CONTENT_FREE = ("N/A", "[MASK]", "")  # the three texts of Zhao et al., section 5
LOW_LABEL_MASS = 0.5  # a lower mean shows that the LM does not follow the prompt


def soft_label(
    classes: Sequence[str],
    logprobs: Sequence[float],
    temperature: float = 1.0,
    content_free_logprobs: Sequence[Sequence[float]] = (),
) -> tuple[dict[str, float], float]:
    """Return equation (1): probabilities normalised over the label set, and their mass before that.

    Args:
        classes: of the task, in its order.
        logprobs: of each class's label; natural logarithms.
        temperature: divides the (calibrated) log-probabilities before they are normalised.
        content_free_logprobs: of the labels after each content-free text, (texts, classes). Their
            probabilities are averaged over the texts, as in the authors' code. Empty: no
            calibration.

    Returns:
        The probability of each class, to six digits, and the label mass: the sum of the labels'
        raw probabilities, at most 1 (upper bounds may sum to more).
    """
    highest = max(logprobs)
    mass = math.exp(highest) * math.fsum(math.exp(value - highest) for value in logprobs)
    prior = [0.0] * len(logprobs)
    if content_free_logprobs:
        prior = [_log_mean(column) for column in zip(*content_free_logprobs, strict=True)]
    logits = [(value - usual) / temperature for value, usual in zip(logprobs, prior, strict=True)]
    weights = [math.exp(logit - max(logits)) for logit in logits]
    total = math.fsum(weights)
    probs = {
        label: round(weight / total, 6) for label, weight in zip(classes, weights, strict=True)
    }
    return probs, min(mass, 1.0)


def hard_label(classes: Sequence[str], label: str) -> dict[str, float]:
    """Return the one-hot distribution of a class."""
    return {name: float(name == label) for name in classes}


def _log_mean(logprobs: Sequence[float]) -> float:
    highest = max(logprobs)
    weights = [math.exp(value - highest) for value in logprobs]
    return highest + math.log(math.fsum(weights) / len(logprobs))
