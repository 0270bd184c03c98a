"""The stages' own commands of a run, for schedulers of others: xargs, make, job arrays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from .cli_hints import Flags, command_line
from .cli_options import GridOptions
from .errors import UserError

if TYPE_CHECKING:
    from .grid import Grid

Form = Literal["commands", "make"]
STAGES = ("subsample", "augment", "baseline", "train", "report")


@dataclass(frozen=True)
class StageCommand:
    """A command line of one stage on one level and data seed.

    Attributes:
        stage: the command's name.
        target: its name in a makefile; names of methods and others hold no comma.
        command: as a shell reads it.
        requires: targets that must be made before.
    """

    stage: str
    target: str
    command: str
    requires: Sequence[str] = ()


def emitted_lines(grids: "Sequence[tuple[Grid, GridOptions]]", form: Form) -> Iterator[str]:
    """Yield the lines of a script, in the order of dependencies, or of a makefile.

    Args:
        grids: each experiment, with the options that its commands repeat.
        form: `commands` for one command a line; `make` for a makefile.

    Raises:
        UserError: if the variants of a sweep have different levels, data seeds or methods.
    """
    commands = [command for grid, options in grids for command in stage_commands(grid, options)]
    if len(grids) > 1:
        commands = _with_joint_report(commands, [options for _, options in grids])
    if form == "commands":
        # Stage by stage, so that the lines of one stage can run at the same time.
        for stage in STAGES:
            yield from (item.command for item in commands if item.stage == stage)
        return
    yield ".PHONY: all " + " ".join(item.target for item in commands)
    reports = [item.target for item in commands if item.stage == "report"]
    yield f"all: {' '.join(reports)}"
    for item in commands:
        yield f"{item.target}: {' '.join(item.requires)}".rstrip()
        yield "\t" + item.command.replace("$", "$$")


def _with_joint_report(
    commands: Sequence[StageCommand], experiments: Sequence[GridOptions]
) -> list[StageCommand]:
    """Return commands with one report on all experiments, as `run` writes it."""
    others = [item for item in commands if item.stage != "report"]
    trainings = [item.target for item in others if item.stage == "train"]
    first, *rest = experiments
    line = command_line("report", first, others=[options.config for options in rest])
    return [*others, *([StageCommand("report", "report", line, trainings)] if trainings else [])]


def stage_commands(grid: "Grid", options: GridOptions) -> Iterator[StageCommand]:
    """Yield the commands of an experiment; each serves all variants of a sweep.

    Args:
        grid: the experiment.
        options: that the commands repeat.

    Raises:
        UserError: if the variants of a sweep have different levels, data seeds or methods.
    """
    first, *others = grid.experiments
    cells = first.subsample.levels, first.subsample.seeds, first.methods
    if any((item.subsample.levels, item.subsample.seeds, item.methods) != cells for item in others):
        raise UserError(
            f"{options.config}: the variants of the sweep have different levels, data seeds or "
            "methods, but a command of a stage runs all variants",
            "write a config for each of them",
        )
    trainings = []
    for task in first.tasks or [""]:
        # Each task has commands of its own.
        chosen = [f"tasks=[{task}]"] if task else []
        of_task = replace(options, overrides=[*options.overrides, *chosen])
        for level in first.subsample.levels:
            for seed in first.subsample.seeds:
                for command in _commands_of_cell(grid, of_task, task, level, seed):
                    if command.stage == "train":
                        trainings.append(command.target)
                    yield command
    if trainings:
        target = f"report,{grid.layout.name}"
        yield StageCommand("report", target, command_line("report", options), trainings)


def _commands_of_cell(
    grid: "Grid", options: GridOptions, task: str, level: str, seed: int
) -> Iterator[StageCommand]:
    from .layout import level_name

    experiments = [
        item
        for item in grid.experiments
        if item.has_trials(seed) and (not task or item.task.name == task)
    ]
    if not experiments:
        return
    words = [grid.layout.name, task, level_name(level), str(seed)]
    cell = ",".join(filter(None, words))
    chosen: Flags = [("--level", level), ("--seed", seed)]
    line = command_line("subsample", options, chosen)
    draw = StageCommand("subsample", f"subsample,{cell}", line)
    yield draw
    for method in dict.fromkeys(name for item in experiments for name in item.methods):
        users = [item for item in experiments if method in item.methods]
        requires = [draw.target]
        if any(item.needs_augmentation(method, seed) for item in users):
            stage = "augment" if method == "gpt3mix" else "baseline"
            named: Flags = [] if method == "gpt3mix" else [("--method", method)]
            rows = StageCommand(
                stage,
                f"{stage},{cell},{method}",
                command_line(stage, options, [*named, *chosen]),
                requires,
            )
            yield rows
            requires = [rows.target]
        for name in dict.fromkeys(
            classifier.name for item in users for classifier in item.classifiers_for(method, seed)
        ):
            flags: Flags = [("--method", method), ("--classifier", name), *chosen]
            command = command_line("train", options, flags)
            yield StageCommand("train", f"train,{cell},{method},{name}", command, requires)
