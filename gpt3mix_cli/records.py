"""What flows between the stages: JSONL records and the manifests beside them.

One object a line, UTF-8, keys in the order of the fields below, unknown keys kept. Labels are the task's class names,
never the label tokens. Every error names the file and the line. Reading is a stream: a file may be larger than memory.
"""

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from . import __version__
from .errors import NO_CALLBACKS, Callbacks, StoppedShort, UserError, did_you_mean
from .files import STDIO, atomic_write, hash_file, open_input

SUM_TOLERANCE = (
    1e-3  # how far the probabilities of a row may be from 1 before they are no distribution
)


class Record(BaseModel):
    """Base of all records: frozen, and unknown keys are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Example(Record):
    """A labelled text."""

    id: str
    text: str
    label: str


OMIT_IF_EMPTY = ("perplexity", "bounded")  # what most rows do not have and their lines leave out


class Augmented(Example):
    """A synthetic row: `probs` lists every class in the task's order, and `label` is its argmax.

    `perplexity` is that of the text under the LM that wrote it: exp(-logprob / tokens). `bounded` names the classes of which
    the LM's server told nothing, so that their probability is the highest that it can be.
    """

    probs: dict[str, float]
    method: str = ""
    parents: list[str] = []
    label_source: Literal["exact", "top_logprobs", "decision", "vote", "hard", "parent"] = "parent"
    label_mass: float | None = None
    request: int | None = None
    perplexity: float | None = None
    bounded: list[str] = []

    @model_serializer(mode="wrap")
    def _known(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what most rows do not have."""
        values: dict[str, Any] = serialize(self)
        for name in OMIT_IF_EMPTY:
            if not getattr(self, name):
                values.pop(name, None)
        return values


class Reject(Record):
    """An answer that became no row, and why."""

    request: int
    method: str
    parents: list[str]
    text: str
    reason: str
    detail: str = ""


class Trial(Record):
    """One training run; figures are fractions, `confusion` has true classes as rows, both in the task's order."""

    task: str
    level: str
    method: str
    classifier: str
    variant: dict[str, Any] = {}
    data_seed: int
    trial: int
    draw: int = 0
    seed: int
    status: Literal["ok", "failed"] = "ok"
    error: str | None = None
    n_train: int
    n_synthetic: int
    n_test: int
    accuracy: float | None
    macro_f1: float | None = None
    mcc: float | None = None
    majority: float | None = None
    ece: float | None = None
    valid_accuracy: float | None = None
    best_epoch: int | None = None
    epochs: int | None = None
    seconds: float | None = None
    predicted_classes: int | None = None
    confusion: list[list[int]] | None = None
    train_sha: str | None = None
    test_sha: str | None = None
    tokens: int | None = None
    usd: float | None = None
    settings: str | None = None
    version: str | None = None
    tokens_per_prediction: float | None = None


class Manifest(BaseModel):
    """Stands beside an output F as `F.manifest.json`, written last: its presence says that F is whole.

    `inputs` maps a role (train, test, ...) to a hash of its content, `settings` hold the fingerprints of models, `sha256`
    is that of F itself. `machine` says what may change last digits; it does not make an output stale.
    """

    stage: str
    output: str
    sha256: str
    complete: bool
    settings: dict[str, Any]
    inputs: dict[str, str]
    seed: int | None
    counts: dict[str, Any]
    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None
    machine: dict[str, str] = Field(default_factory=lambda: machine())
    command: list[str] = Field(default_factory=list)
    version: str = __version__


@dataclass(frozen=True)
class StageResult:
    """What a stage returns: its output, the output's manifest, and whether it was up to date and skipped."""

    output: Path
    manifest: Manifest
    skipped: bool = False


class IncompleteOutput(StoppedShort):
    """A stage stopped short but wrote the rows that it has; running it again completes them.

    Args:
        message: what is missing.
        hint: the remedy.
        result: the incomplete output and its manifest.
    """

    def __init__(self, message: str, hint: str, result: StageResult) -> None:
        """Keep the output for whoever reports it."""
        super().__init__(message, hint)
        self.args = message, hint, result  # what unpickling calls the class with
        self.result = result


