"""Stage augment: synthetic rows from real ones."""

from .loop import AugmentationSink, AugmentOptions, augment, num_rows_wanted, run_attempts
from .protocol import Augmenter, RowGenerator, TextEditor, open_augmenter

__all__ = [
    "AugmentOptions",
    "AugmentationSink",
    "Augmenter",
    "RowGenerator",
    "TextEditor",
    "augment",
    "num_rows_wanted",
    "open_augmenter",
    "run_attempts",
]
