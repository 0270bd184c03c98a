"""Recognises the steps whose outputs are up to date before anything else is started."""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from ..errors import UserError
from ..records import OutOfDate, StageResult
from .steps import Step, TrainStep

if TYPE_CHECKING:
    from .stages import Stages


def step_states(grid: "Stages") -> list[tuple[Step, bool]]:
    """Return every step of a run, and whether its output is up to date; nothing is written."""
    finished, _ = split_finished(grid, steps := grid.steps())
    up_to_date = {id(step) for step, _ in finished}
    return [(step, id(step) in up_to_date) for step in steps]


def split_finished(
    grid: "Stages", steps: Sequence[Step]
) -> tuple[list[tuple[Step, StageResult]], list[Step]]:
    """Return the steps that are up to date with their results, and the other steps.

    A step that reads the output of one that is not is not checked: its inputs may change.
    No worker is started for what is finished, and no model is opened that was opened before.
    """
    if grid.options.force:
        return [], list(steps)
    checking = grid.with_options(only_checks=True)
    finished, missing = list[tuple[Step, StageResult]](), list[Step]()
    unfinished = set[Hashable]()
    for step in steps:
        saves_model = isinstance(step, TrainStep) and step.save_model is not None
        if unfinished.isdisjoint(step.inputs) and not saves_model:
            try:
                finished.append((step, checking.run_step(step)))
                continue
            except (OutOfDate, UserError):  # an error is reported when the step runs
                pass
        unfinished.add(step.product)
        missing.append(step)
    return finished, missing
