"""An experiment: its cells, and the stages over them."""

from .resources import baseline_of
from .runner import ONLY_REAL, Grid, Training, as_method, classifier_known, method_known
from .spot import Spot

__all__ = [
    "ONLY_REAL",
    "Grid",
    "Spot",
    "Training",
    "as_method",
    "baseline_of",
    "classifier_known",
    "method_known",
]
