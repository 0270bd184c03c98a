"""Every YAML key of an experiment, as frozen pydantic models."""

from .augment import (
    AedaSettings,
    AugmentSettings,
    BacktranslateSettings,
    BaselineSettings,
    EdaSettings,
    EditorSettings,
    FilterSettings,
    MlmSettings,
    ParaphraseSettings,
)
from .base import (
    FILE_NAME_PATTERN,
    FILE_STEM_PATTERN,
    Settings,
    derived_seed,
    fingerprint,
    generator,
)
from .experiment import LEVEL, Experiment, Subsample, level
from .lm import Budget, LMSettings, LocalLMSettings, OpenAISettings
from .task import Columns, DemoData, FilesData, HubData, Split, Task
from .train import (
    PAPER,
    ClassifierSettings,
    LinearSettings,
    PromptSettings,
    SetFitSettings,
    SoftLabelTraining,
    TrainableSettings,
    TransformerSettings,
)

__all__ = [
    "FILE_NAME_PATTERN",
    "FILE_STEM_PATTERN",
    "LEVEL",
    "PAPER",
    "AedaSettings",
    "AugmentSettings",
    "BacktranslateSettings",
    "BaselineSettings",
    "Budget",
    "ClassifierSettings",
    "Columns",
    "DemoData",
    "EdaSettings",
    "EditorSettings",
    "Experiment",
    "FilesData",
    "FilterSettings",
    "HubData",
    "LMSettings",
    "LinearSettings",
    "LocalLMSettings",
    "MlmSettings",
    "OpenAISettings",
    "ParaphraseSettings",
    "PromptSettings",
    "SetFitSettings",
    "Settings",
    "SoftLabelTraining",
    "Split",
    "Subsample",
    "Task",
    "TrainableSettings",
    "TransformerSettings",
    "derived_seed",
    "fingerprint",
    "generator",
    "level",
]
