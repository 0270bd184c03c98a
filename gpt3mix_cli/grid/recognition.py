"""Recognises the steps whose outputs are up to date before anything else is started."""

from collections.abc import Callable, Sequence

from ..errors import UserError
from ..records import OutOfDate, StageResult
from .steps import Step, TrainStep


def split_finished(
    steps: Sequence[Step], check: Callable[[Step], StageResult]
) -> tuple[list[StageResult], list[Step]]:
    """Return the results of the steps that are up to date, and the other steps.

    After a step that is not, the later ones of its cell are not checked: their inputs may change.
    No worker is started for what is finished, and no model is opened that was opened before.

    Args:
        steps: in the order of their dependencies.
        check: returns the result of a step that is up to date, and raises OutOfDate for others.
    """
    finished, missing = list[StageResult](), list[Step]()
    unfinished_cells = set()
    for step in steps:
        saves_model = isinstance(step, TrainStep) and step.save_model is not None
        if step.cell not in unfinished_cells and not saves_model:
            try:
                finished.append(check(step))
                continue
            except (OutOfDate, UserError):  # an error is reported when the step runs
                pass
        unfinished_cells.add(step.cell)
        missing.append(step)
    return finished, missing
