"""Reads an experiment file: YAML, then `--set` overrides, then the settings models.

All problems of a file are reported together. A file holds one document without YAML tags. A `task:`
that is a path or a name is read from that file, as are those of `tasks:`. Paths are relative to the
file that names them. Class names and label tokens are read as written: `no` and `1` stay words.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pydantic

from .errors import UserError, did_you_mean
from .settings import FILE_NAME_PATTERN, Experiment, Task
from .settings.problems import format_problems
from .task_files import DATA_PATHS, WORD_SECTIONS, anchor_paths, read_task, read_tasks
from .yaml_files import holds_words, parse_yaml, read_yaml

SPEC_KEYS = ("text_type", "label_type", "labels")  # of a task specification
MODEL_PATHS = ("model", "forward", "backward")  # keys that hold paths
AUGMENT_PATHS = ("similarity", "unlabelled")
MAX_VARIANTS = 1_000  # of a sweep
Override = tuple[str, Any, str]  # key, value, and what messages call it


def load_experiments(path: Path, overrides: Sequence[str] = ()) -> list[Experiment]:
    """Return the experiments that a file describes: one for each task and variant of its `sweep`.

    Args:
        path: the YAML file.
        overrides: `a.b.c=value`; the value is YAML and may be a whole mapping. Overriding a swept
            key removes it from the sweep; a key below a swept one is set in each of its values, and
            a key below `task` in each of the `tasks`.

    Raises:
        UserError: with every problem of the file and the key of each.
    """
    raw = read_yaml(path, "give the path of an experiment's YAML file", WORD_SECTIONS)
    if not isinstance(raw, dict):
        raise UserError(
            f"{path}: the file is not a mapping of keys",
            "see configs/demo.yaml for a complete example",
        )
    return experiments_of(raw, path, overrides)


def experiments_of(
    raw: dict[str, Any], path: Path, overrides: Sequence[str] = ()
) -> list[Experiment]:
    """Return the experiments of a config's keys.

    Args:
        raw: the keys; top-level keys are added.
        path: the file that they are from, for messages and relative paths.
        overrides: see `load_experiments`.

    Raises:
        UserError: with every problem of the keys.
    """
    raw["name"] = path.stem if raw.get("name") is None else raw["name"]
    raw["sweep"] = {} if raw.get("sweep") is None else raw["sweep"]
    if raw.get("tasks") is not None:
        if raw.get("task") is not None:
            raise UserError(f"{path}: has both `task` and `tasks`", "remove one of them")
        raw["tasks"] = read_tasks(path, raw["tasks"])
    elif isinstance(raw.get("task"), str):
        _set(raw, "task", raw["task"], path, str(path))
    below_sweep = []
    for override in _in_order(overrides, has_tasks=bool(raw.get("tasks"))):
        below_sweep += _override(raw, override, path)
    experiments = [
        _validate(path, variant, raw_variant)
        for raw_task in _each_task(raw, path)
        for variant, raw_variant in _variants(raw_task, path, below_sweep)
    ]
    settings = [experiment.model_dump(exclude={"sweep"}) for experiment in experiments]
    for index, experiment in enumerate(experiments):
        if settings[index] in settings[:index]:
            raise UserError(
                f"{path}: sweep: the variant {experiment.variant} has the settings of an earlier "
                "one",
                "sweep each value once",
            )
    return experiments


def load_specs(path: Path, task: Task) -> list[Task]:
    """Return a task with each task specification of a file: a YAML list of mappings.

    Args:
        path: the file; keys of a mapping are text_type, label_type and labels.
        task: gives what a specification leaves out.

    Raises:
        UserError: naming the specification that is wrong.
    """
    items = read_yaml(path, "give the path of a list of task specifications", WORD_SECTIONS)
    example = "for example - {text_type: movie review, label_type: sentiment}"
    if not isinstance(items, list) or not items:
        raise UserError(f"{path}: not a list of task specifications", example)
    tasks = []
    for number, item in enumerate(items, 1):
        where = f"{path}, specification {number}"
        if not isinstance(item, dict):
            raise UserError(f"{where}: not a mapping of keys", example)
        if unknown := [key for key in item if key not in SPEC_KEYS]:
            raise UserError(
                f"{where}: unknown key '{unknown[0]}'{did_you_mean(str(unknown[0]), SPEC_KEYS)}",
                f"its keys are {', '.join(SPEC_KEYS)}",
            )
        try:
            spec = Task.model_validate({**task.model_dump(), "specification": "own", **item})
        except pydantic.ValidationError as error:
            raise UserError(f"{where}: {error.errors()[0]['msg']}", example) from None
        if spec.classes != task.classes:
            raise UserError(
                f"{where}: its classes are {', '.join(spec.classes)}",
                f"give each of {', '.join(task.classes)} a label word, in this order",
            )
        tasks.append(spec)
    return tasks


def _in_order(overrides: Sequence[str], has_tasks: bool) -> list[str]:
    """Return the overrides in an order in which `tasks=` chooses without dropping another one.

    Keys of one of the config's tasks (`tasks.cr.text_type`) are set before the choice, keys of all
    tasks (`task.text_type`) after it.
    """

    def rank(override: str) -> int:
        key = override.partition("=")[0].strip()
        if key == "tasks":
            return 1
        return 0 if has_tasks and key.startswith("tasks.") else 2

    return sorted(overrides, key=rank)


def _override(raw: dict[str, Any], override: str, path: Path) -> list[Override]:
    """Set a key; return what is to be set in each variant, because it is below a swept key."""
    key, equals, value = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UserError(f"--set {override}: expected key=value", "for example --set augment.k=4")
    where = f"--set {key}"
    words = holds_words(key, WORD_SECTIONS)
    parsed = parse_yaml(value, where, WORD_SECTIONS, words)
    sweep = raw["sweep"] if isinstance(raw["sweep"], dict) else {}
    if any(key.startswith(f"{name}.") for name in sweep):
        return [(key, parsed, where)]
    if key == "task" and (swept := [name for name in sweep if name.startswith("task.")]):
        raise UserError(
            f"{where}: the config sweeps {swept[0]}, which another task would drop",
            "give --set sweep={} before it to drop the sweep, or set the keys below task",
        )
    if key == "tasks" and "task" in sweep:
        raise UserError(f"{where}: the config sweeps task", "choose with --set sweep.task=[...]")
    _set(raw, key, parsed, path, where)
    if isinstance(raw["sweep"], dict):
        raw["sweep"] = {
            name: values for name, values in raw["sweep"].items() if not _overlap(key, name)
        }
    return []


def _overlap(key: str, other: str) -> bool:
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _set(raw: dict[str, Any], key: str, value: Any, path: Path, where: str) -> None:
    """Set the value at a dotted key; task files are read at once: their keys may be set next."""
    tasks = raw.get("tasks")
    if key == "tasks":
        raw.pop("task", None)
        raw["tasks"] = read_tasks(path, value, tasks or ())
        return
    if tasks and key == "task":
        names = ", ".join(task["name"] for task in tasks)
        raise UserError(
            f"{where}: the config has several tasks: {names}",
            f"choose among them with --set tasks=[{tasks[0]['name']}]; --set task.KEY=VALUE "
            "reaches each of them",
        )
    if tasks and key.startswith("task."):
        for task in tasks:
            _put(task, key.split(".")[1:], _copy(value), where)
        return
    for task in tasks or ():
        if key.startswith(f"tasks.{task['name']}."):
            _put(task, key.removeprefix(f"tasks.{task['name']}.").split("."), value, where)
            return
    _, *below = key.split(".")
    if key.startswith("tasks.") and (not tasks or len(below) < 2 or not below[0].isdigit()):
        known = ", ".join(task["name"] for task in tasks or ()) or "none"
        raise UserError(f"{where}: the config has no such task", f"its tasks: {known}")
    if key == "task" and isinstance(value, str):
        value = read_task(path, value)
    # The keys of a sweep contain dots.
    keys = key.split(".", 1) if key.startswith("sweep.") else key.split(".")
    _put(raw, keys, value, where)


def _each_task(raw: dict[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    """Yield the keys with each of the tasks; without `tasks`, the keys as they are."""
    if not (tasks := raw.get("tasks")):
        yield raw
        return
    if isinstance(raw["sweep"], dict) and "task" in raw["sweep"]:
        raise UserError(f"{path}: sweep: task is given by `tasks`", "remove it from the sweep")
    names = [task["name"] for task in tasks]
    for task in tasks:
        yield {**raw, "tasks": names, "task": task}


def _put(raw: Any, keys: Sequence[str], value: Any, where: str) -> None:
    """Set the value at a dotted key and create the mappings on the way; lists take an index."""
    for position, key in enumerate(keys):
        index: Any = key
        if isinstance(raw, list):
            if not key.isdigit() or int(key) >= len(raw):
                raise UserError(
                    f"{where}: '{key}' is not an index of a list of {len(raw)}",
                    "entries are numbered from 0",
                )
            index = int(key)
        elif not isinstance(raw, dict):
            raise UserError(
                f"{where}: '{'.'.join(keys[:position])}' is a plain value and has no keys",
                "set all of it instead",
            )
        if position == len(keys) - 1:
            raw[index] = value
        elif isinstance(raw, dict) and raw.get(key) is None:
            raw[key] = {}
        raw = raw[index]


def _variants(
    raw: dict[str, Any], path: Path, below_sweep: Sequence[Override]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    sweep = raw["sweep"]
    if not isinstance(sweep, dict) or not all(
        isinstance(values, list) and values for values in sweep.values()
    ):
        raise UserError(
            f"{path}: sweep: expected key -> list of values",
            "for example sweep: {augment.k: [1, 2, 4]}",
        )
    if name := next((name for name in sweep if name == "tasks" or name.startswith("tasks.")), None):
        raise UserError(
            f"{path}: sweep: '{name}' cannot be swept: every task has all variants",
            "list the tasks in `tasks`; sweep a key of all of them as task.KEY",
        )
    num_variants = math.prod(map(len, sweep.values()))
    if num_variants > MAX_VARIANTS:
        raise UserError(
            f"{path}: sweep: {num_variants:,} variants", f"sweep at most {MAX_VARIANTS:,}"
        )
    for values in itertools.product(*sweep.values()):
        variant = dict(zip(sweep, values, strict=True))
        # Variants must not share the mappings that `_put` writes into, not even those of an alias.
        raw_variant = _copy(raw)
        names = raw_variant.pop("tasks", None)
        for key, value in variant.items():
            _set(raw_variant, key, _copy(value), path, f"{path}: sweep: {key}")
        for key, value, where in below_sweep:
            _set(raw_variant, key, _copy(value), path, where)
        if names:
            raw_variant["tasks"] = names
        yield variant, raw_variant


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _validate(path: Path, variant: dict[str, Any], raw: dict[str, Any]) -> Experiment:
    task, where = raw.get("task"), str(path)
    if isinstance(task, dict):
        if raw.get("tasks"):
            where += f", task {task.get('name')}"
        name = str(raw.get("name"))
        # A bad name is reported once, for the experiment.
        task.setdefault("name", name if FILE_NAME_PATTERN.fullmatch(name) else "task")
        anchor_paths(task.get("data"), DATA_PATHS, path.parent)
        if task.get("labels") == "auto":
            _find_labels(task)
    for section in [raw.get("lm"), *_items(raw.get("baselines")), *_items(raw.get("classifiers"))]:
        if isinstance(section, dict):
            # An endpoint's name of its model is not a path, even if a folder has the same name.
            is_endpoint = section.get("kind") == "openai"
            keys = ("tokenizer", "prices") if is_endpoint else (*MODEL_PATHS, *AUGMENT_PATHS)
            anchor_paths(section, keys, path.parent)
    anchor_paths(raw.get("augment"), AUGMENT_PATHS, path.parent)
    try:
        experiment = Experiment.model_validate(raw)
    except pydantic.ValidationError as error:
        raise UserError(
            format_problems(where, raw, error),
            "fix the file, or override a key with --set key=value",
        ) from None
    experiment._variant.update(variant)
    return experiment


def _find_labels(task: dict[str, Any]) -> None:
    from .classes import auto_labels  # reads the data

    labels, values = auto_labels(task.get("data"))
    if labels:
        task["labels"], task["data"] = labels, {**task["data"], "values": values}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
