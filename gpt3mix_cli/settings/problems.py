"""Turns the errors that pydantic finds in an experiment file into messages for the user."""

import typing
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any

from pydantic import ValidationError

from ..errors import did_you_mean
from .base import Settings
from .experiment import Experiment

FILTER_KEYS = {
    "leak": "reject_test_copies",
    "near_copy": "max_parent_overlap",
    "degenerate": "max_repetition",
    "too_short": "min_words",
    "too_long": "max_words",
    "other_language": "max_foreign_script",
    "low_mass": "min_label_mass",
    "disagreement": "max_disagreement",
}
# Old key -> new key. The kind follows the section, and replaces the index in a list.
RENAMED_KEYS = {
    "augment.gate": "augment.filter",
    **{f"augment.gate.{old}": f"augment.filter.{new}" for old, new in FILTER_KEYS.items()},
    "augment.gate.perplexity": "augment.filter.perplexity",
    **{f"augment.filter.{old}": f"augment.filter.{new}" for old, new in FILTER_KEYS.items()},
    "augment.choose": "augment.selection",
    "augment.draws": "augment.synthetic_sets",
    "lm.openai.votes": "lm.num_votes",
    "baselines.mlm.share": "fraction",
}


def format_problems(path: Path, raw: Any, error: ValidationError) -> str:
    """Return all problems of an experiment file, one on each line, with their keys.

    Args:
        path: the file, for the heading.
        raw: what the settings were made from.
        error: raised by pydantic.
    """
    problems: dict[str, list[str]] = {}
    for item in error.errors():
        key, fields = _locate(raw, item["loc"])
        for old, message in _renamed(key, item) or [(key, _describe(item, fields))]:
            if message not in problems.setdefault(old, []):
                problems[old].append(message)
    lines = [
        f"  {key or '(whole file)'}: {', or '.join(messages)}" for key, messages in problems.items()
    ]
    return "\n".join(
        [f"{path}: {len(lines)} problem{'s' if len(lines) > 1 else ''} in the settings", *lines]
    )


def _renamed(key: str, item: Any) -> list[tuple[str, str]]:
    """Return (old key, message) for each renamed key that an error is about."""
    old = ".".join(part for part in item["loc"] if isinstance(part, str))
    if item["type"] != "extra_forbidden" or old not in RENAMED_KEYS:
        return []
    given = item["input"] if isinstance(item["input"], dict) else {}
    inner = [name for name in given if f"{old}.{name}" in RENAMED_KEYS]
    keys = [(f"{key}.{name}", f"{old}.{name}") for name in inner] or [(key, old)]
    return [(key, f"is now called {RENAMED_KEYS[old]}") for key, old in keys]


def _describe(item: Any, fields: Sequence[str]) -> str:
    given = item.get("input")
    match item["type"]:
        case "extra_forbidden":
            near = did_you_mean(str(item["loc"][-1]), fields)
            return f"unknown key{near} (known here: {', '.join(fields)})"
        case "missing":
            return "is required"
        case "union_tag_invalid":
            kinds = [word.strip("' ") for word in item["ctx"]["expected_tags"].split(",")]
            kind = item["ctx"]["tag"]
            return f"unknown kind '{kind}'{did_you_mean(kind, kinds)} (known: {', '.join(kinds)})"
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
    """Return the dotted key as the user wrote it, and the keys that are known there.

    Pydantic's location also has the kinds and the members of unions, which are not keys.
    """
    path: list[str] = []
    types: list[Any] = [Experiment]
    fields: list[str] = []
    for part in loc:
        models = [
            type_ for type_ in types if isinstance(type_, type) and issubclass(type_, Settings)
        ]
        if tagged := [model for model in models if part in _kinds(model)]:
            types = tagged
            continue
        fields = [name for model in models for name in model.model_fields]
        known = [
            model.model_fields[part].annotation for model in models if part in model.model_fields
        ]
        is_key = isinstance(part, int) or (isinstance(raw, dict | list) and part in raw)
        if not known and not models and not is_key:
            continue  # the name of a union's member, such as 'float' or "literal['auto']"
        path.append(str(part))
        if known:
            types = [type_ for annotation in known for type_ in _alternatives(annotation)]
        if isinstance(raw, dict):
            raw = raw.get(part)
        elif isinstance(raw, list) and isinstance(part, int) and part < len(raw):
            raw = raw[part]
        else:
            raw = None
    return ".".join(path), fields


def _kinds(model: type[Settings]) -> tuple[Any, ...]:
    kind = model.model_fields.get("kind")
    return typing.get_args(kind.annotation) if kind else ()


def _alternatives(annotation: Any) -> list[Any]:
    """Return the members of a union, the element of a list, or the annotation itself."""
    if typing.get_origin(annotation) in (typing.Union, UnionType, typing.Annotated, list):
        return [inner for part in typing.get_args(annotation) for inner in _alternatives(part)]
    return [annotation]
