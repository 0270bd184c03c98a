"""Trials files -> rows, a hundred thousand in a second or two: columns are checked whole, not rows one by one.

A file in which anything is unusual is read again by `records.read`, which accepts what it can and names the line that it
cannot. A torn last line is told and passed over; a trial that stands in two files counts once.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, NoReturn

from ..errors import Callbacks, UserError
from ..records import Trial, read_records
from .model import ExpectedTrials, TrialRow

CHUNK = 1_000  # lines held as objects at a time
TEXT: set[type] = {str}
WHOLE: set[type] = {int}
NUMBER: set[type] = {int, float}
NOTHING: set[type] = {type(None)}
KINDS: dict[str, set[type]] = {
    **dict.fromkeys(("task", "level", "method", "classifier"), TEXT),
    "variant": {dict},
    **dict.fromkeys(("data_seed", "trial", "draw", "seed"), WHOLE),
    "status": TEXT,
    "error": TEXT | NOTHING,
    **dict.fromkeys(("n_train", "n_synthetic", "n_test"), WHOLE),
    **dict.fromkeys(
        ("accuracy", "macro_f1", "mcc", "majority", "ece", "seconds"), NUMBER | NOTHING
    ),
    "predicted_classes": WHOLE | NOTHING,
    **dict.fromkeys(("train_sha", "test_sha"), TEXT | NOTHING),
    "tokens": WHOLE | NOTHING,
    "usd": NUMBER | NOTHING,
    **dict.fromkeys(("settings", "version"), TEXT | NOTHING),
    "tokens_per_prediction": NUMBER | NOTHING,
}
DEFAULTS = {
    name: Trial.model_fields[name].get_default()
    for name in KINDS
    if not Trial.model_fields[name].is_required()
}
FIELDS = itemgetter(*KINDS)
# What makes a trial this one and no other.
IDENTITY = itemgetter(
    *map(TrialRow._fields.index, (
        "task", "variant", "level", "method", "classifier", "settings", "version", "test_sha", "train_sha", "data_seed", "trial"
    ))
)  # fmt: skip


def variant_name(variant: Mapping[str, Any]) -> str:
    """Return the swept settings as one word: `augment.k=2, augment.ratio=10`."""
    return ", ".join(f"{key}={value_name(value)}" for key, value in variant.items())


def value_name(value: Any) -> str:
    """Return a swept value as one word."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def load_trials(
    sources: Sequence[Path],
    wanted: Sequence[ExpectedTrials],
    variants: dict[str, Mapping[str, Any]],
    callbacks: Callbacks,
) -> list[TrialRow]:
    """Return the trials of files and folders, each once.

    Args:
        sources: trials files, or folders in which they are looked for.
        wanted: files that configs ask for; those that are not there yet are passed over.
        variants: gets the object of each variant's name.
        callbacks: take torn lines and of trials that stand twice.

    Raises:
        UserError: for a broken line, or a trial that stands twice with different results.
    """
    files = [item.path for item in wanted if item.path.exists()]
    for source in sources:
        files += _trials_files(source) if source.is_dir() else [source]
    seen: dict[tuple[Any, ...], TrialRow] = {}
    repeated = 0
    for path in {path.resolve(): path for path in files}.values():
        for row in _rows(path, variants, callbacks):
            name = IDENTITY(row)
            # Of a trial that failed once and was done again elsewhere the result counts.
            if (known := seen.setdefault(name, row)) is row:
                continue
            repeated += 1
            if known.status != "ok":
                seen[name] = row
            elif row.status == "ok" and row.accuracy != known.accuracy:
                message = f"{path}: trial {row.trial} of data seed {row.data_seed} stands elsewhere with another accuracy"
                raise UserError(message, "leave out one of the two runs")
    if repeated:
        callbacks.warn(f"{repeated} trials stand twice and are counted once")
    return list(seen.values())


def _trials_files(folder: Path) -> list[Path]:
    """Return the trials files of a folder: `trials/*.jsonl` and `trials.jsonl` at any depth, and its own if it is `trials`."""
    own = folder.glob("*.jsonl") if folder.resolve().name == "trials" else []
    found = {*folder.rglob("trials/*.jsonl"), *folder.rglob("trials.jsonl"), *own}
    return sorted(path for path in found if not path.name.endswith(".history.jsonl"))


