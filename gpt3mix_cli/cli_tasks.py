"""The command `tasks`, added to those of `cli`."""

import textwrap
from typing import TYPE_CHECKING

import typer

from . import cli_options as opt

if TYPE_CHECKING:
    from .settings import Task

app = typer.Typer()


@app.command()
def tasks(quiet: opt.Quiet = False, json: opt.Json = False) -> None:
    """List the packaged tasks, which a config names as `task: NAME`."""
    with opt.open_display(quiet, json) as display:
        from .settings import Task
        from .task_files import configs_folder, packaged_tasks, read_task

        folder = configs_folder()
        names = packaged_tasks()
        known = [Task.model_validate(read_task(folder / "tasks.yaml", name)) for name in names]
        value = {"tasks": [task.model_dump() for task in known], "configs": str(folder)}
        if not json:
            display.print_lines(line for task in known for line in _lines(task))
        end = f"{len(known)} tasks; example configs are in {folder}"
        display.print_summary((), value, end, "gpt3mix guide your-data")


def _lines(task: "Task") -> list[str]:
    rows = ", ".join(f"{count:,} {split}" for split, count in task.about.rows.items())
    words = ", ".join(
        name if name == word else f"{name} ({word})" for name, word in task.labels.items()
    )
    return [
        f"{task.name:<8}{task.about.title}",
        *textwrap.wrap(
            f"{task.label_type} of a {task.text_type}: {words}",
            width=80,
            initial_indent=" " * 8,
            subsequent_indent=" " * 10,
        ),
        f"        rows: {rows}; license: {task.about.license}",
        f"        {_place(task)}; {task.about.source}",
    ]


def _place(task: "Task") -> str:
    path = getattr(task.data, "path", None)
    return f"{task.data.kind}: {path}" if path else "packaged"
