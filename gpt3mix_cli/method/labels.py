"""From log-probabilities to the label of a row: equation (1) of section 3.

Label temperature and contextual calibration are off by default. No generation request depends on
them, so changing them relabels stored answers; only calibration scores further prompts.

`match_prior` corrects the labels of a whole set: a label that the LM prefers in every row loses
its advantage, so that the mean soft label equals a given class mix (see there).

Contextual calibration (Zhao et al., 2021, "Calibrate Before Use", section 5) divides each label's
probability by its probability for texts without content. A label that the LM prefers whatever the
text says loses its advantage.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    FloatArray = np.ndarray[Any, np.dtype[np.float64]]

MAX_PRIOR_STEPS, PRIOR_TOLERANCE, LEAST_MEAN = 1000, 1e-6, 1e-12  # of `match_prior`
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
        temperature: see `label_logits`.
        content_free_logprobs: see `label_logits`.

    Returns:
        The probability of each class, to six digits, and the label mass: the sum of the labels'
        raw probabilities, at most 1 (upper bounds may sum to more).
    """
    logits = label_logits(logprobs, temperature, content_free_logprobs)
    return normalise(classes, logits), label_mass(logprobs)


def label_mass(logprobs: Sequence[float]) -> float:
    """Return the sum of the labels' raw probabilities, at most 1."""
    highest = max(logprobs)
    return min(math.exp(highest) * math.fsum(math.exp(value - highest) for value in logprobs), 1.0)


def label_logits(
    logprobs: Sequence[float],
    temperature: float = 1.0,
    content_free_logprobs: Sequence[Sequence[float]] = (),
) -> list[float]:
    """Return the logits of which equation (1) is the softmax.

    Args:
        logprobs: of each class's label; natural logarithms.
        temperature: divides the (calibrated) log-probabilities.
        content_free_logprobs: of the labels after each content-free text, (texts, classes). Their
            probabilities are averaged over the texts, as in the authors' code. Empty: no
            calibration.
    """
    prior = [0.0] * len(logprobs)
    if content_free_logprobs:
        prior = [_log_mean(column) for column in zip(*content_free_logprobs, strict=True)]
    return [(value - usual) / temperature for value, usual in zip(logprobs, prior, strict=True)]


def normalise(classes: Sequence[str], logits: Sequence[float]) -> dict[str, float]:
    """Return the softmax of logits, of which at least one is finite, to six digits."""
    highest = max(logits)
    weights = [math.exp(logit - highest) for logit in logits]
    total = math.fsum(weights)
    return {label: round(weight / total, 6) for label, weight in zip(classes, weights, strict=True)}


def match_prior(logits: Sequence[Sequence[float]], prior: Sequence[float]) -> list[float]:
    """Return class offsets with which the mean soft label of a set equals a given class mix.

    An LM's bias moves the labels of all rows in one direction: the offsets, added to the logits of
    every row, take it back. They keep the order of rows by the odds of any two classes. Each step
    multiplies every class by its wanted over its mean probability, the fixed-point iteration of
    Saerens, Latinne and Decaestecker (2002), here with the new class mix known. After the last step
    the mean is within 0.002 even where all labels are all but certain.

    Args:
        logits: of at least one row, (rows, classes); -inf where a class is impossible.
        prior: the class mix, one fraction for each class.

    Returns:
        The offset of each class. A class that no row can have, or with a prior of 0, is left out:
        its offset is 0, and the shares of the others are matched in proportion.
    """
    import numpy as np

    values, wanted, offsets = np.array(logits), np.array(prior), np.zeros(len(prior))
    matched = np.isfinite(values).any(0) & (wanted > 0)
    if not matched.any():
        return offsets.tolist()
    wanted = wanted[matched] / wanted[matched].sum()
    for _ in range(MAX_PRIOR_STEPS):
        means = _softmax(values + offsets)[:, matched].mean(0)
        means /= means.sum()
        if np.abs(means - wanted).max() < PRIOR_TOLERANCE:
            break
        # A mean that floating point rounds to 0 takes a large step, not an infinite one.
        offsets[matched] += np.log(wanted) - np.log(np.maximum(means, LEAST_MEAN))
        offsets[matched] -= offsets[matched].mean()
    return offsets.tolist()


def soft_labels(logits: Sequence[Sequence[float]], offsets: Sequence[float]) -> list[list[float]]:
    """Return the probabilities of each row with offsets of the classes, (rows, classes)."""
    import numpy as np

    probabilities: list[list[float]] = _softmax(np.array(logits) + np.array(offsets)).tolist()
    return probabilities


def _softmax(logits: "FloatArray") -> "FloatArray":
    import numpy as np

    weights = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: FloatArray = weights / weights.sum(1, keepdims=True)
    return probabilities


def hard_label(classes: Sequence[str], label: str) -> dict[str, float]:
    """Return the one-hot distribution of a class."""
    return {name: float(name == label) for name in classes}


def _log_mean(logprobs: Sequence[float]) -> float:
    highest = max(logprobs)
    weights = [math.exp(value - highest) for value in logprobs]
    return highest + math.log(math.fsum(weights) / len(logprobs))
