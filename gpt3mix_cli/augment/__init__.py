"""Stage augment: synthetic rows from real ones."""

from .loop import (
    AugmentationSink,
    Augmenter,
    augment,
    journal_path,
    num_rows_wanted,
    open_augmenter,
    rejects_path,
    run_attempts,
)

__all__ = [
    "AugmentationSink",
    "Augmenter",
    "augment",
    "journal_path",
    "num_rows_wanted",
    "open_augmenter",
    "rejects_path",
    "run_attempts",
]
