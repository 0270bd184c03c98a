"""The records that stages exchange as JSONL, and the manifest of each output.

A file has one JSON object per line, in UTF-8, with keys in the order of the fields below; unknown
keys are kept. Labels are the task's class names, not the label tokens. Errors name the file and the
line. Files are read as a stream: they may be larger than memory.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from . import __version__
from .errors import (
    NO_CALLBACKS,
    Callbacks,
    StoppedShort,
    UserError,
    did_you_mean,
    shorten,
    shown_list,
    shown_value,
)
from .files import PRIVATE, STDIO, atomic_write, hash_file
from .jsonl import read_objects, to_json
from .layout import manifest_path
from .machine import machine

SUM_TOLERANCE = 1e-3  # largest difference between 1 and the sum of a row's probabilities


class Record(BaseModel):
    """Base of all records: frozen, and unknown keys are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Example(Record):
    """A labelled text."""

    id: str
    text: str
    label: str


# Fields that most rows do not have.
OMIT_IF_EMPTY = ("perplexity", "bounded", "edited", "n_test_all")


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value or key not in OMIT_IF_EMPTY}


class Augmented(Example):
    """A synthetic row.

    Attributes:
        probs: class -> probability, all classes in the task's order; `label` is the argmax.
        method: name of the method.
        parents: ids of the real rows in the prompt, or of the one that was edited.
        label_source: where `probs` comes from; `parents`: the mean of their labels; `parent`: the
            label of the row that was edited.
        label_mass: probability of all label tokens together before normalizing; None if unknown.
        request: number of the attempt.
        perplexity: of the text under the LM that generated it: exp(-logprob / tokens).
        bounded: classes without a log-probability from the server; theirs is an upper bound.
        edited: whether a person has changed the text or the label.
    """

    probs: dict[str, float]
    method: str = ""
    parents: list[str] = []
    label_source: Literal[
        "exact", "rounded", "top_logprobs", "decision", "vote", "hard", "parents", "parent"
    ] = "parent"
    label_mass: float | None = None
    request: int | None = None
    perplexity: float | None = None
    bounded: list[str] = []
    edited: bool = False

    @model_serializer(mode="wrap")
    def _omit_empty(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_empty(serialize(self))


class Reject(Record):
    """A generated text that was rejected, and the reason."""

    request: int
    method: str
    parents: list[str]
    text: str
    reason: str
    detail: str = ""


class Trial(Record):
    """One training run. Metrics are fractions; the rows of `confusion` are the true classes."""

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
    accuracy: float | None = Field(ge=0, le=1)
    macro_f1: float | None = Field(None, ge=-2, le=2)
    mcc: float | None = Field(None, ge=-2, le=2)
    majority: float | None = Field(None, ge=0, le=1)
    ece: float | None = Field(None, ge=-2, le=2)
    valid_accuracy: float | None = Field(None, ge=0, le=1)
    best_epoch: int | None = None
    epochs: int | None = None
    seconds: float | None = Field(None, ge=0, le=1e15)
    predicted_classes: int | None = None
    confusion: list[list[int]] | None = None
    train_sha: str | None = None
    test_sha: str | None = None
    tokens: int | None = None
    usd: float | None = Field(None, ge=0, le=1e15)
    settings: str | None = None
    version: str | None = None
    tokens_per_prediction: float | None = Field(None, ge=0, le=1e15)
    synthetic_weight: float | None = Field(None, ge=0, le=1e15)
    n_test_all: int | None = None


class Manifest(BaseModel):
    """How an output F was made: `F.manifest.json`, written last, when F is complete.

    Attributes:
        stage: name of the stage.
        output: file name of F.
        sha256: hash of F.
        complete: whether F has all rows.
        settings: everything that can change the rows, fingerprints of models included.
        inputs: role (train, test, ...) -> hash of the content.
        seed: of the stage.
        counts: rows, requests, rejects and more.
        tokens: used at an endpoint.
        usd: spent at an endpoint.
        seconds: run time.
        machine: versions and threads, which may change last digits; not compared.
        command: the command line.
        version: of this package.
    """

    model_config = ConfigDict(defer_build=True)

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
    """What a stage returns.

    Attributes:
        output: the file.
        manifest: of the file.
        skipped: whether the file was up to date.
    """

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
        super().__init__(message, hint)
        self.args = message, hint, result  # for unpickling
        self.result = result


@dataclass(frozen=True)
class StageOptions:
    """What every stage takes besides its input and output.

    Attributes:
        command: the command line, for the manifest.
        force: redo the stage even if the output is up to date.
        callbacks: for progress and warnings.
        has_own_output: the user named the output, so it is none of an experiment.
        only_checks: raise `OutOfDate` for an output that is not up to date, instead of making it.
        waits: wait for another process that is writing the output, instead of an error.
    """

    command: Sequence[str] = ()
    force: bool = False
    callbacks: Callbacks = NO_CALLBACKS
    has_own_output: bool = False
    only_checks: bool = False
    waits: bool = False


class OutOfDate(Exception):
    """An output is not up to date, and was only to be checked."""


Row = TypeVar("Row", bound=Record)


# Reading -------------------------------------------------------------------------------------


def read_records(path: Path, kind: type[Row], classes: Sequence[str] = ()) -> Iterator[Row]:
    """Yield the checked records of a file.

    Args:
        path: a JSONL file, or `-` for stdin.
        kind: the record's class.
        classes: the task's classes; other labels and `probs` are errors. Empty: not checked.

    Raises:
        UserError: for the first wrong line.
    """
    for number, value in read_objects(path):
        where = f"{path}, line {number}"
        try:
            row = kind.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            is_missing = first["type"] == "missing"
            problem = f"{first['msg'].lower()}, got {shown_value(first['input'])}"
            required = [name for name, field in kind.model_fields.items() if field.is_required()]
            raise UserError(
                f"{where}: '{key}' {'is missing' if is_missing else problem}",
                f"a {kind.__name__} row needs {', '.join(required)}",
            ) from None
        if isinstance(row, Example):
            _check_example(row, where, classes)
        yield row


def _check_example(row: Example, where: str, classes: Sequence[str]) -> None:
    if not row.text.strip():
        raise UserError(f"{where}: the text is empty", "remove the line or add a text")
    if classes and row.label not in classes:
        raise unknown_label(where, row.label, classes)
    if isinstance(row, Augmented):
        if classes and (unknown := [label for label in row.probs if label not in classes]):
            raise unknown_label(f"{where}: probs", unknown[0], classes)
        if missing := [label for label in classes if label not in row.probs]:
            raise UserError(
                f"{where}: probs: class '{missing[0]}' is missing",
                "probs must list every class of the task",
            )
        total = sum(row.probs.values())
        if min(row.probs.values(), default=0) < 0 or not abs(total - 1) <= SUM_TOLERANCE:
            raise UserError(
                f"{where}: probs: {row.probs} is not a distribution (sum {total:g})",
                "they must be at least 0 and sum to 1",
            )
        if row.probs.get(row.label, 0) < max(row.probs.values()):
            raise UserError(
                f"{where}: the label '{row.label}' is not the most probable class of {row.probs}",
                "the label must be the argmax of probs",
            )


def unknown_label(where: str, label: object, classes: Sequence[str]) -> UserError:
    """Return the error for a label that is not a class of the task."""
    known, label = shown_list([f"'{name}'" for name in classes]), shorten(label)
    return UserError(
        f"{where}: label '{label}' is not one of the task's classes ({known})"
        f"{did_you_mean(label, classes)}",
        "fix the row, or map raw values to classes with task.data.values",
    )


# Writing -------------------------------------------------------------------------------------


def to_json_line(row: Record) -> str:
    """Return a record as one line of JSON, with the line end."""
    # The values are JSON types: `model_dump` would copy them and double a fast baseline's time.
    return to_json(_without_empty({**row.__dict__, **(row.model_extra or {})})) + "\n"


def write_records(path: Path, rows: Iterable[Record]) -> int:
    """Write records to an atomically replaced file, or to stdout for `-`; return their number."""
    count = 0
    with record_writer(path) as write_line:
        for row in rows:
            write_line(to_json_line(row))
            count += 1
    return count


@contextmanager
def record_writer(path: Path) -> Iterator[Callable[[str], object]]:
    """Yield a function that writes one line to an atomically replaced file."""
    with atomic_write(path) as stream:
        yield lambda line: stream.write(line.encode())


def entropy(probabilities: Iterable[float]) -> float:
    """Return the entropy of a distribution in bits."""
    return -sum(p * math.log2(p) for p in probabilities if p > 0)


# Hashes and manifests ------------------------------------------------------------------------


def hash_rows(rows: Iterable[Example]) -> str:
    """Return a hash of the ids, texts and labels of rows, in order, whatever the file format."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(to_json([row.id, row.text, row.label]).encode() + b"\n")
    return digest.hexdigest()[:16]


def read_manifest(output: Path) -> Manifest | None:
    """Return the manifest of an output; None if there is none that can be read."""
    try:
        path = manifest_path(output)  # a pipe would have to be waited for
        return Manifest.model_validate_json(path.read_bytes() if path.is_file() else b"")
    except (OSError, ValidationError):
        return None


def write_manifest(output: Path, manifest: Manifest) -> None:
    """Write the manifest of an output; stdout has none."""
    if output != STDIO:
        with atomic_write(manifest_path(output), PRIVATE) as stream:
            text = json.dumps(manifest.model_dump(), ensure_ascii=False, indent=1)
            stream.write(f"{text}\n".encode())


def finish_output(output: Path, started: float, **fields: Any) -> Manifest:
    """Write the manifest of an output that is on disk, and return it.

    Args:
        output: the file; for stdout the manifest is only returned.
        started: `time.monotonic()` at the start of the stage.
        fields: the other fields of `Manifest`.
    """
    manifest = Manifest(
        output=output.name,
        sha256="" if output == STDIO else hash_file(output),
        seconds=round(time.monotonic() - started, 3),
        **fields,
    )
    write_manifest(output, manifest)
    return manifest
