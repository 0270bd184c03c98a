"""Stage train: classifiers, fitted and tested trial by trial."""

from .loop import (
    Classifier,
    Fit,
    Job,
    Lost,
    Map,
    Result,
    Unusable,
    Watch,
    Work,
    here,
    kept_classifier,
    open_classifier,
    open_prompting,
    train,
    unwatched,
)

__all__ = [
    "Classifier",
    "Fit",
    "Job",
    "Lost",
    "Map",
    "Result",
    "Unusable",
    "Watch",
    "Work",
    "here",
    "kept_classifier",
    "open_classifier",
    "open_prompting",
    "train",
    "unwatched",
]