@dataclass(frozen=True)
class StageOptions:
    """What every stage takes besides its input and output.

    Attributes:
        command: the command line, for the manifest.
        force: redo what is up to date.
        callbacks: for progress and warnings.
    """

    command: Sequence[str] = ()
    force: bool = False
    callbacks: Callbacks = NO_CALLBACKS


Row = TypeVar("Row", bound=Record)


# Reading -------------------------------------------------------------------------------------------------------------


def read_lines(path: Path, blank: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of a UTF-8 text file or stdin; blank lines are passed over unless asked for."""
    with open_input(path) as stream:
        for number, raw in enumerate(stream, 1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}, line {number}: not UTF-8 ({error.reason})", "save the file as UTF-8"
                ) from None
            if blank or line.strip():
                yield number, line


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a JSONL file."""
    for number, line in read_lines(path):
        try:
            value = _DECODER.decode(line)
            line.encode()
            if (
                "\\u" in line
            ):  # only an escape can smuggle in a lone surrogate, which no UTF-8 file can hold
                json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{path}, line {number}: half a character (a lone surrogate escape)",
                "mend or remove the line",
            ) from None
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number}: no valid JSON: {error}",
                "each line must be one JSON object",
            ) from None
        if not isinstance(value, dict):
            raise UserError(
                f"{path}, line {number}: a JSON {type(value).__name__}, not an object",
                "each line must be one JSON object",
            )
        yield number, value


def read_records(path: Path, kind: type[Row], classes: Sequence[str] = ()) -> Iterator[Row]:
    """Yield the records of a file, each checked.

    Args:
        path: a JSONL file, or `-` for stdin.
        kind: the record's class.
        classes: the task's classes; labels and `probs` outside of them are errors. Empty: not checked.

    Raises:
        UserError: at the first broken line, naming it.
    """
    for number, value in read_objects(path):
        try:
            row = kind.model_validate(value)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            problem = (
                "is missing"
                if first["type"] == "missing"
                else f"{first['msg'].lower()}, got {first['input']!r}"
            )
            hint = f"a {kind.__name__} row needs {', '.join(n for n, f in kind.model_fields.items() if f.is_required())}"
            raise UserError(f"{path}, line {number}: '{key}' {problem}", hint) from None
        if isinstance(row, Example):
            _check_example(row, f"{path}, line {number}", classes)
        yield row


def _check_example(row: Example, where: str, classes: Sequence[str]) -> None:
    if not row.text.strip():
        raise UserError(f"{where}: the text is empty", "remove the line or give it a text")
    if classes and row.label not in classes:
        raise unknown_label(where, row.label, classes)
    if isinstance(row, Augmented):
        for label in row.probs:
            if classes and label not in classes:
                raise unknown_label(f"{where}: probs", label, classes)
        if missing := [label for label in classes if label not in row.probs]:
            raise UserError(
                f"{where}: probs: class '{missing[0]}' is missing",
                "probs must list every class of the task",
            )
        total = sum(row.probs.values())
        if min(row.probs.values(), default=0) < 0 or not abs(total - 1) <= SUM_TOLERANCE:
            raise UserError(
                f"{where}: probs: {row.probs} is no distribution (sum {total:g})",
                "they must be at least 0 and sum to 1",
            )
        if row.probs.get(row.label, 0) < max(row.probs.values()):
            message = (
                f"{where}: the label '{row.label}' is not the most probable class of {row.probs}"
            )
            raise UserError(message, "the label must be the argmax of probs")


def unknown_label(where: str, label: object, classes: Sequence[str]) -> UserError:
    """Return the error for a label outside the task."""
    known = ", ".join(f"'{name}'" for name in classes)
    return UserError(
        f"{where}: label '{label}' is none of the task's classes ({known}){did_you_mean(str(label), classes)}",
        "mend the row, or map raw values to classes with task.data.values",
    )


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if -sys.float_info.max <= value <= sys.float_info.max else _no_number(digits)


