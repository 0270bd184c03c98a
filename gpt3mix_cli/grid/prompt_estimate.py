"""What a classifier that prompts would ask on a cell, before anything is asked: a label for each test row in each trial.

The texts without content of contextual calibration, a handful a trial, are not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import fmean

from ..errors import StoppedShort
from ..lm import JournaledLM
from ..records import Example
from ..settings import PromptSettings
from ..train.cell import training_seed
from ..train.prompt import PromptClassifier
from ..train.targets import one_hot
from .spot import Spot


@dataclass(frozen=True)
class Predictions:
    """The labels of a classifier on a cell.

    Attributes:
        missing: how many are still to be asked for; a trial of which any is missing counts whole.
        held: how many the journals give.
        tokens: of a prompt, mean.
    """

    missing: int
    held: int
    tokens: float


def predictions(
    spot: Spot,
    settings: PromptSettings,
    lm: JournaledLM,
    answered: bool,
    examples: Sequence[Example],
    test: Sequence[Example],
    sample: int,
) -> Predictions:
    """Return the labels that a classifier asks for on a cell.

    Args:
        spot: the cell.
        settings: of the classifier.
        lm: gives what journals hold and asks nothing.
        answered: whether there are any: looking through all prompts takes its time.
        examples: the cell's real rows.
        test: the rows that are labelled.
        sample: about so many prompts are counted, over all trials.
    """
    task, texts, trials = spot.experiment.task, [row.text for row in test], spot.dealt(settings)
    classifier = PromptClassifier(settings, task, lm)
    rows = [one_hot(row, task.classes) for row in examples]
    lengths: list[int] = []
    held = 0
    for trial, _ in trials:
        classifier.fit(rows, (), training_seed(spot.experiment.subsample.master_seed, trial))
        lengths += classifier.count_prompt_tokens(texts[:: ceil(len(texts) * len(trials) / sample)])
        held += len(texts) if answered and _held(classifier, texts) else 0
    return Predictions(len(texts) * len(trials) - held, held, fmean(lengths) if lengths else 0.0)


def _held(classifier: PromptClassifier, texts: Sequence[str]) -> bool:
    try:
        classifier.predict_proba(texts)
    except StoppedShort:
        return False
    return True
