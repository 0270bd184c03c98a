"""Turns the errors that pydantic finds in an experiment file into messages for the user."""

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import ValidationError

from ..errors import MAX_LIST_ITEMS, MAX_VALUE_CHARS, did_you_mean, shown_value
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


def format_problems(where: str, raw: Any, error: ValidationError) -> str:
    """Return all problems of an experiment file, one on each line, with their keys.

    Args:
        where: the file, for the heading.
        raw: what the settings were made from.
        error: raised by pydantic.
    """
    problems: dict[str, dict[str, None]] = {}  # key -> its messages in order, without duplicates
    more, listed = set[str](), set[str]()
    for item in error.errors(include_url=False):
        key, fields = _locate(raw, item["loc"])
        if key not in problems and len(problems) >= MAX_LIST_ITEMS:
            more.add(key)
            continue
        for old, message in _renamed(key, item) or [(key, _describe(item, fields, listed))]:
            problems.setdefault(old, {})[message] = None
    lines = [
        f"  {key[:MAX_VALUE_CHARS] or '(whole file)'}: {', or '.join(messages)}"
        for key, messages in problems.items()
    ]
    lines += [f"  and {len(more):,} more"] if more else []
    count = len(problems) + len(more)
    heading = f"{where}: {count:,} problem{'s' if count > 1 else ''} in the settings"
    return "\n".join([heading, *lines])


def _renamed(key: str, item: Any) -> list[tuple[str, str]]:
    old = ".".join(part for part in item["loc"] if isinstance(part, str))
    if item["type"] != "extra_forbidden" or old not in RENAMED_KEYS:
        return []
    names = item["input"] if isinstance(item["input"], dict) else ()
    inner = [f".{name}" for name in names if f"{old}.{name}" in RENAMED_KEYS]
    return [(key + end, f"is now called {RENAMED_KEYS[old + end]}") for end in inner or [""]]


def _describe(item: Any, fields: Sequence[str], listed: set[str]) -> str:
    """Return what is wrong; known keys that are `listed` already are not listed again."""
    value = shown_value(item.get("input"))
    match item["type"]:
        case "extra_forbidden":
            suggestion = did_you_mean(str(item["loc"][-1]), fields)
            known = f" (known here: {', '.join(fields)})"
            known = "" if known in listed else known
            listed.add(known)
            return f"unknown key{suggestion}{known}"
        case "missing":
            return "is required"
        case "union_tag_invalid":
            kinds = [word.strip("' ") for word in item["ctx"]["expected_tags"].split(",")]
            kind = item["ctx"]["tag"][:MAX_VALUE_CHARS]
            return f"unknown kind '{kind}'{did_you_mean(kind, kinds)} (known: {', '.join(kinds)})"
        case "union_tag_not_found":
            return "needs a `kind:`"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"expected a mapping of keys, got {value}"
        case "value_error":
            return str(item["ctx"]["error"])
        case _:
            message = item["msg"][0].lower() + item["msg"][1:]
            return message if isinstance(item.get("input"), dict) else f"{message}, got {value}"


def _locate(raw: Any, loc: Sequence[int | str]) -> tuple[str, list[str]]:
    """Return the dotted key as the user wrote it, and the keys that are known there.

    Pydantic's location also has the kinds and the members of unions, which are not keys.
    """
    path: list[str] = []
    models: list[type[Settings]] = [Experiment]
    fields: list[str] = []
    for part in loc:
        kinds = {model: get_args(model.__annotations__.get("kind")) for model in models}
        if tagged := [model for model in models if part in kinds[model]]:
            models = tagged
            continue
        fields = [name for model in models for name in model.model_fields]
        items = dict(enumerate(raw)) if isinstance(raw, list) else raw
        in_raw = isinstance(items, dict) and part in items
        if not (models or in_raw or isinstance(part, int)):
            continue  # the name of a union's member, such as 'float' or "literal['auto']"
        path.append(str(part))
        raw = items[part] if in_raw else None
        if isinstance(part, str):
            infos = [model.model_fields[part] for model in models if part in model.model_fields]
            models = [model for info in infos for model in _models(info.annotation)]
    return ".".join(path), fields


def _models(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
