"""Stage train: classifiers, fitted and tested trial by trial."""

from .loop import (
    Classifier,
    EpochCallback,
    FitResult,
    Job,
    Result,
    TrialExecutor,
    TrialRunner,
    UnavailableClassifier,
    WorkerDied,
    cached_classifier,
    ignore_epoch,
    open_classifier,
    open_prompt_classifier,
    run_serially,
    train,
)

__all__ = [
    "Classifier",
    "EpochCallback",
    "FitResult",
    "Job",
    "Result",
    "TrialExecutor",
    "TrialRunner",
    "UnavailableClassifier",
    "WorkerDied",
    "cached_classifier",
    "ignore_epoch",
    "open_classifier",
    "open_prompt_classifier",
    "run_serially",
    "train",
]
