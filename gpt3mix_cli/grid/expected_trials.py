"""The trials files that a config asks for, as the report needs them."""

from typing import TYPE_CHECKING

from ..layout import TrialKey

if TYPE_CHECKING:
    from ..report import ExpectedTrials
    from .stages import Stages


def expected_trials(grid: "Stages") -> "list[ExpectedTrials]":
    """Return the trials files of all cells, whether they exist or not."""
    from ..report import ExpectedTrials

    expected = []
    for cell in grid.cells():
        experiment = grid.experiment(cell)
        for classifier in experiment.classifiers:
            count = len(experiment.trials_for(classifier, cell.data_seed))
            expected += [
                ExpectedTrials(
                    grid.layout.trials_path(TrialKey(cell, method, classifier.name)),
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
