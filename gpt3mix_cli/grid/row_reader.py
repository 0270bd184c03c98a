"""The rows that the stages of a cell start from: real and synthetic ones, from its own files, from others or from stdin."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import NO_CALLBACKS, Callbacks, UserError
from ..files import STDIO, hash_file
from ..records import Augmented, Example, Row, hash_rows, read_manifest, read_records
from ..train.cell import SyntheticSet
from .spot import Spot


class RowReader:
    """Reads rows; one object for all cells, since stdin can be read but once."""

    def __init__(self, callbacks: Callbacks = NO_CALLBACKS) -> None:
        """Read nothing yet; `callbacks` take warnings."""
        self._callbacks = callbacks
        self._stdin: tuple[type, list[Any]] | None = None
        self._lock = threading.Lock()

    def real(self, spot: Spot, source: Path | None) -> list[Example]:
        """Return the real rows of a cell: its subsample, or a file in its place.

        Raises:
            UserError: if there are none, or an id stands twice.
        """
        path = source or spot.real
        if source is None and not path.exists():
            raise UserError(
                f"{path}: no such file",
                f"draw it first: gpt3mix subsample CONFIG --level {spot.level} --seed {spot.seed}",
            )
        rows = self._read(path, Example, spot.experiment.task.classes)
        if not rows:
            raise UserError(
                f"{path}: the file has no rows",
                "check the stage that wrote it, or give another file with -i",
            )
        seen: set[str] = set()
        for number, row in enumerate(rows, 1):
            if row.id in seen:
                raise UserError(
                    f"{path}, row {number}: the id '{row.id}' stands twice",
                    "ids must be unique, since parents are named by them",
                )
            seen.add(row.id)
        return rows

    def synthetic(
        self, paths: Sequence[Path], classes: Sequence[str], real: Sequence[Example]
    ) -> SyntheticSet:
        """Return the rows of a draw; of files that cannot serve, why: that fails their trials and no others.

        Raises:
            UserError: if a file is not there, or was made from other real rows.
        """
        if missing := [path for path in paths if path != STDIO and not path.exists()]:
            raise UserError(
                f"{missing[0]}: no such file",
                "make it first with gpt3mix augment or baseline, or check the path",
            )
        parts = [self._one_file(path, classes, real) for path in paths]
        if broken := [part for part in parts if part.broken]:
            return broken[0]
        abouts = [part.about for part in parts]
        tokens = [part.tokens for part in parts if part.tokens is not None]
        rows = [row for part in parts for row in part.rows]
        usd = [part.usd for part in parts if part.usd is not None]
        about = abouts[0] if len(abouts) == 1 else {"files": abouts}
        return SyntheticSet(rows, about, sum(tokens) if tokens else None, sum(usd) if usd else None)

    def method(self, path: Path, classes: Sequence[str]) -> str:
        """Return what method the first row of a file names, or the file's own name."""
        first = next(iter(self._read(path, Augmented, classes)), None)
        stem = "stdin" if path == STDIO else path.name.removesuffix(".jsonl")
        return first.method if first and first.method else stem

    def _read(self, path: Path, kind: type[Row], classes: Sequence[str]) -> list[Row]:
        """Return the rows of a file; those of stdin are kept."""
        if path != STDIO:
            return list(read_records(path, kind, classes))
        with self._lock:
            if self._stdin is None:
                self._stdin = kind, list(read_records(path, kind, classes))
        held, rows = self._stdin
        if held is not kind:
            raise UserError(
                "real and synthetic rows cannot both come from stdin", "put one of them into a file"
            )
        return rows

    def _one_file(
        self, path: Path, classes: Sequence[str], real: Sequence[Example]
    ) -> SyntheticSet:
        try:
            rows = self._read(path, Augmented, classes)
            _labels_kept(path, rows, real)
        except UserError as error:
            return SyntheticSet((), {"broken": str(error)}, broken=str(error))
        manifest = read_manifest(path)
        if manifest and manifest.sha256 != hash_file(path):
            manifest = None
            self._callbacks.warn(
                f"{path}: changed since it was made, so its manifest is passed over"
            )
        if manifest and manifest.inputs.get("train") != hash_rows(real):
            raise UserError(
                f"{path}: its rows were made from other real rows than these",
                "make them again, or name the right files with -i and -a",
            )
        if manifest and not manifest.complete:
            self._callbacks.warn(
                f"{path}: only {len(rows)} of {manifest.counts.get('wanted', '?')} rows; its stage stopped short"
            )
        # Rows that came from elsewhere are one method; which rows they are is an input, not a setting.
        if manifest is None:
            return SyntheticSet(rows, {"made": "elsewhere"})
        return SyntheticSet(rows, manifest.settings, manifest.tokens, manifest.usd)


def _labels_kept(path: Path, rows: Sequence[Augmented], real: Sequence[Example]) -> None:
    """Refuse rows that say they have their parent's label and have another one; rows from elsewhere may say nothing."""
    labels = {row.id: row.label for row in real}
    for number, row in enumerate(rows, 1):
        if row.label_source != "parent" or "label_source" not in row.model_fields_set:
            continue
        for parent in row.parents:
            label = labels.get(parent)
            if label and any(share != float(name == label) for name, share in row.probs.items()):
                message = f"{path}, row {number}: its label_source is 'parent', but its probs are not the label of {parent}, {label}"
                raise UserError(message, "make the rows again with --force")


def refuse_overwrite(output: Path, inputs: Sequence[Path | None]) -> None:
    """Refuse to write over what is read."""
    for path in inputs:
        if (
            path is not None
            and output != STDIO
            and path != STDIO
            and output.resolve() == path.resolve()
        ):
            raise UserError(f"{output}: is the input too", "write to another file")