_DECODER = json.JSONDecoder(
    parse_constant=_no_number, parse_float=_finite
)  # made once: a row is read in less time

# Writing -------------------------------------------------------------------------------------------------------------


to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def to_json_line(row: Record) -> str:
    """Return a record as one line of JSON with its end of line."""
    # Its values are JSON's own, so that `model_dump` would only copy them; half of the time of a fast baseline.
    values = {**row.__dict__, **(row.model_extra or {})}
    for name in OMIT_IF_EMPTY:
        if not values.get(name, True):
            del values[name]
    return to_json(values) + "\n"


def write_records(path: Path, rows: Iterable[Record]) -> int:
    """Write records to a file that appears whole or not at all (or to stdout for `-`); return how many."""
    count = 0
    with record_writer(path) as keep:
        for row in rows:
            keep(to_json_line(row))
            count += 1
    return count


@contextmanager
def record_writer(path: Path) -> Iterator[Callable[[str], object]]:
    """Give what writes a line to such a file, for rows that are made one by one."""
    with atomic_write(path) as stream:
        yield lambda line: stream.write(line.encode())


def entropy(probabilities: Iterable[float]) -> float:
    """Return the entropy of a distribution in bits."""
    return -sum(p * math.log2(p) for p in probabilities if p > 0)


# Hashes and manifests ------------------------------------------------------------------------------------------------


def hash_rows(rows: Iterable[Example]) -> str:
    """Return a hash of the ids, texts and labels of rows, in order: the same whatever the file format they came in."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(to_json([row.id, row.text, row.label]).encode() + b"\n")
    return digest.hexdigest()[:16]


def manifest_path(output: Path) -> Path:
    """Return where the manifest of an output stands."""
    return output.with_name(output.name + ".manifest.json")


def machine() -> dict[str, str]:
    """Return the versions and the number of threads that the numbers were made with."""
    torch = sys.modules.get("torch")
    threads = {"threads": str(torch.get_num_threads())} if torch else {}
    return {
        name: metadata.version(name) for name in ("numpy", "scikit-learn", "torch", "transformers")
    } | threads


def read_manifest(output: Path) -> Manifest | None:
    """Return the manifest of an output, or nothing where there is none that can be read."""
    try:
        return Manifest.model_validate_json(manifest_path(output).read_bytes())
    except (OSError, pydantic.ValidationError):
        return None


def write_manifest(output: Path, manifest: Manifest) -> None:
    """Write the manifest of an output; stdout has none."""
    if output != STDIO:
        with atomic_write(manifest_path(output)) as stream:
            stream.write(
                (json.dumps(manifest.model_dump(), ensure_ascii=False, indent=1) + "\n").encode()
            )


def finish_output(output: Path, started: float, **fields: Any) -> Manifest:
    """Write the manifest of an output that is whole on disk, and return it.

    Args:
        output: the file; for stdout the manifest is only returned.
        started: when its stage began, by `time.monotonic`.
        fields: the rest of `Manifest`.
    """
    sha = "" if output == STDIO else hash_file(output)
    manifest = Manifest(
        output=output.name, sha256=sha, seconds=round(time.monotonic() - started, 3), **fields
    )
    write_manifest(output, manifest)
    return manifest


def find_up_to_date(
    output: Path, settings: dict[str, Any], inputs: dict[str, str]
) -> Manifest | None:
    """Return the manifest of an output that these settings and inputs made whole, unchanged since; otherwise nothing."""
    manifest = None if output == STDIO else read_manifest(output)
    if manifest is None or not manifest.complete or not output.is_file():
        return None
    same = manifest.inputs == inputs and manifest.settings == json.loads(json.dumps(settings))
    return manifest if same and manifest.sha256 == hash_file(output) else None
