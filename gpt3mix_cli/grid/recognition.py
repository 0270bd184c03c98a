"""Recognises the steps whose outputs are up to date before anything else is started."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import UserError
from ..records import OutOfDate, StageResult
from .steps import Step, TrainStep

if TYPE_CHECKING:
    from .runner import Grid


def split_finished(grid: "Grid", steps: Sequence[Step]) -> tuple[list[StageResult], list[Step]]:
    """Return the results of the steps that are up to date, and the other steps.

    After a step that is not, the later ones of its cell are not checked: their inputs may change.
    No worker is started for what is finished, and no model is opened that was opened before.
    """
    if grid.options.force:
        return [], list(steps)
    checking = copy.copy(grid)  # with the same data, models and layout
    checking.options = replace(grid.options, only_checks=True)
    finished, missing = list[StageResult](), list[Step]()
    unfinished_cells = set()
    for step in steps:
        saves_model = isinstance(step, TrainStep) and step.save_model is not None
        if step.cell not in unfinished_cells and not saves_model:
            try:
                finished.append(checking.run_step(step))
                continue
            except (OutOfDate, UserError):  # an error is reported when the step runs
                pass
        unfinished_cells.add(step.cell)
        missing.append(step)
    return finished, missing
