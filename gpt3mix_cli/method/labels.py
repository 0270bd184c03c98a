"""From log-probabilities to a row's label: equation (1) of section 3, with a temperature and contextual calibration.

Both are off by default, and no request depends on them: what the LM wrote once is labelled anew for nothing, but for the
texts without content, which are scored when calibration is first wanted.
Contextual calibration is Zhao et al. (2021, "Calibrate Before Use", section 5): each label's probability is divided by the
one that it has for texts without content, so that a label which the LM favours whatever it reads loses its lead.
"""

import math
from collections.abc import Sequence

CONTENT_FREE = ("N/A", "[MASK]", "")  # the three texts of Zhao et al., section 5


def soft_label(
    classes: Sequence[str],
    logprobs: Sequence[float],
    temperature: float = 1.0,
    without_content: Sequence[Sequence[float]] = (),
) -> tuple[dict[str, float], float]:
    """Return equation (1), the probabilities normalised over the label set, and the mass before normalising.

    Args:
        classes: the task's, in its order.
        logprobs: what the LM gave to each class's label; natural logarithms.
        temperature: divides the log-probabilities, calibrated where they are, before they are normalised.
        without_content: the log-probabilities of the labels for each content-free text; their probabilities are averaged,
            as in the authors' code. Empty: no calibration.

    Returns:
        The probability of each class, to six digits, and the labels' raw probability together, whatever the settings; 1 where
        upper bounds come to more.
    """
    highest = max(logprobs)
    mass = math.exp(highest) * math.fsum(math.exp(value - highest) for value in logprobs)
    prior = (
        [_log_mean(column) for column in zip(*without_content, strict=True)]
        if without_content
        else [0.0] * len(logprobs)
    )
    levels = [(value - usual) / temperature for value, usual in zip(logprobs, prior, strict=True)]
    top = max(levels)
    weights = [math.exp(level - top) for level in levels]
    return {
        label: round(weight / math.fsum(weights), 6)
        for label, weight in zip(classes, weights, strict=True)
    }, min(mass, 1.0)


def hard_label(classes: Sequence[str], label: str) -> dict[str, float]:
    """Return a class as a distribution."""
    return {name: float(name == label) for name in classes}


def _log_mean(logprobs: Sequence[float]) -> float:
    highest = max(logprobs)
    return highest + math.log(
        math.fsum(math.exp(value - highest) for value in logprobs) / len(logprobs)
    )
