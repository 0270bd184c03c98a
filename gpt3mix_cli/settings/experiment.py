"""Every YAML key of an experiment, as frozen models in which an unknown key is an error.

A default is written once, on its field. Precedence: `--set`, then YAML, then the default. `config.load_experiments` makes an
`Experiment` out of a file. Everything random draws from a `generator` named by (master seed, purpose, index).
"""

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from .augment import (
    GPT3MIX,
    AugmentSettings,
    BaselineSettings,
    EditorSettings,
)
from .base import FileName, Settings, StrictInt, derived_seed
from .lm import Budget, LMSettings, OpenAISettings
from .task import Task
from .train import ClassifierSettings, SoftLabelTraining

LEVEL_PATTERN = re.compile(r"(?P<percent>\d+(\.\d+)?|\.\d+)%|(?P<count>\d+)/class|full")


def parse_level(value: Any) -> str:
    """Return a level as it was written.

    Raises:
        ValueError: if it is none.
    """
    text = str(value)
    if not LEVEL_PATTERN.fullmatch(text):
        raise ValueError(f"'{text}' is no level; write `0.1%`, `8/class` or `full`")
    match = LEVEL_PATTERN.fullmatch(text)
    assert match
    if match["percent"] and not 0 < Fraction(match["percent"]) <= 100:
        raise ValueError(f"'{text}' is not above 0 % and at most 100 %")
    if match["count"] and int(match["count"]) < 1:
        raise ValueError(f"'{text}': at least one row a class is needed")
    return text


