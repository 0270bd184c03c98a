"""The trials files that a config asks for, as the report needs them."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..layout import Cell, Layout, TrialKey
from ..settings import Experiment

if TYPE_CHECKING:
    from ..report import ExpectedTrials


def expected_trials(
    cells: Iterable[Cell], experiment_of: Callable[[Cell], Experiment], layout: Layout
) -> "list[ExpectedTrials]":
    """Return the trials files of all cells, whether they exist or not."""
    from ..report import ExpectedTrials

    expected = []
    for cell in cells:
        experiment = experiment_of(cell)
        for classifier in experiment.classifiers:
            count = len(experiment.trials_for(classifier, cell.data_seed))
            expected += [
                ExpectedTrials(
                    layout.trials_path(TrialKey(cell, method, classifier.name)),
                    count,
                    cell.task,
                    cell.level,
                    method,
                    classifier.name,
                    cell.variant,
                )
                for method in experiment.methods
                if experiment.accepts(method, classifier)
            ]
    return expected
