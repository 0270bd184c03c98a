"""Reads YAML that others may have written: YAML 1.2's core scalars, one document, no tags.

A file's size and its number of values are limited, aliases counted each time: a few lines of
aliases can otherwise stand for billions of values.
"""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

import yaml

from .errors import UserError

MAX_BYTES = 1 << 20
MAX_VALUES = 50_000
MAX_DIGITS = 100  # of an integer


class _Loader(yaml.SafeLoader):
    """`yes` and `off` are words, `3e-5` is a number, `1:30` is a word."""

    num_values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                problem=f"tags are not supported, found {event.tag}", problem_mark=event.start_mark
            )
        self.count(event.start_mark)
        return super().compose_node(parent, index)

    def count(self, mark: yaml.Mark) -> None:
        """Count a value.

        Raises:
            MarkedYAMLError: if there are too many.
        """
        self.num_values += 1
        if self.num_values > 2 * MAX_VALUES:  # each is composed and then visited
            problem = f"more than {MAX_VALUES:,} values; aliases count each time, write values out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


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


# Unlike in YAML 1.1, 010 is ten.
_Loader.add_constructor(
    "tag:yaml.org,2002:int",
    lambda loader, node: int(loader.construct_scalar(cast(yaml.ScalarNode, node))),
)


def read_yaml(path: Path, hint: str, word_sections: Collection[str] = ()) -> Any:
    """Return what a file holds; an empty one holds an empty mapping.

    Args:
        path: the file. A pipe is read to its end; one without a writer is empty.
        hint: the remedy where it cannot be read.
        word_sections: keys below which every scalar is a string, even if it looks like a boolean, a
            number or null.

    Raises:
        UserError: if the file cannot be read or is not valid.
    """
    try:
        # O_NONBLOCK: opening a pipe without a writer would wait for one.
        with open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as stream:
            os.set_blocking(stream.fileno(), True)
            data = stream.read(MAX_BYTES + 1)
        text = data[:MAX_BYTES].decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", hint) from None
    except (OSError, ValueError) as error:  # of the path, or it is not UTF-8
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read: {reason}", f"{hint}, in UTF-8") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes", hint)
    value = parse_yaml(text, str(path), word_sections)
    return {} if value is None else value


def parse_yaml(
    text: str, where: str, word_sections: Collection[str] = (), words: bool = False
) -> Any:
    """Return the value of a text.

    Args:
        text: one document.
        where: what to call the text in messages.
        word_sections: as in `read_yaml`.
        words: whether every scalar is a string.

    Raises:
        UserError: naming the line.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _prepare(loader, node, where, word_sections, words)
        return loader.construct_document(node)
    except RecursionError:
        raise UserError(
            f"{where}: an alias contains itself, or the file is nested too deeply",
            "write the values out",
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{where}, line {mark.line + 1}" if mark else where
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise UserError(
            f"{where}: not valid YAML: {problem}", "check indentation, colons and quotes"
        ) from None


def holds_words(key: str, word_sections: Collection[str]) -> bool:
    """Return whether a dotted key is one of the sections of words, or below one."""
    return any(part in word_sections for part in key.split("."))


def _prepare(
    loader: _Loader, node: yaml.Node, where: str, word_sections: Collection[str], words: bool
) -> None:
    """Turn the scalars of word sections into strings, and refuse what no value may be.

    That is a duplicate key, of which YAML would silently use the last, half a character (a lone
    surrogate), NUL and a number that nobody can mean.
    """
    loader.count(node.start_mark)
    line = f"{where}, line {node.start_mark.line + 1}"
    if isinstance(node, yaml.ScalarNode):
        if words:
            node.tag = "tag:yaml.org,2002:str"
        _check_scalar(node, line)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _prepare(loader, item, where, word_sections, words)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = f"{where}, line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{line}: a key must be a plain word", "quote it or rename it")
            if key.value in seen and key.value != "<<":
                raise UserError(f"{line}: duplicate key '{key.value}'", "remove one of the two")
            seen.add(key.value)
            if key.tag != "tag:yaml.org,2002:merge":
                key.tag = "tag:yaml.org,2002:str"
            _check_scalar(key, line)
            below_words = words or holds_words(key.value, word_sections)
            _prepare(loader, value, where, word_sections, below_words)


def _check_scalar(node: yaml.ScalarNode, line: str) -> None:
    try:
        # JSON writes a character beyond 16 bits as two escapes: here they become one again.
        node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise UserError(
            f"{line}: half a character (a lone surrogate escape)", "write the character itself"
        ) from None
    if "\0" in node.value:
        raise UserError(f"{line}: a value holds the character NUL", "remove it")
    if node.tag == "tag:yaml.org,2002:int" and len(node.value) > MAX_DIGITS:
        raise UserError(
            f"{line}: a number of {len(node.value)} digits", f"give at most {MAX_DIGITS} digits"
        )
