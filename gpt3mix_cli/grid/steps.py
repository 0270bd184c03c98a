"""The steps of a run: one stage on one cell each."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..errors import UserError
from ..layout import Cell, TrialKey
from ..lm import costs_money
from ..records import StageResult
from ..settings import ClassifierSettings, Experiment
from ..train import Classifier
from .executors.opener import TrialDemand

REAL_ROWS_ONLY = "uses real examples only, so it runs with method 'none'; other methods are skipped"


@dataclass(frozen=True)
class SubsampleStep:
    """Draw the real rows of a cell."""

    cell: Cell

    uses_lm: ClassVar[bool] = False
    inputs: ClassVar[Sequence[Hashable]] = ()

    @property
    def product(self) -> Hashable:
        """What later steps have among their `inputs`."""
        return self.cell

    def __str__(self) -> str:
        return f"{self.cell} subsample"


@dataclass(frozen=True)
class AugmentStep:
    """Write one synthetic set of a method.

    Attributes:
        cell: the cell.
        method: the method.
        draw: number of the set.
        uses_lm: whether the experiment's LM writes it.
    """

    cell: Cell
    method: str
    draw: int
    uses_lm: bool = False

    @property
    def inputs(self) -> Sequence[Hashable]:
        """The `product` of each step that must be done before."""
        return [self.cell]

    @property
    def product(self) -> Hashable:
        """What later steps have among their `inputs`: all sets of the method."""
        return self.cell, self.method

    def __str__(self) -> str:
        return f"{self.cell} {self.method}{f' draw {self.draw}' if self.draw else ''}"


@dataclass(frozen=True)
class TrainStep:
    """Run the trials of a method and classifier.

    Attributes:
        cell: the cell.
        method: the method whose synthetic rows are added; `none` for real rows only.
        classifier: the classifier.
        input: real rows in place of the subsample.
        augmented: files of synthetic rows in place of the method's own.
        output: the trials file in place of the default.
        save_model: folder for the best trial's model.
    """

    cell: Cell
    method: str
    classifier: ClassifierSettings
    input: Path | None = None
    augmented: Sequence[Path] = ()
    output: Path | None = None
    save_model: Path | None = None

    @property
    def uses_lm(self) -> bool:
        """Whether the classifier asks the experiment's LM."""
        return self.classifier.uses_lm

    @property
    def key(self) -> TrialKey:
        """Which trials these are."""
        return TrialKey(self.cell, self.method, self.classifier.name)

    @property
    def inputs(self) -> Sequence[Hashable]:
        """The `product` of each step that must be done before."""
        return [self.cell, (self.cell, self.method)]

    @property
    def product(self) -> Hashable:
        """What no other step reads."""
        return self.key

    def __str__(self) -> str:
        return str(self.key)


Step = SubsampleStep | AugmentStep | TrainStep
StepResult = StageResult | UserError


def cell_steps(experiment: Experiment, cell: Cell) -> Iterator[Step]:
    """Yield the steps of a cell in the order of their dependencies; none if it has no trials."""
    if not experiment.has_trials(cell.data_seed):
        return
    yield SubsampleStep(cell)
    for method in experiment.methods:
        if experiment.needs_augmentation(method, cell.data_seed):
            with_lm = experiment.lm_settings_for(method) is not None
            for draw in experiment.draws_for(cell.data_seed):
                yield AugmentStep(cell, method, draw, with_lm)
        for classifier in experiment.classifiers_for(method, cell.data_seed):
            yield TrainStep(cell, method, classifier)


def rows_first(steps: Sequence[Step]) -> list[Step]:
    """Return the steps with all subsamples and synthetic sets before the first training."""
    return sorted(steps, key=lambda step: isinstance(step, TrainStep))


def trial_demand(
    steps: Sequence[Step],
    experiment: Callable[[Cell], Experiment],
    open_classifier: Callable[[Experiment, ClassifierSettings], Classifier],
) -> TrialDemand:
    """Return what the trials and sets of some steps need, those that can run in parallel.

    Args:
        steps: the steps.
        experiment: returns the variant of the experiment that a cell belongs to.
        open_classifier: opens a classifier; one that cannot be opened has a reason.
    """
    trainings = [
        step for step in steps if isinstance(step, TrainStep) and step.classifier.runs_in_parallel
    ]
    experiments = {step.classifier: experiment(step.cell) for step in trainings}
    return TrialDemand(
        list(experiments),
        sum(
            len(experiment(step.cell).trials_for(step.classifier, step.cell.data_seed))
            for step in trainings
        ),
        experiment(steps[0].cell).resources.gpu if steps else 1.0,
        lambda settings: open_classifier(experiments[settings], settings),
        any(
            isinstance(step, AugmentStep) and step.uses_lm and costs_money(experiment(step.cell).lm)
            for step in steps
        ),
    )
