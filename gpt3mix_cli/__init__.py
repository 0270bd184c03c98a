"""GPT3Mix (Yoo et al., 2021): text augmentation with language models, and whether it helps.

This page is the Python API; `gpt3mix guide api` explains it:

    import gpt3mix_cli as gpt3mix

    project = gpt3mix.load("tickets.yaml")
    rows = project.subsample("8/class")  # a pandas DataFrame
    synthetic = project.augment(rows, "gpt3mix")
    trials = project.train(rows, synthetic)
    model = project.fit("model")
    labelled = gpt3mix.predict("model", [{"text": "I was charged twice."}])

`project.grid` is the whole experiment cell by cell, as `gpt3mix run` runs it. The stages themselves
take rows and settings: `gpt3mix_cli.subsample.subsample`, `gpt3mix_cli.augment.augment`,
`gpt3mix_cli.train.train` and `gpt3mix_cli.report.report`. A name is loaded when it is first used,
so `import gpt3mix_cli` is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Project as Project, load as load, predict as predict
    from .augment import open_augmenter as open_augmenter
    from .config import load_experiments as load_experiments
    from .errors import Callbacks as Callbacks, StoppedShort as StoppedShort, UserError as UserError
    from .grid import Grid as Grid, TrainStep as TrainStep
    from .layout import Cell as Cell, Layout as Layout
    from .lm import open_lm as open_lm
    from .records import (
        Augmented as Augmented,
        Example as Example,
        Manifest as Manifest,
        Reject as Reject,
        StageOptions as StageOptions,
        StageResult as StageResult,
        Trial as Trial,
        read_records as read_records,
        write_records as write_records,
    )
    from .train import open_classifier as open_classifier

__version__ = "0.1.0"

_EXPORTS = {
    "api": ["Project", "load", "predict"],
    "augment": ["open_augmenter"],
    "config": ["load_experiments"],
    "errors": ["Callbacks", "StoppedShort", "UserError"],
    "grid": ["Grid", "TrainStep"],
    "layout": ["Cell", "Layout"],
    "lm": ["open_lm"],
    "records": [
        "Augmented",
        "Example",
        "Manifest",
        "Reject",
        "StageOptions",
        "StageResult",
        "Trial",
        "read_records",
        "write_records",
    ],
    "train": ["open_classifier"],
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    """Load an exported name."""
    if name not in _MODULES:
        raise AttributeError(f"module 'gpt3mix_cli' has no attribute '{name}'")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