def _rows(value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if isinstance(value, str) and re.fullmatch(r"full|[1-9]\d*/class", value):
        return value
    raise ValueError(
        f"'{value}' is not `full`, a number of rows such as 200, or `n/class` such as `16/class`"
    )


def _seeds(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueError("at least one seed is needed")
        return list(range(value))
    return value


Level = Annotated[str, BeforeValidator(parse_level)]


class SubsampleSettings(Settings):
    """The data-scarce draws of section 4.1."""

    levels: list[Level] = Field(min_length=1, description="`p%` of train, `n/class`, or `full`")
    seeds: Annotated[list[StrictInt], BeforeValidator(_seeds)] = Field(
        [0, 1, 2, 3, 4], min_length=1, description="data seeds: a count n for 0 to n-1, or a list"
    )
    master_seed: StrictInt = Field(42, description="every generator derives from it")
    validation: Annotated[int | str, BeforeValidator(_rows)] = Field(
        "full", description="rows used for early stopping"
    )

    @field_validator("levels", "seeds")
    @classmethod
    def _once(cls, value: list[Any]) -> list[Any]:
        if len(set(value)) < len(value):
            raise ValueError("an entry stands twice")
        return value


class Experiment(Settings):
    """One experiment file."""

    name: FileName = Field(description="of the results' folder; default: the file's name")
    task: Task = Field(description="the task, or the path of a file that holds it")
    subsample: SubsampleSettings = Field(description="how many real rows")
    lm: LMSettings | None = Field(
        None,
        description="the language model, a `kind:` of local or openai; without it there is no method gpt3mix",
    )
    augment: AugmentSettings = Field(
        AugmentSettings(), description="GPT3Mix, and how many rows every method makes"
    )
    baselines: list[BaselineSettings] = Field(
        [],
        description="methods to compare with: a `kind:` of eda, aeda, mlm, backtranslate or paraphrase each",
    )
    classifiers: list[ClassifierSettings] = Field(
        [], description="what is trained: a `kind:` of transformer, linear, setfit or prompt each"
    )
    trials: StrictInt = Field(
        10, ge=1, description="training runs a cell in all, dealt over the data seeds in turn"
    )
    budget: Budget | None = Field(
        None, description="what the language model may cost, over all runs"
    )
    sweep: dict[str, list[Any]] = Field(
        {}, description="key -> values; every combination is a variant"
    )

    _variant: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def variant(self) -> dict[str, Any]:
        """The swept keys and their values here; empty without a sweep."""
        return self._variant

    @property
    def methods(self) -> list[str]:
        """Names of the methods: `none`, `gpt3mix` where there is an LM, then the baselines."""
        return [
            "none",
            *([GPT3MIX] if self.lm else []),
            *(baseline.name for baseline in self.baselines),
        ]

    # Methods and classifiers ---------------------------------------------------------------------

    def method_settings(self, method: str) -> AugmentSettings | EditorSettings | None:
        """Return the settings of a method's augmenter; None for `none` and unknown methods."""
        if method == GPT3MIX:
            return self.augment
        for baseline in self.baselines:
            if baseline.name == method:
                return baseline.gpt3mix(self.augment) if baseline.uses_lm else baseline
        return None

    def lm_settings_for(self, method: str) -> AugmentSettings | None:
        """Return GPT3Mix's settings for a method that uses the LM; None for any other method."""
        settings = self.method_settings(method)
        return settings if settings and settings.uses_lm else None

    def accepts(self, method: str, classifier: ClassifierSettings) -> bool:
        """Return whether a classifier is trained and tested with a method."""
        return method == "none" or classifier.reads_synthetic_rows

    def classifiers_for(self, method: str, data_seed: int) -> list[ClassifierSettings]:
        """Return the classifiers that have trials with a method on a data seed."""
        return [
            classifier
            for classifier in self.classifiers
            if self.trials_for(classifier, data_seed) and self.accepts(method, classifier)
        ]

    def needs_augmentation(self, method: str, data_seed: int) -> bool:
        """Return whether any classifier reads the synthetic rows of a method on a data seed."""
        if method == "none":
            return False
        return not self.classifiers or bool(self.classifiers_for(method, data_seed))

    # Trials and synthetic sets -------------------------------------------------------------------

    def trials_for(
        self, classifier: ClassifierSettings | None, data_seed: int
    ) -> list[tuple[int, int]]:
        """Return (trial, draw) of each trial on a data seed.

        Trials are assigned to the data seeds round-robin; `augment.synthetic_sets` says how many
        synthetic sets they share. A data seed that the config does not list gets the trials of the first one.
        """
        seeds, sets = self.subsample.seeds, self.augment.synthetic_sets
        total = (classifier.trials if classifier else None) or self.trials
        first = seeds.index(data_seed) if data_seed in seeds else 0
        rounds = [(trial, trial // len(seeds)) for trial in range(first, total, len(seeds))]
        if sets == "per-trial":
            return rounds
        return [(trial, number % sets) for trial, number in rounds]

    def draws_for(self, data_seed: int) -> list[int]:
        """Return the synthetic sets that any classifier reads on a data seed; at least the first."""
        readers: list[ClassifierSettings | None] = [
            classifier for classifier in self.classifiers if classifier.reads_synthetic_rows
        ]
        trials = [self.trials_for(classifier, data_seed) for classifier in readers or [None]]
        return sorted({draw for pairs in trials for _, draw in pairs}) or [0]

    def has_trials(self, data_seed: int) -> bool:
        """Return whether a data seed has any trial; with fewer trials than seeds some have none."""
        return not self.classifiers or any(
            self.trials_for(classifier, data_seed) for classifier in self.classifiers
        )

    def augmentation_seed(self, kind: str, data_seed: int, draw: int) -> int:
        """Return the seed of a synthetic set; it is the same in every variant and level."""
        return derived_seed(self.subsample.master_seed, "augment", kind, data_seed, draw)

    # Checks --------------------------------------------------------------------------------------

    @model_validator(mode="after")
    def _has_lm(self) -> "Experiment":
        if self.lm:
            return self
        for settings in (*self.baselines, *self.classifiers):
            if settings.uses_lm:
                raise ValueError(
                    f"'{settings.name}' asks a language model; "
                    "add for example lm: {kind: local, model: bundled}"
                )
        return self

    @model_validator(mode="after")
    def _unique_names(self) -> "Experiment":
        for what, names in (
            ("methods", self.methods),
            ("classifiers", [c.name for c in self.classifiers]),
        ):
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(
                    f"two {what} are called '{repeated[0]}'; give one of them another `name:`"
                )
        return self

    @model_validator(mode="after")
    def _payable(self) -> "Experiment":
        if self.budget and not isinstance(self.lm, OpenAISettings):
            raise ValueError(
                "budget: only an LM behind an endpoint (lm.kind: openai) costs anything; leave the budget out"
            )
        if (
            self.budget
            and self.budget.usd
            and isinstance(self.lm, OpenAISettings)
            and not self.lm.prices
        ):
            raise ValueError("budget.usd needs the prices: name their file with lm.prices")
        return self

    @model_validator(mode="after")
    def _known_classes(self) -> "Experiment":
        for classifier in self.classifiers:
            weights = (
                classifier.class_weights if isinstance(classifier, SoftLabelTraining) else None
            )
            for name in weights if isinstance(weights, dict) else ():
                if name not in self.task.labels:
                    known = ", ".join(self.task.labels)
                    raise ValueError(
                        f"classifier '{classifier.name}': class_weights names '{name}', which is none of the classes {known}"
                    )
        return self
