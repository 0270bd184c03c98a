"""Runs the stages over all cells of an experiment."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..layout import TrialKey
from .schedule import FinishedStep, run_steps
from .stages import Stages
from .steps import REAL_ROWS_ONLY, Step, StepResult

if TYPE_CHECKING:
    from ..report import ExpectedTrials, Report


@dataclass
class Grid(Stages):
    """The cells of an experiment and what they share; call `close` at the end.

    Attributes:
        outcomes: the steps that have run, and their results.
    """

    outcomes: list[FinishedStep] = field(init=False, default_factory=list)

    def run(self) -> Iterator[StepResult]:
        """Run every stage of every cell; yield each result as it comes.

        A step that fails does not stop the others.
        """
        first = self.experiments[0]
        for classifier in first.classifiers:
            if not classifier.reads_synthetic_rows and len(first.methods) > 1:
                self.callbacks.warn(f"classifier '{classifier.name}' {REAL_ROWS_ONLY}")
        yield from self.run_steps(self.steps(), "run steps")

    def run_steps(self, steps: Sequence[Step], name: str) -> Iterator[StepResult]:
        """Run some steps; yield each result as it comes, and keep it in `outcomes`.

        The progress bar's `name` ends with ` steps`.
        """
        for outcome in run_steps(self, steps, name):
            self.outcomes.append(outcome)
            yield outcome[1]

    def expected_trials(self) -> "list[ExpectedTrials]":
        """Return the trials files that the config asks for, whether they exist or not."""
        from ..report import ExpectedTrials

        expected = []
        for cell in self.cells():
            experiment = self.experiment(cell)
            for classifier in experiment.classifiers:
                count = len(experiment.trials_for(classifier, cell.data_seed))
                expected += [
                    ExpectedTrials(
                        self.layout.trials_path(TrialKey(cell, method, classifier.name)),
                        count,
                        cell.task,
                        cell.level,
                        method,
                        classifier.name,
                        cell.variant,
                        experiment.paper_column,
                    )
                    for method in experiment.methods
                    if experiment.accepts(method, classifier)
                ]
        return expected

    def report(self, output: Path | None = None) -> "Report":
        """Report on the trials of all cells, missing ones included."""
        from ..report import ReportInput, report

        inputs = ReportInput(self.layout.name, [], self.expected_trials(), self.layout.root)
        return report(inputs, output or self.layout.report_folder, callbacks=self.callbacks)