def _rows(
    path: Path, variants: dict[str, Mapping[str, Any]], callbacks: Callbacks
) -> list[TrialRow]:
    """Return the rows of a file."""
    told: list[str] = []
    try:
        with path.open("rb") as stream:
            found = list(_fast(stream, path, variants, told))
    except (OSError, ValueError, KeyError, RecursionError):
        return list(_slow(path, variants, callbacks))
    for text in told:
        callbacks.warn(text)
    return found


def _fast(
    stream: IO[bytes], path: Path, variants: dict[str, Mapping[str, Any]], told: list[str]
) -> Iterator[TrialRow]:
    """Yield rows that are just as we write them.

    Raises:
        ValueError, KeyError: at anything else.
    """
    decode = json.JSONDecoder(parse_constant=_no_number).decode
    number = 0
    while lines := list(itertools.islice(stream, CHUNK)):
        number += len(lines)
        if not lines[-1].endswith(b"\n") and (reason := _torn(lines[-1], decode)):
            told.append(
                f"{path}, line {number}: no valid JSON: {reason}; the last line is torn and was passed over"
            )
            lines.pop()
        text = b",".join(lines).decode()
        # All lines in one go; what is no object a line has another number of them. An escape may hide half a character.
        values = decode(f"[{text}]")
        if len(values) != len(lines) or "\\u" in text:
            raise ValueError("not an object a line, as we write them")
        yield from _from_values(values, path, variants)


def _torn(line: bytes, decode: Callable[[str], Any]) -> str:
    """Return why a last line without its end cannot be read; nothing if it can."""
    try:
        decode(line.decode())
    except ValueError as error:
        return str(error)
    return ""


def _from_values(
    values: Sequence[dict[str, Any]], path: Path, variants: dict[str, Mapping[str, Any]]
) -> Iterator[TrialRow]:
    if not values:
        return
    if set(map(type, values)) != {dict}:
        raise ValueError("a line is no object")
    try:
        rows = list(map(FIELDS, values))
    except KeyError:  # rows of an earlier version, or of another tool
        rows = [FIELDS({**DEFAULTS, **value}) for value in values]
    columns: dict[str, Sequence[Any]] = dict(zip(KINDS, zip(*rows, strict=True), strict=True))
    for name, column in columns.items():
        kinds = set(map(type, column))
        if not kinds <= KINDS[name]:
            raise ValueError(f"{name} has a value of another kind")
        if float in kinds and not all(map(math.isfinite, filter(None, column))):
            raise ValueError(f"{name} has a value without bounds")
    if not set(columns["status"]) <= {"ok", "failed"}:
        raise ValueError("an unknown status")
    names = {
        str(value): _known(value, variants)
        for value in {str(value): value for value in columns["variant"]}.values()
    }
    columns["variant"] = [names[str(value)] for value in columns["variant"]]
    classes = [_classes(value.get("confusion")) for value in values]
    # Equal texts are one object: a file repeats its names and hashes in each line.
    for name, column in columns.items():
        if KINDS[name] & TEXT:
            columns[name] = list(map({value: value for value in column}.__getitem__, column))
    yield from map(
        TrialRow._make,
        zip(*columns.values(), classes, itertools.repeat(path, len(values)), strict=True),
    )


def _slow(
    path: Path, variants: dict[str, Mapping[str, Any]], callbacks: Callbacks
) -> Iterator[TrialRow]:
    rows = read_records(path, Trial)
    try:
        for row in rows:
            values = [getattr(row, name) for name in KINDS if name != "variant"]
            values.insert(list(KINDS).index("variant"), _known(row.variant, variants))
            yield TrialRow._make([*values, _classes(row.confusion), path])
    except UserError as error:
        number, last = 0, b"\n"
        with path.open("rb") as stream:
            for number, last in enumerate(stream, 1):  # noqa: B007 - the last ones are wanted
                pass
        if last.endswith(b"\n") or f"{path}, line {number}:" not in error.message:
            raise
        callbacks.warn(f"{error.message}; the last line is torn and was passed over")


def _known(variant: Mapping[str, Any], variants: dict[str, Mapping[str, Any]]) -> str:
    name = variant_name(variant)
    variants.setdefault(name, variant)
    return name


def _classes(confusion: Any) -> int | None:
    return len(confusion) if isinstance(confusion, list) and confusion else None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
