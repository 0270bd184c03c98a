"""Small changes of inputs: of JSON values, and of bytes.

An edit is drawn by hypothesis as a few numbers, so that a failing input shrinks to fewer and
simpler edits; applying it is deterministic.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True)
class Raw:
    """Text in place of a JSON value, whether it is one or not."""

    text: str


ODD_VALUES: list[Any] = [
    None, "", 0, -1, True, [], {}, "x", False, 1, 0.5, 1e30, 1e-30, 10**30, 2**31, 2**63, -0.0,
    float("nan"), float("inf"), -float("inf"), " ", "0", "no", "null", "nan", "1.0", "1e999", "é",
    "e\u0301", "\u0663", "\ud800", "\x00", "\x1b[31m", "\u202e", "a\nb", "a\r\nb", "x" * 300,
    "x" * 70_000, "../up", "/dev/null/x", "~/x", ".", "-", "c.yaml", "out", "/dev/full",
    "/dev/null", "train.jsonl", "2026-01-01", "{pivot}", "%s", "{}", "{0.x}", "[red]x[/red]", "[/]",
    "pos", "a'b\"c", "1/class", "full", "100%", [[]], [None], [1, 2, 3], ["a", "a"],
    {"a": {"b": 1}},
    Raw("1e999"), Raw("-1e999"), Raw("NaN"), Raw("[" * 3000 + "]" * 3000), Raw("1" * 5000),
    Raw('{"a":1,"a":2}'), Raw("01"), Raw("tru"), Raw('"\\ud83d"'), Raw('"\\u0000"'), Raw(""),
]  # fmt: skip
ODD_BYTES = [
    b"", b"\n", b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\t", b'"',
    b"'",
    b",", b":", b"{", b"}", b"[", b"]", b"\\", b"\\u0000", b"\\ud800", b"-", b"- ", b"? ", b"# ",
    b"&a ", b"*a", b"&a [*a]", b"!!python/object:os.system ", b"!!binary ", b"<<: ", b"| ", b"> ",
    b"\n---\n", b"\n...\n", b"%YAML 9.9\n", b"NaN", b"1e999", b"9" * 400, b"=", b";",
    b"\xe2\x80\xa8",
    b"null", b"~", b"\x1b]0;x\x07", b"[" * 2000, b"x" * 70_000, b"\xc2\x85", b"\x0c",
]  # fmt: skip
JSON_KINDS = ("replace", "delete", "rename", "wrap", "copy", "double")
BYTE_KINDS = ("insert", "delete", "truncate", "copy line", "drop line", "swap lines", "flip")
PLACES = st.integers(0, 10_000)


@dataclass(frozen=True)
class JsonEdit:
    """Changes one value of a tree: the one with number `place`."""

    kind: str
    place: int
    value: Any


@dataclass(frozen=True)
class ByteEdit:
    """Changes bytes at a place."""

    kind: str
    place: int
    length: int
    value: bytes


json_edits = st.builds(
    JsonEdit,
    st.sampled_from(("replace", "replace", *JSON_KINDS)),
    PLACES,
    st.sampled_from(ODD_VALUES),
)
byte_edits = st.builds(
    ByteEdit, st.sampled_from(BYTE_KINDS), PLACES, st.integers(0, 200), st.sampled_from(ODD_BYTES)
)


def some(edits: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[list[Any]]:
    """Return lists of at least one edit."""
    return st.lists(edits, min_size=1, max_size=most)


def edit_json(value: Any, edits: Sequence[JsonEdit]) -> Any:
    """Return a changed copy of a JSON value."""
    for edit in edits:
        value = _edit(value, edit)
    return value


def _edit(value: Any, edit: JsonEdit) -> Any:
    root = [_copied(value)]
    places = list(_places(root))
    holder, key = places[edit.place % len(places)]
    match edit.kind:
        case "replace":
            holder[key] = edit.value
        case "delete" if holder is not root:
            del holder[key]
        case "rename" if isinstance(holder, dict):
            name = edit.value if isinstance(edit.value, str) else json.dumps(str(edit.value))
            renamed = {name if old == key else old: item for old, item in holder.items()}
            holder.clear()
            holder.update(renamed)
        case "wrap":
            holder[key] = [holder[key]]
        case "copy":
            other, name = places[(edit.place * 7 + 3) % len(places)]
            holder[key] = _copied(other[name])
        case "double" if isinstance(holder, list) and holder is not root:
            holder.insert(key, _copied(holder[key]))
    return root[0]


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _places(holder: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(holder) if isinstance(holder, dict) else range(len(holder))
    for key in keys:
        yield holder, key
        if isinstance(holder[key], dict | list):
            yield from _places(holder[key])


def to_json(value: Any) -> bytes:
    """Return a value as JSON on one line, or nearly: `Raw` values may be anything."""
    raw: list[str] = []

    def prepared(value: Any) -> Any:
        if isinstance(value, Raw):
            raw.append(value.text)
            return f"@raw{len(raw) - 1}@"
        if isinstance(value, dict):
            return {key: prepared(item) for key, item in value.items()}
        return [prepared(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(prepared(value))
    for number, item in enumerate(raw):
        text = text.replace(f'"@raw{number}@"', item)
    return text.encode()


def to_jsonl(values: Any) -> bytes:
    """Return a list as JSONL; another value as its only line."""
    return b"".join(
        to_json(value) + b"\n" for value in (values if type(values) is list else [values])
    )


def edit_bytes(data: bytes, edits: Sequence[ByteEdit]) -> bytes:
    """Return changed bytes."""
    for edit in edits:
        at = edit.place * (len(data) + 1) // 10_001
        lines = data.splitlines(keepends=True)
        line = edit.place * len(lines) // 10_001
        match edit.kind:
            case "insert":
                data = data[:at] + edit.value + data[at:]
            case "delete":
                data = data[:at] + data[at + edit.length :]
            case "truncate":
                data = data[:at]
            case "copy line":
                data = b"".join([*lines[:line], *lines[line : line + 1] * 2, *lines[line + 1 :]])
            case "drop line":
                data = b"".join([*lines[:line], *lines[line + 1 :]])
            case "swap lines":
                data = b"".join([*lines[line + 1 :], *lines[: line + 1]])
            case "flip" if at < len(data):
                data = data[:at] + bytes([data[at] ^ (1 << edit.length % 8)]) + data[at + 1 :]
    return data
