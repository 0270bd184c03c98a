"""Reads an experiment file: YAML, then `--set` overrides, then the settings models, all problems told together.

Limits: one document a file, no YAML tags; a `task:` that is a path is read from that file; paths are relative to the
file in which they stand; class names and label tokens are read as written, so `no` and `1` stay words.
"""

import itertools
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from .errors import UserError, did_you_mean
from .settings import FILE_NAME_PATTERN, Experiment, Settings

# The sections whose scalars are words even if they look like booleans, numbers or nothing.
WORDS = {"labels", "values"}


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core scalars: `yes` and `off` are words, `3e-5` is a number, 1:30 is no sexagesimal."""


_Loader.yaml_implicit_resolvers = {}

for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first)
    )


# Without YAML 1.1's octal: 010 is ten.
_Loader.add_constructor(
    "tag:yaml.org,2002:int",
    lambda loader, node: int(loader.construct_scalar(typing.cast(yaml.ScalarNode, node))),
)


def load_experiments(path: Path, overrides: Sequence[str] = ()) -> list[Experiment]:
    """Return the experiments that a file describes: one, or one a variant where it has a `sweep`.

    Args:
        path: the YAML file.
        overrides: `a.b.c=value` each; the value is YAML and may be a whole mapping. An overridden key is swept no more.

    Raises:
        UserError: with every problem of the file, each with its key path.
    """
    raw = _read(path)
    if not isinstance(raw, dict):
        raise UserError(
            f"{path}: the file holds no mapping of keys",
            "see configs/demo.yaml for a whole example",
        )
    if raw.get("name") is None:
        raw["name"] = path.stem
    if raw.get("sweep") is None:
        raw["sweep"] = {}
    if isinstance(raw.get("task"), str):
        _set(raw, "task", raw["task"], path, str(path))
    for override in overrides:
        key, equals, value = override.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UserError(
                f"--set {override}: expected key=value", "for example --set augment.k=4"
            )
        where = f"--set {key}"
        _set(raw, key, _parse(value, where, words=_of_words(key)), path, where)
        if isinstance(raw["sweep"], dict):
            raw["sweep"] = {
                swept: values for swept, values in raw["sweep"].items() if not _overlap(key, swept)
            }
    experiments = [
        _validate(path, variant, raw_variant) for variant, raw_variant in _variants(raw, path)
    ]
    seen: list[dict[str, Any]] = []
    for experiment in experiments:
        settings = experiment.model_dump(exclude={"sweep"})
        if settings in seen:
            raise UserError(
                f"{path}: sweep: the variant {experiment.variant} has the settings of an earlier one",
                "sweep each value once",
            )
        seen.append(settings)
    return experiments


def _of_words(key: str) -> bool:
    return not WORDS.isdisjoint(key.split("."))


def _overlap(key: str, other: str) -> bool:
    """Return whether one of two dotted keys is the other or lies in it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _set(raw: dict[str, Any], key: str, value: Any, path: Path, where: str) -> None:
    """Set the value at a dotted key; a task that is a path is read at once, so that its keys can be set after it."""
    if key == "task" and isinstance(value, str):
        raw["task"] = _task_file(path, value)
    else:
        # The keys of a sweep are themselves dotted.
        _put(
            raw,
            ["sweep", key.removeprefix("sweep.")] if key.startswith("sweep.") else key.split("."),
            value,
            where,
        )


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file", "give the path of an experiment's YAML file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read: {error}", "give the path of a YAML file in UTF-8"
        ) from None
    return _parse(text, str(path))


def _parse(text: str, where: str, words: bool = False) -> Any:
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None if where.startswith("--set") else {}
        _prepare(node, where, words)
        return loader.construct_document(node)
    except RecursionError:
        raise UserError(
            f"{where}: an alias holds itself, or the file is nested too deep",
            "write the values out",
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}, line {mark.line + 1}" if mark else where
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise UserError(
            f"{place}: no valid YAML: {problem}", "check indentation, colons and quotes"
        ) from None
    finally:
        if loader is not None:
            loader.dispose()


