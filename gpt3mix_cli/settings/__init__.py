"""Every YAML key of an experiment, as frozen pydantic models."""

from .augment import (
    Aeda,
    Augment,
    Backtranslate,
    Baseline,
    Budget,
    Eda,
    Editor,
    Gate,
    LocalLM,
    Mlm,
    OpenAILM,
    Paraphrase,
)
from .base import NAME, PART, Settings, derived_seed, fingerprint, generator
from .experiment import LEVEL, Experiment, Subsample, level
from .task import Columns, DemoData, FilesData, HubData, Split, Task
from .train import PAPER, Classifier, Encoding, Linear, Prompt, SetFit, Trained, Transformer

__all__ = [
    "LEVEL",
    "NAME",
    "PAPER",
    "PART",
    "Aeda",
    "Augment",
    "Backtranslate",
    "Baseline",
    "Budget",
    "Classifier",
    "Columns",
    "DemoData",
    "Eda",
    "Editor",
    "Encoding",
    "Experiment",
    "FilesData",
    "Gate",
    "HubData",
    "Linear",
    "LocalLM",
    "Mlm",
    "OpenAILM",
    "Paraphrase",
    "Prompt",
    "SetFit",
    "Settings",
    "Split",
    "Subsample",
    "Task",
    "Trained",
    "Transformer",
    "derived_seed",
    "fingerprint",
    "generator",
    "level",
]
