"""An experiment: its cells, and the stages over them."""

from .runner import Grid
from .selection import check_known, select_cells, select_trainings, with_files
from .stale_sets import warn_of_stale_sets
from .steps import AugmentStep, Step, StepResult, SubsampleStep, TrainStep

__all__ = [
    "AugmentStep",
    "Grid",
    "Step",
    "StepResult",
    "SubsampleStep",
    "TrainStep",
    "check_known",
    "select_cells",
    "select_trainings",
    "warn_of_stale_sets",
    "with_files",
]