def _prepare(node: yaml.Node, where: str, words: bool) -> None:
    """Turn the scalars of word sections into strings, and refuse a key that stands twice: YAML would drop one silently."""
    if isinstance(node, yaml.ScalarNode) and words:
        node.tag = "tag:yaml.org,2002:str"
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _prepare(item, where, words)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(
                    f"{where}, line {key.start_mark.line + 1}: a key must be a plain word",
                    "quote it or rename it",
                )
            if key.value in seen and key.value != "<<":
                raise UserError(
                    f"{where}, line {key.start_mark.line + 1}: the key '{key.value}' stands twice",
                    "remove one of the two",
                )
            seen.add(key.value)
            if key.tag != "tag:yaml.org,2002:merge":
                key.tag = "tag:yaml.org,2002:str"
            _prepare(value, where, words or _of_words(key.value))


def _task_file(path: Path, task: str) -> Any:
    file = path.parent / Path(task).expanduser()
    if not file.is_file():
        raise UserError(
            f"{path}: task: no such file: {file}",
            "give the path of a task file, relative to the experiment's file",
        )
    raw = _read(file)
    if isinstance(raw, dict):
        if FILE_NAME_PATTERN.fullmatch(file.stem):
            raw.setdefault("name", file.stem)
        if isinstance(raw.get("data"), dict):
            _anchor(raw["data"], ("train", "validation", "test", "path"), file.parent)
    return raw


def _anchor(mapping: dict[str, Any], keys: Sequence[str], folder: Path) -> None:
    """Make the paths under `keys` independent of the working directory; a name that is no path there is left alone."""
    for key in keys:
        value = mapping.get(key)
        if isinstance(value, str) and value:
            try:
                place = folder / Path(value).expanduser()
                # `models/en-{pivot}` is a path where any pivot's folder is there.
                several = "{pivot}" in place.name and any(
                    place.parent.glob(place.name.replace("{pivot}", "*"))
                )
                if place.exists() or several or mapping.get("kind") == "files":
                    mapping[key] = str(place.resolve())
            except (OSError, RuntimeError, ValueError):
                pass  # no path at all: whoever opens it will say so


def _put(raw: Any, keys: Sequence[str], value: Any, where: str) -> None:
    """Set the value at a dotted key, making mappings on the way; a number names an entry of a list."""
    for position, key in enumerate(keys):
        last = position == len(keys) - 1
        if isinstance(raw, list):
            if not key.isdigit() or int(key) >= len(raw):
                raise UserError(
                    f"{where}: '{key}' names no entry of a list of {len(raw)}",
                    "entries are numbered from 0",
                )
            index: Any = int(key)
        elif isinstance(raw, dict):
            index = key
            if not last and not isinstance(raw.get(key), dict | list):
                raw[key] = {}
        else:
            raise UserError(
                f"{where}: '{'.'.join(keys[:position])}' is a plain value and has no keys",
                "set the whole of it instead",
            )
        if last:
            raw[index] = value
        raw = raw[index]


