"""What a classifier that asks the LM would ask on a cell: a label for each test row and trial.

The few content-free texts of contextual calibration are not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import fmean

from ..errors import StoppedShort
from ..records import Augmented, Example
from ..train.prompt import PromptClassifier


@dataclass(frozen=True)
class LabelEstimate:
    """The labels of a classifier on a cell.

    Attributes:
        missing: how many are still to be asked; a trial that lacks any label counts in full.
        held: how many the journals give.
        prompt_tokens: of a prompt, mean.
    """

    missing: int
    held: int
    prompt_tokens: float


def estimate_labels(
    classifier: PromptClassifier,
    seeds: Sequence[int],
    train: Sequence[Augmented],
    test: Sequence[Example],
    *,
    sample: int,
    has_answers: bool,
) -> LabelEstimate:
    """Return the labels that a classifier asks for on a cell.

    Args:
        classifier: with an LM that answers from journals only.
        seeds: training seed of each trial.
        train: the cell's real rows.
        test: the rows that get a label.
        sample: about so many prompts are counted, over all trials.
        has_answers: whether there is any journal; looking for all prompts takes long.
    """
    texts, lengths, held = [row.text for row in test], list[int](), 0
    step = ceil(len(texts) * len(seeds) / sample)
    for seed in seeds:
        classifier.fit(train, (), seed)
        lengths += classifier.count_prompt_tokens(texts[::step])
        if has_answers and _all_held(classifier, texts):
            held += len(texts)
    missing = len(texts) * len(seeds) - held
    return LabelEstimate(missing, held, fmean(lengths) if lengths else 0.0)


def _all_held(classifier: PromptClassifier, texts: Sequence[str]) -> bool:
    try:
        classifier.predict_proba(texts)
    except StoppedShort:
        return False
    return True
