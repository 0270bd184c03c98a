"""Stage augment: synthetic rows from real ones."""

from .loop import (
    Augmenter,
    Outcome,
    augment,
    journal_path,
    make,
    open_augmenter,
    rejects_path,
    wanted_rows,
)

__all__ = [
    "Augmenter",
    "Outcome",
    "augment",
    "journal_path",
    "make",
    "open_augmenter",
    "rejects_path",
    "wanted_rows",
]
