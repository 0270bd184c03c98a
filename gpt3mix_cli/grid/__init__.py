"""An experiment: its cells, and the stages over them."""

from .names import REAL_ROWS_ONLY, baseline_of, known_classifier, known_method, valid_method_name
from .runner import Grid
from .steps import AugmentStep, Step, StepResult, SubsampleStep, TrainStep

__all__ = [
    "REAL_ROWS_ONLY",
    "AugmentStep",
    "Grid",
    "Step",
    "StepResult",
    "SubsampleStep",
    "TrainStep",
    "baseline_of",
    "known_classifier",
    "known_method",
    "valid_method_name",
]
