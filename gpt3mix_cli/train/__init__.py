"""Stage train: classifiers, fitted and tested trial by trial."""

from .loop import TrialsFailed, train
from .protocol import (
    Classifier,
    EpochCallback,
    FitResult,
    UnavailableClassifier,
    cached_classifier,
    ignore_epoch,
    open_classifier,
    open_prompt_classifier,
)
from .trials import (
    Result,
    SyntheticSet,
    TrialData,
    TrialExecutor,
    TrialJob,
    TrialResult,
    TrialRunner,
    WorkerDied,
    run_serially,
    training_seed,
)
from .weights import WEIGHTS, train_with_best_weight

__all__ = [
    "WEIGHTS",
    "Classifier",
    "EpochCallback",
    "FitResult",
    "Result",
    "SyntheticSet",
    "TrialData",
    "TrialExecutor",
    "TrialJob",
    "TrialResult",
    "TrialRunner",
    "TrialsFailed",
    "UnavailableClassifier",
    "WorkerDied",
    "cached_classifier",
    "ignore_epoch",
    "open_classifier",
    "open_prompt_classifier",
    "run_serially",
    "train",
    "train_with_best_weight",
    "training_seed",
]
