"""Every YAML key of an experiment, as frozen models in which an unknown key is an error.

A default is written once, on its field. Precedence: `--set`, then YAML, then the default. `config.load` makes an
`Experiment` out of a file. Everything random draws from a `generator` named by (master seed, purpose, index).
"""

import re
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from .augment import (
    AugmentSettings,
    BaselineSettings,
    ParaphraseSettings,
)
from .base import (
    FileName,
    Settings,
    StrictInt,
)
from .lm import Budget, LMSettings, OpenAISettings
from .task import Task
from .train import (
    ClassifierSettings,
    PromptSettings,
    SoftLabelTraining,
)

LEVEL = re.compile(r"(?P<percent>\d+(\.\d+)?|\.\d+)%|(?P<count>\d+)/class|full")


def level(value: Any) -> str:
    """Return a level as it was written.

    Raises:
        ValueError: if it is none.
    """
    text = str(value)
    if not LEVEL.fullmatch(text):
        raise ValueError(f"'{text}' is no level; write `0.1%`, `8/class` or `full`")
    match = LEVEL.fullmatch(text)
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


Level = Annotated[str, BeforeValidator(level)]


class Subsample(Settings):
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
    subsample: Subsample = Field(description="how many real rows")
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
            *(["gpt3mix"] if self.lm else []),
            *(baseline.name for baseline in self.baselines),
        ]

    def asking(self, method: str) -> AugmentSettings | None:
        """Return GPT3Mix's settings for a method that asks the LM (a paraphrase has k = 1); None for every other method."""
        if method == "gpt3mix":
            return self.augment
        if any(
            baseline.name == method
            for baseline in self.baselines
            if isinstance(baseline, ParaphraseSettings)
        ):
            return self.augment.model_copy(update={"k": 1})
        return None

    def tried(self, method: str, classifier: ClassifierSettings) -> bool:
        """Return whether a classifier has trials with a method: one that only prompts reads no synthetic rows."""
        return method == "none" or not isinstance(classifier, PromptSettings)

    @model_validator(mode="after")
    def _lm_is_there(self) -> "Experiment":
        asking = [
            each
            for each in (*self.baselines, *self.classifiers)
            if isinstance(each, ParaphraseSettings | PromptSettings)
        ]
        if asking and not self.lm:
            raise ValueError(
                f"'{asking[0].name}' asks a language model; add for example lm: {{kind: local, model: bundled}}"
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
