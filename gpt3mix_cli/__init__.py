"""GPT3Mix (Yoo et al., 2021): text augmentation with language models, and whether it helps.

This page is the Python API. A whole experiment, as `gpt3mix run sst2.yaml` runs it:

    from pathlib import Path
    from gpt3mix_cli import Grid, load_experiments

    grid = Grid(load_experiments(Path("sst2.yaml")), Path("results"))
    results = list(grid.run())  # one for each stage and cell
    report = grid.report()
    grid.close()

One stage on one cell:

    cell = next(grid.cells(level="1%", data_seed=0))
    grid.subsample(cell)
    result = grid.augment(cell, "gpt3mix", draw=0)
    rows = list(read_records(result.output, Augmented))

The stages themselves take rows and settings: `gpt3mix_cli.subsample.subsample`,
`gpt3mix_cli.augment.augment`, `gpt3mix_cli.train.train` and `gpt3mix_cli.report.report`.
A name is loaded when it is first used, so `import gpt3mix_cli` is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
