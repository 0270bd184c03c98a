"""Settings of a whole experiment, and its trials and synthetic sets."""

from typing import Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from ..errors import UserError
from .augment import AugmentSettings, EditorSettings
from .base import MAX_TRIALS, FileName, Settings, StrictFloat, StrictInt, derived_seed
from .lm import Budget, LMSettings, OpenAISettings
from .methods import GPT3MIX, BaselineSettings
from .paper import PaperColumn, PaperSettings
from .presets import with_paper_values, with_quick_values
from .subsample import SubsampleSettings
from .task import Task
from .train import ClassifierSettings


class ResourceSettings(Settings):
    """What a trial takes of a machine; it changes no number."""

    gpu: StrictFloat = Field(
        1.0,
        gt=0,
        le=1,
        description=(
            "fraction of a GPU that one trial takes: with 0.25, four trials run on it at the same "
            "time"
        ),
    )


class Experiment(Settings):
    """One experiment file."""

    name: FileName = Field(description="name of the results' folder; default: the file's name")
    preset: Literal["paper", "quick"] | None = Field(
        None,
        description=(
            "paper: the paper's values for every key of `subsample`, `augment` and transformers "
            "that it names; others are refused. quick: other defaults, for minutes on two cores: "
            "level full, one seed, ratio 1, two trials, the classifiers linear and MiniLM with "
            "short patience"
        ),
    )
    task: Task = Field(
        description="the task: its keys, the path of a task file, or the name of a packaged one"
    )
    tasks: list[str] = Field(
        [],
        description=(
            "several tasks in place of `task`, each a name, a path or the keys; every task has "
            "every level and variant, and a folder of its own"
        ),
    )
    subsample: SubsampleSettings = Field(description="how many real rows to draw")
    lm: LMSettings | None = Field(
        None,
        description="language model of `kind:` local or openai; the method gpt3mix needs it",
    )
    augment: AugmentSettings = Field(
        AugmentSettings(), description="GPT3Mix, and the number of rows of every method"
    )
    baselines: list[BaselineSettings] = Field(
        [],
        description=(
            "methods to compare with, of `kind:` eda, aeda, mlm, backtranslate, paraphrase or "
            "gpt3mix (with other settings)"
        ),
    )
    classifiers: list[ClassifierSettings] = Field(
        [], description="classifiers to train, of `kind:` transformer, linear, setfit or prompt"
    )
    trials: StrictInt = Field(
        10,
        ge=1,
        le=MAX_TRIALS,
        description=(
            "training runs per method, classifier and level, assigned to the data seeds round-robin"
        ),
    )
    budget: Budget | None = Field(None, description="budget of the language model, over all runs")
    resources: ResourceSettings = Field(
        ResourceSettings(), description="what a trial takes of the machine that it runs on"
    )
    paper: PaperSettings | None = Field(
        None, description="the table of the paper that `report --paper` compares the results with"
    )
    sweep: dict[str, list[Any]] = Field(
        {}, description="key -> list of values; every combination is a variant"
    )

    _variant: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def variant(self) -> dict[str, Any]:
        """The swept keys and this variant's values; empty without a sweep."""
        return self._variant

    @property
    def methods(self) -> list[str]:
        """Names of the methods: `none`, `gpt3mix` where there is an LM, then the baselines."""
        return [
            "none",
            *([GPT3MIX] if self.lm else []),
            *(baseline.name for baseline in self.baselines),
        ]

    @property
    def paper_column(self) -> PaperColumn | None:
        """The column of the paper that GPT3Mix's results repeat; None without `paper`."""
        return self.paper.column_for(self.task, self.lm, self.augment) if self.paper else None

    def with_trials(self, trials: int) -> "Experiment":
        """Return the experiment with this many trials for every classifier."""
        # It replaces a classifier's own `trials` too.
        classifiers = [item.model_copy(update={"trials": None}) for item in self.classifiers]
        return self.model_copy(update={"trials": trials, "classifiers": classifiers})

    # Methods and classifiers ---------------------------------------------------------------------

    def baseline(self, name: str) -> BaselineSettings:
        """Return the settings of a baseline.

        Raises:
            UserError: if there is none of this name.
        """
        baselines = {baseline.name: baseline for baseline in self.baselines}
        if name not in baselines:
            raise UserError(
                f"the config has no baseline '{name}'",
                f"its baselines: {', '.join(baselines) or 'none'}; add one under `baselines:`",
            )
        return baselines[name]

    def method_settings(self, method: str) -> AugmentSettings | EditorSettings:
        """Return the settings of a method's augmenter.

        Raises:
            UserError: if there is no such method, or it needs none (`none`).
        """
        if method == GPT3MIX:
            return self.augment
        baseline = self.baseline(method)
        return baseline.gpt3mix(self.augment) if baseline.uses_lm else baseline

    def lm_settings_for(self, method: str) -> AugmentSettings | None:
        """Return GPT3Mix's settings for a method that uses the LM; None for any other method."""
        settings = self.method_settings(method)
        return settings if settings.uses_lm else None

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
        return method != "none" and (
            not self.classifiers or bool(self.classifiers_for(method, data_seed))
        )

    # Trials and synthetic sets -------------------------------------------------------------------

    def trials_for(
        self, classifier: ClassifierSettings | None, data_seed: int
    ) -> list[tuple[int, int]]:
        """Return (trial, draw) of each trial on a data seed.

        Trials are assigned to the data seeds round-robin; `augment.synthetic_sets` says how many
        synthetic sets they share. A data seed that the config does not list gets the trials of the
        first one.
        """
        seeds, sets = self.subsample.seeds, self.augment.synthetic_sets
        total = (classifier.trials if classifier else None) or self.trials
        first = self.subsample.seed_positions.get(data_seed, 0)
        sets = total if sets == "per-trial" else sets
        trials = range(first, total, len(seeds))
        return [(trial, trial // len(seeds) % sets) for trial in trials]

    def draws_for(self, data_seed: int) -> list[int]:
        """Return the synthetic sets that classifiers read on a data seed; at least the first."""
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

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, value: Any) -> Any:
        preset = value.get("preset") if isinstance(value, dict) else None
        if preset == "paper":
            return with_paper_values(value)
        return with_quick_values(value) if preset == "quick" else value

    @model_validator(mode="before")
    @classmethod
    def _one_seed_a_fold(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        task, subsample = value.get("task"), value.get("subsample")
        data = task.get("data") if isinstance(task, dict) else None
        folds = data.get("folds") if isinstance(data, dict) else None
        if folds is None or not isinstance(subsample, dict) or "seeds" in subsample:
            return value
        return {**value, "subsample": {**subsample, "seeds": folds}}

    @model_validator(mode="after")
    def _check_folds(self) -> "Experiment":
        folds = self.task.folds
        seeds = self.subsample.seeds
        if folds and len({seed % folds for seed in seeds}) < folds:
            raise ValueError(
                f"subsample.seeds: the {len(seeds)} data seeds do not test on all {folds} folds; "
                "leave it out, or lower task.data.folds"
            )
        for classifier in self.classifiers if folds else ():
            trials = classifier.trials or self.trials
            if len({seed % folds for seed in seeds[:trials]}) < folds:
                raise ValueError(
                    f"classifier '{classifier.name}': {trials} trials do not test on all {folds} "
                    "folds; raise `trials`, or lower task.data.folds"
                )
        return self

    @model_validator(mode="after")
    def _check_lm(self) -> "Experiment":
        names = [item.name for item in (*self.baselines, *self.classifiers) if item.uses_lm]
        if names and not self.lm:
            raise ValueError(
                f"'{names[0]}' needs a language model; "
                "add for example lm: {kind: local, model: bundled}"
            )
        if self.budget:
            if not isinstance(self.lm, OpenAISettings):
                raise ValueError(
                    "budget: only an LM behind an endpoint (lm.kind: openai) has costs; "
                    "remove the budget"
                )
            if self.budget.usd and not self.lm.prices:
                raise ValueError("budget.usd needs prices: name their file with lm.prices")
        return self

    @model_validator(mode="after")
    def _check_paper(self) -> "Experiment":
        _ = self.paper_column
        return self

    @model_validator(mode="after")
    def _check_names(self) -> "Experiment":
        classifiers = [classifier.name for classifier in self.classifiers]
        for what, names in (("methods", self.methods), ("classifiers", classifiers)):
            if duplicates := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(
                    f"two {what} are called '{duplicates[0]}'; give one of them another `name:`"
                )
        return self

    @model_validator(mode="after")
    def _check_classes(self) -> "Experiment":
        self._check_classes_of(self.augment, "augment.")
        for baseline in self.baselines:
            try:
                settings = self.lm_settings_for(baseline.name)
            except ValueError as error:
                raise ValueError(f"baseline '{baseline.name}': {error}") from None
            if settings:
                self._check_classes_of(settings, f"baseline '{baseline.name}': ")
        return self

    def _check_classes_of(self, settings: AugmentSettings, where: str) -> None:
        prior, classes = settings.label_prior, ", ".join(self.task.labels)
        if isinstance(prior, dict) and prior.keys() != self.task.labels.keys():
            raise ValueError(
                f"{where}label_prior names {', '.join(prior) or 'no class'}; give each of the "
                f"classes {classes} a share"
            )
        for name in settings.label_descriptions:
            if name not in self.task.labels:
                raise ValueError(
                    f"{where}label_descriptions names '{name}', which is not one of the classes "
                    f"{classes}"
                )

    @model_validator(mode="after")
    def _check_class_weights(self) -> "Experiment":
        for classifier in self.classifiers:
            weights = getattr(classifier, "class_weights", None)
            for name in weights if isinstance(weights, dict) else ():
                if name not in self.task.labels:
                    raise ValueError(
                        f"classifier '{classifier.name}': class_weights names '{name}', "
                        f"which is not one of the classes {', '.join(self.task.labels)}"
                    )
        return self
