"""Reads task files: those of a path, and the packaged ones by name (`task: sst2`).

The packaged files are `configs/` of the repository, which a wheel holds as `gpt3mix_cli/configs/`.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import UserError, did_you_mean
from .settings import FILE_NAME_PATTERN
from .yaml_files import read_yaml

# Sections whose scalars are words even if they look like booleans, numbers or null.
WORD_SECTIONS = {"labels", "values", "label_descriptions", "attributes"}
DATA_PATHS = ("train", "validation", "test", "path")  # keys of `task.data` that hold paths
EXPERIMENT_KEYS = {"task", "tasks", "subsample"}  # that no task has
HINT = "give the path of a task file, relative to the experiment's file, or the name of a packaged"


def configs_folder() -> Path:
    """Return the folder of the packaged configs: in the wheel, or in a clone of the repository."""
    package = Path(__file__).parent
    packaged = package / "configs"
    return packaged if packaged.is_dir() else package.parent / "configs"


def packaged_tasks() -> dict[str, Path]:
    """Return the packaged task files by their names, sorted."""
    return {path.stem: path for path in sorted((configs_folder() / "tasks").glob("*.yaml"))}


def read_task(path: Path, task: str) -> Any:
    """Return the keys of a task file.

    Args:
        path: the experiment's file, for relative paths and messages.
        task: a path, or the name of a packaged task.

    Raises:
        UserError: if there is no such task, or the file is an experiment.
    """
    file = _find_task(path, task)
    raw = read_yaml(file, HINT + " task", WORD_SECTIONS)
    if isinstance(raw, dict):
        if not EXPERIMENT_KEYS.isdisjoint(raw):
            raise UserError(
                f"{path}: task: {file} is an experiment, not a task file",
                "a task file has the keys below its `task:` and nothing else: `data:`, `labels:` "
                "and so on; see `gpt3mix guide your-data`",
            )
        if FILE_NAME_PATTERN.fullmatch(file.stem):
            raw.setdefault("name", file.stem)
        anchor_paths(raw.get("data"), DATA_PATHS, file.parent)
    return raw


def read_tasks(path: Path, tasks: Any, known: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """Return the keys of each of several tasks, with their names.

    Args:
        path: the experiment's file, for relative paths and messages.
        tasks: a list of paths, names and mappings.
        known: earlier tasks of the experiment, which a name may mean too.

    Raises:
        UserError: if an entry is not a task, or two have one name.
    """
    example = "for example tasks: [sst2, cr, tasks/own.yaml]"
    if not isinstance(tasks, list) or not tasks:
        raise UserError(f"{path}: tasks: expected a list of tasks", example)
    by_name = {task["name"]: task for task in known}
    results: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(tasks, 1):
        where = f"{path}: tasks: entry {number}"
        task = entry
        if isinstance(entry, str):
            task = by_name[entry] if entry in by_name else read_task(path, entry)
        if not isinstance(task, dict):
            raise UserError(f"{where} is not a task", example)
        if not isinstance(name := task.get("name"), str) or not FILE_NAME_PATTERN.fullmatch(name):
            raise UserError(
                f"{where} has no name that can be a folder of results",
                "give it a `name:` of letters, digits, '.', '_', '+' and '-'",
            )
        if name in results or name == "report":  # the folder of the report
            problem = "another task has too" if name in results else "the report's folder has"
            raise UserError(
                f"{where} has the name '{name}', which {problem}", "give another `name:`"
            )
        results[name] = task
    return list(results.values())


def _find_task(path: Path, task: str) -> Path:
    # Unlike `Path.expanduser`, an unknown user is no error here: there is no such file.
    file = path.parent / os.path.expanduser(task)
    packaged = packaged_tasks()
    if task in packaged and not os.path.isfile(file):
        return packaged[task]
    hint = f"{HINT} task: {', '.join(packaged)}"
    if not os.path.exists(file):  # unlike that of Path, this takes a name that is too long
        if os.sep in task or Path(task).suffix:
            raise UserError(f"{path}: task: no such file: {file}", hint)
        raise UserError(
            f"{path}: task: no packaged task and no file is called '{task}'"
            f"{did_you_mean(task.lower(), packaged)}",
            hint,
        )
    if os.path.isdir(file):
        raise UserError(f"{path}: task: {file} is a folder", hint)
    return file


def anchor_paths(mapping: Any, keys: Sequence[str], folder: Path) -> None:
    """Make the paths under `keys` absolute; a name that is not a path in `folder` stays."""
    for key in keys if isinstance(mapping, dict) else ():
        value = mapping.get(key)
        if isinstance(value, str) and value:
            try:
                path = folder / os.path.expanduser(value)
                # `models/en-{pivot}` is a path if the folder of any pivot exists.
                has_pivots = "{pivot}" in path.name and any(
                    path.parent.glob(path.name.replace("{pivot}", "*"))
                )
                if path.exists() or has_pivots or mapping.get("kind") == "files":
                    mapping[key] = str(path.resolve())
            except (OSError, RuntimeError, ValueError):
                pass  # not a path; opening it will raise the error
