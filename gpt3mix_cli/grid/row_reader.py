"""Reads the real and synthetic rows that a stage starts from, from a cell, a file or stdin."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data import Splits
from ..errors import NO_CALLBACKS, Callbacks, UserError
from ..files import STDIO, hash_file
from ..records import Augmented, Example, Row, hash_rows, read_manifest, read_records
from ..settings import FILE_STEM_PATTERN
from ..train import SyntheticSet
from ..user_cache import file_state


class RowReader:
    """Reads rows; all cells share one reader, since stdin can be read only once.

    Args:
        callbacks: for warnings.
    """

    def __init__(self, callbacks: Callbacks = NO_CALLBACKS) -> None:
        self._callbacks = callbacks
        self._stdin: tuple[type, list[Any]] | None = None
        self._last_real: tuple[Any, list[Example]] | None = None
        self._lock = threading.Lock()

    def real(self, path: Path, classes: Sequence[str]) -> list[Example]:
        """Return the real rows of a file.

        Raises:
            UserError: if there are none, or two have the same id.
        """
        # Every stage of a cell reads the same rows.
        state = None if path == STDIO or not path.is_file() else (file_state(path), classes)
        last = self._last_real  # once: another thread may replace it
        if state and last and last[0] == state:
            return last[1]
        rows = self._checked_real(path, classes)
        self._last_real = (state, rows) if state else None
        return rows

    def _checked_real(self, path: Path, classes: Sequence[str]) -> list[Example]:
        rows = self._read(path, Example, classes)
        if not rows:
            raise UserError(
                f"{path}: the file has no rows",
                "check the stage that wrote it, or give another file with -i",
            )
        first_use: dict[str, int] = {}
        for number, row in enumerate(rows):
            if first_use.setdefault(row.id, number) != number:
                raise UserError(
                    f"{path}, row {number + 1}: the id '{row.id}' is used twice",
                    "ids must be unique: synthetic rows name their parents by id",
                )
        return rows

    def synthetic(
        self, paths: Sequence[Path], classes: Sequence[str], real: Sequence[Example]
    ) -> SyntheticSet:
        """Return the synthetic rows of some files as one set.

        A file with invalid rows gives a broken set: the trials that read it fail, others do not.

        Raises:
            UserError: if a file is missing, or was made from other real rows.
        """
        if missing := [path for path in paths if path != STDIO and not path.exists()]:
            raise UserError(
                f"{missing[0]}: no such file",
                "make it first with gpt3mix augment or baseline, or check the path",
            )
        sets = [self._synthetic_set(path, classes, real) for path in paths]
        if broken := [part for part in sets if part.failure_reason]:
            return broken[0]
        if len(sets) == 1:
            return sets[0]
        tokens = [part.tokens for part in sets if part.tokens is not None]
        usd = [part.usd for part in sets if part.usd is not None]
        return SyntheticSet(
            [row for part in sets for row in part.rows],
            {"files": [part.about for part in sets]},
            sum(tokens) if tokens else None,
            sum(usd) if usd else None,
            is_unfinished=any(part.is_unfinished for part in sets),
            edited=sum(part.edited for part in sets),
            dropped=sum(part.dropped for part in sets),
        )

    def method(self, path: Path, classes: Sequence[str]) -> str:
        """Return the method that the first row of a file names, or else the file's name.

        Raises:
            UserError: if the name cannot be the name of a method.
        """
        row = next(iter(self._read(path, Augmented, classes)), None)
        stem = "stdin" if path == STDIO else path.name.removesuffix(".jsonl")
        method = row.method if row and row.method else stem
        check_method_name(method)
        return method

    def _read(self, path: Path, kind: type[Row], classes: Sequence[str]) -> list[Row]:
        if path != STDIO:
            return list(read_records(path, kind, classes))
        with self._lock:
            if self._stdin is None:
                self._stdin = kind, list(read_records(path, kind, classes))
        stdin_kind, rows = self._stdin
        if stdin_kind is not kind:
            raise UserError(
                "real and synthetic rows cannot both come from stdin", "put one of them into a file"
            )
        return rows

    def _synthetic_set(
        self, path: Path, classes: Sequence[str], real: Sequence[Example]
    ) -> SyntheticSet:
        try:
            rows = self._read(path, Augmented, classes)
            _check_parent_labels(path, rows, real)
        except UserError as error:
            return SyntheticSet((), {"broken": str(error)}, failure_reason=str(error))
        manifest = read_manifest(path)
        if manifest and manifest.sha256 != hash_file(path):
            manifest = None
            self._callbacks.warn(
                f"{path}: changed after it was written, so its manifest is ignored"
            )
        # Rows from elsewhere count as one method; which rows they are is an input, not a setting.
        if manifest is None:
            return SyntheticSet(rows, {"made": "elsewhere"})
        if manifest.inputs.get("train") != hash_rows(real):
            raise UserError(
                f"{path}: its rows were made from other real rows than these",
                "make them again, or name the right files with -i and -a",
            )
        if not manifest.complete:
            wanted = manifest.counts.get("wanted", "?")
            self._callbacks.warn(
                f"{path}: only {len(rows)} of {wanted} rows; its stage stopped short"
            )
        return SyntheticSet(
            rows,
            manifest.settings,
            manifest.tokens,
            manifest.usd,
            is_unfinished=not manifest.complete or manifest.settings.get("limit") is not None,
            edited=int(manifest.counts.get("edited", 0)),
            dropped=int(manifest.counts.get("dropped", 0)),
        )


def _check_parent_labels(path: Path, rows: Sequence[Augmented], real: Sequence[Example]) -> None:
    """Refuse rows that claim their parent's label but have another one.

    Rows from elsewhere may lack a `label_source`; they are not checked.
    """
    labels = {row.id: row.label for row in real}
    for number, row in enumerate(rows, 1):
        if row.label_source != "parent" or "label_source" not in row.model_fields_set:
            continue
        for parent in row.parents:
            label = labels.get(parent)
            if label and any(p != float(name == label) for name, p in row.probs.items()):
                raise UserError(
                    f"{path}, row {number}: its label_source is 'parent', "
                    f"but its probs are not the label of {parent}, {label}",
                    "make the rows again with --force",
                )


def refuse_overwrite(output: Path, inputs: Sequence[Path | None]) -> None:
    """Refuse an output that is also an input.

    Raises:
        UserError: if it is.
    """
    for path in inputs:
        if path and STDIO not in (output, path) and output.resolve() == path.resolve():
            raise UserError(f"{output}: is the input too", "write to another file")


def refuse_test_rows(path: Path, real: Sequence[Example], splits: Splits) -> None:
    """Refuse real rows that are test rows of a new division (`split.json`), drawn before it.

    Raises:
        UserError: if there is one.
    """
    if splits.division is None:
        return  # a task's own test rows may have copies in train, which a warning reports
    tested = {row.text for row in splits.all_test}
    count = sum(row.text in tested for row in real)
    if count:
        raise UserError(
            f"{path}: {count} of its rows are test rows now: it was drawn before the rows were "
            "divided anew",
            "draw it again: gpt3mix subsample CONFIG --force; or repeat all: gpt3mix run CONFIG "
            "--force",
        )


def check_method_name(name: str) -> None:
    """Check that a method outside the config may have this name: it becomes part of a file name.

    Raises:
        UserError: if it may not.
    """
    if not FILE_STEM_PATTERN.fullmatch(name) or name in ("none", "train", "history"):
        raise UserError(
            f"'{name}' cannot be the name of a method",
            "give another one with --method, of letters, digits, '_', '+' and '-'",
        )