def _variants(raw: dict[str, Any], path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    sweep = raw["sweep"]
    if not isinstance(sweep, dict) or not all(
        isinstance(values, list) and values for values in sweep.values()
    ):
        raise UserError(
            f"{path}: sweep: expected key -> list of values",
            "for example sweep: {augment.k: [1, 2, 4]}",
        )
    for values in itertools.product(*sweep.values()):
        variant = dict(zip(sweep, values, strict=True))
        # A deep copy by construction: variants must not share the mappings that `_put` writes into.
        copy = _copy(raw)
        for key, value in variant.items():
            _set(copy, key, _copy(value), path, f"{path}: sweep: {key}")
        yield variant, copy


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _validate(path: Path, variant: dict[str, Any], raw: dict[str, Any]) -> Experiment:
    task = raw.get("task")
    if isinstance(task, dict):
        name = str(raw.get("name"))
        task.setdefault(
            "name", name if FILE_NAME_PATTERN.fullmatch(name) else "task"
        )  # a bad name is told once
        if isinstance(task.get("data"), dict):
            _anchor(task["data"], ("train", "validation", "test", "path"), path.parent)
    for section in [raw.get("lm"), *_items(raw.get("baselines")), *_items(raw.get("classifiers"))]:
        if isinstance(section, dict):
            # What an endpoint calls its model is no path, whatever stands in the folder.
            places = (
                ("tokenizer", "prices")
                if section.get("kind") == "openai"
                else ("model", "forward", "backward")
            )
            _anchor(section, places, path.parent)
    if isinstance(raw.get("augment"), dict):
        _anchor(raw["augment"], ("similarity",), path.parent)
    try:
        experiment = Experiment.model_validate(raw)
    except pydantic.ValidationError as error:
        raise UserError(
            _all_problems(path, raw, error), "mend the file, or override a key with --set key=value"
        ) from None
    experiment._variant.update(variant)
    return experiment


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _all_problems(path: Path, raw: Any, error: pydantic.ValidationError) -> str:
    problems: dict[str, list[str]] = {}
    for item in error.errors():
        key, fields = _locate(raw, item["loc"])
        message = _in_words(item, fields)
        if message not in problems.setdefault(key, []):
            problems[key].append(message)
    lines = [
        f"  {key or '(whole file)'}: {', or '.join(messages)}" for key, messages in problems.items()
    ]
    return "\n".join(
        [f"{path}: {len(lines)} problem{'s' if len(lines) > 1 else ''} in the settings", *lines]
    )


def _in_words(item: Any, fields: Sequence[str]) -> str:
    given = item.get("input")
    match item["type"]:
        case "extra_forbidden":
            return f"unknown key{did_you_mean(str(item['loc'][-1]), fields)} (known here: {', '.join(fields)})"
        case "missing":
            return "is needed and missing"
        case "union_tag_invalid":
            expected = [word.strip("' ") for word in item["ctx"]["expected_tags"].split(",")]
            return f"unknown kind '{item['ctx']['tag']}'{did_you_mean(item['ctx']['tag'], expected)} (known: {', '.join(expected)})"
        case "union_tag_not_found":
            return "needs a `kind:`"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"expected a mapping of keys, got {given!r}"
        case "value_error":
            return str(item["ctx"]["error"])
        case _:
            message = item["msg"][0].lower() + item["msg"][1:]
            return message if isinstance(given, dict) else f"{message}, got {given!r}"


def _locate(raw: Any, loc: Sequence[int | str]) -> tuple[str, list[str]]:
    """Return the key path as the user wrote it and the keys known beside it; pydantic's union tags are no keys."""
    path: list[str] = []
    options: list[Any] = [Experiment]
    fields: list[str] = []
    for part in loc:
        models = [
            option
            for option in options
            if isinstance(option, type) and issubclass(option, Settings)
        ]
        tagged = [
            m
            for m in models
            if "kind" in m.model_fields
            and part in typing.get_args(m.model_fields["kind"].annotation)
        ]
        if tagged:
            options = tagged
            continue
        fields = [name for m in models for name in m.model_fields]
        inside = raw is not None and isinstance(raw, dict | list)
        known = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        if not known and not models and not isinstance(part, int) and not (inside and part in raw):
            continue  # the name of a union's member, such as 'float' or "literal['auto']"
        path.append(str(part))
        if known:
            options = [option for annotation in known for option in _alternatives(annotation)]
        if isinstance(raw, dict):
            raw = raw.get(part)
        elif isinstance(raw, list) and isinstance(part, int) and part < len(raw):
            raw = raw[part]
        else:
            raw = None
    return ".".join(path), fields


def _alternatives(annotation: Any) -> list[Any]:
    """Return the members of a union, the element of a list, or the annotation itself."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated, list):
        return [inner for part in typing.get_args(annotation) for inner in _alternatives(part)]
    return [annotation]
